"""A broker is down for a week: access tokens are still served, no grant is lost, and requests made meanwhile arrive."""

from __future__ import annotations

import asyncio

import pytest

from tests.agents.world_kit import running
from token_relay.agents.token_source import TokenGranted, TokenRefused

pytestmark = pytest.mark.asyncio

DAY = 86_400.0


@pytest.mark.parametrize(("profile", "strategy"), [("entra", "branch"), ("auth0", "mint"), ("strict", "move")])
async def test_a_week_without_the_broker_costs_no_grant_and_the_revocation_arrives_after_it(
    profile: str, strategy: str
) -> None:
    async with running(profile) as world:
        assert (await world.phone.hand_off(strategy=strategy)).state == "done"
        before = (await world.watch.grant()).generation
        world.broker.go_down()
        for _ in range(7):
            await world.clock.advance(DAY)
            assert isinstance(await world.watch.token(timeout_s=10), TokenGranted)
        held = await world.watch.grant()
        assert (held.state, world.watch.channel.is_connected) == ("held", False)
        assert held.generation > before, "it lived on refreshes"
        revoking = asyncio.create_task(world.phone.agent.revoke("watch", wait_s=5))
        await world.within(revoking)
        assert isinstance(await world.watch.token(timeout_s=10), TokenGranted), "nobody could tell it"
        await world.restart_broker()
        await world.clock.advance(120)
        assert (await world.watch.grant()).state == "dead"
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "reauth_required"
