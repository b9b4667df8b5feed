"""When to refresh without being asked, and how long to pause after a failure. Pure; randomness comes in.

A grant is refreshed on demand, and ahead of time only where it is safe and a program cares: it asked within the last
token's lifetime, and the provider has leeway or does not invalidate on use. A keep-alive comes at 40 to 50 % of the
idle life that the provider has told for this grant, or that the configuration or the profile knows, or of a careful
week. The first refresh, one whose outcome is open and one that was refused for now are due at once; the pauses and the
intent keep their pace.
"""

from __future__ import annotations

from dataclasses import dataclass

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import profile_of, remaining_s, state_of
from token_relay.agents.ports import Now
from token_relay.agents.records import CachedToken, Grant, GrantColumns, RefusedReason
from token_relay.provider.profile import Profile

DAY_S = 86_400.0
PROACTIVE_SHARE_MIN = 0.6  # of an access token's lifetime; spread so that a fleet does not move in step
PROACTIVE_SHARE_MAX = 0.8
KEEP_ALIVE_SHARE_MIN = 0.4  # of an idle life
KEEP_ALIVE_SHARE_MAX = 0.5
KEEP_ALIVE_EVERY_S = 3600.0  # at the least
IDLE_S_DEFAULT = 7 * 86_400.0  # Okta's default, the shortest in the field where nobody tells
REFUSED_S = {"configuration": 600.0, "person": 3600.0}  # until a refused grant is asked again; doubles
REFUSED_S_MAX = 6 * 3600.0
BACKOFF_FIRST_S = 2.0
BACKOFF_S_MAX = 900.0
UNASKED_S_MAX = 6 * 3600.0  # nobody waits for it; each try writes twice. Well under half of any idle lifetime
WAIT_S_MAX = 86_400.0  # with nothing due: each change wakes the keeper, but nobody reports a set clock


def backoff_s(*, failures: int, share: float, retry_after_s: float | None) -> float:
    """Return the pause after the ``failures``-th failure in a row: full jitter, at least what the provider asked for.

    ``share`` is a random number from 0 to 1.
    """
    pause = share * min(BACKOFF_FIRST_S * 2.0 ** min(max(failures - 1, 0), 16), BACKOFF_S_MAX)
    return max(pause, retry_after_s or 0.0)


def unasked_backoff_s(*, failures: int, share: float) -> float:
    """Return the pause after the ``failures``-th failure in a row of unasked work: half of the bound, or more."""
    return (1.0 + share) / 2.0 * min(BACKOFF_FIRST_S * 2.0 ** min(max(failures - 1, 0), 16), UNASKED_S_MAX)


def proactive_at_s(profile: Profile, *, expires_in_s: float, share: float) -> float | None:
    """Return the age at which a token is refreshed unasked, None when this provider makes that a risk."""
    if profile.invalidates_on_use and not profile.has_leeway:
        return None
    return expires_in_s * (PROACTIVE_SHARE_MIN + share * (PROACTIVE_SHARE_MAX - PROACTIVE_SHARE_MIN))


def refused_pause_s(reason: RefusedReason, times: int) -> float:
    """Return the pause after the ``times``-th refusal in a row."""
    return min(REFUSED_S[reason] * 2.0 ** min(max(times - 1, 0), 16), REFUSED_S_MAX)


def keep_alive_after_s(grant: Grant, *, idle_days: int | None, share: float) -> float | None:
    """Return the idle time after which a refresh keeps the grant itself alive, None when it would not.

    A life that shrinks as time goes by is an end: no refresh moves it. ``share`` from 0 to 1 spreads a fleet.
    """
    if grant.is_life_fixed:
        return None
    profile = profile_of(grant)
    known_s = idle_days * DAY_S if idle_days else profile.idle_lifetime_s
    idle_s = grant.life_longest_s or known_s or IDLE_S_DEFAULT
    if grant.is_otp and profile.otp_lifetime_s is not None:
        idle_s = min(idle_s, profile.otp_lifetime_s)
    share = KEEP_ALIVE_SHARE_MIN + share * (KEEP_ALIVE_SHARE_MAX - KEEP_ALIVE_SHARE_MIN)
    return max(KEEP_ALIVE_EVERY_S, idle_s * share)


def columns_of_life(grant: Grant, told_s: float | None, now: Now) -> GrantColumns:
    """Return what an answer tells of the refresh token's own life; ``grant`` is as it was before that answer."""
    if told_s is None:
        return {}
    shrunk_s = grant.life_told_s - told_s
    since_s = elapsed_s(Stamp.from_text(grant.refreshed), now) if grant.refreshed else None
    passed_s = (since_s or 0.0) / 2  # an end comes nearer by so much at the least
    has_passed = shrunk_s > 1.0 and shrunk_s >= passed_s
    return {
        "life_told_s": told_s,
        "life_longest_s": max(grant.life_longest_s, told_s),
        "is_life_fixed": has_passed or (grant.is_life_fixed and shrunk_s >= max(0.0, passed_s - 1.0)),
    }


@dataclass(frozen=True, slots=True)
class GrantEnd:
    """When a grant ends, in Unix seconds, and the length of the life that ends then."""

    at: int
    life_s: float


def grant_end(
    profile: Profile, *, is_otp: bool, signed_in_at: int, refreshed_at: int, told_s: float = 0.0
) -> GrantEnd | None:
    """Return when the grant ends by what was told, else by the profile; None when it does not or nobody knows.

    A one-time-code sign-in counts from the sign-in: whether its 24 hours slide is not established, so plan for less.
    """
    lives: list[tuple[int, float | None]] = [
        (refreshed_at, told_s or profile.idle_lifetime_s),
        (signed_in_at, profile.absolute_lifetime_s),
        (signed_in_at, profile.otp_lifetime_s if is_otp else None),
    ]
    ends = [GrantEnd(int(begun_at + life_s), life_s) for begun_at, life_s in lives if begun_at and life_s]
    return min(ends, key=lambda end: end.at, default=None)


def due_in_s(
    grant: Grant,
    token: CachedToken | None,
    now: Now,
    *,
    asked_boot_s: float | None,
    share: float,
    idle_days: int | None = None,
) -> float | None:
    """Return the seconds until the next refresh, at most 0 when it is due; None when there is none.

    ``token`` is the newest access token, ``asked_boot_s`` when a program last asked for one, ``share`` from 0 to 1
    spreads a fleet.
    """
    state, profile = state_of(grant), profile_of(grant)
    if grant.refresh_token is None:
        return None
    if isinstance(state, lifecycle.Refreshing | lifecycle.Uncertain) or lifecycle.is_asked_again(state):
        return 0.0
    if not isinstance(state, lifecycle.Held):
        return None
    if not grant.refreshed:
        return 0.0  # the first refresh proves the grant and spends the value that travelled
    due: list[float] = []
    since_refresh = elapsed_s(Stamp.from_text(grant.refreshed), now)
    keep_alive = keep_alive_after_s(grant, idle_days=idle_days, share=share)
    if keep_alive is not None and since_refresh is not None:
        due.append(keep_alive - since_refresh)
    if token is not None and asked_boot_s is not None and now.boot_s - asked_boot_s <= token.expires_in_s:
        at_s = proactive_at_s(profile, expires_in_s=token.expires_in_s, share=share)
        if at_s is not None and token.expires_in_s >= 2 * BACKOFF_FIRST_S:
            due.append(at_s - (token.expires_in_s - remaining_s(token, now)))
    return min(due, default=None)
