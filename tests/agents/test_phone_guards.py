"""What the phone refuses, one guard at a time: each test fails when that guard alone is taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import token_relay.agents.phone.steps
from tests.agents.guard_kit import UNKNOWN, between, count, deafen, erasures, last, say
from tests.agents.world_kit import World, form_value, running
from token_relay.agents.phone.devices import clear_up
from token_relay.agents.records import (
    CompanionHandoff,
    Grant,
    Outgoing,
    Pairing,
    PhoneHandoff,
    RestoredEnd,
    handoff_key,
)
from token_relay.agents.token_source import TokenGranted, TokenQuery
from token_relay.agents.turn import Turn
from token_relay.protocol import messages as m
from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import oauth
from token_relay.provider.outcome import Denied, OutcomeUnknown, TokenOutcome, Unavailable

pytestmark = pytest.mark.asyncio
DAY = 86_400
OTHER = "cd" * 16


async def offered(world: World, **wish: Any) -> PhoneHandoff:
    """Offer to a watch that hears nothing, so that the test can answer in its place."""
    deafen(world, world.watch)
    row = await world.phone.hand_off(wait_s=0, **wish)
    assert row.state == "offered"
    return row


def accept(row: PhoneHandoff, **changes: Any) -> m.Accept:
    """Return the ACCEPT that fits this offer; the key is the base point of the curve, which is no low-order one."""
    fields = {"handoff_id": row.handoff_id, "one_time_key": "09" + "00" * 31, "offer_hash": row.offer_hash.hex()}
    return m.Accept.model_validate({**fields, **changes})


# -- ACCEPT, STORED, LOST, CANCELLED -----------------------------------------------------------------------


async def test_an_accept_of_another_offer_is_refused() -> None:
    async with running("entra") as world:
        row = await offered(world)
        await say(world.watch, accept(row, offer_hash=OTHER * 2))
        assert (await world.phone.handoff()).reason == ""
        assert world.phone.agent.turns.rejects["wrong_offer"] == 1


async def test_the_first_accept_chooses_the_key() -> None:
    async with running("strict") as world:
        deafen(world, world.watch)
        row = await world.phone.hand_off(wait_s=0, strategy="move")
        await world.phone.edit(await world.phone.one(Grant), state="uncertain", intent="boot-1 0.0 0.0 s")
        await say(world.watch, accept(row))
        first = await world.phone.handoff()
        await say(world.watch, accept(row, one_time_key="55" * 32))
        now = await world.phone.handoff()
        assert now.one_time_key == first.one_time_key == bytes.fromhex("09" + "00" * 31)
        assert now.accept_hash == first.accept_hash


async def test_each_answer_counts_only_in_the_pairing_of_its_handoff() -> None:
    async with running("entra") as world:
        watch2 = world.add_companion()
        await watch2.start()
        await world.pair(world.phone, watch2)
        deafen(world, world.watch)
        row = await world.phone.hand_off(world.watch.id, wait_s=0)
        renew = m.Renew(handoff_id=row.handoff_id, reason="uncertain", generation=2)
        for body in (
            renew,  # while the phone has no handoff of this name in the pairing that says so
            accept(row),
            m.Stored(handoff_id=row.handoff_id),
            m.Lost(handoff_id=row.handoff_id),
            m.CancelConfirmed(handoff_id=row.handoff_id),
            m.Reject(handoff_id=row.handoff_id, reason="gone"),
            renew,  # and when it has one
        ):
            await say(watch2, body)
        (after,) = await world.phone.rows(PhoneHandoff, pairing_id=row.pairing_id)
        assert (after.state, after.reason, after.device_state) == ("offered", "", "")
        (theirs,) = [other for other in await world.phone.rows(PhoneHandoff) if other.at != row.at]
        assert (theirs.handoff_id, theirs.state, theirs.strategy) == (
            row.handoff_id,
            "gone",
            "",
        )  # in a space of its own


async def test_a_handoff_named_as_the_phones_own_grant_erases_nothing_of_it() -> None:
    """Its id stands in logs and in status: a paired companion that reads them names a handoff by it."""
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        own = await world.phone.one(Grant)
        deafen(world, world.watch)
        with erasures(world.phone) as erased:
            await say(world.watch, m.Stored(handoff_id=own.grant_id))
            await say(world.watch, m.Revoked(handoff_id=own.grant_id, provider="accepted", access_token_ends_at=0))
        assert erased == [handoff_key((await world.phone.one(Pairing)).pairing_id, own.grant_id)]
        assert await world.phone.one(Grant) == own
        assert isinstance(await world.phone.agent.keeper.get_token(TokenQuery(force_refresh=True)), TokenGranted)


async def test_a_repeated_word_asks_again_and_moves_nothing_at_the_phone() -> None:
    async with running("strict") as world:
        await world.phone.hand_off(strategy="move")
        await world.clock.advance(3)
        row = await world.phone.handoff()
        sent = [p for p in world.broker.seen if p.topic == f"relay/v1/{world.phone.id}/from/{world.watch.id}"]
        kinds = [message.body.type for message in between(world, world.watch, world.phone)]
        stored = sent[kinds.index("STORED")]
        await world.phone.edit(row, state="released", done_at=0)  # as a restored disk would have it
        await world.clock.advance(5)
        world.broker.deliver(stored)
        await world.clock.advance(0.5)
        assert (await world.phone.handoff()).state == "released"
        assert world.phone.agent.turns.rejects["duplicate"] >= 1


async def test_what_the_companion_lost_is_never_given_back() -> None:
    async with running("strict") as world:
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) > begun + 2
        assert (await world.phone.hand_off(strategy="move", wait_s=1)).state == "released"
        row = await world.phone.handoff()
        assert row.held_token is not None
        world.broker.held.clear()
        deafen(world, world.watch)
        with erasures(world.phone) as erased:
            await say(world.watch, m.Lost(handoff_id=row.handoff_id))
        after = await world.phone.handoff()
        assert (after.state, after.reason, after.held_token) == ("gone", "lost", None)
        assert handoff_key(*row.at) in erased
        assert (await world.phone.one(Grant)).refresh_token is None


# -- Nothing comes back with time --------------------------------------------------------------------------


async def test_age_gives_up_an_offer_and_takes_no_released_token_back() -> None:
    async with running("strict") as world:
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) > begun + 2
        assert (await world.phone.hand_off(strategy="move", wait_s=1)).state == "released"
        await world.clock.advance(3 * DAY)
        await world.phone.agent.turns.run(partial(clear_up, steps=world.phone.agent.steps))
        row = await world.phone.handoff()
        assert (row.state, row.held_token is not None) == ("released", True)
        own = await world.phone.one(Grant)
        assert (own.state, own.reason, own.refresh_token) == ("dead", "moved", None)
        assert [r.type for r in await world.phone.rows(Outgoing)] == ["TOKEN"]


@pytest.mark.parametrize("age_s", [DAY - 60, DAY + 60])
@pytest.mark.parametrize("synced", [True, False])
async def test_an_offer_ages_by_a_synced_clock_alone(age_s: float, synced: bool) -> None:
    async with running("entra") as world:
        await offered(world)
        if not synced:
            world.clock.lose_sync()
        await world.clock.advance(age_s)
        await world.phone.agent.turns.run(partial(clear_up, steps=world.phone.agent.steps))
        row = await world.phone.handoff()
        assert row.state == ("cancelling" if synced and age_s > DAY else "offered")


async def test_an_offer_made_without_a_clock_does_not_age() -> None:
    async with running("entra") as world:
        world.clock.lose_sync()
        row = await offered(world)
        assert row.expires_at == 0
        await world.clock.advance(3 * DAY)
        for clock in world.clock.all:
            clock.is_synced = True
        await world.phone.agent.turns.run(partial(clear_up, steps=world.phone.agent.steps))
        assert (await world.phone.handoff()).state == "offered"


async def test_a_retired_pairing_stays_until_nothing_in_it_is_alive() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        await world.phone.edit(await world.phone.one(Pairing), state="retired")
        await world.phone.agent.turns.run(partial(clear_up, steps=world.phone.agent.steps))
        assert len(await world.phone.rows(Pairing)) == 1
        await world.phone.edit(await world.phone.handoff(), state="gone", reason="revoked")
        await world.phone.agent.turns.run(partial(clear_up, steps=world.phone.agent.steps))
        assert await world.phone.rows(Pairing) == []


# -- RENEW -------------------------------------------------------------------------------------------------


async def renewable(world: World, **columns: Any) -> PhoneHandoff:
    """A finished handoff by ``branch``, whose companion hears nothing, so that only the phone acts."""
    await world.phone.hand_off()
    await world.clock.advance(3)
    deafen(world, world.watch)
    row = await world.phone.handoff()
    if columns:
        await world.phone.edit(row, **columns)
    return await world.phone.handoff()


def renew(row: PhoneHandoff, **changes: Any) -> m.Renew:
    """Return the one RENEW that may be served without the person."""
    fields = {"handoff_id": row.handoff_id, "reason": "uncertain", "generation": 2, **changes}
    return m.Renew.model_validate(fields)


async def test_the_one_renewal_that_is_served() -> None:
    async with running("entra") as world:
        row = await renewable(world)
        await say(world.watch, renew(row))
        new = next(r for r in await world.phone.rows(PhoneHandoff) if r.handoff_id != row.handoff_id)
        assert (new.state, new.is_renewal, new.renews) == ("offered", True, row.handoff_id)
        await say(world.watch, renew(row))  # asked once more: the same offer again, no second one
        assert len(await world.phone.rows(PhoneHandoff)) == 2
        assert count(world, world.phone, world.watch, m.Reject) == 0


@pytest.mark.parametrize(
    ("columns", "changes", "refusal"),
    [
        ({}, {"reason": "denied"}, "person_needed"),
        ({}, {"reason": "forgotten"}, "person_needed"),
        ({"strategy": "mint"}, {}, "person_needed"),
        ({"strategy": "move"}, {}, "person_needed"),
        ({"is_renewal": True}, {"generation": 1}, "person_needed"),
        ({"state": "revoking"}, {}, "gone"),
        ({"state": "gone"}, {}, "gone"),
        ({"state": "released"}, {}, "gone"),
        ({}, {"handoff_id": UNKNOWN}, "gone"),
    ],
)
async def test_any_other_renewal_needs_the_person(columns: Any, changes: Any, refusal: str) -> None:
    async with running("entra") as world:
        row = await renewable(world, **columns)
        await say(world.watch, renew(row, **changes))
        assert len(await world.phone.rows(PhoneHandoff)) == 1
        assert last(world, world.phone, world.watch, m.Reject).reason == refusal


async def test_the_right_to_renew_ends_with_revoke_and_begins_with_a_handoff() -> None:
    async with running("entra") as world:
        row = await renewable(world)
        await world.within(world.phone.agent.revoke("watch", wait_s=0))
        assert (await world.phone.one(Pairing)).renew_denied
        await world.phone.edit(row, handoff_id=UNKNOWN, state="done")  # a finished one that revoke did not know of
        await say(world.watch, renew(row, handoff_id=UNKNOWN))
        assert last(world, world.phone, world.watch, m.Reject).reason == "revoked"
        await world.phone.hand_off(wait_s=0)
        assert not (await world.phone.one(Pairing)).renew_denied


async def test_a_retired_pairing_is_not_renewed() -> None:
    async with running("entra") as world:
        row = await renewable(world)
        await world.phone.edit(await world.phone.one(Pairing), state="retired")
        await say(world.watch, renew(row))
        assert last(world, world.phone, world.watch, m.Reject).reason == "revoked"


async def test_without_the_applications_gate_nothing_is_renewed() -> None:
    async with running("entra") as world:
        row = await renewable(world)
        await world.phone.stop()
        world.phone.allow = False
        await world.phone.start()
        await say(world.watch, renew(row))
        assert last(world, world.phone, world.watch, m.Reject).reason == "person_needed"


async def test_an_open_handoff_answers_a_renewal() -> None:
    async with running("entra") as world:
        row = await renewable(world)
        await world.phone.hand_off(wait_s=0)
        await say(world.watch, renew(row))
        assert last(world, world.phone, world.watch, m.Reject).reason == "later"
        assert len(await world.phone.rows(PhoneHandoff)) == 2


async def test_renewals_pause_longer_each_time_and_end_after_three_a_day() -> None:
    async with running("entra") as world:
        row = await renewable(world)
        now = int(world.clock.now().wall_s)

        async def refusal(*ages: int) -> str:
            for number, age in enumerate(ages):
                await world.phone.edit(
                    row, handoff_id=f"{number:032x}", state="gone", is_renewal=True, created_at=now - age
                )
            await say(world.watch, renew(row))
            return last(world, world.phone, world.watch, m.Reject).reason

        assert await refusal(500) == "later"  # the second waits ten minutes
        assert await refusal(700, 3000) == "later"  # the third an hour
        assert await refusal(4000, 5000, 6000) == "person_needed"
        await world.phone.edit(row, handoff_id=f"{0:032x}", state="gone", is_renewal=True, created_at=now - DAY - 60)
        rejects = count(world, world.phone, world.watch, m.Reject)
        await say(world.watch, renew(row))  # two of the last day, the newer one more than an hour old
        assert count(world, world.phone, world.watch, m.Reject) == rejects


# -- LEASE and HELLO ---------------------------------------------------------------------------------------


async def greet(world: World, *reports: m.HandoffReport, **head: Any) -> None:
    """Have the watch say HELLO with numbers that show no rollback."""
    pairing = await world.watch.one(Pairing)
    accepted = (await world.phone.one(Pairing)).peer_accepted
    body = m.Hello(challenge=OTHER, seq_sent=pairing.seq_sent + 1, seq_accepted=accepted, handoffs=list(reports))
    await say(world.watch, body, head=head or {"in_reply_to": None})


async def test_a_lease_answers_a_greeting_and_names_what_is_done() -> None:
    async with running("entra") as world:
        row = await renewable(world)
        await world.phone.edit(row, handoff_id=UNKNOWN, state="gone", reason="revoked")
        await greet(world)
        lease = last(world, world.phone, world.watch, m.Lease)
        assert lease.challenge == OTHER
        assert [(term.handoff_id, term.lease_days) for term in lease.handoffs] == [(row.handoff_id, 90)]


@pytest.mark.parametrize("why", ["an answer", "revoke is queued", "revoke was asked", "retired", "nothing is done"])
async def test_no_lease_is_given(why: str) -> None:
    async with running("entra") as world:
        row = await renewable(world)
        pairing = await world.phone.one(Pairing)
        head = {"in_reply_to": 5} if why == "an answer" else {}
        match why:
            case "revoke is queued":

                def queue(turn: Any) -> None:
                    turn.request(pairing.pairing_id, m.Revoke(handoff_id=UNKNOWN), UNKNOWN)

                await world.phone.agent.turns.run(queue)
            case "revoke was asked":
                await world.phone.edit(await world.phone.one(Pairing), renew_denied=True)
            case "retired":
                await world.phone.edit(pairing, state="retired")
            case "nothing is done":
                await world.phone.edit(row, state="gone", reason="revoked")
        before = count(world, world.phone, world.watch, m.Lease)
        await greet(world, **head)
        assert count(world, world.phone, world.watch, m.Lease) == before


@pytest.mark.parametrize(("generation", "accused"), [(4, True), (5, False), (6, False), (0, False)])
async def test_a_grant_of_an_earlier_generation_betrays_a_restored_disk(generation: int, accused: bool) -> None:
    async with running("entra") as world:
        row = await renewable(world, generation=5)
        report = m.HandoffReport(handoff_id=row.handoff_id, state="held", generation=generation)
        await greet(world, report)
        assert count(world, world.phone, world.watch, m.Rollback) == int(accused)
        assert (await world.phone.handoff()).generation == max(generation, 5)


async def test_a_report_says_nothing_about_another_pairings_handoff() -> None:
    async with running("entra") as world:
        row = await renewable(world)
        await world.phone.vault.run(lambda tx: tx.delete(PhoneHandoff, *row.at))
        await world.phone.edit(row, pairing_id=OTHER, generation=5)
        row = await world.phone.handoff()
        for state in ("held", "locked"):
            await greet(world, m.HandoffReport(handoff_id=row.handoff_id, state=state, generation=1))
        assert await world.phone.rows(PhoneHandoff, pairing_id=OTHER) == [row]
        assert count(world, world.phone, world.watch, m.Rollback) == 0


async def test_what_is_gone_and_still_held_is_taken_away() -> None:
    async with running("entra") as world:
        row = await renewable(world, state="gone", reason="revoked")
        for state in ("ready", "dead"):
            await greet(world, m.HandoffReport(handoff_id=row.handoff_id, state=state, generation=0))
            assert (await world.phone.handoff()).state == "gone"
        await greet(world, m.HandoffReport(handoff_id=row.handoff_id, state="held", generation=7))
        assert (await world.phone.handoff()).state == "revoking"
        assert [r.type for r in await world.phone.rows(Outgoing)] == ["REVOKE"]


# -- A restored phone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["entra", "strict"])
async def test_a_restored_phone_locks_its_own_whatever_the_provider(profile: str) -> None:
    async with running(profile) as world:
        pairing = await world.phone.one(Pairing)

        def rolled_back(who: RestoredEnd) -> Callable[[Turn], None]:
            return lambda turn: world.phone.agent.handoffs.on_rollback(turn, pairing, who=who)

        ends: tuple[RestoredEnd, ...] = ("peer", "self")
        for who in ends:
            await world.phone.agent.turns.run(rolled_back(who))
            assert (await world.phone.one(Grant)).state == ("held" if who == "peer" else "locked")


async def test_a_done_move_ends_the_phones_own_grant_on_a_restored_disk_too() -> None:
    async with running("strict") as world:
        own = await world.phone.one(Grant)
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) > begun + 3  # STORED is held
        await world.phone.hand_off(strategy="move", wait_s=1)
        await world.phone.edit(own)  # the token is back on the phone's disk
        world.broker.release()
        await world.clock.advance(10)
        assert (await world.phone.handoff()).state == "done"
        after = await world.phone.one(Grant)
        assert (after.state, after.refresh_token) == ("dead", None)


# -- Obtaining the token -----------------------------------------------------------------------------------


async def branched(monkeypatch: pytest.MonkeyPatch, world: World, outcome: TokenOutcome) -> PhoneHandoff:
    """Hand off by ``branch`` at a provider that answers this."""

    async def refresh(*args: Any, **options: Any) -> TokenOutcome:
        return outcome

    monkeypatch.setattr(oauth, "refresh", refresh)
    row = await offered(world)
    await say(world.watch, accept(row))
    return await world.phone.handoff()


@pytest.mark.parametrize("kind", ["final", "person", "client", "request", "temporary"])
async def test_a_denial_gives_the_handoff_up_unless_it_passes(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("entra") as world:
        row = await branched(monkeypatch, world, Denied(kind, "invalid_grant"))
        assert row.state == ("offered" if kind == "temporary" else "cancelling")
        assert (row.is_obtaining, row.orphans) == (False, 0)
        assert "invalid_grant" in row.problem
        own = await world.phone.one(Grant)
        states = {"final": "dead", "person": "needs_handoff", "temporary": "held"}
        assert own.state == states.get(kind, "locked")  # a refusal of the refresh, as any other of the phone's own
        assert (own.refresh_token is None) == (kind == "final")


@pytest.mark.parametrize(("outcome", "orphans"), [(Unavailable("no network"), 0), (OutcomeUnknown("reset"), 1)])
async def test_only_a_lost_answer_may_leave_an_orphan(
    outcome: TokenOutcome, orphans: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running("entra") as world:
        row = await branched(monkeypatch, world, outcome)
        assert (row.state, row.is_obtaining) == ("offered", False)
        assert row.orphans >= orphans and (row.orphans > 0) == (orphans > 0)
        assert (await world.phone.one(Grant)).state == ("uncertain" if orphans else "held")


async def test_a_token_that_comes_after_the_end_is_an_orphan_and_leaves_nowhere() -> None:
    async with running("entra") as world:
        row = await offered(world)
        world.phone.http.gate.clear()
        await say(world.watch, accept(row))
        await say(world.watch, m.Reject(handoff_id=row.handoff_id, reason="gone"))
        assert (await world.phone.handoff()).state == "cancelling"
        world.phone.http.gate.set()
        await world.clock.advance(1)
        after = await world.phone.handoff()
        assert (after.state, after.orphans, after.is_obtaining) == ("cancelling", 1, False)
        assert count(world, world.phone, world.watch, m.Token) == 0


async def test_a_token_for_a_device_that_was_forgotten_meanwhile_is_counted_as_an_orphan() -> None:
    async with running("entra") as world:
        row = await offered(world)
        world.phone.http.gate.clear()
        await say(world.watch, accept(row))
        await world.phone.agent.forget("watch")
        world.phone.http.gate.set()
        await world.clock.advance(1)
        after = await world.phone.handoff()
        assert (after.state, after.orphans, after.is_obtaining) == ("gone", 1, False)
        assert (await world.phone.one(Grant)).state == "held"


async def test_branch_finishes_an_open_intent_of_the_phones_own_grant_first() -> None:
    async with running("entra") as world:
        own = await world.phone.one(Grant)
        await world.phone.edit(own, state="refreshing", intent="boot-1 0.0 0.0 s", intent_attempts=1)
        row = await world.phone.hand_off()
        assert row.state == "done"
        await world.clock.advance(3)
        assert (await world.phone.one(Grant)).state == "held"
        spent = [form_value(r, "refresh_token") for r in world.phone.http.requests if form_value(r, "refresh_token")]
        assert len(spent) == 2 and len(set(spent)) == 2  # its own refresh, then the companion's token from the new one


async def test_branch_gives_the_new_token_and_keeps_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[RefreshToken] = []
    encode = m.encode_grant

    def noting(payload: m.GrantPayload) -> bytes:
        given.append(payload.refresh_token)
        return encode(payload)

    monkeypatch.setattr(token_relay.agents.phone.steps, "encode_grant", noting)
    async with running("entra") as world:
        own = await world.phone.one(Grant)
        row = await offered(world)
        await say(world.watch, accept(row))
        assert (await world.phone.handoff()).state == "released"
        after = await world.phone.one(Grant)
        assert (after.refresh_token, after.generation) == (own.refresh_token, own.generation)
        assert len(given) == 1 and given[0] != own.refresh_token


async def test_a_minted_token_never_lies_on_the_phone() -> None:
    async with running("strict") as world:
        grants = await world.phone.rows(Grant)
        assert (await world.phone.hand_off(strategy="mint")).state == "done"
        assert await world.phone.rows(Grant) == grants
        assert [row.held_token for row in await world.phone.rows(PhoneHandoff)] == [None]


async def test_a_token_that_is_too_long_for_an_envelope_gives_the_handoff_up() -> None:
    async with running("strict") as world:
        deafen(world, world.watch)
        row = await world.phone.hand_off(strategy="move", wait_s=0)
        own = await world.phone.one(Grant)
        await world.phone.edit(own, refresh_token=RefreshToken("x" * 14_000))
        await say(world.watch, accept(row))
        after = await world.phone.handoff()
        assert after.state == "cancelling" and "too long" in after.problem
        assert (await world.phone.one(Grant)).state == "held"


# -- The person's words ------------------------------------------------------------------------------------


async def test_a_revoke_is_in_the_outbox_of_every_live_handoff() -> None:
    async with running("entra") as world:
        row = await renewable(world)
        for number, (state, reason) in enumerate([("gone", "rollback"), ("gone", "lost"), ("cancelled", "")]):
            await world.phone.edit(row, handoff_id=f"{number:032x}", state=state, reason=reason)
        rows = await world.within(world.phone.agent.revoke("watch", wait_s=0))
        assert {r.handoff_id for r in rows} == {row.handoff_id, f"{0:032x}"}
        assert {r.handoff_id for r in await world.phone.rows(Outgoing, type="REVOKE")} == {row.handoff_id, f"{0:032x}"}


async def test_there_is_one_open_handoff_for_each_pairing() -> None:
    async with running("entra") as world:
        deafen(world, world.watch)
        hand_off = world.phone.hand_off
        first, second = await asyncio.gather(hand_off(wait_s=0), hand_off(wait_s=0))  # neither sees the other begin
        third = await world.phone.hand_off(wait_s=0)
        assert first.handoff_id == second.handoff_id == third.handoff_id
        with pytest.raises(LocalError, match="no handoff"):
            await world.phone.edit(first, state="done")
            await world.phone.agent.cancel("watch")


async def test_pairing_again_gives_up_what_was_open_and_leaves_what_is_done() -> None:
    async with running("entra") as world:
        done = await world.phone.hand_off()
        await world.clock.advance(3)
        deafen(world, world.watch)
        opened = await world.phone.hand_off(wait_s=0)
        world.broker.hold = lambda packet: False
        await world.pair()
        states = {row.handoff_id: row.state for row in await world.phone.rows(PhoneHandoff)}
        assert states[done.handoff_id] == "done" and states[opened.handoff_id] in ("cancelling", "cancelled")
        assert sorted(p.state for p in await world.phone.rows(Pairing)) == ["active", "retired"]
        assert isinstance(await world.watch.token(), TokenGranted)


async def test_two_phones_hold_nothing_of_each_other() -> None:
    async with running("entra") as world:
        phone2 = world.add_phone()
        await phone2.start()
        await world.pair(phone2, world.watch)
        await world.phone.hand_off()
        await world.within(phone2.agent.revoke("watch", wait_s=0))
        assert await phone2.rows(Outgoing, type="REVOKE") == []
        assert [row.state for row in await world.watch.rows(CompanionHandoff)] == ["stored"]
        assert (await world.watch.rows(Grant))[0].state == "held"
