"""The provider cannot be reached: unasked attempts grow rare, but a program's request is tried at once."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from tests.agents.world_kit import World, running
from token_relay.agents.grants import schedule
from token_relay.agents.grants.pauses import Pause, shown_s
from token_relay.agents.ports import Now
from token_relay.agents.records import Grant
from token_relay.agents.token_source import TokenGranted, TokenRefused

pytestmark = pytest.mark.asyncio

HOUR = 3600.0
DAY = 24 * HOUR


async def weeks_without_the_provider(world: World) -> int:
    """Let the keep-alive of the phone's grant fall due while the provider is down; returns the attempts of ten days."""
    await world.clock.advance(35 * DAY)
    world.phone.http.cut()
    await world.clock.advance(11 * DAY)  # due between the 36th and the 45th day
    before = len(world.phone.http.requests)
    await world.clock.advance(10 * DAY)
    return len(world.phone.http.requests) - before


async def test_a_provider_that_is_away_for_weeks_costs_few_writes_a_day() -> None:
    async with running("entra") as world:
        tries = await weeks_without_the_provider(world)
        assert 4 * 10 <= tries <= 8 * 10 + 1  # every 3 to 6 hours
        (own,) = await world.phone.rows(Grant)
        assert own.state == "held"


async def test_a_program_that_asks_meanwhile_is_tried_for_within_15_minutes() -> None:
    async with running("entra") as world:
        await weeks_without_the_provider(world)
        keeper = world.phone.agent.keeper
        pause = keeper._pauses.get((await world.phone.one(Grant)).grant_id)
        assert pause is not None and pause.unasked_boot_s - pause.until_boot_s > HOUR
        await world.clock.advance(schedule.BACKOFF_S_MAX + 1)
        before = len(world.phone.http.requests)
        refused = await world.phone.token()
        assert isinstance(refused, TokenRefused) and refused.error == "offline"
        assert len(world.phone.http.requests) == before + 1
        assert refused.retry_after_s is not None and refused.retry_after_s <= schedule.BACKOFF_S_MAX
        world.phone.http.heal()
        await world.clock.advance(schedule.BACKOFF_S_MAX + 1)
        assert isinstance(await world.phone.token(), TokenGranted)


async def test_when_the_network_is_back_nothing_waits_for_hours() -> None:
    async with running("entra") as world:
        await weeks_without_the_provider(world)
        before = (await world.phone.one(Grant)).generation
        world.phone.http.heal()
        world.phone.agent.network_is_up()
        await world.clock.advance(5)
        assert (await world.phone.one(Grant)).generation == before + 1


async def test_what_the_provider_asks_for_is_waited_for_by_both() -> None:
    async with running("entra") as world:
        keeper, now = world.phone.agent.keeper, world.clock.now()
        keeper._pauses.fail("g", "down", 30 * HOUR)
        pause = keeper._pauses.get("g")
        assert pause is not None and pause.until_boot_s == pause.unasked_boot_s == now.boot_s + 30 * HOUR


@pytest.mark.parametrize("failures", range(1, 40))
async def test_the_unasked_pause_grows_to_six_hours_and_no_further(failures: int) -> None:
    low, high = (schedule.unasked_backoff_s(failures=failures, share=share) for share in (0.0, 1.0))
    assert low == high / 2 and high == min(2.0**failures, 6 * HOUR)
    assert high >= schedule.backoff_s(failures=failures, share=1.0, retry_after_s=None)


async def test_only_a_try_that_wrote_makes_what_nobody_asked_for_rarer() -> None:
    async with running("entra") as world:
        pauses, now = world.phone.agent.keeper._pauses, world.clock.now()
        for _ in range(9):
            pauses.fail("written", "down", None)
            pauses.fail("not written", "silent", None, is_written=False)
        written, unwritten = pauses.get("written"), pauses.get("not written")
        assert written is not None and written.unasked_boot_s >= now.boot_s + 256.0
        assert unwritten is not None and unwritten.unasked_boot_s == unwritten.until_boot_s


async def test_a_pause_that_does_not_wait_for_the_network_stays_when_it_is_back() -> None:
    async with running("entra") as world:
        pauses, now = world.phone.agent.keeper._pauses, world.clock.now()
        pauses.fail("network", "down", 60.0)
        pauses.fail("firm", "slow down", 60.0, is_firm=True)
        pauses.wait("wait", "no verdict", 60.0, action="hand off")
        world.phone.agent.network_is_up()
        assert [pauses.is_on(name, now) for name in ("network", "firm", "wait")] == [False, True, True]
        pause = pauses.get("wait")
        assert pause is not None and now.boot_s + 60.0 <= pause.until_boot_s <= now.boot_s + 66.0
        pauses.fail("wait", "down", None)  # counted from the start again
        after = pauses.get("wait")
        assert after is not None and after.failures == 1


async def test_a_paused_answer_says_when_it_was_tried_and_when_it_is_tried_next() -> None:
    async with running("entra") as world:
        await weeks_without_the_provider(world)
        await world.clock.advance(schedule.BACKOFF_S_MAX + 1)
        await world.phone.token()  # tried, in vain
        await world.clock.advance(6)
        before = len(world.phone.http.requests)
        refused = await world.phone.token()
        assert isinstance(refused, TokenRefused) and len(world.phone.http.requests) == before
        told = re.search(r" \(last tried 6 s ago, next try in (\d+ (?:s|min))\)$", refused.detail)
        assert told is not None and refused.action == f"ask again in {told[1]}"


async def test_the_owner_may_have_a_paused_provider_tried_at_once_and_the_pauses_still_grow() -> None:
    async with running("entra") as world:
        await world.phone.token()
        world.phone.http.cut()
        grant_id = (await world.phone.one(Grant)).grant_id
        lengths = []
        for _ in range(4):
            before = len(world.phone.http.requests)
            await world.phone.token(force_refresh=True)
            assert len(world.phone.http.requests) == before + 1
            pause = world.phone.agent.keeper._pauses.get(grant_id)
            assert pause is not None
            lengths.append(pause.failures)
        assert lengths == [1, 2, 3, 4]
        world.phone.agent.keeper._pauses.fail(grant_id, "busy", 60.0, is_firm=True)
        before = len(world.phone.http.requests)
        await world.phone.token(force_refresh=True)
        assert len(world.phone.http.requests) == before  # it is the provider that asked for this one


async def test_a_forced_try_is_made_although_time_passes_between_two_looks_at_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real clock has moved on by the next reading, where virtual time stands still."""
    async with running("entra") as world:
        clock, readings = world.phone.clock, itertools.count()
        still = clock.now
        monkeypatch.setattr(clock, "now", lambda: replace(still(), boot_s=still().boot_s + next(readings) * 1e-6))
        world.phone.http.cut()
        for _ in range(3):
            before = len(world.phone.http.requests)
            await world.phone.token(force_refresh=True)
            assert len(world.phone.http.requests) == before + 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (0.2, "1 s"), (119, "119 s"), (120, "2 min"), (121, "3 min"), (7199, "120 min"), (7201, "3 h")],
)
async def test_a_time_to_wait_is_rounded_up_so_that_who_waits_it_is_not_too_early(seconds: float, said: str) -> None:
    assert shown_s(seconds) == said


@pytest.mark.parametrize(
    ("age_s", "said"), [(3.0, "next try in 7 s"), (10.0, "the next question tries"), (12.0, "the next question tries")]
)
async def test_a_pause_that_is_over_names_no_time(age_s: float, said: str) -> None:
    pause = Pause(1, 100.0, 110.0, 110.0, "no network", "")
    assert f"last tried {shown_s(age_s)} ago, {said}" in pause.told(Now("boot", 100.0 + age_s, 0.0, True))
