"""What clients of other makers do that no test of an SDK here does, and what the real services refuse."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tests.sandbox.native_kit import FORM, App
from tests.sandbox.native_kit import claims_of as native_claims
from tests.sandbox.sandbox_client import NOON, PASSWORD_USER, REDIRECT_URI, VERIFIER, SandboxClient
from tests.sandbox.test_cors import leave
from tests.sandbox.test_entra_sessions import AUTHORITY, EntraBrowser, told
from tests.sandbox.transfer_kit import BASE, SPA_ID, WEB_ID, Browser, Reply, claims_of, desk, user_id
from token_relay.sandbox.provider.world.auth0_clients import demo_clients
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, SINGLE_PAGE, ClientModel

# -- /userinfo: the three ways of RFC 6750; passport-auth0 has the token in the query ---------------------------------


@pytest.mark.parametrize("way", ["query", "form", "header, by POST"])
def test_userinfo_takes_the_token_in_each_way_of_the_standard(way: str) -> None:
    one = desk()
    browser = Browser(one)
    code = browser.form_sign_in(client_id=SPA_ID).code
    token = browser.redeem(code, SPA_ID).json["access_token"]

    def asked(value: str) -> tuple[int, str]:
        match way:
            case "query":
                reply = one.send("GET", f"/userinfo?{urlencode({'access_token': value})}")
            case "form":
                reply = one.send("POST", "/userinfo", form={"access_token": value})
            case _:
                reply = one.send("POST", "/userinfo", headers={"authorization": f"Bearer {value}"})
        return reply.status, reply.json.get("sub", "")

    assert asked(token) == (200, user_id(PASSWORD_USER))
    assert asked(token[:-1]) == asked("") == (401, "")


# -- max_age: openid-client and MSAL for Python demand auth_time for it -----------------------------------------------


@pytest.mark.parametrize("max_age", ["", "600"])
def test_an_id_token_tells_entra_s_clients_when_the_person_signed_in_if_they_ask(max_age: str) -> None:
    browser = EntraBrowser(App())
    browser.sign_in()
    browser.app.now += 300
    tokens = browser.redeem(told(browser.authorize(max_age=max_age))["code"])
    assert native_claims(str(tokens["id_token"])).get("auth_time") == (NOON if max_age else None)
    fields = {"grant_type": "refresh_token", "client_id": SINGLE_PAGE.client_id, "scope": "openid"}
    body = urlencode({**fields, "refresh_token": str(tokens["refresh_token"])}).encode()
    again = browser.app.send("POST", f"{AUTHORITY}/token", body, {**FORM, "origin": "http://localhost:3000"}).json
    assert native_claims(again["id_token"]).get("auth_time") == (NOON if max_age else None)


@pytest.mark.asyncio
async def test_so_does_a_provider_without_sessions(strict: SandboxClient) -> None:
    for max_age, expected in (("", None), ("600", NOON)):
        code = await strict.browser_code(max_age=max_age)
        assert claims_of((await strict.redeem(code)).json["id_token"]).get("auth_time") == expected


# -- What the real services refuse ------------------------------------------------------------------------------------


def test_entra_wants_a_scope() -> None:
    browser = EntraBrowser(App())
    assert "AADSTS900144" in told(browser.authorize(scope=""))["error_description"]


@pytest.mark.parametrize("proof", ["client_secret", "client_assertion"])
@pytest.mark.parametrize("grant_type", ["authorization_code", "refresh_token"])
def test_a_public_client_shows_no_secret_at_entra(proof: str, grant_type: str) -> None:
    browser = EntraBrowser(App())
    fields = {"client_id": CLIENT_ID, "grant_type": "authorization_code", "redirect_uri": REDIRECT_URI}
    fields |= {"code": told(browser.sign_in(client_id=CLIENT_ID))["code"], "code_verifier": VERIFIER}
    if grant_type == "refresh_token":
        given = browser.app.send("POST", f"{AUTHORITY}/token", urlencode(fields).encode(), FORM).json
        fields = {"client_id": CLIENT_ID, "grant_type": grant_type, "refresh_token": given["refresh_token"]}
    refused = browser.app.send("POST", f"{AUTHORITY}/token", urlencode({**fields, proof: "x"}).encode(), FORM)
    assert (refused.status, *refused.why) == (400, "invalid_client", "", 700025)
    assert browser.app.send("POST", f"{AUTHORITY}/token", urlencode(fields).encode(), FORM).has_tokens


# -- What goes wrong can be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("response_type", ["token", "id_token", "code id_token"])
def test_who_asks_for_a_token_reads_the_refusal_where_tokens_would_be(response_type: str) -> None:
    browser = EntraBrowser(App())
    assert told(browser.authorize(response_type=response_type), "fragment")["error"] == "unsupported_response_type"
    answer = browser.authorize(response_type=response_type, response_mode="query")
    assert told(answer)["error"] == "unsupported_response_type"


@pytest.mark.parametrize("tenant", ["common", "fabrikam.onmicrosoft.com"])
def test_a_page_can_read_that_its_authority_names_no_tenant(tenant: str) -> None:
    app, origin = App(), "http://localhost:3000"
    assert leave(app, "GET", f"/{tenant}/v2.0/.well-known/openid-configuration", origin) == "*"
    assert leave(app, "POST", f"/{tenant}/oauth2/v2.0/token", origin, client_id="x") is None


# -- response_type=id_token: what express-openid-connect does unless it is told otherwise -----------------------------


IMPLICIT = {"response_type": "id_token", "response_mode": "form_post", "nonce": "n", "scope": "openid email"}
NO_PKCE = {"code_challenge": "", "code_challenge_method": ""}


def posted(reply: Reply) -> dict[str, str]:
    return {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', reply.text)}


def test_an_id_token_comes_back_by_itself_at_auth0() -> None:
    one = desk()
    browser = Browser(one)
    answer = posted(browser.submit(browser.authorize(**IMPLICIT, **NO_PKCE)))
    claims = claims_of(answer["id_token"])
    assert (claims["aud"], claims["nonce"], claims["email"]) == (WEB_ID, "n", PASSWORD_USER)
    assert (claims["sid"], answer["state"]) == (one.live_sessions()[0], "s")
    assert not {"code", "access_token", "refresh_token"} & answer.keys()
    again = browser.authorize(**{**IMPLICIT, "response_mode": "", "scope": "openid offline_access", "prompt": "none"})
    fragment = dict(parse_qsl(urlsplit(dict(again.headers)["Location"]).fragment))
    assert claims_of(fragment["id_token"])["sub"] == claims["sub"] and "code" not in fragment
    assert not any(family.generation for family in one.provider.state.families.values())  # no refresh token was made


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"nonce": ""}, "invalid_request"),
        ({"scope": "email"}, "invalid_request"),
        ({"response_type": "id_token token"}, "unsupported_response_type"),
        ({"client_id": "no-implicit"}, "unauthorized_client"),
    ],
)
def test_an_id_token_is_refused_as_the_standard_says(change: dict[str, str], error: str) -> None:
    client = ClientModel(client_id="no-implicit", app_type="spa", grant_types=["authorization_code"])
    browser = Browser(desk(DEFAULT_WORLD.model_copy(update={"clients": [*demo_clients(BASE), client]})))
    assert posted(browser.authorize(**{**IMPLICIT, **change}))["error"] == error


def test_an_id_token_never_stands_in_the_query() -> None:
    assert Browser(desk()).authorize(**{**IMPLICIT, "response_mode": "query"}).location["error"] == "invalid_request"


def test_an_action_is_asked_before_an_id_token_goes_out() -> None:
    said = {"do": "set_claim", "of": "id_token", "name": "https://app.example/role", "value": "buyer"}
    one = desk(action=lambda _: {"commands": [said]})
    browser = Browser(one)
    claims = claims_of(posted(browser.submit(browser.authorize(**IMPLICIT)))["id_token"])
    assert claims["https://app.example/role"] == "buyer"
    one.action = lambda _: {"commands": [{"do": "deny", "reason": "not today"}]}
    refused = posted(browser.authorize(**IMPLICIT))
    assert (refused["error_description"], "id_token" in refused) == ("not today", False)
