"""The companion's agent: takes grants from its phones, keeps them alive, gives them up when told to.

Each message is applied by :meth:`CompanionAgent.on_message` inside one transaction:
:func:`token_relay.protocol.handoff.companion_step` decides, this module writes. What a change of a grant means to the
phone (RENEW, the end of a handoff) happens in the transaction of the change. The world is reached only through the
ports that come in.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from token_relay.agents.companion.handoff_rows import stored_state, with_stored_state
from token_relay.agents.companion.invitations import Invitations
from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lease, lifecycle
from token_relay.agents.grants import revocation as revoking
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.grants.serving import lease_of, state_of, with_lease, with_state
from token_relay.agents.grants.tokens import access_token_ends_at, erase_grant
from token_relay.agents.link import Link
from token_relay.agents.pairings import delete_pairing
from token_relay.agents.ports import Clock, Random, Transaction, Vault
from token_relay.agents.records import CompanionHandoff, Grant, Identity, Outgoing, Pairing
from token_relay.agents.turn import Turn
from token_relay.protocol.envelope import open_once
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
    HANDOFFS_LISTED_MAX,
    REQUESTS,
    Accept,
    Cancel,
    Cancelled,
    Closed,
    GrantPayload,
    HandoffReport,
    Hello,
    Lease,
    Lost,
    Message,
    Offer,
    Pair3,
    ProviderSaid,
    Reject,
    Renew,
    RenewReason,
    Revoke,
    Revoked,
    Stored,
    Token,
    decode_base64url,
    decode_grant,
    plaintext_hash,
)
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.http import Http

ACCEPTS_KEPT = 32  # hashes of the ACCEPTs sent for one OFFER; the phone names the one that reached it
HANDOFFS_MAX = 4096  # rows of one pairing; a tombstone is small, but a phone gone mad must not fill the disk

RECEIPT = frozenset({"STORED"})
REASONS: dict[str, RenewReason] = {"uncertain": "uncertain", "person": "person", "denied": "denied"}


class CompanionAgent:
    """One companion: its protocol with its phones, and its grants."""

    def __init__(
        self,
        *,
        vault: Vault,
        http: Http,
        clock: Clock,
        random: Random,
        identity: Identity,
        name: str,
        broker_url: str,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._http = http
        self.link = Link(vault=vault, clock=clock, random=random, identity=identity, handler=self, tasks=tasks)
        self.keeper = GrantKeeper(
            link=self.link, vault=vault, http=http, clock=clock, random=random, tasks=tasks, watcher=self
        )
        self.invitations = Invitations(link=self.link, clock=clock, random=random, name=name, broker_url=broker_url)
        self.link.on_mailbox = self.invitations.receive
        self.reauth_action = f"on the phone: token-relay phone handoff {self.link.own_id}"

    # -- messages --------------------------------------------------------------------------------------

    def on_message(self, turn: Turn, pairing: Pairing, message: Message, plaintext: bytes) -> None:
        """Apply one message of the phone; see :class:`token_relay.agents.link.Handler`."""
        match message.body:
            case Offer() as offer:
                self._offered(turn, pairing, offer, plaintext)
            case Token() as token:
                self._released(turn, pairing, token, message.head.sent_at)
            case Cancel(handoff_id=handoff_id):
                self._step(turn, pairing, handoff_id, "cancel")
            case Revoke(handoff_id=handoff_id):
                self._step(turn, pairing, handoff_id, "revoke")
            case Closed(handoff_id=handoff_id):
                self._step(turn, pairing, handoff_id, "closed")
            case Reject() as reject:
                self._rejected(turn, pairing, reject, message.head.in_reply_to)
            case Lease() as terms:
                self._leased(turn, pairing, terms)
            case Pair3() as pair3:
                self.invitations.on_pair3(turn, pairing, pair3)
            case _:
                raise PeerError("wrong_direction")

    def _offered(self, turn: Turn, pairing: Pairing, offer: Offer, plaintext: bytes) -> None:
        row = turn.tx.get(CompanionHandoff, offer.handoff_id)
        if row is None:
            reason = self._refusal(turn, pairing, offer)
            if turn.is_duplicate or reason:
                turn.answer(pairing.pairing_id, Reject(handoff_id=offer.handoff_id, reason=reason or "gone"))
                return
            for other in turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id, state="ready"):
                self._step(turn, pairing, other.handoff_id, "replaced")
            turn.settle(pairing.pairing_id, types=frozenset({"RENEW"}))
            row = CompanionHandoff(
                handoff_id=offer.handoff_id,
                pairing_id=pairing.pairing_id,
                state="none",
                created_at=turn.wall,
                offer_hash=plaintext_hash(plaintext),
                issuer=offer.issuer,
                client_id=offer.client_id,
                scope=offer.scope,
                lease_days=offer.lease_days,
            )
        elif row.offer_hash != plaintext_hash(plaintext) and row.state == "ready":
            raise PeerError("offer_changed")
        self._step(turn, pairing, offer.handoff_id, "offer", row=row)

    def _refusal(self, turn: Turn, pairing: Pairing, offer: Offer) -> str:
        """Say why an OFFER is not taken, or return an empty string."""
        if pairing.state != "active":
            return "not_active"
        if offer.expires_at and turn.now.is_synced and turn.now.wall_s > offer.expires_at:
            return "expired"
        return "too_many_handoffs" if self._is_full(turn, pairing) else ""

    def _is_full(self, turn: Turn, pairing: Pairing) -> bool:
        return len(turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id)) >= HANDOFFS_MAX

    def _released(self, turn: Turn, pairing: Pairing, token: Token, sent_at: int) -> None:
        row = turn.tx.get(CompanionHandoff, token.handoff_id)
        payload: GrantPayload | None = None
        if row is not None and row.state == "ready":
            try:
                payload = self._open_grant(pairing, row, token)
            except PeerError as exc:
                reason = exc.reason
                turn.after.append(lambda: self.link.count_reject(reason))
        event: CompanionEvent = "bad_token" if payload is None else "token"
        self._step(turn, pairing, token.handoff_id, event, payload=payload)
        if payload is not None and sent_at:
            self._count_delay(turn, token.handoff_id, sent_at)

    def _count_delay(self, turn: Turn, handoff_id: str, sent_at: int) -> None:
        """The lease counts from when the phone let the grant go: whoever holds TOKEN back gains nothing."""
        for grant in turn.tx.select(Grant, handoff_id=handoff_id):
            held = lease_of(grant)
            if held is not None:
                given_wall_s = min(float(sent_at), held.given_wall_s or float(sent_at))
                turn.tx.put(with_lease(grant, replace(held, given_wall_s=given_wall_s)))

    def _open_grant(self, pairing: Pairing, row: CompanionHandoff, token: Token) -> GrantPayload:
        """Open the sealed grant and compare every point with what we expect; we learn none of them from it."""
        if row.pairing_id != pairing.pairing_id or row.one_time_key is None:
            raise PeerError("no_one_time_key")
        one_time = KeyPair(row.one_time_public, row.one_time_key)
        payload = decode_grant(open_once(decode_base64url(token.sealed), one_time))
        accepts = {row.accept_hashes[i : i + 32].hex() for i in range(0, len(row.accept_hashes), 32)}
        if not (
            payload.pairing_id == pairing.pairing_id
            and payload.handoff_id == row.handoff_id
            and payload.phone_key == pairing.peer_key.hex()
            and payload.companion_key == self.link.own.public_key.hex()
            and payload.one_time_key == row.one_time_public.hex()
            and payload.offer_hash == row.offer_hash.hex()
            and payload.accept_hash in accepts
            and payload.issuer == row.issuer
            and payload.client_id == row.client_id
        ):
            raise PeerError("grant_mismatch")
        return payload

    def _rejected(self, turn: Turn, pairing: Pairing, reject: Reject, in_reply_to: int | None) -> None:
        if in_reply_to is not None:
            row = turn.tx.get(Outgoing, pairing.pairing_id, in_reply_to)
            if row is not None and row.type == "RENEW":
                turn.settle(pairing.pairing_id, handoff_id=row.handoff_id, types=frozenset({"RENEW"}))
                turn.event("renewal_refused", device=pairing.peer_id, handoff_id=row.handoff_id, detail=reject.reason)
                return
        if reject.handoff_id is not None:
            self._step(turn, pairing, reject.handoff_id, "reject")

    def _leased(self, turn: Turn, pairing: Pairing, terms: Lease) -> None:
        if not pairing.challenge or terms.challenge != pairing.challenge:
            raise PeerError("stale_challenge")
        turn.tx.put(replace(pairing, challenge=""))
        challenged = Stamp.from_text(pairing.challenged)
        for term in terms.handoffs:
            for grant in turn.tx.select(Grant, handoff_id=term.handoff_id, pairing_id=pairing.pairing_id):
                if grant.state != "dead":
                    wall_s = challenged.wall_s if challenged.is_synced else 0.0
                    given = lease.LeaseClock(term.lease_days, 0.0, challenged, wall_s)
                    turn.tx.put(with_lease(grant, given))
        turn.after.append(self.keeper.wake)

    # -- the step: decide, write -----------------------------------------------------------------------

    def _step(
        self,
        turn: Turn,
        pairing: Pairing,
        handoff_id: str,
        event: CompanionEvent,
        *,
        row: CompanionHandoff | None = None,
        payload: GrantPayload | None = None,
    ) -> None:
        row = row or turn.tx.get(CompanionHandoff, handoff_id)
        if row is None:
            if self._is_full(turn, pairing):
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
        turn.after.append(self.keeper.wake)

    def _erase(self, turn: Turn, row: CompanionHandoff) -> CompanionHandoff:
        """Destroy the grant of a handoff; what a REVOKE is owed at the provider goes on in memory, once."""
        for grant in turn.tx.select(Grant, handoff_id=row.handoff_id):
            if grant.state == "dead":
                continue
            ends_at = access_token_ends_at(turn, grant.grant_id)
            said: str = "unsupported"
            refresh_token = grant.refresh_token
            if refresh_token is not None and revoking.may_ask(grant, is_revoked=row.reason == "revoked"):
                said = "asking" if row.reason == "revoked" else "unknown"
                turn.after.append(partial(self._revoke_later, grant, refresh_token))
            row = replace(row, provider_said=said, access_token_ends_at=ends_at)
            turn.tx.put(row)
            dead = with_state(grant, lifecycle.Dead(grant.generation, row.reason))
            erase_grant(turn, dead)
        return row

    def _revoke_later(self, grant: Grant, refresh_token: RefreshToken) -> None:
        self.link.spawn(self._revoke_at_provider(grant, refresh_token))

    async def _revoke_at_provider(self, grant: Grant, refresh_token: RefreshToken) -> None:
        said = await revoking.ask(self._http, grant, refresh_token)

        def step(turn: Turn) -> None:
            row = turn.tx.get(CompanionHandoff, grant.handoff_id)
            turn.event("revoked_at_provider", handoff_id=grant.handoff_id, grant_id=grant.grant_id, detail=said)
            if row is not None:
                row = replace(row, provider_said=said)
                turn.tx.put(row)
                if row.reason == "revoked" and turn.tx.get(Pairing, row.pairing_id) is not None:
                    turn.answer(row.pairing_id, _revoked(row))

        await self.link.turn(step)

    def end_grant(self, turn: Turn, grant: Grant, reason: str) -> None:
        """End a grant for a reason other than the phone's word; its handoff becomes a tombstone."""
        row = turn.tx.get(CompanionHandoff, grant.handoff_id)
        pairing = turn.tx.get(Pairing, grant.pairing_id)
        if row is not None and pairing is not None and isinstance(stored_state(row), HandoffStored):
            is_duplicate, turn.is_duplicate = turn.is_duplicate, False
            self._step(turn, pairing, grant.handoff_id, "ended")
            turn.is_duplicate = is_duplicate
        current = turn.tx.get(Grant, grant.grant_id)
        if current is not None:
            dead = with_state(current, lifecycle.Dead(current.generation, reason))
            erase_grant(turn, dead)

    # -- what the link and the keeper ask --------------------------------------------------------------

    def report(self, tx: Transaction, pairing: Pairing) -> list[HandoffReport]:
        """The live handoffs of this pairing, for HELLO."""
        reports = []
        rows = sorted(tx.select(CompanionHandoff, pairing_id=pairing.pairing_id), key=lambda row: row.created_at)
        for row in rows:
            if row.state == "ready":
                reports.append(HandoffReport(handoff_id=row.handoff_id, state="ready", generation=0))
            elif row.state == "stored":
                grants = tx.select(Grant, handoff_id=row.handoff_id)
                if grants:
                    state, generation = grants[0].state, grants[0].generation
                    reports.append(HandoffReport(handoff_id=row.handoff_id, state=state, generation=generation))
        return reports[-HANDOFFS_LISTED_MAX:]

    def on_hello(self, turn: Turn, pairing: Pairing, hello: Hello, *, is_answer: bool) -> bool:
        """The phone is there: give up what it no longer knows, ask it again for what only it can renew."""
        if not turn.is_overtaken and len(hello.handoffs) < HANDOFFS_LISTED_MAX:
            listed = {report.handoff_id for report in hello.handoffs}
            for row in turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id, state="ready"):
                if row.handoff_id not in listed:  # it came before this HELLO, so the phone has ended it since
                    self._step(turn, pairing, row.handoff_id, "reject")
        for grant in turn.tx.select(Grant, pairing_id=pairing.pairing_id, state="needs_handoff", reason="uncertain"):
            self._ask_renewal(turn, grant, "uncertain")
        return True

    def on_rollback(self, turn: Turn, pairing: Pairing, *, who: str) -> None:
        """A restored image of this disk: its tokens may be spent, so lock every grant until a new handoff."""
        if who != "self":
            return
        for row in turn.tx.select(CompanionHandoff, state="ready"):
            of = turn.tx.get(Pairing, row.pairing_id)
            if of is not None:  # its TOKEN may have come already, and have been taken away again
                self._step(turn, of, row.handoff_id, "replaced")
        for grant in turn.tx.select(Grant):
            if grant.state not in ("dead", "locked"):
                locked = lifecycle.Locked(grant.generation, "rollback")
                turn.tx.put(with_state(grant, locked))
                turn.event("grant_locked", handoff_id=grant.handoff_id, grant_id=grant.grant_id, detail="rollback")

    def on_grant_changed(self, turn: Turn, before: Grant, after: Grant) -> None:
        """The keeper settled a refresh: tell the phone what only it can mend."""
        match state_of(after):
            case lifecycle.Dead(reason=reason):
                turn.event("grant_erased", handoff_id=after.handoff_id, grant_id=after.grant_id, detail=reason)
                self.end_grant(turn, after, reason)
                self._ask_renewal(turn, after, REASONS.get(reason, "denied"))
            case lifecycle.NeedsHandoff(reason=reason):
                turn.event("handoff_needed", handoff_id=after.handoff_id, grant_id=after.grant_id, detail=reason)
                self._ask_renewal(turn, after, REASONS.get(reason, "person"))
            case _:
                pass

    def on_late_token(self, turn: Turn, grant: Grant, refresh_token: RefreshToken) -> None:
        """A refresh was under way when its grant was erased: the provider is told of what it brought, as of the old."""
        row = turn.tx.get(CompanionHandoff, grant.handoff_id)
        if revoking.may_ask(grant, is_revoked=row is not None and row.reason == "revoked"):
            turn.after.append(partial(self._revoke_later, grant, refresh_token))

    def _ask_renewal(self, turn: Turn, grant: Grant, reason: RenewReason) -> None:
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
                self._ask_renewal(turn, grant, REASONS.get(grant.reason, "person"))

    # -- commands --------------------------------------------------------------------------------------

    async def forget(self, *, pairing: bool) -> dict[str, int]:
        """Erase every grant here, and with ``pairing`` every pairing too; returns how many of each."""

        def step(turn: Turn) -> dict[str, int]:
            grants = [grant for grant in turn.tx.select(Grant) if grant.state != "dead"]
            for grant in grants:
                self.end_grant(turn, grant, "forgotten")
                self._ask_renewal(turn, grant, "forgotten")
            pairings = turn.tx.select(Pairing) if pairing else []
            for row in pairings:
                delete_pairing(turn, row)
                for handoff in turn.tx.select(CompanionHandoff, pairing_id=row.pairing_id):
                    turn.tx.delete(CompanionHandoff, handoff.handoff_id)
            turn.event("forgotten", detail=f"{len(grants)} grants, {len(pairings)} pairings")
            return {"grants": len(grants), "pairings": len(pairings)}

        return await self.link.turn(step)

    async def start(self) -> None:
        """Pick up after a restart: a REVOKE whose provider call was cut off is answered with what is known."""

        def step(turn: Turn) -> None:
            for row in turn.tx.select(CompanionHandoff, provider_said="asking"):
                turn.tx.put(replace(row, provider_said="unknown"))
            for grant in turn.tx.select(Grant, state="locked", reason="configuration"):
                # an operator may have repaired it; asking once per start cannot hurt
                turn.tx.put(with_state(grant, lifecycle.Held(grant.generation)))

        await self.link.turn(step)


def _revoked(row: CompanionHandoff) -> Revoked:
    said: ProviderSaid = "unknown"
    if row.provider_said in ("accepted", "refused", "unreachable", "unsupported"):
        said = row.provider_said  # type: ignore[assignment]  # just checked
    return Revoked(handoff_id=row.handoff_id, provider=said, access_token_ends_at=row.access_token_ends_at)


def _fresh(turn: Turn, pairing: Pairing) -> Pairing:
    current = turn.tx.get(Pairing, pairing.pairing_id)
    assert current is not None
    return current
