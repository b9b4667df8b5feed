"""The life of a stored grant: when it may be refreshed, and what an outcome makes of it.

::

    Held(generation) -> Refreshing(intent) -> Held(generation + 1)
                              |-> Uncertain(intent) -> Refreshing ...      the answer was lost
                              |-> NeedsHandoff(reason) | Locked(reason) | Erased(reason)

The intent is on disk before the request leaves, so after a crash Refreshing *is* an unknown outcome. What may be done
with one depends on the provider alone:

* it does not invalidate on use: retry freely;
* inside its leeway: retry as soon as the provider answers again (:mod:`token_relay.agents.grants.second_attempt`), as
often as needed;
* outside it, or elapsed time unknown: exactly one further attempt, counted on disk before it is sent, and, where
  reuse also kills access tokens, only after the cached one has ended; it too waits until the provider answers. Then
  NeedsHandoff("uncertain").

Pure. Times come in as :class:`token_relay.agents.ports.Now`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.ports import Now
from token_relay.agents.records import GrantEndReason, LockedReason, NeedsHandoffReason
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import Profile

LATE_ATTEMPTS_MAX = 1


@dataclass(frozen=True, slots=True)
class Intent:
    """One use of one refresh-token value, from its first request to a known outcome.

    ``late`` counts the attempts made when the provider may already have burnt the value.
    """

    started: Stamp
    attempts: int = 0
    late: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """The refresh token is good as far as we know."""

    generation: int


@dataclass(frozen=True, slots=True)
class Refreshing:
    """A request is in flight, or was when the power went."""

    generation: int
    intent: Intent


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The provider may have rotated the token, and its answer is lost."""

    generation: int
    intent: Intent


@dataclass(frozen=True, slots=True)
class NeedsHandoff:
    """No refresh any more: ``uncertain`` (may be renewed without the person) or ``person`` (kept sealed)."""

    generation: int
    reason: NeedsHandoffReason


@dataclass(frozen=True, slots=True)
class Locked:
    """The refresh token is held but must not be used."""

    generation: int
    reason: LockedReason


@dataclass(frozen=True, slots=True)
class Erased:
    """The refresh token is gone from this disk; the row stays and says why."""

    generation: int
    reason: GrantEndReason


GrantState = Held | Refreshing | Uncertain | NeedsHandoff | Locked | Erased


@dataclass(frozen=True, slots=True)
class Begin:
    """Commit this state, then send the request."""

    state: Refreshing


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait this many seconds: the cached access token still works, and a try could end it."""

    state: Uncertain
    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """No refresh in this state; commit it when it is new."""

    state: NeedsHandoff | Locked | Erased


def begin_refresh(
    state: GrantState, profile: Profile, now: Now, *, access_token_ends_in_s: float | None
) -> Begin | Wait | Stop:
    """Decide whether a refresh may be sent now.

    ``access_token_ends_in_s`` is the time left of the newest cached access token, None when there is none.
    """
    match state:
        case Held(generation):
            return Begin(Refreshing(generation, Intent(Stamp.of(now), attempts=1)))
        case Refreshing(generation, intent) | Uncertain(generation, intent):
            again = replace(intent, attempts=intent.attempts + 1)
            if not profile.invalidates_on_use or _in_leeway(intent, profile, now):
                return Begin(Refreshing(generation, again))
            if intent.late >= LATE_ATTEMPTS_MAX:
                return Stop(NeedsHandoff(generation, "uncertain"))
            if profile.reuse_kills_access_tokens and access_token_ends_in_s is not None and access_token_ends_in_s > 0:
                return Wait(Uncertain(generation, intent), access_token_ends_in_s)
            return Begin(Refreshing(generation, replace(again, late=intent.late + 1)))
        case NeedsHandoff() | Locked() | Erased():
            return Stop(state)
        case _:
            assert_never(state)


def settle_refresh(state: Refreshing, outcome: TokenOutcome, profile: Profile) -> GrantState:
    """Return what the outcome of the request makes of the grant.

    The caller stores the new refresh token in the same transaction; ``generation`` counts stored tokens.
    """
    generation, intent = state.generation, state.intent
    was_uncertain = intent.attempts > 1 and profile.invalidates_on_use
    match outcome:
        case Refreshed(refresh_token=None):
            return Held(generation)
        case Refreshed():
            return Held(generation + 1)
        case Denied(kind="final"):
            # After an answer was lost, the denial is most likely about our own earlier attempt.
            return NeedsHandoff(generation, "uncertain") if was_uncertain else Erased(generation, "denied")
        case Denied(kind="person"):
            return NeedsHandoff(generation, "person")
        case Denied(kind="configuration") if not was_uncertain:
            return Locked(generation, "configuration")
        case Denied(kind="temporary" | "configuration") | Unavailable():
            if not was_uncertain:
                return Held(generation)
            # This attempt was certainly not processed, so it does not count as the one late attempt.
            return Uncertain(generation, replace(intent, late=0))
        case Denied():
            raise AssertionError("unknown kind of denial")
        case OutcomeUnknown():
            if not profile.invalidates_on_use:
                return Held(generation)
            if intent.late >= LATE_ATTEMPTS_MAX:
                return NeedsHandoff(generation, "uncertain")
            return Uncertain(generation, intent)
        case _:
            assert_never(outcome)


def keeps_refresh_token(state: GrantState) -> bool:
    """Return whether the refresh token stays on disk in this state; otherwise it is erased in the same commit."""
    match state:
        case Held() | Refreshing() | Uncertain() | Locked():
            return True
        case NeedsHandoff(reason="person"):
            return True
        case NeedsHandoff() | Erased():
            return False
        case _:
            assert_never(state)


def serves_access_tokens(state: GrantState) -> bool:
    """Return whether apps may still get a cached access token."""
    match state:
        case Held() | Refreshing() | Uncertain() | NeedsHandoff():
            return True
        case Locked(reason="configuration"):
            return True
        case Locked() | Erased():
            return False
        case _:
            assert_never(state)


def may_retry_at_once(state: GrantState, profile: Profile, now: Now) -> bool:
    """Return whether to repair an unknown outcome now, before the provider's leeway is over."""
    return isinstance(state, Refreshing | Uncertain) and _in_leeway(state.intent, profile, now)


def may_be_spent(state: Refreshing, profile: Profile) -> bool:
    """Return whether the provider may already have taken this value: an earlier request has no answer."""
    return profile.invalidates_on_use and state.intent.attempts > 1


def leeway_left_s(state: GrantState, profile: Profile, now: Now) -> float:
    """Return how long sending the value again can still repair a lost answer; 0 when it cannot, or nobody knows.

    Counted from the intent, so that the provider, which counts from its answer, ends later.
    """
    if not isinstance(state, Refreshing | Uncertain) or not profile.old_token_s:
        return 0.0
    elapsed = elapsed_s(state.intent.started, now)
    return 0.0 if elapsed is None else max(0.0, profile.old_token_s - elapsed)


def _in_leeway(intent: Intent, profile: Profile, now: Now) -> bool:
    if profile.old_token_s is None or profile.old_token_s <= 0:
        return False
    elapsed = elapsed_s(intent.started, now)
    return elapsed is not None and elapsed < profile.old_token_s
