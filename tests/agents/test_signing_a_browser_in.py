"""A session transfer token costs a refresh, and is treated as one: intent, rotation, lost answers, one flight."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.agents.guard_kit import watching
from tests.agents.world_kit import SimulatedCompanion, World, form_value, running, settle
from token_relay.agents.records import AuditEvent, Grant
from token_relay.agents.token_source import TokenGranted, TokenRefused, TransferGranted, TransferQuery
from token_relay.protocol.errors import VaultError
from token_relay.provider.http import HttpRequest

pytestmark = pytest.mark.asyncio
TOKENS = "/oauth/token"


async def handed_over(world: World) -> SimulatedCompanion:
    await world.phone.hand_off()
    await world.clock.advance(5)
    return world.watch


async def transfer(end: Any, **query: Any) -> TransferGranted | TokenRefused:
    answer: TransferGranted | TokenRefused = await end.agent.keeper.get_session_transfer(TransferQuery(**query))
    return answer


def exchanges(end: Any) -> list[HttpRequest]:
    return [request for request in end.http.requests if form_value(request, "audience").startswith("urn:")]


async def test_both_agents_trade_their_grant_for_a_token_that_lives_a_minute() -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        for end in (watch, world.phone):
            answer = await transfer(end)
            assert isinstance(answer, TransferGranted), answer
            assert 55 < answer.expires_in_s <= 60
            assert form_value(exchanges(end)[-1], "audience").endswith(":session_transfer")
            assert "session_transfer_issued" in [event.name for event in await end.rows(AuditEvent)]


async def test_the_rotated_refresh_token_is_on_disk_before_the_token_is_given() -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        before = await watch.grant()
        answer = await transfer(watch)
        assert isinstance(answer, TransferGranted)
        after = await watch.grant()
        assert after.generation == before.generation + 1 and after.refresh_token != before.refresh_token
        assert isinstance(await watch.token(force_refresh=True), TokenGranted)  # the new one works


async def test_the_intent_is_on_disk_before_the_request_leaves() -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        watch.http.gate.clear()
        asked = asyncio.ensure_future(transfer(watch))
        await settle()
        assert len(exchanges(watch)) == 1 and (await watch.grant()).state == "refreshing"
        watch.http.gate.set()
        assert isinstance(await asked, TransferGranted)


async def test_while_the_disk_refuses_the_rotated_token_nobody_gets_the_other() -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        generation = (await watch.grant()).generation

        def refuse(tx: Any) -> None:
            if any(grant.generation > generation for grant in tx.select(Grant)):
                raise VaultError("the disk is full")

        with watching(watch, refuse):
            answer = await transfer(watch)
        assert isinstance(answer, TokenRefused) and answer.error == "offline"
        assert (await watch.grant()).generation == generation
        await world.clock.advance(5)
        assert (await watch.grant()).generation == generation + 1  # kept in memory until the disk took it
        assert isinstance(await watch.token(force_refresh=True), TokenGranted)


async def test_a_caller_that_goes_away_loses_its_token_and_nothing_else() -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        generation = (await watch.grant()).generation
        watch.http.gate.clear()
        asked = asyncio.ensure_future(transfer(watch))
        await settle()
        asked.cancel()
        watch.http.gate.set()
        await world.clock.advance(1)
        assert (await watch.grant()).generation == generation + 1
        assert isinstance(await watch.token(force_refresh=True), TokenGranted)


async def test_a_refresh_and_an_exchange_never_fly_together() -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        watch.http.gate.clear()
        before = len(watch.http.requests)
        one = asyncio.ensure_future(transfer(watch, timeout_s=30))
        two = asyncio.ensure_future(watch.token(force_refresh=True, timeout_s=30))
        three = asyncio.ensure_future(transfer(watch, timeout_s=30))
        await settle()
        assert len(watch.http.requests) == before + 1
        watch.http.gate.set()
        first = await one
        assert isinstance(first, TransferGranted) and isinstance(await two, TokenGranted)
        began = world.clock.now().boot_s
        own = await three
        assert isinstance(own, TransferGranted) and own.token != first.token  # one for each caller
        assert world.clock.now().boot_s - began > 1  # and one grant makes one in two seconds
        assert (await watch.grant()).state == "held"


@pytest.mark.parametrize("profile", ["entra", "strict"])
async def test_a_provider_without_the_feature_gives_nothing_and_the_grant_goes_on(profile: str) -> None:
    async with running(profile) as world:
        watch = await handed_over(world)
        answer = await transfer(watch)
        assert isinstance(answer, TokenRefused) and answer.error == "transfer_refused"
        assert "session_transfer_refused" in [event.name for event in await watch.rows(AuditEvent)]
        assert (await watch.grant()).state == "held"
        assert isinstance(await watch.token(force_refresh=True), TokenGranted)  # and no pause either


@pytest.mark.parametrize("fault", ["lost_after", "500", "cut_json"])
async def test_a_lost_answer_is_repaired_inside_the_leeway(fault: Any) -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        watch.http.plan(fault)
        assert isinstance(await transfer(watch), TransferGranted)
        assert len(exchanges(watch)) == 2
        assert (await watch.grant()).state == "held"


async def test_with_the_network_down_it_says_so_and_the_grant_stays() -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        watch.http.cut()
        answer = await transfer(watch)
        assert isinstance(answer, TokenRefused) and answer.error == "offline"
        assert (await watch.grant()).state == "held"


async def test_a_revoked_grant_is_erased_and_a_device_without_one_says_who_must_act() -> None:
    async with running("auth0") as world:
        nothing = await transfer(world.watch)
        assert isinstance(nothing, TokenRefused) and nothing.error == "not_found"
        watch = await handed_over(world)
        world.provider.revoke_user()
        answer = await transfer(watch)
        assert isinstance(answer, TokenRefused) and answer.error == "reauth_required"
        assert (await watch.grant()).refresh_token is None
        assert (await transfer(watch)) == answer


async def test_no_token_after_the_end_of_the_lease() -> None:
    async with running("auth0") as world:
        await world.phone.hand_off(lease_days=1)
        await world.clock.advance(5)
        await world.phone.stop()
        await world.clock.advance(90_000)
        asked = len(exchanges(world.watch))
        answer = await transfer(world.watch)
        assert isinstance(answer, TokenRefused) and answer.error == "locked"
        assert len(exchanges(world.watch)) == asked


async def test_an_answer_for_a_grant_that_died_meanwhile_is_not_served() -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        watch.http.gate.clear()
        asked = asyncio.ensure_future(transfer(watch))
        await settle()
        await world.phone.agent.revoke("watch", wait_s=1)
        await world.clock.advance(1)
        watch.http.gate.set()
        answer = await asked
        assert isinstance(answer, TokenRefused) and answer.error == "reauth_required"


async def test_an_answer_for_a_grant_that_was_replaced_meanwhile_is_not_served() -> None:
    async with running("auth0") as world:
        watch = await handed_over(world)
        replaced = await watch.grant()
        watch.http.gate.clear()
        asked = asyncio.ensure_future(transfer(watch, timeout_s=30))
        await settle()
        assert len(exchanges(watch)) == 1
        await world.phone.hand_off()
        await settle()
        watch.http.gate.set()
        answer = await asked
        assert isinstance(answer, TokenRefused) and answer.error == "offline"
        assert "late_answer_dropped" in [event.name for event in await watch.rows(AuditEvent)]
        (grant,) = [grant for grant in await watch.rows(Grant) if grant.state != "dead"]
        assert (grant.state, grant.grant_id != replaced.grant_id) == ("held", True)
        assert isinstance(await transfer(watch), TransferGranted)  # the new grant gives one
