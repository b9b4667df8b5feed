"""Ctrl-C and friends for a program that must clean up: raised in the main thread, but never between the start of a
child process and the moment when somebody knows about it, and never into the clean-up itself.

Limit: SIGKILL ends the demo without a clean-up; what it started then runs on and its directory stays.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal was closed


class Interrupts:
    """Turns stop signals into exceptions for as long as the ``with`` lasts. Main thread only."""

    def __init__(self) -> None:
        self._depth = 0
        self._pending: int | None = None
        self._restore: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        for number in SIGNALS:
            before = signal.signal(number, self._arrived)
            if before is not None:  # None: set by something that is not Python, and not to be named here
                self._restore.append(partial(signal.signal, number, before))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for restore in self._restore:
            restore()

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._pending = number
        if not self._depth:
            self._raise()

    def _raise(self) -> None:
        number, self._pending = self._pending, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            raise SystemExit(128 + number)  # as a shell reports it

    @contextlib.contextmanager
    def held(self, *, are_dropped: bool = False) -> Iterator[None]:
        """Hold signals back; afterwards they are raised, or forgotten with ``are_dropped``."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if are_dropped:
                self._pending = None
        if not self._depth and not are_dropped:
            self._raise()
