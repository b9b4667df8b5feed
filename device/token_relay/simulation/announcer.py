"""Tells all observers of a world what happens; a check that raises ends the history at that step.

The event loop gets the exception as well, since it may be raised deep inside an agent, which catches many errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.observer import Observer

HEARD = tuple(name for name in vars(Observer) if not name.startswith("_"))


class Announcer(Observer):
    """An :class:`~token_relay.simulation.observer.Observer` that calls all others; see there for the methods."""

    def __init__(self, loop: VirtualLoop, observers: Sequence[Observer]) -> None:
        self._loop = loop
        self.is_heard = bool(observers)
        for what in HEARD if observers else ():
            setattr(self, what, partial(self._tell, [getattr(observer, what) for observer in observers]))

    def _tell(self, hearers: list[Callable[..., None]], *args: object, **named: Any) -> None:
        try:
            for hear in hearers:
                hear(*args, **named)
        except BaseException as exc:
            self._loop.fail(exc)
            raise
