"""When a grant wants its next refresh without being asked. Pure; what was asked and drawn comes in."""

from __future__ import annotations

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.grants import lifecycle, schedule
from token_relay.agents.grants.serving import profile_of, remaining_s, state_of
from token_relay.agents.ports import Now
from token_relay.agents.records import CachedToken, Grant


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
    keep_alive = schedule.keep_alive_after_s(profile, is_otp=grant.is_otp)
    if keep_alive is not None and since_refresh is not None:
        due.append(keep_alive - since_refresh)
    if token is not None and asked_boot_s is not None and now.boot_s - asked_boot_s <= token.expires_in_s:
        at_s = schedule.proactive_at_s(profile, expires_in_s=token.expires_in_s, share=share)
        if at_s is not None and token.expires_in_s >= 2 * schedule.BACKOFF_FIRST_S:
            due.append(at_s - (token.expires_in_s - remaining_s(token, now)))
    return min(due, default=None)
