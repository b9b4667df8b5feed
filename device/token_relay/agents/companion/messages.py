"""What a phone's messages mean to the companion: OFFER, TOKEN, LEASE and the rest; HELLO; restored disks.

Each message is applied inside one transaction; every change of a handoff's state goes through :mod:`.steps`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

from token_relay.agents.companion.invitations import Invitations
from token_relay.agents.companion.steps import CompanionSteps
from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lease
from token_relay.agents.grants.serving import columns_of_lease, lease_of
from token_relay.agents.grants.tokens import lock_grants
from token_relay.agents.ports import Transaction
from token_relay.agents.records import (
    CompanionHandoff,
    CompanionHandoffColumns,
    Grant,
    Outgoing,
    Pairing,
    PrimaryPhone,
    RestoredEnd,
)
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.envelope import open_once
from token_relay.protocol.errors import PeerError
from token_relay.protocol.handoff import CompanionEvent
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import (
    HANDOFFS_LISTED_MAX,
    Cancel,
    Closed,
    GrantPayload,
    HandoffReport,
    Hello,
    Lease,
    LostReason,
    Message,
    Offer,
    Pair3,
    Reject,
    Revoke,
    Token,
    decode_base64url,
    decode_grant,
    plaintext_hash,
)


class CompanionMessages:
    """Implements :class:`token_relay.agents.link.Handler`. It sets ``due`` after a lease was given."""

    def __init__(self, turns: Turns, *, steps: CompanionSteps, invitations: Invitations, due: asyncio.Event) -> None:
        self._turns = turns
        self._steps = steps
        self._invitations = invitations
        self._due = due

    # -- messages --------------------------------------------------------------------------------------

    def on_message(self, turn: Turn, pairing: Pairing, message: Message, plaintext: bytes) -> None:
        """Apply one message of the phone; see :class:`token_relay.agents.link.Handler`."""
        match message.body:
            case Offer() as offer:
                self.on_offer(turn, pairing, offer, plaintext)
            case Token() as token:
                self.on_token(turn, pairing, token, message.head.sent_at)
            case Cancel(handoff_id=handoff_id):
                self._steps.step(turn, pairing, handoff_id, "cancel")
            case Revoke(handoff_id=handoff_id):
                self._steps.step(turn, pairing, handoff_id, "revoke")
            case Closed(handoff_id=handoff_id):
                self._steps.step(turn, pairing, handoff_id, "closed")
            case Reject() as reject:
                self._rejected(turn, pairing, reject, message.head.in_reply_to)
            case Lease() as terms:
                self.on_lease(turn, pairing, terms)
            case Pair3() as pair3:
                self._invitations.on_pair3(turn, pairing, pair3)
            case _:
                raise PeerError("wrong_direction", message.head.type)

    def on_offer(self, turn: Turn, pairing: Pairing, offer: Offer, plaintext: bytes) -> None:
        """OFFER: make the row and accept, or refuse; a repeated OFFER gets ACCEPT again."""
        row = turn.tx.get(CompanionHandoff, pairing.pairing_id, offer.handoff_id)
        if row is None:
            reason = self._refusal(turn, pairing, offer)
            if turn.is_duplicate or reason:
                turn.answer(pairing.pairing_id, Reject(handoff_id=offer.handoff_id, reason=reason or "gone"))
                return
            for other in turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id, state="ready"):
                self._steps.step(turn, pairing, other.handoff_id, "replaced")
            turn.settle(pairing.pairing_id, types=frozenset({"RENEW"}))
            row = CompanionHandoff(
                handoff_id=offer.handoff_id,
                pairing_id=pairing.pairing_id,
                state="none",
                created_at=turn.wall,
                offer_hash=plaintext_hash(plaintext),
                issuer=offer.issuer,
                client_id=offer.client_id,
                account=offer.account,
                renews=offer.renews or "",
                scope=offer.scope,
                lease_days=offer.lease_days,
            )
            turn.tx.put(row)
        elif row.offer_hash != plaintext_hash(plaintext) and row.state == "ready":
            raise PeerError("offer_changed")
        self._steps.step(turn, pairing, offer.handoff_id, "offer")

    def _refusal(self, turn: Turn, pairing: Pairing, offer: Offer) -> str:
        """Return why an OFFER is not taken, or an empty string."""
        if pairing.state != "active":
            return "not_active"
        if offer.expires_at and turn.now.is_synced and turn.now.wall_s > offer.expires_at:
            return "expired"
        return "too_many_handoffs" if self._steps.is_full(turn, pairing) else ""

    def on_token(self, turn: Turn, pairing: Pairing, token: Token, sent_at: int) -> None:
        """TOKEN: store the grant and queue the receipt in this transaction; one that does not open ends the handoff."""
        row = turn.tx.get(CompanionHandoff, pairing.pairing_id, token.handoff_id)
        payload: GrantPayload | None = None
        if row is not None and row.state == "ready":
            try:
                payload = self._open_grant(pairing, row, token)
            except PeerError as exc:
                reason = exc.reason
                turn.after.append(lambda: self._turns.count_reject(reason))
                # The implementer of the other end has no other way to learn of it: names of fields, never a value.
                turn.event("grant_refused", device=pairing.peer_id, handoff_id=row.handoff_id, detail=exc.told())
                why: CompanionHandoffColumns = {"lost_reason": cast("LostReason", reason), "lost_field": exc.fields}
                turn.change(CompanionHandoff, *row.at, **why)
        event: CompanionEvent = "bad_token" if payload is None else "token"
        self._steps.step(turn, pairing, token.handoff_id, event, payload=payload)
        if payload is not None and sent_at:
            self._count_delay(turn, pairing, token.handoff_id, sent_at)

    def _count_delay(self, turn: Turn, pairing: Pairing, handoff_id: str, sent_at: int) -> None:
        """Count the lease from when the phone let the grant go: a broker that holds TOKEN back gains nothing."""
        for grant in turn.tx.select(Grant, pairing_id=pairing.pairing_id, handoff_id=handoff_id):
            held = lease_of(grant)
            if held is not None:
                given_wall_s = min(float(sent_at), held.given_wall_s or float(sent_at))
                turn.change(Grant, grant.grant_id, **columns_of_lease(replace(held, given_wall_s=given_wall_s)))

    def _open_grant(self, pairing: Pairing, row: CompanionHandoff, token: Token) -> GrantPayload:
        """Open the sealed grant. It must agree with what we know already of the pairing, the offer and the keys."""
        if row.one_time_key is None:
            raise PeerError("no_one_time_key")
        one_time = KeyPair(row.one_time_public, row.one_time_key)
        payload = decode_grant(open_once(decode_base64url(token.sealed), one_time))
        accepts = {row.accept_hashes[i : i + 32].hex() for i in range(0, len(row.accept_hashes), 32)}
        agrees = {
            "pairing_id": payload.pairing_id == pairing.pairing_id,
            "handoff_id": payload.handoff_id == row.handoff_id,
            "phone_key": payload.phone_key == pairing.peer_key.hex(),
            "companion_key": payload.companion_key == self._turns.own.public_key.hex(),
            "one_time_key": payload.one_time_key == row.one_time_public.hex(),
            "offer_hash": payload.offer_hash == row.offer_hash.hex(),
            "accept_hash": payload.accept_hash in accepts,
            "issuer": payload.issuer == row.issuer,
            "client_id": payload.client_id == row.client_id,
        }
        if not all(agrees.values()):
            raise PeerError("grant_mismatch", ", ".join(name for name, is_equal in agrees.items() if not is_equal))
        return payload

    def _rejected(self, turn: Turn, pairing: Pairing, reject: Reject, in_reply_to: int | None) -> None:
        if in_reply_to is not None:
            row = turn.tx.get(Outgoing, pairing.pairing_id, in_reply_to)
            if row is not None and row.type == "RENEW":
                turn.settle(pairing.pairing_id, handoff_id=row.handoff_id, types=frozenset({"RENEW"}))
                turn.event("renewal_refused", device=pairing.peer_id, handoff_id=row.handoff_id, detail=reject.reason)
                return
        if reject.handoff_id is not None:
            self._steps.step(turn, pairing, reject.handoff_id, "reject")

    def on_lease(self, turn: Turn, pairing: Pairing, terms: Lease) -> None:
        """LEASE: start the leases anew from our challenge. Raises PeerError for any but the last challenge."""
        if not pairing.challenge or terms.challenge != pairing.challenge:
            raise PeerError("stale_challenge")
        turn.change(Pairing, pairing.pairing_id, challenge="")
        challenged = Stamp.from_text(pairing.challenged)
        for term in terms.handoffs:
            for grant in turn.tx.select(Grant, handoff_id=term.handoff_id, pairing_id=pairing.pairing_id):
                if grant.state != "dead":
                    wall_s = challenged.wall_s if challenged.is_synced else 0.0
                    given = lease.LeaseClock(term.lease_days, 0.0, challenged, wall_s)
                    turn.change(Grant, grant.grant_id, **columns_of_lease(given))
        turn.after.append(self._due.set)

    # -- what the link asks ----------------------------------------------------------------------------

    def report(self, tx: Transaction, pairing: Pairing) -> list[HandoffReport]:
        """Return the live handoffs of this pairing, for HELLO."""
        reports = []
        rows = sorted(tx.select(CompanionHandoff, pairing_id=pairing.pairing_id), key=lambda row: row.created_at)
        for row in rows:
            if row.state == "ready":
                reports.append(HandoffReport(handoff_id=row.handoff_id, state="ready", generation=0))
            elif row.state == "stored":
                grants = tx.select(Grant, pairing_id=row.pairing_id, handoff_id=row.handoff_id)
                if grants:
                    state: str = "refused" if grants[0].reason == "configuration" else grants[0].state
                    generation = grants[0].generation
                    reports.append(HandoffReport(handoff_id=row.handoff_id, state=state, generation=generation))
        return reports[-HANDOFFS_LISTED_MAX:]

    def on_hello(self, turn: Turn, pairing: Pairing, hello: Hello, *, is_answer: bool) -> bool:
        """The phone is there: give up handoffs that it no longer knows, ask again for grants that only it can renew."""
        if not turn.is_overtaken and len(hello.handoffs) < HANDOFFS_LISTED_MAX:
            listed = {report.handoff_id for report in hello.handoffs}
            for row in turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id, state="ready"):
                if row.handoff_id not in listed:  # its OFFER came before this HELLO, so the phone has ended it
                    self._steps.step(turn, pairing, row.handoff_id, "reject")
        for grant in turn.tx.select(Grant, pairing_id=pairing.pairing_id, state="needs_handoff", reason="uncertain"):
            self._steps.ask_renewal(turn, grant, "uncertain")
        return True

    def on_rollback(self, turn: Turn, pairing: Pairing, *, who: RestoredEnd) -> None:
        """This disk is an older image, says a phone: lock its grants until a new handoff, their tokens may be spent.

        Nothing that a peer sends proves it, so only the primary phone's word counts for the grants of all.
        """
        if who != "self":
            return
        primary = turn.tx.get(PrimaryPhone, "self")
        is_primary = primary is not None and primary.peer_id == pairing.peer_id
        for of in turn.tx.select(Pairing) if is_primary else [pairing]:
            for row in turn.tx.select(CompanionHandoff, pairing_id=of.pairing_id, state="ready"):
                # Its TOKEN may have come already, and have been taken away again.
                self._steps.step(turn, of, row.handoff_id, "replaced")
        reached = turn.tx.select(Grant) if is_primary else turn.tx.select(Grant, pairing_id=pairing.pairing_id)
        lock_grants(turn, reached, "rollback")

    def is_leased(self, tx: Transaction, pairing: Pairing) -> bool:
        """Return whether a grant of this pairing has a lease that its phone can renew."""
        grants = tx.select(Grant, pairing_id=pairing.pairing_id) if pairing.state == "active" else []
        return any(grant.state != "dead" and grant.lease_days for grant in grants)
