"""When to refresh without being asked, and how long to pause after a failure. Pure; randomness comes in.

A grant is refreshed on demand, and ahead of time only where it is safe and a program cares: it asked within the last
token's lifetime, and the provider has leeway or does not invalidate on use. A keep-alive comes at half of the idle
lifetime. The first refresh, and one whose outcome is open, are due at once.
"""

from __future__ import annotations

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import profile_of, remaining_s, state_of
from token_relay.agents.ports import Now
from token_relay.agents.records import CachedToken, Grant
from token_relay.provider.profile import Profile

PROACTIVE_SHARE_MIN = 0.6  # of an access token's lifetime; spread so that a fleet does not move in step
PROACTIVE_SHARE_MAX = 0.8
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


def keep_alive_after_s(profile: Profile, *, is_otp: bool) -> float | None:
    """Return the idle time after which a refresh keeps the grant itself alive, None when it never idles out."""
    idle_s = profile.idle_lifetime_s
    if is_otp and profile.otp_lifetime_s is not None:
        idle_s = profile.otp_lifetime_s if idle_s is None else min(idle_s, profile.otp_lifetime_s)
    return None if idle_s is None else idle_s / 2


def grant_ends_at(profile: Profile, *, is_otp: bool, signed_in_at: int, refreshed_at: int) -> int | None:
    """Return the Unix time at which the grant ends by the profile's lifetimes, None when it has none or nobody knows.

    A one-time-code sign-in counts from the sign-in: whether its 24 hours slide is not established, so plan for less.
    """
    ends: list[float] = []
    if profile.idle_lifetime_s is not None and refreshed_at:
        ends.append(refreshed_at + profile.idle_lifetime_s)
    if profile.absolute_lifetime_s is not None and signed_in_at:
        ends.append(signed_in_at + profile.absolute_lifetime_s)
    if is_otp and profile.otp_lifetime_s is not None and signed_in_at:
        ends.append(signed_in_at + profile.otp_lifetime_s)
    return int(min(ends)) if ends else None


def due_in_s(
    grant: Grant, token: CachedToken | None, now: Now, *, asked_boot_s: float | None, share: float
) -> float | None:
    """Return the seconds until the next refresh, at most 0 when it is due; None when there is none.

    ``token`` is the newest access token, ``asked_boot_s`` when a program last asked for one, ``share`` from 0 to 1
    spreads a fleet.
    """
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
    keep_alive = keep_alive_after_s(profile, is_otp=grant.is_otp)
    if keep_alive is not None and since_refresh is not None:
        due.append(keep_alive - since_refresh)
    if token is not None and asked_boot_s is not None and now.boot_s - asked_boot_s <= token.expires_in_s:
        at_s = proactive_at_s(profile, expires_in_s=token.expires_in_s, share=share)
        if at_s is not None and token.expires_in_s >= 2 * BACKOFF_FIRST_S:
            due.append(at_s - (token.expires_in_s - remaining_s(token, now)))
    return min(due, default=None)
