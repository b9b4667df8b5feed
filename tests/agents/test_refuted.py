"""A behaviour that was described too mildly: the provider refutes it, and from then on it counts as strict."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.agents.world_kit import World
from token_relay.agents.grants import refuted
from token_relay.agents.grants.serving import profile_of
from token_relay.agents.records import AuditEvent, Grant, Pairing
from token_relay.protocol.behaviour import Behaviour
from token_relay.protocol.errors import PolicyError
from token_relay.provider.profile import STRICT, Profile, described
from token_relay.simulation.ports.http import HttpFault
from token_relay.simulation.world.devices import SimulatedDevice

pytestmark = pytest.mark.asyncio
MILD: dict[str, Any] = {"invalidates_on_use": False, "reuse_takes": "nothing"}
FORGIVING: dict[str, Any] = {"leeway_s": 30, "reuse_takes": "family"}


def saying(**said: Any) -> Profile:
    return described(STRICT, Behaviour.model_validate({**dict(STRICT.behaviour), **said}))


@asynccontextmanager
async def believing(kind: str, *, phones: int = 1, **said: Any) -> AsyncIterator[World]:
    """A paired world whose phones say this of their provider."""
    world = World(kind, tier="memory", phones=phones)  # type: ignore[arg-type]  # a test's parameter
    world.provider.client_profile = saying(**said)
    for end in world.ends:
        await end.start()
    for phone in world.phones:
        await phone.sign_in()
        await world.pair(phone)
    try:
        yield world
    finally:
        for end in world.ends:
            await end.crash()


async def told(end: SimulatedDevice) -> list[dict[str, str | int]]:
    return await end.call(end.agent.turns.read(refuted.listed))


async def spend_the_branched_token(world: World) -> None:
    """Have the companion go on with its branch, then the phone with the token that was branched."""
    assert (await world.phone.hand_off(strategy="branch")).state == "done"
    await world.clock.advance(60)
    await world.phone.token(force_refresh=True)
    await world.clock.advance(60)


async def test_a_branch_that_died_makes_its_provider_strict_and_says_why() -> None:
    async with believing("strict", **MILD) as world:
        await spend_the_branched_token(world)
        (row,) = await told(world.phone)
        assert row["issuer"] == world.provider.url
        assert "right after a branch" in str(row["why"])
        (event,) = await world.phone.rows(AuditEvent, name="behaviour_refuted")
        assert "counts as strict now" in event.detail
        await world.phone.sign_in()
        (grant,) = [one for one in await world.phone.rows(Grant) if one.state != "dead"]
        assert profile_of(grant).behaviour == STRICT.behaviour
        with pytest.raises(PolicyError, match="the provider has shown that it is not safe"):
            await world.phone.hand_off(strategy="branch")
        await world.phone.stop()
        await world.phone.start()
        with pytest.raises(PolicyError):
            await world.phone.hand_off(strategy="branch")
        assert (await world.phone.hand_off()).strategy == "mint"


async def test_a_measurement_that_came_later_is_believed_again() -> None:
    async with believing("strict", **MILD) as world:
        await spend_the_branched_token(world)
        accounts = world.phone.agent.accounts
        refuted_at = int((await told(world.phone))[0]["at"])
        for measured_at, strategies in ((refuted_at, STRICT.strategies), (refuted_at + 1, saying(**MILD).strategies)):
            accounts.settings = replace(accounts.settings, measured_at=measured_at)
            found = await world.phone.agent.turns.read(accounts.believed_profile)
            assert found.strategies == strategies


async def test_what_the_account_lost_together_with_its_companion_refutes_nothing() -> None:
    async with believing("entra", **MILD) as world:
        assert (await world.phone.hand_off(strategy="branch")).state == "done"
        await world.clock.advance(60)
        world.provider.revoke_user()
        await world.watch.token(force_refresh=True)
        await world.clock.advance(60)
        await world.phone.token(force_refresh=True)
        await world.clock.advance(60)
        assert {one.state for one in await world.phone.rows(Grant)} == {"dead"}
        assert await told(world.phone) == []


async def test_a_token_of_ones_own_that_is_refused_refutes_nothing() -> None:
    async with believing("strict", **MILD) as world:
        world.provider.revoke_user()
        await world.phone.token(force_refresh=True)
        await world.clock.advance(60)
        assert {one.state for one in await world.phone.rows(Grant)} == {"dead"}
        assert await told(world.phone) == []


async def lose_one_answer(world: World) -> None:
    world.watch.http.faults.append(HttpFault("lost_after", path="/token"))
    await world.watch.token(force_refresh=True)
    await world.clock.advance(60)


async def test_a_leeway_that_does_not_hold_makes_the_grants_of_that_phone_strict() -> None:
    async with believing("strict", **FORGIVING) as world:
        assert (await world.phone.hand_off()).state == "done"
        await world.clock.advance(60)
        assert profile_of(await world.watch.grant()).old_token_s == 30.0
        await lose_one_answer(world)
        assert (await world.watch.grant()).state == "dead"
        (row,) = await told(world.watch)
        assert "should have worked again" in str(row["why"])
        assert (await world.phone.hand_off()).state == "done"  # the phone still says so, and is no longer believed
        assert profile_of(await world.watch.grant()).behaviour == STRICT.behaviour
        await world.clock.advance(60)
        await lose_one_answer(world)
        assert len(await told(world.watch)) == 1


async def test_a_leeway_that_holds_is_refuted_by_nothing() -> None:
    async with believing("grace", **FORGIVING) as world:
        assert (await world.phone.hand_off()).state == "done"
        await world.clock.advance(60)
        await lose_one_answer(world)
        assert (await world.watch.grant()).state == "held"
        assert await told(world.watch) == []


async def test_what_one_phone_said_wrongly_is_not_held_against_another() -> None:
    async with believing("strict", phones=2, **FORGIVING) as world:
        for phone in world.phones:
            assert (await phone.hand_off()).state == "done"
        await world.clock.advance(60)
        await lose_one_answer(world)
        (struck,) = [one for one in await world.watch.rows(Grant) if one.state == "dead"]
        (spared,) = [one for one in await world.watch.rows(Grant) if one.state != "dead"]
        assert profile_of(spared).old_token_s == 30.0
        assert len(await told(world.watch)) == 1
        for grant, leeway_s in ((spared, 30.0), (struck, 0.0)):
            peer_id = (await world.watch.one(Pairing, pairing_id=grant.pairing_id)).peer_id
            (phone,) = [one for one in world.phones if one.agent.turns.own_id == peer_id]
            assert (await phone.hand_off()).state == "done"
            (new,) = await world.watch.rows(Grant, pairing_id=grant.pairing_id)
            assert profile_of(new).old_token_s == leeway_s


async def test_what_a_person_describes_holds_after_a_restart_for_the_grant_of_before() -> None:
    async with believing("strict") as world:
        assert profile_of(await world.phone.one(Grant)).old_token_s == 0.0
        await world.phone.stop()
        world.provider.client_profile = saying(**FORGIVING)
        await world.phone.start()
        assert profile_of(await world.phone.one(Grant)).old_token_s == 30.0
        world.provider.client_profile = STRICT
        await world.phone.stop()
        await world.phone.start()
        assert (await world.phone.one(Grant)).behaviour == ""


async def test_a_branch_that_waits_is_given_up_when_it_is_no_longer_safe() -> None:
    async with believing("strict", **MILD) as world:
        await world.watch.stop()
        assert (await world.phone.hand_off(strategy="branch", wait_s=0.0)).state == "offered"
        accounts, sent = world.phone.agent.accounts, len(world.phone.http.requests)
        accounts.settings = replace(accounts.settings, profile=STRICT)
        await world.watch.start()
        await world.clock.advance(120)
        row = await world.phone.handoff()
        assert row.state == "cancelled"
        assert "branch is not safe" in row.problem
        assert len(world.phone.http.requests) == sent
