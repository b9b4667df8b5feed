"""What a request may look like: its method, its body, its parameters, and how a client says who it is."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import web

from tests.sandbox.native_kit import AUTHORITY, OTP_USER, App
from tests.sandbox.sandbox_client import CHALLENGE, PASSWORD_USER, REDIRECT_URI, SandboxClient
from tests.sandbox.transfer_kit import CLIENT_ID, FORM, SPA_ID, WEB_ID, Browser, Desk, Reply, desk
from tests.watchdog import HANG_S
from token_relay.sandbox import server
from token_relay.sandbox.control import api
from token_relay.sandbox.provider.http_values import BODY_BYTES_MAX, PARAM_CHARS_MAX, PARAMS_MAX, Request
from token_relay.sandbox.provider.world.auth0_clients import MANAGER_ID, MANAGER_SECRET, WEB_SECRET
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, PASSWORD, PolicyModel
from token_relay.sandbox.provider.world.rules import RULES, Rules

GRANT = {"client_id": CLIENT_ID, "grant_type": "password", "username": PASSWORD_USER, "password": PASSWORD}


def raw(one: Desk, body: bytes, content_type: str = FORM, path: str = "/oauth/token") -> Reply:
    headers = {"host": "127.0.0.1:8400", **({"content-type": content_type} if content_type else {})}
    request = Request("POST", path, body, headers, "127.0.0.1")
    found = one.provider.commit(request, one.provider.admit(request, one.now), one.now).response
    text = found.body.decode()
    return Reply(found.status, found.headers, text, json.loads(text) if text.startswith("{") else None)


# -- bodies and parameters -------------------------------------------------------------------------------------------

WHOLE = urlencode(GRANT)
BODIES: list[tuple[str, bytes]] = [
    (FORM, f"{WHOLE}&scope=openid&scope=profile".encode()),
    (FORM, f"{WHOLE}&password={PASSWORD}".encode()),
    (FORM, f"{WHOLE}&unknown=a&unknown=b".encode()),
    (FORM, f"{WHOLE}&x=%00".encode()),
    (FORM, f"{WHOLE}&x=%ff".encode()),
    (FORM, WHOLE.encode() + b"&x=\xff"),
    (FORM, f"{WHOLE}&x={'a' * (PARAM_CHARS_MAX + 1)}".encode()),
    (FORM, f"{WHOLE}&{'&'.join(f'x{n}=y' for n in range(PARAMS_MAX))}".encode()),
    ("", WHOLE.encode()),
    ("text/plain", WHOLE.encode()),
    ("multipart/form-data; boundary=x", WHOLE.encode()),
    ("application/json", WHOLE.encode()),
    (FORM, json.dumps(GRANT).encode()),
    ("application/json", json.dumps([*GRANT.items()]).encode()),
    ("application/json", json.dumps({**GRANT, "x": 7}).encode()),
    ("application/json", json.dumps({**GRANT, "x": True}).encode()),
    ("application/json", json.dumps({**GRANT, "x": {"y": "z"}}).encode()),
    ("application/json", json.dumps({**GRANT, "x": ["y"]}).encode()),
    ("application/json", json.dumps({**GRANT, **{f"x{n}": "y" for n in range(PARAMS_MAX)}}).encode()),
    ("application/json", json.dumps(GRANT).encode()[:-1] + b', "password": "again"}'),
    ("application/json", b"\xff"),
]


@pytest.mark.parametrize(("content_type", "body"), BODIES)
def test_a_body_that_can_be_read_in_two_ways_is_read_in_none(content_type: str, body: bytes) -> None:
    assert raw(desk(), WHOLE.encode()).status == 200
    refused = raw(desk(), body, content_type)
    assert (refused.status, refused.json["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("content_type", [FORM, "application/json"])
def test_a_body_beyond_all_measure_is_413(content_type: str) -> None:
    assert raw(desk(), b"x" * (BODY_BYTES_MAX + 1), content_type).status == 413


def test_what_only_forms_of_browsers_send_is_no_json() -> None:
    one = desk()
    ticket = re.search(r'name="ticket" value="([^"]+)"', Browser(one).authorize().text)
    assert ticket is not None
    form = {"ticket": ticket[1], "username": PASSWORD_USER, "password": PASSWORD}
    assert raw(one, json.dumps(form).encode(), "application/json", "/login").status == 400
    assert raw(one, urlencode(form).encode(), FORM, "/login").code
    asked = {"response_type": "code", "client_id": SPA_ID, "redirect_uri": REDIRECT_URI, "scope": "openid"}
    asked |= {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    assert raw(one, json.dumps(asked).encode(), "application/json", "/authorize").status == 400
    assert raw(one, urlencode(asked).encode(), FORM, "/authorize").is_login_page


@pytest.mark.parametrize("step", ["token", "initiate", "authorize-challenge", "authorize"])
def test_microsoft_s_endpoints_take_no_json(step: str) -> None:
    app = App()
    body = json.dumps(
        {"client_id": CLIENT_ID, "username": OTP_USER, "challenge_type": "oob redirect", "scope": "openid"}
    )
    answer = app.send("POST", f"{AUTHORITY}/oauth2/v2.0/{step}", body.encode(), {"content-type": "application/json"})
    assert (answer.status, answer.why) == (400, ("invalid_request", "", 900144))


@pytest.mark.parametrize("tenant", ["common", "organizations", "contosox", "contoso.example", "fabrikam", "consumers"])
def test_a_tenant_is_spelled_in_three_ways_and_no_other(tenant: str) -> None:
    app = App()
    for path in ("discovery/v2.0/keys", "v2.0/.well-known/openid-configuration"):
        assert app.send("GET", f"/Contoso/{path}").status == 200
        assert app.send("GET", f"/{tenant}/{path}").why == ("invalid_tenant", "", 90002)


def test_a_wrong_name_and_a_wrong_password_are_answered_alike() -> None:
    names = (PASSWORD_USER, OTP_USER, "nobody@contoso.example")
    answers = [desk().token(**{**GRANT, "username": name, "password": "wrong"}) for name in names]
    assert len({(answer.status, answer.text) for answer in answers}) == 1


@pytest.mark.parametrize("scope", ['a"b', "a\\b", "a  b", " a", "a\tb", "é"])
def test_a_scope_has_the_form_of_the_rfc(scope: str) -> None:
    refused = desk().token(**{**GRANT, "scope": scope})
    assert (refused.status, refused.json["error"]) == (400, "invalid_scope")


# -- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "POST"])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/oauth/token", "POST"),
        ("/oauth/revoke", "POST"),
        ("/oauth/device/code", "POST"),
        ("/login", "POST"),
        ("/activate", "GET"),
        ("/.well-known/jwks.json", "GET"),
        ("/.well-known/openid-configuration", "GET"),
        ("/samlp/sandbox-saml", "GET"),
    ],
)
def test_a_place_takes_its_own_method_and_says_which(method: str, path: str, allowed: str) -> None:
    reply = desk().send(method, path)
    assert (reply.status == 405) is (method != allowed)
    if method != allowed:
        assert dict(reply.headers)["Allow"] == allowed


# -- who asks --------------------------------------------------------------------------------------------------------


def basic(value: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(value.encode()).decode()}


GOOD = f"{MANAGER_ID}:{MANAGER_SECRET}"
CREDENTIALS: list[tuple[dict[str, str], dict[str, str], int]] = [
    (basic(GOOD), {}, 200),
    (basic(GOOD), {"client_id": MANAGER_ID}, 200),
    ({}, {"client_id": MANAGER_ID, "client_secret": MANAGER_SECRET}, 200),
    (basic(GOOD), {"client_id": MANAGER_ID, "client_secret": MANAGER_SECRET}, 400),
    (basic(GOOD), {"client_id": WEB_ID}, 400),
    (basic(MANAGER_ID), {}, 401),
    (basic(f"{MANAGER_ID}:"), {}, 401),
    (basic(f"{MANAGER_ID}:wrong"), {}, 401),
    (basic(f"{GOOD} "), {}, 401),
    ({"authorization": "Basic !" + basic(GOOD)["authorization"][6:]}, {}, 401),
    ({"authorization": "Basic"}, {}, 401),
    ({}, {"client_id": MANAGER_ID}, 401),
    ({}, {"client_id": MANAGER_ID, "client_secret": MANAGER_SECRET[:-1]}, 401),
    ({}, {"client_id": MANAGER_ID, "client_secret": MANAGER_SECRET.upper()}, 401),
]


@pytest.mark.parametrize(("headers", "fields", "status"), CREDENTIALS)
def test_a_confidential_client_proves_itself_once_and_right(
    headers: dict[str, str], fields: dict[str, str], status: int
) -> None:
    form = {"grant_type": "client_credentials", "audience": "http://127.0.0.1:8400/api/v2/", **fields}
    assert desk().send("POST", "/oauth/token", form=form, headers=headers).status == status


@pytest.mark.parametrize("path", ["/oauth/revoke", "/oauth/device/code"])
def test_a_confidential_client_proves_itself_everywhere(path: str) -> None:
    one = desk()
    one.set(WEB_ID, grant_types=["urn:ietf:params:oauth:grant-type:device_code"])
    for secret, status in ((WEB_SECRET, 200), ("wrong", 401), ("", 401)):
        form = {"client_id": WEB_ID, "token": "x", **({"client_secret": secret} if secret else {})}
        assert one.send("POST", path, form=form).status == status


def test_a_public_client_has_no_credentials_of_its_own_even_if_it_is_allowed_the_grant() -> None:
    one = desk()
    one.set(SPA_ID, grant_types=["client_credentials"])
    form = {"grant_type": "client_credentials", "audience": "http://127.0.0.1:8400/api/v2/", "client_id": SPA_ID}
    assert one.send("POST", "/oauth/token", form=form).json["error"] == "unauthorized_client"


ELSEWHERE = [
    {"grant_type": "password", "username": PASSWORD_USER, "password": PASSWORD},
    {"grant_type": "client_credentials", "audience": "http://127.0.0.1:8400/api/v2/"},
    {"grant_type": "http://auth0.com/oauth/grant-type/password-realm", "realm": "Username-Password-Authentication"},
    {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": "x"},
    {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"},
    {"grant_type": "implicit"},
    {"grant_type": "oob", "oob": "12345678"},
]


@pytest.mark.parametrize("fields", ELSEWHERE)
def test_a_grant_type_of_another_service_is_unsupported(fields: dict[str, str]) -> None:
    refused = desk(rules=RULES["strict"]).token(**fields)
    assert (refused.status, refused.json["error"]) == (400, "unsupported_grant_type")
    if fields["grant_type"] not in {"password", "oob"}:
        assert App().post("oauth2/v2.0/token", **fields).why == ("unsupported_grant_type", "", 70003)


@pytest.mark.parametrize("rules", [None, RULES["strict"]], ids=["auth0", "strict"])
@pytest.mark.parametrize("kind", ["Basic", "Token", "", "DPoP"])
def test_an_access_token_is_shown_as_a_bearer_s(rules: Rules | None, kind: str) -> None:
    one = desk(rules=rules)
    if rules is None:
        token = one.refresh(one.sign_in()).json["access_token"]
    else:
        from tests.sandbox.test_transfer_imitations import sign_in

        token = sign_in(one)["access_token"]
    paths = ["/sandbox/resource", *(["/userinfo"] if rules is None else [])]
    for path in paths:
        assert one.send("GET", path, headers={"authorization": f"bearer {token}"}).status == 200
        assert one.send("GET", path, headers={"authorization": f"{kind} {token}".strip()}).status == 401
    assert one.send("GET", f"/sandbox/resource?access_token={token}").status == 401  # /userinfo takes it there


def test_a_limit_of_requests_is_each_client_s_own_and_lasts_its_minute() -> None:
    world = DEFAULT_WORLD.model_copy(update={"policy": PolicyModel(requests_per_minute_max=2)})
    one = desk(world)
    assert [one.token(grant_type="x").status for _ in range(3)] == [400, 400, 429]
    assert one.token(grant_type="x", client_id=SPA_ID).status == 400
    one.now += 59
    assert one.token(grant_type="x").status == 429
    one.now += 1
    assert one.token(grant_type="x").status == 400


# -- the control interface -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", ""])
async def test_no_page_reads_a_mailbox_or_the_events(entra: SandboxClient, origin: str) -> None:
    await entra.begin(OTP_USER)
    for path in (f"mailbox/{OTP_USER}", "events", "state"):
        assert (await entra.request("GET", f"/sandbox/{path}", headers={"Origin": origin})).status == 403
        assert (await entra.request("GET", f"/sandbox/{path}", headers={"Origin": entra.base})).status == 200


@pytest.mark.asyncio
async def test_a_mailbox_is_in_no_cache_and_empty_once_its_code_was_used(entra: SandboxClient) -> None:
    challenged = await entra.begin(OTP_USER)
    reply = await entra.request("GET", f"/sandbox/mailbox/{OTP_USER}")
    assert reply.headers["cache-control"] == "no-store"
    fields = {"grant_type": "oob", "continuation_token": challenged.json["continuation_token"], "scope": "openid"}
    for _ in range(5):
        assert (await entra.token(**fields, oob="0" * 8 if reply.text != "0" * 8 else "1" * 8)).status == 400
    assert (await entra.request("GET", f"/sandbox/mailbox/{OTP_USER}")).status == 404


def test_a_used_code_leaves_its_mailbox() -> None:
    app = App()
    assert app.by_code().has_tokens
    assert OTP_USER not in app.provider.state.mailboxes


@pytest.mark.asyncio
async def test_only_this_machine_gives_orders(entra: SandboxClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await entra.request("GET", "/sandbox/state")).status == 200
    monkeypatch.setattr(web.BaseRequest, "remote", "203.0.113.7")
    assert (await entra.request("GET", "/sandbox/state")).status == 403
    assert (await entra.request("GET", f"/{entra.authority.rpartition('/')[2]}/discovery/v2.0/keys")).status == 200


@pytest.mark.asyncio
async def test_events_come_so_many_at_a_time(entra: SandboxClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await entra.sign_in()
    last = len(await entra.events())
    monkeypatch.setattr(api, "EVENTS_PER_ANSWER_MAX", 2)
    assert [event["id"] for event in await entra.events()] == [1, 2]
    assert [event["id"] for event in await entra.events(after=last - 1)] == [last]


@pytest.mark.asyncio
async def test_it_listens_to_this_machine_only(entra: SandboxClient) -> None:
    assert entra.server._runner is not None
    assert entra.server._runner.addresses == [("127.0.0.1", entra.server.port)]


@pytest.mark.asyncio
@pytest.mark.parametrize(("path", "name"), [("users", "USERS_MAX"), ("clients", "CLIENTS_MAX")])
async def test_people_and_clients_are_bounded(
    entra: SandboxClient, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    table: dict[str, Any] = getattr(entra.server.provider.state, path)
    monkeypatch.setattr(api, name, len(table) + 1)
    key = "username" if path == "users" else "client_id"
    for value, status in (("one@x.example", 201), ("two@x.example", 400), ("one@x.example", 201)):
        assert (await entra.order(path, **{key: value})).status == status


@pytest.mark.asyncio
async def test_a_body_that_does_not_arrive_is_not_waited_for(
    entra: SandboxClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_TIMEOUT_S", 0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", entra.server.port)
    try:
        writer.write(b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nhalf")
        async with asyncio.timeout(HANG_S):
            assert b" 408 " in await reader.readline()
    finally:
        writer.close()


@pytest.mark.asyncio
async def test_no_line_of_a_log_has_an_address_with_a_code_in_it(
    auth0: SandboxClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await auth0.request("GET", "/authorize?session_transfer_token=hunter2&code=hunter2")
    assert "hunter2" not in caplog.text


@pytest.mark.asyncio
async def test_what_somebody_mistyped_is_in_no_event_and_no_log(each: SandboxClient) -> None:
    page = await each.authorize()
    for username, credential in ((PASSWORD_USER, "hunter2"), (OTP_USER, ""), (OTP_USER, "hunter2"), ("x@y", "hunter2")):
        page = await each.submit(page, username, credential)
    await each.token(grant_type="password", username=PASSWORD_USER, password="hunter2", client_secret="hunter2")
    code = await each.code(OTP_USER)
    state = (await each.request("GET", "/sandbox/state")).json
    shown = json.dumps(await each.events()) + repr([one.as_json() for one in each.server.provider.state.logs])
    assert "hunter2" not in shown and code not in shown
    assert set(state) == {
        *("profile", "issuer", "users", "clients", "families", "families_alive", "refresh_tokens"),
        *("last_event_id", "faults_armed"),
    }


# -- what is announced -----------------------------------------------------------------------------------------------

PUBLIC = ["authorization_code", "refresh_token"]
SECRETS = ["none", "client_secret_post", "client_secret_basic"]
MORE = [
    "client_credentials",
    "urn:ietf:params:oauth:grant-type:token-exchange",
    "urn:ietf:params:oauth:grant-type:device_code",
]
ANNOUNCED: list[tuple[Rules | None, list[str], list[str]]] = [
    (None, [*PUBLIC, "password", "implicit", *MORE], ["query", "fragment", "form_post", "web_message"]),
    (RULES["strict"], PUBLIC, ["query", "fragment", "form_post"]),
]


@pytest.mark.parametrize(("rules", "grants", "modes"), ANNOUNCED, ids=["auth0", "strict"])
def test_discovery_announces_what_is_there_and_no_more(
    rules: Rules | None, grants: list[str], modes: list[str]
) -> None:
    found = desk(rules=rules).send("GET", "/.well-known/openid-configuration").json
    assert (found["grant_types_supported"], found["response_modes_supported"]) == (grants, modes)
    types = ["code", "id_token"] if rules is None else ["code"]
    assert (found["response_types_supported"], found["code_challenge_methods_supported"]) == (types, ["S256"])
    assert found["token_endpoint_auth_methods_supported"] == SECRETS


def test_discovery_of_microsoft_s_announces_public_clients_alone() -> None:
    found = App().send("GET", "/contoso/v2.0/.well-known/openid-configuration").json
    assert found["grant_types_supported"] == PUBLIC
    assert found["token_endpoint_auth_methods_supported"] == ["none"]
    assert (found["response_types_supported"], found["code_challenge_methods_supported"]) == (["code"], ["S256"])
    assert found["response_modes_supported"] == ["query", "fragment", "form_post"]
