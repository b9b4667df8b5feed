"""What a phone forgets of handoffs that are over, and what it never forgets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.test_estranged import here
from tests.agents.world_kit import World, running
from token_relay.agents.records import Pairing, PhoneHandoff
from token_relay.service.status import phone_status

pytestmark = pytest.mark.asyncio

DAY = 24 * 3600.0


async def states(world: World) -> list[tuple[str, str]]:
    return sorted((row.state, row.reason) for row in await world.phone.rows(PhoneHandoff))


async def test_handoffs_of_a_deleted_pairing_are_forgotten_a_month_later() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.phone.hand_off()
        await world.phone.forget()
        assert await world.phone.rows(Pairing) == []
        await world.clock.advance(29 * DAY)
        assert await states(world) == [("gone", "forgotten"), ("gone", "superseded")]
        await world.clock.advance(2 * DAY)
        assert await states(world) == []


@pytest.mark.parametrize(
    ("changes", "is_synced"),
    [({"orphans": 1}, True), ({"state": "done"}, True), ({}, False)],
    ids=["an orphan", "live", "no clock"],
)
async def test_what_somebody_may_still_want_to_know_is_kept(changes: dict[str, Any], is_synced: bool) -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.phone.forget()
        await world.phone.edit(await world.phone.handoff(), **changes)
        if not is_synced:
            world.clock.lose_sync()
        await world.clock.advance(40 * DAY)
        assert len(await world.phone.rows(PhoneHandoff)) == 1
        status = phone_status(
            here(world.phone),
            world.phone.clock.now(),
            pairings=[],
            outbox=[],
            handoffs=await world.phone.rows(PhoneHandoff),
            grants=[],
            tokens=[],
            problems={},
            allow_refresh_token_access=True,
        )
        assert status["orphans"] == changes.get("orphans", 0)


async def test_while_the_pairing_lives_nothing_is_forgotten() -> None:
    """A companion that is restored to an image from before REVOKE is told again, however late."""
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(10)
        image = world.watch.image()
        await world.within(world.phone.agent.revoke("watch", wait_s=10))
        await world.clock.advance(400 * DAY)
        assert await states(world) == [("gone", "revoked")]
        await world.watch.restore(image)
        await world.watch.start()
        await world.clock.advance(60)
        assert (await world.watch.grant()).refresh_token is None
