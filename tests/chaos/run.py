"""One profile's kills, spread over cells that run at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from tests.chaos.cell import Cell
from tests.chaos.plan import Kill, Profile, Tally

N_DEFAULT = 68  # per profile: some 200 in all
PHONE_SHARE = 4  # one kill of so many is the phone's


async def run_kills(
    profile: Profile, kills: int, *, seed: int, cells: int, tally: Tally, done: Callable[[Kill], None]
) -> None:
    """Kill so many times in all, and put every kill into the tally.

    Raises:
        ExceptionGroup: of AssertionError, when a cell came to its end in another way than planned.
    """
    async with asyncio.TaskGroup() as tasks:
        for number in range(min(cells, kills)):
            share = kills // cells + (number < kills % cells)
            tasks.create_task(_run_cell(profile, share, Random(f"{seed} {profile} {number}"), tally, done))


async def _run_cell(profile: Profile, kills: int, random: Random, tally: Tally, done: Callable[[Kill], None]) -> None:
    of_phone = kills // PHONE_SHARE
    async with Cell(profile, random) as cell:
        await cell.kill_often("companion", kills - of_phone, tally, done)
        await cell.kill_often("phone", of_phone, tally, done)
