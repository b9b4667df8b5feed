"""The journal of messages: what passed, how far it got, and nothing of what it carried."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.guard_kit import say
from tests.agents.world_kit import running, settle
from token_relay.agents.records import Pairing
from token_relay.agents.traffic import PASSED_MAX, Heard, Outbound, Passed, Traffic
from token_relay.protocol import messages as m

pytestmark = pytest.mark.asyncio

HANDOFF = ["OFFER", "ACCEPT", "TOKEN", "STORED", "CLOSED"]


def outbound(seq: int, envelope: bytes = b"12345", pairing_id: str = "p") -> Outbound:
    return Outbound("device", pairing_id, seq, "OFFER", "ab" * 16, envelope)


def states(traffic: Traffic, after: int = 0) -> list[tuple[int, int, str, int]]:
    return [(row.number, row.change, row.state, row.times) for row in traffic.rows(after=after)]


async def test_a_message_is_one_row_however_often_it_goes_out_and_each_change_has_a_number() -> None:
    traffic = Traffic()
    traffic.went(outbound(1), "queued", 10)
    traffic.went(outbound(2), "sent", 11)
    traffic.went(outbound(1), "sent", 12)
    traffic.went(outbound(1), "sent", 13)
    traffic.went(outbound(1), "at_broker", 14)
    assert states(traffic) == [(1, 5, "at_broker", 2), (2, 2, "sent", 1)]
    assert states(traffic, after=2) == [(1, 5, "at_broker", 2)]
    assert states(traffic, after=5) == []
    traffic.went(outbound(1), "queued", 15)  # again without a connection: the broker has it all the same
    assert states(traffic, after=5) == []
    assert [row.at for row in traffic.rows()] == [10, 11]


async def test_an_answer_without_a_connection_is_not_sent_and_a_number_of_another_pairing_is_another() -> None:
    traffic = Traffic()
    traffic.went(outbound(1), "not_sent", 10)
    traffic.went(outbound(1, pairing_id="q"), "sent", 11)
    assert states(traffic) == [(1, 1, "not_sent", 0), (2, 2, "sent", 1)]


async def test_what_was_not_opened_is_not_in_the_journal() -> None:
    traffic = Traffic()
    changed = traffic.changed.next
    traffic.came(Heard("device", 100), 10)
    assert (traffic.rows(), traffic.last, changed.is_set()) == ([], 0, False)


async def test_the_journal_keeps_the_newest_and_an_old_acknowledgement_adds_no_row() -> None:
    traffic = Traffic()
    for seq in range(PASSED_MAX + 10):
        traffic.went(outbound(seq), "sent", 10)
    assert [row.seq for row in traffic.rows()] == list(range(10, PASSED_MAX + 10))
    traffic.went(outbound(3), "at_broker", 11)
    assert len(traffic.rows()) == PASSED_MAX and traffic.rows()[0].seq == 10


async def test_whoever_waits_is_woken_by_a_new_row_and_by_a_change() -> None:
    traffic = Traffic()
    for state in ("sent", "at_broker"):
        following = traffic.changed.next
        traffic.went(outbound(1), state, 10)
        assert following.is_set()


def shared(rows: list[Passed], direction: str) -> list[tuple[Any, ...]]:
    """What both ends must say alike of what one of them has sent."""
    return [(r.type, r.seq, r.size, r.handoff_id) for r in rows if r.direction == direction and r.type in HANDOFF]


async def test_a_handoff_stands_in_both_journals_alike_and_nothing_that_it_carries() -> None:
    async with running("entra") as world:
        row = await world.phone.hand_off()
        await settle()
        phone, watch = world.phone.agent.turns.traffic, world.watch.agent.turns.traffic
        mine = phone.rows(handoff_id=row.handoff_id)
        assert [(r.type, r.direction) for r in mine] == [
            (kind, "in" if kind in ("ACCEPT", "STORED") else "out") for kind in HANDOFF
        ]
        assert {r.state for r in mine} == {"at_broker", "accepted"} and {r.device for r in mine} == {world.watch.id}
        theirs = watch.rows(handoff_id=row.handoff_id, device=world.phone.id)
        assert shared(mine, "out") == shared(theirs, "in") != []
        assert shared(mine, "in") == shared(theirs, "out") != []
        assert [r.type for r in watch.rows() if r.type.startswith("PAIR")] == ["PAIR3", "PAIR4"]
        assert watch.rows(device=world.watch.id) == []
        told = {type(getattr(r, name)) for r in (*mine, *theirs) for name in Passed.__slots__}
        assert told == {int, float, str} and max(len(str(getattr(r, n))) for r in mine for n in Passed.__slots__) <= 32


async def test_a_request_waits_for_the_connection_and_an_answer_does_not() -> None:
    async with running("entra") as world:
        world.broker.go_down()
        await world.clock.advance(1)
        traffic = world.phone.agent.turns.traffic
        before = traffic.last
        row = await world.within(world.phone.hand_off(wait_s=1))
        (offer,) = traffic.rows(after=before, handoff_id=row.handoff_id)
        assert (offer.type, offer.state, offer.times) == ("OFFER", "queued", 0)
        await say(world.phone, m.Reject(handoff_id=None, reason="gone"))
        assert traffic.rows(after=before)[-1].state == "not_sent"
        number, change = offer.number, offer.change
        await world.restart_broker()
        await world.clock.advance(60)
        sent = next(r for r in traffic.rows(after=change) if r.type == "OFFER")
        assert (sent.number, sent.state, sent.handoff_id) == (number, "at_broker", row.handoff_id)
        assert (await world.phone.handoff()).state == "done"


@pytest.mark.parametrize("again", ["duplicate", "refused:conflict"])
async def test_a_message_that_comes_again_or_in_anothers_place_says_so(again: str) -> None:
    async with running("entra") as world:
        (pairing,) = await world.phone.rows(Pairing)
        envelope = await say(world.phone, m.Reject(handoff_id=None, reason="gone"))
        if again != "duplicate":
            await world.phone.edit(pairing)  # the number is given out once more
            envelope = await say(world.phone, m.Reject(handoff_id=None, reason="busy"))
        topic = f"relay/v1/{world.watch.id}/from/{world.phone.id}"
        await world.watch.agent.link.receive(topic, envelope)
        came = [r for r in world.watch.agent.turns.traffic.rows() if r.direction == "in" and r.type == "REJECT"]
        assert came[0].state == "accepted" and came[1].state == again
        assert len(envelope) == came[-1].size


async def test_a_refused_message_has_its_reason_and_a_strangers_has_no_row() -> None:
    async with running("entra") as world:
        traffic = world.watch.agent.turns.traffic
        await say(world.phone, m.Pair4(transcript_hash="ab" * 32))
        came = traffic.rows()[-1]
        assert came.type == "PAIR4" and came.state == "refused:wrong_direction"
        before = traffic.last
        topic = f"relay/v1/{world.watch.id}/from/{world.phone.id}"
        await world.watch.agent.link.receive(topic, b"\x00" * 200)
        await world.watch.agent.link.receive(topic.replace(world.phone.id, "a" * 26), b"\x00" * 200)
        assert traffic.last == before
