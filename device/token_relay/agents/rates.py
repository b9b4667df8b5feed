"""How often something may happen: so many times at once, then once each so many seconds. Kept in memory."""

from __future__ import annotations

from dataclasses import dataclass

KEYS_MAX = 1024  # beyond it, those that have all their times again are forgotten: they are as new


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` times at once, then once each ``every_s`` seconds."""

    burst: int
    every_s: float


class Rates:
    """What has happened of late, by keys. It knows no clock: ``now_s`` is time since boot."""

    def __init__(self) -> None:
        self._full_at: dict[str, float] = {}  # when each key has its whole burst again
        self._keys_max = KEYS_MAX

    def allows(self, key: str, rate: Rate, now_s: float) -> bool:
        """Return whether it may happen now; counts nothing."""
        return self._after(key, rate, now_s) <= now_s + rate.burst * rate.every_s

    def count(self, key: str, rate: Rate, now_s: float) -> None:
        """Count that it happens."""
        after = self._after(key, rate, now_s)
        if len(self._full_at) >= self._keys_max:
            self._full_at = {other: at for other, at in self._full_at.items() if at > now_s}
            self._keys_max = max(KEYS_MAX, 2 * len(self._full_at))
        self._full_at[key] = after

    def _after(self, key: str, rate: Rate, now_s: float) -> float:
        """Return when the burst is whole again if it happens now."""
        full_at = self._full_at.get(key, now_s)
        if not now_s <= full_at <= now_s + rate.burst * rate.every_s:  # whole, or of before the clock began anew
            full_at = now_s
        return full_at + rate.every_s
