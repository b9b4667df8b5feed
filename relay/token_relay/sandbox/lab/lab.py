"""The lab's pages, on a port of their own: nothing that a page stores there is at the provider's origin."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from token_relay.pages.conversation import Talks
from token_relay.pages.server import Look, PageRoute, PageServer
from token_relay.pages.visit import Answer, PageRequest
from token_relay.sandbox.lab.ends import Ends
from token_relay.sandbox.lab.live import LiveClient
from token_relay.sandbox.server import SandboxServer

HERE = Path(__file__).parent
NAV = (("", "Start"),)


class Lab:
    """The lab of one sandbox, for as long as the ``async with`` lasts. Arguments as of :class:`PageServer`."""

    def __init__(
        self,
        sandbox: SandboxServer,
        ends: Ends | None,
        *,
        owner: Callable[[int, int], int | None],
        uids: Collection[int],
        port: int = 0,
    ) -> None:
        self.sandbox, self.ends, self.talks = sandbox, ends, Talks()
        self.live = LiveClient(sandbox.base_url)
        look = Look(
            templates=[HERE / "templates"],
            statics=[HERE / "static"],
            common={"called": "The lab", "nav": NAV},
        )
        routes = [PageRoute("", self._start), *self.talks.routes]
        self.server = PageServer(routes, look, owner=owner, uids=uids, port=port)

    async def __aenter__(self) -> Self:
        await self.server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.talks.stop()
        await self.server.__aexit__(kind, error, trace)

    async def _start(self, request: PageRequest) -> Answer:
        return request.page("start.html")
