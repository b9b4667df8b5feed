"""Microsoft's MSAL for Python, unmodified, against the sandbox over TLS: discovery, keys, code flow and refresh.

It has no native authentication, which leaves what the sandbox shares with every OpenID provider.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import pytest_asyncio
from aiohttp import ClientSession, TCPConnector

from tests.sandbox.sandbox_client import PASSWORD_USER, REDIRECT_URI, SandboxClient
from tests.sandbox.test_sandbox_main import self_signed
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD
from token_relay.sandbox.server import SandboxServer, tls_context

requests = pytest.importorskip("requests", reason="requests is not installed: MSAL for Python was not run")
msal = pytest.importorskip("msal", reason="msal is not installed: MSAL for Python was not run")
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.filterwarnings("ignore:response_mode='form_post'"),  # MSAL's advice to servers that have a back end
]
SCOPE = "api://sandbox/read"


@dataclass
class Desk:
    """An application with MSAL in it, and a person at its sandbox."""

    client: SandboxClient
    http: Any  # a requests.Session that trusts the sandbox; MSAL would never close one of its own

    @staticmethod
    async def ask(call: Callable[[], Any]) -> Any:
        """Call MSAL, which blocks, beside this loop, on which the sandbox runs."""
        return await asyncio.to_thread(call)

    async def application(self, **more: Any) -> Any:
        urls = self.client.server.provider.state.urls
        return await self.ask(
            lambda: msal.PublicClientApplication(CLIENT_ID, oidc_authority=urls.issuer, http_client=self.http, **more)
        )

    async def sign_in(self, app: Any) -> dict[str, Any]:
        """The code flow; the person fills in the page."""
        flow = await self.ask(lambda: app.initiate_auth_code_flow([SCOPE], redirect_uri=REDIRECT_URI))
        page = await self.client.request("GET", flow["auth_uri"])
        assert page.status == 200, page.text
        done = await self.client.submit(page, PASSWORD_USER, PASSWORD)
        answer = dict(parse_qsl(urlsplit(done.headers["location"]).query))
        found: dict[str, Any] = await self.ask(lambda: app.acquire_token_by_auth_code_flow(flow, answer))
        assert "error" not in found, found
        return found


@pytest_asyncio.fixture
async def desk(tmp_path: Path, signer: RsaSigner, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    cert, key = self_signed(tmp_path)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests prefers them to what MSAL tells it
        monkeypatch.delenv(name, raising=False)
    server = SandboxServer(DEFAULT_WORLD, "entra", rng=random.Random(7), tls=tls_context(cert, key), signer=signer)
    trusting = TCPConnector(ssl=ssl.create_default_context(cafile=str(cert)))
    async with server, ClientSession(connector=trusting) as session:
        with requests.Session() as http:
            http.verify = str(cert)
            yield Desk(SandboxClient(server, session), http)


async def test_msal_signs_in_by_code_and_finds_the_account_again(desk: Desk) -> None:
    app = await desk.application()
    tokens = await desk.sign_in(app)
    assert tokens["id_token_claims"]["preferred_username"] == PASSWORD_USER
    (account,) = app.get_accounts()
    assert account["username"] == PASSWORD_USER
    cached = await desk.ask(lambda: app.acquire_token_silent([SCOPE], account))
    assert cached["access_token"] == tokens["access_token"]


async def test_msal_refreshes_silently_three_times_with_the_newest_token(desk: Desk) -> None:
    app = await desk.application()
    seen = {(await desk.sign_in(app))["access_token"]}
    (account,) = app.get_accounts()
    for _ in range(3):
        renewed = await desk.ask(lambda: app.acquire_token_silent([SCOPE], account, force_refresh=True))
        seen.add(renewed["access_token"])
    assert len(seen) == 4
    used = [event["used_generation"] for event in await desk.client.events("refresh_committed")]
    assert used == [1, 2, 3]


async def test_msal_adopts_a_refresh_token_from_a_native_sign_in(desk: Desk) -> None:
    native = await desk.client.sign_in(scope=f"{SCOPE} openid profile offline_access")
    app = await desk.application()
    found = await desk.ask(lambda: app.acquire_token_by_refresh_token(native["refresh_token"], [SCOPE]))
    assert found["access_token"] and found["refresh_token"] != native["refresh_token"]
    assert (await desk.client.resource(found["access_token"])).json["username"] == PASSWORD_USER


async def test_msal_hands_a_refusal_on_with_its_code_and_trace(desk: Desk) -> None:
    app = await desk.application()
    refresh_token = (await desk.client.sign_in(scope=f"{SCOPE} offline_access"))["refresh_token"]
    await desk.client.ordered("revoke", username=PASSWORD_USER)
    refused = await desk.ask(lambda: app.acquire_token_by_refresh_token(refresh_token, [SCOPE]))
    assert (refused["error"], refused["error_codes"]) == ("invalid_grant", [50173])
    assert refused["trace_id"] and refused["correlation_id"]


async def test_msal_declares_its_capability_and_answers_a_claims_challenge(desk: Desk) -> None:
    await desk.client.ordered("policy", cae=True)
    app = await desk.application(client_capabilities=["CP1"])
    tokens = await desk.sign_in(app)
    (account,) = app.get_accounts()
    renewed = await desk.ask(lambda: app.acquire_token_silent([SCOPE], account, force_refresh=True))
    await desk.client.ordered("revoke", username=PASSWORD_USER, event="claims_challenge")
    challenged = await desk.client.resource(renewed["access_token"])
    assert challenged.status == 401 and "insufficient_claims" in challenged.headers["www-authenticate"]
    claims = '{"access_token":{"nbf":{"essential":true,"value":"1"}}}'
    answered = await desk.ask(lambda: app.acquire_token_silent([SCOPE], account, claims_challenge=claims))
    assert answered["access_token"] not in {tokens["access_token"], renewed["access_token"]}
    assert (await desk.client.resource(answered["access_token"])).status == 200
