"""A power cut at any moment of any commit leaves the state before it or the state after it, and a vault that opens.

A process commits a known sequence under strace. Its calls are replayed onto a model of a disk (``power.py``), and
the power goes after each of them: with everything on the disk, with any of the unsynced changes lost, with the last
write in part, zeroed or turned into noise. Once ``run`` has returned, only the state after will do.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.vault.power import Disk, Tally, Told
from tests.vault.power_kit import Finder, recorded, states

pytestmark = pytest.mark.asyncio


async def test_a_power_cut_at_any_call_of_any_commit_leaves_the_state_before_or_after(
    tmp_path: Path, quick_directory: Path, tally: Tally
) -> None:
    calls = recorded(tmp_path, "steps")
    expected = await states()
    assert calls.count(Told()) == len(expected)
    disk, finder, chance = Disk(), Finder(quick_directory, {}), random.Random(1)
    returned, boundaries, both = -1, 0, set()
    for number, call in enumerate(calls):
        disk.apply(call)
        if call == Told():
            returned += 1
        allowed = expected[max(0, returned) : returned + 2]
        for image in disk.images(chance):
            state = await finder.state_of(image)
            assert state in allowed, f"call {number} of commit {returned + 1}, after {str(call)[:80]}"
            both.add((returned, expected.index(state)))
        boundaries += 1
    # both answers were seen for each commit: nothing of it on the disk, and all of it before run() returned
    assert both >= {(n, n) for n in range(len(expected))} | {(n, n + 1) for n in range(len(expected) - 1)}
    assert finder.refused == 0
    tally.add(boundaries, len(finder.seen), f"of {len(expected)} commits")
