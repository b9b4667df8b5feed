"""The two ends of a handoff as the lab reaches them; the command line hands them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from token_relay.pages.columns import Happening
from token_relay.pages.conversation import Talk

EndName = Literal["phone", "companion"]
ENDS: tuple[EndName, ...] = ("phone", "companion")


class Ends(Protocol):
    """A phone's agent and a companion's, which use this sandbox."""

    @property
    def are_running(self) -> bool:
        """Whether both can be asked."""
        ...

    async def start(self) -> None:
        """Make two agents and run them, in a directory of their own; without effect on ones that run.

        Raises:
            RelayError: they do not start; the message says why.
        """
        ...

    async def call(
        self, end: EndName, command: str, args: Mapping[str, object], talk: Talk | None = None
    ) -> Mapping[str, Any]:
        """Give a command of control.sock, and return its result; its questions and steps go to ``talk``.

        Raises:
            RelayError: the agent refuses, or cannot be reached.
        """
        ...

    async def access_token(self, end: EndName, *, force_refresh: bool = False) -> Mapping[str, object]:
        """Ask for an access token on token.sock. Raises RelayError."""
        ...

    def happenings(
        self, end: EndName, events: Sequence[Mapping[str, Any]], messages: Sequence[Mapping[str, Any]]
    ) -> list[Happening]:
        """Return what an end wrote down, and the messages that it sent and got, in its column."""
        ...

    async def stop(self) -> None:
        """Stop the agents that were started here."""
        ...
