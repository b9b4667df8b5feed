"""The opt-in refresh-token API of the phone: two gates, and the token of the account's own grant."""

from __future__ import annotations

import pytest

from tests.agents.provider_orders import order
from tests.agents.world_kit import World, form_value, running
from token_relay.agents.records import Grant
from token_relay.agents.token_source import TokenRefused
from token_relay.protocol.errors import PersonNeededError, PolicyError, TransientError

pytestmark = pytest.mark.asyncio


def refreshes(world: World) -> int:
    return sum(form_value(one, "grant_type") == "refresh_token" for one in world.phone.http.requests)


async def test_no_refresh_token_unless_the_call_asks_for_it() -> None:
    async with running() as world:
        got = await world.phone.agent.accounts.get_access_token()
        assert got.refresh_token is None
        assert got.granted.access_token is not None


async def test_the_refresh_token_is_the_account_s_own_also_from_the_cache() -> None:
    async with running() as world:
        before = refreshes(world)
        got = await world.phone.agent.accounts.get_access_token(return_refresh_token=True)
        assert refreshes(world) == before
        assert got.refresh_token == (await world.phone.one(Grant)).refresh_token


async def test_force_refresh_brings_the_rotated_one() -> None:
    async with running() as world:
        accounts = world.phone.agent.accounts
        older = await accounts.get_access_token(return_refresh_token=True)
        newer = await accounts.get_access_token(force_refresh=True, return_refresh_token=True)
        assert newer.refresh_token == (await world.phone.one(Grant)).refresh_token
        assert newer.refresh_token != older.refresh_token
        assert newer.granted.access_token != older.granted.access_token


async def test_without_the_application_s_gate_the_call_s_is_no_use() -> None:
    async with running() as world:
        await world.phone.stop()
        world.phone.allow = False
        await world.phone.start()
        with pytest.raises(PolicyError) as caught:
            await world.phone.agent.accounts.get_access_token("openid", return_refresh_token=True)
        assert "allow_refresh_token_access = true" in caught.value.hint


async def test_scopes_beyond_the_grant_are_the_person_s_turn() -> None:
    async with running() as world:
        with pytest.raises(PersonNeededError):
            await world.phone.agent.accounts.get_access_token("mail.read", return_refresh_token=True)


async def test_a_provider_that_is_away_is_told_as_such() -> None:
    async with running() as world:
        await world.clock.advance(2 * 3_600)
        order(world, "faults", name="throttle_429", endpoint="token", retry_after_s=30, times=9)
        with pytest.raises(TransientError):
            await world.phone.agent.accounts.get_access_token()


async def test_an_agent_that_is_busy_is_asked_again_and_needs_no_person(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as world:

        async def busy(query: object) -> TokenRefused:
            return TokenRefused("busy", "64 programs are waiting already", retry_after_s=1.0)

        monkeypatch.setattr(world.phone.agent.keeper, "get_token", busy)
        with pytest.raises(TransientError, match="64 programs"):
            await world.phone.agent.accounts.get_access_token()
