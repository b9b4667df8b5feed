"""Barriers that another barrier hides: each is tried with the other one taken away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.properties.one_end import (
    HANDOFF_ID,
    IDENTITY,
    NOW,
    OTHER_ID,
    PAIRING,
    PAIRING_ID,
    STAMP,
    Tx,
    ports,
    sent,
    turn_of,
    turns,
)
from token_relay.agents.companion import steps as companion_steps
from token_relay.agents.companion.agent import CompanionAgent
from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.errand import RefreshErrand
from token_relay.agents.grants.flight import Begun
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.link import Link
from token_relay.agents.phone import steps as phone_steps
from token_relay.agents.phone.handoffs import Handoffs
from token_relay.agents.phone.pairing import PhonePairing
from token_relay.agents.phone.steps import PhoneSteps
from token_relay.agents.pulse import Pulse
from token_relay.agents.records import CompanionHandoff, Grant, GrantStateName, Outgoing, Pairing, PhoneHandoff
from token_relay.protocol.errors import PeerError
from token_relay.protocol.handoff import CompanionStep, Dead, Gone, PhoneStep
from token_relay.protocol.messages import Head, Hello, Lease, LeaseTerm, Rollback
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.outcome import Refreshed

GRANT = Grant(
    "grant", PAIRING_ID, HANDOFF_ID, "https://contoso.example/", "client", "https://contoso.example/token", "",
    "openid", "", "sub", "ann", "strict", 0, False, 0, RefreshToken("rt-1"), lease_days=90, lease_marked=STAMP,
)  # fmt: skip
PHONE_ROW = PhoneHandoff(
    HANDOFF_ID, PAIRING_ID, "grant", "done", "", "mint", "openid", 90, STAMP, 0, 0, profile="strict"
)  # fmt: skip


def _companion() -> CompanionAgent:
    return CompanionAgent(ports(), IDENTITY, name="watch", broker_url="")


def _phone_steps() -> PhoneSteps:
    return PhoneSteps(Pulse(), asyncio.Queue())


def _phone() -> Handoffs:
    return Handoffs(_phone_steps(), PhonePairing(turns(), name="phone"), Pulse(), may_release=lambda: True)


def _hello(*, sent_before: int, seq: int = 11) -> tuple[Head, Hello]:
    head = Head(
        v=1, type="HELLO", pairing_id=PAIRING_ID, sender=PAIRING.peer_id, recipient=PAIRING.peer_id, seq=seq, sent_at=0,
        in_reply_to=None,
    )  # fmt: skip
    return head, Hello(challenge="ee" * 16, seq_sent=sent_before, seq_accepted=10, handoffs=[])


@pytest.mark.parametrize("is_duplicate", [True, False])
def test_a_repeated_message_moves_nothing_at_the_companion_whatever_the_core_says(
    monkeypatch: pytest.MonkeyPatch, is_duplicate: bool
) -> None:
    monkeypatch.setattr(companion_steps, "companion_step", lambda state, event: CompanionStep(Dead("lost")))
    tx = Tx(PAIRING, CompanionHandoff(HANDOFF_ID, PAIRING_ID, "stored", was_stored=True), GRANT)
    turn = turn_of(tx, is_duplicate=is_duplicate)
    _companion().steps.step(turn, PAIRING, HANDOFF_ID, "token")
    assert tx.get(CompanionHandoff, PAIRING_ID, HANDOFF_ID).state == ("stored" if is_duplicate else "dead")


@pytest.mark.parametrize("is_duplicate", [True, False])
def test_a_repeated_message_moves_nothing_at_the_phone_whatever_the_core_says(
    monkeypatch: pytest.MonkeyPatch, is_duplicate: bool
) -> None:
    monkeypatch.setattr(phone_steps, "phone_step", lambda state, event: PhoneStep(Gone("lost")))
    tx = Tx(PAIRING, PHONE_ROW)
    _phone_steps().step(turn_of(tx, is_duplicate=is_duplicate), PAIRING, HANDOFF_ID, "stored")
    assert tx.get(PhoneHandoff, PAIRING_ID, HANDOFF_ID).state == ("done" if is_duplicate else "gone")


@pytest.mark.parametrize("challenge", ["ee" * 16, ""])
def test_a_lease_that_answers_another_challenge_is_refused(challenge: str) -> None:
    """With a number that was never seen: the replay window does not help here."""
    tx = Tx(PAIRING, GRANT)
    terms = Lease.model_construct(challenge=challenge, handoffs=[LeaseTerm(handoff_id=HANDOFF_ID, lease_days=365)])
    for pairing in (PAIRING, replace(PAIRING, challenge="")):
        with pytest.raises(PeerError, match="stale challenge"):
            _companion().messages.on_lease(turn_of(tx), pairing, terms)
    assert tx.get(Grant, "grant") == GRANT


def test_a_lease_that_answers_our_challenge_is_taken_once() -> None:
    tx = Tx(PAIRING, GRANT)
    terms = Lease(challenge=PAIRING.challenge, handoffs=[LeaseTerm(handoff_id=HANDOFF_ID, lease_days=365)])
    _companion().messages.on_lease(turn_of(tx), PAIRING, terms)
    assert tx.get(Grant, "grant").lease_days == 365
    with pytest.raises(PeerError, match="stale challenge"):
        _companion().messages.on_lease(turn_of(tx), tx.get(Pairing, PAIRING_ID), terms)


@pytest.mark.parametrize("barrier", ["none", "queued", "denied", "retired"])
def test_no_lease_is_given_while_a_revoke_is_on_its_way(barrier: str) -> None:
    """Each barrier alone: REVOKE in the outbox, the right to renew taken away, a pairing that is over."""
    pairing = PAIRING
    tx = Tx(PHONE_ROW)
    if barrier == "queued":
        tx.put(Outgoing(PAIRING_ID, 9, "REVOKE", OTHER_ID, b"sealed", STAMP))
    elif barrier == "denied":
        pairing = replace(PAIRING, renew_denied=True)
    elif barrier == "retired":
        pairing = replace(PAIRING, state="retired")
    tx.put(pairing)
    turn = turn_of(tx)
    _phone().on_hello(turn, pairing, _hello(sent_before=11)[1], is_answer=False)
    assert [message.head.type for message in sent(turn)] == (["LEASE"] if barrier == "none" else [])


@pytest.mark.parametrize("state", ["held", "uncertain", "needs_handoff", "locked", "dead", "refreshing"])
def test_an_answer_is_stored_only_where_the_grant_still_waits_for_it(state: GrantStateName) -> None:
    """With the generation unchanged: it is the state alone that says the answer came too late."""

    class Watcher:
        reauth_action = ""

        def holds_alone(self, turn: object, grant: Grant) -> bool:
            return False

        def awaits_handoff(self, turn: object, grant: Grant) -> bool:
            return False

        def on_grant_changed(self, turn: object, before: Grant, after: Grant) -> None:
            pass

        def on_late_token(self, turn: object, grant: Grant, refresh_token: RefreshToken) -> None:
            assert state == "dead"

    keeper = GrantKeeper(ports(), turns(), watcher=Watcher(), due=asyncio.Event())
    waiting = replace(GRANT, state="refreshing", intent=STAMP, intent_attempts=1)
    tx = Tx(PAIRING, waiting if state == "refreshing" else replace(waiting, state=state, reason="lease"))
    begun = Begun(RefreshErrand(), waiting, RefreshToken("rt-1"), Stamp.of(NOW))
    outcome = Refreshed(RefreshToken("rt-2"), AccessToken("at-2"), "Bearer", 60.0, "openid")
    settled = keeper.flights._record(turn_of(tx), begun=begun, outcome=outcome)
    kept = tx.get(Grant, "grant").refresh_token.reveal()
    assert (settled is not None, kept) == ((True, "rt-2") if state == "refreshing" else (False, "rt-1"))


class _Trusting:
    """A handler that believes every HELLO, so that only the numbers are left to judge by."""

    def __init__(self) -> None:
        self.noticed: list[str] = []

    def report(self, tx: object, pairing: Pairing) -> list[Any]:
        return []

    def on_hello(self, turn: object, pairing: Pairing, hello: Hello, *, is_answer: bool) -> bool:
        return True

    def on_rollback(self, turn: object, pairing: Pairing, *, who: str) -> None:
        self.noticed.append(who)

    def is_leased(self, tx: object, pairing: Pairing) -> bool:
        return False


@pytest.mark.parametrize(("claimed", "is_noticed"), [(9, True), (10, False), (11, False)])
def test_a_hello_that_claims_less_than_we_accepted_is_a_rollback_by_its_numbers_alone(
    claimed: int, is_noticed: bool
) -> None:
    handler = _Trusting()
    link = Link(turns(), handler=handler, mailbox=None)  # type: ignore[arg-type]  # only what HELLO needs
    after = replace(PAIRING, seq_high=11)
    tx = Tx(after)
    turn = turn_of(tx)
    head, hello = _hello(sent_before=claimed)
    link._greeted(turn, after, head, hello, high_before=PAIRING.seq_high)
    bodies = [message.body for message in sent(turn)]
    assert any(isinstance(body, Rollback) for body in bodies) is is_noticed
    assert handler.noticed == (["peer"] if is_noticed else [])


@pytest.mark.asyncio
async def test_a_branch_waits_for_the_refresh_in_flight_and_holds_off_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two uses of one refresh token at a time would be reuse; no lock of the vault stands in for this."""
    order: list[str] = []
    in_flight = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        watcher: Any = SimpleNamespace(reauth_action="")
        flights = GrantKeeper(ports(tasks), turns(tasks), watcher=watcher, due=asyncio.Event()).flights

        async def refresh() -> None:
            order.append("refresh begins")
            await in_flight.wait()
            order.append("refresh ends")

        async def branch(grant_id: str, errand: object) -> None:
            order.append("branch begins")
            assert flights.fly("grant", RefreshErrand()) is flights._running["grant"]  # whoever asks now shares it
            await asyncio.sleep(0)
            order.append("branch ends")

        flights._running["grant"] = tasks.create_task(refresh())
        monkeypatch.setattr(flights, "_flight", branch)
        waiting = tasks.create_task(flights.fly_alone("grant", RefreshErrand()))
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == ["refresh begins"]
        in_flight.set()
        await waiting
    assert order == ["refresh begins", "refresh ends", "branch begins", "branch ends"]
