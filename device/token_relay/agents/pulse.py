"""A pulse: something that happens again and again, and that several may wait for."""

from __future__ import annotations

import asyncio


class Pulse:
    """Waiters take :attr:`next` before they look, so that a beat in between is not missed."""

    def __init__(self) -> None:
        self.next = asyncio.Event()
        """Set at the next beat, and then never used again."""

    def beat(self) -> None:
        """Wake all that wait."""
        self.next.set()
        self.next = asyncio.Event()
