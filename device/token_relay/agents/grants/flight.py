"""Flights: one request for one grant, from its intent to what became of it.

Order, and nothing may change it: the intent is on disk, then the request leaves, then the new refresh token and the
access token are on disk in one transaction, then somebody gets the access token. A grant has at most one flight, which
callers share; a caller that goes away does not end it. A result for an older generation, or for a grant that meanwhile
died, is neither stored nor served.

If the disk refuses to take a rotated token, the flight holds it and tries again until the process ends: it is the
only copy.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import structlog

from token_relay.agents.elapsed import Stamp
from token_relay.agents.failures import guarded, until_stored
from token_relay.agents.grants import lifecycle, second_attempt
from token_relay.agents.grants.answers import event_of
from token_relay.agents.grants.challenges import ends_nothing
from token_relay.agents.grants.pauses import Pauses
from token_relay.agents.grants.serving import is_lease_over, profile_of, remaining_s, scope_to_ask, state_of, with_state
from token_relay.agents.grants.tokens import cache_token, erase_grant
from token_relay.agents.grants.transfer import Exchange
from token_relay.agents.link import Link
from token_relay.agents.ports import Clock
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.turn import Turn
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import oauth
from token_relay.provider.http import Http
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable

log = structlog.get_logger()

DENIED_PAUSE_S = 60.0  # after a temporary denial (smart lockout): trying sooner prolongs it


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that may leave: its intent is on disk."""

    grant_id: str
    grant: Grant
    refresh_token: RefreshToken
    scope: str
    sent: Stamp
    claims: str = ""
    exchange: Exchange | None = None


@dataclass(frozen=True, slots=True)
class MustProbeFirst:
    """A value may be sent again that an earlier request may have spent: not before the provider answers again."""

    grant: Grant


class GrantWatcher(Protocol):
    """The agent's part of a grant's change; runs inside the transaction."""

    reauth_action: str

    def on_grant_changed(self, turn: Turn, before: Grant, after: Grant) -> None:
        """A refresh was settled, or the lease ended: ``after`` is already written."""
        ...

    def on_late_token(self, turn: Turn, grant: Grant, refresh_token: RefreshToken) -> None:
        """A refresh ended after its grant, and brought a token that nobody will hold: have it revoked if that may be.

        ``grant`` is the erased row, or the grant as it was when the request left.
        """
        ...


class Flights:
    """The flights of one keeper. ``on_landed`` is called whenever one has ended."""

    def __init__(
        self,
        *,
        link: Link,
        http: Http,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        watcher: GrantWatcher,
        pauses: Pauses,
        on_landed: Callable[[], None],
    ) -> None:
        self._link = link
        self._http = http
        self._clock = clock
        self._tasks = tasks
        self._watcher = watcher
        self._pauses = pauses
        self._on_landed = on_landed
        self._running: dict[str, asyncio.Task[TokenOutcome | None]] = {}
        self.outcomes: Tally[str] = Tally()
        """Requests since this process started, by outcome."""

    def running(self, grant_id: str) -> asyncio.Task[TokenOutcome | None] | None:
        """Return the grant's flight, or other work with its token, while it is under way."""
        flight = self._running.get(grant_id)
        return None if flight is None or flight.done() else flight

    def fly(
        self, grant_id: str, scope: str, exchange: Exchange | None = None, *, claims: str = ""
    ) -> asyncio.Task[TokenOutcome | None]:
        """Begin a flight, or share the one that is under way; it may be for something else."""
        if (flight := self.running(grant_id)) is None:
            flight = self._running[grant_id] = self._tasks.create_task(self._flight(grant_id, scope, exchange, claims))
        return flight

    async def exclusively(self, grant_id: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run other work with this grant's token while no refresh is in flight, and let none begin meanwhile."""
        while (flight := self.running(grant_id)) is not None:
            await asyncio.shield(flight)
        flight = self._running[grant_id] = self._tasks.create_task(self._other(work))
        await asyncio.shield(flight)

    async def _other(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await guarded(work(), event="work_failed")
        finally:
            self._on_landed()  # what was due meanwhile had to wait

    async def drain(self, wait_s: float) -> None:
        """Let requests in flight end, for a clean stop: an answer may be the only copy of a rotated token."""
        flights = [flight for flight in self._running.values() if not flight.done()]
        if flights:
            await asyncio.wait(flights, timeout=wait_s)

    async def _flight(self, grant_id: str, scope: str, exchange: Exchange | None, claims: str) -> TokenOutcome | None:
        """One refresh or exchange to a known end, or to a pause; its last outcome.

        Never raises: a task of the agent's group.
        """
        outcome: TokenOutcome | None = None
        try:
            attempt, is_sure = 0, False
            while True:
                begin = partial(self._begin, grant_id=grant_id, scope=scope, exchange=exchange, claims=claims)
                begun = await self._link.turn(partial(begin, is_sure=is_sure))
                if is_sure := isinstance(begun, MustProbeFirst):
                    if not (silence := await second_attempt.wait_for(self._http, self._clock, begun.grant)):
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
                await self._clock.sleep(second_attempt.retry_s(attempt))
        except VaultError as exc:
            self._pauses.fail(grant_id, f"the vault cannot be written: {exc}", None, is_written=False)
            log.error("vault_refused", detail=str(exc))
            return None
        finally:
            self._on_landed()

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
    ) -> Begun | MustProbeFirst | None:
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
                return MustProbeFirst(grant)
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
        def write(turn: Turn) -> Grant | None:
            return self._record(turn, begun, outcome)

        return await until_stored(lambda: self._link.turn(write), self._clock, event="refresh_not_stored")

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
