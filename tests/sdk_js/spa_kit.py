"""A single-page application with MSAL.js in a browser's tab, a person at that browser, and a sandbox over TLS."""

from __future__ import annotations

import asyncio
import random
import ssl
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientSession, TCPConnector
from playwright.async_api import Browser, BrowserContext, Error, Page, Request

from tests.browser.app_server import AppServer
from tests.browser.chromium import Certificate, new_profile
from tests.sandbox.sandbox_client import SandboxClient
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD
from token_relay.sandbox.server import SandboxServer, tls_context

HERE = Path(__file__).parent
VERSIONS: dict[str, dict[str, str]] = tomllib.loads((HERE / "msal_versions.toml").read_text(encoding="utf-8"))
SPA_CLIENT_ID = "11112222-bbbb-3333-cccc-4444dddd5555"
SECOND_CLIENT_ID = "22223333-cccc-4444-dddd-5555eeee6666"
SCRIPTS = {"/": HERE / "spa.mjs", "/redirect": HERE / "redirect_bridge.mjs"}
ORDERS = "api://orders/Orders.Read"

Person = Callable[[Page], Awaitable[None]]


async def nobody(page: Page) -> None:
    """Look on: the browser comes back without anybody's doing."""


class Told(dict[str, Any]):
    """What MSAL told the page; who looks for what is not in it sees the rest, which is often an error."""

    def __missing__(self, key: str) -> Any:
        raise AssertionError(f"no {key} in {dict(self)}")


@dataclass
class Spa:
    """One tab in which the application runs."""

    page: Page
    url: str

    async def open(self) -> Told:
        """Load the page; returns what it found of a redirect."""
        await self.page.goto(self.url)
        return await self.returned()

    async def returned(self) -> Told:
        """Return what the page was told about a redirect, once it has loaded."""
        found = await self.page.wait_for_function("window.returned")
        return Told(await found.json_value())

    async def call(self, method: str, **request: Any) -> Told:
        """Call MSAL; returns the tokens, or the error as MSAL names it."""
        told = await self.page.evaluate("([method, request]) => call(method, request)", [method, request])
        return Told(told)

    async def popup(self, method: str, person: Person, **request: Any) -> Told:
        """Call MSAL, which opens a window; ``person`` is who sits before it."""
        async with self.page.expect_popup() as opened:
            answer = asyncio.ensure_future(self.call(method, **request))
        try:
            await person(await opened.value)
        except Error as exc:  # the window is gone before its time: MSAL knows why
            raise AssertionError(await answer) from exc
        return await answer

    async def leave(self, method: str, person: Person, **request: Any) -> Told:
        """Call MSAL, which leaves the page; returns what the page is told when ``person`` has brought it back."""
        await self.page.evaluate("([method, request]) => leave(method, request)", [method, request])
        await person(self.page)
        return await self.returned()

    async def accounts(self) -> list[str]:
        """Return the user names that MSAL knows."""
        known: list[str] = await self.page.evaluate("accounts()")
        return known


@dataclass
class SpaWorld:
    """A browser, a server of pages and a sandbox."""

    server: SandboxServer
    app: AppServer
    profile: BrowserContext
    sandbox: SandboxClient
    version: dict[str, str]
    requests: list[Request]

    async def tab(self, client_id: str = SPA_CLIENT_ID) -> Spa:
        """Open the application in another tab, which knows nothing of the others but the browser's cookies."""
        urls = self.server.provider.state.urls
        if client_id not in self.server.provider.state.clients:
            await self.sandbox.ordered("clients", client_id=client_id, spa=True)
        self.app.settings = {
            "library": self.version["library"],
            "auth": {
                "clientId": client_id,
                "authority": urls.authority,
                "knownAuthorities": [urlsplit(urls.authority).netloc],
                "redirectUri": self.app.origin + self.version["redirect"],
            },
        }
        spa = Spa(await self.profile.new_page(), f"{self.app.origin}/")
        assert await spa.open() == {"nothing": True}
        return spa

    def sent(self, step: str) -> int:
        """Return how often the browser has asked this endpoint, preflights not counted."""
        return sum(
            urlsplit(request.url).path.endswith(f"/{step}") and request.method != "OPTIONS" for request in self.requests
        )


@asynccontextmanager
async def spa_world(
    browser: Browser, packages: Path, trusted: Certificate, signer: RsaSigner, version: str
) -> AsyncIterator[SpaWorld]:
    """Start all of it."""
    tls = tls_context(trusted.cert, trusted.key)
    server = SandboxServer(DEFAULT_WORLD, "entra", rng=random.Random(7), host="localhost", tls=tls, signer=signer)
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(AppServer(packages, SCRIPTS))
        await stack.enter_async_context(server)
        trusting = TCPConnector(ssl=ssl.create_default_context(cafile=str(trusted.ca)))
        session = await stack.enter_async_context(ClientSession(connector=trusting))
        profile = await stack.enter_async_context(new_profile(browser))
        requests: list[Request] = []
        profile.on("request", lambda request: requests.append(request))
        yield SpaWorld(server, app, profile, SandboxClient(server, session), VERSIONS[version], requests)
