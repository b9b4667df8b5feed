"""The only place where the companion's handoffs change state: one event, one step, in the transaction of its cause.

:func:`token_relay.protocol.handoff.companion_step` decides, this module writes: the handoff, the grant that it brings
or ends, the answer, and the request for a new grant (RENEW). The provider is told of an ended grant after the commit.
"""

from __future__ import annotations

import asyncio
import shlex
from functools import partial
from typing import Literal

from token_relay.agents.companion.handoff_rows import columns_of, state_of
from token_relay.agents.grants import lease, lifecycle, refuted, revocation
from token_relay.agents.grants.flight import Gate
from token_relay.agents.grants.lanes import Lanes
from token_relay.agents.grants.serving import columns_of_lease
from token_relay.agents.grants.serving import state_of as grant_state_of
from token_relay.agents.grants.tokens import access_token_ends_at, end_grant
from token_relay.agents.records import CompanionHandoff, Grant, GrantEndReason, Outgoing, Pairing, handoff_key
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.errors import PeerError, TransientError
from token_relay.protocol.handoff import (
    CompanionEffect,
    CompanionEvent,
    CompanionState,
    NoHandoff,
    Ready,
    companion_step,
)
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import (
    GRANT_VERSION,
    REQUESTS,
    Accept,
    Accept2,
    CancelConfirmed,
    GrantPayload,
    GrantPayload2,
    Lost,
    Lost4,
    ProviderSaid,
    Renew,
    RenewReason,
    RequestType,
    Revoked,
    Stored,
    plaintext_hash,
)
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.http import Http
from token_relay.provider.profile import profile_that

ACCEPTS_KEPT = 32  # hashes of the ACCEPTs sent for one OFFER; the phone names the one that reached it
HANDOFFS_MAX = 4096  # rows of one pairing; a tombstone is small, but a faulty phone must not fill the disk

RECEIPT: frozenset[RequestType] = frozenset({"STORED"})
CAME_TO_NOTHING: frozenset[CompanionEvent] = frozenset({"cancel", "reject", "bad_token"})
REASONS: dict[str, RenewReason] = {"uncertain": "uncertain", "person": "person", "denied": "denied"}


class CompanionSteps:
    """The steps of all handoffs of this companion, called ``name``. They set ``due`` after a grant was stored."""

    def __init__(self, turns: Turns, *, name: str, http: Http, gate: Gate, due: asyncio.Event) -> None:
        self._turns = turns
        self._http = http
        self._gate = gate
        self._lanes = Lanes()
        self._due = due
        self.reauth_action = ""
        self.is_called(name)

    def is_called(self, name: str) -> None:
        """Take this device's name, for what a person is told to type."""
        self.reauth_action = f"on the phone: token-relay phone handoff {shlex.quote(name)}"

    def is_full(self, turn: Turn, pairing: Pairing) -> bool:
        """Return whether this pairing has ``HANDOFFS_MAX`` rows."""
        return len(turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id)) >= HANDOFFS_MAX

    def step(
        self,
        turn: Turn,
        pairing: Pairing,
        handoff_id: str,
        event: CompanionEvent,
        *,
        payload: GrantPayload | None = None,
    ) -> None:
        """Apply one event to one handoff; all that follows is written in this transaction. Raises PeerError."""
        row = turn.tx.get(CompanionHandoff, pairing.pairing_id, handoff_id)
        if row is None and self.is_full(turn, pairing):
            # No room for a tombstone, and no need for one: no OFFER is taken any more, so nothing can be stored.
            raise PeerError("too_many_handoffs")
        before: CompanionState = NoHandoff() if row is None else state_of(row)
        step = companion_step(before, event)
        if step.state != before:
            if turn.is_duplicate:
                return  # a repeated message asks again, it never changes a state
            if row is None:
                turn.tx.put(CompanionHandoff(handoff_id, pairing.pairing_id, "none", created_at=turn.wall))
            turn.change(CompanionHandoff, pairing.pairing_id, handoff_id, **columns_of(step.state))
        for effect in step.effects:
            self._perform(turn, pairing, handoff_id, effect, payload)
        if step.state != before:
            row = turn.row(CompanionHandoff, pairing.pairing_id, handoff_id)
            turn.event(f"handoff_{row.state}", device=pairing.peer_id, handoff_id=handoff_id, detail=row.reason)
        if before == Ready() and event in CAME_TO_NOTHING:
            self._ask_for_what_waited(turn, pairing)

    def _perform(
        self, turn: Turn, pairing: Pairing, handoff_id: str, effect: CompanionEffect, payload: GrantPayload | None
    ) -> None:
        match effect:
            case CompanionEffect.MAKE_KEY:
                one_time = KeyPair.from_random(turn.random.bytes(32))
                turn.change(
                    CompanionHandoff,
                    pairing.pairing_id,
                    handoff_id,
                    one_time_public=one_time.public_key,
                    one_time_key=one_time.private_key,
                )
            case CompanionEffect.SEND_ACCEPT:
                row = turn.row(CompanionHandoff, pairing.pairing_id, handoff_id)
                key, offer_hash = row.one_time_public.hex(), row.offer_hash.hex()
                accept = Accept(handoff_id=handoff_id, one_time_key=key, offer_hash=offer_hash)
                if pairing.speaks > 1:
                    accept = Accept2(**dict(accept), grant_version=GRANT_VERSION)
                digest = plaintext_hash(turn.answer(pairing.pairing_id, accept))
                hashes = (row.accept_hashes + digest)[-32 * ACCEPTS_KEPT :]
                turn.change(CompanionHandoff, pairing.pairing_id, handoff_id, accept_hashes=hashes)
            case CompanionEffect.STORE_GRANT:
                assert payload is not None
                self._store(turn, pairing, turn.row(CompanionHandoff, pairing.pairing_id, handoff_id), payload)
            case CompanionEffect.ERASE_KEY:
                turn.change(CompanionHandoff, pairing.pairing_id, handoff_id, one_time_key=None)
                turn.tx.erase_key(handoff_key(pairing.pairing_id, handoff_id))
            case CompanionEffect.ERASE_GRANT:
                self._erase(turn, turn.row(CompanionHandoff, pairing.pairing_id, handoff_id))
            case CompanionEffect.SEND_STORED:
                if not turn.resend(pairing.pairing_id, handoff_id=handoff_id, types=RECEIPT):
                    turn.request(pairing.pairing_id, Stored(handoff_id=handoff_id), handoff_id)
            case CompanionEffect.SEND_CANCELLED:
                turn.answer(pairing.pairing_id, CancelConfirmed(handoff_id=handoff_id))
            case CompanionEffect.SEND_LOST:
                turn.answer(
                    pairing.pairing_id, _lost(turn.row(CompanionHandoff, pairing.pairing_id, handoff_id), pairing)
                )
            case CompanionEffect.SEND_REVOKED:
                row = turn.row(CompanionHandoff, pairing.pairing_id, handoff_id)
                if row.provider_said != "asking":
                    turn.answer(pairing.pairing_id, _revoked(row))
            case CompanionEffect.SETTLE:
                everything = turn.row(CompanionHandoff, pairing.pairing_id, handoff_id).reason == "revoked"
                turn.settle(pairing.pairing_id, handoff_id=handoff_id, types=REQUESTS if everything else RECEIPT)

    def _store(self, turn: Turn, pairing: Pairing, row: CompanionHandoff, payload: GrantPayload) -> None:
        client = {"issuer": payload.issuer, "client_id": payload.client_id}
        for older in turn.tx.select(Grant, pairing_id=pairing.pairing_id, **client):
            # Without a subject nobody knows whose it is: it takes the place of what it renews, and of no other.
            is_same = older.subject == payload.subject != "" or older.handoff_id == row.renews
            is_nobodys = "" in (older.subject, payload.subject) and older.account == row.account
            if not is_same and not (is_nobodys and older.state == "dead"):
                continue  # a dead one too: its person is not the next one who has chosen the same name
            if older.state != "dead":
                self.end_grant(turn, older, "superseded")
            turn.tx.delete(Grant, older.grant_id)
        if pairing.rollback == "self":
            turn.change(Pairing, pairing.pairing_id, rollback="")
        grant_id = turn.new_id()
        turn.tx.put(
            Grant(
                grant_id=grant_id,
                pairing_id=pairing.pairing_id,
                handoff_id=row.handoff_id,
                issuer=payload.issuer,
                client_id=payload.client_id,
                token_endpoint=payload.token_endpoint,
                revocation_endpoint=payload.revocation_endpoint or "",
                scope=payload.scope,
                audience=payload.audience,
                subject=payload.subject,
                account=row.account or payload.account,
                profile=payload.profile,
                signed_in_at=payload.signed_in_at,
                is_otp=payload.is_otp,
                is_sole=payload.is_sole,
                behaviour=_behaviour_of(turn, payload, pairing.pairing_id),
                stored_at=turn.wall,
                refresh_token=payload.refresh_token,
            )
        )
        turn.change(Grant, grant_id, **columns_of_lease(lease.give(row.lease_days, turn.now)))
        turn.event("grant_stored", device=pairing.peer_id, handoff_id=row.handoff_id, grant_id=grant_id, generation=1)
        turn.after.append(self._due.set)

    def _erase(self, turn: Turn, row: CompanionHandoff) -> None:
        """Destroy the grant of a handoff; the provider is told once, after the commit, from memory."""
        is_revoked = row.reason == "revoked"
        for grant in turn.tx.select(Grant, pairing_id=row.pairing_id, handoff_id=row.handoff_id):
            if grant.state == "dead":
                continue
            ends_at = access_token_ends_at(turn, grant.grant_id)
            said: Literal["unsupported", "asking", "unknown"] = "unsupported"
            if grant.refresh_token is not None and revocation.may_ask(grant, is_revoked=is_revoked):
                said = "asking" if is_revoked else "unknown"
                turn.after.append(partial(self.revoke_later, grant, grant.refresh_token))
            turn.change(CompanionHandoff, *row.at, provider_said=said, access_token_ends_at=ends_at)
            assert row.reason != "", "only a tombstone erases"
            end_grant(turn, grant.grant_id, row.reason)

    def revoke_later(self, grant: Grant, refresh_token: RefreshToken) -> None:
        """Ask the provider once to revoke a token that nobody holds any more; call it after the commit."""
        self._turns.spawn(self._revoke_at_provider(grant, refresh_token))

    async def _revoke_at_provider(self, grant: Grant, refresh_token: RefreshToken) -> None:
        said: ProviderSaid = "unreachable"
        if await self._gate.judge(grant) == "":
            said = await self._lanes.run(grant.pairing_id, partial(revocation.ask, self._http, grant, refresh_token))

        def step(turn: Turn) -> None:
            turn.event("revoked_at_provider", handoff_id=grant.handoff_id, grant_id=grant.grant_id, detail=said)
            if turn.tx.get(CompanionHandoff, grant.pairing_id, grant.handoff_id) is not None:
                row = turn.change(CompanionHandoff, grant.pairing_id, grant.handoff_id, provider_said=said)
                if row.reason == "revoked" and turn.tx.get(Pairing, row.pairing_id) is not None:
                    turn.answer(row.pairing_id, _revoked(row))

        await self._turns.run(step)

    def end_grant(self, turn: Turn, grant: Grant, reason: GrantEndReason) -> None:
        """Erase a grant for a reason that is not the phone's, in this transaction; its handoff becomes a tombstone."""
        row = turn.tx.get(CompanionHandoff, grant.pairing_id, grant.handoff_id)
        pairing = turn.tx.get(Pairing, grant.pairing_id)
        if row is not None and pairing is not None and row.state == "stored":
            is_duplicate, turn.is_duplicate = turn.is_duplicate, False
            self.step(turn, pairing, grant.handoff_id, "ended")
            turn.is_duplicate = is_duplicate
        if turn.tx.get(Grant, grant.grant_id) is not None:
            end_grant(turn, grant.grant_id, reason)

    # -- damage ----------------------------------------------------------------------------------------

    def on_damage(self, turn: Turn) -> None:
        """Have each stored handoff its grant, each grant its handoff, and no handoff wait without its key."""
        grants = {(grant.pairing_id, grant.handoff_id): grant for grant in turn.tx.select(Grant)}
        handoffs = {row.at: row for row in turn.tx.select(CompanionHandoff)}
        for at, row in handoffs.items():
            pairing = turn.tx.get(Pairing, row.pairing_id)
            if pairing is None:
                turn.tx.delete(CompanionHandoff, *at)
            elif row.state == "ready" and row.one_time_key is None:
                self.step(turn, pairing, row.handoff_id, "replaced")
            elif row.state == "stored" and at not in grants:
                turn.tx.put(_grant_of(row, turn.new_id()))  # it has no token: the next look ends it
        for at, grant in grants.items():
            if at not in handoffs and grant.state != "dead" and turn.tx.get(Pairing, grant.pairing_id) is not None:
                turn.tx.put(CompanionHandoff(grant.handoff_id, grant.pairing_id, "stored", was_stored=True))

    def on_grant_lost(self, turn: Turn, grant: Grant) -> None:
        """End it, and tell its phone that the person must hand off again."""
        self.end_grant(turn, grant, "damaged")
        self.ask_renewal(turn, grant, "person")

    # -- what the keeper tells -------------------------------------------------------------------------

    def holds_alone(self, turn: Turn, grant: Grant) -> bool:
        """Return what the phone said in the grant."""
        return grant.is_sole

    def awaits_handoff(self, turn: Turn, grant: Grant) -> bool:
        """Return whether a handoff of the same phone is READY."""
        return bool(turn.tx.select(CompanionHandoff, pairing_id=grant.pairing_id, state="ready"))

    def on_grant_changed(self, turn: Turn, before: Grant, after: Grant) -> None:
        """A refresh was settled: queue RENEW where only the phone can help."""
        if before.refused and before.refused == after.reason:
            return  # asked again, refused again: the phone knows
        match grant_state_of(after):
            case lifecycle.Erased(reason=reason):
                turn.event("grant_erased", handoff_id=after.handoff_id, grant_id=after.grant_id, detail=reason)
                self.end_grant(turn, after, reason)
                self.ask_renewal(turn, after, REASONS.get(reason, "denied"))
            case lifecycle.NeedsHandoff(reason=reason):
                turn.event("handoff_needed", handoff_id=after.handoff_id, grant_id=after.grant_id, detail=reason)
                self.ask_renewal(turn, after, REASONS.get(reason, "person"))
            case _:
                pass

    def on_late_token(self, turn: Turn, grant: Grant, refresh_token: RefreshToken) -> None:
        """A refresh brought a token after its grant was erased: have the provider revoke it, as it did the old one."""
        row = turn.tx.get(CompanionHandoff, grant.pairing_id, grant.handoff_id)
        if revocation.may_ask(grant, is_revoked=row is not None and row.reason == "revoked"):
            turn.after.append(partial(self.revoke_later, grant, refresh_token))

    def ask_renewal(self, turn: Turn, grant: Grant, reason: RenewReason) -> None:
        """Queue RENEW, unless one is open, a new handoff is under way, or the phone has taken the grant away."""
        pairing = turn.tx.get(Pairing, grant.pairing_id)
        row = turn.tx.get(CompanionHandoff, grant.pairing_id, grant.handoff_id)
        if pairing is None or pairing.state != "active" or (row is not None and row.reason == "revoked"):
            return
        open_rows = turn.tx.select(Outgoing, pairing_id=pairing.pairing_id, type="RENEW", handoff_id=grant.handoff_id)
        ready = turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id, state="ready")
        if not open_rows and not ready:
            body = Renew(handoff_id=grant.handoff_id, reason=reason, generation=grant.generation)
            try:
                turn.request(pairing.pairing_id, body, grant.handoff_id)
            except TransientError as exc:  # this may be the transaction that stores a rotated token
                turn.event("renewal_not_asked", handoff_id=grant.handoff_id, detail=str(exc))

    def _ask_for_what_waited(self, turn: Turn, pairing: Pairing) -> None:
        """No RENEW was queued while a handoff was READY. It came to nothing, so ask the phone now."""
        for grant in turn.tx.select(Grant, pairing_id=pairing.pairing_id):
            if grant.state == "needs_handoff" or (grant.state, grant.reason) == ("dead", "denied"):
                self.ask_renewal(turn, grant, REASONS.get(grant.reason, "person"))


def _grant_of(row: CompanionHandoff, grant_id: str) -> Grant:
    """Return what a handoff still tells of its grant."""
    return Grant(
        grant_id=grant_id,
        pairing_id=row.pairing_id,
        handoff_id=row.handoff_id,
        issuer=row.issuer,
        client_id=row.client_id,
        token_endpoint="",
        revocation_endpoint="",
        scope=row.scope,
        audience="",
        subject="",
        account=row.account,
        profile="",
        signed_in_at=0,
        is_otp=False,
        stored_at=row.created_at,
        refresh_token=None,
    )


def _behaviour_of(turn: Turn, payload: GrantPayload | GrantPayload2, pairing_id: str) -> str:
    """Return the behaviour that a grant brings, or its strict form where this phone's word was refuted before."""
    if not isinstance(payload, GrantPayload2):
        return ""
    behaviour = payload.behaviour.model_dump_json()
    profile = refuted.believed(
        turn.tx, profile_that(payload.profile, behaviour), issuer=payload.issuer, pairing_id=pairing_id
    )
    return profile.behaviour.model_dump_json()


def _lost(row: CompanionHandoff, pairing: Pairing) -> Lost:
    """Return LOST, with the reason where the phone knows of reasons."""
    if pairing.speaks < Lost4.version:
        return Lost(handoff_id=row.handoff_id)
    reason = row.lost_reason or ("unknown" if row.offer_hash else "no_handoff")
    return Lost4(handoff_id=row.handoff_id, reason=reason, field=row.lost_field)


def _revoked(row: CompanionHandoff) -> Revoked:
    said = row.provider_said
    provider: ProviderSaid = "unknown" if said == "asking" else (said or "unknown")
    return Revoked(handoff_id=row.handoff_id, provider=provider, access_token_ends_at=row.access_token_ends_at)
