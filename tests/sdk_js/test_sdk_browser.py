"""The JavaScript SDK in headless Chromium, cross-origin: with ``--cors`` it works, without it the browser refuses."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests import needs
from tests.watchdog import HANG_S
from token_relay.sandbox.provider.world.contacts import mailbox
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD
from token_relay.sandbox.server import SandboxServer

HERE = Path(__file__).parent
CHROMIUM = needs.find("chromium", "chromium-browser", "google-chrome")
QUIET = (  # no connection but those of the page
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(CHROMIUM is None, reason=needs.missing("chromium")),
]


@pytest.mark.parametrize("is_let", [True, False], ids=["cors", "no cors"])
async def test_a_page_of_another_origin_can_sign_in_only_with_leave(
    packages: Path, tmp_path: Path, is_let: bool
) -> None:
    found: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    runner = web.AppRunner(web.Application(), access_log=None)
    app = runner.app
    sandbox: list[SandboxServer] = []

    async def facts(request: web.Request) -> web.Response:
        authority = sandbox[0].provider.state.urls.authority
        return web.json_response({"authority": authority, "clientId": CLIENT_ID, "password": PASSWORD})

    async def code(request: web.Request) -> web.Response:
        sent = sandbox[0].provider.state.mailboxes[mailbox(request.match_info["address"])]
        return web.Response(text=sent.code.reveal())

    async def take(request: web.Request) -> web.Response:
        found.set_result(json.loads(await request.read()))
        return web.Response()

    async def script(request: web.Request) -> web.FileResponse:
        return web.FileResponse(
            packages / request.path.lstrip("/"), headers={"Content-Type": "text/javascript; charset=utf-8"}
        )

    async def page(request: web.Request) -> web.FileResponse:
        return web.FileResponse(HERE / "page.html")

    app.add_routes([web.get("/", page), web.get("/facts", facts), web.get("/code/{address}", code)])
    app.add_routes([web.post("/found", take), web.get("/{path:.*[.]mjs}", script)])
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    origin = f"http://localhost:{runner.addresses[0][1]}"
    origins = frozenset({origin}) if is_let else frozenset()
    try:
        async with SandboxServer(DEFAULT_WORLD, "entra", rng=random.Random(7), cors_origins=origins) as server:
            sandbox.append(server)
            assert CHROMIUM is not None
            browser = await asyncio.create_subprocess_exec(
                CHROMIUM,
                *QUIET,
                f"--user-data-dir={tmp_path / 'profile'}",
                f"{origin}/",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(HANG_S):
                    seen = await found
            finally:
                browser.terminate()
                await browser.wait()
            kinds = [event.kind for event in server.provider.state.events]
    finally:
        await runner.cleanup()
    assert "problem" not in seen, seen
    if is_let:
        assert seen == {
            "failure": "invalid_grant",
            "isPasswordIncorrect": True,
            "password": True,
            "refreshed": True,
            "secondFactor": True,
        }
    else:
        assert seen["failure"] == "http_request_failed" and seen["password"] is False
        assert "signed_in" not in kinds
