"""The OAuth client against a scripted provider on a real socket."""

from __future__ import annotations

import base64
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.provider.provider_kit import CODE, GOOD, MARK, REFRESH_TOKEN, ScriptedProvider, assert_no_secret, entra_error
from token_relay.host.http import AioHttp
from token_relay.protocol.secret import Code, RefreshToken
from token_relay.provider.authorization import authorization_url, pkce_pair
from token_relay.provider.discovery import DiscoveryFailed, ProviderMetadata, discover, discovery_urls
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.provider.oauth import (
    RevokeAccepted,
    RevokeOutcome,
    RevokeRefused,
    RevokeUnreachable,
    exchange_code,
    refresh,
    revoke,
)
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, Unavailable
from token_relay.provider.profile import AUTH0, ENTRA, STRICT

pytestmark = pytest.mark.asyncio


class OneAnswer:
    """An Http that gives one answer to everything, for what needs no socket."""

    def __init__(self, answer: HttpResponse | NotSent | AnswerLost) -> None:
        self.answer = answer
        self.requests: list[HttpRequest] = []

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        self.requests.append(request)
        return self.answer


async def test_refresh_sends_what_rfc_6749_asks_for_and_nothing_else() -> None:
    async with ScriptedProvider() as provider:
        provider.script("/token", 200, GOOD).script("/token", 200, GOOD)
        http = AioHttp()
        endpoint = f"{provider.base}/token"
        outcome = await refresh(http, STRICT, token_endpoint=endpoint, client_id="app", refresh_token=REFRESH_TOKEN)
        assert isinstance(outcome, Refreshed)
        assert outcome.refresh_token == RefreshToken(f"{MARK}-rt-1")
        await refresh(
            http,
            ENTRA,
            token_endpoint=endpoint,
            client_id="app",
            refresh_token=REFRESH_TOKEN,
            scope="openid api://a/b.c",
            client_info=True,
        )
        await http.close()
    plain, entra = provider.forms("/token")
    assert plain == {"grant_type": "refresh_token", "client_id": "app", "refresh_token": f"{MARK}-rt-0"}
    assert entra == plain | {"scope": "openid api://a/b.c", "client_info": "1"}
    assert provider.seen[0].headers["Accept"] == "application/json"
    assert provider.seen[0].headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Cookie" not in provider.seen[1].headers


async def test_each_kind_of_answer_comes_back_as_its_value() -> None:
    async with ScriptedProvider() as provider:
        provider.script("/t", 403, {"error": "invalid_grant"}).script("/t", 429, b"", {"Retry-After": "9"})
        provider.script("/t", 302, b"", {"Location": "/elsewhere"}).script("/t", 502, b"<html>")
        http = AioHttp()
        got = [
            await refresh(
                http, AUTH0, token_endpoint=f"{provider.base}/t", client_id="app", refresh_token=REFRESH_TOKEN
            )
            for _ in range(4)
        ]
        await http.close()
    assert got[0] == Denied("final", "invalid_grant")
    assert isinstance(got[1], Unavailable)
    assert got[1].retry_after_s == 9.0
    assert got[2] == OutcomeUnknown("302 without a body: a redirect, which is never followed", "page")
    assert got[3] == OutcomeUnknown("502 application/json: no OAuth answer", "page")
    assert [seen.path for seen in provider.seen] == ["/t"] * 4  # the redirect was not followed
    assert_no_secret(*got)


async def test_exchange_code_proves_possession_of_the_verifier() -> None:
    verifier, challenge = pkce_pair(bytes(32))
    async with ScriptedProvider() as provider:
        provider.script("/token", 200, GOOD)
        http = AioHttp()
        outcome = await exchange_code(
            http,
            AUTH0,
            token_endpoint=f"{provider.base}/token",
            client_id="app",
            code=CODE,
            code_verifier=verifier,
            redirect_uri="http://127.0.0.1:1/callback",
        )
        await http.close()
    assert isinstance(outcome, Refreshed)
    assert provider.forms("/token") == [
        {
            "grant_type": "authorization_code",
            "code": f"{MARK}-code",
            "redirect_uri": "http://127.0.0.1:1/callback",
            "client_id": "app",
            "code_verifier": "A" * 43,
        }
    ]
    assert challenge != "A" * 43


async def test_pkce_pair_is_the_example_of_rfc_7636() -> None:
    # Appendix B: these 32 octets, this verifier, this challenge.
    first = [116, 24, 223, 180, 151, 153, 224, 37, 79, 250, 96, 125, 216, 173, 187, 186]
    second = [22, 212, 37, 77, 105, 214, 191, 240, 91, 88, 5, 88, 83, 132, 141, 121]
    octets = bytes([*first, *second])
    verifier, challenge = pkce_pair(octets)
    assert verifier == Code("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    assert challenge == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    with pytest.raises(ValueError, match="32"):
        pkce_pair(b"short")


async def test_authorization_url_carries_pkce_state_and_nonce_and_keeps_the_endpoints_query() -> None:
    url = authorization_url(
        authorization_endpoint="https://p.example/authorize?tenant=a%20b",
        client_id="app",
        redirect_uri="http://127.0.0.1:5/callback",
        scope="openid offline_access",
        state="st&te",
        nonce="n",
        code_challenge="c",
        prompt="login",
    )
    assert url.startswith("https://p.example/authorize?tenant=a%20b&response_type=code&")
    assert parse_qs(urlsplit(url).query) == {
        "tenant": ["a b"],
        "response_type": ["code"],
        "client_id": ["app"],
        "redirect_uri": ["http://127.0.0.1:5/callback"],
        "scope": ["openid offline_access"],
        "state": ["st&te"],
        "nonce": ["n"],
        "code_challenge": ["c"],
        "code_challenge_method": ["S256"],
        "prompt": ["login"],
    }


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (200, b"OK", {}, RevokeAccepted()),
        (401, {"error": "invalid_client"}, {}, RevokeRefused("invalid_client", 401)),
        (404, b"<html>", {}, RevokeRefused("no_oauth_error", 404)),
        (503, b"", {"retry-after": "4"}, RevokeUnreachable("HTTP 503", 4.0)),
        (429, b"", {}, RevokeUnreachable("HTTP 429")),
        (302, b"", {}, RevokeUnreachable("HTTP 302")),
    ],
)
async def test_revocation_is_believed_only_as_far_as_it_goes(
    status: int, body: object, headers: dict[str, str], expected: RevokeOutcome
) -> None:
    raw = body if isinstance(body, bytes) else b'{"error": "invalid_client"}'
    http = OneAnswer(HttpResponse(status, headers, raw))
    outcome = await revoke(http, revocation_endpoint="https://p.example/r", client_id="app", token=REFRESH_TOKEN)
    assert outcome == expected
    assert http.requests[0].timeout_s == 10.0
    assert http.requests[0].form == (
        ("token", REFRESH_TOKEN),
        ("token_type_hint", "refresh_token"),
        ("client_id", "app"),
    )
    assert_no_secret(http.requests[0], outcome)


@pytest.mark.parametrize("failure", [NotSent("no route"), AnswerLost("reset")])
async def test_a_revocation_without_an_answer_leaves_the_token_alive(failure: NotSent | AnswerLost) -> None:
    outcome = await revoke(
        OneAnswer(failure), revocation_endpoint="https://p.example/r", client_id="app", token=REFRESH_TOKEN
    )
    assert outcome == RevokeUnreachable(failure.reason)


# -- Discovery ---------------------------------------------------------------------------------------------


async def test_both_forms_of_the_discovery_url() -> None:
    # RFC 8414 §3.1 has the second line's example; OpenID Connect Discovery §4 removes a terminating slash.
    assert discovery_urls("https://example.com/issuer1") == (
        "https://example.com/issuer1/.well-known/openid-configuration",
        "https://example.com/.well-known/oauth-authorization-server/issuer1",
    )
    assert discovery_urls("https://example.com/") == (
        "https://example.com/.well-known/openid-configuration",
        "https://example.com/.well-known/oauth-authorization-server",
    )


async def test_discovery_falls_back_to_the_rfc_8414_form() -> None:
    async with ScriptedProvider() as provider:
        issuer = f"{provider.base}/a"
        document = {"issuer": issuer, "token_endpoint": f"{issuer}/t", "revocation_endpoint": f"{issuer}/r", "x": 1}
        provider.script("/a/.well-known/openid-configuration", 404, b"no")
        provider.script("/.well-known/oauth-authorization-server/a", 200, document)
        http = AioHttp()
        found = await discover(http, issuer)
        await http.close()
    assert found == ProviderMetadata(issuer, f"{issuer}/t", revocation_endpoint=f"{issuer}/r")


GOOD_DOCUMENT = b'{"issuer": "https://p.example", "token_endpoint": "https://t.example/t"}'


@pytest.mark.parametrize(
    ("issuer", "status", "body", "says", "is_temporary"),
    [
        ("https://p.example/", 200, GOOD_DOCUMENT, "calls itself https://p.example, asked for", False),
        ("http://p.example", 200, GOOD_DOCUMENT, "the issuer is plain http", False),
        ("https://p.example?a=b", 200, GOOD_DOCUMENT, "the issuer holds a query", False),
        ("https://u@p.example", 200, GOOD_DOCUMENT, "the issuer holds user info", False),
        ("p.example", 200, GOOD_DOCUMENT, "the issuer is not an https URL", False),
        ("https://p.example", 404, b"", "no discovery document", False),
        ("https://p.example", 500, b"", "HTTP 500", True),
        ("https://p.example", 302, b"", "HTTP 302", False),
        ("https://p.example", 200, b"<html>", "not a JSON object", False),
        ("https://p.example", 200, b'{"issuer": "https://p.example"}', "no token_endpoint", False),
        ("https://p.example", 200, b'{"issuer": "https://p.example", "issuer": "x"}', "distinct keys", False),
        ("https://p.example", 200, GOOD_DOCUMENT.replace(b"https://t", b"http://t"), "token_endpoint", False),
        ("https://p.example", 200, GOOD_DOCUMENT.replace(b"https://t.example", b"http://127.0.0.1"), "plain", False),
        ("https://p.example", 200, GOOD_DOCUMENT.replace(b'"https://t.example/t"', b"7"), "not a string", False),
        ("https://p.example", 200, GOOD_DOCUMENT.replace(b"t.example", b"t.example:99999"), "not a URL", False),
    ],
)
async def test_discovery_refuses_with_a_reason(
    issuer: str, status: int, body: bytes, says: str, is_temporary: bool
) -> None:
    found = await discover(OneAnswer(HttpResponse(status, {}, body)), issuer)
    assert isinstance(found, DiscoveryFailed)
    assert says in found.reason
    assert found.is_temporary == is_temporary


async def test_discovery_without_network_is_temporary() -> None:
    assert await discover(OneAnswer(NotSent("no route")), "https://p.example") == DiscoveryFailed("no route", True)


async def test_no_outcome_request_or_log_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    bodies: list[tuple[int, object]] = [
        (200, GOOD),
        (200, GOOD | {"token_type": "DPoP"}),
        (200, {"access_token": f"{MARK} x", "token_type": "Bearer"}),
        (400, entra_error("invalid_grant", 50173)),
        (400, {"error": MARK * 4, "error_description": MARK}),
    ]
    outcomes: list[object] = []
    async with ScriptedProvider() as provider:
        for status, body in bodies:
            provider.script("/t", status, body)
        http = AioHttp()
        for _ in bodies:
            outcomes.append(
                await refresh(
                    http, ENTRA, token_endpoint=f"{provider.base}/t", client_id="app", refresh_token=REFRESH_TOKEN
                )
            )
        await http.close()
    assert_no_secret(*outcomes)
    assert MARK not in caplog.text
    assert base64.b64encode(MARK.encode()).decode() not in caplog.text
