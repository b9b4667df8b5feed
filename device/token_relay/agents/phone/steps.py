"""Steps of the phone's handoffs: one event, one step, all of it in the transaction of its cause.

:func:`token_relay.protocol.handoff.phone_step` decides, this module writes. Between ACCEPT and RELEASED
:mod:`.obtaining` obtains the token; :meth:`PhoneSteps.release` seals it, and from that commit on it is not ours.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from pydantic import ValidationError

from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import columns_of as grant_columns
from token_relay.agents.grants.serving import profile_of
from token_relay.agents.grants.tokens import end_grant
from token_relay.agents.phone.handoff_rows import Terms, columns_of, offer_body, state_of, unknown_row
from token_relay.agents.phone.own_grants import is_only
from token_relay.agents.ports import Transaction
from token_relay.agents.pulse import Pulse
from token_relay.agents.records import Grant, HandoffKey, Outgoing, Pairing, PhoneHandoff, handoff_key
from token_relay.agents.turn import Turn
from token_relay.protocol.envelope import seal_once
from token_relay.protocol.errors import PeerError
from token_relay.protocol.handoff import (
    Done,
    New,
    Offered,
    PhoneEffect,
    PhoneEvent,
    PhoneState,
    is_open,
    phone_may,
    phone_step,
)
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import (
    SEALED_CHARS_MAX,
    Cancel,
    Closed,
    GrantPayload,
    GrantPayload2,
    Reject,
    Revoke,
    Token,
    encode_base64url,
    encode_grant,
    plaintext_hash,
)
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.profile import PROFILES, STRICT

ACCEPTED = Offered(is_accepted=True)  # the one state in which a token is obtained and released
OFFER_LIFETIME_S = 24 * 3600
UNKNOWN_MAX = 64  # rows of one pairing for handoffs that only the companion names, and their REVOKEs in the outbox


class PhoneSteps:
    """The steps of all handoffs of this phone.

    ``changed`` beats after each change of a handoff; ``accepted`` takes each handoff whose token must be obtained.
    """

    def __init__(self, changed: Pulse, accepted: asyncio.Queue[HandoffKey]) -> None:
        self._changed = changed
        self._accepted = accepted

    def open_handoff(self, tx: Transaction, pairing: Pairing) -> PhoneHandoff | None:
        """Return the pairing's one open handoff, if there is one."""
        rows = tx.select(PhoneHandoff, pairing_id=pairing.pairing_id)
        return next((row for row in rows if is_open(state_of(row))), None)

    def offer(self, turn: Turn, pairing: Pairing, terms: Terms) -> PhoneHandoff:
        """Open a handoff on these terms: write its row and queue OFFER, in this transaction."""
        handoff_id = turn.new_id()
        expires_at = turn.wall + OFFER_LIFETIME_S if turn.now.is_synced else 0
        turn.tx.put(
            terms.new_row(
                handoff_id, pairing.pairing_id, created=turn.stamp, created_at=turn.wall, expires_at=expires_at
            )
        )
        self.step(turn, pairing, handoff_id, "offer")
        return turn.row(PhoneHandoff, pairing.pairing_id, handoff_id)

    def step(self, turn: Turn, pairing: Pairing, handoff_id: str, event: PhoneEvent) -> None:
        """Apply one event to one handoff; all that follows is written in this transaction. Raises PeerError."""
        row = turn.tx.get(PhoneHandoff, pairing.pairing_id, handoff_id)
        before: PhoneState = New() if row is None else state_of(row)
        step = phone_step(before, event)
        if event == "stored" and PhoneEffect.SEND_REVOKE in step.effects and not self.may_take_away(turn, pairing):
            raise PeerError("too_many_handoffs")
        if turn.is_duplicate and step.state != before:  # a repeated message asks again, it never changes a state
            if row is not None and PhoneEffect.SEND_CLOSED in step.effects:
                self._perform(turn, pairing, handoff_id, PhoneEffect.SEND_CLOSED)  # a receipt wants its answer
            return
        if row is None and not self._take_in(turn, pairing, handoff_id, event, step.state):
            return
        row = turn.change(PhoneHandoff, pairing.pairing_id, handoff_id, **columns_of(step.state))
        for effect in step.effects:
            self._perform(turn, pairing, handoff_id, effect)
        if step.state != before:
            if isinstance(step.state, Done):
                self._done(turn, pairing, handoff_id)
            turn.event(
                f"handoff_{row.state}", device=pairing.peer_id, handoff_id=handoff_id, detail=row.reason or row.strategy
            )
            turn.after.append(self._changed.beat)

    def _take_in(self, turn: Turn, pairing: Pairing, handoff_id: str, event: PhoneEvent, state: PhoneState) -> bool:
        """Make the row of a handoff that only the companion knows, if it must be taken away; else answer."""
        if state == New() or event != "stored":
            if event == "accept":
                turn.answer(pairing.pairing_id, Reject(handoff_id=handoff_id, reason="gone"))
            return False
        if self.unknown_count(turn, pairing) >= UNKNOWN_MAX:
            raise PeerError("too_many_handoffs")
        turn.tx.put(unknown_row(handoff_id, pairing.pairing_id, turn.stamp, turn.wall))
        return True

    def _perform(self, turn: Turn, pairing: Pairing, handoff_id: str, effect: PhoneEffect) -> None:
        match effect:
            case PhoneEffect.SEND_OFFER:
                body = offer_body(turn.row(PhoneHandoff, pairing.pairing_id, handoff_id))
                plaintext = turn.request(pairing.pairing_id, body, handoff_id)
                turn.change(PhoneHandoff, pairing.pairing_id, handoff_id, offer_hash=plaintext_hash(plaintext))
            case PhoneEffect.OBTAIN_TOKEN:
                self._obtain(turn, pairing, turn.row(PhoneHandoff, pairing.pairing_id, handoff_id))
            case PhoneEffect.SEND_TOKEN:
                pass  # release() has queued it: it holds the token
            case PhoneEffect.SEND_CLOSED:
                turn.answer(pairing.pairing_id, Closed(handoff_id=handoff_id))
            case PhoneEffect.SEND_CANCEL:
                turn.request(pairing.pairing_id, Cancel(handoff_id=handoff_id), handoff_id)
            case PhoneEffect.SEND_REVOKE:
                turn.request(pairing.pairing_id, Revoke(handoff_id=handoff_id), handoff_id)
            case PhoneEffect.SEND_STATUS:
                state = turn.row(PhoneHandoff, pairing.pairing_id, handoff_id).state
                turn.answer(pairing.pairing_id, Reject(handoff_id=handoff_id, reason=state))
            case PhoneEffect.RESEND:
                turn.resend(pairing.pairing_id, handoff_id=handoff_id)
            case PhoneEffect.SETTLE:
                turn.settle(pairing.pairing_id, handoff_id=handoff_id)
            case PhoneEffect.RETURN_TOKEN:
                self._return(turn, turn.row(PhoneHandoff, pairing.pairing_id, handoff_id))
            case PhoneEffect.WIPE_TOKEN:
                turn.change(PhoneHandoff, pairing.pairing_id, handoff_id, held_token=None)
                turn.tx.erase_key(handoff_key(pairing.pairing_id, handoff_id))

    def _obtain(self, turn: Turn, pairing: Pairing, row: PhoneHandoff) -> None:
        """``move`` releases in this transaction; the others need the provider, after the commit."""
        grant = turn.tx.get(Grant, row.grant_id) if row.strategy == "move" else None
        if grant is not None and grant.state == "held" and grant.refresh_token is not None:
            self.release(turn, pairing, row.handoff_id, grant, grant.refresh_token)
        else:
            turn.after.append(partial(self._accepted.put_nowait, row.at))

    def release(self, turn: Turn, pairing: Pairing, handoff_id: str, grant: Grant, refresh_token: RefreshToken) -> bool:
        """Seal the token to the one-time key and write RELEASED with TOKEN in the outbox, in this transaction.

        From the commit on the token is the companion's, and nothing here uses it. False: it is too late, or the grant
        does not fit a message.
        """
        row = turn.tx.get(PhoneHandoff, pairing.pairing_id, handoff_id)
        if row is None or not phone_may(state_of(row), "sealed"):
            return False
        try:
            sealed = _sealed(turn, pairing, row, grant, refresh_token)
        except ValidationError as exc:  # such as a scope of more than 1024 characters: no companion would take it
            fields = " and ".join(sorted({str(error["loc"][0]) for error in exc.errors(include_input=False)}))
            self.give_up(turn, row.at, f"{fields} of the grant cannot be put into a message")
            return False
        if len(sealed) > SEALED_CHARS_MAX:
            self.give_up(turn, row.at, "the refresh token is too long for an envelope")
            return False
        turn.request(pairing.pairing_id, Token(handoff_id=handoff_id, sealed=sealed), handoff_id)
        turn.change(
            PhoneHandoff,
            pairing.pairing_id,
            handoff_id,
            is_obtaining=False,
            problem="",
            held_token=refresh_token if row.strategy == "move" else None,
            subject=grant.subject,
            account=grant.account,
            sid=grant.sid,
            user_id=grant.user_id,
            is_otp=grant.is_otp,
            signed_in_at=grant.signed_in_at,
        )
        if row.strategy == "move" and turn.tx.get(Grant, grant.grant_id) is not None:
            end_grant(turn, grant.grant_id, "moved")
        self.step(turn, pairing, handoff_id, "sealed")
        return True

    def give_up(self, turn: Turn, at: HandoffKey, problem: str) -> None:
        """Write why a handoff is given up, and end it through CANCEL if its state allows."""
        row = turn.tx.get(PhoneHandoff, *at)
        pairing = turn.tx.get(Pairing, row.pairing_id) if row is not None else None
        if pairing is not None:
            row = turn.change(PhoneHandoff, *at, problem=problem, is_obtaining=False)
            if phone_may(state_of(row), "cancel"):
                self.step(turn, pairing, row.handoff_id, "cancel")

    def tell(self, turn: Turn, at: HandoffKey, problem: str) -> None:
        """Write why an open handoff does not go on, and wake the commands that wait for it."""
        turn.change(PhoneHandoff, *at, problem=problem)
        turn.after.append(self._changed.beat)

    def _return(self, turn: Turn, row: PhoneHandoff) -> None:
        """``move`` was cancelled: the companion never stored the token, so it is the phone's again."""
        if row.held_token is None:
            return
        grant = turn.tx.get(Grant, row.grant_id)
        if grant is not None and grant.state == "dead" and grant.reason == "moved":
            # In a future that this disk has lost it may have come back once already, and have been spent.
            is_older = bool(turn.tx.select(Pairing, rollback="self"))
            after = lifecycle.Locked(grant.generation, "rollback") if is_older else lifecycle.Held(grant.generation)
            turn.change(Grant, row.grant_id, **grant_columns(after))
            turn.change(Grant, row.grant_id, refresh_token=row.held_token)
            turn.change(PhoneHandoff, *row.at, held_token=None)
        else:  # signed out, or signed in anew, meanwhile
            turn.change(PhoneHandoff, *row.at, held_token=None, orphans=row.orphans + 1)
        turn.tx.erase_key(handoff_key(*row.at))

    def _done(self, turn: Turn, pairing: Pairing, handoff_id: str) -> None:
        row = turn.row(PhoneHandoff, pairing.pairing_id, handoff_id)
        device_state = row.device_state or "held"  # a RENEW that overtook STORED has said more
        turn.change(
            PhoneHandoff,
            pairing.pairing_id,
            handoff_id,
            done_at=turn.wall,
            device_state=device_state,
            generation=max(row.generation, 1),
        )
        own = turn.tx.get(Grant, row.grant_id) if row.strategy == "move" else None
        if own is not None and own.state != "dead":  # a restored disk: the companion has what we seem to hold
            end_grant(turn, own.grant_id, "moved")
        for older in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, state="done"):
            same = (older.issuer, older.client_id, older.subject) == (row.issuer, row.client_id, row.subject)
            # Without a subject nobody knows whose it is: it takes the place only of what the companion asked to renew.
            if older.handoff_id != handoff_id and (older.handoff_id == row.renews or (row.subject and same)):
                self.step(turn, pairing, older.handoff_id, "superseded")
        moves = turn.tx.select(PhoneHandoff, strategy="move")
        if not any(other.state in ("released", "cancelling") for other in moves):  # what comes back is judged by it
            turn.change(Pairing, pairing.pairing_id, rollback="")

    def may_take_away(self, turn: Turn, pairing: Pairing) -> bool:
        """Return whether REVOKE may be queued for what a companion claims: `phone revoke` needs room in the outbox."""
        return len(turn.tx.select(Outgoing, pairing_id=pairing.pairing_id, type="REVOKE")) < UNKNOWN_MAX

    def unknown_count(self, turn: Turn, pairing: Pairing) -> int:
        """Return how many rows of a pairing are for handoffs that only the companion knows."""
        return len(turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, strategy=""))


def _sealed(turn: Turn, pairing: Pairing, row: PhoneHandoff, grant: Grant, refresh_token: RefreshToken) -> str:
    """Return the grant sealed to the one-time key, in the newest version that the companion opens and that fits.

    Raises ValidationError: a field does not fit a message.
    """
    first = GrantPayload(
        v=1,
        pairing_id=pairing.pairing_id,
        handoff_id=row.handoff_id,
        phone_key=turn.own.public_key.hex(),
        companion_key=pairing.peer_key.hex(),
        one_time_key=row.one_time_key.hex(),
        offer_hash=row.offer_hash.hex(),
        accept_hash=row.accept_hash.hex(),
        refresh_token=refresh_token,
        issuer=grant.issuer,
        client_id=grant.client_id,
        token_endpoint=grant.token_endpoint,
        revocation_endpoint=grant.revocation_endpoint or None,
        scope=_handed_over(row.scope, grant.scope),
        audience=grant.audience,
        subject=grant.subject,
        account=grant.account,
        profile=_name_for_version_1(grant),
        signed_in_at=grant.signed_in_at,
        is_otp=grant.is_otp,
    )
    if row.grant_version > 1:
        is_sole = row.strategy != "branch" and is_only(turn.tx, grant, given=row.at)  # of `branch` the phone keeps one
        more = {"v": 2, "profile": grant.profile, "is_sole": is_sole, "behaviour": profile_of(grant).behaviour}
        sealed = _seal(turn, row, GrantPayload2.model_validate(dict(first) | more))
        if len(sealed) <= SEALED_CHARS_MAX:
            return sealed
    return _seal(turn, row, first)


def _handed_over(chosen: str, granted: str) -> str:
    """Return the scope that a companion asks for: a word that the provider did not grant makes every refresh fail."""
    return " ".join(word for word in chosen.split() if word in granted.split() or not granted) or granted


def _name_for_version_1(grant: Grant) -> str:
    """Return the profile that a companion which knows names alone goes by: ``strict`` where the name says too much."""
    named = PROFILES.get(grant.profile, STRICT).behaviour
    is_named = replace(profile_of(grant), takes_resource=named.takes_resource).behaviour == named
    return grant.profile if is_named or grant.profile == "entra" else STRICT.name


def _seal(turn: Turn, row: PhoneHandoff, payload: GrantPayload) -> str:
    ephemeral = KeyPair.from_random(turn.random.bytes(32))
    return encode_base64url(seal_once(encode_grant(payload), row.one_time_key, ephemeral))
