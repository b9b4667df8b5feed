"""Names at both ends: whose name counts, that a new one arrives, and that no peer fills a disk with its names."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.guard_kit import last, say
from tests.agents.world_kit import SimulatedDevice, World, running
from token_relay.agents.device_names import NAME_CHARS_MAX
from token_relay.agents.records import AuditEvent, OwnName, Pairing
from token_relay.protocol import messages as m
from token_relay.protocol.errors import LocalError

pytestmark = pytest.mark.asyncio

HOUR = 3600.0


async def restart(end: SimulatedDevice, name: str = "") -> None:
    """Stop and start; ``name`` is what its configuration says by then."""
    await end.stop()
    end.name = name or end.name
    await end.start()


async def told(end: SimulatedDevice, *names: str) -> list[tuple[str, str]]:
    return [(row.name, row.detail) for row in await end.rows(AuditEvent) if row.name in names]


async def renames(end: SimulatedDevice) -> list[tuple[str, str]]:
    return await told(end, "device_renamed", "rename_refused")


async def called(end: SimulatedDevice, peer: SimulatedDevice) -> tuple[str, str]:
    """What one end calls the other, and what that one calls itself as far as it knows."""
    row = await end.one(Pairing, peer_id=peer.id, state="active")
    return row.peer_name, row.own_name


async def says(world: World, peer: SimulatedDevice, name: str, **more: Any) -> None:
    """A HELLO of a peer that calls itself so."""
    number = (await peer.rows(Pairing))[-1].seq_sent + 1
    strategies = ["branch", "mint", "move"]
    body: dict[str, Any] = {"challenge": "ab" * 16, "seq_accepted": 0, "handoffs": [], "seq_sent": number, **more}
    await say(peer, m.Hello3(**body, speaks=3, strategies=strategies, name=name))


async def test_a_companions_new_name_reaches_its_phone_at_once_and_counts_there() -> None:
    async with running() as world:
        assert await world.watch.agent.rename("wrist") == "watch"
        await world.clock.advance(1)
        assert await called(world.phone, world.watch) == ("wrist", "wrist")
        assert (await world.phone.hand_off("wrist")).state == "done"
        with pytest.raises(LocalError, match="no paired device is called 'watch'"):
            await world.phone.hand_off("watch")
        assert await renames(world.phone) == [("device_renamed", "watch -> wrist")]
        assert await told(world.watch, "own_name_changed") == [("own_name_changed", "watch -> wrist")]


@pytest.mark.parametrize("end", ["phone", "watch"])
async def test_a_name_in_the_configuration_that_changed_is_a_new_name_and_one_that_did_not_is_none(end: str) -> None:
    async with running() as world:
        renamed, other = (world.phone, world.watch) if end == "phone" else (world.watch, world.phone)
        await restart(renamed, "by setting")
        await world.clock.advance(2)
        assert (await called(other, renamed))[0] == "by setting"
        if end == "watch":
            await world.watch.agent.rename("by command")
            await restart(renamed)  # the setting is as it was
            assert (await renamed.one(OwnName)).called == "by command"
            await restart(renamed, "by setting again")
            await world.clock.advance(2)
            assert (await called(other, renamed))[0] == "by setting again"


async def test_a_rename_while_the_other_end_is_off_arrives_when_it_is_back() -> None:
    async with running() as world:
        await world.watch.stop()
        await world.phone.agent.rename("watch", "left wrist")
        await restart(world.phone, "anna's phone")
        await world.phone.stop()
        await world.watch.start()
        await world.watch.agent.rename("wrist")
        await world.clock.advance(2)
        await restart(world.watch)
        await world.phone.start()
        await world.clock.advance(2)
        assert await called(world.phone, world.watch) == ("left wrist", "wrist"), "a person's name stays"
        assert await called(world.watch, world.phone) == ("anna's phone", "anna's phone")
        assert (await world.watch.agent.choose_primary("anna's phone")).device_id == world.phone.id


async def test_a_name_that_a_person_gave_stays_whatever_the_device_calls_itself() -> None:
    async with running(companions=2) as world:
        invitation = await world.companions[1].agent.invitations.show()

        async def agree(number: str, name: str) -> bool:
            return True

        await world.within(world.phone.agent.pairing.pair(invitation, agree, name="second watch"))
        await world.phone.agent.rename("watch", "first watch")
        for end in world.companions:
            await end.agent.rename(f"{end.name} of {end.id[:4]}")
        await world.clock.advance(2)
        names = [(await called(world.phone, end)) for end in world.companions]
        assert [name for name, _ in names] == ["first watch", "second watch"]
        assert [own for _, own in names] == [f"{end.name} of {end.id[:4]}" for end in world.companions]
        assert await renames(world.phone) == [("device_renamed", "watch -> first watch")]
        await world.pair()  # again: a person named it, and nobody is asked anew
        await world.clock.advance(1)
        assert (await called(world.phone, world.watch))[0] == "first watch"
        await world.watch.agent.rename("something else")
        await world.clock.advance(2)
        assert (await called(world.phone, world.watch)) == ("first watch", "something else")


@pytest.mark.parametrize("name", ["lamp", "LAMP", "laｍp", "lаmp"])
async def test_a_new_name_that_looks_like_another_devices_is_refused_and_an_event_says_so(name: str) -> None:
    async with running(companions=2) as world:
        lamp = world.companions[1]
        await world.pair(watch=lamp)
        await lamp.agent.rename("lamp")
        await world.watch.agent.rename(name)
        await world.clock.advance(2)
        assert await called(world.phone, world.watch) == ("watch", name)
        (refused,) = await told(world.phone, "rename_refused")
        assert refused[1].startswith("watch: ") and f"can mean lamp ({lamp.id[:6]}) already" in refused[1]
        for _ in range(3):
            await restart(world.watch)
            await world.clock.advance(1)
        assert len(await told(world.phone, "rename_refused")) == 1, "once, not at each greeting"
        with pytest.raises(LocalError, match="can mean lamp") as by_hand:
            await world.phone.agent.rename("watch", name)
        assert "token-relay phone rename watch '" in by_hand.value.hint
        await world.phone.agent.forget(lamp.id)
        await restart(world.watch)
        await world.clock.advance(1)
        assert await called(world.phone, world.watch) == (name, name), "the name is free by now"


async def test_a_peer_that_changes_its_name_at_each_greeting_is_heard_four_times_and_then_hourly() -> None:
    async with running() as world:
        await world.clock.advance(1)
        for number in range(40):
            await says(world, world.watch, f"name {number}")
            await world.clock.advance(10)  # or the greetings themselves are too many
        assert await renames(world.phone) == [
            ("device_renamed", f"{old} -> {new}")
            for old, new in (("watch", "name 0"), ("name 0", "name 1"), ("name 1", "name 2"), ("name 2", "name 3"))
        ]
        assert (await called(world.phone, world.watch)) == ("name 3", "name 3"), "nothing of it is written"
        await world.clock.advance(HOUR)
        await says(world, world.watch, "at last")
        assert (await called(world.phone, world.watch)) == ("at last", "at last")


@pytest.mark.parametrize("name", ["x" * NAME_CHARS_MAX, "a\u200bb", "\u3164", "\u202exoferif"])
async def test_a_name_that_nobody_could_read_is_passed_over_and_the_greeting_counts(name: str) -> None:
    async with running() as world:
        await world.clock.advance(1)
        await says(world, world.watch, name)
        expected = name if name.isascii() else "watch"
        assert await called(world.phone, world.watch) == (expected, expected)
        assert last(world, world.phone, world.watch, m.Hello).seq_accepted == (await world.watch.one(Pairing)).seq_sent


async def test_a_greeting_that_was_overtaken_brings_no_old_name_back() -> None:
    async with running() as world:
        await world.clock.advance(1)
        number = (await world.watch.one(Pairing)).seq_sent + 1
        await say(world.watch, m.Reject(handoff_id=None, reason="later"), head={"seq": number + 1})
        hello = m.Hello3(
            challenge="ab" * 16, seq_accepted=0, handoffs=[], seq_sent=number, speaks=3, strategies=[], name="old"
        )
        await say(world.watch, hello, head={"seq": number})
        assert await called(world.phone, world.watch) == ("watch", "watch") and await renames(world.phone) == []


@pytest.mark.parametrize("was", ["watch", "as the person said"])
async def test_a_pairing_of_before_names_were_said_learns_who_named_it(was: str) -> None:
    async with running() as world:
        await world.phone.stop()
        await world.phone.edit(await world.phone.one(Pairing), peer_name=was, own_name="", is_name_given=False)
        await world.phone.start()
        await world.clock.advance(2)
        assert await called(world.phone, world.watch) == (was, "watch")
        await world.watch.agent.rename("wrist")
        await world.clock.advance(2)
        assert await called(world.phone, world.watch) == ("wrist" if was == "watch" else was, "wrist")


async def test_two_phones_of_one_name_are_told_apart_and_one_may_take_the_name_when_it_is_free() -> None:
    async with running(phones=2) as world:
        first, second = world.phones
        await world.pair(phone=second)
        for phone in world.phones:
            await restart(phone, "phone")
        await world.clock.advance(2)
        names = {(await called(world.watch, phone))[0] for phone in world.phones}
        assert len(names) == 2 and "phone" in names
        await world.watch.agent.forget_phone(first.id)
        await restart(second)
        await world.clock.advance(2)
        assert await called(world.watch, second) == ("phone", "phone")


async def test_a_name_that_a_person_typed_stays_though_the_device_chose_the_same() -> None:
    async with running(companions=2) as world:
        second = world.companions[1]
        typed = second.name

        async def agree(number: str, name: str) -> bool:
            return True

        for given in (typed, ""):  # and when it is paired again, without a word about its name
            invitation = await second.agent.invitations.show()
            await world.within(world.phone.agent.pairing.pair(invitation, agree, name=given))
            await second.agent.rename(f"renamed {len(given)}")
            await world.clock.advance(2)
            assert (await called(world.phone, second))[0] == typed
            await second.agent.rename(typed)
            await world.clock.advance(2)


@pytest.mark.parametrize("name", ["", " wrist", "wrist ", "a\nb", "x" * (NAME_CHARS_MAX + 1), "\u200b"])
async def test_what_is_no_name_is_refused_before_anything_is_said(name: str) -> None:
    async with running() as world:
        await world.clock.advance(1)
        before = len(world.broker.seen)
        with pytest.raises(LocalError, match="a name has 1 to 64 printable characters"):
            await world.watch.agent.rename(name)
        with pytest.raises(LocalError, match="a name has 1 to 64 printable characters"):
            await world.phone.agent.rename("watch", name)
        assert (await world.watch.one(OwnName)).called == "watch" and len(world.broker.seen) == before
        assert await renames(world.phone) == []


async def test_who_pairs_is_told_the_name_of_now_and_a_name_that_nobody_gave_is_not_a_persons() -> None:
    async with running() as world:
        await world.watch.agent.rename("wrist")
        await restart(world.phone, "anna's phone")
        await world.clock.advance(2)
        heard: list[str] = []

        async def agree(number: str, name: str) -> bool:
            progress = world.watch.agent.invitations.progress
            heard.extend([name, progress.device_name if progress else ""])
            return True

        invitation = await world.watch.agent.invitations.show()
        await world.within(world.phone.agent.pairing.pair(invitation, agree))
        assert heard == ["wrist", "anna's phone"]
        for end in (world.phone, world.watch):
            row = await end.one(Pairing, state="active")
            assert (row.own_name, row.is_name_given) == (row.peer_name, False)


async def test_a_name_of_before_names_were_said_that_a_person_gave_stays_theirs() -> None:
    async with running() as world:
        await world.phone.stop()
        await world.phone.edit(await world.phone.one(Pairing), own_name="", is_name_given=True)
        await world.phone.start()
        await world.clock.advance(2)
        row = await world.phone.one(Pairing)
        assert (row.peer_name, row.own_name, row.is_name_given) == ("watch", "watch", True)


async def test_the_same_name_once_more_is_no_event_and_by_now_a_persons() -> None:
    async with running() as world:
        await world.phone.agent.rename("watch", "watch")
        assert await renames(world.phone) == [] and (await world.phone.one(Pairing)).is_name_given


async def test_a_pairing_that_is_over_brings_no_name_and_is_told_none() -> None:
    async with running() as world:
        await world.clock.advance(1)
        await world.phone.edit(await world.phone.one(Pairing), state="retired")
        await says(world, world.watch, "wrist")
        row = await world.phone.one(Pairing)
        assert (row.peer_name, row.own_name) == ("watch", "watch")
        await world.watch.edit(await world.watch.one(Pairing), state="retired")
        before = len(world.broker.seen)
        await world.watch.agent.rename("left wrist")
        await world.clock.advance(1)
        assert len(world.broker.seen) == before


async def test_a_peer_that_greets_in_an_older_version_than_it_speaks_is_answered_in_what_it_speaks() -> None:
    async with running() as world:
        await world.clock.advance(1)
        number = (await world.watch.one(Pairing)).seq_sent + 1
        hello = m.Hello2(
            challenge="ab" * 16, seq_accepted=0, handoffs=[], seq_sent=number, speaks=3, strategies=["branch"]
        )
        await say(world.watch, hello)
        answered = last(world, world.phone, world.watch, m.Hello)
        assert isinstance(answered, m.Hello3) and answered.name == world.phone.name
