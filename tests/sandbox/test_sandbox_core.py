"""The core by itself: deterministic, and no input makes it fail or sign anybody in."""

from __future__ import annotations

import json
import random
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.sandbox_client import CHALLENGE, NOON, PASSWORD_USER, REDIRECT_URI, SCOPE
from token_relay.sandbox.control.api import control
from token_relay.sandbox.provider.core import Answer, Provider
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.memory.signing import SharedKeySigner
from token_relay.sandbox.provider.memory.state import TABLE_MAX, remember
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD, ProfileName
from token_relay.sandbox.provider.world.rules import Urls

FORM = {"content-type": "application/x-www-form-urlencoded"}
PROFILES: list[ProfileName] = ["entra", "auth0", "strict"]
PATHS = [
    *(f"/contoso/oauth2/v2.0/{name}" for name in ("initiate", "challenge", "token", "authorize")),
    "/contoso/login",
    "/contoso/discovery/v2.0/keys",
    "/authorize",
    "/login",
    "/oauth/token",
    "/oauth/revoke",
    "/.well-known/openid-configuration",
    "/sandbox/resource",
    "/",
    "/%ff",
]


def provider_of(profile: ProfileName, seed: int = 1) -> Provider:
    urls = Urls(profile, "http://127.0.0.1:8400", "contoso")
    return Provider(DEFAULT_WORLD, urls, random.Random(seed), SharedKeySigner(b"s" * 32), now=NOON)


def handle(provider: Provider, request: Request, now: float = NOON) -> Answer:
    return provider.commit(request, provider.admit(request, now), now)


def post(provider: Provider, path: str, fields: dict[str, str], now: float = NOON) -> dict[str, str]:
    body = urlencode({"client_id": CLIENT_ID, **fields}).encode()
    answer = handle(provider, Request("POST", path, body, FORM), now)
    assert answer.response.status == 200, answer.response.body
    found: dict[str, str] = json.loads(answer.response.body)
    return found


def history(seed: int, refresh_at: float) -> list[dict[str, str]]:
    provider = provider_of("entra", seed)
    base = "/contoso/oauth2/v2.0"
    first = post(provider, f"{base}/initiate", {"username": PASSWORD_USER, "challenge_type": "password redirect"})
    second = post(provider, f"{base}/challenge", {"continuation_token": first["continuation_token"]})
    given = {"continuation_token": second["continuation_token"], "password": PASSWORD, "scope": SCOPE}
    third = post(provider, f"{base}/token", {"grant_type": "password", **given})
    again = {"grant_type": "refresh_token", "refresh_token": third["refresh_token"]}
    fourth = post(provider, f"{base}/token", again, refresh_at)
    return [first, second, third, fourth]


def test_the_same_seed_and_clock_give_the_same_tokens_and_another_seed_others() -> None:
    assert history(1, NOON + 5) == history(1, NOON + 5)
    one, other = history(1, NOON + 5)[3], history(2, NOON + 5)[3]
    assert one["refresh_token"] != other["refresh_token"]
    assert history(1, NOON + 6)[3]["access_token"] != one["access_token"]


def test_an_answer_brings_its_events_and_no_others() -> None:
    provider = provider_of("auth0")
    body = urlencode(
        {"client_id": CLIENT_ID, "grant_type": "password", "username": PASSWORD_USER, "password": PASSWORD}
    )
    answer = handle(provider, Request("POST", "/oauth/token", body.encode(), FORM))
    assert [event.kind for event in answer.events] == ["signed_in"]
    assert handle(provider, Request("GET", "/.well-known/jwks.json")).events == ()


def test_admission_alone_changes_no_token() -> None:
    provider = provider_of("strict")
    body = urlencode({"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": "x"}).encode()
    provider.admit(Request("POST", "/oauth/token", body, FORM), NOON)
    assert [event.kind for event in provider.state.events] == ["token_request_received"]


def test_tables_forget_the_oldest_first() -> None:
    table: dict[int, int] = {}
    for number in range(TABLE_MAX + 2):
        remember(table, number, number)
    assert len(table) == TABLE_MAX and next(iter(table)) == 2


NAMES = st.sampled_from(
    [
        *("client_id", "grant_type", "username", "password", "scope", "challenge_type", "continuation_token", "oob"),
        *("refresh_token", "code", "code_verifier", "redirect_uri", "state", "nonce", "code_challenge", "ticket"),
        *("code_challenge_method", "response_type", "token", "audience", "prompt", "claims", "capabilities"),
    ]
)
WORDS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            *(CLIENT_ID, PASSWORD_USER, "otp@contoso.example", "password", "oob", "refresh_token", "redirect"),
            *("authorization_code", "oob password redirect", SCOPE, REDIRECT_URI, CHALLENGE, "S256", "code"),
            *("\x00", "\ud800", "a" * 20_000, "%", "\r\nX: y", "<script>", "00000000"),
        ]
    ),
)
PAIRS = st.lists(st.tuples(NAMES, WORDS), max_size=12)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    pairs = draw(PAIRS)
    shape = draw(st.sampled_from(["form", "json", "bytes", "query"]))
    path = draw(st.sampled_from(PATHS))
    method = draw(st.sampled_from(["POST", "GET", "PUT"]))
    text = urlencode(pairs, errors="replace")
    match shape:
        case "form":
            return Request(method, path, text.encode(), FORM)
        case "json":
            return Request(method, path, json.dumps(dict(pairs)).encode(), {"content-type": "application/json"})
        case "query":
            return Request(method, f"{path}?{text}", b"", {"authorization": draw(WORDS)})
        case _:
            return Request(method, f"{path}?{quote(draw(st.binary(max_size=20)))}", draw(st.binary(max_size=200)), FORM)


@pytest.mark.parametrize("profile", PROFILES)
@settings(max_examples=300, deadline=None)
@given(sequence=st.lists(requests(), min_size=1, max_size=4))
def test_no_input_makes_the_provider_fail_or_signs_anybody_in(profile: ProfileName, sequence: list[Request]) -> None:
    provider = provider_of(profile)
    for request in sequence:
        answer = handle(provider, request)
        assert answer.response.status < 500
        for name, value in answer.response.headers:
            assert "\r" not in value and "\n" not in value, name
    kinds = {event.kind for event in provider.state.events}
    assert not kinds & {"signed_in", "refresh_committed"}


CONTROL_PATHS = ["users", "clients", "policy", "faults", "revoke", "clock", "events", "mailbox/x", "state", "", "x/y"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["username", "password", "client_id", "redirect_uris", "name", "advance_s", "times", "leeway_s"])


@settings(max_examples=300, deadline=None)
@given(
    path=st.sampled_from(CONTROL_PATHS),
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    query=st.text(max_size=20),
    body=st.one_of(st.dictionaries(KEYS, VALUES, max_size=4).map(lambda x: json.dumps(x).encode()), st.binary()),
)
def test_no_order_makes_the_control_interface_fail(path: str, method: str, query: str, body: bytes) -> None:
    provider = provider_of("strict")
    target = f"/sandbox/{path}?wait_s={quote(query)}"
    answer = control(provider, Request(method, target, body, {"content-type": "application/json"}), NOON)
    assert answer.response.status < 500
