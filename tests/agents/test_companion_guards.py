"""What the companion refuses, one guard at a time: each test fails when that guard alone is taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import token_relay.agents.phone.steps
from tests.agents.guard_kit import UNKNOWN, an_offer, between, count, deafen, erasures, last, say
from tests.agents.world_kit import SimulatedPhone, World, running
from token_relay.agents.grants.serving import lease_of
from token_relay.agents.records import (
    AuditEvent,
    CompanionHandoff,
    Grant,
    Outgoing,
    Pairing,
    PhoneHandoff,
    RestoredEnd,
    grant_key,
    handoff_key,
)
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.agents.turn import Turn
from token_relay.protocol import messages as m
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.secret import PrivateKey

pytestmark = pytest.mark.asyncio
DAY = 86_400
OTHER = "cd" * 16


# -- The sealed grant --------------------------------------------------------------------------------------

OTHERWISE = {
    "pairing_id": OTHER,
    "handoff_id": OTHER,
    "phone_key": OTHER * 2,
    "companion_key": OTHER * 2,
    "one_time_key": OTHER * 2,
    "offer_hash": OTHER * 2,
    "accept_hash": OTHER * 2,
    "issuer": "https://other.example",
    "client_id": "other",
}


@pytest.mark.parametrize("field", OTHERWISE)
async def test_a_sealed_grant_that_differs_in_one_point_is_not_stored(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = m.encode_grant
    monkeypatch.setattr(
        token_relay.agents.phone.steps,
        "encode_grant",
        lambda payload: encode(payload.model_copy(update={field: OTHERWISE[field]})),
    )
    async with running("entra") as world:
        with pytest.raises(Exception, match="could not take the token"):
            await world.phone.hand_off()
        assert await world.watch.rows(Grant) == []
        row = await world.watch.handoff()
        assert (row.state, row.reason, row.one_time_key) == ("dead", "lost", None)
        assert world.watch.agent.turns.rejects["grant_mismatch"] == 1
        phones = await world.phone.handoff()
        assert (phones.state, phones.reason) == ("gone", "lost")


async def test_a_token_sealed_to_another_key_is_answered_lost_and_never_taken() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, an_offer())
        await say(world.phone, m.Token(handoff_id=UNKNOWN, sealed=m.encode_base64url(bytes(200))))
        row = await world.watch.one(CompanionHandoff)
        assert (row.state, row.reason, row.one_time_key) == ("dead", "lost", None)
        assert last(world, world.watch, world.phone, m.Lost).handoff_id == UNKNOWN
        assert world.watch.agent.turns.rejects["bad_sealed_box"] == 1


async def test_a_token_that_nobody_waits_for_leaves_a_tombstone() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, m.Token(handoff_id=UNKNOWN, sealed=m.encode_base64url(bytes(200))))
        row = await world.watch.one(CompanionHandoff)
        assert (row.state, row.reason) == ("dead", "lost")
        await say(world.phone, an_offer())
        assert (await world.watch.one(CompanionHandoff)).state == "dead"
        assert count(world, world.watch, world.phone, m.Accept) == 0


@pytest.mark.parametrize("kind", [m.Cancel, m.Revoke])
async def test_a_word_that_ends_it_erases_the_one_time_key_and_overtakes_the_offer(kind: Any) -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, an_offer())
        ready = await world.watch.one(CompanionHandoff)
        assert (ready.state, ready.one_time_key is not None) == ("ready", True)
        with erasures(world.watch) as erased:
            await say(world.phone, kind(handoff_id=UNKNOWN))
        row = await world.watch.one(CompanionHandoff)
        assert (row.state, row.one_time_key) == ("dead", None)
        assert handoff_key((await world.watch.one(Pairing)).pairing_id, UNKNOWN) in erased
        await say(world.phone, kind(handoff_id=OTHER))  # before its OFFER
        await say(world.phone, an_offer(OTHER))
        assert {row.state for row in await world.watch.rows(CompanionHandoff)} == {"dead"}


async def test_storing_erases_the_one_time_key_in_the_same_commit() -> None:
    async with running("entra") as world:
        with erasures(world.watch) as erased:
            await world.phone.hand_off()
        row = await world.watch.handoff()
        assert (row.state, row.one_time_key) == ("stored", None)
        assert handoff_key(*row.at) in erased


# -- OFFER -------------------------------------------------------------------------------------------------


async def test_an_offer_that_changes_while_it_is_open_is_refused() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, an_offer(lease_days=7))
        before = await world.watch.one(CompanionHandoff)
        await say(world.phone, an_offer(lease_days=365))
        assert await world.watch.one(CompanionHandoff) == before
        assert world.watch.agent.turns.rejects["offer_changed"] == 1
        assert count(world, world.watch, world.phone, m.Accept) == 1


async def test_an_offer_for_what_is_over_is_answered_by_its_end() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, m.Cancel(handoff_id=UNKNOWN))
        await say(world.phone, an_offer())
        assert count(world, world.watch, world.phone, m.CancelConfirmed) == 2
        assert count(world, world.watch, world.phone, m.Accept) == 0


@pytest.mark.parametrize("synced", [True, False])
@pytest.mark.parametrize("age_s", [-60, 0, 60])
async def test_the_age_of_an_offer_is_judged_by_a_synced_clock_alone(synced: bool, age_s: int) -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        if not synced:
            world.clock.lose_sync()
        await say(world.phone, an_offer(expires_at=int(world.clock.now().wall_s) - age_s))
        rows = await world.watch.rows(CompanionHandoff)
        if synced and age_s > 0:
            assert rows == []
            reject = last(world, world.watch, world.phone, m.Reject)
            assert (reject.handoff_id, reject.reason) == (UNKNOWN, "expired")
        else:
            assert [row.state for row in rows] == ["ready"]


async def test_an_offer_without_an_end_does_not_expire() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, an_offer(expires_at=0))
        assert (await world.watch.one(CompanionHandoff)).state == "ready"


async def test_a_retired_pairing_begins_nothing_new() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await world.watch.edit(await world.watch.one(Pairing), state="retired")
        await say(world.phone, an_offer())
        assert await world.watch.rows(CompanionHandoff) == []
        assert last(world, world.watch, world.phone, m.Reject).reason == "not_active"


async def test_a_second_offer_takes_the_place_of_the_first_in_its_own_pairing_only() -> None:
    async with running("entra") as world:
        phone2 = world.add_phone()
        await phone2.start()
        await world.pair(phone2, world.watch)
        ends = (world.phone.id, phone2.id)
        world.broker.hold = lambda packet: packet.topic.split("/")[2] in ends
        await say(phone2, an_offer("ee" * 16))
        await say(world.phone, an_offer(UNKNOWN))
        await say(world.phone, an_offer(OTHER))
        rows = {row.handoff_id: row for row in await world.watch.rows(CompanionHandoff)}
        assert {key: row.state for key, row in rows.items()} == {UNKNOWN: "dead", OTHER: "ready", "ee" * 16: "ready"}
        assert (rows[UNKNOWN].reason, rows[UNKNOWN].one_time_key) == ("replaced", None)
        assert rows["ee" * 16].one_time_key is not None


async def test_a_repeated_offer_that_the_disk_has_forgotten_opens_nothing() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, an_offer())
        offers = [p for p in world.broker.seen if p.topic == f"relay/v1/{world.watch.id}/from/{world.phone.id}"]
        at = (await world.watch.handoff()).at
        await world.watch.vault.run(lambda tx: tx.delete(CompanionHandoff, *at))
        await world.clock.advance(5)
        world.broker.deliver(offers[-1])
        await world.clock.advance(1)
        assert await world.watch.rows(CompanionHandoff) == []
        reject = last(world, world.watch, world.phone, m.Reject)
        assert (reject.handoff_id, reject.reason) == (UNKNOWN, "gone")


async def test_an_offer_settles_the_question_for_it() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        deafen(world, world.phone)
        grant = await world.watch.grant()

        def ask(turn: Any) -> None:
            after = replace(grant, state="needs_handoff", reason="uncertain", refresh_token=None)
            turn.tx.put(after)
            world.watch.agent.steps.on_grant_changed(turn, grant, after)
            world.watch.agent.steps.on_grant_changed(turn, grant, after)

        await world.watch.agent.turns.run(ask)
        (asked,) = await world.watch.rows(Outgoing)  # once, however often the grant changes
        assert asked.type == "RENEW"
        await say(world.phone, an_offer())
        assert await world.watch.rows(Outgoing) == []
        await world.watch.agent.turns.run(
            lambda turn: world.watch.agent.steps.on_grant_changed(
                turn, grant, replace(grant, state="needs_handoff", reason="uncertain")
            )
        )
        assert await world.watch.rows(Outgoing) == []  # an OFFER is on its way to a grant: nothing to ask


# -- Repeated words, other pairings ------------------------------------------------------------------------


async def test_a_repeated_word_asks_again_and_moves_nothing_at_the_companion() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        deafen(world, world.phone)
        row = await world.watch.handoff()
        await say(world.phone, m.Revoke(handoff_id=row.handoff_id))
        assert (await world.watch.handoff()).state == "dead"
        await world.watch.edit(row)  # as a restored disk would have it
        await world.clock.advance(5)
        before = count(world, world.watch, world.phone, m.Revoked)
        sent = [p for p in world.broker.seen if p.topic == f"relay/v1/{world.watch.id}/from/{world.phone.id}"]
        world.broker.deliver(sent[-1])
        await world.clock.advance(1)
        assert (await world.watch.handoff()).state == "stored"
        assert count(world, world.watch, world.phone, m.Revoked) == before


async def test_each_word_counts_only_in_the_pairing_that_brought_the_handoff() -> None:
    async with running("entra") as world:
        row = await world.phone.hand_off(lease_days=2)
        phone2 = world.add_phone()
        await phone2.start()
        await world.pair(phone2, world.watch)
        await world.clock.advance(3)
        before = await world.watch.handoff()
        for body in (
            m.Cancel(handoff_id=row.handoff_id),
            m.Revoke(handoff_id=row.handoff_id),
            m.Closed(handoff_id=row.handoff_id),
            m.Reject(handoff_id=row.handoff_id, reason="gone"),
            m.Token(handoff_id=row.handoff_id, sealed="AAAA"),
        ):
            await say(phone2, body)
        theirs, own = await world.watch.rows(CompanionHandoff), await world.watch.grant()
        theirs.remove(before)
        assert [(other.handoff_id, other.state) for other in theirs] == [(row.handoff_id, "dead")]  # in its own space
        assert own.state == "held" and own.refresh_token is not None
        world.broker.hold = lambda packet: packet.topic.startswith(f"relay/v1/{phone2.id}/from/")
        await world.watch.agent.link.connected()
        await world.clock.advance(1)
        mine = next(p for p in await world.watch.rows(Pairing) if p.peer_id == phone2.id)
        held = await world.watch.grant()
        terms = [m.LeaseTerm(handoff_id=row.handoff_id, lease_days=365)]
        await say(phone2, m.Lease(challenge=mine.challenge, handoffs=terms))
        assert next(p for p in await world.watch.rows(Pairing) if p.peer_id == phone2.id).challenge == ""
        assert lease_of(await world.watch.grant()) == lease_of(held)
        assert isinstance(await world.watch.token(), TokenGranted)


async def a_second_phone(world: World) -> SimulatedPhone:
    phone2 = world.add_phone()
    await phone2.start()
    await world.pair(phone2, world.watch)
    await world.clock.advance(3)
    return phone2


@pytest.mark.parametrize("word", [m.Cancel, m.Revoke, m.Closed, m.Token])
async def test_a_handoff_named_as_a_grant_erases_nothing_of_it(word: Any) -> None:
    """A grant's id stands in logs and in status: a paired phone that reads them names a handoff by it."""
    async with running("entra") as world:
        await world.phone.hand_off()
        phone2 = await a_second_phone(world)
        grant = await world.watch.grant()
        with erasures(world.watch) as erased:
            await say(phone2, an_offer(grant.grant_id))
            await say(phone2, word(handoff_id=grant.grant_id, **({"sealed": "AAAA"} if word is m.Token else {})))
        assert grant_key(grant.grant_id) not in erased and grant.grant_id not in erased
        assert await world.watch.grant() == grant
        assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)


async def test_a_handoff_id_of_another_pairing_names_nothing_of_it() -> None:
    """Both phones have a handoff of this id that waits for its token; the one that is cancelled is the second's."""
    async with running("entra") as world:
        world.broker.hold = lambda packet: packet.topic == f"relay/v1/{world.phone.id}/from/{world.watch.id}"
        row = await world.phone.hand_off(wait_s=0)
        phone2 = await a_second_phone(world)
        with erasures(world.watch) as erased:
            await say(phone2, an_offer(row.handoff_id))
            await say(phone2, m.Cancel(handoff_id=row.handoff_id))
        assert erased == [handoff_key((await phone2.one(Pairing)).pairing_id, row.handoff_id)]
        world.broker.hold = None
        for packet in list(world.broker.held):
            world.broker.deliver(packet)
        await world.clock.advance(30)
        assert (await world.watch.grant()).state == "held" and (await world.phone.handoff()).state == "done"


# -- LEASE -------------------------------------------------------------------------------------------------


async def test_a_lease_needs_the_very_challenge_and_spends_it() -> None:
    async with running("entra") as world:
        row = await world.phone.hand_off(lease_days=2)
        await world.clock.advance(3)
        deafen(world, world.phone)
        await world.watch.agent.link.connected()  # a HELLO that nobody hears
        await world.clock.advance(1)
        challenge = (await world.watch.one(Pairing)).challenge
        assert challenge
        terms = [m.LeaseTerm(handoff_id=row.handoff_id, lease_days=300)]
        await say(world.phone, m.Lease(challenge=OTHER, handoffs=terms))
        assert (await world.watch.grant()).lease_days == 2
        assert world.watch.agent.turns.rejects["stale_challenge"] == 1
        await say(world.phone, m.Lease(challenge=challenge, handoffs=terms))
        assert (await world.watch.grant()).lease_days == 300
        await say(
            world.phone, m.Lease(challenge=challenge, handoffs=[m.LeaseTerm(handoff_id=row.handoff_id, lease_days=365)])
        )
        await say(world.phone, m.Lease(challenge="00" * 16, handoffs=terms))
        assert (await world.watch.grant()).lease_days == 300
        assert world.watch.agent.turns.rejects["stale_challenge"] == 3


async def test_a_lease_counts_from_its_challenge() -> None:
    async with running("entra") as world:
        row = await world.phone.hand_off(lease_days=2)
        await world.clock.advance(3)
        deafen(world, world.phone)
        asked_at = world.clock.now().wall_s
        await world.watch.agent.link.connected()
        await world.clock.advance(3000)
        challenge = (await world.watch.one(Pairing)).challenge
        terms = [m.LeaseTerm(handoff_id=row.handoff_id, lease_days=9)]
        await say(world.phone, m.Lease(challenge=challenge, handoffs=terms))
        held = lease_of(await world.watch.grant())
        assert held is not None and held.days == 9
        assert abs(held.given_wall_s - asked_at) <= 1
        assert held.used_s + world.clock.now().wall_s - held.marked.wall_s >= 2999  # by boot time as well


async def test_nothing_but_a_lease_renews_a_lease() -> None:
    async with running("entra") as world:
        row = await world.phone.hand_off(lease_days=2)
        await world.clock.advance(3)
        deafen(world, world.phone)
        before = lease_of(await world.watch.grant())
        await world.clock.advance(1800)
        for body in (
            m.Closed(handoff_id=row.handoff_id),
            m.Cancel(handoff_id=row.handoff_id),
            an_offer(),
            m.Cancel(handoff_id=UNKNOWN),
            m.Reject(handoff_id=None, reason="gone"),
            m.Hello(challenge=OTHER, seq_sent=99, seq_accepted=0, handoffs=[]),
        ):
            await say(world.phone, body)
        after = lease_of(await world.watch.grant())
        assert before is not None and after is not None
        assert (after.days, after.given_wall_s, after.marked) == (before.days, before.given_wall_s, before.marked)


async def test_a_token_held_back_starts_its_lease_when_it_was_sent() -> None:
    async with running("entra") as world:
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) > begun + 2
        assert (await world.phone.hand_off(wait_s=1, lease_days=7)).state == "released"
        sent_at = int(world.clock.now().wall_s)
        await world.phone.stop()
        await world.clock.advance(5 * DAY)
        world.broker.release()
        await world.clock.advance(5)
        held = lease_of(await world.watch.grant())
        assert held is not None and held.given_wall_s <= sent_at + 5
        await world.clock.advance(2 * DAY)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"


# -- Rollback, restart, end --------------------------------------------------------------------------------


async def test_only_its_own_restored_disk_locks_a_companions_grants() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        pairing = await world.watch.one(Pairing)

        def rolled_back(who: RestoredEnd) -> Callable[[Turn], None]:
            return lambda turn: world.watch.agent.messages.on_rollback(turn, pairing, who=who)

        expected: tuple[tuple[RestoredEnd, str], ...] = (("peer", "held"), ("self", "locked"))
        for who, state in expected:
            await world.watch.agent.turns.run(rolled_back(who))
            assert (await world.watch.grant()).state == state


async def test_a_second_grant_of_the_same_kind_ends_the_first_and_no_other() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        first = await world.watch.grant()
        await world.watch.edit(
            first, grant_id="f1" * 16, handoff_id="f2" * 16, subject="somebody else", refresh_token=None
        )
        with erasures(world.watch) as erased:
            await world.phone.hand_off()
            await world.clock.advance(3)
        rows = {grant.grant_id: grant.state for grant in await world.watch.rows(Grant)}
        assert first.grant_id not in rows
        assert rows.pop("f1" * 16) == "held" and list(rows.values()) == ["held"]
        assert grant_key(first.grant_id) in erased
        states = {row.handoff_id: (row.state, row.reason) for row in await world.phone.rows(PhoneHandoff)}
        assert states[first.handoff_id] == ("gone", "superseded")


async def test_what_a_revoke_was_owed_at_the_provider_is_known_after_a_restart() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        world.watch.http.gate.clear()  # the provider does not answer
        await world.within(world.phone.agent.revoke("watch", wait_s=1))
        assert (await world.watch.handoff()).provider_said == "asking"
        assert (await world.watch.grant()).refresh_token is None
        assert (await world.phone.handoff()).state == "revoking"
        await world.watch.stop()
        world.watch.http.gate.set()
        await world.watch.start()
        await world.clock.advance(10)
        row = await world.phone.handoff()
        assert (row.state, row.provider_said) == ("gone", "unknown")


async def test_closed_settles_the_receipt_and_nothing_else() -> None:
    async with running("entra") as world:
        row = await world.phone.hand_off()
        await world.clock.advance(3)
        deafen(world, world.phone)

        def queue(turn: Any) -> None:
            pairing_id = turn.tx.select(Pairing)[0].pairing_id
            turn.request(pairing_id, m.Stored(handoff_id=row.handoff_id), row.handoff_id)
            turn.request(pairing_id, m.Stored(handoff_id=OTHER), OTHER)
            turn.request(pairing_id, m.Renew(handoff_id=row.handoff_id, reason="person", generation=2), row.handoff_id)

        await world.watch.agent.turns.run(queue)
        await say(world.phone, m.Closed(handoff_id=row.handoff_id))
        assert {(r.type, r.handoff_id) for r in await world.watch.rows(Outgoing)} == {
            ("STORED", OTHER),
            ("RENEW", row.handoff_id),
        }
        await say(world.phone, m.Revoke(handoff_id=row.handoff_id))
        assert {(r.type, r.handoff_id) for r in await world.watch.rows(Outgoing)} == {("STORED", OTHER)}


async def test_a_rejected_renewal_is_found_by_its_number_and_moves_no_handoff() -> None:
    async with running("entra") as world:
        row = await world.phone.hand_off()
        await world.clock.advance(3)
        deafen(world, world.phone)
        pairing = await world.watch.one(Pairing)
        await world.watch.agent.turns.run(
            lambda turn: turn.request(
                pairing.pairing_id, m.Renew(handoff_id=row.handoff_id, reason="person", generation=2), row.handoff_id
            )
        )
        (asked,) = await world.watch.rows(Outgoing)
        await say(world.phone, m.Reject(handoff_id=None, reason="gone"), head={"in_reply_to": asked.seq + 1})
        assert await world.watch.rows(Outgoing) == [asked]
        await say(world.phone, m.Reject(handoff_id=None, reason="gone"), head={"in_reply_to": asked.seq})
        assert await world.watch.rows(Outgoing) == []
        assert (await world.watch.handoff()).state == "stored"


async def test_the_companion_takes_no_message_of_its_own_kind() -> None:
    async with running("entra") as world:
        image = None
        for body in (
            m.Stored(handoff_id=UNKNOWN),
            m.Accept(handoff_id=UNKNOWN, one_time_key=OTHER * 2, offer_hash=OTHER * 2),
        ):
            await say(world.phone, body)
            image = await world.watch.rows(CompanionHandoff)
        assert image == []
        assert world.watch.agent.turns.rejects["wrong_direction"] == 2


async def test_every_one_time_key_is_a_fresh_one() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, an_offer(UNKNOWN))
        await say(world.phone, an_offer(OTHER))
        keys = [
            message.body.one_time_key
            for message in between(world, world.watch, world.phone)
            if isinstance(message.body, m.Accept)
        ]
        assert len(set(keys)) == 2
        (row,) = await world.watch.rows(CompanionHandoff, state="ready")
        assert isinstance(row.one_time_key, PrivateKey)
        assert KeyPair.from_random(row.one_time_key.reveal()).public_key == row.one_time_public


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (m.Stored(handoff_id=UNKNOWN), "wrong_direction: STORED"),
        (m.Lease(challenge="ee" * 16, handoffs=[]), "stale_challenge"),
        (m.Pair3(transcript_hash="ee" * 32), "wrong_transcript"),
    ],
)
async def test_a_peers_mistake_is_told_by_reason_and_field_and_not_for_each_message(body: m.Body, told: str) -> None:
    """Who writes the other end sees nothing else of it; a peer that repeats it must not fill the audit table."""
    async with running("entra") as world:
        for _ in range(30):
            await say(world.phone, body)
        (event,) = [row for row in await world.watch.rows(AuditEvent) if row.name == "message_refused"]
        assert (event.device, event.detail) == (world.phone.id, told)
        assert world.watch.agent.turns.rejects[told.partition(":")[0]] == 30
        await world.clock.advance(601)
        await say(world.phone, body)
        assert len([row for row in await world.watch.rows(AuditEvent) if row.name == "message_refused"]) == 2


async def test_an_offer_that_was_changed_is_told() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, an_offer())
        await say(world.phone, an_offer(scope="openid other"))
        (event,) = [row for row in await world.watch.rows(AuditEvent) if row.name == "message_refused"]
        assert event.detail == "offer_changed"


@pytest.mark.parametrize(
    ("sealed", "told"),
    [
        (b"not json", "bad_grant: not one JSON object"),
        (b"{}", "bad_grant: v"),
        (b'{"v":1,"a-secret-value":1}', "bad_grant: pairing_id"),
    ],
)
async def test_a_grant_that_cannot_be_read_is_told_by_its_field_and_never_by_what_it_holds(
    sealed: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_relay.agents.phone.steps, "encode_grant", lambda payload: sealed)
    async with running("entra") as world:
        with pytest.raises(Exception, match="could not take the token"):
            await world.phone.hand_off()
        (event,) = [row for row in await world.watch.rows(AuditEvent) if row.name == "grant_refused"]
        assert event.detail == told and "a-secret" not in str(await world.watch.rows(AuditEvent))
