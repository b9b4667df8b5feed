"""The keeper: refreshes grants, one request in flight per grant, and answers who asks for an access token.

Order, and nothing may change it: the intent is on disk, then the request leaves, then the new refresh token and the
access token are on disk in one transaction, then somebody gets the access token. Callers share a flight; a caller
that goes away does not end it. A result for an older generation, or for a grant that meanwhile died, is neither
stored nor served.

If the disk refuses to take a rotated token, the keeper holds it and tries again until the process ends: it is the
only copy.

What a change of a grant means to the protocol (RENEW, the end of a handoff) is the agent's: it watches, inside the same
transaction. See :mod:`token_relay.agents.grants.lifecycle` for the decisions.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from token_relay.agents.elapsed import Stamp
from token_relay.agents.failures import where
from token_relay.agents.grants import lease, lifecycle, schedule
from token_relay.agents.grants import second_attempt as again
from token_relay.agents.grants.answers import event_of, granted, refusal
from token_relay.agents.grants.challenges import Challenges, ends_nothing, refusal_of
from token_relay.agents.grants.due import due_in_s
from token_relay.agents.grants.flight import Begun, GrantWatcher, Unsure
from token_relay.agents.grants.pauses import Pauses
from token_relay.agents.grants.serving import (
    Refresh,
    Serve,
    is_lease_over,
    lease_of,
    look,
    normalise_scope,
    profile_of,
    remaining_s,
    scope_to_ask,
    state_of,
    with_lease,
    with_state,
)
from token_relay.agents.grants.tokens import cache_token, erase_grant
from token_relay.agents.grants.transfer import PAUSE_S, Exchange
from token_relay.agents.link import Link
from token_relay.agents.ports import Clock, Random, Vault
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused, TransferGranted, TransferQuery
from token_relay.agents.turn import Turn
from token_relay.protocol.errors import RelayError, VaultError
from token_relay.provider import oauth
from token_relay.provider.http import Http
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable

log = structlog.get_logger()

DENIED_PAUSE_S = 60.0  # after a temporary denial (smart lockout): trying sooner prolongs it
STORE_RETRY_S = 1.0
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
        self._tasks = tasks
        self._watcher = watcher
        self.outcomes: Tally[str] = Tally()
        """Refreshes since this process started, by outcome."""
        self._flights: dict[str, asyncio.Task[TokenOutcome | None]] = {}
        self._challenges = Challenges()
        self._pauses = Pauses(clock, random)
        self._asked: dict[str, float] = {}
        self._shares: dict[str, tuple[int, float]] = {}  # per grant: generation and the share drawn for it
        self._leases_over: set[str] = set()
        self._exchanged: dict[str, float] = {}  # per grant: when the last exchange began
        self._waiters = 0
        self._wake = asyncio.Event()

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
            flight = self._fly(grant.grant_id, normalise_scope(query.scope))
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
                    if (other := self._flights.get(grant_id)) is None or other.done():
                        flight = self._tasks.create_task(self._flight(grant_id, scope, None, query.claims))
                        challenge.flight = self._flights[grant_id] = flight
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
            if (flight := self._flights.get(grant_id)) is not None and not flight.done():
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
                await asyncio.shield(self._fly(grant_id, ""))
                has_mended = True
                continue
            self._exchanged[grant_id] = now.boot_s
            exchange = Exchange(self._http)
            await asyncio.shield(self._fly(grant_id, "", exchange))
            if (answer := exchange.answer(self._clock.now())) is not None:
                return answer
            after, _, _ = await self._look(query)
            return refusal(after or grant, self._watcher.reauth_action)

    async def _look(self, query: TokenQuery) -> tuple[Grant | None, CachedToken | None, Serve | Refresh | str]:
        now = self._clock.now()
        return await self._vault.run(lambda tx: look(tx, query, now))

    # -- flights ---------------------------------------------------------------------------------------

    def _fly(self, grant_id: str, scope: str, exchange: Exchange | None = None) -> asyncio.Task[TokenOutcome | None]:
        flight = self._flights.get(grant_id)
        if flight is None or flight.done():
            flight = self._flights[grant_id] = self._tasks.create_task(self._flight(grant_id, scope, exchange))
        return flight

    async def exclusively(self, grant_id: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run other work with this grant's token while no refresh is in flight, and let none begin meanwhile."""
        while (flight := self._flights.get(grant_id)) is not None and not flight.done():
            await asyncio.shield(flight)
        flight = self._flights[grant_id] = self._tasks.create_task(self._logged(work()))
        await asyncio.shield(flight)

    async def _logged(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RelayError as exc:  # a task of the agent's group: raised, it would take the agent down
            log.error("work_failed", error=type(exc).__name__, detail=str(exc))
        except Exception as exc:
            log.error("work_failed", error=type(exc).__name__, where=where(exc.__traceback__))
        finally:
            self._wake.set()  # what was due meanwhile had to wait

    async def refresh(self, grant_id: str, scope: str = "") -> None:
        """Refresh once now, whatever the cache holds; shares a flight that is already under way."""
        await asyncio.shield(self._fly(grant_id, normalise_scope(scope)))

    async def _flight(
        self, grant_id: str, scope: str, exchange: Exchange | None, claims: str = ""
    ) -> TokenOutcome | None:
        """One refresh or exchange to a known end, or to a pause; its last outcome.

        Never raises: a task of the agent's group.
        """
        outcome: TokenOutcome | None = None
        try:
            attempt, is_sure = 0, False
            while True:
                begin = partial(self._begin, grant_id=grant_id, scope=scope, exchange=exchange, claims=claims)
                begun = await self._link.turn(partial(begin, is_sure=is_sure))
                if is_sure := isinstance(begun, Unsure):
                    if not (silence := await again.wait_for(self._http, self._clock, begun.grant)):
                        continue
                    reason = f"an answer was lost, and the provider is silent: {silence}"
                    self._pauses.fail(grant_id, reason, None, is_written=False)
                if not isinstance(begun, Begun):
                    return outcome
                if exchange is not None:
                    outcome = await exchange.send(begun.grant, begun.refresh_token, begun.sent)
                else:
                    outcome = await self._refresh(begun)
                self.outcomes[event_of(outcome)[0]] += 1
                settled = await self._settle(begun, outcome)
                if exchange is not None:
                    exchange.settled(settled)
                if settled is None or not isinstance(outcome, OutcomeUnknown):
                    return outcome
                if not lifecycle.may_retry_at_once(state_of(settled), profile_of(settled), self._clock.now()):
                    return outcome
                attempt += 1
                await self._clock.sleep(again.retry_s(attempt))
        except VaultError as exc:
            self._pauses.fail(grant_id, f"the vault cannot be written: {exc}", None, is_written=False)
            log.error("vault_refused", detail=str(exc))
            return None
        finally:
            self._wake.set()

    async def _refresh(self, begun: Begun) -> TokenOutcome:
        return await oauth.refresh(
            self._http,
            profile_of(begun.grant),
            token_endpoint=begun.grant.token_endpoint,
            client_id=begun.grant.client_id,
            refresh_token=begun.refresh_token,
            scope=begun.scope or scope_to_ask(begun.grant),
            client_info=begun.grant.profile == "entra",
            claims=begun.claims,
        )

    def _begin(
        self, turn: Turn, *, grant_id: str, scope: str, exchange: Exchange | None, claims: str, is_sure: bool
    ) -> Begun | Unsure | None:
        grant = turn.tx.get(Grant, grant_id)
        if grant is None or grant.refresh_token is None:
            return None
        if is_lease_over(grant, turn.now):
            return None
        ends = [remaining_s(token, turn.now) for token in turn.tx.select(CachedToken, grant_id=grant_id)]
        decision = lifecycle.begin_refresh(
            state_of(grant), profile_of(grant), turn.now, access_token_ends_in_s=max(ends, default=None)
        )
        match decision:
            case lifecycle.Begin(state) if not is_sure and lifecycle.may_be_spent(state, profile_of(grant)):
                return Unsure(grant)
            case lifecycle.Begin(state):
                grant = with_state(grant, state)
                turn.tx.put(grant)
                assert grant.refresh_token is not None
                return Begun(grant_id, grant, grant.refresh_token, scope, Stamp.of(turn.now), claims, exchange)
            case lifecycle.Wait(state, seconds):
                if state != state_of(grant):
                    turn.tx.put(with_state(grant, state))
                reason = "the last answer was lost; the provider is asked again when the access token has ended"
                # At least a second: the last instant of an access token is lost in rounding.
                until_boot_s = turn.now.boot_s + max(seconds, 1.0)
                turn.after.append(lambda: self._pauses.wait(grant_id, reason, until_boot_s))
            case lifecycle.Stop(state) if state != state_of(grant):
                self._change(turn, grant, state)
            case lifecycle.Stop():
                pass
        return None

    async def _settle(self, begun: Begun, outcome: TokenOutcome) -> Grant | None:
        while True:
            try:
                return await self._link.turn(lambda turn: self._record(turn, begun, outcome))
            except VaultError as exc:
                # The answer may hold the only copy of a rotated token: keep it until the disk takes it.
                log.error("refresh_not_stored", grant_id=begun.grant_id, detail=str(exc))
                await self._clock.sleep(STORE_RETRY_S)

    def _record(self, turn: Turn, begun: Begun, outcome: TokenOutcome) -> Grant | None:
        grant = turn.tx.get(Grant, begun.grant_id)
        if grant is None or grant.generation != begun.grant.generation or grant.state != "refreshing":
            turn.event("late_answer_dropped", grant_id=begun.grant_id)  # died, or was replaced, meanwhile
            brought = outcome.refresh_token if isinstance(outcome, Refreshed) else None
            if brought is not None and (grant is None or grant.state == "dead"):
                self._watcher.on_late_token(turn, grant or begun.grant, brought)
            return None
        state = state_of(grant)
        assert isinstance(state, lifecycle.Refreshing)
        after = lifecycle.settle_refresh(state, outcome, profile_of(grant))
        if begun.claims and ends_nothing(outcome):
            after = lifecycle.Held(grant.generation)  # the claims were refused, not the grant
        pause: tuple[str, float | None] | None
        match outcome:
            case Refreshed(access_token=None, problem=problem) if begun.exchange is None:
                grant = self._store_tokens(turn, grant, begun, outcome)
                pause = (f"the provider's answer has no usable access token: {problem}", None)
            case Refreshed():
                grant = self._store_tokens(turn, grant, begun, outcome)
                pause = None
            case Denied() if begun.claims and ends_nothing(outcome):
                pause = None
            case Denied():
                grant = replace(grant, trace_id=outcome.trace_id, correlation_id=outcome.correlation_id)
                retry_after_s = max(outcome.retry_after_s or 0.0, DENIED_PAUSE_S)
                pause = (f"the provider refuses for now: {outcome.error}", retry_after_s)
                if begun.exchange is not None and begun.exchange.is_refused:
                    pause = None  # it refused the exchange: a refresh may go on
            case Unavailable(reason, retry_after_s):
                pause = (f"the provider cannot be reached: {reason}", retry_after_s)
            case OutcomeUnknown(reason):
                pause = (f"the provider's answer was lost: {reason}", None)
        turn.after.append(lambda: self._pauses.note(begun.grant_id, pause))
        told = begun.exchange.event() if begun.exchange is not None else None
        name, detail = told or event_of(outcome)
        turn.event(
            name,
            handoff_id=grant.handoff_id,
            grant_id=grant.grant_id,
            generation=after.generation,
            detail=detail,
            trace_id=outcome.trace_id if isinstance(outcome, Denied) else "",
            correlation_id=outcome.correlation_id if isinstance(outcome, Denied) else "",
        )
        return self._change(turn, grant, after)

    def _change(self, turn: Turn, grant: Grant, state: lifecycle.GrantState) -> Grant:
        """Write a new state, erase what it must not keep, and tell the agent; all in this transaction."""
        after = with_state(grant, state)
        if not lifecycle.keeps_refresh_token(state):
            after = replace(after, refresh_token=None)
        turn.tx.put(after)
        if isinstance(state, lifecycle.Dead):
            erase_grant(turn, after)
        self._watcher.on_grant_changed(turn, grant, after)
        return after

    def _store_tokens(self, turn: Turn, grant: Grant, begun: Begun, outcome: Refreshed) -> Grant:
        if outcome.refresh_token is not None:
            grant = replace(grant, refresh_token=outcome.refresh_token)
        grant = replace(grant, refreshed_at=turn.wall, refreshed=turn.stamp)
        if outcome.access_token is not None:
            cache_token(turn, grant, begun.scope, begun.sent, outcome)
        return grant

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

    async def drain(self, wait_s: float) -> None:
        """Let requests in flight end, for a clean stop: an answer may be the only copy of a rotated token."""
        flights = [flight for flight in self._flights.values() if not flight.done()]
        if flights:
            await asyncio.wait(flights, timeout=wait_s)

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
            due_s = due_in_s(grant, by_grant.get(grant.grant_id), now, asked_boot_s=asked_s, share=share)
            if due_s is None:
                continue
            pause = self._pauses.get(grant.grant_id)
            if pause is not None:
                due_s = max(due_s, pause.unasked_boot_s - now.boot_s)
            flight = self._flights.get(grant.grant_id)
            if due_s <= 0:
                if flight is None or flight.done():
                    self._fly(grant.grant_id, "")
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
