"""What an observer of a simulated history sees: every commit, packet, request and answer, at the moment it happens.

The world calls an :class:`Observer` synchronously, in the order of events, so a check that raises stops the history at
the step that broke a promise. ``end`` is the name of a device in the world ("phone", "watch", ...).
"""

from __future__ import annotations

from collections.abc import Mapping

from token_relay.agents.ports import Record
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent

Tables = Mapping[type[Record], Mapping[tuple[str | int, ...], Record]]
"""The content of a disk: records by type and primary key. Immutable; secrets whose data key is erased are absent."""


class Observer:
    """Watches one history; each method may raise AssertionError to end it there, and does nothing if not overridden."""

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """A transaction of ``end`` has become durable."""

    def stopped(self, end: str, *, crashed: bool) -> None:
        """``end`` lost its power (``crashed``) or was stopped; what was not committed is gone."""

    def restored(self, end: str, tables: Tables) -> None:
        """The disk of ``end`` was put back to an older image, or lost its last commits."""

    def published(self, end: str, topic: str, payload: bytes) -> None:
        """``end`` gave a message to the broker."""

    def delivered(self, end: str, topic: str, payload: bytes) -> None:
        """The broker hands a message to ``end``."""

    def acknowledged(self, end: str, topic: str, payload: bytes) -> None:
        """``end`` took the message: PUBACK leaves now."""

    def requested(self, end: str, request: HttpRequest) -> None:
        """``end`` sends a request to the provider: its first byte leaves now."""

    def answered(self, end: str, request: HttpRequest, answer: HttpResponse | NotSent | AnswerLost) -> None:
        """What ``end`` gets to know of its request."""

    def provider_said(self, event: Mapping[str, object]) -> None:
        """The provider's own event log got a new entry (``kind`` and its fields)."""

    def commanded(self, end: str, act: str, *, is_over: bool) -> None:
        """A person's command at ``end`` that may erase grants begins, or is over: "sign_in", "sign_out", "forget"."""

    def served(self, end: str, query: TokenQuery, answer: TokenGranted | TokenRefused) -> None:
        """An app on ``end`` asked for an access token and got this."""

    def advanced(self, seconds: float) -> None:
        """World time went on by this much."""
