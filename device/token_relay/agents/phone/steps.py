"""The phone's handoffs change here and nowhere else: one event, one step, all of it in the transaction of its cause.

:func:`token_relay.protocol.handoff.phone_step` decides, this module writes. Between ACCEPT and RELEASED the token is
obtained (:mod:`.obtaining`); :meth:`PhoneSteps.release` then seals it, and from that commit on it is no longer ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import ValidationError

from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import with_state
from token_relay.agents.grants.tokens import erase_grant
from token_relay.agents.phone.handoff_rows import offer_body, state_of, unknown_row, with_phone_state
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.protocol.envelope import seal_once
from token_relay.protocol.errors import PeerError
from token_relay.protocol.handoff import Done, New, PhoneEffect, PhoneEvent, PhoneState, is_open, phone_may, phone_step
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import (
    SEALED_CHARS_MAX,
    Cancel,
    Closed,
    GrantPayload,
    Reject,
    Revoke,
    Token,
    encode_base64url,
    encode_grant,
    plaintext_hash,
)
from token_relay.protocol.secret import RefreshToken

OFFER_LIFETIME_S = 24 * 3600
UNKNOWN_MAX = 64  # rows of one pairing for handoffs that only the companion names, and their REVOKEs in the outbox


class PhoneSteps:
    """The steps of all handoffs of this phone."""

    def __init__(self) -> None:
        self.on_obtain: Callable[[str], None] = lambda handoff_id: None
        self.pulse: Callable[[], None] = lambda: None  # wakes whoever waits for a handoff to change

    def open_handoff(self, tx: Transaction, pairing: Pairing) -> PhoneHandoff | None:
        """Return the pairing's one open handoff, if there is one."""
        rows = tx.select(PhoneHandoff, pairing_id=pairing.pairing_id)
        return next((row for row in rows if is_open(state_of(row))), None)

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
        if event == "stored" and PhoneEffect.SEND_REVOKE in step.effects and not self.may_take_away(turn, pairing):
            raise PeerError("too_many_handoffs")
        if turn.is_duplicate and row is not None and step.state != before and PhoneEffect.SEND_CLOSED in step.effects:
            self._perform(turn, pairing, row, PhoneEffect.SEND_CLOSED)  # a receipt that comes again wants its answer
        if turn.is_duplicate and step.state != before:
            return before  # a repeated message asks again, it never moves anything
        if row is None:
            if step.state != New() and event == "stored":
                if self.unknown_count(turn, pairing) >= UNKNOWN_MAX:
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
        if current is None or not phone_may(state_of(current), "sealed"):
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

    def note(self, turn: Turn, handoff_id: str, **columns: str | int) -> None:
        """Write columns that no step decides, if the handoff is there."""
        row = turn.tx.get(PhoneHandoff, handoff_id)
        if row is not None:
            turn.tx.put(replace(row, **columns))  # type: ignore[arg-type]  # columns by name

    def may_take_away(self, turn: Turn, pairing: Pairing) -> bool:
        """What a companion claims must never fill the outbox: `phone revoke` needs room in it."""
        return len(turn.tx.select(Outgoing, pairing_id=pairing.pairing_id, type="REVOKE")) < UNKNOWN_MAX

    def unknown_count(self, turn: Turn, pairing: Pairing) -> int:
        return len(turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, strategy=""))
