"""The lease: how long a grant may be used without a fresh word from its phone. Pure.

Time used is the larger of two measures, so that turning one clock back does not help: seconds since boot, summed in
the vault once an hour and across boots, and synced wall time since the lease was given. What either has shown at a
mark stays used, so a later start without the network, or a clock set back, gives none of it back. The price: a wall
clock that ran ahead while it counted as synced costs that time until the phone's next word.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from token_relay.agents.elapsed import Stamp
from token_relay.agents.ports import Now

DAY_S = 86_400.0
MARK_EVERY_S = 3600.0
WARN_BEFORE_S = 7 * DAY_S


@dataclass(frozen=True, slots=True)
class LeaseClock:
    """``used_s`` counts up to ``marked``; ``given_wall_s`` is synced Unix time of the phone's word, 0: unknown."""

    days: int
    used_s: float
    marked: Stamp
    given_wall_s: float


def give(days: int, now: Now) -> LeaseClock:
    """Start a lease; 0 days: no lease."""
    return LeaseClock(days, 0.0, Stamp.of(now), now.wall_s if now.is_synced else 0.0)


def mark(lease: LeaseClock, now: Now) -> LeaseClock:
    """Fold the time used so far, by either measure, into ``used_s``; the caller stores it at least once an hour."""
    used_s = _used_s(lease, now)
    given = lease.given_wall_s
    if not given and now.is_synced:
        given = now.wall_s - used_s  # the earliest moment that we can vouch for
    return replace(lease, used_s=used_s, marked=Stamp.of(now), given_wall_s=given)


def left_s(lease: LeaseClock, now: Now) -> float | None:
    """Return the seconds left, 0 or less when it is over; None when there is no lease."""
    if not lease.days:
        return None
    return lease.days * DAY_S - _used_s(lease, now)


def mark_due_in_s(lease: LeaseClock, now: Now) -> float:
    """Return the seconds until the next mark is due: an hour after the last one, at once after a boot."""
    if lease.marked.boot_id != now.boot_id:
        return 0.0
    return MARK_EVERY_S - (now.boot_s - lease.marked.boot_s)


def _used_s(lease: LeaseClock, now: Now) -> float:
    used_s = _boot_used_s(lease, now)
    if lease.given_wall_s and now.is_synced:
        used_s = max(used_s, now.wall_s - lease.given_wall_s)
    return used_s


def _boot_used_s(lease: LeaseClock, now: Now) -> float:
    if lease.marked.boot_id == now.boot_id:
        return lease.used_s + max(0.0, now.boot_s - lease.marked.boot_s)
    return lease.used_s + now.boot_s  # a new boot: only the wall clock can say how long the power was off
