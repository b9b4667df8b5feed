"""Web applications of the field, unmodified, that a browser enters already signed in."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from aiohttp import web

from tests import needs
from tests.watchdog import HANG_S
from tests.web_js.web_kit import PAT, RORY, Visitor, free_port, grant_of, node, sandbox, transfer_token, web_application
from token_relay.sandbox.provider.world.auth0_clients import SPA_ID, WEB_ID, WEB_SECRET
from token_relay.sandbox.provider.world.model import CLIENT_ID

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "docs" / "examples"
EXPRESS = EXAMPLES / "express" / "app.mjs"
PAGE = EXAMPLES / "single-page" / "index.html"
CHROMIUM = needs.find("chromium", "chromium-browser", "google-chrome")
QUIET = (  # no connection but those of the page
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
WATCH = """<script type="module">
  const who = document.querySelector("#who");
  const tell = () => fetch("/found", {
    method: "POST", body: JSON.stringify({ text: who.textContent, address: location.href }) });
  new MutationObserver(tell).observe(who, { childList: true });
</script>"""
pytestmark = pytest.mark.asyncio


def login(base: str, token: str) -> str:
    return f"{base}/login?{urlencode({'session_transfer_token': token})}"


async def test_a_visitor_with_a_token_is_signed_in_without_a_form(packages: Path, tmp_path: Path) -> None:
    async with sandbox() as server, web_application(EXPRESS, packages, tmp_path, server) as base:
        token = await transfer_token(server, PAT)
        visitor = Visitor()
        way = await visitor.visit(login(base, token))
        assert (way.status, way.text, way.addresses[-1]) == (200, f"signed in as {PAT}\n", f"{base}/")
        carried = [address for address in way.addresses if token in address]
        assert [urlsplit(address).path for address in carried] == ["/login", "/authorize"]
        assert (await visitor.visit(f"{base}/")).text == f"signed in as {PAT}\n"
        # Spent: whoever opens the same address later meets the login page.
        late = await Visitor().visit(login(base, token))
        assert late.forms == 1 and "signed in" not in late.text


async def test_visitors_at_once_do_not_mix(packages: Path, tmp_path: Path) -> None:
    async with sandbox() as server, web_application(EXPRESS, packages, tmp_path, server) as base:
        people = [PAT, RORY, ""] * 5
        tokens = [await transfer_token(server, name) if name else "" for name in people]
        ways = await asyncio.gather(
            *(Visitor().visit(login(base, token) if token else f"{base}/login") for token in tokens)
        )
        for name, token, way in zip(people, tokens, ways, strict=True):
            sent = parse_qs(urlsplit(way.addresses[1]).query).get("session_transfer_token", [""])
            assert sent == [token]
            assert way.text == f"signed in as {name}\n" if name else way.forms == 1


async def test_one_shared_configuration_leaks_a_token_into_the_next_visitors_login(
    packages: Path, tmp_path: Path
) -> None:
    # What docs/examples/README.md tells as measured: the older sample, beside the example above.
    async with sandbox() as server, web_application(HERE / "shared.mjs", packages, tmp_path, server) as base:
        token = await transfer_token(server, PAT)
        await Visitor().visit(login(base, token), hops_max=1)  # arrives, and goes no further
        stranger = await Visitor().visit(f"{base}/login")
        assert token in stranger.addresses[1]
        assert stranger.text == f"signed in as {PAT}\n"
    async with sandbox() as server, web_application(EXPRESS, packages, tmp_path, server) as base:
        token = await transfer_token(server, PAT)
        await Visitor().visit(login(base, token), hops_max=1)
        stranger = await Visitor().visit(f"{base}/login")
        assert token not in "".join(stranger.addresses) and stranger.forms == 1


async def test_openid_client_discovers_signs_in_refreshes_and_revokes(packages: Path, tmp_path: Path) -> None:
    async with sandbox() as server:
        facts = {
            "issuer": server.provider.state.urls.issuer,
            "clientId": WEB_ID,
            "clientSecret": WEB_SECRET,
            "redirectUri": f"http://127.0.0.1:{free_port()}/callback",
            "transferToken": await transfer_token(server, PAT),
            "refreshToken": (await grant_of(server, PAT)).reveal(),
            "nativeId": CLIENT_ID,
        }
        async with node(HERE / "client.mjs", packages, tmp_path, {"SANDBOX": json.dumps(facts)}) as process:
            async with asyncio.timeout(HANG_S):
                output, _ = await process.communicate()
            assert process.returncode == 0
    assert json.loads(output) == {
        "issuer": facts["issuer"],
        "authorize": 303,
        "name": "Pat Password",
        "webRefreshToken": False,  # asked for, and not allowed in a session of this kind: no error
        "again": [200, True],
        "rotated": True,
        "afterRevocation": "invalid_grant",
    }


@pytest.mark.skipif(CHROMIUM is None, reason=needs.missing("chromium"))
async def test_the_page_is_signed_in_in_a_browser_and_keeps_no_token_in_its_address(tmp_path: Path) -> None:
    found: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE.read_text(encoding="utf-8") + WATCH, content_type="text/html")

    async def take(request: web.Request) -> web.Response:
        found.set_result(json.loads(await request.read()))
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/", page), web.post("/found", take)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with sandbox(frozenset({origin})) as server:
            token = await transfer_token(server, PAT)
            query = {"issuer": server.base_url, "client_id": SPA_ID, "session_transfer_token": token}
            assert CHROMIUM is not None
            browser = await asyncio.create_subprocess_exec(
                CHROMIUM,
                *QUIET,
                f"--user-data-dir={tmp_path / 'profile'}",
                f"{origin}/?{urlencode(query)}",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(HANG_S):
                    seen = await found
            finally:
                browser.terminate()
                await browser.wait()
    finally:
        await runner.cleanup()
    assert seen == {"text": f"signed in as {PAT}", "address": f"{origin}/"}


async def test_every_version_is_pinned_and_no_lock_file_names_a_registry() -> None:
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    assert set(wanted) == {"express", "express-openid-connect", "openid-client"}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    assert not [*HERE.glob("*lock*"), *HERE.glob("*shrinkwrap*")]
