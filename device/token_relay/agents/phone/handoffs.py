"""What a companion's messages mean to the phone's handoffs: answers to its requests, RENEW, HELLO, ROLLBACK.

Each message is applied inside one transaction; :mod:`.steps` changes states. Only a restored disk makes a handoff
GONE here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from token_relay.agents.grants.tokens import lock_grants
from token_relay.agents.pairings import retire_others
from token_relay.agents.phone.handoff_rows import LIVE, Terms, columns_of, device_state_of, state_of, unknown_row
from token_relay.agents.phone.pairing import PhonePairing
from token_relay.agents.phone.renewals import renewal_refusal
from token_relay.agents.phone.steps import UNKNOWN_MAX, PhoneSteps
from token_relay.agents.ports import Transaction
from token_relay.agents.pulse import Pulse
from token_relay.agents.records import Grant, Outgoing, Pairing, PhoneHandoff, RestoredEnd, handoff_key
from token_relay.agents.turn import Turn
from token_relay.protocol import messages as m
from token_relay.protocol.envelope import shared_key
from token_relay.protocol.errors import PeerError
from token_relay.protocol.handoff import Gone, GoneReason, Offered, phone_may
from token_relay.protocol.messages import (
    HANDOFFS_LISTED_MAX,
    Accept,
    Accept2,
    HandoffReport,
    Hello,
    Lease,
    LeaseTerm,
    Lost,
    Lost4,
    Message,
    Pair4,
    Reject,
    Renew,
    Revoked,
    Stored,
    plaintext_hash,
)

TAKEN_AWAY: frozenset[GoneReason] = frozenset({"revoked", "lost"})


class Handoffs:
    """All handoffs of this phone; implements :class:`token_relay.agents.link.Handler`.

    ``may_release``: whether the application's gate is open.
    """

    def __init__(
        self, steps: PhoneSteps, pairing: PhonePairing, changed: Pulse, *, may_release: Callable[[], bool]
    ) -> None:
        self._steps = steps
        self._pairing = pairing
        self._changed = changed
        self._may_release = may_release

    # -- messages --------------------------------------------------------------------------------------

    def on_message(self, turn: Turn, pairing: Pairing, message: Message, plaintext: bytes) -> None:
        """Apply one message of a companion; see :class:`token_relay.agents.link.Handler`."""
        match message.body:
            case Accept() as accept:
                self._accepted(turn, pairing, accept, plaintext)
            case Stored(handoff_id=handoff_id):
                self._steps.step(turn, pairing, handoff_id, "stored")
            case m.CancelConfirmed(handoff_id=handoff_id):
                self._steps.step(turn, pairing, handoff_id, "cancelled")
            case Revoked() as revoked:
                self._revoked(turn, pairing, revoked)
            case Lost() as lost:
                self._lost(turn, pairing, lost)
            case Reject(handoff_id=str() as handoff_id, reason=reason):
                self._rejected(turn, pairing, handoff_id, reason)
            case Reject(reason=reason):
                turn.event("rejected", device=pairing.peer_id, detail=reason)
            case Renew() as renew:
                self._renew(turn, pairing, renew)
            case Pair4() as pair4:
                self._pair4(turn, pairing, pair4)
            case _:
                raise PeerError("wrong_direction")

    def _accepted(self, turn: Turn, pairing: Pairing, accept: Accept, plaintext: bytes) -> None:
        row = turn.tx.get(PhoneHandoff, pairing.pairing_id, accept.handoff_id)
        if row is not None and state_of(row) == Offered():
            if accept.offer_hash != row.offer_hash.hex():
                raise PeerError("wrong_offer")
            key = bytes.fromhex(accept.one_time_key)
            shared_key(turn.own.private_key, key)  # refuses a low-order point before a token is obtained for it
            turn.change(
                PhoneHandoff,
                *row.at,
                one_time_key=key,
                accept_hash=plaintext_hash(plaintext),
                grant_version=accept.grant_version if isinstance(accept, Accept2) else 1,
            )
        self._steps.step(turn, pairing, accept.handoff_id, "accept")

    def _lost(self, turn: Turn, pairing: Pairing, lost: Lost) -> None:
        before = turn.tx.get(PhoneHandoff, pairing.pairing_id, lost.handoff_id)
        self._steps.step(turn, pairing, lost.handoff_id, "lost")
        row = turn.tx.get(PhoneHandoff, pairing.pairing_id, lost.handoff_id)
        if isinstance(lost, Lost4) and before is not None and row is not None and before.state != row.state:
            why = lost.reason + (f": {lost.field}" if lost.field else "")
            turn.change(PhoneHandoff, *row.at, problem=f"the companion could not take the token ({why})")
            turn.event("token_lost", device=pairing.peer_id, handoff_id=lost.handoff_id, detail=why)

    def _rejected(self, turn: Turn, pairing: Pairing, handoff_id: str, reason: str) -> None:
        if turn.tx.get(PhoneHandoff, pairing.pairing_id, handoff_id) is not None:
            problem = f"the companion refused: {reason.replace('_', ' ')}"
            turn.change(PhoneHandoff, pairing.pairing_id, handoff_id, problem=problem)
        self._steps.step(turn, pairing, handoff_id, "reject")

    def _revoked(self, turn: Turn, pairing: Pairing, revoked: Revoked) -> None:
        if turn.tx.get(PhoneHandoff, pairing.pairing_id, revoked.handoff_id) is not None:
            turn.change(
                PhoneHandoff,
                pairing.pairing_id,
                revoked.handoff_id,
                provider_said=revoked.provider,
                access_token_ends_at=revoked.access_token_ends_at,
                device_state="erased",
            )
        self._steps.step(turn, pairing, revoked.handoff_id, "revoked")

    def _pair4(self, turn: Turn, pairing: Pairing, pair4: Pair4) -> None:
        if bytes.fromhex(pair4.transcript_hash) != pairing.transcript_hash:
            raise PeerError("wrong_transcript")
        if pairing.state != "pending":
            return
        turn.settle(pairing.pairing_id, types=frozenset({"PAIR3"}))
        for other in turn.tx.select(Pairing, peer_id=pairing.peer_id, state="active"):
            for row in turn.tx.select(PhoneHandoff, pairing_id=other.pairing_id):
                if phone_may(state_of(row), "cancel"):
                    self._steps.step(turn, other, row.handoff_id, "cancel")  # DONE stays revocable
        retire_others(turn, pairing)
        turn.change(Pairing, pairing.pairing_id, state="active", paired_at=turn.wall)
        turn.event("paired", device=pairing.peer_id, detail=pairing.peer_name)
        turn.after.append(partial(self._pairing.activated, pairing.pairing_id))

    # -- renewal ---------------------------------------------------------------------------------------

    def _renew(self, turn: Turn, pairing: Pairing, renew: Renew) -> None:
        row = turn.tx.get(PhoneHandoff, pairing.pairing_id, renew.handoff_id)
        following = turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, renews=renew.handoff_id)
        if any(turn.resend(pairing.pairing_id, handoff_id=other.handoff_id) for other in following):
            return
        is_open = self._steps.open_handoff(turn.tx, pairing) is not None
        refusal = renewal_refusal(turn, pairing, row, renew, is_open=is_open, may_release=self._may_release())
        if turn.is_duplicate and not refusal:
            refusal = "later"
        if row is not None and not turn.is_duplicate:
            turn.change(
                PhoneHandoff,
                *row.at,
                device_state="needs_handoff",
                device_reason=renew.reason,
            )
            turn.event("renewal_asked", device=pairing.peer_id, handoff_id=renew.handoff_id, detail=renew.reason)
        if refusal or row is None:
            turn.answer(pairing.pairing_id, Reject(handoff_id=None, reason=refusal or "gone"))
            return
        self._steps.offer(turn, pairing, Terms.again(row))

    # -- what the link asks ----------------------------------------------------------------------------

    def report(self, tx: Transaction, pairing: Pairing) -> list[HandoffReport]:
        """Return the live handoffs of this pairing, for HELLO."""
        every = sorted(tx.select(PhoneHandoff, pairing_id=pairing.pairing_id), key=lambda row: row.created_at)
        rows = [row for row in every if row.state in LIVE]
        reports = [HandoffReport(handoff_id=row.handoff_id, state=row.state, generation=row.generation) for row in rows]
        return reports[-HANDOFFS_LISTED_MAX:]

    def on_hello(self, turn: Turn, pairing: Pairing, hello: Hello, *, is_answer: bool) -> bool:
        """Learn the states of the companion's grants, and answer its challenge with a lease or with silence."""
        # What an overtaken HELLO says of handoffs its sender has corrected since.
        honest = turn.is_overtaken or self._learn(turn, pairing, hello)
        revoking = turn.tx.select(Outgoing, pairing_id=pairing.pairing_id, type="REVOKE")
        if not is_answer and not revoking and not pairing.renew_denied and pairing.state == "active":
            # A broker that holds REVOKE back must not keep a device alive with our own LEASE.
            terms = [
                LeaseTerm(handoff_id=row.handoff_id, lease_days=row.lease_days)
                for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, state="done")
            ]
            if terms:
                turn.answer(pairing.pairing_id, Lease(challenge=hello.challenge, handoffs=terms[-HANDOFFS_LISTED_MAX:]))
        turn.after.append(self._changed.beat)
        return honest

    def _learn(self, turn: Turn, pairing: Pairing, hello: Hello) -> bool:
        """Write the state of each handoff there; False: the companion knows less than it told before."""
        honest = True
        for report in hello.handoffs:
            row = turn.tx.get(PhoneHandoff, pairing.pairing_id, report.handoff_id)
            if row is not None and report.generation:
                honest = honest and report.generation >= row.generation
                row = turn.change(PhoneHandoff, *row.at, generation=max(report.generation, row.generation))
            if (row is None or row.state == "gone") and report.state not in ("ready", "dead"):
                self._claimed(turn, pairing, report.handoff_id, row)
                continue
            if row is None and report.state == "ready":  # a handoff that this disk has lost: no TOKEN will come
                turn.answer(pairing.pairing_id, Reject(handoff_id=report.handoff_id, reason="gone"))
            if row is None:
                continue
            if row.state == "done":
                turn.change(PhoneHandoff, *row.at, device_state=device_state_of(report.state))
        if len(hello.handoffs) < HANDOFFS_LISTED_MAX:
            listed = {report.handoff_id for report in hello.handoffs}
            for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, state="done"):
                if row.handoff_id not in listed and row.device_state != "needs_handoff":
                    # the list is whole, so it is over there
                    turn.change(PhoneHandoff, *row.at, device_state="dead")
        return honest

    def _claimed(self, turn: Turn, pairing: Pairing, handoff_id: str, row: PhoneHandoff | None) -> None:
        """The companion holds a grant that is over here or was never known: one of the two disks was restored."""
        if row is None:
            if self._steps.unknown_count(turn, pairing) < UNKNOWN_MAX:  # so that `phone revoke` reaches it
                turn.tx.put(unknown_row(handoff_id, pairing.pairing_id, turn.stamp, turn.wall))
                turn.change(PhoneHandoff, pairing.pairing_id, handoff_id, **columns_of(Gone("rollback")))
                turn.event("handoff_gone", device=pairing.peer_id, handoff_id=handoff_id, detail="rollback")
        elif row.reason in TAKEN_AWAY and self._steps.may_take_away(turn, pairing):
            self._steps.step(turn, pairing, handoff_id, "stored")  # says the same as STORED: take it away
        elif row.reason == "superseded":
            turn.change(PhoneHandoff, pairing.pairing_id, handoff_id, **columns_of(Gone("rollback")))

    def on_rollback(self, turn: Turn, pairing: Pairing, *, who: RestoredEnd) -> None:
        """This disk is an older image, says a companion: end what was moved to it, and use none of our own grants.

        It may lie. So nothing of another pairing changes, and of our own nothing is erased: a sign-in is the way out.
        """
        if who != "self":
            return
        for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, strategy="move"):
            if row.state in LIVE:
                turn.settle(row.pairing_id, handoff_id=row.handoff_id)
                turn.change(PhoneHandoff, *row.at, held_token=None)
                turn.change(PhoneHandoff, *row.at, **columns_of(Gone("rollback")))
                turn.tx.erase_key(handoff_key(*row.at))
        for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, state="offered"):
            # Only the companion knows what became of it in the lost future.
            self._steps.step(turn, pairing, row.handoff_id, "cancel")
        # Whatever the provider: what was moved in the lost future is the companion's.
        lock_grants(turn, turn.tx.select(Grant, pairing_id=""), "rollback")

    def is_leased(self, tx: Transaction, pairing: Pairing) -> bool:
        """Return False: the phone gives leases."""
        return False
