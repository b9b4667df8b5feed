"""The exchange's answers: what may become a session transfer token, and what a refusal means to the grant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.provider.provider_kit import MARK, REFRESH_TOKEN, ScriptedProvider, assert_no_secret, response
from token_relay.host.http import AioHttp
from token_relay.protocol.secret import RefreshToken, SessionTransferToken
from token_relay.provider.http import AnswerLost, NotSent
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, Unavailable
from token_relay.provider.profile import AUTH0, STRICT
from token_relay.provider.session_transfer import (
    ISSUED_TOKEN_TYPE,
    TOKEN_CHARS_MAX,
    Exchanged,
    ExchangeRefused,
    audience_of,
    classify_exchange,
    exchange,
    for_grant,
)

GOOD: dict[str, object] = {
    "access_token": f"{MARK}-st",
    "issued_token_type": ISSUED_TOKEN_TYPE,
    "token_type": "N_A",
    "expires_in": 60,
    "refresh_token": f"{MARK}-rt-1",
}
NEXT = RefreshToken(f"{MARK}-rt-1")


@pytest.mark.parametrize(
    ("given_s", "expires_in_s"),
    [
        *((60, 60.0), ("60", 60.0), (None, 60.0), (10**400, 300.0), ("30.0", 30.0)),
        *((0, 60.0), ("soon", 60.0), (True, 60.0), ([60], 60.0)),  # what cannot be read costs nobody the token
    ],
)
def test_a_session_transfer_token_comes_with_its_end_and_the_next_refresh_token(
    given_s: object, expires_in_s: float
) -> None:
    outcome = classify_exchange(AUTH0, response(200, {**GOOD, "expires_in": given_s}))
    assert outcome == Exchanged(NEXT, SessionTransferToken(f"{MARK}-st"), expires_in_s)
    assert_no_secret(outcome)


@pytest.mark.parametrize(
    "change",
    [
        {"issued_token_type": None},
        {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"},
        {"issued_token_type": [ISSUED_TOKEN_TYPE]},
        {"access_token": ""},
        {"access_token": 5},
        {"access_token": "a&b=c"},
        {"access_token": "a\r\nSet-Cookie: x"},
        {"access_token": "a" * (TOKEN_CHARS_MAX + 1)},
    ],
)
def test_any_other_success_gives_no_token_and_still_the_next_refresh_token(change: dict[str, object]) -> None:
    outcome = classify_exchange(AUTH0, response(200, {**GOOD, **change}))
    assert isinstance(outcome, Exchanged)
    assert outcome.token is None and outcome.problem and outcome.refresh_token == NEXT
    settled = for_grant(outcome)
    assert isinstance(settled, Refreshed) and settled.refresh_token == NEXT and settled.access_token is None


def test_an_ordinary_access_token_is_dropped() -> None:
    ordinary = {"access_token": f"{MARK}.at", "token_type": "Bearer", "expires_in": 86_400}
    outcome = classify_exchange(STRICT, response(200, ordinary))
    assert outcome == Exchanged(None, None, problem="the provider answered with a token of another type")


def test_a_key_that_came_twice_gives_no_token() -> None:
    body = f'{{"issued_token_type": "x", "issued_token_type": "{ISSUED_TOKEN_TYPE}", "access_token": "st"}}'.encode()
    assert classify_exchange(AUTH0, response(200, body)) == Exchanged(None, None, problem="a key came twice")


@pytest.mark.parametrize("error", ["access_denied", "invalid_request", "unauthorized_client", "mfa_required", "other"])
@pytest.mark.parametrize("status", [200, 400, 403])
def test_a_refused_exchange_is_no_refused_grant(error: str, status: int) -> None:
    outcome = classify_exchange(AUTH0, response(status, {"error": error}))
    assert isinstance(outcome, ExchangeRefused)
    settled = for_grant(outcome)
    assert isinstance(settled, Denied) and settled.kind == "temporary"  # which keeps the grant as it was


def test_invalid_grant_ends_the_grant_as_at_a_refresh() -> None:
    outcome = classify_exchange(AUTH0, response(403, {"error": "invalid_grant"}))
    assert isinstance(outcome, Denied) and outcome.kind == "final"
    assert for_grant(outcome) is outcome


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (NotSent("no network"), Unavailable),
        (AnswerLost("reset"), OutcomeUnknown),
        (response(429, {}), Unavailable),
        (response(502, b"<html>"), OutcomeUnknown),
        (response(503, b"<html>", {"retry-after": "10"}), OutcomeUnknown),
        (response(403, {"error": "access_denied"}, {"content-type": "text/html"}), OutcomeUnknown),
        (response(200, b"<html>"), OutcomeUnknown),
        (response(200, {}), OutcomeUnknown),
        (response(200, {**GOOD, "refresh_token": 7}), OutcomeUnknown),
    ],
)
def test_what_may_have_rotated_the_token_is_unknown_and_the_rest_unavailable(answer: object, kind: type) -> None:
    outcome = classify_exchange(AUTH0, answer)  # type: ignore[arg-type]  # each is one of its three
    assert isinstance(outcome, kind)
    assert for_grant(outcome) is outcome


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda j: st.lists(j)))
def test_whatever_stands_in_a_field_nothing_is_raised(value: object) -> None:
    for name in GOOD:
        classify_exchange(AUTH0, response(200, {**GOOD, name: value}))
        classify_exchange(AUTH0, response(400, {"error": "invalid_request", name: value, "suberror": value}))


@pytest.mark.parametrize(
    ("issuer", "audience"),
    [
        ("https://example.eu.auth0.com/", "urn:example.eu.auth0.com:session_transfer"),
        ("http://127.0.0.1:8400", "urn:127.0.0.1:session_transfer"),
    ],
)
def test_the_audience_names_the_issuers_host(issuer: str, audience: str) -> None:
    assert audience_of(issuer) == audience


@pytest.mark.asyncio
async def test_the_request_is_a_refresh_with_an_audience_and_nothing_else() -> None:
    async with ScriptedProvider().script("/oauth/token", 200, GOOD) as provider:
        http = AioHttp()
        outcome = await exchange(
            http,
            AUTH0,
            token_endpoint=f"{provider.base}/oauth/token",
            client_id="client",
            refresh_token=REFRESH_TOKEN,
            audience="urn:h.example:session_transfer",
        )
        await http.close()
        assert isinstance(outcome, Exchanged) and outcome.token is not None
        assert provider.forms("/oauth/token") == [
            {
                "grant_type": "refresh_token",
                "client_id": "client",
                "refresh_token": REFRESH_TOKEN.reveal(),
                "audience": "urn:h.example:session_transfer",
            }
        ]
