"""A paired peer is one of several, and may be hostile: what it says reaches its own pairing, and the disk only so far.

Names at pairing, ROLLBACK's reach, lists that were overtaken, grants of nobody, leases in seconds, wear.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.agents.guard_kit import UNKNOWN, an_offer, between, deafen, say
from tests.agents.world_kit import SimulatedCompanion, SimulatedDevice, SimulatedPhone, World, running
from token_relay.agents.elapsed import Stamp
from token_relay.agents.link import ASK_EVERY_S, CHALLENGED_S, LAST_RATE, OTHERS_RATE, REQUESTS_RATE
from token_relay.agents.phone.handoff_rows import unknown_row
from token_relay.agents.rates import KEYS_MAX, Rate, Rates
from token_relay.agents.records import CompanionHandoff, Grant, Outgoing, Pairing, PhoneHandoff, PrimaryPhone, Seen
from token_relay.agents.token_source import TokenGranted
from token_relay.agents.turn import Turn
from token_relay.protocol import delivery
from token_relay.protocol import messages as m
from token_relay.protocol.errors import LocalError
from token_relay.service.status import Surroundings, phone_status

pytestmark = pytest.mark.asyncio
DAY = 86_400


async def second_watch(world: World) -> SimulatedCompanion:
    watch = world.add_companion()
    await watch.start()
    await world.pair(world.phone, watch)
    return watch


async def second_phone(world: World) -> SimulatedPhone:
    phone = world.add_phone()
    await phone.start()
    await phone.sign_in()
    await world.pair(phone)
    return phone


# -- Names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["the name of another", "an id's beginning", "a whole id", "as it is shown"])
async def test_a_companion_named_as_another_is_called_what_the_person_types(kind: str) -> None:
    async with running("entra") as world:
        watch_id = world.watch.id
        name = {
            "the name of another": "watch",
            "an id's beginning": watch_id[:6],
            "a whole id": watch_id,
            "as it is shown": f"watch ({watch_id[:6]})",
        }[kind]
        thief, asked = world.add_companion(), list[str]()
        thief.name = name
        await thief.start()

        async def yes(number: str, shown: str) -> bool:
            return True

        async def rename(problem: str) -> str | None:
            asked.append(problem)
            return watch_id[:4] if len(asked) == 1 else "car"

        text = await thief.agent.invitations.show()
        with pytest.raises(LocalError, match="already"):  # nobody is asked
            await world.within(world.phone.agent.pairing.pair(text, yes))
        assert [row.peer_id for row in await world.phone.rows(Pairing)] == [watch_id]
        text = await thief.agent.invitations.show()
        await world.within(world.phone.agent.pairing.pair(text, yes, rename=rename))
        assert len(asked) == 2 and repr(name) in asked[0]
        assert [row.peer_name for row in await world.phone.rows(Pairing, peer_id=thief.id)] == ["car"]
        for word in ("watch", watch_id[:6], watch_id, f"watch ({watch_id[:6]})"):
            assert (await world.phone.agent.pairing_of(word)).peer_id == watch_id


@pytest.mark.parametrize("name", ["watch", "x\n", " x", "y" * 65])
async def test_a_typed_name_that_cannot_be_used_costs_no_invitation(name: str) -> None:
    async with running("entra") as world:
        car = world.add_companion()
        await car.start()
        text = await car.agent.invitations.show()

        async def yes(number: str, shown: str) -> bool:
            return True

        with pytest.raises(LocalError):
            await world.phone.agent.pairing.pair(text, yes, name=name)
        pairing = await world.within(world.phone.agent.pairing.pair(text, yes, name="car"))
        assert (pairing.peer_id, pairing.peer_name) == (car.id, "car")


async def test_the_same_device_is_paired_anew_under_its_name() -> None:
    async with running("entra") as world:
        await world.pair()
        active = await world.phone.one(Pairing, state="active")
        assert (active.peer_name, active.peer_id) == ("watch", world.watch.id)
        assert (await world.watch.one(Pairing, state="active")).peer_name == "phone"


async def test_a_phone_that_was_lost_is_paired_anew_and_has_a_name_of_its_own() -> None:
    async with running("entra") as world:
        phone2 = world.add_phone()
        phone2.name = "phone"
        await phone2.start()
        await world.pair(phone2)
        names = {row.peer_id: row.peer_name for row in await world.watch.rows(Pairing, state="active")}
        assert names == {world.phone.id: "phone", phone2.id: f"phone {phone2.id[:6]}"}


async def test_a_companion_cannot_take_over_the_handoffs_of_a_pairing_that_was_forgotten() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        (old,) = await world.phone.rows(Pairing)
        await world.phone.agent.forget("watch")
        before = await world.phone.rows(PhoneHandoff)
        thief = world.add_companion()
        await thief.start()
        ids = iter([bytes.fromhex(old.pairing_id)])
        draw = thief.agent.invitations._random.bytes
        text = await thief.agent.invitations.show()
        invitations: Any = thief.agent.invitations
        invitations._random = type("Drawn", (), {"bytes": lambda self, n: next(ids, None) or draw(n)})()

        async def yes(number: str, shown: str) -> bool:
            return True

        with pytest.raises(Exception, match="pairing id reused"):
            await world.within(world.phone.agent.pairing.pair(text, yes))
        assert await world.phone.rows(Pairing) == [] and await world.phone.rows(PhoneHandoff) == before


async def phones_action(world: World) -> str:
    phone = world.phone
    status: dict[str, Any] = phone_status(
        Surroundings("", phone.name, phone.id, "", True, "", "", {}, ""),
        phone.clock.now(),
        pairings=await phone.rows(Pairing),
        outbox=await phone.rows(Outgoing),
        handoffs=await phone.rows(PhoneHandoff),
        grants=await phone.rows(Grant),
        tokens=[],
        problems={},
        allow_refresh_token_access=True,
    )
    if status["action"] is not None and status["action"]["slug"] == "restored_phone":
        assert status["action"]["sentence"].startswith("watch2 says")
    return status["action"]["slug"] if status["action"] else ""


# -- ROLLBACK ----------------------------------------------------------------------------------------------


async def claim_rollback(liar: SimulatedDevice, victim: SimulatedDevice, how: str) -> None:
    """Say that the other's disk is an older image, in either way in which a peer can."""
    there = await victim.one(Pairing, peer_id=liar.id)
    here = await liar.one(Pairing, peer_id=victim.id)
    body: m.Body = m.Rollback(seq_sent=here.seq_sent + 1, seq_accepted=there.seq_sent + 9)
    if how == "HELLO":
        body = m.Hello(challenge=UNKNOWN, seq_sent=here.seq_sent + 1, seq_accepted=there.seq_sent + 9, handoffs=[])
    await say(liar, body, pairing=here)


@pytest.mark.parametrize("how", ["ROLLBACK", "HELLO"])
@pytest.mark.parametrize("is_primary", [False, True])
async def test_only_the_primary_phones_word_locks_what_came_by_another(how: str, is_primary: bool) -> None:
    async with running("entra") as world:
        phone2 = await second_phone(world)
        for phone in world.phones:
            await phone.hand_off()
        deafen(world, world.watch)
        assert (await world.phone.hand_off(wait_s=0)).state == "offered"
        world.broker.hold = lambda packet: False
        await world.watch.agent.turns.run(lambda turn: _open(turn, world.phone.id))
        by_phone = {row.peer_id: row.pairing_id for row in await world.watch.rows(Pairing)}
        chosen = phone2 if is_primary else world.phone
        await world.watch.edit(PrimaryPhone("self", chosen.id, 0))
        await claim_rollback(phone2, world.watch, how)
        states = {
            phone.id: [row.state for row in await world.watch.rows(Grant, pairing_id=by_phone[phone.id])]
            for phone in world.phones
        }
        assert states == {world.phone.id: ["locked"] if is_primary else ["held"], phone2.id: ["locked"]}
        ready = await world.watch.rows(CompanionHandoff, pairing_id=by_phone[world.phone.id], state="ready")
        assert len(ready) == (0 if is_primary else 1)
        assert all(row.refresh_token is not None for row in await world.watch.rows(Grant))


def _open(turn: Turn, phone_id: str) -> None:
    """Leave a handoff READY, as between ACCEPT and TOKEN."""
    (pairing,) = turn.tx.select(Pairing, peer_id=phone_id)
    turn.tx.put(CompanionHandoff(UNKNOWN, pairing.pairing_id, "ready", created_at=turn.wall))


@pytest.mark.parametrize("how", ["ROLLBACK", "HELLO"])
async def test_a_companions_claim_locks_the_phones_own_and_leaves_anothers_move_alone(how: str) -> None:
    async with running("strict") as world:
        liar = await second_watch(world)
        second = (await world.phone.sign_in("reset@contoso.example")).account
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) > begun + 2  # TOKEN does not arrive
        assert (await world.phone.hand_off(strategy="move", wait_s=1, account=second)).state == "released"
        before = await world.phone.handoff()
        world.broker.hold = lambda packet: world.watch.id in packet.topic
        await claim_rollback(liar, world.phone, how)
        assert await world.phone.handoff() == before and before.held_token is not None
        own = {row.state for row in await world.phone.rows(Grant)}
        assert own == {"locked", "dead"}
        assert all(row.refresh_token is not None for row in await world.phone.rows(Grant, state="locked"))
        # The watch never stored it: the token is the phone's again, and may have come back once before.
        (pairing,) = await world.phone.rows(Pairing, peer_id=world.watch.id)
        world.broker.hold = lambda packet: False
        await say(world.watch, m.CancelConfirmed(handoff_id=before.handoff_id))
        assert (await world.phone.handoff()).state == "cancelled" and pairing.rollback == ""
        back = await world.phone.one(Grant, grant_id=before.grant_id)
        assert (back.state, back.reason) == ("locked", "rollback") and back.refresh_token is not None
        assert await phones_action(world) == "restored_phone"
        first = (await world.phone.sign_in()).account  # the way out
        assert await phones_action(world) != "restored_phone"
        assert (await world.phone.hand_off(strategy="move", account=first)).state == "done"


async def test_a_restored_phone_stays_wary_while_a_move_may_come_back() -> None:
    async with running("strict") as world:
        liar = await second_watch(world)
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) > begun + 2
        assert (await world.phone.hand_off(strategy="move", wait_s=1)).state == "released"
        moved = await world.phone.handoff()
        world.broker.hold = lambda packet: world.watch.id in packet.topic
        await claim_rollback(liar, world.phone, "ROLLBACK")
        assert (await world.phone.hand_off(liar.id, strategy="mint")).state == "done"
        assert (await world.phone.one(Pairing, peer_id=liar.id)).rollback == "self"
        world.broker.hold = lambda packet: False
        await say(world.watch, m.CancelConfirmed(handoff_id=moved.handoff_id))
        assert (await world.phone.one(Grant, grant_id=moved.grant_id)).reason == "rollback"
        assert (await world.phone.hand_off(liar.id, strategy="mint")).state == "done"
        assert (await world.phone.one(Pairing, peer_id=liar.id)).rollback == ""


# -- Lists that were overtaken -----------------------------------------------------------------------------


def greetings(world: World) -> int:
    """Return how often the phone greeted the watch."""
    said = between(world, world.phone, world.watch)
    return sum(isinstance(message.body, m.Hello) and message.head.in_reply_to is None for message in said)


async def overtaken_hello(world: World, *reports: m.HandoffReport) -> None:
    """Have the watch's HELLO arrive after a message that it sent later."""
    pairing = await world.watch.one(Pairing)
    accepted = (await world.phone.one(Pairing)).peer_accepted
    body = m.Hello(challenge=UNKNOWN, seq_sent=pairing.seq_sent + 1, seq_accepted=accepted, handoffs=list(reports))
    topic = f"relay/v1/{world.phone.id}/from/{world.watch.id}"
    world.broker.hold = lambda packet: packet.topic == topic
    await say(world.watch, body, head={"in_reply_to": 1})
    (late,) = [packet for packet in world.broker.seen if packet.topic == topic][-1:]
    world.broker.held.clear()
    world.broker.hold = lambda packet: False
    await say(world.watch, m.Reject(handoff_id=None, reason="later"))
    world.broker.deliver(late)
    await asyncio.sleep(0.5)


async def test_a_list_that_was_overtaken_is_asked_for_anew_at_most_once_in_ten_minutes() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        asked = greetings(world)
        await overtaken_hello(world)
        assert greetings(world) == asked + 1
        world.broker.hold = lambda packet: packet.topic.startswith(f"relay/v1/{world.watch.id}/")
        for _ in range(3):
            await overtaken_hello(world)
            world.broker.hold = lambda packet: packet.topic.startswith(f"relay/v1/{world.watch.id}/")
        assert greetings(world) == asked + 1
        world.broker.hold = lambda packet: False
        await world.clock.advance(ASK_EVERY_S + 60)
        assert greetings(world) == asked + 2  # once for all three, and not in silence
        await world.clock.advance(ASK_EVERY_S + 60)
        assert greetings(world) == asked + 2


async def test_what_an_overtaken_list_would_have_said_is_known_soon() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        await world.watch.agent.forget(pairing=False)
        row = await world.phone.handoff()
        await world.phone.edit(row, device_state="held", device_reason="")
        await world.phone.agent.turns.run(lambda turn: _drop_renewals(turn))
        await overtaken_hello(world)
        await world.clock.advance(5)
        assert (await world.phone.handoff()).device_state in ("dead", "needs_handoff")


def _drop_renewals(turn: Turn) -> None:
    for row in turn.tx.select(Outgoing):
        turn.tx.delete(Outgoing, row.pairing_id, row.seq)


# -- Grants of nobody --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subject", "left"), [("", ["held", "held"]), ("sub", ["held"])])
async def test_a_grant_without_a_subject_takes_nobodys_place(
    monkeypatch: pytest.MonkeyPatch, subject: str, left: list[str]
) -> None:
    async with running("entra") as world:
        release = world.phone.agent.steps.release

        def without(turn: Turn, pairing: Pairing, handoff_id: str, grant: Grant, token: Any) -> bool:
            return release(turn, pairing, handoff_id, replace(grant, subject=subject), token)

        monkeypatch.setattr(world.phone.agent.steps, "release", without)
        for username in ("password@contoso.example", "reset@contoso.example"):
            await world.phone.sign_in(username)
            assert (await world.phone.hand_off(account=username)).state == "done"
        await world.clock.advance(5)
        assert [row.state for row in await world.watch.rows(Grant)] == left
        states = sorted(row.state for row in await world.phone.rows(PhoneHandoff))
        assert states == (["done", "done"] if not subject else ["done", "gone"])


# -- Leases in a connection of seconds ---------------------------------------------------------------------


async def test_a_phone_that_is_online_for_three_seconds_a_day_renews_a_lease_of_two_days() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        await world.phone.crash()
        for _ in range(6):
            await world.clock.advance(DAY)
            del world.broker.sessions[world.phone.id]  # what waited for the phone went with its session
            await world.phone.start()
            await world.clock.advance(3)
            await world.phone.crash()
            assert isinstance(await world.watch.token(), TokenGranted)


async def test_a_phone_that_is_back_just_after_our_greeting_was_lost_renews_the_lease_once_that_is_certain() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        await world.phone.crash()
        await world.clock.advance(DAY)
        world.watch.channel.cut()
        await world.watch.channel.connect()
        await world.clock.advance(1)
        del world.broker.sessions[world.phone.id]  # and with it the greeting of the watch
        await world.phone.start()
        await world.clock.advance(CHALLENGED_S / 2)
        assert (await world.watch.one(Pairing)).challenge, "its answer might have been on its way"
        await world.clock.advance(CHALLENGED_S)
        assert (await world.watch.one(Pairing)).challenge == "", "LEASE has answered the second one"


async def test_the_newest_of_many_greetings_is_heard_though_the_phone_is_there_for_seconds() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        await world.phone.crash()
        for _ in range(4):
            await world.clock.advance(DAY)
            for _ in range(OTHERS_RATE.burst + 40):  # a watch on a bad network, and a broker that keeps all it says
                world.watch.channel.cut()
                await world.watch.channel.connect()
            await world.clock.advance(3600)
            await world.phone.start()
            await world.clock.advance(3)
            assert world.phone.agent.turns.rejects["too_often"] > 0
            await world.phone.crash()
            assert isinstance(await world.watch.token(), TokenGranted)


@pytest.mark.parametrize(
    ("why", "greetings"),
    [("leased", 1), ("no lease", 0), ("dead", 0), ("an answer", 0), ("challenged", 0), ("retired", 0)],
)
async def test_a_companion_greets_a_greeting_phone_only_for_a_lease(why: str, greetings: int) -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=0 if why == "no lease" else 2)
        await world.clock.advance(2 * ASK_EVERY_S)
        pairing = await world.watch.one(Pairing)
        here = await world.phone.one(Pairing)
        match why:
            case "dead":
                await world.watch.agent.forget(pairing=False)
            case "retired":
                await world.watch.edit(pairing, state="retired")
            case "challenged":
                stamp = Stamp.of(world.watch.clock.now()).to_text()
                await world.watch.edit(pairing, challenge=UNKNOWN, challenged=stamp)
        body = m.Hello(challenge=UNKNOWN, seq_sent=here.seq_sent + 1, seq_accepted=0, handoffs=[])
        await world.watch.edit(await world.watch.one(Pairing), peer_accepted=0)
        before = list(between(world, world.watch, world.phone))
        for _ in range(3):
            seq = (await world.phone.one(Pairing)).seq_sent + 1
            body = body.model_copy(update={"seq_sent": seq})
            await say(world.phone, body, head={"in_reply_to": 1 if why == "an answer" else None})
            await world.clock.advance(3)
        new = list(between(world, world.watch, world.phone))[len(before) :]
        hellos = [message for message in new if isinstance(message.body, m.Hello)]
        assert sum(message.head.in_reply_to is None for message in hellos) == greetings


# -- Wear --------------------------------------------------------------------------------------------------


def a_message(kind: str, number: int, pairing: Pairing) -> m.Body:
    match kind:
        case "HELLO":
            return m.Hello(challenge=UNKNOWN, seq_sent=pairing.seq_sent + 1, seq_accepted=0, handoffs=[])
        case "ROLLBACK":
            return m.Rollback(seq_sent=pairing.seq_sent + 1, seq_accepted=0)
        case "REJECT":
            return m.Reject(handoff_id=None, reason="gone")
        case "CLOSED":
            return m.Closed(handoff_id=UNKNOWN)
        case "OFFER":
            return an_offer(f"{number:032x}")
        case "REVOKE":
            return m.Revoke(handoff_id=UNKNOWN)
        case _:
            return m.Cancel(handoff_id=f"{number:032x}")


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("HELLO", OTHERS_RATE),  # peers.md: 521 in 8 s
        ("ROLLBACK", OTHERS_RATE),
        ("REJECT", OTHERS_RATE),
        ("CLOSED", OTHERS_RATE),
        ("OFFER", REQUESTS_RATE),
        ("REVOKE", REQUESTS_RATE),
        ("CANCEL", REQUESTS_RATE),
    ],
)
async def test_what_a_peer_sends_costs_so_many_commits_and_no_more(kind: str, rate: Rate) -> None:
    async with running("entra") as world:
        world.phone.channel.cut()
        await world.clock.advance(3600)
        envelopes: list[bytes] = []
        sent = (await world.phone.one(Pairing)).seq_sent

        def step(turn: Turn) -> None:
            (pairing,) = turn.tx.select(Pairing)
            for number in range(rate.burst + 100):
                turn.answer(pairing.pairing_id, a_message(kind, number, turn.row(Pairing, pairing.pairing_id)))
            envelopes.extend(message.envelope for message in turn.outgoing)
            turn.outgoing.clear()

        await world.phone.agent.turns.run(step)
        topic = f"relay/v1/{world.watch.id}/from/{world.phone.id}"
        link, disk = world.watch.agent.link, world.watch.disk
        before, first_dropped = disk.commits, sent + rate.burst + 1
        for envelope in envelopes:
            await link.receive(topic, envelope)
        assert disk.commits - before == rate.burst
        assert world.watch.agent.turns.rejects["too_often"] == 100
        assert len(await world.watch.rows(Seen, seq=first_dropped)) == 0  # not marked as seen: it may come again
        await asyncio.sleep(rate.every_s * 3 + 1)
        for envelope in envelopes[rate.burst : rate.burst + 50]:
            await link.receive(topic, envelope)
        # Besides: of HELLOs the newest, after a second.
        assert disk.commits - before == rate.burst + 3 + (kind == "HELLO")
        assert len(await world.watch.rows(Seen, seq=first_dropped)) == 1


async def test_the_newest_greetings_of_a_flood_are_bounded_too() -> None:
    async with running("entra") as world:
        world.phone.channel.cut()
        await world.clock.advance(3600)
        topic = f"relay/v1/{world.watch.id}/from/{world.phone.id}"
        link, disk = world.watch.agent.link, world.watch.disk
        before = disk.commits
        for _ in range(600):  # two a second
            envelopes: list[bytes] = []

            def step(turn: Turn, envelopes: list[bytes] = envelopes) -> None:
                (pairing,) = turn.tx.select(Pairing)
                turn.answer(pairing.pairing_id, a_message("HELLO", 0, pairing))
                envelopes.extend(message.envelope for message in turn.outgoing)
                turn.outgoing.clear()

            await world.phone.agent.turns.run(step)
            await link.receive(topic, envelopes[0])
            await asyncio.sleep(0.5)
        most = OTHERS_RATE.burst + 300 / OTHERS_RATE.every_s + LAST_RATE.burst + 300 / LAST_RATE.every_s
        assert OTHERS_RATE.burst + LAST_RATE.burst <= disk.commits - before <= most + 10  # 10: its own, such as marks


async def test_a_flood_in_one_pairing_leaves_the_others_their_share() -> None:
    async with running("entra") as world:
        phone2 = await second_phone(world)
        (pairing,) = await phone2.rows(Pairing)
        topic = f"relay/v1/{world.watch.id}/from/{phone2.id}"
        envelopes: list[bytes] = []

        def step(turn: Turn) -> None:
            for number in range(REQUESTS_RATE.burst + OTHERS_RATE.burst):
                turn.answer(pairing.pairing_id, m.Cancel(handoff_id=f"{number:032x}"))
                turn.answer(pairing.pairing_id, m.Reject(handoff_id=None, reason="gone"))
            envelopes.extend(message.envelope for message in turn.outgoing)
            turn.outgoing.clear()

        await phone2.agent.turns.run(step)
        for envelope in envelopes:
            await world.watch.agent.link.receive(topic, envelope)
        dropped = world.watch.agent.turns.rejects["too_often"]
        assert dropped >= REQUESTS_RATE.burst
        assert (await world.phone.hand_off()).state == "done"
        assert world.watch.agent.turns.rejects["too_often"] == dropped


async def test_all_that_an_honest_peer_may_have_open_arrives_at_a_reconnect() -> None:
    async with running("entra") as world:
        world.watch.channel.cut()
        (pairing,) = await world.phone.rows(Pairing)

        def step(turn: Turn) -> None:
            for number in range(delivery.OUTBOX_ROWS_MAX):
                handoff_id = f"{number:032x}"
                row = unknown_row(handoff_id, pairing.pairing_id, turn.stamp, turn.wall)
                turn.tx.put(replace(row, state="revoking"))
                turn.request(pairing.pairing_id, m.Revoke(handoff_id=handoff_id), handoff_id)

        await world.phone.agent.turns.run(step)
        await world.watch.channel.connect()
        await world.clock.advance(60)
        assert len(await world.watch.rows(CompanionHandoff)) == delivery.OUTBOX_ROWS_MAX
        assert world.watch.agent.turns.rejects["too_often"] == 0


async def test_a_rate_gives_its_burst_back_and_forgets_what_is_whole() -> None:
    rates, rate = Rates(), Rate(2, 10.0)

    def take(key: str, rate: Rate, now_s: float) -> bool:
        is_allowed = rates.allows(key, rate, now_s)
        if is_allowed:
            rates.count(key, rate, now_s)
        return is_allowed

    assert [take("a", rate, now) for now in (0, 0, 0, 9, 10, 10, 19, 20, 60, 60, 60)] == [
        True, True, False, False, True, False, False, True, True, True, False,
    ]  # fmt: skip
    assert take("b", rate, 60)  # another key
    assert take("a", rate, 0) and take("a", rate, 0)  # the clock began anew
    for number in range(3 * KEYS_MAX):
        assert take(str(number), rate, 1000.0 + 30 * number)
    assert len(rates._full_at) <= KEYS_MAX
