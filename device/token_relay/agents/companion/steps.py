"""The companion's handoffs change here and nowhere else: one event, one step, in the transaction of its cause.

:func:`token_relay.protocol.handoff.companion_step` decides, this module writes: the handoff, the grant it brings or
ends, the answer, and the wish for a new grant (RENEW). What a REVOKE is owed at the provider goes on after the commit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from token_relay.agents.companion.handoff_rows import stored_state, with_stored_state
from token_relay.agents.grants import lease, lifecycle, revocation
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.grants.serving import with_lease, with_state
from token_relay.agents.grants.tokens import access_token_ends_at, erase_grant
from token_relay.agents.link import Link
from token_relay.agents.records import CompanionHandoff, Grant, Outgoing, Pairing
from token_relay.agents.turn import Turn
from token_relay.protocol.errors import PeerError, TransientError
from token_relay.protocol.handoff import (
    CompanionEffect,
    CompanionEvent,
    HandoffStored,
    NoHandoff,
    Ready,
    companion_step,
)
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import (
    REQUESTS,
    Accept,
    Cancelled,
    GrantPayload,
    Lost,
    ProviderSaid,
    Renew,
    RenewReason,
    Revoked,
    Stored,
    plaintext_hash,
)
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.http import Http

ACCEPTS_KEPT = 32  # hashes of the ACCEPTs sent for one OFFER; the phone names the one that reached it
HANDOFFS_MAX = 4096  # rows of one pairing; a tombstone is small, but a faulty phone must not fill the disk

RECEIPT = frozenset({"STORED"})
REASONS: dict[str, RenewReason] = {"uncertain": "uncertain", "person": "person", "denied": "denied"}


class CompanionSteps:
    """The steps of all handoffs of this companion."""

    def __init__(self, *, link: Link, keeper: GrantKeeper, http: Http) -> None:
        self._link = link
        self._keeper = keeper
        self._http = http

    def is_full(self, turn: Turn, pairing: Pairing) -> bool:
        """Whether this pairing has as many rows as one may have."""
        return len(turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id)) >= HANDOFFS_MAX

    def step(
        self,
        turn: Turn,
        pairing: Pairing,
        handoff_id: str,
        event: CompanionEvent,
        *,
        row: CompanionHandoff | None = None,
        payload: GrantPayload | None = None,
    ) -> None:
        """Apply one event to one handoff; everything it means is in this transaction."""
        row = row or turn.tx.get(CompanionHandoff, handoff_id)
        if row is None:
            if self.is_full(turn, pairing):
                # No room for a tombstone, and no need of one: no OFFER is taken any more, so nothing can be stored.
                raise PeerError("too_many_handoffs")
            row = CompanionHandoff(handoff_id, pairing.pairing_id, "none", created_at=turn.wall)
        if row.pairing_id != pairing.pairing_id:
            raise PeerError("wrong_pairing")
        before = stored_state(row)
        step = companion_step(before, event)
        if turn.is_duplicate and step.state != before:
            return  # a repeated message asks again, it never moves anything
        row = with_stored_state(row, step.state)
        if step.state != NoHandoff():
            turn.tx.put(row)
        for effect in step.effects:
            row = self._perform(turn, pairing, row, effect, payload)
        if step.state != before:
            turn.event(f"handoff_{row.state}", device=pairing.peer_id, handoff_id=handoff_id, detail=row.reason)
        if before == Ready() and event in ("cancel", "reject", "bad_token"):
            self._ask_for_what_waited(turn, pairing)

    def _perform(
        self,
        turn: Turn,
        pairing: Pairing,
        row: CompanionHandoff,
        effect: CompanionEffect,
        payload: GrantPayload | None,
    ) -> CompanionHandoff:
        handoff_id = row.handoff_id
        match effect:
            case CompanionEffect.MAKE_KEY:
                one_time = KeyPair.from_random(turn.random.bytes(32))
                row = replace(row, one_time_public=one_time.public_key, one_time_key=one_time.private_key)
                turn.tx.put(row)
            case CompanionEffect.SEND_ACCEPT:
                accept = Accept(
                    handoff_id=handoff_id, one_time_key=row.one_time_public.hex(), offer_hash=row.offer_hash.hex()
                )
                digest = plaintext_hash(turn.answer(pairing.pairing_id, accept))
                row = replace(row, accept_hashes=(row.accept_hashes + digest)[-32 * ACCEPTS_KEPT :])
                turn.tx.put(row)
            case CompanionEffect.STORE_GRANT:
                assert payload is not None
                self._store(turn, pairing, row, payload)
            case CompanionEffect.ERASE_KEY:
                row = replace(row, one_time_key=None)
                turn.tx.put(row)
                turn.tx.erase_key(handoff_id)
            case CompanionEffect.ERASE_GRANT:
                row = self._erase(turn, row)
            case CompanionEffect.SEND_STORED:
                if not turn.resend(pairing.pairing_id, handoff_id=handoff_id, types=RECEIPT):
                    turn.request(pairing.pairing_id, Stored(handoff_id=handoff_id), handoff_id)
            case CompanionEffect.SEND_CANCELLED:
                turn.answer(pairing.pairing_id, Cancelled(handoff_id=handoff_id))
            case CompanionEffect.SEND_LOST:
                turn.answer(pairing.pairing_id, Lost(handoff_id=handoff_id))
            case CompanionEffect.SEND_REVOKED:
                if row.provider_said != "asking":
                    turn.answer(pairing.pairing_id, _revoked(row))
            case CompanionEffect.SETTLE:
                everything = row.reason == "revoked"
                turn.settle(pairing.pairing_id, handoff_id=handoff_id, types=REQUESTS if everything else RECEIPT)
        return row

    def _store(self, turn: Turn, pairing: Pairing, row: CompanionHandoff, payload: GrantPayload) -> None:
        grant = Grant(
            grant_id=turn.new_id(),
            pairing_id=pairing.pairing_id,
            handoff_id=row.handoff_id,
            issuer=payload.issuer,
            client_id=payload.client_id,
            token_endpoint=payload.token_endpoint,
            revocation_endpoint=payload.revocation_endpoint or "",
            scope=payload.scope,
            audience=payload.audience,
            subject=payload.subject,
            account=payload.account,
            profile=payload.profile,
            signed_in_at=payload.signed_in_at,
            is_otp=payload.is_otp,
            stored_at=turn.wall,
            refresh_token=payload.refresh_token,
        )
        grant = with_lease(grant, lease.give(row.lease_days, turn.now))
        for older in turn.tx.select(
            Grant, pairing_id=pairing.pairing_id, issuer=grant.issuer, client_id=grant.client_id, subject=grant.subject
        ):
            if older.state != "dead":
                self.end_grant(turn, older, "superseded")
            turn.tx.delete(Grant, older.grant_id)
        if pairing.rollback == "self":
            turn.tx.put(replace(_fresh(turn, pairing), rollback=""))
        turn.tx.put(grant)
        turn.event(
            "grant_stored", device=pairing.peer_id, handoff_id=row.handoff_id, grant_id=grant.grant_id, generation=1
        )
        turn.after.append(self._keeper.wake)

    def _erase(self, turn: Turn, row: CompanionHandoff) -> CompanionHandoff:
        """Destroy the grant of a handoff; what a REVOKE is owed at the provider goes on in memory, once."""
        for grant in turn.tx.select(Grant, handoff_id=row.handoff_id):
            if grant.state == "dead":
                continue
            ends_at = access_token_ends_at(turn, grant.grant_id)
            said: str = "unsupported"
            refresh_token = grant.refresh_token
            if refresh_token is not None and revocation.may_ask(grant, is_revoked=row.reason == "revoked"):
                said = "asking" if row.reason == "revoked" else "unknown"
                turn.after.append(partial(self.revoke_later, grant, refresh_token))
            row = replace(row, provider_said=said, access_token_ends_at=ends_at)
            turn.tx.put(row)
            dead = with_state(grant, lifecycle.Dead(grant.generation, row.reason))
            erase_grant(turn, dead)
        return row

    def revoke_later(self, grant: Grant, refresh_token: RefreshToken) -> None:
        """Tell the provider, once, of a token that nobody holds any more; call it after the commit."""
        self._link.spawn(self._revoke_at_provider(grant, refresh_token))

    async def _revoke_at_provider(self, grant: Grant, refresh_token: RefreshToken) -> None:
        said = await revocation.ask(self._http, grant, refresh_token)

        def step(turn: Turn) -> None:
            row = turn.tx.get(CompanionHandoff, grant.handoff_id)
            turn.event("revoked_at_provider", handoff_id=grant.handoff_id, grant_id=grant.grant_id, detail=said)
            if row is not None:
                row = replace(row, provider_said=said)
                turn.tx.put(row)
                if row.reason == "revoked" and turn.tx.get(Pairing, row.pairing_id) is not None:
                    turn.answer(row.pairing_id, _revoked(row))

        await self._link.turn(step)

    def end_grant(self, turn: Turn, grant: Grant, reason: str) -> None:
        """End a grant for a reason other than the phone's word; its handoff becomes a tombstone."""
        row = turn.tx.get(CompanionHandoff, grant.handoff_id)
        pairing = turn.tx.get(Pairing, grant.pairing_id)
        if row is not None and pairing is not None and isinstance(stored_state(row), HandoffStored):
            is_duplicate, turn.is_duplicate = turn.is_duplicate, False
            self.step(turn, pairing, grant.handoff_id, "ended")
            turn.is_duplicate = is_duplicate
        current = turn.tx.get(Grant, grant.grant_id)
        if current is not None:
            dead = with_state(current, lifecycle.Dead(current.generation, reason))
            erase_grant(turn, dead)

    def ask_renewal(self, turn: Turn, grant: Grant, reason: RenewReason) -> None:
        """Queue RENEW, unless one is open or a new handoff is under way already."""
        pairing = turn.tx.get(Pairing, grant.pairing_id)
        if pairing is None or pairing.state != "active":
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
        """While a handoff was READY nothing was asked for; it came to nothing, so the phone must hear of it now."""
        for grant in turn.tx.select(Grant, pairing_id=pairing.pairing_id):
            if grant.state == "needs_handoff" or (grant.state, grant.reason) == ("dead", "denied"):
                self.ask_renewal(turn, grant, REASONS.get(grant.reason, "person"))


def _revoked(row: CompanionHandoff) -> Revoked:
    said: ProviderSaid = "unknown"
    if row.provider_said in ("accepted", "refused", "unreachable", "unsupported"):
        said = row.provider_said  # type: ignore[assignment]  # just checked
    return Revoked(handoff_id=row.handoff_id, provider=said, access_token_ends_at=row.access_token_ends_at)


def _fresh(turn: Turn, pairing: Pairing) -> Pairing:
    current = turn.tx.get(Pairing, pairing.pairing_id)
    assert current is not None
    return current
