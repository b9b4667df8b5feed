"""The names and the states of the links between the ends, the broker and the provider.

Pure. A link is *whole*, *slow* or *cut*; how it is cut decides what a program at its end can notice. The sockets are in
:mod:`token_relay.sandbox.links.network`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

How = Literal[
    "refuse",  # connections are reset, new ones refused: as when the other machine is up and its service is not
    "blackhole",  # connections are reset, new ones accepted and silent: as behind a firewall that answers for others
    "drop",  # nothing is reset and nothing arrives: as on a mobile link that died silently
]
Direction = Literal["both", "up", "down"]  # up: from the device; down: to the device
LinkName = Literal["phone-broker", "companion-broker", "phone-provider", "companion-provider"]
LINK_NAMES: tuple[LinkName, ...] = get_args(LinkName)

LATENCY_S_MAX = 600.0  # longer than any client waits
BYTES_PER_S_MIN, BYTES_PER_S_MAX = 1.0, 1e9


@dataclass(frozen=True, slots=True)
class Whole:
    """Bytes pass as they come."""


@dataclass(frozen=True, slots=True)
class Slow:
    """Bytes arrive ``latency_s`` later in each direction, at most ``bytes_per_s`` of them (None: any number).

    Raises:
        ValueError: a number is out of range.
    """

    latency_s: float = 0.0
    bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s <= LATENCY_S_MAX:
            raise ValueError(f"latency_s: from 0 to {LATENCY_S_MAX:.0f}")
        if self.bytes_per_s is not None and not BYTES_PER_S_MIN <= self.bytes_per_s <= BYTES_PER_S_MAX:
            raise ValueError(f"bytes_per_s: from {BYTES_PER_S_MIN:.0f} to {BYTES_PER_S_MAX:.0f}")
        if self.latency_s == 0 and self.bytes_per_s is None:
            raise ValueError("a slow link needs latency_s or bytes_per_s")


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing passes, or nothing in one direction.

    Raises:
        ValueError: one direction was to be cut with another way than ``drop``, the only one that knows directions.
    """

    how: How = "refuse"
    direction: Direction = "both"

    def __post_init__(self) -> None:
        if self.how != "drop" and self.direction != "both":
            raise ValueError(f"one direction can only be cut with drop, not with {self.how}")

    def loses(self, direction: Direction) -> bool:
        """Say whether bytes in this direction vanish."""
        return self.direction in ("both", direction)


LinkState = Whole | Slow | Cut


@dataclass(frozen=True, slots=True)
class LinkReport:
    """One link at one moment. ``since`` is Unix time; bytes are counted from the start, once they have passed."""

    name: str
    state: LinkState
    since: float
    address: str
    target: str
    connections: int
    connections_in_all: int
    bytes_up: int
    bytes_down: int
    bytes_lost: int
