"""``claims`` at the token API: who may bring a challenge, and what counts as one."""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from token_relay.agents.token_source import Peer, TokenGranted, TokenQuery, TokenRefused
from token_relay.apps.policy import Policy, Rule
from token_relay.apps.server import BadQuery, TokenApi, parse_query
from token_relay.host.clock import SystemClock
from token_relay.protocol.secret import AccessToken
from token_relay.provider.claims import CLAIMS_CHARS_MAX, read_claims

OWNER = os.geteuid()
APP = OWNER + 1001
CHALLENGE = '{"access_token":{"nbf":{"essential":true,"value":"1800000000"}}}'
SENT = read_claims(CHALLENGE)


class Source:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.queries: list[TokenQuery] = []

    async def get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        self.queries.append(query)
        return TokenGranted(AccessToken("x"), "Bearer", datetime(2030, 1, 1, tzinfo=UTC), "openid", "https://idp")


@pytest.mark.parametrize("spelled", [CHALLENGE, base64.b64encode(CHALLENGE.encode()).decode()])
def test_a_challenge_is_read_in_both_spellings(spelled: str) -> None:
    query = parse_query(f"claims={quote(spelled)}&scope=openid")
    assert isinstance(query, TokenQuery)
    assert (query.claims, query.scope, query.force_refresh) == (SENT, "openid", False)


def test_no_challenge_is_none() -> None:
    assert parse_query("claims=") == TokenQuery()


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "x", "%00", "e30", CHALLENGE[:-1], CHALLENGE + "x", "e" * (CLAIMS_CHARS_MAX + 1), "{" * 2_000],
)
def test_what_is_no_challenge_is_a_bad_request_that_does_not_quote_it(text: str) -> None:
    refused = parse_query(f"claims={quote(text, safe='%')}")
    assert isinstance(refused, BadQuery)
    assert refused.detail.startswith("'claims': ")
    assert len(text) < 3 or text not in refused.detail


def test_a_challenge_twice_is_refused() -> None:
    assert isinstance(parse_query(f"claims={quote(CHALLENGE)}&claims={quote(CHALLENGE)}"), BadQuery)


@pytest.mark.asyncio
async def test_an_app_that_the_policy_allows_may_bring_a_challenge_and_another_may_not() -> None:
    source = Source()
    api = TokenApi(source, Policy(OWNER, (Rule(APP, None, None, None, None),)), clock=SystemClock())
    target = f"/v1/token?claims={quote(CHALLENGE)}"
    assert (await api.answer(Peer(APP, APP, 1), "GET", target)).status == 200
    assert (await api.answer(Peer(OWNER, OWNER, 1), "GET", target)).status == 200
    assert [query.claims for query in source.queries] == [SENT, SENT]
    refused = await api.answer(Peer(APP + 1, APP + 1, 1), "GET", target)
    assert (refused.status, refused.body["error"]) == (403, "denied")
    assert len(source.queries) == 2
