"""An answer was lost: the value is sent again on a connection that is known to be good, while that can be waited for.

``auth0`` has a leeway of 30 s, for the previous token alone: a second lost answer ends the family.
"""

from __future__ import annotations

import pytest

from tests.agents.world_kit import SimulatedCompanion, World, running
from token_relay.agents.records import Grant
from token_relay.agents.token_source import TokenGranted
from token_relay.provider.http import HttpRequest
from token_relay.simulation.ports.http import HttpFault

pytestmark = pytest.mark.asyncio


def is_refresh(request: HttpRequest) -> bool:
    return any(name == "refresh_token" for name, _ in request.form or ())


def refreshes(watch: SimulatedCompanion) -> int:
    return sum(map(is_refresh, watch.http.requests))


async def ready(world: World) -> Grant:
    """Hand off, and let the access token of the first refresh go by."""
    await world.phone.hand_off()
    await world.clock.advance(10)
    world.watch.http.requests.clear()
    return await world.watch.grant()


def begin(world: World, grant: Grant) -> None:
    world.watch.agent.turns.spawn(world.watch.agent.keeper.refresh(grant.grant_id))


async def test_a_connection_that_loses_answers_for_20_seconds_costs_one_use_and_no_grant() -> None:
    async with running("auth0") as world:
        grant = await ready(world)
        world.watch.http.fault = lambda request: "lost_after"  # whatever arrives is carried out
        begin(world, grant)
        await world.clock.advance(20)
        assert refreshes(world.watch) == 1
        world.watch.http.heal()
        await world.clock.advance(10)
        after = await world.watch.grant()
        assert (after.state, after.generation, refreshes(world.watch)) == ("held", grant.generation + 1, 2)
        assert "reuse_detected" not in world.provider.kinds()


async def test_after_the_leeway_a_lost_value_is_sent_again_when_the_access_token_has_ended() -> None:
    async with running("auth0") as world:
        grant = await ready(world)
        world.watch.http.fault = lambda request: "lost_before"
        begin(world, grant)
        await world.clock.advance(3600)
        after = await world.watch.grant()
        assert (after.state, after.intent_late, after.intent_came) == ("uncertain", 0, "lost")
        assert "connection reset" in world.watch.agent.keeper.pause_reason(grant.grant_id)
        assert refreshes(world.watch) == 2  # the second at the end of the leeway
        await world.clock.advance(2 * 86_400)  # the access token has ended: nothing is sent to a silent provider
        assert "silent" in world.watch.agent.keeper.pause_reason(grant.grant_id)
        assert refreshes(world.watch) == 2
        world.watch.http.heal()
        await world.clock.advance(1000)
        assert isinstance(await world.watch.token(), TokenGranted)
        after = await world.watch.grant()
        assert (after.state, after.generation) == ("held", grant.generation + 1)
        assert "reuse_detected" not in world.provider.kinds()


async def test_a_late_value_does_not_wait_for_metadata_that_is_never_there() -> None:
    async with running("strict") as world:
        grant = await ready(world)
        await world.watch.edit(await world.watch.grant(), is_sole=True)
        await world.clock.advance(86_400)
        world.watch.http.requests.clear()
        world.watch.http.plan("lost_before")
        world.watch.http.fault = lambda request: "" if is_refresh(request) else "503"
        begin(world, grant)
        await world.clock.advance(300)
        assert ((await world.watch.grant()).state, refreshes(world.watch)) == ("held", 2)


async def test_where_only_the_metadata_is_away_the_value_is_sent_again_before_the_leeway_ends() -> None:
    async with running("auth0") as world:
        grant = await ready(world)
        world.watch.http.plan("lost_after")
        world.watch.http.fault = lambda request: "" if is_refresh(request) else "lost_before"
        begin(world, grant)
        await world.clock.advance(24)
        assert refreshes(world.watch) == 1
        await world.clock.advance(6)
        after = await world.watch.grant()
        assert (after.state, after.generation, refreshes(world.watch)) == ("held", grant.generation + 1, 2)
        assert "reuse_detected" not in world.provider.kinds()


async def test_a_provider_that_hangs_is_not_waited_for_until_the_leeway_is_over() -> None:
    async with running("auth0") as world:
        grant = await ready(world)
        world.watch.http.plan("lost_after")
        world.watch.http.fault = lambda request: "" if is_refresh(request) else HttpFault("slow", seconds=60.0)
        begin(world, grant)
        await world.clock.advance(30)
        assert (await world.watch.grant()).state == "held"


async def test_a_provider_without_metadata_answers_too() -> None:
    async with running("auth0") as world:
        grant = await ready(world)
        world.watch.http.plan("lost_after")
        await world.watch.edit(await world.watch.grant(), issuer=f"{grant.issuer}elsewhere")
        begin(world, grant)
        await world.clock.advance(5)
        assert (await world.watch.grant()).state == "held"


async def test_a_power_cut_inside_the_leeway_asks_first_too() -> None:
    async with running("auth0") as world:
        grant = await ready(world)
        world.watch.http.gate.clear()
        begin(world, grant)
        await world.clock.advance(1)
        await world.watch.crash()
        world.watch.http.gate.set()
        world.watch.http.requests.clear()
        world.watch.http.fault = lambda request: "lost_after"
        await world.watch.start()
        await world.clock.advance(10)
        assert refreshes(world.watch) == 0
        world.watch.http.heal()
        await world.clock.advance(10)
        assert ((await world.watch.grant()).state, refreshes(world.watch)) == ("held", 1)


async def test_a_request_that_a_power_cut_ended_shows_as_a_lost_answer_until_it_is_tried_again() -> None:
    async with running("auth0") as world:
        grant = await ready(world)
        world.watch.http.gate.clear()
        begin(world, grant)
        await world.clock.advance(1)
        await world.watch.crash()
        await world.clock.advance(60)  # the leeway is over, the cached access token still works
        world.watch.http.gate.set()
        world.watch.http.requests.clear()
        await world.watch.start()
        await world.clock.advance(600)
        after = await world.watch.grant()
        assert (after.state, after.intent_came, refreshes(world.watch)) == ("uncertain", "lost", 0)
        assert isinstance(await world.watch.token(), TokenGranted)


async def test_where_use_spends_nothing_nobody_asks_first() -> None:
    async with running("entra") as world:
        grant = await ready(world)
        world.watch.http.plan("lost_after")
        begin(world, grant)
        await world.clock.advance(60)
        assert refreshes(world.watch) == len(world.watch.http.requests)
