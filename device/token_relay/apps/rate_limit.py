"""How often one uid may ask for tokens: a token bucket for each uid, and a limit on their number. Pure."""

from __future__ import annotations

TOKENS_PER_S_MAX = 10.0  # per uid; an app that needs more keeps its token until expires_at
UIDS_MAX = 1_024  # rate limits remembered; full buckets are forgotten first


class RateLimit:
    """A token bucket per uid: ``per_s`` requests a second, and ``burst`` at once after a quiet time."""

    def __init__(self, per_s: float = TOKENS_PER_S_MAX, burst: float | None = None) -> None:
        self._per_s = per_s
        self._burst = per_s if burst is None else burst
        self._buckets: dict[int, tuple[float, float]] = {}  # uid → requests left, when that was (seconds)

    def take(self, uid: int, now_s: float) -> float:
        """Take one request. Return 0.0 when it is allowed, else the seconds until one is."""
        left, since_s = self._buckets.pop(uid, (self._burst, now_s))
        left = min(self._burst, left + max(0.0, now_s - since_s) * self._per_s)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / self._per_s
        self._buckets[uid] = (left if wait_s else left - 1.0, now_s)
        if len(self._buckets) > UIDS_MAX:
            # The least recently seen comes first in the dict; forgetting it can give it at most one full bucket.
            del self._buckets[next(iter(self._buckets))]
        return wait_s
