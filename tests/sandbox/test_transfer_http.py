"""Session transfer over real sockets: many browsers at once, cookies as they are on the wire, events in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from structlog.testing import capture_logs

from tests.sandbox.sandbox_client import CHALLENGE, REDIRECT_URI, SandboxClient
from token_relay.sandbox.provider.world.auth0_clients import WEB_ID
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD

pytestmark = pytest.mark.asyncio
ATTEMPTS = 1_000
ASKED = {
    "response_type": "code",
    "client_id": WEB_ID,
    "redirect_uri": REDIRECT_URI,
    "scope": "openid",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


async def native_token(client: SandboxClient) -> tuple[str, str]:
    """A session transfer token and the refresh token that goes on."""
    fields = {"grant_type": "password", "username": "password@contoso.example", "password": PASSWORD}
    signed_in = await client.token(**fields, scope="openid offline_access")
    host = client.base.removeprefix("http://")
    reply = await client.refresh(signed_in.json["refresh_token"], audience=f"urn:{host}:session_transfer")
    assert reply.status == 200, reply.text
    return reply.json["access_token"], reply.json["refresh_token"]


async def test_of_a_thousand_attempts_at_once_exactly_one_wins(auth0: SandboxClient) -> None:
    stt, _ = await native_token(auth0)
    url = f"{auth0.base}/authorize"

    async def attempt(session: ClientSession) -> int:
        asked = {**ASKED, "session_transfer_token": stt}
        async with session.get(url, params=asked, allow_redirects=False) as reply:
            await reply.read()
            return reply.status

    async with ClientSession(connector=TCPConnector(limit=200), timeout=ClientTimeout(total=120)) as session:
        statuses = await asyncio.gather(*(attempt(session) for _ in range(ATTEMPTS)))
    assert statuses.count(303) == 1
    assert statuses.count(200) == ATTEMPTS - 1
    state = auth0.server.provider.state
    assert len(state.sessions) == 1
    assert sum(record.type == "w" for record in state.logs) == ATTEMPTS - 1


async def test_of_many_exchanges_of_one_refresh_token_without_a_leeway_one_wins_and_the_family_dies(
    auth0: SandboxClient,
) -> None:
    await auth0.ordered("policy", leeway_s=0)
    _, refresh_token = await native_token(auth0)
    host = auth0.base.removeprefix("http://")
    replies = await asyncio.gather(
        *(auth0.refresh(refresh_token, audience=f"urn:{host}:session_transfer") for _ in range(20))
    )
    won = [reply for reply in replies if reply.status == 200]
    assert len(won) == 1
    after = await auth0.request(
        "GET", "/authorize", params={**ASKED, "session_transfer_token": won[0].json["access_token"]}
    )
    assert after.status == 200  # reuse has killed the family, so its token opens nothing
    assert (await auth0.refresh(won[0].json["refresh_token"])).status == 403


async def test_the_cookies_are_bound_to_the_path_closed_to_scripts_and_taken_away_after_use(
    auth0: SandboxClient,
) -> None:
    stt, _ = await native_token(auth0)
    headers = {"Cookie": f"auth0_session_transfer_token={stt}"}
    url = f"{auth0.base}/authorize"
    async with auth0.session.get(url, params=ASKED, headers=headers, allow_redirects=False) as reply:
        assert reply.status == 303
        session, framed, gone = reply.headers.getall("Set-Cookie")
    shared = "; Path=/; HttpOnly; Max-Age=604800"
    value = session.removeprefix("auth0=").partition(";")[0]
    assert session == f"auth0={value}{shared}; SameSite=Lax"
    assert framed == f"auth0_frames={value}{shared}; Secure; SameSite=None"
    assert gone.startswith("auth0_session_transfer_token=; ")
    assert "Max-Age=0" in gone


async def test_every_record_of_the_tenant_log_is_an_event_of_ours_without_a_token(auth0: SandboxClient) -> None:
    with capture_logs() as events:
        stt, refresh_token = await native_token(auth0)
        await auth0.request("GET", "/authorize", params={**ASKED, "session_transfer_token": stt})
        await auth0.request("GET", "/authorize", params={**ASKED, "session_transfer_token": stt})
        await auth0.request("POST", "/oauth/revoke", data={"client_id": CLIENT_ID, "token": refresh_token})
    found = [event for event in events if event["event"] == "tenant_log"]
    assert [event["type"] for event in found] == ["sepft", "sertft", "s", "w", "srrt"]
    assert found[1]["familyId"]
    assert "SANDBOXMARK" not in repr(events)


@pytest.mark.parametrize("kind", ["json", "form"])
async def test_revocation_takes_json_and_forms_and_answers_200_for_an_unknown_token(
    auth0: SandboxClient, kind: str
) -> None:
    _, refresh_token = await native_token(auth0)
    send: Callable[[str], dict[str, Any]] = lambda token: {  # noqa: E731
        "json" if kind == "json" else "data": {"client_id": CLIENT_ID, "token": token}
    }
    for token in ("unknown", refresh_token):
        reply = await auth0.request("POST", "/oauth/revoke", **send(token))
        assert (reply.status, reply.text) == (200, "")
    assert (await auth0.refresh(refresh_token)).status == 403
