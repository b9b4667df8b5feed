"""Flights: one errand of one grant, each request of it from its intent to its outcome.

The order is fixed: the intent is on disk, then the request leaves, then the new refresh token and the access token are
on disk in one transaction, then somebody gets the access token. A grant has at most one flight, which callers share; a
caller that goes away does not end it. A result for an older generation, or for a grant that has died meanwhile, is
neither stored nor served.

If the disk refuses to take a rotated token, the flight holds it and tries again until the process ends: it is the
only copy.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from token_relay.agents.elapsed import Stamp
from token_relay.agents.failures import until_stored, where
from token_relay.agents.grants import lifecycle, refuted, second_attempt
from token_relay.agents.grants.answers import allow_host, check_client, event_of, ids_of, problem_of, words_of
from token_relay.agents.grants.errand import Errand, RefreshErrand
from token_relay.agents.grants.lanes import Lanes
from token_relay.agents.grants.pauses import Pauses
from token_relay.agents.grants.refusals import Refusals
from token_relay.agents.grants.schedule import columns_of_life, refused_pause_s
from token_relay.agents.grants.serving import (
    barred_host,
    columns_of,
    is_lease_over,
    may_be_sent,
    profile_of,
    remaining_s,
    said_of,
    state_of,
)
from token_relay.agents.grants.tokens import cache_token, end_grant
from token_relay.agents.ports import Ports
from token_relay.agents.records import CachedToken, Grant, GrantColumns
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable

log = structlog.get_logger()

DENIED_PAUSE_S = 60.0  # after a temporary denial (smart lockout): trying sooner prolongs it
LATER = "it is tried again by itself"


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that may leave: its intent is on disk."""

    errand: Errand
    grant: Grant
    refresh_token: RefreshToken
    sent: Stamp


class Gate(Protocol):
    """Whether a grant's endpoints may be asked at all. A phone's own grants need none: a person configured them."""

    async def judge(self, grant: Grant) -> str | Unavailable:
        """Return the host that is not allowed, empty where all are; Unavailable: it cannot be known now."""
        ...


@dataclass(frozen=True, slots=True)
class MustProbeFirst:
    """An earlier request may have spent the value: it may be sent again once the provider answers again."""

    grant: Grant


class GrantWatcher(Protocol):
    """The agent's part in a grant's change; runs inside the transaction."""

    reauth_action: str

    def holds_alone(self, turn: Turn, grant: Grant) -> bool:
        """Return whether, as far as the phone knows, no other device holds a grant that reuse of this one could end."""
        ...

    def awaits_handoff(self, turn: Turn, grant: Grant) -> bool:
        """Return whether a handoff that would replace this grant is READY."""
        ...

    def on_grant_changed(self, turn: Turn, before: Grant, after: Grant) -> None:
        """A refresh was settled, or no more may be tried: ``after`` is already written."""
        ...

    def on_late_token(self, turn: Turn, grant: Grant, refresh_token: RefreshToken) -> None:
        """A refresh brought a token after its grant had ended: have it revoked, if that is allowed.

        ``grant`` is the erased row, or the grant as it was when the request left.
        """
        ...


class Flights:
    """The flights of one keeper. Each sets ``landed`` when it has ended."""

    def __init__(
        self,
        ports: Ports,
        turns: Turns,
        *,
        watcher: GrantWatcher,
        pauses: Pauses,
        refusals: Refusals,
        landed: asyncio.Event,
        gate: Gate | None = None,
    ) -> None:
        self._gate = gate
        self._turns = turns
        self._http = ports.http
        self._clock = ports.clock
        self._tasks = ports.tasks
        self._watcher = watcher
        self._pauses = pauses
        self._refusals = refusals
        self._landed = landed
        self.lanes = Lanes()
        self._running: dict[str, asyncio.Task[TokenOutcome | None]] = {}
        self.outcomes: Tally[str] = Tally()
        """Requests since this process started, by outcome."""

    def running(self, grant_id: str) -> asyncio.Task[TokenOutcome | None] | None:
        """Return the grant's flight while it is under way."""
        flight = self._running.get(grant_id)
        return None if flight is None or flight.done() else flight

    def fly(self, grant_id: str, errand: Errand) -> asyncio.Task[TokenOutcome | None]:
        """Begin a flight, or share the one under way, which may be on another errand.

        When it has ended, what the provider issued is durable.
        """
        if (flight := self.running(grant_id)) is None:
            flight = self._running[grant_id] = self._tasks.create_task(self._flight(grant_id, errand))
        return flight

    async def fly_alone(self, grant_id: str, errand: Errand) -> TokenOutcome | None:
        """Fly on this errand when no other flight of the grant is under way; return its last outcome, durable."""
        await self.landing(grant_id)
        return await asyncio.shield(self.fly(grant_id, errand))

    async def landing(self, grant_id: str) -> None:
        """Wait until no flight of the grant is under way."""
        while (flight := self.running(grant_id)) is not None:
            await asyncio.shield(flight)

    async def drain(self, wait_s: float) -> None:
        """Give requests in flight time to end, for a clean stop: an answer may be the only copy of a rotated token."""
        flights = [flight for flight in self._running.values() if not flight.done()]
        if flights:
            await asyncio.wait(flights, timeout=wait_s)

    async def _flight(self, grant_id: str, errand: Errand) -> TokenOutcome | None:
        """Fly one errand to a known end or a pause; return its outcome. Never raises: a task of the agent's group."""
        try:
            grant = await self._turns.read(lambda tx: tx.get(Grant, grant_id))
            return await self.lanes.run("" if grant is None else grant.pairing_id, partial(self._fly, grant_id, errand))
        except VaultError as exc:
            self._pauses.fail(grant_id, f"the vault cannot be written: {exc}", None, is_written=False)
            log.error("vault_refused", detail=str(exc))
        except Exception as exc:  # a bug of ours; the intent stays on disk and is ended later
            self._pauses.fail(grant_id, "the agent has failed; see its log", None)
            log.error("flight_failed", error=type(exc).__name__, where=where(exc.__traceback__))
        finally:
            self._landed.set()
        return None

    async def _fly(self, grant_id: str, errand: Errand) -> TokenOutcome | None:
        outcome: TokenOutcome | None = None
        refused_alone: Denied | None = None
        attempt, is_sure = 0, False
        while True:
            if not await self._may_pass(grant_id):
                return refused_alone or outcome
            begun = await self._turns.run(partial(self._begin, grant_id=grant_id, errand=errand, is_sure=is_sure))
            if is_sure := isinstance(begun, MustProbeFirst):
                if not (silence := await second_attempt.wait_for(self._http, self._clock, begun.grant)):
                    continue
                reason = f"an answer was lost, and the provider is silent: {silence}"
                self._pauses.fail(grant_id, reason, None, is_written=False)
            if not isinstance(begun, Begun):
                return refused_alone or outcome
            outcome = await begun.errand.send(self._http, begun.grant, begun.refresh_token, begun.sent)
            self.outcomes[event_of(outcome)[0]] += 1
            write = partial(self._record, begun=begun, outcome=outcome)
            settled = await until_stored(partial(self._turns.run, write), self._clock, event="refresh_not_stored")
            if settled is None:
                return outcome
            if isinstance(outcome, Denied) and begun.errand.is_refused_alone(outcome, begun.grant):
                if refused_alone is not None or outcome.error != "invalid_grant":
                    return outcome
                # It may have been about the grant all the same: one full request tells, and its verdict counts.
                refused_alone, errand = outcome, RefreshErrand()
                continue
            if not isinstance(outcome, OutcomeUnknown):
                return refused_alone or outcome
            if not lifecycle.may_retry_at_once(state_of(settled), profile_of(settled), self._clock.now()):
                return refused_alone or outcome
            attempt += 1
            await self._clock.sleep(second_attempt.retry_s(attempt))

    async def _may_pass(self, grant_id: str) -> bool:
        """Return whether the grant's endpoints may be asked; where not, the grant is locked and says which host."""
        if self._gate is None:
            return True
        grant = await self._turns.read(lambda tx: tx.get(Grant, grant_id))
        if grant is None or not may_be_sent(grant):
            return True  # nothing will be sent
        judged = await self._gate.judge(grant)
        if isinstance(judged, Unavailable):
            self._pauses.fail(grant_id, problem_of(judged), judged.retry_after_s, is_written=False)
        elif judged or barred_host(grant):
            await self._turns.run(partial(self._bar, grant_id=grant_id, host=judged))
        return judged == ""

    def _bar(self, turn: Turn, *, grant_id: str, host: str) -> None:
        """Lock a grant because of an endpoint, or unlock it where ``host`` is empty.

        An earlier use of its token that may have no answer stays open.
        """
        grant = turn.tx.get(Grant, grant_id)
        if grant is None or not may_be_sent(grant):
            return
        if not host:
            turn.change(Grant, grant_id, said="", said_at=0)
            self._change(turn, grant, lifecycle.unbarred(state_of(grant)))
            return
        state = lifecycle.barred(state_of(grant), profile_of(grant))
        columns = columns_of(state)
        if barred_host(grant) != host:
            turn.event("endpoint_barred", handoff_id=grant.handoff_id, grant_id=grant_id, detail=host)
        turn.change(Grant, grant_id, said=said_of(host), said_at=turn.wall)
        self._change(turn, grant, state)
        pause_s = refused_pause_s("configuration", columns["refused_times"])
        reason = f"not sent to {host}: not allowed here"
        turn.after.append(partial(self._pauses.wait, grant_id, reason, pause_s, action=allow_host(host)))

    def _begin(self, turn: Turn, *, grant_id: str, errand: Errand, is_sure: bool) -> Begun | MustProbeFirst | None:
        grant = turn.tx.get(Grant, grant_id)
        if grant is None or grant.refresh_token is None or is_lease_over(grant, turn.now):
            return None
        ends = [remaining_s(token, turn.now) for token in turn.tx.select(CachedToken, grant_id=grant_id)]
        before, profile = state_of(grant), profile_of(grant)
        is_open = isinstance(before, lifecycle.Refreshing | lifecycle.Uncertain)  # else the two say nothing
        decision = lifecycle.begin_refresh(
            before,
            profile,
            turn.now,
            access_token_ends_in_s=max(ends, default=None),
            holds_alone=is_open and self._watcher.holds_alone(turn, grant),
            awaits_handoff=is_open and self._watcher.awaits_handoff(turn, grant),
        )
        match decision:
            case lifecycle.Begin(state) if not is_sure and lifecycle.may_be_spent(state, profile):
                return MustProbeFirst(grant)
            case lifecycle.Begin(state):
                is_repair = lifecycle.may_retry_at_once(before, profile, turn.now)
                if not is_repair and not isinstance(before, lifecycle.Held):
                    errand = RefreshErrand()  # a late try, and one after a refusal, is for all that the grant gives
                if not errand.begin(turn, grant):
                    return None
                after = turn.change(Grant, grant_id, **columns_of(state))
                return Begun(errand, after, grant.refresh_token, Stamp.of(turn.now))
            case lifecycle.Wait(state, seconds):
                if state != before:
                    turn.change(Grant, grant_id, **columns_of(state))
                reason = f"no verdict from the provider since its last answer: {grant.said or 'none came'}"
                # At least a second: the last instant of an access token is lost in rounding.
                wait = partial(self._pauses.wait, grant_id, reason, max(seconds, 1.0), action=self._or_hand_off())
                turn.after.append(wait)
            case lifecycle.Stop(state) if state != before:
                self._change(turn, grant, state)
            case lifecycle.Stop():
                pass
        return None

    def _or_hand_off(self) -> str:
        return f"{LATER}; a new grant helps too: {self._watcher.reauth_action}"

    def _record(self, turn: Turn, *, begun: Begun, outcome: TokenOutcome) -> Grant | None:
        """Write the outcome of a request in this transaction: the grant, its tokens, what the errand brought."""
        grant_id, errand = begun.grant.grant_id, begun.errand
        grant = turn.tx.get(Grant, grant_id)
        state = state_of(grant) if grant is not None else None
        if grant is None or not isinstance(state, lifecycle.Refreshing) or state.generation != begun.grant.generation:
            # it died or was replaced meanwhile
            turn.event("late_answer_dropped", grant_id=grant_id, handoff_id=errand.handoff_id, **ids_of(outcome))
            brought = outcome.refresh_token if isinstance(outcome, Refreshed) else None
            if brought is not None and (grant is None or grant.state == "dead"):
                self._watcher.on_late_token(turn, grant or begun.grant, brought)
            errand.settle(turn, None)
            return None
        is_refused_alone = errand.is_refused_alone(outcome, grant)
        if is_refused_alone:
            after = lifecycle.not_processed(state)
        else:
            after = lifecycle.settle_refresh(state, outcome, profile_of(grant))
        if isinstance(outcome, Refreshed):
            self._store_tokens(turn, begun, outcome)
        elif not is_refused_alone:
            said: GrantColumns = {"said": words_of(outcome), "said_at": turn.wall}
            if isinstance(outcome, Denied):
                said |= {"trace_id": outcome.trace_id, "correlation_id": outcome.correlation_id}
            turn.change(Grant, grant_id, **said)
        turn.after.append(partial(self._note, grant, after, errand, outcome, is_refused_alone=is_refused_alone))
        name, detail = errand.event(outcome)
        turn.event(
            name,
            handoff_id=errand.handoff_id or grant.handoff_id,
            grant_id=grant_id,
            generation=after.generation,
            detail=detail,
            **ids_of(outcome),
        )
        if not is_refused_alone:
            refuted.look(turn, grant, outcome)
        settled = self._change(turn, grant, after)
        errand.settle(turn, settled)
        return settled

    def _note(
        self,
        grant: Grant,
        after: lifecycle.GrantState,
        errand: Errand,
        outcome: TokenOutcome,
        *,
        is_refused_alone: bool,
    ) -> None:
        """Note in memory, after the commit, how long the grant pauses, and what was refused to this request alone."""
        key = errand.key(grant.grant_id)
        if is_refused_alone:
            self._pauses.end(grant.grant_id)
            if key is not None and isinstance(outcome, Denied):
                self._refusals.note(key, outcome, self._clock.now())
            return
        if key is not None and isinstance(outcome, Refreshed):
            self._refusals.forget(key)
        fail = partial(self._pauses.fail, grant.grant_id, problem_of(outcome))
        match after, outcome:
            case _, Refreshed(access_token=None) if errand.wants_access_token:
                fail(None)
            case _, Refreshed():
                self._pauses.end(grant.grant_id)
            case (
                lifecycle.NeedsHandoff(reason="person" as reason, times=times)
                | lifecycle.Locked(reason="configuration" as reason, times=times)
                | lifecycle.Uncertain(refusal=lifecycle.LastRefusal(reason=reason, times=times)),
                Denied(),
            ):
                action = check_client(grant) if reason == "configuration" else self._watcher.reauth_action
                seconds = refused_pause_s(reason, times)
                self._pauses.wait(grant.grant_id, problem_of(outcome), seconds, action=action)
            case _, Denied(retry_after_s=retry_after_s):
                fail(max(retry_after_s or 0.0, DENIED_PAUSE_S), is_firm=True)
            case _, OutcomeUnknown(came="page", retry_after_s=retry_after_s):
                fail(retry_after_s, action=self._or_hand_off(), is_firm=bool(retry_after_s))
            case _, Unavailable(retry_after_s=retry_after_s) | OutcomeUnknown(retry_after_s=retry_after_s):
                fail(retry_after_s, is_firm=bool(retry_after_s))

    def _change(self, turn: Turn, before: Grant, state: lifecycle.GrantState) -> Grant:
        """Write a new state, erase what it must not keep, and tell the agent; all in this transaction."""
        if isinstance(state, lifecycle.Erased):
            after = end_grant(turn, before.grant_id, state.reason)
        else:
            after = turn.change(Grant, before.grant_id, **columns_of(state))
        self._watcher.on_grant_changed(turn, before, after)
        return after

    def _store_tokens(self, turn: Turn, begun: Begun, outcome: Refreshed) -> None:
        grant_id = begun.grant.grant_id
        columns = columns_of_life(begun.grant, outcome.refresh_token_expires_in_s, turn.now)
        columns |= {"refreshed_at": turn.wall, "refreshed": turn.stamp}
        columns |= {"said": "", "said_at": 0, "note": outcome.problem or outcome.note}
        if outcome.refresh_token is not None:
            columns["refresh_token"] = outcome.refresh_token
        grant = turn.change(Grant, grant_id, **columns)
        if outcome.access_token is not None:
            cache_token(turn, grant, begun.errand.scope, begun.sent, outcome)
