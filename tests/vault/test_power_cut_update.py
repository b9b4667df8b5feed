"""A power cut at any call of an update leaves a vault that the newer program opens, with every row.

The update of ``test_schema.py``, two steps in one start, recorded and replayed as in ``test_power_cut.py``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.vault.make_homes import plain
from tests.vault.power import Disk, Tally, Told, record, write_image
from tests.vault.power_child import TOLD
from tests.vault.test_old_homes import HOMES, everything, placed
from tests.vault.test_schema import make_first, opened, read, rows_of, version_in
from token_relay.agents.records import RECORDS
from token_relay.vault.keys import KeyFile
from token_relay.vault.schema import version_of
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

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


AGENTS_UPDATE = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.vault.test_power_cut_update import of_agent
of_agent(Path(sys.argv[2])).close_now()
os.write(1, sys.argv[3].encode())
"""


def of_agent(home: Path) -> SqliteVault:
    """Open as an agent does, which updates."""
    return SqliteVault.open(home / "vault.db", KeyFile(home / "vault.key").load(), RECORDS, STEPS, create=False)


@pytest.mark.parametrize(("version", "end"), [(version_of(STEPS) - 1, "companion"), (version_of(STEPS) - 1, "phone")])
async def test_a_power_cut_at_any_call_of_the_agents_own_update_leaves_every_row(
    version: int, end: str, tmp_path: Path, quick_directory: Path, tally: Tally
) -> None:
    """The rows of both ends get other keys and other data keys in one step: none is lost, none opens twice."""
    home = placed(HOMES / f"v{version}" / f"{end}-file", tmp_path)
    image = {name: (home / name).read_bytes() for name in ("vault.db", "vault.key")}
    root = str(Path(__file__).resolve().parents[2])
    calls = record(
        [sys.executable, "-c", AGENTS_UPDATE, root, str(home), TOLD.decode()], home, TOLD, tmp_path / "trace"
    )
    async with of_agent(home) as vault:
        whole = await vault.run(everything)
    disk, chance, seen, found = Disk(image), random.Random(7), set(), set()
    for call in calls:
        disk.apply(call)
        for left in disk.images(chance):
            key = tuple(sorted(left.items()))
            if key in seen:
                continue
            seen.add(key)
            write_image(left, quick_directory)
            async with of_agent(quick_directory) as vault:
                found.add(vault.found_version)
                assert list(map(plain, await vault.run(everything))) == list(map(plain, whole)), str(call)[:80]
    assert {version, version_of(STEPS)} <= found
    tally.add(len(calls), len(seen), f"of the update of a {end} from version {version}")
