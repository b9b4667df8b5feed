"""A gateway before a provider's token endpoint: it counts, loses answers, and puts pages in the place of answers.

An agent reaches the provider through it (``--http-route``), with the provider's own URLs; whatever is no token request
passes. It knows each refresh token that passed, so a test can say which value was used twice and whether its answer
was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import aiohttp
from aiohttp import web

from tests.watchdog import HANG_S

# before: the provider never hears of it. after: it has answered, and the answer is lost. pass: all is well.
Fate = Literal["pass", "before", "after"]
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length")


@dataclass(frozen=True, slots=True)
class Page:
    """What stands in the place of an answer."""

    status: int
    text: str
    content_type: str = "text/html"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Use:
    """One refresh request: which value, what the provider said, and whether that was delivered."""

    value: str
    status: int = 0  # 0: the provider was not asked
    is_delivered: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether the provider has said yes and nobody heard it."""
        return self.status == 200 and not self.is_delivered


class Gateway:
    """Use with ``async with``; ``address`` is for ``--http-route``."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = f"http://{target[0]}:{target[1]}"
        self.uses: list[Use] = []
        self.values: set[str] = set()
        """Every refresh token that was seen, asked with or given."""
        self.pages: list[Page] = []
        """What the next refresh requests get instead of an answer."""
        self.fate: Fate = "pass"
        """Of the next refresh request; it is ``pass`` again afterwards."""
        self.opened = asyncio.Event()
        """Refresh requests wait for it; set unless a test closes the gate."""
        self.opened.set()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(HANG_S)
        )
        self._runner = web.AppRunner(web.Application(), access_log=None)
        self._runner.app.add_routes([web.route("*", "/{path:.*}", self._serve)])
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    @property
    def used_twice(self) -> list[str]:
        """The values that the provider was sent more than once though no answer to them was lost."""
        asked = [use for use in self.uses if use.status]
        lost = {use.value for use in asked if use.is_lost}
        return [
            value for value, count in Counter(use.value for use in asked).items() if count > 1 and value not in lost
        ]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        form = dict(await request.post()) if request.method == "POST" else {}
        is_refresh = form.get("grant_type") == "refresh_token"
        use = Use(str(form.get("refresh_token", "")))
        fate: Fate = "pass"
        if is_refresh:
            self.values.add(use.value)
            self.uses.append(use)
            fate, self.fate = self.fate, "pass"
            await self.opened.wait()
            if fate == "before":
                return self._break(request)
            if self.pages:
                page = self.pages.pop(0)
                return web.Response(
                    status=page.status, text=page.text, content_type=page.content_type, headers=page.headers
                )
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        async with self._session.request(
            request.method, self._target + request.raw_path, data=body, headers=headers, allow_redirects=False
        ) as answer:
            said = await answer.read()
            use.status = answer.status
            if form.get("grant_type") and answer.status == 200:
                self.values.add(str(json.loads(said).get("refresh_token", "")))
            if fate == "after":
                return self._break(request)
            response = web.Response(status=answer.status, body=said)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    response.headers.add(name, value)
        with contextlib.suppress(ConnectionError):  # who asked is dead by now
            await response.prepare(request)
            await response.write_eof()
            use.is_delivered = True
        return response

    def _break(self, request: web.Request) -> web.Response:
        """End the connection without an answer, as a power cut of the router does."""
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError
