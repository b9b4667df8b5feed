"""Links cut for a second in the middle of handoffs and refreshes, alone and together, in each way a link can die."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.chaos.linked import linked
from tests.chaos.victims import Target, grants_on_disk
from tests.e2e.kit import World, eventually
from tests.watchdog import HANG_S
from token_relay.sandbox.links.orders import LINK_NAMES, How

pytestmark = pytest.mark.asyncio

CUT_S = 1.0
SOON_S_MAX = 0.15  # a handoff takes some 50 ms after its command has arrived
CUTS: list[tuple[tuple[str, ...], How]] = [
    (("phone-broker",), "refuse"),
    (("companion-broker",), "drop"),
    (("phone-provider",), "blackhole"),
    (("companion-provider",), "drop"),
    (("phone-provider", "companion-provider"), "refuse"),
    (LINK_NAMES, "drop"),
]


async def test_handoffs_and_refreshes_come_about_whatever_link_was_cut_meanwhile() -> None:
    random = Random(7)
    async with World("entra", "mosquitto", 1.0) as world, linked(world) as (network, phone, watch):
        app = Target(watch, phone)
        for number, (names, how) in enumerate(CUTS, 1):
            (await phone("handoff", "watch", "--wait", "0")).expect(6)
            await asyncio.sleep(random.uniform(0.0, SOON_S_MAX))
            network.cut(*names, how=how)
            await app.ask()  # answered, whatever the answer
            await asyncio.sleep(CUT_S)
            network.heal()

            async def is_done(count: int = number) -> bool:
                rows = await phone.handoffs(watch)
                return len(rows) == min(count, 5) and rows[-1]["state"] == "done"

            await eventually(f"the handoff is done, after {names}", is_done, within_s=HANG_S)
            generation = (await watch.grant())["generation"]
            await app.comes_back(beyond=generation)
            (held,) = grants_on_disk(watch.home)
            assert held.generation > generation
        assert await world.sandbox.count("reuse_detected") == 0


@pytest.mark.parametrize("how", ["refuse", "drop"])
async def test_refresh_on_a_link_that_dies_under_it_is_repaired_inside_the_leeway(how: How) -> None:
    async with World("auth0", "mosquitto") as world, linked(world) as (network, phone, watch):
        await phone.hand_off(watch)
        await watch.until_generation(2)
        app = Target(watch, phone)
        mark = await world.sandbox.hold_refresh("after_commit")
        asking = asyncio.create_task(app.ask(force=True))
        await world.sandbox.held(mark)
        network.cut("companion-provider", how=how)
        await world.sandbox.release()
        await asyncio.sleep(CUT_S)
        network.heal()
        assert await app.comes_back(beyond=2)
        await asking
        assert await world.sandbox.count("reuse_detected") == 0
