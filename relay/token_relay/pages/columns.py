"""A handoff as it happens, in four columns: phone, broker, companion, provider; time goes down. Pure.

A page collects what it can see of each and puts it in order here. What nobody has seen is not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Column = Literal["phone", "broker", "companion", "provider"]
COLUMNS: tuple[Column, ...] = ("phone", "broker", "companion", "provider")
HAPPENINGS_MAX = 400


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing at one place. ``key`` names it for good; ``at`` is Unix seconds; ``to``: where a message went.

    ``bytes`` is a message's size, ``state`` what has become of it (``at the broker``, ``accepted``), ``trace_id`` what
    the other lines of it are found by. ``rank`` orders what happened in the same second.
    """

    key: str
    at: float
    column: Column
    text: str
    to: Column | None = None
    bytes: int | None = None
    state: str = ""
    trace_id: str = ""
    is_bad: bool = False
    rank: int = 0


def ordered(found: Iterable[Happening]) -> list[Happening]:
    """Return the newest of them, the oldest first."""
    return sorted(found, key=lambda one: (one.at, one.rank, one.key))[-HAPPENINGS_MAX:]
