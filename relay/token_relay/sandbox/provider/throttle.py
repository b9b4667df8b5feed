"""A limit on requests per minute for one client, and the 429 beyond it, with ``Retry-After``."""

from __future__ import annotations

import math
from collections import deque

from token_relay.sandbox.provider.http_values import Refusal
from token_relay.sandbox.provider.memory.state import State, remember

WINDOW_S = 60.0


def throttled(profile: str, retry_after_s: int) -> Refusal:
    """Return the refusal of a client that asks too often."""
    error = "temporarily_unavailable" if profile == "entra" else "too_many_requests"
    return Refusal(error, "Too many requests; slow down.", code=90055, status=429, retry_after_s=retry_after_s)


def count_request(state: State, client_id: str, now: float) -> None:
    """Count one request of the client. Raises Refusal beyond the limit; a refused request does not count."""
    most = state.policy.requests_per_minute_max
    if most is None or client_id not in state.clients:
        return
    recent = state.recent_requests.get(client_id)
    if recent is None:
        recent = deque()
        remember(state.recent_requests, client_id, recent)
    while recent and recent[0] <= now - WINDOW_S:
        recent.popleft()
    if len(recent) >= most:
        raise throttled(state.urls.profile, max(1, math.ceil(recent[0] + WINDOW_S - now)))
    recent.append(now)
