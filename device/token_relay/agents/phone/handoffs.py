"""The phone's end of the protocol: offers grants, lets them go, takes them away.

:func:`token_relay.protocol.handoff.phone_step` decides, this module writes, all of it inside one transaction. Between
ACCEPT and RELEASED the token is obtained (:mod:`token_relay.agents.phone.agent`); :meth:`Handoffs.release` then seals
it, and from that commit on it is no longer ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import ValidationError
from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import with_state
from token_relay.agents.grants.tokens import erase_grant, lock_grants
from token_relay.agents.link import Link
from token_relay.agents.pairings import delete_pairing, retire_others
from token_relay.agents.phone.handoff_rows import offer_body, state_of, unknown_row, with_phone_state
from token_relay.agents.phone.renewals import renewal_refusal
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.protocol import messages as m
from token_relay.protocol.envelope import seal_once, shared_key
from token_relay.protocol.errors import PeerError
from token_relay.protocol.handoff import (
    Done,
    Gone,
    New,
    Offered,
    PhoneEffect,
    PhoneEvent,
    PhoneState,
    Released,
    is_open,
    phone_step,
)
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import (
    HANDOFFS_LISTED_MAX,
    SEALED_CHARS_MAX,
    Accept,
    Cancel,
    Closed,
    GrantPayload,
    HandoffReport,
    Hello,
    Lease,
    LeaseTerm,
    Lost,
    Message,
    Pair4,
    Reject,
    Renew,
    Revoke,
    Revoked,
    Stored,
    Token,
    encode_base64url,
    encode_grant,
    plaintext_hash,
)
from token_relay.protocol.pairing import INVITATION_LIFETIME_S
from token_relay.protocol.secret import RefreshToken

OFFER_LIFETIME_S = 24 * 3600
UNKNOWN_MAX = 64  # rows of one pairing for handoffs that only the companion names, and their REVOKEs in the outbox
FORGOTTEN_AFTER_S = 30 * 24 * 3600  # rows of a deleted pairing: no message reaches them, a person may look at events
LIVE = ("offered", "released", "done", "cancelling", "revoking")


class Handoffs:
    """All handoffs of this phone; implements :class:`token_relay.agents.link.Handler`."""

    def __init__(self, *, may_release: Callable[[], bool]) -> None:
        self._may_release = may_release
        self.link: Link  # set by the agent, which makes both
        self.on_obtain: Callable[[str], None] = lambda handoff_id: None
        self.on_pair4: Callable[[Pairing], None] = lambda pairing: None
        self.pulse: Callable[[], None] = lambda: None  # wakes whoever waits for a handoff to change

    # -- messages --------------------------------------------------------------------------------------

    def on_message(self, turn: Turn, pairing: Pairing, message: Message, plaintext: bytes) -> None:
        """Apply one message of a companion."""
        match message.body:
            case Accept() as accept:
                self._accepted(turn, pairing, accept, plaintext)
            case Stored(handoff_id=handoff_id):
                self.step(turn, pairing, handoff_id, "stored")
            case m.Cancelled(handoff_id=handoff_id):
                self.step(turn, pairing, handoff_id, "cancelled")
            case Revoked() as revoked:
                self._revoked(turn, pairing, revoked)
            case Lost(handoff_id=handoff_id):
                self.step(turn, pairing, handoff_id, "lost")
            case Reject(handoff_id=str() as handoff_id, reason=reason):
                self._note(turn, handoff_id, problem=f"the companion refused: {reason.replace('_', ' ')}")
                self.step(turn, pairing, handoff_id, "reject")
            case Reject(reason=reason):
                turn.event("rejected", device=pairing.peer_id, detail=reason)
            case Renew() as renew:
                self._renew(turn, pairing, renew)
            case Pair4() as pair4:
                self._pair4(turn, pairing, pair4)
            case _:
                raise PeerError("wrong_direction")

    def _accepted(self, turn: Turn, pairing: Pairing, accept: Accept, plaintext: bytes) -> None:
        row = turn.tx.get(PhoneHandoff, accept.handoff_id)
        if row is not None and state_of(row) == Offered():
            if accept.offer_hash != row.offer_hash.hex():
                raise PeerError("wrong_offer")
            key = bytes.fromhex(accept.one_time_key)
            shared_key(turn.own.private_key, key)  # refuses a low-order point before a token is obtained for it
            row = replace(row, one_time_key=key, accept_hash=plaintext_hash(plaintext))
            turn.tx.put(row)
        self.step(turn, pairing, accept.handoff_id, "accept")

    def _revoked(self, turn: Turn, pairing: Pairing, revoked: Revoked) -> None:
        self._note(
            turn,
            revoked.handoff_id,
            provider_said=revoked.provider,
            access_token_ends_at=revoked.access_token_ends_at,
            device_state="erased",
        )
        self.step(turn, pairing, revoked.handoff_id, "revoked")

    def _note(self, turn: Turn, handoff_id: str, **columns: str | int) -> None:
        row = turn.tx.get(PhoneHandoff, handoff_id)
        if row is not None:
            turn.tx.put(replace(row, **columns))  # type: ignore[arg-type]  # columns by name

    def _pair4(self, turn: Turn, pairing: Pairing, pair4: Pair4) -> None:
        if bytes.fromhex(pair4.transcript_hash) != pairing.transcript_hash:
            raise PeerError("wrong_transcript")
        if pairing.state != "pending":
            return
        turn.settle(pairing.pairing_id, types=frozenset({"PAIR3"}))
        for other in turn.tx.select(Pairing, peer_id=pairing.peer_id, state="active"):
            for row in turn.tx.select(PhoneHandoff, pairing_id=other.pairing_id):
                self.step(turn, other, row.handoff_id, "cancel")  # settles what was open; DONE stays revocable
        retire_others(turn, pairing)
        current = turn.tx.get(Pairing, pairing.pairing_id)
        assert current is not None
        active = replace(current, state="active", paired_at=turn.wall)
        turn.tx.put(active)
        turn.event("paired", device=pairing.peer_id, detail=pairing.peer_name)
        turn.after.append(lambda: self.on_pair4(active))

    # -- renewal ---------------------------------------------------------------------------------------

    def _renew(self, turn: Turn, pairing: Pairing, renew: Renew) -> None:
        row = turn.tx.get(PhoneHandoff, renew.handoff_id)
        if row is not None and row.pairing_id != pairing.pairing_id:
            raise PeerError("wrong_pairing")
        following = turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, renews=renew.handoff_id)
        if any(turn.resend(pairing.pairing_id, handoff_id=other.handoff_id) for other in following):
            return
        is_open = self.open_handoff(turn.tx, pairing) is not None
        refusal = renewal_refusal(turn, pairing, row, renew, is_open=is_open, may_release=self._may_release())
        if turn.is_duplicate and not refusal:
            refusal = "later"
        if row is not None and not turn.is_duplicate:
            turn.tx.put(replace(row, device_state="needs_handoff", device_reason=renew.reason))
            turn.event("renewal_asked", device=pairing.peer_id, handoff_id=renew.handoff_id, detail=renew.reason)
        if refusal or row is None:
            turn.answer(pairing.pairing_id, Reject(handoff_id=None, reason=refusal or "gone"))
            return
        self.offer(turn, pairing, replace(row, renews=row.handoff_id, is_renewal=True))

    # -- the step: decide, write -----------------------------------------------------------------------

    def offer(self, turn: Turn, pairing: Pairing, like: PhoneHandoff) -> PhoneHandoff:
        """Open a handoff: the row and OFFER in the outbox. ``like`` carries what is offered."""
        expires_at = turn.wall + OFFER_LIFETIME_S if turn.now.is_synced else 0
        row = PhoneHandoff(
            handoff_id=turn.new_id(),
            pairing_id=pairing.pairing_id,
            grant_id=like.grant_id,
            state="new",
            reason="",
            strategy=like.strategy,
            scope=like.scope,
            lease_days=like.lease_days,
            created=turn.stamp,
            created_at=turn.wall,
            expires_at=expires_at,
            renews=like.renews,
            is_renewal=like.is_renewal,
            issuer=like.issuer,
            client_id=like.client_id,
            subject=like.subject,
            account=like.account,
            profile=like.profile,
        )
        turn.tx.put(row)
        self.step(turn, pairing, row.handoff_id, "offer")
        stored = turn.tx.get(PhoneHandoff, row.handoff_id)
        assert stored is not None
        return stored

    def step(self, turn: Turn, pairing: Pairing, handoff_id: str, event: PhoneEvent) -> PhoneState:
        """Apply one event to one handoff; everything it means is in this transaction."""
        row = turn.tx.get(PhoneHandoff, handoff_id)
        before: PhoneState = New() if row is None else state_of(row)
        if row is not None and row.pairing_id != pairing.pairing_id:
            raise PeerError("wrong_pairing")
        step = phone_step(before, event)
        if event == "stored" and PhoneEffect.SEND_REVOKE in step.effects and not self._may_take_away(turn, pairing):
            raise PeerError("too_many_handoffs")
        if turn.is_duplicate and row is not None and step.state != before and PhoneEffect.SEND_CLOSED in step.effects:
            self._perform(turn, pairing, row, PhoneEffect.SEND_CLOSED)  # a receipt that comes again wants its answer
        if turn.is_duplicate and step.state != before:
            return before  # a repeated message asks again, it never moves anything
        if row is None:
            if step.state != New() and event == "stored":
                if self._unknown_count(turn, pairing) >= UNKNOWN_MAX:
                    raise PeerError("too_many_handoffs")
                row = unknown_row(handoff_id, pairing.pairing_id, turn.stamp, turn.wall)
            else:
                self._answer_unknown(turn, pairing, handoff_id, event)
                return New()
        row = with_phone_state(row, step.state)
        turn.tx.put(row)
        for effect in step.effects:
            row = self._perform(turn, pairing, row, effect)
        if step.state != before:
            if isinstance(step.state, Done):
                self._done(turn, pairing, row)
            turn.event(
                f"handoff_{row.state}", device=pairing.peer_id, handoff_id=handoff_id, detail=row.reason or row.strategy
            )
            turn.after.append(self.pulse)
        return step.state

    def _may_take_away(self, turn: Turn, pairing: Pairing) -> bool:
        """What a companion claims must never fill the outbox: `phone revoke` needs room in it."""
        return len(turn.tx.select(Outgoing, pairing_id=pairing.pairing_id, type="REVOKE")) < UNKNOWN_MAX

    def _unknown_count(self, turn: Turn, pairing: Pairing) -> int:
        return len(turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, strategy=""))

    def _answer_unknown(self, turn: Turn, pairing: Pairing, handoff_id: str, event: PhoneEvent) -> None:
        if event == "accept":
            turn.answer(pairing.pairing_id, Reject(handoff_id=handoff_id, reason="gone"))

    def _perform(self, turn: Turn, pairing: Pairing, row: PhoneHandoff, effect: PhoneEffect) -> PhoneHandoff:
        handoff_id = row.handoff_id
        match effect:
            case PhoneEffect.SEND_OFFER:
                plaintext = turn.request(pairing.pairing_id, offer_body(row), handoff_id)
                row = replace(row, offer_hash=plaintext_hash(plaintext))
                turn.tx.put(row)
            case PhoneEffect.OBTAIN_TOKEN:
                row = self._obtain(turn, pairing, row)
            case PhoneEffect.SEND_TOKEN:
                pass  # release() has queued it: it holds the token
            case PhoneEffect.SEND_CLOSED:
                turn.answer(pairing.pairing_id, Closed(handoff_id=handoff_id))
            case PhoneEffect.SEND_CANCEL:
                turn.request(pairing.pairing_id, Cancel(handoff_id=handoff_id), handoff_id)
            case PhoneEffect.SEND_REVOKE:
                turn.request(pairing.pairing_id, Revoke(handoff_id=handoff_id), handoff_id)
            case PhoneEffect.SEND_STATUS:
                turn.answer(pairing.pairing_id, Reject(handoff_id=handoff_id, reason=row.state))
            case PhoneEffect.RESEND:
                turn.resend(pairing.pairing_id, handoff_id=handoff_id)
            case PhoneEffect.SETTLE:
                turn.settle(pairing.pairing_id, handoff_id=handoff_id)
            case PhoneEffect.RETURN_TOKEN:
                row = self._return(turn, row)
            case PhoneEffect.WIPE_TOKEN:
                row = replace(row, held_token=None)
                turn.tx.put(row)
                turn.tx.erase_key(handoff_id)
        return row

    def _obtain(self, turn: Turn, pairing: Pairing, row: PhoneHandoff) -> PhoneHandoff:
        """``move`` releases in this very transaction; the others need the provider, after it."""
        grant = turn.tx.get(Grant, row.grant_id) if row.strategy == "move" else None
        if grant is not None and grant.state == "held" and grant.refresh_token is not None:
            self.release(turn, pairing, row, grant, grant.refresh_token)
            released = turn.tx.get(PhoneHandoff, row.handoff_id)
            assert released is not None
            return released
        turn.after.append(lambda: self.on_obtain(row.handoff_id))
        return row

    def release(
        self, turn: Turn, pairing: Pairing, row: PhoneHandoff, grant: Grant, refresh_token: RefreshToken
    ) -> bool:
        """Seal the token to the one-time key and commit RELEASED with TOKEN in the outbox; False: too late for it.

        From the commit on the token is the companion's: nothing here uses it again.
        """
        current = turn.tx.get(PhoneHandoff, row.handoff_id)
        if current is None or phone_step(state_of(current), "sealed").state != Released():
            return False
        try:
            payload = GrantPayload(
                v=1,
                pairing_id=pairing.pairing_id,
                handoff_id=row.handoff_id,
                phone_key=turn.own.public_key.hex(),
                companion_key=pairing.peer_key.hex(),
                one_time_key=current.one_time_key.hex(),
                offer_hash=current.offer_hash.hex(),
                accept_hash=current.accept_hash.hex(),
                refresh_token=refresh_token,
                issuer=grant.issuer,
                client_id=grant.client_id,
                token_endpoint=grant.token_endpoint,
                revocation_endpoint=grant.revocation_endpoint or None,
                scope=current.scope or grant.scope,
                audience=grant.audience,
                subject=grant.subject,
                account=grant.account,
                profile=grant.profile,
                signed_in_at=grant.signed_in_at,
                is_otp=grant.is_otp,
            )
            ephemeral = KeyPair.from_random(turn.random.bytes(32))
            sealed = encode_base64url(seal_once(encode_grant(payload), current.one_time_key, ephemeral))
        except ValidationError as exc:  # such as a scope of more than 1024 characters: no companion would take it
            fields = " and ".join(sorted({str(error["loc"][0]) for error in exc.errors(include_input=False)}))
            return self._cannot_release(turn, pairing, current, f"{fields} of the grant cannot be put into a message")
        if len(sealed) > SEALED_CHARS_MAX:
            return self._cannot_release(turn, pairing, current, "the refresh token is too long for an envelope")
        turn.request(pairing.pairing_id, Token(handoff_id=row.handoff_id, sealed=sealed), row.handoff_id)
        held = refresh_token if current.strategy == "move" else None
        turn.tx.put(
            replace(
                current,
                is_obtaining=False,
                problem="",
                held_token=held,
                subject=grant.subject,
                account=grant.account,
                is_otp=grant.is_otp,
                signed_in_at=grant.signed_in_at,
            )
        )
        if current.strategy == "move":
            own = turn.tx.get(Grant, grant.grant_id)
            if own is not None:
                erase_grant(turn, with_state(own, lifecycle.Dead(own.generation, "moved")))
        self.step(turn, pairing, row.handoff_id, "sealed")
        return True

    def _cannot_release(self, turn: Turn, pairing: Pairing, row: PhoneHandoff, problem: str) -> bool:
        turn.tx.put(replace(row, problem=problem, is_obtaining=False))
        self.step(turn, pairing, row.handoff_id, "cancel")
        return False

    def _return(self, turn: Turn, row: PhoneHandoff) -> PhoneHandoff:
        """``move`` was cancelled: the companion never stored it, so the token is the phone's again."""
        if row.held_token is not None:
            grant = turn.tx.get(Grant, row.grant_id)
            if grant is not None and grant.state == "dead" and grant.reason == "moved":
                back = replace(with_state(grant, lifecycle.Held(grant.generation)), refresh_token=row.held_token)
                turn.tx.put(back)
            else:
                row = replace(row, orphans=row.orphans + 1)  # signed out, or signed in anew, meanwhile
            row = replace(row, held_token=None)
            turn.tx.put(row)
            turn.tx.erase_key(row.handoff_id)
        return row

    def _done(self, turn: Turn, pairing: Pairing, row: PhoneHandoff) -> None:
        device_state = row.device_state or "held"  # a RENEW that overtook STORED has said more
        turn.tx.put(replace(row, done_at=turn.wall, device_state=device_state, generation=max(row.generation, 1)))
        own = turn.tx.get(Grant, row.grant_id) if row.strategy == "move" else None
        if own is not None and own.state != "dead":  # a restored disk: the companion has what we seem to hold
            erase_grant(turn, with_state(own, lifecycle.Dead(own.generation, "moved")))
        for older in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, state="done"):
            same = (older.issuer, older.client_id, older.subject) == (row.issuer, row.client_id, row.subject)
            if older.handoff_id != row.handoff_id and same:
                self.step(turn, pairing, older.handoff_id, "superseded")
        current = turn.tx.get(Pairing, pairing.pairing_id)
        if current is not None and current.rollback:
            turn.tx.put(replace(current, rollback=""))

    # -- what the link asks ----------------------------------------------------------------------------

    def report(self, tx: Transaction, pairing: Pairing) -> list[HandoffReport]:
        """The live handoffs of this pairing, for HELLO."""
        every = sorted(tx.select(PhoneHandoff, pairing_id=pairing.pairing_id), key=lambda row: row.created_at)
        rows = [row for row in every if row.state in LIVE]
        reports = [HandoffReport(handoff_id=row.handoff_id, state=row.state, generation=row.generation) for row in rows]
        return reports[-HANDOFFS_LISTED_MAX:]

    def on_hello(self, turn: Turn, pairing: Pairing, hello: Hello, *, is_answer: bool) -> bool:
        """Learn how the companion's grants stand, and answer its challenge with a lease or with silence."""
        # An overtaken HELLO says of handoffs what its sender has itself corrected since.
        honest = turn.is_overtaken or self._learn(turn, pairing, hello)
        revoking = turn.tx.select(Outgoing, pairing_id=pairing.pairing_id, type="REVOKE")
        if not is_answer and not revoking and not pairing.renew_denied and pairing.state == "active":
            # A broker that holds REVOKE back must not be able to keep a device alive with our own LEASE.
            terms = [
                LeaseTerm(handoff_id=row.handoff_id, lease_days=row.lease_days)
                for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, state="done")
            ]
            if terms:
                turn.answer(pairing.pairing_id, Lease(challenge=hello.challenge, handoffs=terms[-HANDOFFS_LISTED_MAX:]))
        turn.after.append(self.pulse)
        return honest

    def _learn(self, turn: Turn, pairing: Pairing, hello: Hello) -> bool:
        """Take over how each handoff stands there; False: the companion knows less than it has told before."""
        honest = True
        for report in hello.handoffs:
            row = turn.tx.get(PhoneHandoff, report.handoff_id)
            if (row is None or row.state == "gone") and report.state not in ("ready", "dead"):
                self._claimed(turn, pairing, report.handoff_id, row)
                continue
            if row is None and report.state == "ready":  # a handoff that this disk has lost: it waits for nothing
                turn.answer(pairing.pairing_id, Reject(handoff_id=report.handoff_id, reason="gone"))
            if row is None or row.pairing_id != pairing.pairing_id:
                continue
            if report.generation and report.generation < row.generation:
                honest = False
            state = report.state if row.state == "done" else row.device_state
            turn.tx.put(replace(row, device_state=state, generation=max(report.generation, row.generation)))
        if len(hello.handoffs) < HANDOFFS_LISTED_MAX:
            listed = {report.handoff_id for report in hello.handoffs}
            for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, state="done"):
                if row.handoff_id not in listed and row.device_state not in ("dead", "needs_handoff"):
                    turn.tx.put(replace(row, device_state="dead"))  # the list is whole: it is over there
        return honest

    def _claimed(self, turn: Turn, pairing: Pairing, handoff_id: str, row: PhoneHandoff | None) -> None:
        """The companion holds a grant that is over here, or never was: one of the two disks was restored."""
        if row is None:
            if self._unknown_count(turn, pairing) < UNKNOWN_MAX:  # so that `phone revoke` reaches it
                unknown = unknown_row(handoff_id, pairing.pairing_id, turn.stamp, turn.wall)
                turn.tx.put(with_phone_state(unknown, Gone("rollback")))
                turn.event("handoff_gone", device=pairing.peer_id, handoff_id=handoff_id, detail="rollback")
                if pairing.rollback == "self":
                    lock_grants(turn, "rollback")  # this disk has lost what was handed over: it may have been a `move`
        elif row.pairing_id != pairing.pairing_id:
            pass
        elif row.reason in ("revoked", "lost") and self._may_take_away(turn, pairing):
            self.step(turn, pairing, handoff_id, "stored")  # says the same as STORED: take it away
        elif row.reason == "superseded":
            turn.tx.put(with_phone_state(row, Gone("rollback")))

    def on_rollback(self, turn: Turn, pairing: Pairing, *, who: str) -> None:
        """A restored image of this disk: whatever was moved, or may be spent, is not ours to use."""
        if who != "self":
            return
        for row in turn.tx.select(PhoneHandoff, strategy="move"):
            if row.state in LIVE:
                turn.settle(row.pairing_id, handoff_id=row.handoff_id)
                turn.tx.put(with_phone_state(replace(row, held_token=None), Gone("rollback")))
                turn.tx.erase_key(row.handoff_id)
        for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, state="offered"):
            self.step(turn, pairing, row.handoff_id, "cancel")  # what became of it in the lost future, only they know
        lock_grants(turn, "rollback", only_spent=True)

    # -- what the person asks --------------------------------------------------------------------------

    def open_handoff(self, tx: Transaction, pairing: Pairing) -> PhoneHandoff | None:
        """Return the pairing's one open handoff, if there is one."""
        rows = tx.select(PhoneHandoff, pairing_id=pairing.pairing_id)
        return next((row for row in rows if is_open(state_of(row))), None)

    def revoke_device(self, turn: Turn, device_id: str) -> list[str]:
        """Queue REVOKE for every live handoff of a device and take its right to renew away; returns their ids."""
        touched = []
        for pairing in turn.tx.select(Pairing, peer_id=device_id):
            turn.tx.put(replace(pairing, renew_denied=True))
            for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id):
                if row.state in LIVE or (row.state, row.reason) == ("gone", "rollback"):
                    if row.state != "revoking":
                        self.step(turn, pairing, row.handoff_id, "revoke")
                    touched.append(row.handoff_id)
        return touched

    def forget_device(self, turn: Turn, device_id: str) -> int:
        """Give a device up: its handoffs are GONE, its pairings deleted; nothing is sent."""
        count = 0
        for pairing in turn.tx.select(Pairing, peer_id=device_id):
            for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id):
                if row.state in LIVE:
                    self.step(turn, pairing, row.handoff_id, "forget")
                    count += 1
            delete_pairing(turn, pairing)
        turn.event("device_forgotten", device=device_id)
        return count

    def clear_up(self, turn: Turn) -> float:
        """Drop pairings that came to nothing or are over, give up old offers; return seconds until the next look."""
        for pairing in turn.tx.select(Pairing, state="pending"):
            age_s = elapsed_s(Stamp.from_text(pairing.created), turn.now)
            if age_s is None or age_s > INVITATION_LIFETIME_S:
                delete_pairing(turn, pairing)
        for pairing in turn.tx.select(Pairing, state="retired"):
            rows = turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id)
            if all(row.state not in LIVE for row in rows):
                delete_pairing(turn, pairing)
        self._forget_old(turn)
        return self._expire_offers(turn)

    def _forget_old(self, turn: Turn) -> None:
        """Delete finished handoffs of pairings that are deleted; of one that lives, a restored companion may ask."""
        for row in turn.tx.select(PhoneHandoff) if turn.now.is_synced else ():
            is_old = turn.wall - row.created_at > FORGOTTEN_AFTER_S and row.state not in LIVE and not row.orphans
            if is_old and turn.tx.get(Pairing, row.pairing_id) is None:
                turn.tx.delete(PhoneHandoff, row.handoff_id)
                turn.tx.erase_key(row.handoff_id)

    def _expire_offers(self, turn: Turn) -> float:
        """Give up offers older than 24 h, through CANCEL; judged only by a synced clock."""
        next_s = 3600.0  # what is offered meanwhile is found in good time: it lives for a day
        if not turn.now.is_synced:
            return next_s
        for row in turn.tx.select(PhoneHandoff, state="offered"):
            if row.expires_at and turn.wall <= row.expires_at:
                next_s = min(next_s, row.expires_at + 1 - turn.now.wall_s)
            elif row.expires_at:
                pairing = turn.tx.get(Pairing, row.pairing_id)
                if pairing is not None:
                    self._note(turn, row.handoff_id, problem="the offer was not taken within 24 hours")
                    self.step(turn, pairing, row.handoff_id, "cancel")
        return next_s
