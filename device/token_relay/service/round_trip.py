"""Measures how long an agent's message to itself takes through the broker.

Part of ``doctor``: MQTT has no way to read the broker's configuration, but its effect can be measured.
"""

from __future__ import annotations

import statistics
import time
from typing import Protocol

from token_relay.service.control import JSON

PROBES = 5
PROBE_S_MAX = 5.0
# Nagle's algorithm against delayed ACK costs 40 ms at least (the kernel's smallest delayed acknowledgement). A network
# that is as slow by itself shows the same, so this is a note and no failure.
NAGLE_S = 0.040


class Probed(Protocol):
    """A channel that can send a message to itself."""

    @property
    def is_connected(self) -> bool:
        """Whether it is connected."""
        ...

    async def probe(self, timeout_s: float) -> bool:
        """Return whether a message to ourselves came back."""
        ...


async def doctor(channel: Probed | None) -> list[JSON]:
    """The command ``doctor``: measure the round trip to the broker and back."""
    if channel is None or not channel.is_connected:
        return []  # another line says that it is not connected
    took_s: list[float] = []
    for _ in range(PROBES):
        began_s = time.monotonic()
        if not await channel.probe(PROBE_S_MAX):
            return [_row(False, "a message to ourselves did not come back", "look at the broker's access list")]
        took_s.append(time.monotonic() - began_s)
    return [judged(statistics.median(took_s))]


def judged(round_trip_s: float) -> dict[str, JSON]:
    """Return the line for one round trip."""
    detail = f"{round_trip_s * 1000:.1f} ms"
    if round_trip_s < NAGLE_S:
        return _row(True, detail, "")
    return _row(
        True, detail, "where the network is faster than that: set_tcp_nodelay true in the broker's configuration"
    )


def _row(is_ok: bool, detail: str, hint: str) -> dict[str, JSON]:
    return {"name": "round trip", "ok": is_ok, "detail": detail, "hint": hint}
