"""How a grant's state and lease are read from its columns and spelled, and whether a cached access token will do.

Writes nothing. Which grant answers a question: :mod:`.choice`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, assert_never, cast

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.grants.lease import LeaseClock, left_s
from token_relay.agents.grants.lifecycle import (
    Erased,
    GrantState,
    Held,
    Intent,
    LastRefusal,
    Locked,
    NeedsHandoff,
    Refreshing,
    Uncertain,
    is_asked_again,
    keeps_refresh_token,
    serves_access_tokens,
)
from token_relay.agents.ports import Now
from token_relay.agents.records import (
    CachedToken,
    Grant,
    GrantColumns,
    GrantEndReason,
    LockedReason,
    NeedsHandoffReason,
)
from token_relay.agents.token_source import TokenQuery
from token_relay.provider.profile import PROFILES, STRICT, Profile, profile_that

SCOPE_SETS_MAX = 8  # per grant
YOUNG_S = 60.0  # a younger token is not refreshed: one program could spend the provider's patience


# -- Records and states ------------------------------------------------------------------------------------


def state_of(grant: Grant) -> GrantState:
    """Read a grant's state from its columns."""
    match grant.state:
        case "held":
            return Held(grant.generation)
        case "refreshing":
            return Refreshing(grant.generation, _intent_of(grant), _refusal_of(grant))
        case "uncertain":
            return Uncertain(grant.generation, _intent_of(grant), _refusal_of(grant))
        case "needs_handoff":
            return NeedsHandoff(grant.generation, cast("NeedsHandoffReason", grant.reason), grant.refused_times)
        case "locked":
            return Locked(grant.generation, cast("LockedReason", grant.reason), grant.refused_times)
        case "dead":
            return Erased(grant.generation, cast("GrantEndReason", grant.reason))
        case _:
            assert_never(grant.state)


def _intent_of(grant: Grant) -> Intent:
    started = Stamp.from_text(grant.intent)
    sent = Stamp.from_text(grant.intent_sent) if grant.intent_sent else started  # written before schema 3
    return Intent(started, sent, grant.intent_attempts, grant.intent_late, grant.intent_came)


def _refusal_of(grant: Grant) -> LastRefusal | None:
    return LastRefusal(grant.refused, grant.refused_times) if grant.refused else None


def columns_of(state: GrantState) -> GrantColumns:
    """Return the columns that spell this state; a state that does not keep the refresh token erases it."""
    columns = GrantColumns(
        reason="",
        generation=state.generation,
        intent="",
        intent_sent="",
        intent_attempts=0,
        intent_late=0,
        intent_came="",
        refused="",
        refused_times=0,
    )
    match state:
        case Held():
            columns["state"] = "held"
        case Refreshing(_, intent, refusal):
            columns["state"] = "refreshing"
            _spell_intent(columns, intent, refusal)
        case Uncertain(_, intent, refusal):
            columns["state"] = "uncertain"
            _spell_intent(columns, intent, refusal)
        case NeedsHandoff(_, reason, times):
            columns["state"], columns["reason"], columns["refused_times"] = "needs_handoff", reason, times
        case Locked(_, locked_for, times):
            columns["state"], columns["reason"], columns["refused_times"] = "locked", locked_for, times
        case Erased(_, ended_by):
            columns["state"], columns["reason"] = "dead", ended_by
        case _:
            assert_never(state)
    if not keeps_refresh_token(state):
        columns["refresh_token"] = None
    return columns


def _spell_intent(columns: GrantColumns, intent: Intent, refusal: LastRefusal | None) -> None:
    columns["intent"], columns["intent_sent"] = intent.started.to_text(), intent.sent.to_text()
    columns["intent_attempts"], columns["intent_late"] = intent.attempts, intent.late
    columns["intent_came"] = intent.came
    if refusal is not None:
        columns["refused"], columns["refused_times"] = refusal.reason, refusal.times


def may_be_sent(grant: Grant) -> bool:
    """Return whether the grant's refresh token may still be sent to the provider, now or later."""
    state = state_of(grant)
    is_sent = isinstance(state, Held | Refreshing | Uncertain) or is_asked_again(state)
    return grant.refresh_token is not None and is_sent


def is_put_away(grant: Grant) -> bool:
    """Return whether it is erased, or locked for a reason that only a handoff or a sign-in ends."""
    return grant.state == "dead" or (grant.state == "locked" and grant.reason != "configuration")


def profile_of(grant: Grant) -> Profile:
    """Return what the grant brought, else the profile of its name; an unknown name counts as ``strict``."""
    if grant.behaviour:
        return profile_that(grant.profile, grant.behaviour)
    return PROFILES.get(grant.profile, STRICT)


def lease_of(grant: Grant) -> LeaseClock | None:
    """Read a grant's lease from its columns, None when it has none."""
    if not grant.lease_days or not grant.lease_marked:
        return None
    return LeaseClock(grant.lease_days, grant.lease_used_s, Stamp.from_text(grant.lease_marked), grant.lease_wall)


def is_lease_over(grant: Grant, now: Now) -> bool:
    """Return whether the grant has a lease that has ended; a dead grant has none."""
    held = lease_of(grant) if grant.state != "dead" else None
    left = left_s(held, now) if held is not None else None
    return left is not None and left <= 0


def columns_of_lease(lease: LeaseClock) -> GrantColumns:
    """Return the columns that spell this lease."""
    return {
        "lease_days": lease.days,
        "lease_used_s": lease.used_s,
        "lease_marked": lease.marked.to_text(),
        "lease_wall": lease.given_wall_s,
    }


# -- Endpoints that are not allowed ------------------------------------------------------------------------

# Not a word that a provider could have said: its codes hold no spaces. Then the host stands, with its port.
_BARRED = "endpoint not allowed here: "
NO_URL = "no URL"  # in place of a host: what the phone named is none


def said_of(host: str) -> str:
    """Return what ``said`` holds of a grant that is not used because of an endpoint at this host."""
    return f"{_BARRED}{host}"


def barred_host(grant: Grant) -> str:
    """Return the host because of which the grant is not used; empty where endpoints are not what holds it up."""
    is_refused = "configuration" in (grant.refused, grant.reason) and grant.state != "dead"
    return grant.said.removeprefix(_BARRED) if is_refused and grant.said.startswith(_BARRED) else ""


# -- Access tokens -----------------------------------------------------------------------------------------


def normalise_scope(scope: str) -> str:
    """Return a scope as sorted distinct words, so that equal sets have one spelling. RFC 6749 §3.3."""
    return " ".join(sorted(set(scope.split())))


def scope_to_ask(grant: Grant) -> str | None:
    """Return the scope to ask for: a handed-over grant may be narrower than its token. RFC 6749 §6."""
    return grant.scope if grant.handoff_id else None


def remaining_s(token: CachedToken, now: Now) -> float:
    """Return the seconds that an access token certainly still lives; 0 when it does not, or no clock can say."""
    elapsed = elapsed_s(Stamp.from_text(token.received), now)
    return 0.0 if elapsed is None else max(0.0, token.expires_in_s - elapsed)


def expires_at(token: CachedToken, now: Now) -> datetime:
    """Return the end of an access token by the present wall clock, as aware UTC."""
    return datetime.fromtimestamp(now.wall_s, UTC).replace(microsecond=0) + timedelta(
        seconds=int(remaining_s(token, now))
    )


@dataclass(frozen=True, slots=True)
class Serve:
    """Give this token out."""

    token: CachedToken


@dataclass(frozen=True, slots=True)
class Refresh:
    """Refresh first; ``fallback`` is a token that still works if that fails."""

    fallback: CachedToken | None


def serve_or_refresh(
    state: GrantState, token: CachedToken | None, query: TokenQuery, now: Now
) -> Serve | Refresh | Literal["refuse"]:
    """Decide what a question gets from what is on disk."""
    if not serves_access_tokens(state):
        return "refuse"
    if query.claims:  # a resource has refused the present token, so no cached one will do
        return "refuse" if isinstance(state, NeedsHandoff | Locked) else Refresh(None)
    left = remaining_s(token, now) if token is not None and token.access_token is not None else 0.0
    usable = token if left > 0 else None
    if query.force_refresh and is_asked_again(state):
        return Refresh(usable)
    if isinstance(state, NeedsHandoff | Locked):
        return Serve(usable) if usable is not None else "refuse"
    if usable is None:
        return Refresh(None)
    if query.force_refresh:
        return Refresh(usable)
    age = usable.expires_in_s - left
    # If no new token could meet the wish, the newest token will do, without another refresh.
    if left >= query.min_valid_s or age < YOUNG_S or usable.expires_in_s <= query.min_valid_s:
        return Serve(usable)
    return Refresh(usable)
