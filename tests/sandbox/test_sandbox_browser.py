"""Browser sign-in: discovery, keys, PKCE, redirect URIs, the login page."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry

from tests.sandbox.sandbox_client import (
    NOON,
    OTP_USER,
    PASSWORD_USER,
    REDIRECT_URI,
    SCOPE,
    VERIFIER,
    SandboxClient,
    challenge_of,
    query_of,
)
from token_relay.sandbox.provider.web.browser import is_redirect_uri
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD, ClientModel

DISCOVERY = "/.well-known/openid-configuration"


def discovery_url(client: SandboxClient) -> str:
    profile = client.server.provider.state.urls.profile
    return str(client.authority) + ("/v2.0" if profile == "entra" else "") + DISCOVERY


async def keys_at(client: SandboxClient, url: str) -> KeySet:
    published: Any = (await client.request("GET", url)).json
    return KeySet.import_key_set(published)


@pytest.mark.asyncio
async def test_tokens_verify_against_what_discovery_says(each: SandboxClient) -> None:
    document = (await each.request("GET", discovery_url(each))).json
    keys = await keys_at(each, document["jwks_uri"])
    tokens = await each.sign_in(scope="openid profile email offline_access", audience="https://api.example")
    rules = JWTClaimsRegistry(
        now=lambda: int(NOON),
        iss={"essential": True, "value": document["issuer"]},
        aud={"essential": True, "value": CLIENT_ID},
        exp={"essential": True},
        sub={"essential": True},
    )
    id_token = jwt.decode(tokens["id_token"], keys, algorithms=["RS256"])
    rules.validate(id_token.claims)
    assert id_token.claims["email"] == PASSWORD_USER
    access_token = jwt.decode(tokens["access_token"], keys, algorithms=["RS256"])
    assert access_token.claims["iss"] == document["issuer"]
    name = "uti" if each.server.provider.state.urls.profile == "entra" else "jti"
    assert access_token.claims[name].startswith("SANDBOXMARK-")
    assert access_token.header["typ"] == "JWT"


@pytest.mark.asyncio
async def test_discovery_names_places_that_exist(each: SandboxClient) -> None:
    document = (await each.request("GET", discovery_url(each))).json
    assert (await each.request("GET", document["authorization_endpoint"])).status == 400  # a page, not 404
    assert (await each.request("POST", document["token_endpoint"], data={"a": "b"})).status == 400
    assert document["code_challenge_methods_supported"] == ["S256"]
    has_revocation = each.server.provider.state.urls.profile != "entra"
    assert ("revocation_endpoint" in document) is has_revocation
    # OpenID Connect Discovery §4.1: the issuer leads back to its document
    again = await each.request("GET", document["issuer"].rstrip("/") + DISCOVERY)
    assert again.json == document


@pytest.mark.asyncio
async def test_both_kinds_of_discovery_say_the_same(auth0: SandboxClient, strict: SandboxClient) -> None:
    for client in (auth0, strict):
        oidc = await client.request("GET", DISCOVERY)
        oauth = await client.request("GET", "/.well-known/oauth-authorization-server")
        assert oidc.status == oauth.status == 200 and oidc.json == oauth.json
    assert (await auth0.request("GET", DISCOVERY)).json["issuer"] == f"{auth0.base}/"
    assert (await strict.request("GET", DISCOVERY)).json["issuer"] == strict.base


@pytest.mark.asyncio
async def test_the_answer_echoes_state_and_names_the_issuer(each: SandboxClient) -> None:
    page = await each.authorize(nonce="n-0S6_WzA2Mj")
    assert page.status == 200 and "script" not in page.headers["content-security-policy"]
    done = await each.submit(page, PASSWORD_USER, PASSWORD)
    assert done.status == 303 and done.headers["location"].startswith(f"{REDIRECT_URI}?")
    back = query_of(done)
    assert back["state"] == "a state & more"
    assert back["iss"] == (await each.request("GET", discovery_url(each))).json["issuer"]
    tokens = (await each.redeem(back["code"])).json
    keys = await keys_at(each, each.server.provider.state.urls.url("jwks"))
    assert jwt.decode(tokens["id_token"], keys, algorithms=["RS256"]).claims["nonce"] == "n-0S6_WzA2Mj"


@pytest.mark.asyncio
async def test_a_person_without_password_is_sent_a_code_by_the_same_form(each: SandboxClient) -> None:
    page = await each.authorize()
    asked = await each.submit(page, OTP_USER, "")
    assert asked.status == 200 and "enter it below" in asked.text
    wrong = await each.submit(asked, OTP_USER, "not the code")
    assert wrong.status == 400
    done = await each.submit(wrong, OTP_USER, await each.code(OTP_USER))
    assert done.status == 303
    assert (await each.redeem(query_of(done)["code"])).status == 200
    assert (await each.events("signed_in"))[0]["method"] == "oob"


@pytest.mark.asyncio
async def test_a_code_sent_to_one_person_does_not_sign_another_in(auth0: SandboxClient) -> None:
    await auth0.ordered("users", username="second@contoso.example")
    page = await auth0.authorize()
    asked = await auth0.submit(page, OTP_USER, "")
    stolen = await auth0.submit(asked, "second@contoso.example", await auth0.code(OTP_USER))
    assert stolen.status == 400


@pytest.mark.asyncio
async def test_a_wrong_password_shows_the_form_again_and_ten_end_it(auth0: SandboxClient) -> None:
    page = await auth0.authorize()
    for _ in range(9):
        page = await auth0.submit(page, "<b>nobody</b>", "wrong")
        assert page.status == 400 and "<b>nobody" not in page.text
    last = await auth0.submit(page, PASSWORD_USER, "wrong")
    assert "Too many attempts" in last.text
    after = await auth0.submit(page, PASSWORD_USER, PASSWORD)
    assert after.status == 400 and "location" not in after.headers


ERRORS_SENT_BACK = [
    ({"response_type": "token", "response_mode": "query"}, "unsupported_response_type"),
    ({"code_challenge": ""}, "invalid_request"),
    ({"code_challenge": "too-short"}, "invalid_request"),
    ({"code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge_method": ""}, "invalid_request"),
    ({"response_mode": "web_message"}, "invalid_request"),
    ({"prompt": "none login"}, "invalid_request"),
    ({"scope": 'a"b'}, "invalid_scope"),
    ({"prompt": "none"}, "login_required"),
    ({"nonce": "n" * 2049}, "invalid_request"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("change", "error"), ERRORS_SENT_BACK)
async def test_authorize_sends_errors_back_with_the_state(
    strict: SandboxClient, change: dict[str, str], error: str
) -> None:
    reply = await strict.authorize(**change)
    assert reply.status == 303
    back = query_of(reply)
    assert (back["error"], back["state"]) == (error, "a state & more")
    assert "code" not in back


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "nobody"},
        {"client_id": ""},
        {"redirect_uri": ""},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": "http://127.0.0.1.evil.example/"},
        {"redirect_uri": "http://127.0.0.1@evil.example/"},
        {"redirect_uri": "javascript:alert(1)"},
    ],
)
async def test_authorize_sends_nobody_to_an_address_that_is_not_the_client_s(
    each: SandboxClient, change: dict[str, str]
) -> None:
    reply = await each.authorize(**change)
    assert reply.status == 400 and "location" not in reply.headers


REDIRECT_URIS = [
    ("http://127.0.0.1:1/", True),  # RFC 8252 §7.3: any port
    ("http://127.0.0.1/callback", True),
    ("http://[::1]:65535/cb", True),
    ("http://localhost:8080/cb?x=1", True),
    ("com.example.app:/callback", True),  # registered below
    ("com.example.app:/callback2", False),
    ("https://localhost:8443/", True),  # a page with TLS
    ("https://localhost.evil.example/", False),
    ("http://127.0.0.1:99999/", False),
    ("http://127.0.0.1:1/#fragment", False),
    ("http://user@127.0.0.1/", False),
    ("http://127.0.0.2/", False),
    ("http://127.0.0.1\\@evil.example/", False),
    ("http://127.0.0.1/\r\nSet-Cookie: a=b", False),
    ("//127.0.0.1/", False),
    ("http://[::1", False),
    ("http://127.0.0.1/" + "x" * 2048, False),
]


@pytest.mark.parametrize(("uri", "is_allowed"), REDIRECT_URIS)
def test_redirect_uris(uri: str, is_allowed: bool) -> None:
    client = ClientModel(client_id="app", redirect_uris=["com.example.app:/callback"])
    assert is_redirect_uri(client, uri) is is_allowed


@pytest.mark.asyncio
async def test_a_code_works_once_and_its_reuse_kills_what_came_of_it(each: SandboxClient) -> None:
    code = await each.browser_code()
    tokens = (await each.redeem(code)).json
    again = await each.redeem(code)
    assert (again.status in {400, 403}, again.json["error"]) == (True, "invalid_grant")
    assert (await each.refresh(tokens["refresh_token"])).json["error"] == "invalid_grant"
    assert (await each.resource(tokens["access_token"])).status == 401
    assert (await each.events("family_killed"))[0]["reason"] == "code_reuse"


@pytest.mark.asyncio
async def test_a_wrong_verifier_burns_the_code(strict: SandboxClient) -> None:
    code = await strict.browser_code()
    refused = await strict.redeem(code, code_verifier="A" * 43)
    assert (refused.status, refused.json["error"]) == (400, "invalid_grant")
    assert (await strict.redeem(code)).status == 400
    assert not await strict.events("signed_in")


@pytest.mark.asyncio
@pytest.mark.parametrize("verifier", ["short", "x" * 129, "A" * 42 + "!"])
async def test_a_verifier_must_have_the_form_that_pkce_gives_it(strict: SandboxClient, verifier: str) -> None:
    code = await strict.browser_code(code_challenge=challenge_of(verifier))
    assert (await strict.redeem(code, code_verifier=verifier)).json["error"] == "invalid_grant"


@pytest.mark.asyncio
async def test_a_code_belongs_to_its_client_and_redirect_uri_and_ends(strict: SandboxClient) -> None:
    await strict.ordered("clients", client_id="other-client")
    code = await strict.browser_code()
    for change in ({"client_id": "other-client"}, {"redirect_uri": "http://127.0.0.1:9/"}):
        assert (await strict.redeem(code, **change)).json["error"] == "invalid_grant"
    for missing in ("code", "redirect_uri", "code_verifier"):
        assert (await strict.redeem(code, **{missing: ""})).json["error"] == "invalid_request"
    await strict.ordered("clock", advance_s=600)
    assert (await strict.redeem(code)).json["error"] == "invalid_grant"
    assert not await strict.events("signed_in")


@pytest.mark.asyncio
async def test_a_login_page_grows_old(strict: SandboxClient) -> None:
    page = await strict.authorize()
    await strict.ordered("clock", advance_s=600)
    assert "too old" in (await strict.submit(page, PASSWORD_USER, PASSWORD)).text


def test_the_verifier_of_the_rfc_gives_the_challenge_of_the_rfc() -> None:
    assert challenge_of(VERIFIER) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"  # RFC 7636 appendix B
    assert parse_qs(urlsplit("?scope=" + SCOPE.replace(" ", "+")).query)["scope"] == [SCOPE]
