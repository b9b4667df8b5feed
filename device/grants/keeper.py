"""The keeper: refreshes grants, one request in flight per grant, and answers who asks for an access token.

Order, and nothing may change it: the intent is on disk, then the request leaves, then the new refresh token and the
access token are on disk in one transaction, then somebody gets the access token. Callers share a flight; a caller
that goes away does not end it. A result for an older generation, or for a grant that meanwhile died, is neither
stored nor served.

If the disk refuses to take a rotated token, the keeper holds it and tries again until the process ends: it is the
only copy.

What a change of a grant means to the protocol (RENEW, the end of a handoff) is the agent's: it watches, inside the same
transaction. See :mod:`device.grants.lifecycle` for the decisions.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import structlog

from device.elapsed import Stamp, elapsed_s
from device.grants import lease, lifecycle, schedule
from device.grants.serving import (
    Refresh,
    Serve,
    choose_grant,
    expires_at,
    is_lease_over,
    lease_of,
    normalise_scope,
    profile_of,
    remaining_s,
    serve_or_refresh,
    state_of,
    with_lease,
    with_state,
)
from device.grants.tokens import cache_token, erase_grant
from device.link import Link, wait_for_event
from device.logs import where
from device.ports import Clock, Http, Now, Random, Transaction, Vault
from device.records import CachedToken, Grant
from device.token_source import TokenGranted, TokenQuery, TokenRefused
from device.turn import Turn
from relay.errors import RelayError, VaultError
from relay.provider import oauth
from relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from relay.secret import RefreshToken

log = structlog.get_logger()

LEEWAY_RETRY_S = 1.0  # between attempts inside a provider's leeway, which is some tens of seconds
DENIED_PAUSE_S = 60.0  # after a temporary denial (smart lockout): trying sooner prolongs it
STORE_RETRY_S = 1.0
WAITERS_MAX = 64


class GrantWatcher(Protocol):
    """The agent's part of a grant's change; runs inside the transaction."""

    reauth_action: str

    def on_grant_changed(self, turn: Turn, before: Grant, after: Grant) -> None:
        """A refresh was settled, or the lease ended: ``after`` is already written."""
        ...


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request that may leave: its intent is on disk."""

    grant_id: str
    grant: Grant
    refresh_token: RefreshToken
    scope: str
    sent: Stamp


@dataclass(slots=True)
class _Pause:
    """After failures: not before ``until_boot_s``, and why."""

    failures: int
    until_boot_s: float
    reason: str


class GrantKeeper:
    """Implements :class:`device.token_source.TokenSource` over the grants of one vault."""

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
        self._flights: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, _Pause] = {}
        self._asked: dict[str, float] = {}
        self._shares: dict[str, tuple[int, float]] = {}  # per grant: generation and the share drawn for it
        self._leases_over: set[str] = set()
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
            return TokenRefused("not_found", "no grant here fits this account, audience and scope", self._no_grant())
        now = self._clock.now()
        self._asked[grant.grant_id] = now.boot_s
        if isinstance(decision, Serve):
            return self._grant_token(grant, decision.token, now)
        if isinstance(decision, str):
            return self._refuse(grant)
        newest = replace(query, force_refresh=False, min_valid_s=0.0)  # after a refresh, whatever came will do
        ends_at = now.boot_s + query.timeout_s
        while now.boot_s < ends_at and not self._is_pausing(grant.grant_id, now):
            flight = self._fly(grant.grant_id, normalise_scope(query.scope))
            try:
                async with asyncio.timeout(ends_at - now.boot_s):
                    await asyncio.shield(flight)
            except TimeoutError:
                pass
            grant, token, decision = await self._look(newest)
            if grant is None:
                return TokenRefused("not_found", "the grant has just been taken away", self._no_grant())
            now = self._clock.now()
            if isinstance(decision, Serve):
                return self._grant_token(grant, decision.token, now)
            if isinstance(decision, str):
                return self._refuse(grant)
            # else the flight was not ours: another scope, or the phone's own work with this grant
        if token is not None and token.access_token is not None and remaining_s(token, now) > 0:
            return self._grant_token(grant, token, now)
        pause = self._pauses.get(grant.grant_id)
        retry_after_s = max(0.0, pause.until_boot_s - now.boot_s) if pause else None
        reason = pause.reason if pause else f"no answer from the provider within {query.timeout_s:g} s"
        return TokenRefused("offline", reason, "try again when the network is back", retry_after_s)

    def _is_pausing(self, grant_id: str, now: Now) -> bool:
        pause = self._pauses.get(grant_id)
        return pause is not None and pause.until_boot_s > now.boot_s

    async def _look(self, query: TokenQuery) -> tuple[Grant | None, CachedToken | None, Serve | Refresh | str]:
        now = self._clock.now()

        def read(tx: Transaction) -> tuple[Grant | None, CachedToken | None, Serve | Refresh | str]:
            grants = tx.select(Grant)
            leased = [grant for grant in grants if not is_lease_over(grant, now)]
            grant = choose_grant(leased, query)
            if grant is None or grant.state == "dead":
                grant = choose_grant(grants, query)
            if grant is None:
                return None, None, "refuse"
            token = tx.get(CachedToken, grant.grant_id, normalise_scope(query.scope))
            if is_lease_over(grant, now):
                return replace(grant, state="locked", reason="lease"), token, "refuse"
            return grant, token, serve_or_refresh(state_of(grant), token, query, now)

        return await self._vault.run(read)

    def _grant_token(self, grant: Grant, token: CachedToken, now: Now) -> TokenGranted | TokenRefused:
        assert token.access_token is not None
        return TokenGranted(
            token.access_token, token.token_type, expires_at(token, now), token.granted_scope, grant.issuer
        )

    def _no_grant(self) -> str:
        return self._watcher.reauth_action

    def _refuse(self, grant: Grant) -> TokenRefused:
        why = f"{grant.state.replace('_', ' ')}: {grant.reason}" if grant.reason else grant.state
        if grant.state == "locked" and grant.reason == "lease":
            return TokenRefused("locked", "the lease is over: no word from the phone", "bring the phone online")
        if grant.state == "locked" and grant.reason == "configuration":
            return TokenRefused("reauth_required", "the provider refuses this client; see events", "check client_id")
        if grant.state == "locked":
            return TokenRefused("locked", f"the grant is {why}", self._watcher.reauth_action)
        return TokenRefused("reauth_required", f"the grant is {why}", self._watcher.reauth_action)

    # -- flights ---------------------------------------------------------------------------------------

    def _fly(self, grant_id: str, scope: str) -> asyncio.Task[None]:
        flight = self._flights.get(grant_id)
        if flight is None or flight.done():
            flight = self._flights[grant_id] = self._tasks.create_task(self._flight(grant_id, scope))
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

    async def refresh(self, grant_id: str, scope: str = "") -> None:
        """Refresh once now, whatever the cache holds; shares a flight that is already under way."""
        await asyncio.shield(self._fly(grant_id, normalise_scope(scope)))

    async def _flight(self, grant_id: str, scope: str) -> None:
        """One refresh to a known end, or to a pause. Never raises: a task of the agent's group."""
        try:
            attempt = 0
            while True:
                begun = await self._link.turn(lambda turn: self._begin(turn, grant_id, scope))
                if not isinstance(begun, _Begun):
                    return
                outcome = await oauth.refresh(
                    self._http,
                    profile_of(begun.grant),
                    token_endpoint=begun.grant.token_endpoint,
                    client_id=begun.grant.client_id,
                    refresh_token=begun.refresh_token,
                    scope=scope or _scope_to_ask(begun.grant),
                    client_info=begun.grant.profile == "entra",
                )
                self.outcomes[_event_name(outcome)] += 1
                settled = await self._settle(begun, outcome)
                if settled is None or not isinstance(outcome, OutcomeUnknown):
                    return
                if not lifecycle.may_retry_at_once(state_of(settled), profile_of(settled), self._clock.now()):
                    return
                attempt += 1
                await self._clock.sleep(LEEWAY_RETRY_S * min(attempt, 5))
        except VaultError as exc:
            self._pause(grant_id, f"the vault cannot be written: {exc}", None)
            log.error("vault_refused", detail=str(exc))
        finally:
            self._wake.set()

    def _begin(self, turn: Turn, grant_id: str, scope: str) -> _Begun | None:
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
            case lifecycle.Begin(state):
                grant = with_state(grant, state)
                turn.tx.put(grant)
                assert grant.refresh_token is not None
                return _Begun(grant_id, grant, grant.refresh_token, scope, Stamp.of(turn.now))
            case lifecycle.Wait(state, seconds):
                if state != state_of(grant):
                    turn.tx.put(with_state(grant, state))
                reason = "the last answer was lost; the provider is asked again when the access token has ended"
                wait = _Pause(0, turn.now.boot_s + seconds, reason)
                turn.after.append(lambda: self._pauses.__setitem__(grant_id, wait))
            case lifecycle.Stop(state) if state != state_of(grant):
                self._change(turn, grant, state)
            case lifecycle.Stop():
                pass
        return None

    async def _settle(self, begun: _Begun, outcome: TokenOutcome) -> Grant | None:
        while True:
            try:
                return await self._link.turn(lambda turn: self._record(turn, begun, outcome))
            except VaultError as exc:
                # The answer may hold the only copy of a rotated token: keep it until the disk takes it.
                log.error("refresh_not_stored", grant_id=begun.grant_id, detail=str(exc))
                await self._clock.sleep(STORE_RETRY_S)

    def _record(self, turn: Turn, begun: _Begun, outcome: TokenOutcome) -> Grant | None:
        grant = turn.tx.get(Grant, begun.grant_id)
        if grant is None or grant.generation != begun.grant.generation or grant.state != "refreshing":
            turn.event("late_answer_dropped", grant_id=begun.grant_id)  # died, or was replaced, meanwhile
            return None
        state = state_of(grant)
        assert isinstance(state, lifecycle.Refreshing)
        after = lifecycle.settle_refresh(state, outcome, profile_of(grant))
        pause: tuple[str, float | None] | None
        match outcome:
            case Refreshed(access_token=None, problem=problem):
                grant = self._store_tokens(turn, grant, begun, outcome)
                pause = (f"the provider's answer has no usable access token: {problem}", None)
            case Refreshed():
                grant = self._store_tokens(turn, grant, begun, outcome)
                pause = None
            case Denied():
                grant = replace(grant, trace_id=outcome.trace_id, correlation_id=outcome.correlation_id)
                retry_after_s = max(outcome.retry_after_s or 0.0, DENIED_PAUSE_S)
                pause = (f"the provider refuses for now: {outcome.error}", retry_after_s)
            case Unavailable(reason, retry_after_s):
                pause = (f"the provider cannot be reached: {reason}", retry_after_s)
            case OutcomeUnknown(reason):
                pause = (f"the provider's answer was lost: {reason}", None)
        turn.after.append(lambda: self._pause_or_go_on(begun.grant_id, pause))
        turn.event(
            _event_name(outcome),
            handoff_id=grant.handoff_id,
            grant_id=grant.grant_id,
            generation=after.generation,
            detail=_detail(outcome),
            trace_id=grant.trace_id if isinstance(outcome, Denied) else "",
            correlation_id=grant.correlation_id if isinstance(outcome, Denied) else "",
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

    def _store_tokens(self, turn: Turn, grant: Grant, begun: _Begun, outcome: Refreshed) -> Grant:
        if outcome.refresh_token is not None:
            grant = replace(grant, refresh_token=outcome.refresh_token)
        grant = replace(grant, refreshed_at=turn.wall, refreshed=turn.stamp)
        if outcome.access_token is not None:
            cache_token(turn, grant, begun.scope, begun.sent, outcome)
        return grant

    def _pause_or_go_on(self, grant_id: str, pause: tuple[str, float | None] | None) -> None:
        if pause is None:
            self._pauses.pop(grant_id, None)
        else:
            self._pause(grant_id, *pause)

    def _pause(self, grant_id: str, reason: str, retry_after_s: float | None) -> None:
        before = self._pauses.get(grant_id)
        failures = (before.failures if before else 0) + 1
        pause = schedule.backoff_s(failures=failures, share=self._random.uniform(0.0, 1.0), retry_after_s=retry_after_s)
        self._pauses[grant_id] = _Pause(failures, self._clock.now().boot_s + pause, reason)

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
            await wait_for_event(self._wake, self._clock, wait_s)

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
                if lease.is_mark_due(held, now):
                    await self._link.turn(partial(self._mark, grant_id=grant.grant_id))
            due_s = self._due_in_s(grant, by_grant.get(grant.grant_id), now)
            if due_s is None:
                continue
            pause = self._pauses.get(grant.grant_id)
            if pause is not None:
                due_s = max(due_s, pause.until_boot_s - now.boot_s)
            flight = self._flights.get(grant.grant_id)
            if due_s <= 0:
                if flight is None or flight.done():
                    self._fly(grant.grant_id, "")
            else:
                wait_s = min(wait_s, due_s)
        return max(wait_s, 0.05)

    def _due_in_s(self, grant: Grant, token: CachedToken | None, now: Now) -> float | None:
        state, profile = state_of(grant), profile_of(grant)
        if grant.refresh_token is None:
            return None
        if isinstance(state, lifecycle.Refreshing | lifecycle.Uncertain):
            return 0.0
        if not isinstance(state, lifecycle.Held):
            return None
        if not grant.refreshed:
            return 0.0  # the first refresh proves the grant and spends the value that travelled
        due: list[float] = []
        since_refresh = elapsed_s(Stamp.from_text(grant.refreshed), now)
        keep_alive = schedule.keep_alive_after_s(profile, is_otp=grant.is_otp)
        if keep_alive is not None and since_refresh is not None:
            due.append(keep_alive - since_refresh)
        asked = self._asked.get(grant.grant_id)
        if token is not None and asked is not None and now.boot_s - asked <= token.expires_in_s:
            generation, share = self._shares.get(grant.grant_id, (-1, 0.0))
            if generation != grant.generation:
                share = self._random.uniform(0.0, 1.0)
                self._shares[grant.grant_id] = (grant.generation, share)
            at_s = schedule.proactive_at_s(profile, expires_in_s=token.expires_in_s, share=share)
            if at_s is not None and token.expires_in_s >= 2 * schedule.BACKOFF_FIRST_S:
                due.append(at_s - (token.expires_in_s - remaining_s(token, now)))
        return min(due, default=None)

    def _note_lease_over(self, turn: Turn, grant_id: str) -> None:
        # The lock itself follows from the clock at each look; what it shows now must survive a start without one.
        self._mark(turn, grant_id)
        turn.event("lease_ended", grant_id=grant_id)

    def _mark(self, turn: Turn, grant_id: str) -> None:
        grant = turn.tx.get(Grant, grant_id)
        held = lease_of(grant) if grant is not None else None
        if grant is not None and held is not None:
            turn.tx.put(with_lease(grant, lease.mark(held, turn.now)))


def _scope_to_ask(grant: Grant) -> str | None:
    """A grant that was handed over may be narrower than its token: ask for no more than it says. RFC 6749 §6."""
    return grant.scope if grant.handoff_id else None


def _event_name(outcome: TokenOutcome) -> str:
    match outcome:
        case Refreshed():
            return "refreshed"
        case Denied():
            return "refresh_denied"
        case Unavailable():
            return "provider_unavailable"
        case OutcomeUnknown():
            return "refresh_answer_lost"


def _detail(outcome: TokenOutcome) -> str:
    match outcome:
        case Refreshed(problem=problem):
            return problem
        case Denied():
            codes = " ".join(str(code) for code in outcome.codes)
            return " ".join(filter(None, (outcome.kind, outcome.error, outcome.suberror, codes)))
        case Unavailable(reason=reason) | OutcomeUnknown(reason=reason):
            return reason
