"""A single-page application on ``http://localhost``, the sandbox it signs in at, and a person who uses it."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from playwright.async_api import BrowserContext, Page

from tests.browser.app_server import AppServer
from tests.browser.chromium import PASSWORD_USER, Certificate, chromium, sign_in
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.auth0_clients import SPA_ID
from token_relay.sandbox.provider.world.contacts import mailbox
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD, WorldModel
from token_relay.sandbox.server import SandboxServer, tls_context

HERE = Path(__file__).parent
SCRIPTS = {"/": HERE / "spa.mjs", "/react": HERE / "react.mjs", "/private": HERE / "react.mjs"}
SPA_JS, FIRST_LINE = "@auth0/auth0-spa-js", "auth0-spa-js-1"  # of the latter, options had other names
Told = dict[str, Any]  # {"value": ...}, or name, error and text of what was thrown


@dataclass
class Bench:
    """The application, the sandbox, and one browser profile."""

    server: SandboxServer
    app: AppServer
    profile: BrowserContext

    async def open(self, *, sdk: str = SPA_JS, path: str = "/", **options: Any) -> Page:
        """Open the application, with what everybody must say and these options."""
        said = {"redirect_uri": f"{self.app.origin}{path}", **options.pop("authorizationParams", {})}
        facts = {"domain": self.server.base_url, "clientId": SPA_ID, "authorizationParams": said}
        if sdk == FIRST_LINE:
            facts = {"domain": self.server.base_url, "client_id": SPA_ID, **said}
        self.app.settings.update(sdk=sdk, options={**facts, **options})
        page = await self.profile.new_page()
        await page.goto(f"{self.app.origin}{path}")
        return page

    def code_for(self, address: str) -> str:
        """Return the code that was sent last to this mailbox."""
        return self.server.provider.state.mailboxes[mailbox(address)].code.reveal()

    def end_grants(self) -> None:
        """End all of them at the provider; the sessions stay."""
        for family in self.server.provider.state.families.values():
            family.is_dead = True


async def call(page: Page, method: str, *words: object) -> Told:
    """Call a method of the SDK, and return what it returned or threw."""
    await page.wait_for_function("() => Boolean(window.call)")
    told: Told = await page.evaluate("(words) => window.call(...words)", [method, *words])
    return told


async def leave(page: Page, method: str, *words: object) -> None:
    """Call a method that sends the browser away."""
    await page.wait_for_function("() => Boolean(window.call)")
    await page.evaluate("(words) => window.leave(...words)", [method, *words])


async def arrived(page: Page) -> Told:
    """Return what ``handleRedirectCallback`` said, once the browser is back."""
    told: Told = await (await page.wait_for_function("() => window.call && window.arrived")).json_value()
    return told


async def by_redirect(page: Page, *words: object, username: str = PASSWORD_USER, password: str = PASSWORD) -> Told:
    """Sign in with a redirect."""
    await leave(page, "loginWithRedirect", *words)
    await sign_in(page, username, password)
    return await arrived(page)


async def returned(page: Page, method: str, *words: object) -> Any:
    """Call a method that must not throw, and return what it returned."""
    told = await call(page, method, *words)
    assert told.keys() == {"value"}, told
    return told["value"]


async def silently(page: Page) -> Told:
    """Ask for a new token without a page."""
    return await call(page, "getTokenSilently", {"cacheMode": "off"})


@asynccontextmanager
async def popup(
    page: Page, *words: object, method: str = "loginWithPopup"
) -> AsyncIterator[tuple[Page, asyncio.Task[Told]]]:
    """Call what opens the sign-in window; the task says what came of it."""
    async with asyncio.TaskGroup() as group:
        async with page.expect_popup() as opened:
            task = group.create_task(call(page, method, *words))
        yield await opened.value, task


@asynccontextmanager
async def bench(
    packages: Path,
    directory: Path,
    signer: RsaSigner,
    *,
    world: WorldModel = DEFAULT_WORLD,
    host: str = "localhost",
    trusted: Certificate | None = None,
) -> AsyncIterator[Bench]:
    """Start both servers and a browser; ``directory`` is for its profile, ``trusted`` for a sandbox over TLS."""
    tls = None if trusted is None else tls_context(trusted.cert, trusted.key)
    async with (
        AppServer(packages, SCRIPTS) as app,
        SandboxServer(world, "auth0", rng=random.Random(7), host=host, signer=signer, tls=tls) as server,
        chromium(directory / "profile", trusted) as profile,
    ):
        yield Bench(server, app, profile)


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a JWT."""
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims


async def transfer_token(server: SandboxServer) -> str:
    """Do what a native application does: sign in, and trade the refresh token for a session transfer token."""
    domain = server.base_url.partition("//")[2]
    async with ClientSession() as session:

        async def tokens(**fields: str) -> dict[str, str]:
            async with session.post(
                f"{server.base_url}/oauth/token", data={"client_id": CLIENT_ID, **fields}
            ) as answer:
                found: dict[str, str] = await answer.json()
                return found

        words = {"username": PASSWORD_USER, "password": PASSWORD, "scope": "openid offline_access"}
        first = await tokens(grant_type="password", **words)
        audience = f"urn:{domain}:session_transfer"
        last = await tokens(grant_type="refresh_token", refresh_token=first["refresh_token"], audience=audience)
        return last["access_token"]
