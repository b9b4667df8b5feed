"""The life of a stored grant: when it may be refreshed, and what an outcome makes of it.

::

    Held(generation) -> Refreshing(intent) -> Held(generation + 1)
                           |-> Uncertain(intent) -> Refreshing ...        an answer without a verdict, or none
                           |-> NeedsHandoff("person") -> Refreshing ...   refused, asked again slowly; likewise
                           |   Locked("configuration")
                           |-> NeedsHandoff("uncertain")                  sealed; a handoff replaces it
                           |-> Erased("denied")                           the provider's verdict on the token

Only a verdict erases. The intent is on disk before the request leaves and stays open until a verdict, so after a crash
Refreshing *is* a lost answer. When the value may be sent again depends on what came and on the provider:

* it does not invalidate on use: freely;
* inside its leeway, which counts from the first request: at once, as often as needed;
* later, if every request so far came back as a page (a whole answer without a verdict): once the cached access token
  has ended, at a growing pace, for ever; while a handoff is READY, once a day;
* later, if an answer was lost: likewise, where reuse is known to end no more than this grant's own family; where that
  is not known, only if nobody else holds a grant. Otherwise NeedsHandoff("uncertain"): one device's risk is not
  another's.

Pure. Times come in as :class:`token_relay.agents.ports.Now`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, assert_never

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.ports import Now
from token_relay.agents.records import GrantEndReason, LockedReason, NeedsHandoffReason, RefusedReason
from token_relay.provider.outcome import Came, Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import Profile

LATE_PACE_S = 60.0  # from one request to the next outside the leeway; doubles
LATE_PACE_S_MAX = 3600.0
READY_S_MAX = (
    86_400.0  # the phone gives an offer up by then; one that it has forgotten must not hold a grant up for ever
)


@dataclass(frozen=True, slots=True)
class Intent:
    """One use of one refresh-token value, from its first request to a verdict.

    ``started`` is the first request, ``sent`` the latest. ``late`` counts the attempts made when the provider may
    already have burnt the value. ``came`` is the worst of what the earlier requests came to; empty: none has ended.
    """

    started: Stamp
    sent: Stamp
    attempts: int = 1
    late: int = 0
    came: Literal["", Came] = ""


@dataclass(frozen=True, slots=True)
class LastRefusal:
    """The provider's last verdict on the person or the client, and how often it has come in a row."""

    reason: RefusedReason
    times: int


@dataclass(frozen=True, slots=True)
class Held:
    """The refresh token is good as far as we know."""

    generation: int


@dataclass(frozen=True, slots=True)
class Refreshing:
    """A request is in flight, or was when the power went; ``refusal``: it asks again after one."""

    generation: int
    intent: Intent
    refusal: LastRefusal | None = None


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The provider may have rotated the token: a page came in place of its answer, or nothing."""

    generation: int
    intent: Intent
    refusal: LastRefusal | None = None


@dataclass(frozen=True, slots=True)
class NeedsHandoff:
    """Kept sealed. ``uncertain``: never sent again. ``person``: the provider wants the person; asked again slowly."""

    generation: int
    reason: NeedsHandoffReason
    times: int = 0


@dataclass(frozen=True, slots=True)
class Locked:
    """The refresh token must not be used; ``configuration`` (the client is refused) is asked again slowly."""

    generation: int
    reason: LockedReason
    times: int = 0


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
    """Wait this many seconds: a try could end what still works, or the last one was a moment ago."""

    state: Uncertain
    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """No refresh in this state; commit it when it is new."""

    state: NeedsHandoff | Locked | Erased


def begin_refresh(
    state: GrantState,
    profile: Profile,
    now: Now,
    *,
    access_token_ends_in_s: float | None,
    holds_alone: bool = False,
    awaits_handoff: bool = False,
) -> Begin | Wait | Stop:
    """Decide whether a refresh may be sent now. A refused grant may; its caller keeps the pace.

    ``access_token_ends_in_s`` is the time left of the newest cached access token, None when there is none.
    ``holds_alone``: nobody else holds a grant that reuse could end. ``awaits_handoff``: a handoff of it is READY.
    """
    match state:
        case Held(generation):
            return Begin(Refreshing(generation, _first(now)))
        case NeedsHandoff(generation, "person" as reason, times) | Locked(generation, "configuration" as reason, times):
            return Begin(Refreshing(generation, _first(now), LastRefusal(reason, times)))
        case Refreshing(generation, intent, refusal) | Uncertain(generation, intent, refusal):
            intent = _without_flight(state)
            came = intent.came
            again = replace(intent, sent=Stamp.of(now), attempts=intent.attempts + 1)
            if not profile.invalidates_on_use or _in_leeway(intent, profile, now):
                return Begin(Refreshing(generation, again, refusal))
            reach = profile.reuse_takes
            if came == "lost" and reach not in ("nothing", "family") and not (reach == "unknown" and holds_alone):
                return Stop(NeedsHandoff(generation, "uncertain"))
            wait_s = max(_late_in_s(intent, now), access_token_ends_in_s or 0.0)
            since_s = elapsed_s(intent.sent, now)
            if awaits_handoff and (since_s is None or since_s < READY_S_MAX):
                wait_s = max(wait_s, LATE_PACE_S)
            if wait_s > 0:
                return Wait(Uncertain(generation, intent, refusal), wait_s)
            return Begin(Refreshing(generation, replace(again, late=intent.late + 1), refusal))
        case NeedsHandoff() | Locked() | Erased():
            return Stop(state)
        case _:
            assert_never(state)


def _first(now: Now) -> Intent:
    return Intent(Stamp.of(now), Stamp.of(now))


def late_pace_s(late: int) -> float:
    """Return the seconds between a request outside the leeway and the next, after so many of them."""
    return min(LATE_PACE_S * 2.0 ** min(late, 16), LATE_PACE_S_MAX)


def _late_in_s(intent: Intent, now: Now) -> float:
    elapsed = elapsed_s(intent.sent, now)
    return 0.0 if elapsed is None else max(0.0, late_pace_s(intent.late) - elapsed)


def settle_refresh(state: Refreshing, outcome: TokenOutcome, profile: Profile) -> GrantState:
    """Return what the outcome of the request makes of the grant.

    The caller stores the new refresh token in the same transaction; ``generation`` counts stored tokens.
    """
    generation, intent = state.generation, state.intent
    match outcome:
        case Refreshed(refresh_token=None):
            return Held(generation)
        case Refreshed():
            return Held(generation + 1)
        case Denied(kind="final"):
            return Erased(generation, "denied")
        case Denied(kind="person"):
            return NeedsHandoff(generation, "person", _times(state.refusal, "person"))
        case Denied(kind="client" | "request"):
            times = _times(state.refusal, "configuration")
            if profile.invalidates_on_use and intent.came:  # no verdict on the token: an earlier use stays open
                return Uncertain(generation, intent, LastRefusal("configuration", times))
            return Locked(generation, "configuration", times)
        case Denied(kind="temporary") | Unavailable():
            return not_processed(state)
        case OutcomeUnknown(came=came):
            worst: Came = "lost" if "lost" in (came, intent.came) else "page"
            return Uncertain(generation, replace(intent, came=worst), state.refusal)
        case Denied():
            raise AssertionError("unknown kind of denial")
        case _:
            assert_never(outcome)


def not_processed(state: Refreshing) -> GrantState:
    """Return the state after a request that had no effect on the token: as before it, an open use stays open."""
    if state.intent.came:
        return Uncertain(state.generation, state.intent, state.refusal)
    match state.refusal:
        case LastRefusal("person", times):
            return NeedsHandoff(state.generation, "person", times)
        case LastRefusal("configuration", times):
            return Locked(state.generation, "configuration", times)
        case _:
            return Held(state.generation)


def _without_flight(state: Refreshing | Uncertain) -> Intent:
    """Return its intent when no flight is under way: a grant that is found Refreshing has lost its answer."""
    came: Came = "page" if isinstance(state, Uncertain) and state.intent.came == "page" else "lost"
    return replace(state.intent, came=came)


def barred(state: GrantState, profile: Profile) -> Locked | Uncertain:
    """Return the state of a grant whose endpoint this device may not ask: like a client that is refused."""
    match state:
        case Refreshing(generation, _, refusal) | Uncertain(generation, _, refusal):
            times = _times(refusal, "configuration")
            if profile.invalidates_on_use:
                return Uncertain(generation, _without_flight(state), LastRefusal("configuration", times))
            return Locked(generation, "configuration", times)
        case Locked(generation, "configuration", times):
            return Locked(generation, "configuration", times + 1)
        case _:
            return Locked(state.generation, "configuration", 1)


def unbarred(state: GrantState) -> GrantState:
    """Return the state of a grant that was :func:`barred` and may be asked again."""
    match state:
        case Locked(generation, "configuration"):
            return Held(generation)
        case Refreshing() | Uncertain():
            return replace(state, refusal=None)
        case _:
            return state


def _times(before: LastRefusal | None, reason: RefusedReason) -> int:
    return before.times + 1 if before is not None and before.reason == reason else 1


def keeps_refresh_token(state: GrantState) -> bool:
    """Return whether the refresh token stays on disk in this state; otherwise it is erased in the same commit."""
    return not isinstance(state, Erased)


def is_asked_again(state: GrantState) -> bool:
    """Return whether the provider has refused for now: it is asked again slowly, or when the owner says so."""
    if isinstance(state, Uncertain):
        return state.refusal is not None
    return isinstance(state, NeedsHandoff | Locked) and state.reason in ("person", "configuration")


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
    return profile.invalidates_on_use and bool(state.intent.came)


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
