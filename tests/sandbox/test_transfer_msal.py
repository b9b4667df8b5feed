"""MSAL for Python over TLS against the profile that keeps sessions, under an issuer with a path: it insists on both."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import pytest
import pytest_asyncio
from aiohttp import ClientSession, CookieJar, TCPConnector

from tests.sandbox.sandbox_client import PASSWORD_USER, REDIRECT_URI, SandboxClient
from tests.sandbox.test_sandbox_main import self_signed
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.auth0_clients import WEB_ID
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD
from token_relay.sandbox.server import SandboxServer, tls_context

requests = pytest.importorskip("requests", reason="requests is not installed: MSAL for Python was not run")
msal = pytest.importorskip("msal", reason="msal is not installed: MSAL for Python was not run")
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.filterwarnings("ignore:response_mode='form_post'"),  # MSAL's advice to servers that have a back end
]


@dataclass
class Desk:
    """An application with MSAL in it, and a person with a browser."""

    client: SandboxClient
    app: Any

    @staticmethod
    async def ask(call: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(call)

    async def fill_in(self, url: str, **fields: str) -> Any:
        page = await self.client.request("GET", url)
        ticket = re.search(r'name="ticket" value="([^"]+)"', page.text)
        action = re.search(r'action="([^"]+)"', page.text)
        assert ticket is not None and action is not None, page.text
        data = {"ticket": unescape(ticket[1]), **fields}
        return await self.client.request("POST", urljoin(url, action[1]), data=data)

    async def sign_in(self, **more: str) -> dict[str, Any]:
        flow = await self.ask(lambda: self.app.initiate_auth_code_flow(["read"], redirect_uri=REDIRECT_URI, **more))
        done = await self.fill_in(flow["auth_uri"], username=PASSWORD_USER, password=PASSWORD)
        if more.get("response_mode") == "form_post":
            answer = {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', done.text)}
        else:
            answer = dict(parse_qsl(urlsplit(done.headers["location"]).query))
        found: dict[str, Any] = await self.ask(lambda: self.app.acquire_token_by_auth_code_flow(flow, answer))
        assert "error" not in found, found
        return found


@pytest_asyncio.fixture
async def desk(tmp_path: Path, signer: RsaSigner, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    cert, key = self_signed(tmp_path)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests prefers them to what MSAL tells it
        monkeypatch.delenv(name, raising=False)
    server = SandboxServer(
        DEFAULT_WORLD,
        "auth0",
        rng=random.Random(7),
        tls=tls_context(cert, key),
        signer=signer,
        issuer_path="/contoso",
    )
    trusting = TCPConnector(ssl=ssl.create_default_context(cafile=str(cert)))
    async with server, ClientSession(connector=trusting, cookie_jar=CookieJar(unsafe=True)) as session:
        with requests.Session() as http:
            http.verify = str(cert)
            authority = server.provider.state.urls.issuer  # to the letter
            assert authority == f"{server.base_url}/contoso"
            app = await asyncio.to_thread(
                lambda: msal.PublicClientApplication(CLIENT_ID, oidc_authority=authority, http_client=http)
            )
            yield Desk(SandboxClient(server, session), app)


@pytest.mark.parametrize("mode", ["query", "form_post"])
async def test_msal_signs_in_and_refreshes_by_itself(desk: Desk, mode: str) -> None:
    tokens = await desk.sign_in(response_mode=mode)
    assert tokens["id_token_claims"]["iss"] == f"{desk.client.base}/contoso"
    (account,) = desk.app.get_accounts()
    again = await desk.ask(lambda: desk.app.acquire_token_silent(["read"], account, force_refresh=True))
    assert again["access_token"] != tokens["access_token"]


async def test_msal_signs_a_device_in_by_its_code(desk: Desk) -> None:
    await desk.sign_in()  # the browser has a session now
    flow = await desk.ask(lambda: desk.app.initiate_device_flow(["read"]))
    done = await desk.fill_in(f"{flow['verification_uri']}?user_code={flow['user_code']}", action="accept")
    assert "signed in on your device" in done.text
    tokens = await desk.ask(lambda: desk.app.acquire_token_by_device_flow(flow))
    assert tokens["id_token_claims"]["nickname"] == "password"


async def test_msals_refresh_token_is_traded_for_a_web_session(desk: Desk) -> None:
    tokens = await desk.sign_in()
    host = urlsplit(desk.client.base).hostname
    form = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "refresh_token": tokens["refresh_token"]}
    url = f"{desk.client.base}/contoso/oauth/token"
    reply = await desk.client.request("POST", url, data={**form, "audience": f"urn:{host}:session_transfer"})
    desk.client.session.cookie_jar.clear()
    query = {"client_id": WEB_ID, "response_type": "code", "redirect_uri": REDIRECT_URI}
    asked = {**query, "session_transfer_token": reply.json["access_token"]}
    arrived = await desk.client.request("GET", f"{desk.client.base}/contoso/authorize", params=asked)
    assert arrived.status == 303
    assert "code=" in arrived.headers["location"]


async def test_metadata_stands_at_both_places_and_names_itself(desk: Desk) -> None:
    base = desk.client.base
    for path in ("/contoso/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/contoso"):
        found = (await desk.client.request("GET", f"{base}{path}")).json
        assert found["issuer"] == f"{base}/contoso"
        assert found["token_endpoint"] == f"{base}/contoso/oauth/token"
    assert (await desk.client.request("GET", f"{base}/fabrikam/.well-known/openid-configuration")).status == 404
