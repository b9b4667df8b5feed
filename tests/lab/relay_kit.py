"""The lab as ``sandbox --lab`` runs it, in this process: provider, broker, links and two agents that are programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from aiohttp import ClientSession, ClientTimeout, CookieJar

from tests.lab.visitor import Shown, Visitor
from tests.watchdog import HANG_S
from token_relay.cli.demo.lab_ends import LabEnds
from token_relay.sandbox.lab.lab import Lab
from token_relay.sandbox.main import SandboxOptions, run
from token_relay.sandbox.server import SandboxServer

NUMBER = re.compile(r'name="number" value="(\d+)"')


class Story(Visitor):
    """A visitor of a lab with two ends."""

    async def until(self, place: str, holds: Callable[[str], bool]) -> Shown:
        """Look at a page until what it says holds."""
        return await self._until(lambda: self.get(place), holds)

    async def presses_until(self, place: str, holds: Callable[[str], bool], **fields: str) -> Shown:
        """Press a button again and again until the page that follows says it: an agent pauses after a failure."""
        return await self._until(lambda: self.post(place, **fields), holds)

    async def _until(self, ask: Callable[[], Awaitable[Shown]], holds: Callable[[str], bool]) -> Shown:
        ends_at = asyncio.get_running_loop().time() + HANG_S
        while not holds((page := await ask()).words):
            assert asyncio.get_running_loop().time() < ends_at, page.words
            await asyncio.sleep(0.05)
        return page

    async def over(self, page: Shown) -> Shown:
        """Look at a conversation until it asks or is over."""
        return await self.until(page.place, lambda words: "Working …" not in words)

    async def answer(self, page: Shown, value: str) -> Shown:
        """Answer the question of a conversation, and wait for the next one or its end."""
        page = await self.over(page)
        number = NUMBER.search(page.text)
        assert number, page.words
        return await self.over(await self.post(f"{page.place}/answer", number=number[1], value=value))


@contextlib.asynccontextmanager
async def story(profile: str = "entra", environment: Mapping[str, str] | None = None) -> AsyncIterator[Story]:
    """A sandbox with its lab, opened by its printed address; its ends are started by a page."""
    opened: asyncio.Queue[tuple[SandboxServer, Lab]] = asyncio.Queue()

    @contextlib.asynccontextmanager
    async def beside(server: SandboxServer, init: Mapping[str, str]) -> AsyncIterator[str]:
        ends = LabEnds(init, os.environ if environment is None else environment)
        me = os.getuid()
        try:
            async with Lab(server, ends, owner=lambda _port, _ours: me, uids={me}) as lab:
                opened.put_nowait((server, lab))
                yield lab.server.address()
        finally:
            await ends.stop()

    options = SandboxOptions(http_port=0, mqtt_port=0, profile=profile, as_json=True)
    running = asyncio.ensure_future(run(options, write=lambda _text: None, lab=beside))
    try:
        server, lab = await opened.get()
        timeout = ClientTimeout(total=HANG_S)
        async with ClientSession(cookie_jar=CookieJar(unsafe=True), timeout=timeout) as session:
            async with session.get(lab.server.address()) as answer:
                assert answer.status == 200
            yield Story(lab, server, session)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
