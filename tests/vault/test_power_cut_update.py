"""A power cut at any call of an update leaves a vault that the newer program opens, with every row.

The update of ``test_schema.py``, two steps in one start, recorded and replayed as in ``test_power_cut.py``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.vault.power import Disk, Tally, Told, record, write_image
from tests.vault.power_child import TOLD
from tests.vault.test_schema import make_first, opened, read, rows_of, version_in

pytestmark = pytest.mark.asyncio

UPDATE = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.vault.test_schema import opened
opened(Path(sys.argv[2]), 3).close_now()
os.write(1, sys.argv[3].encode())
"""


async def test_a_power_cut_at_any_call_of_an_update_leaves_every_row(
    tmp_path: Path, quick_directory: Path, tally: Tally
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    await make_first(home)
    image = {"vault.db": (home / "vault.db").read_bytes()}
    write_image(image, home)
    root = str(Path(__file__).resolve().parents[2])
    calls = record([sys.executable, "-c", UPDATE, root, str(home), TOLD.decode()], home, TOLD, tmp_path / "trace")
    disk, chance, seen, found = Disk(image), random.Random(5), set(), set()
    is_told = False
    for call in calls:
        disk.apply(call)
        is_told = is_told or call == Told()
        for left in disk.images(chance):
            key = tuple(sorted(left.items()))
            if key in seen:
                continue
            seen.add(key)
            write_image(left, quick_directory)
            async with opened(quick_directory, 3) as vault:
                found.add(vault.found_version)
                assert not is_told or vault.found_version == 3
            assert await read(quick_directory, 3) == rows_of(3), str(call)[:80]
            assert version_in(quick_directory) == 3
    assert found == {1, 2, 3}
    tally.add(len(calls), len(seen), "of an update")
