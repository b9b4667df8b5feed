"""Actions: the rule of the documents in a few lines, what an Action may do, and what a bad one cannot."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from tests.sandbox.sandbox_client import NOON, SandboxClient
from tests.sandbox.transfer_kit import ABROAD, HOME, NEIGHBOUR, OTHER_USER, WEB_ID, Browser, claims_of, desk, table, web
from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.actions.runner import ActionRunner
from token_relay.sandbox.actions.worker import run, view
from token_relay.sandbox.provider.http_values import JsonValue
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.memory.verdicts import ANSWER_BYTES_MAX, Question
from token_relay.sandbox.provider.tokens.issued import find_refresh
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, PASSWORD
from token_relay.sandbox.server import SandboxServer

GEO_MISMATCH = """
def on_execute_post_login(event, api):
    token = event.session_transfer_token
    if token and token.request.geoip.countryCode != event.request.geoip.countryCode:
        api.access.deny("Network mismatch detected")
"""


def says(source: str) -> Callable[[Any], Any]:
    """An Action's answers, without a process."""
    space: dict[str, Any] = {}
    exec(source, space)
    return lambda event: run([space["on_execute_post_login"]], event)


def test_the_geography_rule_of_the_documents_denies_a_token_that_has_travelled() -> None:
    one = desk(action=says(GEO_MISMATCH))
    one.set(WEB_ID, session_transfer=web(enforce_device_binding="none"))
    refresh_token = one.sign_in()
    stt, refresh_token = one.transfer(refresh_token)
    reply = Browser(one, ABROAD).authorize(stt=stt)
    assert (reply.location["error"], reply.location["error_description"]) == (
        "access_denied",
        "Network mismatch detected",
    )
    assert one.live_sessions() == []
    assert one.logs("f")[-1]["description"] == "Network mismatch detected"
    assert Browser(one, HOME).authorize(stt=stt).is_login_page  # a denied token is used up
    stt, _ = one.transfer(refresh_token)
    assert Browser(one, NEIGHBOUR).authorize(stt=stt).code


def parent_in(part: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return what a part of an event says of the native grant that it comes from."""
    transfer = part["session_transfer"]
    assert isinstance(transfer, dict)
    parent = transfer["parent_refresh_token"]
    assert isinstance(parent, dict)
    return parent


def test_the_event_has_the_fields_of_the_documents_and_no_secret() -> None:
    one = desk(action=lambda event: {"commands": []})
    one.set(WEB_ID, session_transfer=web(allow_refresh_token=True))
    stt, refresh_token = one.transfer(one.sign_in())
    browser = Browser(one)
    tokens = browser.web_tokens(stt)
    event = one.asked[-1].event
    assert event["session_transfer_token"] == {
        "client_id": "00001111-aaaa-2222-bbbb-3333cccc4444",
        "scope": ["openid", "profile", "offline_access"],
        "request": {
            "ip": HOME,
            "asn": "64500",
            "user_agent": "kit",
            "geoip": {"countryCode": "DE", "cityName": "Kiel"},
        },
    }
    browser.web_refresh(tokens["refresh_token"])
    event = one.asked[-1].event
    parent = one.family_of(refresh_token)
    of_session, of_token = event["session"], event["refresh_token"]
    assert isinstance(of_session, dict) and isinstance(of_token, dict)
    assert parent_in(of_session) == {"id": parent, "metadata": {}}
    assert parent_in(of_token)["id"] == parent
    assert {"id", "client_id", "user_id", "session_id", "created_at", "expires_at", "idle_expires_at"} <= set(of_token)
    assert {"last_exchanged_at", "rotating", "metadata", "resource_servers", "device"} <= set(of_token)
    assert "SANDBOXMARK" not in repr([question.event for question in one.asked])


def test_an_action_shortens_lives_labels_tokens_and_adds_claims() -> None:
    ends = (NOON + 100) * 1000
    source = f"""
def on_execute_post_login(event, api):
    api.session.setExpiresAt({ends})
    api.refreshToken.setExpiresAt({ends * 100})
    api.refresh_token.set_idle_expires_at({ends})
    api.refreshToken.setMetadata("device", "watch")
    api.idToken.setCustomClaim("https://example/role", "guest")
    api.accessToken.setCustomClaim("sub", "somebody else")
"""
    one = desk(action=says(source))
    one.set(WEB_ID, session_transfer=web(allow_refresh_token=True))
    stt, refresh_token = one.transfer(one.sign_in())
    state = one.provider.state
    assert state.families[one.family_of(refresh_token)].metadata == {"device": "watch"}
    browser = Browser(one)
    tokens = browser.web_tokens(stt, audience="https://api.example")
    assert claims_of(tokens["id_token"])["https://example/role"] == "guest"
    assert claims_of(tokens["access_token"])["sub"].startswith("auth0|")
    assert state.families[one.family_of(refresh_token)].expires_at == NOON + 30 * 86_400  # it can only shorten
    one.now = NOON + 100
    assert browser.authorize(prompt="none").location["error"] == "login_required"
    assert one.refresh(refresh_token).status == 403


def test_an_action_lengthens_no_life_and_labels_a_token_with_so_much_only() -> None:
    far = (NOON + 1e9) * 1000
    commands: list[dict[str, object]] = [
        {"do": do, "of": of, "at_ms": far}
        for do in ("set_expires_at", "set_idle_expires_at")
        for of in ("session", "refresh_token")
    ]
    commands += [{"do": "set_metadata", "key": f"k{number}", "value": "v"} for number in range(26)]
    one = desk(action=lambda event: {"commands": commands})
    browser = Browser(one)
    browser.form_sign_in()
    (session,) = one.provider.state.sessions.values()
    assert (session.expires_at, session.idle_expires_at) == (NOON + 7 * 86_400, NOON + 3 * 86_400)
    token = one.sign_in()
    entry = find_refresh(one.provider.state, token)
    family = one.provider.state.families[one.family_of(token)]
    assert entry is not None and entry.idle_expires_at == family.expires_at == NOON + 30 * 86_400
    assert list(family.metadata) == [f"k{number}" for number in range(25)]


def test_an_action_is_asked_again_if_the_login_has_changed_meanwhile() -> None:
    one = desk(action=lambda event: {"commands": []})
    browser = Browser(one)
    browser.form_sign_in()
    (session,) = one.provider.state.sessions.values()
    before = len(one.asked)

    def meanwhile(event: object) -> dict[str, list[object]]:
        session.clients.append(f"application {len(one.asked)}") if len(one.asked) == before + 1 else None
        return {"commands": []}

    one.action = meanwhile
    assert browser.authorize(prompt="none").code
    assert len(one.asked) == before + 2
    assert one.asked[-1].event != one.asked[-2].event


def test_an_action_that_revokes_a_refresh_token_refuses_the_exchange_for_good() -> None:
    source = """
def on_execute_post_login(event, api):
    if event.refresh_token:
        api.refreshToken.revoke("lost device")
"""
    one = desk(action=says(source))
    refresh_token = one.sign_in()
    reply = one.refresh(refresh_token)
    assert (reply.status, reply.json) == (403, {"error": "access_denied", "error_description": "lost device"})
    assert one.logs("srrt")[-1]["details"]["cause"] == "action"
    assert one.refresh(refresh_token).json["error"] == "invalid_grant"


def test_a_form_by_code_is_asked_for_once_though_the_action_stops_it_halfway() -> None:
    one = desk(action=lambda event: {"commands": []})
    browser = Browser(one)
    page = browser.submit(browser.authorize(), "otp@contoso.example", "")
    page = Browser.submit(browser, _as_login(page), "otp@contoso.example", _code(one))
    assert page.code


def _as_login(page: Any) -> Any:
    assert 'name="ticket"' in page.text
    return page


def _code(one: Any) -> str:
    return str(one.provider.state.mailboxes["otp@contoso.example"].code.reveal())


def test_a_verdict_counts_only_for_the_event_that_the_action_saw() -> None:
    seen = Question({"a": 1})
    assert seen.answered(b'{"commands": []}').key == Question({"a": 1}).key != Question({"a": 2}).key


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"commands": [{"do": "format", "disk": "c"}]}',
        b'{"commands": [{"do": "deny"}]}',
        b'{"commands": [{"do": "set_expires_at", "of": "session", "at_ms": -1}]}',
        b'{"commands": [{"do": "set_metadata", "key": "a b", "value": "c"}]}',
        b'{"more": 1}',
        b'{"commands": [' + b'{"do": "deny", "reason": ""},' * 101 + b"]}",
        b'{"commands": []}' + b" " * ANSWER_BYTES_MAX,
    ],
)
def test_an_answer_that_does_not_fit_is_a_failure_and_denies(raw: bytes) -> None:
    assert Question({}).answered(raw).failure


def test_what_is_not_there_is_none_and_python_names_work_too() -> None:
    event = view({"request": {"geoip": {}}})
    assert event.request.geoip.countryCode is None
    assert event.nothing is None
    assert event["request"]["geoip"] == {}


# -- real processes -----------------------------------------------------------------------------------------------

HOSTILE = {
    "raises": "raise RuntimeError('no')",
    "hangs": "\n        while True: pass",
    "sleeps": "\n        import time; time.sleep(60)",
    "exits": "\n        import os; os._exit(0)",
    "sys_exit": "raise SystemExit",
    "eats memory": "\n        x = bytearray(2 << 30)",
    "answers nonsense": "\n        import os; [os.write(fd, b'{}\\n') for fd in (1, 2)]; raise ValueError",
    "floods": "api.session.revoke('x' * 100000) if [api.session.revoke('x' * 1000) for _ in range(1000)] else None",
    "forks": "\n        import os, time\n        if os.fork() == 0: time.sleep(60)\n        time.sleep(60)",
    "closes": "\n        import os; os.closerange(0, 50)",
    "is a coroutine": "\n        async def f(): pass\n        return f()",
    "breaks the event": "\n        event.clear(); event['x'] = event; return api.access.deny(event.user.email)",
}
BAD = """
def on_execute_post_login(event, api):
    if event.user.email == "reset@contoso.example":
        {}
"""


@pytest_asyncio.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Callable[[str], Awaitable[SandboxClient]]]:
    stack: list[Any] = []
    signer = RsaSigner()

    async def start(source: str) -> SandboxClient:
        path = tmp_path / "actions.py"
        path.write_text(source)
        runner = ActionRunner(path, answer_s=1.5)
        server = SandboxServer(
            DEFAULT_WORLD,
            "auth0",
            rng=random.Random(7),
            signer=signer,
            wall=lambda: NOON,
            networks=table(),
            actions=runner,
        )
        await server.start()
        stack.append(server.stop)
        session = ClientSession()
        stack.append(session.close)
        return SandboxClient(server, session)

    yield start
    for close in reversed(stack):
        await close()


@pytest.mark.asyncio
@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_action_costs_its_own_login_and_nobody_elses(
    what: str, sandbox: Callable[[str], Awaitable[SandboxClient]]
) -> None:
    client = await sandbox(BAD.format(HOSTILE[what]))
    fields = {"grant_type": "password", "password": PASSWORD, "scope": "openid offline_access"}
    bad, good = await asyncio.gather(
        client.token(username=OTHER_USER, **fields), client.token(username="password@contoso.example", **fields)
    )
    assert (bad.status, bad.json["error"]) == (403, "access_denied")
    assert "refresh_token" not in bad.json
    assert good.status == 200
    assert (await client.refresh(good.json["refresh_token"])).status == 200
    record = [one for one in client.server.provider.state.logs if one.type == "fepft"][-1]
    assert record.fields["user_name"] == OTHER_USER
    assert "SANDBOXMARK" not in repr(record.fields)


@pytest.mark.asyncio
async def test_the_provider_answers_others_while_an_action_hangs(
    sandbox: Callable[[str], Awaitable[SandboxClient]],
) -> None:
    client = await sandbox(BAD.format(HOSTILE["sleeps"]))
    fields = {"grant_type": "password", "password": PASSWORD, "scope": "openid"}
    hanging = asyncio.create_task(client.token(username=OTHER_USER, **fields))
    await client.wait_for("token_request_received")
    keys = await client.request("GET", "/.well-known/jwks.json")
    assert keys.status == 200
    assert not hanging.done()
    assert (await hanging).status == 403


@pytest.mark.asyncio
async def test_no_process_of_an_action_is_left_when_the_sandbox_stops(
    sandbox: Callable[[str], Awaitable[SandboxClient]],
) -> None:
    client = await sandbox(GEO_MISMATCH)
    runner = client.server._actions
    assert runner is not None
    (process,) = runner._all
    await client.server.stop()
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("source", ["def f(): pass", "raise ValueError", "this is not Python", "POST_LOGIN = [1]"])
async def test_a_file_without_an_action_is_refused_at_the_start(tmp_path: Path, source: str) -> None:
    path = tmp_path / "actions.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=r"actions\.py"):
        await ActionRunner(path).start()
    with pytest.raises(ConfigError, match="no such file"):
        await ActionRunner(tmp_path / "none.py").start()
