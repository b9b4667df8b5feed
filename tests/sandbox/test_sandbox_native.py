"""Native sign-in: the documented calls, answers and refusals of Microsoft Entra External ID."""

from __future__ import annotations

import base64
import json
import re

import pytest

from tests.sandbox.sandbox_client import OTP_USER, PASSWORD_USER, SCOPE, SandboxClient
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD

pytestmark = pytest.mark.asyncio


async def test_a_password_user_is_challenged_for_the_password_and_gets_all_tokens(entra: SandboxClient) -> None:
    challenged = await entra.begin(PASSWORD_USER)
    assert challenged.json["challenge_type"] == "password"
    tokens = await entra.sign_in(PASSWORD_USER)
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 3600
    assert tokens["scope"] == "openid profile"  # the real service leaves offline_access out
    assert tokens["refresh_token"].startswith("rt.SANDBOXMARK.")
    assert tokens["id_token"].count(".") == 2
    padded = tokens["client_info"] + "=" * (-len(tokens["client_info"]) % 4)
    assert set(json.loads(base64.urlsafe_b64decode(padded))) == {"uid", "utid"}


async def test_an_email_code_user_is_sent_a_code_of_the_promised_length(entra: SandboxClient) -> None:
    challenged = await entra.begin(OTP_USER)
    assert {name: challenged.json[name] for name in ("challenge_type", "binding_method", "challenge_channel")} == {
        "challenge_type": "oob",
        "binding_method": "prompt",
        "challenge_channel": "email",
    }
    assert challenged.json["challenge_target_label"] == "o***p@co***.example"
    code = await entra.code(OTP_USER)
    assert re.fullmatch(r"\d{8}", code) and challenged.json["code_length"] == 8
    reply = await entra.token(
        grant_type="oob", oob=code, scope=SCOPE, continuation_token=challenged.json["continuation_token"]
    )
    assert reply.status == 200
    assert (await entra.request("GET", f"/sandbox/mailbox/{OTP_USER}")).status == 404  # a used code is gone


async def test_both_spellings_of_the_tenant_and_its_guid_lead_to_the_same_place(entra: SandboxClient) -> None:
    for tenant in ("contoso", "contoso.onmicrosoft.com", "aaaabbbb-0000-cccc-1111-dddd2222eeee"):
        reply = await entra.request("GET", f"/{tenant}/v2.0/.well-known/openid-configuration")
        assert reply.status == 200
    for method, path in [
        ("GET", "v2.0/.well-known/openid-configuration"),
        ("POST", "oauth2/v2.0/initiate"),
        ("POST", "signup/v1.0/start"),
    ]:
        other = await entra.request(method, f"/fabrikam/{path}")
        assert (other.status, other.json["error"], other.json["error_codes"]) == (400, "invalid_tenant", [90002])
    assert (await entra.request("GET", "/fabrikam/nothing")).status == 404


async def test_an_error_body_has_everything_that_support_asks_for(entra: SandboxClient) -> None:
    correlation_id = "11111111-2222-3333-4444-555555555555"
    reply = await entra.request(
        "POST",
        entra.token_url,
        data={"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": "nonsense"},
        headers={"client-request-id": correlation_id},
    )
    body = reply.json
    assert (reply.status, body["error"], body["error_codes"]) == (400, "invalid_grant", [70000])
    assert body["correlation_id"] == correlation_id == reply.headers["client-request-id"]
    assert re.fullmatch(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", body["trace_id"])
    assert reply.headers["x-ms-request-id"] == body["trace_id"]
    assert body["timestamp"] == "2027-01-15 08:00:00Z"  # NOON
    lines = body["error_description"].split("\r\n")
    assert lines[0].startswith("AADSTS70000: ")
    assert lines[1:] == [
        f"Trace ID: {body['trace_id']}",
        f"Correlation ID: {correlation_id}",
        "Timestamp: 2027-01-15 08:00:00Z",
    ]
    assert reply.headers["cache-control"] == "no-store"


INITIATE_REFUSALS = [
    ({"client_id": ""}, "invalid_request", 90100, ""),
    ({"client_id": "99999999-aaaa-2222-bbbb-3333cccc4444"}, "unauthorized_client", 700016, ""),
    ({"username": ""}, "invalid_request", 90100, ""),
    ({"username": "two words"}, "invalid_request", 90100, ""),
    ({"username": "nobody@contoso.example"}, "user_not_found", 50034, ""),
    ({"challenge_type": ""}, "invalid_request", 90100, ""),
    ({"challenge_type": "password oob"}, "unsupported_challenge_type", 901007, ""),
    ({"challenge_type": "carrier_pigeon redirect"}, "invalid_request", 901007, ""),
    ({"client_id": "no-native"}, "invalid_client", 550022, "nativeauthapi_disabled"),
]


@pytest.mark.parametrize(("change", "error", "code", "suberror"), INITIATE_REFUSALS)
async def test_initiate_refuses(
    entra: SandboxClient, change: dict[str, str], error: str, code: int, suberror: str
) -> None:
    await entra.ordered("clients", client_id="no-native", native_auth=False)
    reply = await entra.native(
        "initiate", **{"username": PASSWORD_USER, "challenge_type": "password oob redirect", **change}
    )
    assert (reply.status, reply.json["error"], reply.json["error_codes"]) == (400, error, [code])
    assert reply.json.get("suberror", "") == suberror
    if code == 90100 and "username" in change:
        assert "username parameter is empty or not valid" in reply.json["error_description"]


TOKEN_REFUSALS = [
    ({"password": "wrong"}, "invalid_grant", 50126),
    ({"password": ""}, "invalid_request", 90100),
    ({"scope": ""}, "invalid_request", 900144),
    ({"scope": 'with"quote'}, "invalid_scope", 70011),
    ({"grant_type": ""}, "invalid_request", 900144),
    ({"grant_type": "mint"}, "unsupported_grant_type", 70003),
    ({"grant_type": "oob", "oob": "12345678"}, "invalid_grant", 55200),
    ({"continuation_token": "unknown"}, "invalid_grant", 55200),
    ({"continuation_token": ""}, "invalid_request", 90100),
    ({"client_id": "other-client"}, "invalid_grant", 55200),
    ({"client_id": "nobody"}, "unauthorized_client", 700016),
]


@pytest.mark.parametrize(("change", "error", "code"), TOKEN_REFUSALS)
async def test_a_refused_token_request_does_not_use_the_continuation_token_up(
    entra: SandboxClient, change: dict[str, str], error: str, code: int
) -> None:
    await entra.ordered("clients", client_id="other-client")
    token = (await entra.begin(PASSWORD_USER)).json["continuation_token"]
    right = {"grant_type": "password", "password": PASSWORD, "scope": SCOPE, "continuation_token": token}
    refused = await entra.token(**{**right, **change})
    assert (refused.status, refused.json["error"], refused.json["error_codes"]) == (400, error, [code])
    assert not await entra.events("signed_in")
    assert (await entra.token(**right)).status == 200


async def test_success_uses_the_continuation_token_up(entra: SandboxClient) -> None:
    token = (await entra.begin(PASSWORD_USER)).json["continuation_token"]
    right = {"grant_type": "password", "password": PASSWORD, "scope": SCOPE, "continuation_token": token}
    assert (await entra.token(**right)).status == 200
    again = await entra.token(**right)
    assert (again.json["error"], again.json["error_codes"]) == ("invalid_grant", [55200])
    assert len(await entra.events("signed_in")) == 1


async def test_no_step_can_be_left_out(entra: SandboxClient) -> None:
    first = await entra.native("initiate", username=PASSWORD_USER, challenge_type="password redirect")
    early = await entra.token(
        grant_type="password",
        password=PASSWORD,
        scope=SCOPE,
        continuation_token=first.json["continuation_token"],
    )
    assert (early.json["error"], early.json["error_codes"]) == ("invalid_grant", [55200])
    await entra.native("challenge", continuation_token=first.json["continuation_token"])
    old = await entra.native("challenge", continuation_token=first.json["continuation_token"])
    assert (old.json["error"], old.json["error_codes"]) == ("invalid_grant", [55200])


async def test_a_user_without_a_password_cannot_use_one(entra: SandboxClient) -> None:
    token = (await entra.begin(OTP_USER)).json["continuation_token"]
    reply = await entra.token(grant_type="password", password="x", scope=SCOPE, continuation_token=token)
    assert (reply.json["error"], reply.json["error_codes"]) == ("invalid_grant", [500222])


@pytest.mark.parametrize(
    ("username", "types"), [(OTP_USER, "password redirect"), (PASSWORD_USER, "oob redirect"), (OTP_USER, "redirect")]
)
async def test_a_client_that_cannot_do_the_account_s_method_is_sent_to_the_browser(
    entra: SandboxClient, username: str, types: str
) -> None:
    reply = await entra.native("initiate", username=username, challenge_type=types)
    if types != "redirect":
        token = reply.json["continuation_token"]
        reply = await entra.native("challenge", continuation_token=token, challenge_type=types)
    assert (reply.status, reply.json["challenge_type"]) == (200, "redirect")
    assert "continuation_token" not in reply.json
    assert not await entra.events("code_sent")


async def test_a_wrong_code_may_be_corrected_on_the_same_continuation_token(entra: SandboxClient) -> None:
    token = (await entra.begin(OTP_USER)).json["continuation_token"]
    code = await entra.code(OTP_USER)
    given = {"grant_type": "oob", "scope": SCOPE, "continuation_token": token}
    wrong = await entra.token(oob=other_code(code), **given)
    assert (wrong.status, wrong.json["error"]) == (400, "invalid_grant")
    assert (wrong.json["suberror"], wrong.json["error_codes"]) == ("invalid_oob_value", [50181])
    assert (await entra.token(oob=code, **given)).status == 200


async def test_after_five_wrong_codes_the_right_one_is_wrong_too_until_a_resend(entra: SandboxClient) -> None:
    token = (await entra.begin(OTP_USER)).json["continuation_token"]
    code = await entra.code(OTP_USER)
    given = {"grant_type": "oob", "scope": SCOPE, "continuation_token": token}
    for _ in range(5):
        assert (await entra.token(oob=other_code(code), **given)).json["suberror"] == "invalid_oob_value"
    assert (await entra.token(oob=code, **given)).json["suberror"] == "invalid_oob_value"
    resent = await entra.native("challenge", continuation_token=token, challenge_type="oob redirect")
    given["continuation_token"] = resent.json["continuation_token"]
    assert (await entra.token(oob=await entra.code(OTP_USER), **given)).status == 200


async def test_a_resend_makes_the_older_code_and_the_older_token_useless(entra: SandboxClient) -> None:
    old = (await entra.begin(OTP_USER)).json["continuation_token"]
    old_code = await entra.code(OTP_USER)
    resent = await entra.native("challenge", continuation_token=old, challenge_type="oob redirect")
    new_code = await entra.code(OTP_USER)
    assert new_code != old_code
    given = {"grant_type": "oob", "scope": SCOPE}
    stale = await entra.token(oob=new_code, continuation_token=old, **given)
    assert stale.json["error_codes"] == [55200]
    given["continuation_token"] = resent.json["continuation_token"]
    assert (await entra.token(oob=old_code, **given)).json["suberror"] == "invalid_oob_value"
    assert (await entra.token(oob=new_code, **given)).status == 200


async def test_no_flow_sends_more_than_ten_codes(entra: SandboxClient) -> None:
    token = (await entra.begin(OTP_USER)).json["continuation_token"]
    for _ in range(9):
        token = (await entra.native("challenge", continuation_token=token)).json["continuation_token"]
    last = await entra.native("challenge", continuation_token=token)
    assert (last.json["error"], last.json["error_codes"]) == ("expired_token", [552003])
    assert len(await entra.events("code_sent")) == 10


async def test_a_code_ends_with_its_lifetime_and_the_flow_with_its_own(entra: SandboxClient) -> None:
    token = (await entra.begin(OTP_USER)).json["continuation_token"]
    code = await entra.code(OTP_USER)
    given = {"grant_type": "oob", "oob": code, "scope": SCOPE, "continuation_token": token}
    await entra.ordered("clock", advance_s=600)
    assert (await entra.request("GET", f"/sandbox/mailbox/{OTP_USER}")).status == 404
    assert (await entra.token(**given)).json["suberror"] == "invalid_oob_value"
    await entra.ordered("clock", advance_s=300)
    late = await entra.token(**given)
    assert (late.json["error"], late.json["error_codes"]) == ("expired_token", [552003])


async def test_ten_wrong_passwords_lock_the_account_for_a_minute(entra: SandboxClient) -> None:
    token = (await entra.begin(PASSWORD_USER)).json["continuation_token"]
    given = {"grant_type": "password", "scope": SCOPE, "continuation_token": token}
    for _ in range(10):
        assert (await entra.token(password="wrong", **given)).json["error_codes"] == [50126]
    locked = await entra.token(password=PASSWORD, **given)
    assert (locked.json["error"], locked.json["error_codes"]) == ("invalid_grant", [50053])
    await entra.ordered("clock", advance_s=60)
    assert (await entra.token(password=PASSWORD, **given)).status == 200


async def test_tokens_come_only_for_the_scopes_that_ask_for_them(entra: SandboxClient) -> None:
    bare = await entra.sign_in(scope="api://sandbox/read")
    assert "refresh_token" not in bare and "id_token" not in bare
    assert bare["client_info"] and bare["access_token"]


async def test_unknown_fields_and_a_query_are_ignored(entra: SandboxClient) -> None:
    tokens = await entra.sign_in()
    reply = await entra.request(
        "POST",
        f"{entra.token_url}?client-request-id=x&dc=y",
        data={
            "client_id": CLIENT_ID,
            "grant_type": "refresh_token",
            "refresh_token": tokens["refresh_token"],
            "scope": SCOPE,
            "x-client-SKU": "msal.js.browser",
            "X-AnchorMailbox": "Oid:a@b",
            "claims": '{"id_token":{}}',
        },
    )
    assert reply.status == 200


async def test_only_forms_are_taken_and_no_parameter_twice(entra: SandboxClient) -> None:
    as_json = await entra.request("POST", entra.token_url, json={"client_id": CLIENT_ID})
    assert (as_json.status, as_json.json["error"]) == (400, "invalid_request")
    twice = await entra.request("POST", entra.token_url, data=[("client_id", CLIENT_ID), ("client_id", CLIENT_ID)])
    assert (twice.status, twice.json["error"]) == (400, "invalid_request")


async def test_the_native_endpoints_exist_only_under_entra(auth0: SandboxClient, strict: SandboxClient) -> None:
    for client in (auth0, strict):
        for path in ("/oauth2/v2.0/initiate", "/contoso/oauth2/v2.0/initiate"):
            assert (await client.request("POST", path, data={"a": "b"})).status == 404


def other_code(code: str) -> str:
    """A code of the same length that is certainly not this one."""
    return code[:-1] + str((int(code[-1]) + 1) % 10)
