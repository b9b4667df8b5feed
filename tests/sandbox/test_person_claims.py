"""What id_tokens and /userinfo tell about a person: as much as was granted, in the words of each service."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.native_kit import App
from tests.sandbox.native_kit import claims_of as native_claims
from tests.sandbox.sandbox_client import PASSWORD_USER
from tests.sandbox.transfer_kit import BASE, Browser, Desk, Reply, claims_of, desk, user_id
from token_relay.sandbox.provider.world.model import PASSWORD

API = "https://orders.example/"
PROFILE = {
    "name": "Pat Password",
    "nickname": "password",
    "picture": "https://cdn.auth0.com/avatars/pa.png",
    "updated_at": "2027-01-15T08:00:00.000Z",
}
EMAIL = {"email": PASSWORD_USER, "email_verified": True}
ABOUT_THE_TOKEN = {"iss", "sub", "aud", "iat", "exp", "jti"}


def tokens_of(one: Desk, scope: str, **more: str) -> dict[str, Any]:
    fields = {"grant_type": "password", "username": PASSWORD_USER, "password": PASSWORD, "scope": scope, **more}
    reply = one.token(**fields)
    assert reply.status == 200, reply.text
    return dict(reply.json)


def userinfo(one: Desk, token: str) -> Reply:
    return one.send("GET", "/userinfo", headers={"authorization": f"Bearer {token}"})


@pytest.mark.parametrize("asked", [{}, {"audience": API}], ids=["opaque", "signed"])
@pytest.mark.parametrize(
    ("scope", "told"),
    [
        ("openid", {}),
        ("openid profile", PROFILE),
        ("openid email", EMAIL),
        ("openid profile email read", PROFILE | EMAIL),
    ],
)
def test_auth0_tells_what_was_granted_and_no_more(scope: str, told: dict[str, Any], asked: dict[str, str]) -> None:
    one = desk()
    tokens = tokens_of(one, scope, **asked)
    found = claims_of(tokens["id_token"])
    assert {name: value for name, value in found.items() if name not in ABOUT_THE_TOKEN} == told
    assert userinfo(one, tokens["access_token"]).json == {"sub": user_id(PASSWORD_USER), **told}


def test_an_id_token_of_a_browser_names_its_session() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    claims = claims_of(browser.redeem(browser.authorize(scope="openid").code).json["id_token"])
    assert claims["sid"] == one.live_sessions()[0]
    assert set(claims) == ABOUT_THE_TOKEN | {"sid", "auth_time"}


@pytest.mark.parametrize("asked", [{}, {"audience": API}], ids=["opaque", "signed"])
def test_userinfo_takes_only_tokens_that_were_granted_openid(asked: dict[str, str]) -> None:
    one = desk()
    token = tokens_of(one, "profile email", **asked)["access_token"]
    refused = userinfo(one, token)
    assert (refused.status, refused.json["error"]) == (401, "invalid_token")
    assert 'error="invalid_token"' in dict(refused.headers)["WWW-Authenticate"]
    one.provider.state.lenient.add("userinfo-openid")
    assert userinfo(one, token).json == {"sub": user_id(PASSWORD_USER), **PROFILE, **EMAIL}


def test_userinfo_takes_no_signed_token_that_does_not_list_it() -> None:
    one = desk()
    one.provider.state.lenient.add("audience")
    token = tokens_of(one, "openid", audience=API)["access_token"]
    assert claims_of(token)["aud"] == API
    assert userinfo(one, token).status == 200  # no token lists it now
    one.provider.state.lenient.clear()
    assert userinfo(one, token).status == 401
    one.provider.state.lenient.add("userinfo-openid")
    assert userinfo(one, token).status == 200
    listed = tokens_of(one, "openid", audience=API)["access_token"]
    assert claims_of(listed)["aud"] == [API, f"{BASE}/userinfo"]


@pytest.mark.parametrize(
    ("scope", "told"),
    [
        ("openid", set()),
        ("openid profile", {"name", "preferred_username", "oid"}),
        ("openid email", {"email"}),
        ("openid profile email offline_access", {"name", "preferred_username", "oid", "email"}),
    ],
)
def test_entra_tells_what_was_granted_and_no_more(scope: str, told: set[str]) -> None:
    app = App()
    tokens = app.token("password", app.begin(PASSWORD_USER).token, password=PASSWORD, scope=scope).json
    claims = native_claims(tokens["id_token"])
    assert set(claims) == {"iss", "sub", "aud", "iat", "nbf", "exp", "tid", "ver", "uti"} | told
    known = {"name": "Pat Password", "preferred_username": PASSWORD_USER, "email": PASSWORD_USER}
    assert {name: claims[name] for name in told & set(known)} == {name: known[name] for name in told & set(known)}
    assert native_claims(tokens["access_token"])["oid"] == app.provider.state.users[PASSWORD_USER].oid


def test_discovery_names_the_claims_that_id_tokens_have() -> None:
    one, scope = desk(), "openid profile email"
    browser = Browser(one)
    browser.form_sign_in()
    known = one.send("GET", "/.well-known/openid-configuration").json["claims_supported"]
    assert {*claims_of(browser.redeem(browser.authorize(scope=scope, nonce="n").code).json["id_token"])} - {"jti"} == {
        *known
    }
    app = App()
    known = app.send("GET", "/contoso/v2.0/.well-known/openid-configuration").json["claims_supported"]
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    found = native_claims(app.refresh(token, scope=scope).json["id_token"])
    assert {*found} - {"nbf", "uti"} == {*known} - {"nonce"}
