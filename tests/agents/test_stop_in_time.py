"""A stop waits for a pending refresh, and no longer than the runtime allows; in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from tests.agents.test_lost_answers import begin, ready, refreshes
from tests.agents.world_kit import running
from token_relay.service import runtime
from token_relay.simulation.world import devices as ends

pytestmark = pytest.mark.asyncio

STOP_S_MAX = 2.0  # docs/raspberry-pi.md: "A stop takes less than two seconds"


async def test_the_simulation_waits_as_the_runtime_does() -> None:
    assert ends.DRAIN_S == runtime.DRAIN_S


async def test_a_refresh_that_is_never_answered_is_waited_for_within_the_promise() -> None:
    async with running("auth0") as world:
        grant = await ready(world)
        world.watch.http.fault = lambda request: "lost_after"
        begin(world, grant)
        await asyncio.sleep(0.5)
        assert refreshes(world.watch) == 1
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await world.watch.stop()
        assert 0 < loop.time() - began_s < STOP_S_MAX


async def test_an_idle_agent_is_waited_for_not_at_all() -> None:
    async with running("auth0") as world:
        await ready(world)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await world.watch.stop()
        assert loop.time() == began_s
