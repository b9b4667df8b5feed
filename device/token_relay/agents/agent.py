"""What either agent offers to the runtime of production and to the simulation."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.link import Link
from token_relay.agents.turns import Turns


class Agent(Protocol):
    """A phone or a companion."""

    turns: Turns
    link: Link
    keeper: GrantKeeper

    async def start(self) -> None:
        """Pick up after a restart; durable when it returns. Called once, before :meth:`works`."""
        ...

    async def mend(self) -> None:
        """Act on rows that the vault has given up (:mod:`token_relay.agents.damage`); durable when it returns."""
        ...

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """Return the loops of the agent; each runs until it is cancelled."""
        ...

    def network_is_up(self) -> None:
        """The broker is connected: work that waits for the provider may try again at once."""
        ...
