"""A pulse: it beats again and again, and several tasks may wait for the next beat."""

from __future__ import annotations

import asyncio


class Pulse:
    """A waiter takes :attr:`next` before it looks, so that it does not miss a beat in between."""

    def __init__(self) -> None:
        self.next = asyncio.Event()
        """Set at the next beat, and then never used again."""

    def beat(self) -> None:
        """Wake every waiter."""
        self.next.set()
        self.next = asyncio.Event()
