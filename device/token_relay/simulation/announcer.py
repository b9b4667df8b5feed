"""Tells all observers of a world what happens; a check that raises ends the history at that step.

The exception is also given to the event loop, since it may be raised deep inside an agent that is built to survive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.provider.http import HttpRequest, HttpResponse, Lost, NotSent
from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.observer import Observer, Tables

HEARD = tuple(name for name in vars(Observer) if not name.startswith("_"))


class Announcer:
    """An :class:`~token_relay.simulation.observer.Observer` in front of all others; see there for the methods."""

    def __init__(self, loop: VirtualLoop, observers: Sequence[Observer]) -> None:
        self._loop = loop
        self._who = {what: [getattr(observer, what) for observer in observers] for what in HEARD}
        self.is_heard = bool(observers)

    def _tell(self, what: str, *args: object, **named: object) -> None:
        try:
            for hear in self._who[what]:
                hear(*args, **named)
        except BaseException as exc:
            self._loop.fail(exc)
            raise

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        if self.is_heard:
            self._tell("committed", end, before, after)

    def stopped(self, end: str, *, crashed: bool) -> None:
        if self.is_heard:
            self._tell("stopped", end, crashed=crashed)

    def restored(self, end: str, tables: Tables) -> None:
        if self.is_heard:
            self._tell("restored", end, tables)

    def published(self, end: str, topic: str, payload: bytes) -> None:
        if self.is_heard:
            self._tell("published", end, topic, payload)

    def delivered(self, end: str, topic: str, payload: bytes) -> None:
        if self.is_heard:
            self._tell("delivered", end, topic, payload)

    def acknowledged(self, end: str, topic: str, payload: bytes) -> None:
        if self.is_heard:
            self._tell("acknowledged", end, topic, payload)

    def requested(self, end: str, request: HttpRequest) -> None:
        if self.is_heard:
            self._tell("requested", end, request)

    def answered(self, end: str, request: HttpRequest, answer: HttpResponse | NotSent | Lost) -> None:
        if self.is_heard:
            self._tell("answered", end, request, answer)

    def provider_said(self, event: Mapping[str, object]) -> None:
        if self.is_heard:
            self._tell("provider_said", event)

    def served(self, end: str, query: TokenQuery, answer: TokenGranted | TokenRefused) -> None:
        if self.is_heard:
            self._tell("served", end, query, answer)

    def advanced(self, seconds: float) -> None:
        if self.is_heard:
            self._tell("advanced", seconds)
