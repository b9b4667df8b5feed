"""A bound on what one pairing has under way at providers: slow endpoints of one phone hold up its own grants alone.

A phone chooses how many grants it hands over and where their endpoints are. Each pairing has ``LANES`` flights at once;
more of them wait, before they write an intent. The device's own grants, which have no pairing, do not wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LANES = 3  # of the connections that the device has (token_relay.host.http), and of the threads that look names up


class Lanes:
    """The lanes of all pairings; a pairing that has nothing under way takes no room."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, list[asyncio.Event]] = {}

    async def run(self, pairing_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do this work when the pairing has a lane; raises what it raises."""
        if not pairing_id:
            return await work()
        while self._taken.get(pairing_id, 0) >= LANES:
            ended = asyncio.Event()
            self._waiting.setdefault(pairing_id, []).append(ended)
            await ended.wait()
        self._taken[pairing_id] = self._taken.get(pairing_id, 0) + 1
        try:
            return await work()
        finally:
            self._taken[pairing_id] -= 1
            if not self._taken[pairing_id]:
                del self._taken[pairing_id]
            for ended in self._waiting.pop(pairing_id, []):  # all: who was cancelled meanwhile takes no lane
                ended.set()
