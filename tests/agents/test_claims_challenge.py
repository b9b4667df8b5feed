"""Continuous access evaluation at both agents: a challenge is met by one refresh, or the app is told why it cannot be
met."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.agents.provider_orders import order, show
from tests.agents.world_kit import World, form_value, running
from token_relay.agents.records import Grant
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.provider.claims import read_claims
from token_relay.provider.http import HttpRequest
from token_relay.sandbox.provider.world.model import PASSWORD

pytestmark = pytest.mark.asyncio
USER = "password@contoso.example"
CP1 = read_claims('{"access_token":{"xms_cc":{"values":["cp1"]}}}') or ""
ENDS = pytest.mark.parametrize("end", ["phone", "watch"])


async def ready(world: World, end: str) -> None:
    order(world, "policy", cae=True)
    if end == "watch":
        await world.phone.hand_off()
        await world.clock.advance(120)


async def token(world: World, end: str, claims: str = "", **query: Any) -> TokenGranted | TokenRefused:
    keeper = (world.phone if end == "phone" else world.watch).agent.keeper
    return await keeper.get_token(TokenQuery(min_valid_s=0.0, timeout_s=5.0, claims=claims, **query))


async def value(world: World, end: str, claims: str = "") -> str:
    granted = await token(world, end, claims)
    assert isinstance(granted, TokenGranted), granted
    return str(granted.access_token.reveal())


def refreshes(world: World, end: str) -> list[HttpRequest]:
    http = (world.phone if end == "phone" else world.watch).http
    return [one for one in http.requests if form_value(one, "grant_type") == "refresh_token"]


@ENDS
async def test_a_challenge_is_met_by_one_refresh_that_carries_it(end: str) -> None:
    async with running() as world:
        await ready(world, end)
        first = await value(world, end, CP1)
        assert show(world, first) == (200, "")
        await world.clock.advance(120)
        order(world, "revoke", username=USER, event="claims_challenge")
        status, challenge = show(world, first)
        assert status == 401 and challenge
        claims = read_claims(challenge)
        assert claims is not None
        await world.clock.advance(1)
        before = len(refreshes(world, end))
        second = await value(world, end, claims)
        sent = refreshes(world, end)[before:]
        assert [form_value(one, "claims") for one in sent] == [claims]
        assert second != first
        assert show(world, second) == (200, "")


@ENDS
async def test_apps_that_bring_the_same_challenge_share_one_refresh(end: str) -> None:
    async with running() as world:
        await ready(world, end)
        before = len(refreshes(world, end))
        granted = await asyncio.gather(*(value(world, end, CP1) for _ in range(5)))
        assert len(set(granted)) == 1
        assert await value(world, end, CP1) == granted[0]
        assert len(refreshes(world, end)) == before + 1


async def test_another_challenge_within_a_minute_is_told_to_wait() -> None:
    other = read_claims('{"access_token":{"nbf":{"value":"1"}}}') or ""
    async with running() as world:
        await ready(world, "watch")
        await value(world, "watch", CP1)
        busy = await token(world, "watch", other)
        assert isinstance(busy, TokenRefused)
        assert busy.error == "busy"
        assert busy.retry_after_s == pytest.approx(60, abs=1)
        await world.clock.advance(61)
        assert isinstance(await token(world, "watch", other), TokenGranted)


@ENDS
async def test_reauth_is_required_when_the_grant_itself_is_gone(end: str) -> None:
    async with running() as world:
        await ready(world, end)
        first = await value(world, end, CP1)
        await world.clock.advance(61)
        order(world, "revoke", username=USER)
        status, challenge = show(world, first)
        assert status == 401
        refused = await token(world, end, read_claims(challenge) or "")
        assert isinstance(refused, TokenRefused)
        assert refused.error == "reauth_required"
        rows = await (world.phone if end == "phone" else world.watch).rows(Grant)
        assert [(row.state, row.refresh_token) for row in rows] == [("dead", None)]


async def test_the_refused_token_is_not_served_again_while_the_provider_is_away() -> None:
    async with running() as world:
        await ready(world, "watch")
        await value(world, "watch")
        await world.clock.advance(61)
        order(world, "faults", name="throttle_429", endpoint="token", retry_after_s=30)
        refused = await token(world, "watch", CP1)
        assert isinstance(refused, TokenRefused)
        assert refused.error == "offline"
        again = await token(world, "watch", CP1)
        assert isinstance(again, TokenRefused) and again.error == "offline"  # waits as the provider asked
        assert isinstance(await token(world, "watch"), TokenGranted)  # without a challenge, the cached one still serves


async def test_refused_claims_do_not_end_the_grant() -> None:
    async with running() as world:
        await ready(world, "watch")
        order(world, "faults", name="refuse", endpoint="token", error="interaction_required", code=53003)
        refused = await token(world, "watch", CP1)
        assert isinstance(refused, TokenRefused)
        assert (refused.error, "interaction_required" in refused.detail) == ("refused", True)
        assert (await world.watch.grant()).state == "held"
        assert isinstance(await token(world, "watch", force_refresh=True), TokenGranted)
        await world.clock.advance(61)
        order(world, "faults", name="refuse", endpoint="token", error="invalid_request", code=90100)
        refused = await token(world, "watch", CP1)
        assert isinstance(refused, TokenRefused) and refused.error == "refused"
        assert (await world.watch.grant()).state == "held"


async def test_a_grant_that_waits_for_the_person_meets_no_challenge() -> None:
    async with running() as world:
        await ready(world, "watch")
        await world.watch.edit(await world.watch.grant(), state="needs_handoff", reason="person")
        assert isinstance(await token(world, "watch"), TokenGranted)  # the cached one
        refused = await token(world, "watch", CP1)
        assert isinstance(refused, TokenRefused) and refused.error == "reauth_required"


@pytest.mark.parametrize("profile", ["auth0", "strict"])
async def test_other_providers_take_no_claims(profile: str) -> None:
    async with running(profile) as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        before = len(refreshes(world, "watch"))
        refused = await token(world, "watch", CP1)
        assert isinstance(refused, TokenRefused)
        assert (refused.error, "takes no claims" in refused.detail) == ("denied", True)
        assert len(refreshes(world, "watch")) == before


async def test_a_token_of_a_challenge_is_the_cached_one_from_then_on() -> None:
    async with running() as world:
        await ready(world, "watch")
        met = await value(world, "watch", CP1)
        assert await value(world, "watch") == met
        assert PASSWORD not in met
