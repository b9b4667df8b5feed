"""Auth0's own SDK for Python, unmodified, against the sandbox over TLS: tokens, revocation, management."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession, TCPConnector

from tests.sandbox.sandbox_client import REDIRECT_URI, SandboxClient, query_of
from tests.sandbox.test_sandbox_main import self_signed
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.tokens.session_transfer import ISSUED_TOKEN_TYPE
from token_relay.sandbox.provider.world.auth0_clients import MANAGER_ID, MANAGER_SECRET, WEB_ID, WEB_SECRET
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD
from token_relay.sandbox.provider.world.rules import user_id
from token_relay.sandbox.server import SandboxServer, tls_context

authentication = pytest.importorskip(
    "auth0.authentication", reason="auth0-python is not installed: it was not run against the sandbox"
)
management = pytest.importorskip(
    "auth0.management", reason="auth0-python is not installed: it was not run against the sandbox"
)
httpx = pytest.importorskip("httpx", reason="auth0-python is not installed: it was not run against the sandbox")
pytestmark = [
    pytest.mark.asyncio,
    # The SDK hangs up without TLS's close_notify, and asyncio then keeps the server's side for its shutdown timeout.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
USER = "password@contoso.example"
SCOPE = "openid profile email offline_access"


@dataclass
class Bench:
    """A sandbox over TLS, and the host that the SDK is told."""

    client: SandboxClient
    domain: str
    http: Any  # an httpx.Client; the SDK would never close one of its own

    @staticmethod
    async def ask(call: Callable[[], Any]) -> Any:
        """Call the SDK, which blocks, beside this loop, on which the sandbox runs."""
        return await asyncio.to_thread(call)

    async def transfer(self, refresh_token: str) -> dict[str, Any]:
        """The exchange: the SDK has no method for it, so its generic one is used."""
        tokens = authentication.GetToken(self.domain, CLIENT_ID)
        audience = f"urn:{self.domain}:session_transfer"
        body = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "refresh_token": refresh_token}
        url = f"https://{self.domain}/oauth/token"
        return dict(await self.ask(lambda: tokens.authenticated_post(url, data={**body, "audience": audience})))


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """Collect what a closed loop leaves within the test that left it; autouse makes it outlive the loop."""
    yield
    gc.collect()


@pytest_asyncio.fixture
async def bench(tmp_path: Path, signer: RsaSigner, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    cert, key = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))  # requests, in the authentication half
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))  # httpx, in the management half
    server = SandboxServer(DEFAULT_WORLD, "auth0", rng=random.Random(7), signer=signer, tls=tls_context(cert, key))
    async with server, ClientSession(connector=TCPConnector(ssl=False)) as session:
        with httpx.Client() as http:
            yield Bench(SandboxClient(server, session), server.base_url.removeprefix("https://"), http)


async def test_its_tokens_are_had_exchanged_refreshed_and_revoked(bench: Bench) -> None:
    tokens = authentication.GetToken(bench.domain, CLIENT_ID)
    first = await bench.ask(
        lambda: tokens.login(
            username=USER, password=PASSWORD, scope=SCOPE, realm=None, audience=None, grant_type="password"
        )
    )
    moved = await bench.transfer(first["refresh_token"])
    assert moved["issued_token_type"] == ISSUED_TOKEN_TYPE
    arrived = await bench.client.request(
        "GET",
        "/authorize",
        params={
            "response_type": "code",
            "client_id": WEB_ID,
            "redirect_uri": REDIRECT_URI,
            "scope": "openid",
            "session_transfer_token": moved["access_token"],
        },
    )
    web = authentication.GetToken(bench.domain, WEB_ID, client_secret=WEB_SECRET)
    code = query_of(arrived)["code"]
    redeemed = await bench.ask(lambda: web.authorization_code(code, REDIRECT_URI))
    assert redeemed["id_token"]
    users = authentication.Users(bench.domain)
    assert (await bench.ask(lambda: users.userinfo(redeemed["access_token"])))["sub"] == user_id(USER)
    again = await bench.ask(lambda: tokens.refresh_token(moved["refresh_token"]))
    revoking = authentication.RevokeToken(bench.domain, CLIENT_ID)
    await bench.ask(lambda: revoking.revoke_refresh_token(again["refresh_token"]))
    errors = pytest.importorskip("auth0.authentication.exceptions", reason="auth0-python lacks its errors")
    with pytest.raises(errors.Auth0Error) as caught:
        await bench.ask(lambda: tokens.refresh_token(again["refresh_token"]))
    assert (caught.value.status_code, caught.value.error_code, caught.value.message) == (
        403,
        "invalid_grant",
        "Unknown or invalid refresh token.",
    )


async def test_its_token_verifier_takes_our_id_token(bench: Bench) -> None:
    tokens = authentication.GetToken(bench.domain, CLIENT_ID)
    first = await bench.ask(
        lambda: tokens.login(
            username=USER, password=PASSWORD, scope=SCOPE, realm=None, audience=None, grant_type="password"
        )
    )
    token_verifier = pytest.importorskip(
        "auth0.authentication.token_verifier", reason="auth0-python lacks its verifier"
    )
    signature = token_verifier.AsymmetricSignatureVerifier(f"https://{bench.domain}/.well-known/jwks.json")
    verifier = token_verifier.TokenVerifier(signature, f"https://{bench.domain}/", CLIENT_ID)
    claims = await bench.ask(lambda: verifier.verify(first["id_token"]))
    assert claims["sub"] == user_id(USER)


async def test_its_management_client_configures_reads_and_revokes(bench: Bench) -> None:
    client = management.ManagementClient(
        domain=bench.domain, client_id=MANAGER_ID, client_secret=MANAGER_SECRET, httpx_client=bench.http
    )
    setting = {"can_create_session_transfer_token": True, "enforce_device_binding": "asn"}
    changed = await bench.ask(lambda: client.clients.update(CLIENT_ID, session_transfer=setting))
    assert changed.session_transfer.can_create_session_transfer_token is True
    assert changed.session_transfer.enforce_device_binding == "asn"
    made = await bench.ask(lambda: client.clients.create(name="another", app_type="native", session_transfer=setting))
    listed = await bench.ask(lambda: [one.client_id for one in client.clients.list(per_page=2)])
    assert made.client_id in listed
    await bench.ask(lambda: client.clients.delete(made.client_id))

    tokens = authentication.GetToken(bench.domain, CLIENT_ID)
    first = await bench.ask(
        lambda: tokens.login(
            username=USER, password=PASSWORD, scope=SCOPE, realm=None, audience=None, grant_type="password"
        )
    )
    owner = user_id(USER)
    (found,) = await bench.ask(lambda: list(client.users.refresh_token.list(owner)))
    assert found.client_id == CLIENT_ID
    metadata = {"device_name": "watch"}
    await bench.ask(lambda: client.refresh_tokens.update(found.id, refresh_token_metadata=metadata))
    shown = await bench.ask(lambda: client.refresh_tokens.get(found.id))
    assert shown.refresh_token_metadata == metadata
    assert shown.rotating is True
    credentials = await bench.ask(
        lambda: list(client.device_credentials.list(user_id=owner, type="rotating_refresh_token"))
    )
    assert [one.device_name for one in credentials] == ["watch"]

    moved = await bench.transfer(first["refresh_token"])
    assert moved["token_type"] == "N_A"
    records = await bench.ask(lambda: list(client.logs.list(search="type:sertft")))
    assert [record.type for record in records] == ["sertft"]
    await bench.ask(lambda: client.refresh_tokens.revoke(ids=[found.id]))
    assert await bench.ask(lambda: list(client.users.refresh_token.list(owner))) == []
    with pytest.raises(management.NotFoundError):
        await bench.ask(lambda: client.sessions.get("sess-unknown"))
