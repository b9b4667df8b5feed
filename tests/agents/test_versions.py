"""Two ends of different versions: each learns what the other one knows, and says nothing that it would not read."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.agents.guard_kit import between, count, deafen, last, say
from tests.agents.old_end import old_program
from tests.agents.world_kit import SimulatedDevice, World, form_value, running
from token_relay.agents.grants.serving import profile_of
from token_relay.agents.phone.person import SignInOptions
from token_relay.agents.records import Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.protocol import messages as m
from token_relay.protocol.behaviour import Behaviour
from token_relay.protocol.errors import PolicyError
from token_relay.provider.http import HttpRequest
from token_relay.provider.profile import PROFILES

pytestmark = pytest.mark.asyncio

STRATEGIES = ["branch", "mint", "move"]
HOUR = 3600.0
OLD_HELLO = {"challenge": "ab" * 16, "seq_accepted": 0, "handoffs": []}


async def start(world: World, *old: str, version: int = 1) -> ExitStack:
    """Start both ends, sign in and pair; those named run the old program until the stack that is returned is closed."""
    stack = ExitStack()
    for end in world.ends:
        if end.name in old:
            stack.enter_context(old_program(end, version))
        await end.start()
    await world.phone.sign_in()
    await world.pair()
    await world.clock.advance(1)
    return stack


async def restart(end: SimulatedDevice) -> None:
    await end.stop()
    await end.start()


async def known(end: SimulatedDevice) -> tuple[int, list[str]]:
    pairing = await end.one(Pairing)
    return pairing.speaks, pairing.strategies.split()


def newer(world: World, sender: SimulatedDevice, recipient: SimulatedDevice, than: int = 1) -> list[str]:
    """The types of what was sent in a version above this one."""
    return [message.head.type for message in between(world, sender, recipient) if message.head.v > than]


def hellos(world: World, sender: SimulatedDevice, recipient: SimulatedDevice) -> list[int]:
    """The versions of the greetings of one end; answers do not count."""
    messages = between(world, sender, recipient)
    return [said.head.v for said in messages if said.head.type == "HELLO" and said.head.in_reply_to is None]


@pytest.mark.parametrize("profile", ["entra", "auth0", "strict"])
async def test_two_ends_of_today_know_each_other_before_the_first_handoff(profile: str) -> None:
    async with running(profile) as world:
        await world.clock.advance(1)
        assert await known(world.phone) == await known(world.watch) == (m.SPEAKS, STRATEGIES)
        assert (await world.phone.hand_off()).grant_version == 2
        assert last(world, world.watch, world.phone, m.Accept2).grant_version == 2
        grant = await world.watch.grant()
        assert json.loads(grant.behaviour) == PROFILES[profile].behaviour.model_dump(mode="json")
        assert profile_of(grant).behaviour == PROFILES[profile].behaviour
        assert count(world, world.watch, world.phone, m.Reject) == count(world, world.phone, world.watch, m.Reject) == 0


@pytest.mark.parametrize("old", [["phone"], ["watch"], ["phone", "watch"]], ids=" and ".join)
@pytest.mark.parametrize("profile", ["entra", "strict"])
async def test_an_old_end_has_the_whole_story_with_a_new_one(profile: str, old: list[str]) -> None:
    async with running(profile, paired=False) as world:
        for end in world.ends:
            await end.stop()
        phone, watch = world.phone, world.watch
        with await start(world, *old):
            row = await phone.hand_off(lease_days=1)
            assert (row.state, row.grant_version) == ("done", 1)
            await world.clock.advance(2)
            first = await watch.grant()
            assert (first.state, first.generation, first.behaviour) == ("held", 2, "")
            assert profile_of(first) == PROFILES[profile]
            for _ in range(3):  # a lease of one day goes on from day to day
                await world.clock.advance(20 * HOUR)
                assert isinstance(await watch.token(), TokenGranted)
            assert (await phone.hand_off()).state == "done"  # another one takes its place
            await world.clock.advance(2)
            assert (await watch.grant()).handoff_id != first.handoff_id
            (gone,) = await world.within(phone.agent.revoke("watch", wait_s=10))
            assert gone.state == "gone"
            assert isinstance(await watch.token(), TokenRefused)
            await world.clock.advance(5)
            assert await phone.rows(Outgoing) == await watch.rows(Outgoing) == []
            for end, peer in ((phone, watch), (watch, phone)):
                assert set(newer(world, end, peer)) <= {"HELLO"}, "nothing else goes to a peer that cannot read it"
                if end.name not in old:
                    assert await known(end) == (1, [])
                    assert hellos(world, end, peer).count(2) == 1, "it asks once, and then it knows"


@pytest.mark.parametrize("old", [["phone"], ["watch"], ["phone", "watch"]], ids=" and ".join)
async def test_an_end_of_version_2_never_gets_version_3(old: list[str]) -> None:
    async with running("entra", paired=False) as world:
        for end in world.ends:
            await end.stop()
        phone, watch = world.phone, world.watch
        with await start(world, *old, version=2):
            await watch.agent.rename("wrist")
            assert (await phone.hand_off()).grant_version == 2
            await world.clock.advance(7 * HOUR)
            assert await known(phone) == await known(watch) == (2, STRATEGIES)
            assert newer(world, phone, watch, than=2) == newer(world, watch, phone, than=2) == []
            assert count(world, watch, phone, m.Reject) == count(world, phone, watch, m.Reject) == 0
            assert (await phone.one(Pairing)).peer_name == "watch"
        for end in (phone, watch):
            await restart(end)
        await world.clock.advance(2 * HOUR)  # after the first greeting that is made when both know
        assert await known(phone) == await known(watch) == (m.SPEAKS, STRATEGIES)
        assert (await phone.one(Pairing)).peer_name == "wrist"


@pytest.mark.parametrize("old", ["phone", "watch"])
async def test_an_end_that_was_updated_is_met_in_the_new_version(old: str) -> None:
    async with running("entra", paired=False) as world:
        for end in world.ends:
            await end.stop()
        with await start(world, old):
            await world.phone.hand_off()
            first = await world.watch.grant()
        await restart(world.phone if old == "phone" else world.watch)
        await world.clock.advance(2)
        assert await known(world.phone) == await known(world.watch) == (m.SPEAKS, STRATEGIES)
        assert isinstance(await world.watch.token(), TokenGranted)
        assert (await world.phone.hand_off()).grant_version == 2
        second = await world.watch.grant()
        assert first.behaviour == "" and second.behaviour and second.handoff_id != first.handoff_id


@pytest.mark.parametrize("old", ["phone", "watch"])
async def test_an_end_that_is_older_now_is_met_in_the_old_version(old: str) -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        device = next(end for end in (world.phone, world.watch) if end.name == old)
        await device.stop()
        await device.edit(await device.one(Pairing), speaks=0, strategies="")  # a disk of the old program has neither
        with old_program(device):
            await device.start()
            await world.clock.advance(2)
            assert (await world.phone.hand_off()).state == "done"
            assert type(last(world, world.watch, world.phone, m.Accept)) is m.Accept
            await world.clock.advance(7 * HOUR)  # after the next greeting at the latest it is known for sure
            new = world.watch if old == "phone" else world.phone
            assert await known(new) == (1, [])


@pytest.mark.parametrize(("speaks", "greeted"), [(2, [2, 1]), (3, [3, 2, 1])])
async def test_a_peer_that_refuses_everything_gets_one_greeting_of_each_version(
    speaks: int, greeted: list[int]
) -> None:
    async with running("entra") as world:
        phone, watch = world.phone, world.watch
        await world.clock.advance(1)
        deafen(world, watch)
        before = len(hellos(world, phone, watch))
        for round_ in range(1, 4):
            number = (await watch.one(Pairing)).seq_sent + 1
            hello = m.Hello2(**OLD_HELLO, seq_sent=number, speaks=speaks, strategies=["mint"])  # type: ignore[arg-type]
            await say(watch, hello)
            assert await known(phone) == (speaks, ["mint"])
            await phone.agent.link.connected()
            for _ in range(4):
                sent = (await phone.one(Pairing)).seq_sent
                for in_reply_to in range(sent - 3, sent + 1):
                    refused = m.Reject(handoff_id=None, reason="unsupported")
                    await say(watch, refused, head={"in_reply_to": in_reply_to})
            assert await known(phone) == (1, [])
            assert hellos(world, phone, watch)[before:] == greeted * round_


async def test_only_a_refusal_of_what_was_said_since_the_peer_spoke_version_2_counts() -> None:
    async with running("entra") as world:
        phone, watch = world.phone, world.watch
        await world.clock.advance(1)
        stale = (await phone.one(Pairing)).seq_sent  # its HELLO, which the companion has answered in version 3
        before = hellos(world, phone, watch)
        for head in ({"in_reply_to": stale}, {"in_reply_to": None}, {"in_reply_to": 0}):
            await say(watch, m.Reject(handoff_id=None, reason="unsupported"), head=head)
            assert await known(phone) == (m.SPEAKS, STRATEGIES)
        await say(watch, m.Reject(handoff_id=None, reason="later"), head={"in_reply_to": 2**40})
        assert await known(phone) == (m.SPEAKS, STRATEGIES) and hellos(world, phone, watch) == before


async def test_a_hello_that_was_overtaken_says_nothing_of_versions() -> None:
    async with running("entra") as world:
        phone, watch = world.phone, world.watch
        await world.clock.advance(1)
        number = (await watch.one(Pairing)).seq_sent + 1
        await say(watch, m.Reject(handoff_id=None, reason="later"), head={"seq": number + 1})
        await say(watch, m.Hello(**OLD_HELLO, seq_sent=number), head={"seq": number})  # type: ignore[arg-type]
        assert await known(phone) == (m.SPEAKS, STRATEGIES)


async def test_a_restored_disk_asks_anew_what_the_peer_knows() -> None:
    async with running("entra", paired=False) as world:
        for end in world.ends:
            await end.stop()
        with await start(world, "watch"):
            await world.phone.hand_off()
            image = world.phone.image()  # it knows the watch for old
            await world.phone.hand_off()
        await restart(world.watch)
        await world.clock.advance(2)
        await world.phone.stop()
        await world.phone.restore(image)
        await world.phone.start()
        await world.clock.advance(60)
        assert await known(world.phone) == await known(world.watch) == (m.SPEAKS, STRATEGIES)


async def test_a_strategy_that_the_device_does_not_know_is_refused_before_anybody_signs_in() -> None:
    async with running("entra") as world:
        pairing = await world.phone.one(Pairing)
        await world.clock.advance(1)
        await world.phone.edit(pairing, speaks=2, strategies="branch code")
        with pytest.raises(PolicyError, match="strategy mint is refused: watch does not know it") as refused:
            await world.phone.hand_off(strategy="mint")
        assert "update" in refused.value.hint and "branch or code" in refused.value.hint
        assert await world.phone.rows(PhoneHandoff) == []
        assert (await world.phone.hand_off(strategy="branch")).state == "done"
        await world.phone.edit(await world.phone.one(Pairing), speaks=1, strategies="")  # of before: it knows all three
        assert (await world.phone.hand_off(strategy="mint")).state == "done"


async def test_a_grant_that_fits_only_in_version_1_goes_in_version_1() -> None:
    async with running("strict") as world:
        own = await world.phone.one(Grant)
        long = type(own.refresh_token)("r" * 10_100)  # type: ignore[misc]  # it has one
        await world.phone.edit(own, refresh_token=long)
        row = await world.phone.hand_off(strategy="move")
        assert row.grant_version == 2
        grant = await world.watch.grant()
        assert (grant.behaviour, grant.is_sole) == ("", False)


@pytest.mark.parametrize(
    ("strategy", "is_signed_in", "has_other", "is_sole"),
    [
        ("branch", True, False, False),  # the phone keeps one
        ("mint", True, False, False),
        ("mint", False, False, True),
        ("mint", False, True, False),
        ("move", True, False, True),  # the phone's own one is what it gives away
        ("move", True, True, False),
    ],
)
async def test_the_grant_says_whether_nobody_else_holds_one(
    strategy: str, is_signed_in: bool, has_other: bool, is_sole: bool
) -> None:
    async with running("entra", companions=2) as world:
        other = world.companions[1]
        await world.pair(watch=other)
        if has_other:
            await world.phone.hand_off(other.name, strategy="mint")
        if not is_signed_in:
            await world.phone.sign_out()
        person = SignInOptions(username="password@contoso.example") if strategy == "mint" else None
        assert (await world.phone.hand_off(strategy=strategy, sign_in=person)).state == "done"
        assert (await world.watch.grant()).is_sole is is_sole


@pytest.mark.parametrize(
    ("said", "sent_max"),
    [
        (
            {"invalidates_on_use": True, "leeway_s": 300, "reuse_takes": "nothing"},
            64 + 36,
        ),  # one each 5 s, then late tries
        ({"invalidates_on_use": True, "leeway_s": 0, "reuse_takes": "nothing"}, 36),  # each hour, after 1, 2, 4 ... min
        ({"invalidates_on_use": False, "leeway_s": 300}, 36),
        ({"idle_lifetime_s": 1, "absolute_lifetime_s": 1, "otp_lifetime_s": 1}, 1),  # what reuse ends is not known
    ],
)
async def test_no_behaviour_that_a_phone_may_name_makes_the_companion_ask_often(
    said: dict[str, object], sent_max: int
) -> None:
    async with running("strict") as world:
        sent = []

        def lose(request: HttpRequest) -> str:
            sent.append(request)
            return "lost_after"

        await world.phone.hand_off()
        await world.clock.advance(5)
        grant = await world.watch.grant()
        behaviour = PROFILES["strict"].behaviour.model_dump() | said
        await world.watch.edit(replace(grant, is_otp=True), behaviour=Behaviour(**behaviour).model_dump_json())
        world.watch.http.fault = lose
        world.watch.agent.keeper.network_is_up()
        for _ in range(24):
            await world.watch.token(force_refresh=True)
            await world.clock.advance(HOUR)
        refreshes = [request for request in sent if form_value(request, "grant_type") == "refresh_token"]
        assert 0 < len(refreshes) <= sent_max


async def test_a_behaviour_with_short_lives_is_kept_alive_once_an_hour_at_most() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        shortest = {"idle_lifetime_s": 1, "absolute_lifetime_s": 1, "otp_lifetime_s": 1}
        behaviour = PROFILES["entra"].behaviour.model_copy(update=shortest)
        await world.watch.edit(replace(await world.watch.grant(), is_otp=True), behaviour=behaviour.model_dump_json())
        world.watch.agent.keeper.network_is_up()
        await world.clock.advance(24 * HOUR)
        assert 10 < (await world.watch.grant()).generation <= 2 + 24
