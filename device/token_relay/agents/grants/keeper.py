"""The keeper: answers whoever asks for an access token, and refreshes unasked what is due.

It serves from the vault where it can, and else sends a flight (:mod:`.flight`), which callers share. What a change of a
grant means to the protocol (RENEW, the end of a handoff) is the agent's: it watches, inside the same transaction. See
:mod:`token_relay.agents.grants.lifecycle` for the decisions.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import structlog

from token_relay.agents.failures import STORE_RETRY_S
from token_relay.agents.grants import lease, schedule
from token_relay.agents.grants.answers import granted, refusal
from token_relay.agents.grants.challenges import Challenges, refusal_of
from token_relay.agents.grants.flight import Flights, GrantWatcher
from token_relay.agents.grants.pauses import Pauses
from token_relay.agents.grants.serving import (
    Refresh,
    Serve,
    lease_of,
    look,
    normalise_scope,
    profile_of,
    remaining_s,
    with_lease,
)
from token_relay.agents.grants.transfer import PAUSE_S, Exchange
from token_relay.agents.link import Link
from token_relay.agents.ports import Clock, Random, Vault
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused, TransferGranted, TransferQuery
from token_relay.agents.turn import Turn
from token_relay.protocol.errors import VaultError
from token_relay.provider.http import Http
from token_relay.provider.outcome import OutcomeUnknown, Unavailable

log = structlog.get_logger()

ASKED_AGAIN_S = 60.0  # questions closer together do not each make the keeper look what is due
WAITERS_MAX = 64


class GrantKeeper:
    """Implements ``TokenSource`` and ``TransferSource`` of :mod:`.agents.token_source` over the grants of one vault."""

    def __init__(
        self,
        *,
        link: Link,
        vault: Vault,
        http: Http,
        clock: Clock,
        random: Random,
        tasks: asyncio.TaskGroup,
        watcher: GrantWatcher,
    ) -> None:
        self._link = link
        self._vault = vault
        self._http = http
        self._clock = clock
        self._random = random
        self._watcher = watcher
        self._challenges = Challenges()
        self._pauses = Pauses(clock, random)
        self._wake = asyncio.Event()
        self.flights = Flights(
            link=link,
            http=http,
            clock=clock,
            tasks=tasks,
            watcher=watcher,
            pauses=self._pauses,
            on_landed=self._wake.set,
        )
        self._asked: dict[str, float] = {}
        self._shares: dict[str, tuple[int, float]] = {}  # per grant: generation and the share drawn for it
        self._leases_over: set[str] = set()
        self._exchanged: dict[str, float] = {}  # per grant: when the last exchange began
        self._waiters = 0

    # -- asking ----------------------------------------------------------------------------------------

    async def get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        """Answer from disk, or refresh within ``query.timeout_s``; never raises for an expected failure."""
        if self._waiters >= WAITERS_MAX:
            return TokenRefused("busy", f"{WAITERS_MAX} programs are waiting already", retry_after_s=1.0)
        self._waiters += 1
        try:
            return await self._get_token(query)
        except VaultError as exc:
            return TokenRefused("offline", f"the vault cannot be used: {exc}", exc.hint, retry_after_s=STORE_RETRY_S)
        finally:
            self._waiters -= 1

    async def _get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        grant, token, decision = await self._look(query)
        if grant is None:
            return TokenRefused(
                "not_found", "no grant here fits this account, audience and scope", self._watcher.reauth_action
            )
        now = self._clock.now()
        if now.boot_s - self._asked.get(grant.grant_id, -ASKED_AGAIN_S) >= ASKED_AGAIN_S:
            self._wake.set()  # somebody cares again: a refresh ahead of time may be worth it
        self._asked[grant.grant_id] = now.boot_s
        if isinstance(decision, Serve):
            return granted(grant, decision.token, now)
        if isinstance(decision, str):
            return refusal(grant, self._watcher.reauth_action)
        if query.claims:
            return await self._meet_challenge(grant, query)
        newest = replace(query, force_refresh=False, min_valid_s=0.0)  # after a refresh, whatever came will do
        ends_at = now.boot_s + query.timeout_s
        while now.boot_s < ends_at and not self._pauses.is_on(grant.grant_id, now):
            flight = self.flights.fly(grant.grant_id, normalise_scope(query.scope))
            try:
                async with asyncio.timeout(ends_at - now.boot_s):
                    await asyncio.shield(flight)
            except TimeoutError:
                pass
            grant, token, decision = await self._look(newest)
            if grant is None:
                return TokenRefused("not_found", "the grant has just been taken away", self._watcher.reauth_action)
            now = self._clock.now()
            if isinstance(decision, Serve):
                return granted(grant, decision.token, now)
            if isinstance(decision, str):
                return refusal(grant, self._watcher.reauth_action)
            # else the flight was not ours: another scope, or the phone's own work with this grant
        if token is not None and token.access_token is not None and remaining_s(token, now) > 0:
            return granted(grant, token, now)
        return self._offline(grant.grant_id, query)

    async def _meet_challenge(self, grant: Grant, query: TokenQuery) -> TokenGranted | TokenRefused:
        """Refresh once with the claims that a resource wants; a token from before is no answer."""
        grant_id, scope, now = grant.grant_id, normalise_scope(query.scope), self._clock.now()
        if not profile_of(grant).takes_claims:
            return TokenRefused("denied", "the provider of this grant takes no claims challenge", "leave claims out")
        challenge = self._challenges.admit(grant_id, scope, query.claims, now)
        if isinstance(challenge, TokenRefused):
            return challenge
        try:
            async with asyncio.timeout(query.timeout_s):
                while challenge.flight is None:
                    if self._pauses.is_on(grant_id, self._clock.now()):
                        self._challenges.forget(grant_id, scope)
                        return self._offline(grant_id, query)
                    if (other := self.flights.running(grant_id)) is None:
                        challenge.flight = self.flights.fly(grant_id, scope, claims=query.claims)
                    else:
                        await asyncio.shield(other)
                outcome = await asyncio.shield(challenge.flight)
        except TimeoutError:
            return self._offline(grant_id, query)
        if isinstance(outcome, Unavailable | OutcomeUnknown):
            self._challenges.forget(grant_id, scope)
        refused = refusal_of(outcome, self._watcher.reauth_action)
        if refused is not None:
            return refused
        after, _, decision = await self._look(replace(query, force_refresh=False, min_valid_s=0.0, claims=""))
        if after is None:
            return TokenRefused("not_found", "the grant has just been taken away", self._watcher.reauth_action)
        if isinstance(decision, Serve) and outcome is not None:
            return granted(after, decision.token, self._clock.now())
        if isinstance(decision, str):
            return refusal(after, self._watcher.reauth_action)
        return self._offline(grant_id, query)

    def _offline(self, grant_id: str, query: TokenQuery) -> TokenRefused:
        pause = self._pauses.get(grant_id)
        retry_after_s = max(0.0, pause.until_boot_s - self._clock.now().boot_s) if pause else None
        reason = pause.reason if pause else f"no answer from the provider within {query.timeout_s:g} s"
        return TokenRefused("offline", reason, "try again when the network is back", retry_after_s)

    async def get_session_transfer(self, query: TransferQuery) -> TransferGranted | TokenRefused:
        """Trade a grant's refresh token for a session transfer token; each caller gets one of his own.

        What the provider rotated is on disk before this returns, or this caller gets nothing. A caller that goes away
        does not end the exchange; its token is then nobody's.
        """
        if self._waiters >= WAITERS_MAX:
            return TokenRefused("busy", f"{WAITERS_MAX} programs are waiting already", retry_after_s=1.0)
        self._waiters += 1
        try:
            async with asyncio.timeout(query.timeout_s):
                return await self._exchange(TokenQuery(account=query.account, audience=query.audience))
        except TimeoutError:
            return TokenRefused("offline", f"no answer from the provider within {query.timeout_s:g} s", "try again")
        except VaultError as exc:
            return TokenRefused("offline", f"the vault cannot be used: {exc}", exc.hint, retry_after_s=STORE_RETRY_S)
        finally:
            self._waiters -= 1

    async def _exchange(self, query: TokenQuery) -> TransferGranted | TokenRefused:
        has_mended = False
        while True:
            grant, _, _ = await self._look(query)
            if grant is None:
                return TokenRefused("not_found", "no grant here fits account and audience", self._watcher.reauth_action)
            if grant.state not in ("held", "refreshing", "uncertain"):
                return refusal(grant, self._watcher.reauth_action)
            grant_id, now = grant.grant_id, self._clock.now()
            if (flight := self.flights.running(grant_id)) is not None:
                await asyncio.shield(flight)
                continue
            pause, wait_s = self._pauses.get(grant_id), self._exchanged.get(grant_id, -PAUSE_S) + PAUSE_S - now.boot_s
            if pause is not None and pause.until_boot_s > now.boot_s:
                return TokenRefused("offline", pause.reason, "try again", pause.until_boot_s - now.boot_s)
            if wait_s > 0:
                await self._clock.sleep(wait_s)
                continue
            if grant.state != "held" and has_mended:
                return TokenRefused("offline", "an earlier answer of the provider is still missing", "try again")
            if grant.state != "held":  # an intent that is open is brought to its end first
                await asyncio.shield(self.flights.fly(grant_id, ""))
                has_mended = True
                continue
            self._exchanged[grant_id] = now.boot_s
            exchange = Exchange(self._http)
            await asyncio.shield(self.flights.fly(grant_id, "", exchange))
            if (answer := exchange.answer(self._clock.now())) is not None:
                return answer
            after, _, _ = await self._look(query)
            return refusal(after or grant, self._watcher.reauth_action)

    async def _look(self, query: TokenQuery) -> tuple[Grant | None, CachedToken | None, Serve | Refresh | str]:
        now = self._clock.now()
        return await self._vault.run(lambda tx: look(tx, query, now))

    async def refresh(self, grant_id: str, scope: str = "") -> None:
        """Refresh once now, whatever the cache holds; shares a flight that is already under way."""
        await asyncio.shield(self.flights.fly(grant_id, normalise_scope(scope)))

    def network_is_up(self) -> None:
        """Something says that the network is back: try again at once, an open intent first."""
        self._pauses.clear()
        self._wake.set()

    def pause_reason(self, grant_id: str) -> str:
        """Return why the last refresh did not work, for status; empty when it did."""
        pause = self._pauses.get(grant_id)
        return pause.reason if pause else ""

    def wake(self) -> None:
        """A grant was stored: look at once whether it wants a refresh."""
        self._wake.set()

    # -- unasked ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Refresh what is due without being asked, mark leases; runs until cancelled."""
        while True:
            self._wake.clear()
            try:
                wait_s = await self._tend()
            except VaultError as exc:
                log.error("vault_refused", detail=str(exc))
                wait_s = schedule.WAIT_S_MAX
            await self._clock.wait(self._wake, wait_s)

    async def _tend(self) -> float:
        """Start what is due; return the seconds until something may be due again."""
        now = self._clock.now()
        grants, tokens = await self._vault.run(lambda tx: (tx.select(Grant), tx.select(CachedToken, scope="")))
        by_grant = {token.grant_id: token for token in tokens}
        wait_s = schedule.WAIT_S_MAX
        for grant in grants:
            held = lease_of(grant)
            left = lease.left_s(held, now) if held is not None else None
            if held is not None and grant.state != "dead":
                if left is not None and left <= 0:
                    if grant.grant_id not in self._leases_over:
                        self._leases_over.add(grant.grant_id)
                        await self._link.turn(partial(self._note_lease_over, grant_id=grant.grant_id))
                    continue
                self._leases_over.discard(grant.grant_id)
                mark_s = lease.mark_due_in_s(held, now)
                if mark_s <= 0:
                    await self._link.turn(partial(self._mark, grant_id=grant.grant_id))
                    mark_s = lease.MARK_EVERY_S
                wait_s = min(wait_s, mark_s, wait_s if left is None else left)
            asked_s, share = self._asked.get(grant.grant_id), self._share_of(grant)
            due_s = schedule.due_in_s(grant, by_grant.get(grant.grant_id), now, asked_boot_s=asked_s, share=share)
            if due_s is None:
                continue
            pause = self._pauses.get(grant.grant_id)
            if pause is not None:
                due_s = max(due_s, pause.unasked_boot_s - now.boot_s)
            if due_s <= 0:
                self.flights.fly(grant.grant_id, "")
            else:
                wait_s = min(wait_s, due_s)
        return max(wait_s, 0.05)

    def _share_of(self, grant: Grant) -> float:
        """Return where in an access token's life this grant is refreshed unasked; drawn anew for each generation."""
        generation, share = self._shares.get(grant.grant_id, (-1, 0.0))
        if generation != grant.generation:
            share = self._random.uniform(0.0, 1.0)
            self._shares[grant.grant_id] = (grant.generation, share)
        return share

    def _note_lease_over(self, turn: Turn, grant_id: str) -> None:
        # The lock itself follows from the clock at each look; what it shows now must survive a start without one.
        self._mark(turn, grant_id)
        turn.event("lease_ended", grant_id=grant_id)

    def _mark(self, turn: Turn, grant_id: str) -> None:
        grant = turn.tx.get(Grant, grant_id)
        held = lease_of(grant) if grant is not None else None
        if grant is not None and held is not None:
            turn.tx.put(with_lease(grant, lease.mark(held, turn.now)))
