"""mosquitto with its default settings, killed at random moments: it forgets everything, and nothing is lost end to end.

The two vaults are the truth and the broker a hint: what was not answered is sent again at the next connection.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from tests.chaos.forgetful import ForgetfulWorld
from tests.chaos.victims import grants_on_disk
from tests.e2e.kit import Companion, Phone, eventually, ready
from tests.watchdog import HANG_S

pytestmark = pytest.mark.asyncio

ROUNDS = 2  # each kill doubles the pause before the agents connect again, until a minute has gone well
SOON_S_MAX = 0.15  # a handoff takes some 50 ms, most of it the provider's; a revocation 20


@pytest.mark.parametrize("seed", [1, 2])
async def test_handoffs_and_revocations_come_about_over_a_broker_that_is_killed_and_forgets(seed: int) -> None:
    random = Random(seed)
    async with ForgetfulWorld("entra", "mosquitto") as world:
        phone, watch = await ready(world)
        for _ in range(ROUNDS):
            (await phone("handoff", "watch", "--wait", "0")).expect(6)
            await asyncio.sleep(random.uniform(0.0, SOON_S_MAX))
            await world.forget()
            await until_row(phone, watch, "done")
            await watch.until_generation(2)
            await watch.gets_in("--force-refresh")
            revoking = await phone.begin("revoke", "watch", "--yes", "--wait", "0")
            await asyncio.sleep(random.uniform(0.3, 0.3 + SOON_S_MAX))  # the command has to start first
            await world.forget()
            assert (await revoking.ended()).code in (0, 6)
            await until_row(phone, watch, "gone")
            assert (await watch.action()) == "hand_off_again"
            assert grants_on_disk(watch.home) == []
            row = (await phone.handoffs(watch))[-1]
            assert row["device_confirmed"] is True
        assert await world.sandbox.count("reuse_detected") == 0


async def test_what_waits_in_the_queues_of_a_broker_that_forgets_is_sent_again() -> None:
    """Each end away in turn, so that only the broker has the message when it is killed."""
    async with ForgetfulWorld("entra", "mosquitto") as world:
        phone, watch = await ready(world)
        await watch.kill()
        (await phone("handoff", "watch", "--wait", "0")).expect(6)  # OFFER waits for the companion
        await world.forget()
        await phone.until("connected again", lambda s: s["broker"]["connected"])
        await watch.run()
        await phone.running.logged("handoff_released")
        await until_row(phone, watch, "done")
        await watch.kill()
        (await phone("revoke", "watch", "--yes", "--wait", "0")).expect(6)  # REVOKE waits for the companion
        await phone.kill()
        await world.forget()
        await asyncio.gather(phone.run(), watch.run())
        await until_row(phone, watch, "gone")
        assert grants_on_disk(watch.home) == []


async def until_row(phone: Phone, watch: Companion, state: str) -> dict[str, Any]:
    """Wait until the newest handoff is in this state."""

    async def look() -> dict[str, Any] | None:
        row = (await phone.handoffs(watch))[-1]
        return row if row["state"] == state else None

    return await eventually(f"the handoff is {state}", look, within_s=HANG_S)
