"""The phone killed in the middle of a handoff, between each pair of its steps: one grant comes of it, always.

The steps show in the phone's log and in the provider's events; a kill comes as soon as one is seen, or a moment later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.chaos.victims import grants_on_disk
from tests.e2e.kit import Companion, Phone, Program, World, eventually, ready

pytestmark = pytest.mark.asyncio

LATER_S_MAX = 0.02  # the next step is a commit and a message away
STEPS = {
    "branch": ("handoff_offered", "before_commit", "after_commit", "handoff_released", "handoff_done"),
    "mint": ("handoff_offered", "asked", "before_commit", "after_commit", "handoff_released", "handoff_done"),
    "move": ("handoff_offered", "handoff_released", "handoff_done"),
}


@pytest.mark.parametrize(("profile", "strategy"), [("entra", "branch"), ("auth0", "mint"), ("strict", "move")])
async def test_phone_killed_between_any_two_steps_of_a_handoff_neither_loses_nor_doubles_a_grant(
    profile: str, strategy: str
) -> None:
    random = Random(f"{profile} {strategy}")
    async with World(profile, "mosquitto") as world:
        phone, watch = await ready(world)
        for number, step in enumerate(STEPS[strategy]):
            if number and strategy == "move":  # the phone gave its grant away in the round before
                await phone.sign_in()
            orphans = (await phone.status())["orphans"]
            async with begun(phone, strategy, step):
                await asyncio.sleep(random.choice((0.0, random.uniform(0.0, LATER_S_MAX))))
                await phone.kill()
            await world.sandbox.release()
            await phone.run()
            await ends_with_one_grant(phone, watch, strategy)
            left = (await phone.status())["orphans"] - orphans
            # a token that the provider may have given and nobody holds: a phone that was killed while it obtained one
            # cannot know, and says so
            assert left <= (0 if step in ("handoff_released", "handoff_done") else 1), step
        assert await world.sandbox.count("reuse_detected") == 0


@contextlib.asynccontextmanager
async def begun(phone: Phone, strategy: str, step: str) -> AsyncIterator[None]:
    """Begin a handoff, and go on when the phone has come to this step."""
    sandbox = phone.world.sandbox
    seen = len([event for event in phone.running.events() if event["event"] == step])
    mark = await sandbox.mark()
    if step in ("before_commit", "after_commit"):
        grant_type = "refresh_token" if strategy == "branch" else "authorization_code"
        mark = await sandbox.fault(f"hold_{step}", endpoint="token", grant_type=grant_type)
    words = ["handoff", "watch", "--strategy", strategy, "--wait", "20"]
    if strategy == "mint":
        words += ["--browser", "--no-open"]
    asking = await phone.begin(*words)
    person = asyncio.ensure_future(sign_in(phone, asking, strategy, step))
    try:
        if step in ("before_commit", "after_commit"):
            await sandbox.held(mark)
        elif step == "asked":
            await person
        else:
            await phone.running.logged(step, count=seen + 1)
        yield
    finally:
        person.cancel()
        await asyncio.gather(person, return_exceptions=True)
        await asking.ended()


async def sign_in(phone: Phone, asking: Program, strategy: str, step: str) -> None:
    """Be the person at the browser; the page's last answer may come from a phone that is dead by then."""
    if strategy != "mint" or step == "handoff_offered":
        return
    url = (await asking.find(r"^(?:open in a browser: )?(https?://\S+)$"))[1]
    if step != "asked":
        with contextlib.suppress(OSError):
            await phone.world.sandbox.fill_in_form(url, "password@contoso.example", "correct-horse-7-battery")


async def ends_with_one_grant(phone: Phone, watch: Companion, strategy: str) -> None:
    """Wait until the newest handoff is done, helping as its status asks, and look at who holds what."""

    async def settled() -> bool:
        (*_, row) = await phone.handoffs(watch)
        if row["state"] == "done":
            return True
        if strategy == "mint" and await phone.action() == "finish_handoff":
            await phone.hand_off(watch)
        return False

    await eventually("the handoff is done", settled)
    await watch.until_generation(2)
    await watch.gets_in("--force-refresh")
    held = [row for row in (await watch.status())["grants"] if row["state"] != "dead"]
    assert [row["state"] for row in held] == ["held"]
    open_rows = [row for row in await phone.handoffs(watch) if row["state"] in ("offered", "released", "cancelling")]
    assert open_rows == []
    if strategy == "move":
        (await phone("token")).expect(4)
    else:
        await phone.gets_in("--force-refresh")
    assert len(grants_on_disk(watch.home)) == 1
