"""kill -9 while the agents refresh every second or two; the default size of ``make chaos``, one test a profile.

Where kills hit depends on the machine's load; what may come of them does not: see :mod:`tests.chaos.plan`.
"""

from __future__ import annotations

import json
from random import Random

import pytest

from tests.chaos.cell import Cell
from tests.chaos.plan import PROFILES, Profile, Shot, Tally, report
from tests.chaos.run import N_DEFAULT, run_kills

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("profile", PROFILES)
async def test_kills_lose_no_grant_but_those_that_could_end_another(profile: Profile) -> None:
    seed = Random().randrange(2**32)
    tally = Tally()
    await run_kills(profile, N_DEFAULT, seed=seed, cells=3, tally=tally, done=lambda kill: None)
    found = report(tally, seed=seed, took_s=0.0)
    print(json.dumps({key: value for key, value in found.items() if key != "kills"}, indent=1))
    assert len(tally.kills) == N_DEFAULT
    assert tally.verdict() == []
    hits = found["total"]["hits"]
    assert min(hits["before_commit"], hits["after_commit"]) > 0, hits  # the provider waits there for the kill
    assert bool(found["total"]["lost"]) is (profile == "strict")
    assert found["total"]["reuses"] <= hits["page"]


async def test_run_would_notice_a_grant_that_is_lost_where_none_may_be() -> None:
    """A provider that promises a leeway and has none: the companion cannot repair what the kill cost."""
    async with Cell("auth0", Random(1)) as cell:
        await cell.world.sandbox.control("POST", "policy", {"leeway_s": 0.0})
        tally = Tally()
        tally.add(await cell.kill_once("companion", Shot("before_commit", 0.0)))
        assert tally.problems == []
        tally.add(await cell.kill_once("companion", Shot("after_commit", 0.0)))
        assert [problem.split(":")[1].strip() for problem in tally.problems] == [
            "a grant was lost",
            "the provider saw 1 reuses, 0 were due",
        ]
        assert tally.kills[-1].plain and tally.kills[-1].healings == 1


@pytest.mark.parametrize("is_committed", [False, True])
async def test_a_page_and_a_kill_cost_a_strict_grant_only_what_the_provider_has_spent(is_committed: bool) -> None:
    async with Cell("strict", Random(1)) as cell:
        tally = Tally()
        tally.add(await cell.kill_once("companion", Shot("page", 0.5, "error_502", is_committed)))
        assert tally.problems == []
        (kill,) = tally.kills
        assert (kill.state, kill.hit) == ("uncertain", "page")
        assert (kill.lost, kill.reuses, kill.unstored) == ((True, 1, 1) if is_committed else (False, 0, 0))
