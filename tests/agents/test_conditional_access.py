"""Rules of the tenant at a refresh, end to end: what the companion does, what its apps and its phone are told."""

from __future__ import annotations

import pytest

from tests.agents.provider_orders import order
from tests.agents.world_kit import World, running
from token_relay.agents.records import AuditEvent, Grant
from token_relay.agents.token_source import TokenGranted, TokenRefused

pytestmark = pytest.mark.asyncio
DAY_S = 86_400


async def handed_over(world: World) -> None:
    assert (await world.phone.hand_off()).state == "done"
    await world.clock.advance(120)
    assert isinstance(await world.watch.token(), TokenGranted)


async def refreshed_later(world: World) -> TokenGranted | TokenRefused:
    """Ask once the access token has ended."""
    await world.clock.advance(2 * 3_600)
    return await world.watch.token(timeout_s=5.0)


async def codes_of(world: World) -> str:
    rows = [row for row in await world.watch.rows(AuditEvent) if row.name == "refresh_denied"]
    assert rows and rows[-1].trace_id and rows[-1].correlation_id
    return rows[-1].detail


async def test_70043_sign_in_frequency_ends_the_grant_and_asks_for_a_new_handoff() -> None:
    async with running() as world:
        await handed_over(world)
        order(world, "policy", conditional_access=70043, sign_in_frequency_s=3_600)
        refused = await refreshed_later(world)
        assert isinstance(refused, TokenRefused) and refused.error == "reauth_required"
        grant = await world.watch.grant()
        assert (grant.state, grant.reason, grant.refresh_token) == ("dead", "denied", None)
        assert await codes_of(world) == "final invalid_grant bad_token 70043"
        await world.clock.advance(10)
        told = await world.phone.handoff()
        assert (told.device_state, told.device_reason) == ("needs_handoff", "denied")
        # The person signs in anew, and a new handoff brings the companion back.
        await world.phone.sign_in()
        assert (await world.phone.hand_off()).state == "done"
        await world.clock.advance(2)
        assert isinstance(await world.watch.token(), TokenGranted)


async def test_70043_leaves_a_young_sign_in_alone() -> None:
    async with running() as world:
        await handed_over(world)
        order(world, "policy", conditional_access=70043, sign_in_frequency_s=30 * DAY_S)
        assert isinstance(await refreshed_later(world), TokenGranted)


@pytest.mark.parametrize(
    ("rule", "told"),
    [(53003, "person interaction_required message_only 53003"), (50076, "person invalid_grant basic_action 50076")],
)
async def test_53003_and_50076_keep_the_token_sealed_and_wait_for_the_person(rule: int, told: str) -> None:
    async with running() as world:
        await handed_over(world)
        order(world, "policy", conditional_access=rule)
        refused = await refreshed_later(world)
        assert isinstance(refused, TokenRefused) and refused.error == "reauth_required"
        grant = await world.watch.grant()
        assert (grant.state, grant.reason) == ("needs_handoff", "person")
        assert grant.refresh_token is not None
        assert await codes_of(world) == told
        await world.clock.advance(10)
        row = await world.phone.handoff()
        assert (row.device_state, row.device_reason) == ("needs_handoff", "person")


@pytest.mark.parametrize("rule", [53003, 50076])
async def test_a_grant_that_waits_for_the_person_asks_the_provider_slowly(rule: int) -> None:
    async with running() as world:
        await handed_over(world)
        await world.clock.advance(2 * 3_600)
        order(world, "policy", conditional_access=rule)
        await world.watch.token(timeout_s=5.0)
        asked = len(world.watch.http.requests)
        for hours, times in ((0.9, 0), (0.3, 1), (1.7, 1), (0.5, 2), (20, 5)):  # after 1, 2, 4, 6, 6 hours
            await world.clock.advance(hours * 3_600)
            refused = await world.watch.token(timeout_s=5.0)
            assert isinstance(refused, TokenRefused) and refused.error == "reauth_required"
            assert "5" in refused.detail and len(world.watch.http.requests) == asked + times
        told = [row.detail for row in await world.watch.rows(AuditEvent) if row.name == "handoff_needed"]
        assert told == ["person"]  # the phone is not asked again and again
        order(world, "policy", conditional_access=None)
        await world.clock.advance(7 * 3_600)
        assert isinstance(await world.watch.token(), TokenGranted)
        assert (await world.watch.grant()).state == "held"


@pytest.mark.parametrize("rule", [53003, 50076])
async def test_a_new_handoff_repairs_it_once_the_rule_is_met(rule: int) -> None:
    async with running() as world:
        await handed_over(world)
        order(world, "policy", conditional_access=rule)
        await refreshed_later(world)
        order(world, "policy", conditional_access=None)
        await world.phone.sign_in()
        assert (await world.phone.hand_off()).state == "done"
        await world.clock.advance(2)
        assert isinstance(await world.watch.token(), TokenGranted)
        states = [row.state for row in await world.watch.rows(Grant)]
        assert states == ["held"]  # the older one is superseded


async def test_53003_leaves_the_present_access_token_to_its_end() -> None:
    async with running() as world:
        await handed_over(world)
        order(world, "policy", conditional_access=53003)
        await world.watch.token(force_refresh=True, timeout_s=5.0)
        assert (await world.watch.grant()).state == "needs_handoff"
        assert isinstance(await world.watch.token(), TokenGranted)


async def test_50142_a_password_that_must_change_waits_for_the_person() -> None:
    async with running() as world:
        await handed_over(world)
        order(world, "policy", conditional_access=50142)
        refused = await refreshed_later(world)
        assert isinstance(refused, TokenRefused) and refused.error == "reauth_required"
        assert await codes_of(world) == "person invalid_grant user_password_expired 50142"
