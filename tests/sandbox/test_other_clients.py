"""What clients of other makers do that no test of an SDK here does, and what the real services refuse."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from tests.sandbox.native_kit import FORM, App
from tests.sandbox.native_kit import claims_of as native_claims
from tests.sandbox.sandbox_client import NOON, PASSWORD_USER, REDIRECT_URI, VERIFIER, SandboxClient
from tests.sandbox.test_cors import leave
from tests.sandbox.test_entra_sessions import AUTHORITY, EntraBrowser, told
from tests.sandbox.transfer_kit import SPA_ID, Browser, claims_of, desk, user_id
from token_relay.sandbox.provider.world.model import CLIENT_ID, SINGLE_PAGE

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
