"""Whom an access token is for: the API that was asked for, in the words of each service, and one API for each token."""

from __future__ import annotations

import re

import pytest

from tests.sandbox.native_kit import PASSWORD_USER, App, claims_of
from tests.sandbox.sandbox_client import NOON, SandboxClient
from tests.sandbox.transfer_kit import BASE, CLIENT_ID, Browser, Desk, desk
from token_relay.sandbox.provider.world.model import PASSWORD

GRAPH = "00000003-0000-0000-c000-000000000000"
API = "https://orders.example/"
GUID = "5a48213f-571a-492f-ba42-35501f0eb07a"


@pytest.fixture
def app() -> App:
    return App()


# -- entra: by the scope -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "aud", "scp", "answer"),
    [
        ("openid profile offline_access", GRAPH, "openid profile", "openid profile"),
        ("openid User.Read Mail.Read", GRAPH, "openid User.Read Mail.Read", "openid User.Read Mail.Read"),
        (
            "https://graph.microsoft.com/User.Read profile",
            "https://graph.microsoft.com",
            "User.Read profile",
            "https://graph.microsoft.com/User.Read profile",
        ),
        (
            "openid api://orders/Orders.Read api://orders/Orders.Write offline_access",
            "api://orders",
            "Orders.Read Orders.Write",
            "api://orders/Orders.Read api://orders/Orders.Write",
        ),
        (f"api://{GUID}/access", GUID, "access", f"api://{GUID}/access"),
        (f"{GUID}/access", GUID, "access", f"{GUID}/access"),
        ("https://host.example/a.b", "https://host.example", "a.b", "https://host.example/a.b"),
        (
            "https://t.example/orders/Orders.Read",
            "https://t.example/orders",
            "Orders.Read",
            "https://t.example/orders/Orders.Read",
        ),
        # the documented trap: the slash at the end of a resource belongs to it, so two are written
        (
            "https://host.example//.default",
            "https://host.example/",
            "user_impersonation",
            "https://host.example//.default https://host.example//user_impersonation",
        ),
    ],
)
def test_the_scope_says_whom_a_token_of_entra_is_for(app: App, scope: str, aud: str, scp: str, answer: str) -> None:
    tokens = app.token("password", app.begin(PASSWORD_USER).token, password=PASSWORD, scope=scope).json
    claims = claims_of(tokens["access_token"])
    assert (claims["aud"], claims["scp"], tokens["scope"]) == (aud, scp, answer)


def test_a_refresh_is_for_the_api_of_its_own_scope(app: App) -> None:
    first = app.token(
        "password", app.begin(PASSWORD_USER).token, password=PASSWORD, scope="openid api://orders/Read offline_access"
    ).json
    other = app.refresh(first["refresh_token"], scope="api://bills/Read openid").json
    assert claims_of(other["access_token"])["aud"] == "api://bills"
    again = app.refresh(other["refresh_token"], scope="").json
    assert claims_of(again["access_token"])["aud"] == "api://orders"
    assert app.resource(other["access_token"]).json["scope"] == "Read"


def test_default_stands_for_what_the_client_has_registered_of_that_api(app: App) -> None:
    app.order("clients", client_id=CLIENT_ID, scopes=["api://orders/Read", "api://orders/Write", "api://bills/Pay"])
    tokens = app.token("password", app.begin(PASSWORD_USER).token, password=PASSWORD, scope="api://orders/.default")
    assert claims_of(tokens.json["access_token"])["scp"] == "Read Write"
    assert set(tokens.json["scope"].split()) == {"api://orders/.default", "api://orders/Read", "api://orders/Write"}
    begun = app.begin(PASSWORD_USER).token
    refused = app.token("password", begun, password=PASSWORD, scope="api://others/.default")
    assert refused.why == ("invalid_scope", "", 70011)


def test_without_the_rule_a_token_is_for_the_sandbox_s_own_resource(app: App) -> None:
    app.order("lenient", name="audience")
    scope = "openid api://orders/Read offline_access"
    tokens = app.token("password", app.begin(PASSWORD_USER).token, password=PASSWORD, scope=scope).json
    claims = claims_of(tokens["access_token"])
    assert (claims["aud"], claims["scp"]) == (f"{BASE}/sandbox/resource", "openid api://orders/Read")
    assert tokens["scope"] == "openid api://orders/Read"


# -- entra: one API for each token -------------------------------------------------------------------------------------

TWO = "openid api://orders/Read api://bills/Read offline_access"


@pytest.mark.parametrize(
    "scope", [TWO, "User.Read api://orders/Read", "https://graph.microsoft.com/a https://b.example/c"]
)
def test_scopes_of_two_apis_get_no_token(app: App, scope: str) -> None:
    begun = app.begin(PASSWORD_USER).token
    refused = app.token("password", begun, password=PASSWORD, scope=scope)
    assert refused.why == ("invalid_request", "", 28000)
    assert f"Scope {scope} is not valid." in refused.json["error_description"]
    signed_in = app.token("password", begun, password=PASSWORD)  # nothing was used up
    assert app.refresh(signed_in.json["refresh_token"], scope=scope).why == ("invalid_request", "", 28000)
    assert app.refresh(signed_in.json["refresh_token"]).has_tokens


@pytest.mark.parametrize("scope", ["User.Read https://graph.microsoft.com/Mail.Read", f"{GUID}/a api://{GUID}/b"])
def test_two_names_of_one_api_are_one_api(app: App, scope: str) -> None:
    assert app.token("password", app.begin(PASSWORD_USER).token, password=PASSWORD, scope=scope).has_tokens


@pytest.mark.parametrize(
    "scope", ["https://graph.microsoft.com", "api://orders", "https://a.example/", "api://a/.default api://a/Read"]
)
def test_an_api_is_asked_for_by_a_scope_of_it(app: App, scope: str) -> None:
    refused = app.token("password", app.begin(PASSWORD_USER).token, password=PASSWORD, scope=scope)
    assert refused.why == ("invalid_scope", "", 70011)


def test_without_the_rule_the_first_api_gets_the_token(app: App) -> None:
    app.order("lenient", name="one-resource")
    tokens = app.token("password", app.begin(PASSWORD_USER).token, password=PASSWORD, scope=TWO).json
    claims = claims_of(tokens["access_token"])
    assert (claims["aud"], claims["scp"], tokens["scope"]) == ("api://orders", "Read", "api://orders/Read")


@pytest.mark.asyncio
async def test_a_browser_consents_to_several_apis_and_the_code_is_redeemed_for_one(entra: SandboxClient) -> None:
    code = await entra.browser_code(scope=TWO)
    refused = await entra.redeem(code, scope=TWO)
    assert (refused.json["error"], refused.json["error_codes"]) == ("invalid_request", [28000])
    unsaid = await entra.redeem(code)
    assert (unsaid.json["error"], unsaid.json["error_codes"]) == ("invalid_request", [28003])
    tokens = (await entra.redeem(code, scope="api://bills/Read")).json
    assert claims_of(tokens["access_token"])["aud"] == "api://bills" and tokens["scope"] == "api://bills/Read"
    assert "id_token" in tokens  # openid was consented to
    other = await entra.refresh(tokens["refresh_token"], scope="api://orders/Read")
    assert claims_of(other.json["access_token"])["aud"] == "api://orders"
    assert (await entra.refresh(tokens["refresh_token"])).json["error_codes"] == [28003]


@pytest.mark.asyncio
async def test_a_code_is_not_redeemed_for_what_is_neither_consented_to_nor_registered(entra: SandboxClient) -> None:
    await entra.ordered("clients", client_id=CLIENT_ID, scopes=["api://orders/Read", "api://bills/Read"])
    code = await entra.browser_code(scope="openid api://orders/Read")
    refused = await entra.redeem(code, scope="api://orders/Write")
    assert (refused.json["error"], refused.json["error_codes"]) == ("invalid_scope", [70011])
    tokens = (await entra.redeem(code, scope="api://bills/Read")).json
    assert claims_of(tokens["access_token"])["aud"] == "api://bills"


# -- auth0: by the parameter -------------------------------------------------------------------------------------------


def access_token(one: Desk, scope: str, **more: str) -> str:
    fields = {"grant_type": "password", "username": PASSWORD_USER, "password": PASSWORD, "scope": scope, **more}
    reply = one.token(**fields)
    assert reply.status == 200, reply.text
    return str(reply.json["access_token"])


def shown(one: Desk, token: str, path: str = "/userinfo") -> int:
    return one.send("GET", path, headers={"authorization": f"Bearer {token}"}).status


def test_without_an_audience_the_token_of_auth0_is_opaque_and_good_where_the_provider_reads_it() -> None:
    one = desk()
    token = access_token(one, "openid profile read")
    assert re.fullmatch(r"at\.SANDBOXMARK\.[0-9a-f]+", token)
    seen = one.send("GET", "/sandbox/resource", headers={"authorization": f"Bearer {token}"}).json
    assert (seen["username"], seen["scope"]) == (PASSWORD_USER, "openid profile read")
    assert shown(one, token) == 200
    one.now = NOON + 3_600
    assert shown(one, token) == shown(one, token, "/sandbox/resource") == 401


def test_each_opaque_token_is_another_and_a_changed_or_foreign_one_is_unknown() -> None:
    one, other = desk(), desk()
    token = access_token(one, "openid")
    assert token != access_token(one, "openid")
    other.provider.state.token_key = b"another key"
    assert shown(other, token) == 401
    head, tail = token.rsplit(".", 1)
    flipped = "1" if tail[-1] == "0" else "0"
    for wrong in (
        f"{head}.{tail[:-1]}{flipped}",
        f"{head}.{tail[2:]}",
        f"{head}.{tail.upper()}",
        f"rt.SANDBOXMARK.{tail}",
    ):
        assert shown(one, wrong) == 401, wrong
    refresh_token = one.sign_in()
    assert shown(one, f"at.SANDBOXMARK.{refresh_token.rsplit('.', 1)[1]}") == 401
    assert shown(one, token) == 200


def test_opaque_tokens_end_with_their_code_s_reuse_and_are_not_revoked_one_by_one() -> None:
    one = desk()
    token = access_token(one, "openid")
    refused = one.revoke(token)
    assert (refused.status, refused.json["error"]) == (400, "unsupported_token_type")  # as a signed one
    browser = Browser(one)
    browser.form_sign_in()
    code = browser.authorize().code
    born = browser.redeem(code).json["access_token"]
    assert shown(one, born) == 200
    assert browser.redeem(code).status == 403
    assert shown(one, born) == 401 and shown(one, token) == 200


def test_without_the_rule_every_token_of_auth0_is_signed() -> None:
    one = desk()
    one.provider.state.lenient.add("opaque-token")
    token = access_token(one, "openid")
    assert claims_of(token)["aud"] == [f"{BASE}/sandbox/resource", f"{BASE}/userinfo"]
    assert shown(one, token) == shown(one, token, "/sandbox/resource") == 200


def test_a_token_of_auth0_with_openid_is_for_userinfo_too() -> None:
    one = desk()
    assert claims_of(access_token(one, "openid read", audience=API))["aud"] == [API, f"{BASE}/userinfo"]
    assert claims_of(access_token(one, "read", audience=API))["aud"] == API
    one.provider.state.lenient.add("audience")
    assert claims_of(access_token(one, "openid read", audience=API))["aud"] == API
