"""What either agent offers to whoever runs it: the production runtime, the simulation."""

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
        """Pick up after a restart."""
        ...

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """Return what has to run, from the start on and until it is cancelled."""
        ...

    def network_is_up(self) -> None:
        """The broker is connected: what waits for the provider may try at once."""
        ...
