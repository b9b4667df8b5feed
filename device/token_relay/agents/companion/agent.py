"""The companion's agent: takes grants from its phones, keeps them alive, gives them up when told to.

Each message is applied by :meth:`CompanionAgent.on_message` inside one transaction; what changes a handoff goes through
:mod:`.steps`. What a change of a grant means to the phone (RENEW, the end of a handoff) happens in the transaction of
the change. The world is reached only through the ports that come in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from token_relay.agents.companion.invitations import Invitations
from token_relay.agents.companion.steps import REASONS, CompanionSteps
from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lease, lifecycle, revocation
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.grants.serving import lease_of, state_of, with_lease, with_state
from token_relay.agents.link import Link
from token_relay.agents.pairings import delete_pairing
from token_relay.agents.ports import Clock, Random, Transaction, Vault
from token_relay.agents.records import CompanionHandoff, Grant, Identity, Outgoing, Pairing
from token_relay.agents.turn import Turn
from token_relay.protocol.envelope import open_once
from token_relay.protocol.errors import PeerError
from token_relay.protocol.handoff import (
    CompanionEvent,
)
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import (
    HANDOFFS_LISTED_MAX,
    Cancel,
    Closed,
    GrantPayload,
    HandoffReport,
    Hello,
    Lease,
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
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.http import Http


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
        self.link = Link(vault=vault, clock=clock, random=random, identity=identity, handler=self, tasks=tasks)
        self.keeper = GrantKeeper(
            link=self.link, vault=vault, http=http, clock=clock, random=random, tasks=tasks, watcher=self
        )
        self.steps = CompanionSteps(link=self.link, keeper=self.keeper, http=http)
        self.invitations = Invitations(link=self.link, clock=clock, random=random, name=name, broker_url=broker_url)
        self.link.on_mailbox = self.invitations.receive
        self.reauth_action = f"on the phone: token-relay phone handoff {self.link.own_id}"

    # -- messages --------------------------------------------------------------------------------------

    def on_message(self, turn: Turn, pairing: Pairing, message: Message, plaintext: bytes) -> None:
        """Apply one message of the phone; see :class:`token_relay.agents.link.Handler`."""
        match message.body:
            case Offer() as offer:
                self.on_offer(turn, pairing, offer, plaintext)
            case Token() as token:
                self.on_token(turn, pairing, token, message.head.sent_at)
            case Cancel(handoff_id=handoff_id):
                self.steps.step(turn, pairing, handoff_id, "cancel")
            case Revoke(handoff_id=handoff_id):
                self.steps.step(turn, pairing, handoff_id, "revoke")
            case Closed(handoff_id=handoff_id):
                self.steps.step(turn, pairing, handoff_id, "closed")
            case Reject() as reject:
                self._rejected(turn, pairing, reject, message.head.in_reply_to)
            case Lease() as terms:
                self.on_lease(turn, pairing, terms)
            case Pair3() as pair3:
                self.invitations.on_pair3(turn, pairing, pair3)
            case _:
                raise PeerError("wrong_direction")

    def on_offer(self, turn: Turn, pairing: Pairing, offer: Offer, plaintext: bytes) -> None:
        row = turn.tx.get(CompanionHandoff, offer.handoff_id)
        if row is None:
            reason = self._refusal(turn, pairing, offer)
            if turn.is_duplicate or reason:
                turn.answer(pairing.pairing_id, Reject(handoff_id=offer.handoff_id, reason=reason or "gone"))
                return
            for other in turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id, state="ready"):
                self.steps.step(turn, pairing, other.handoff_id, "replaced")
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
        self.steps.step(turn, pairing, offer.handoff_id, "offer", row=row)

    def _refusal(self, turn: Turn, pairing: Pairing, offer: Offer) -> str:
        """Say why an OFFER is not taken, or return an empty string."""
        if pairing.state != "active":
            return "not_active"
        if offer.expires_at and turn.now.is_synced and turn.now.wall_s > offer.expires_at:
            return "expired"
        return "too_many_handoffs" if self.steps.is_full(turn, pairing) else ""

    def on_token(self, turn: Turn, pairing: Pairing, token: Token, sent_at: int) -> None:
        row = turn.tx.get(CompanionHandoff, token.handoff_id)
        payload: GrantPayload | None = None
        if row is not None and row.state == "ready":
            try:
                payload = self._open_grant(pairing, row, token)
            except PeerError as exc:
                reason = exc.reason
                turn.after.append(lambda: self.link.count_reject(reason))
        event: CompanionEvent = "bad_token" if payload is None else "token"
        self.steps.step(turn, pairing, token.handoff_id, event, payload=payload)
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
            self.steps.step(turn, pairing, reject.handoff_id, "reject")

    def on_lease(self, turn: Turn, pairing: Pairing, terms: Lease) -> None:
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
                    self.steps.step(turn, pairing, row.handoff_id, "reject")
        for grant in turn.tx.select(Grant, pairing_id=pairing.pairing_id, state="needs_handoff", reason="uncertain"):
            self.steps.ask_renewal(turn, grant, "uncertain")
        return True

    def on_rollback(self, turn: Turn, pairing: Pairing, *, who: str) -> None:
        """A restored image of this disk: its tokens may be spent, so lock every grant until a new handoff."""
        if who != "self":
            return
        for row in turn.tx.select(CompanionHandoff, state="ready"):
            of = turn.tx.get(Pairing, row.pairing_id)
            if of is not None:  # its TOKEN may have come already, and have been taken away again
                self.steps.step(turn, of, row.handoff_id, "replaced")
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
                self.steps.end_grant(turn, after, reason)
                self.steps.ask_renewal(turn, after, REASONS.get(reason, "denied"))
            case lifecycle.NeedsHandoff(reason=reason):
                turn.event("handoff_needed", handoff_id=after.handoff_id, grant_id=after.grant_id, detail=reason)
                self.steps.ask_renewal(turn, after, REASONS.get(reason, "person"))
            case _:
                pass

    def on_late_token(self, turn: Turn, grant: Grant, refresh_token: RefreshToken) -> None:
        """A refresh was under way when its grant was erased: the provider is told of what it brought, as of the old."""
        row = turn.tx.get(CompanionHandoff, grant.handoff_id)
        if revocation.may_ask(grant, is_revoked=row is not None and row.reason == "revoked"):
            turn.after.append(partial(self.steps.revoke_later, grant, refresh_token))

    # -- commands --------------------------------------------------------------------------------------

    async def forget(self, *, pairing: bool) -> dict[str, int]:
        """Erase every grant here, and with ``pairing`` every pairing too; returns how many of each."""

        def step(turn: Turn) -> dict[str, int]:
            grants = [grant for grant in turn.tx.select(Grant) if grant.state != "dead"]
            for grant in grants:
                self.steps.end_grant(turn, grant, "forgotten")
                self.steps.ask_renewal(turn, grant, "forgotten")
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

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """See :class:`token_relay.agents.agent.Agent`."""
        return [self.link.resend_loop(), self.keeper.run(), self.link.greet_loop()]

    def network_is_up(self) -> None:
        """The broker is connected: what waits for the provider may try at once."""
        self.keeper.network_is_up()
