"""A power cut at any moment of any commit leaves the state before it or the state after it, and a vault that opens.

A process commits a known sequence under strace. Its calls are replayed onto a model of a disk (``power.py``), and
the power goes after each of them: with everything on the disk, with any of the unsynced changes lost, with the last
write in part, zeroed or turned into noise. Once ``run`` has returned, only the state after will do.
"""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from token_relay.agents.ports import Record, Transaction
from token_relay.simulation.ports.memory_vault import MemoryVault
from token_relay.vault.errors import CorruptVaultError

from .power import Call, Disk, Image, Rename, Sync, Tally, Told, Unlink, Write, record, write_image
from .power_child import STEPS, TOLD, erase
from .samples import RECORDS, Counter, open_vault, raw

pytestmark = pytest.mark.asyncio

ERASING = STEPS.index(erase) + 1
CHILD = Path(__file__).with_name("power_child.py")
State = list[list[Record]]


def dump(tx: Transaction) -> State:
    return [tx.select(record) for record in RECORDS]


async def states() -> list[State]:
    """Return what is expected after each step: of the vault in memory, which shares no store with the other."""
    vault = MemoryVault(RECORDS)
    found = [await vault.run(dump)]
    for step in STEPS:
        await vault.run(step)
        found.append(await vault.run(dump))
    return found


@pytest.fixture
def quick_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: thousands of vaults are opened in it, and none has to last."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as directory:
        yield Path(directory)


@dataclass(slots=True)
class Finder:
    """Opens disks after a power cut, each different one once."""

    directory: Path
    seen: dict[bytes, State | None]
    refused: int = 0

    async def state_of(self, image: Image) -> State | None:
        """Return what the vault holds; None when it says that it is damaged. Another error is the test's failure."""
        digest = hashlib.blake2b()
        for name in sorted(image):
            digest.update(f"{name}:{len(image[name])}:".encode() + image[name])
        key = digest.digest()
        if key not in self.seen:
            self.seen[key] = await self._open(image)
        return self.seen[key]

    async def _open(self, image: Image) -> State | None:
        write_image(image, self.directory)
        try:
            async with open_vault(self.directory) as vault:
                found = await vault.run(dump)
                await vault.run(lambda tx: tx.put(Counter(99, 99)))  # and it goes on
                assert await vault.run(lambda tx: tx.get(Counter, 99)) == Counter(99, 99)
        except CorruptVaultError:
            self.refused += 1
            return None
        assert {file.name for file in self.directory.iterdir()} == {"vault.db", "vault.lock"}
        return found


def recorded(tmp_path: Path, what: str, image: Image | None = None) -> list[Call]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    write_image(image or {}, home)
    return record([sys.executable, str(CHILD), str(home), what], home, TOLD, tmp_path / "trace")


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


async def test_a_power_cut_while_a_journal_is_played_back_still_leaves_the_state_before(
    tmp_path: Path, quick_directory: Path, tally: Tally
) -> None:
    (tmp_path / "first").mkdir()
    calls = recorded(tmp_path / "first", "steps")
    expected = await states()
    disk, chance, hot = Disk(), random.Random(2), []
    for call in calls:  # the disks just before each journal is removed: the database is new, the journal whole
        if isinstance(call, Unlink) and call.name == "vault.db-journal":
            hot.append(next(disk.images(chance)))
        disk.apply(call)
    assert len(hot) == len(STEPS)
    boundaries, seen = 0, 0
    for number in (4, 7):  # of many pages; of an erased key
        finder = Finder(quick_directory, {})
        (tmp_path / str(number)).mkdir()
        recovery = recorded(tmp_path / str(number), "open", hot[number])
        assert any(isinstance(call, Write) and call.name == "vault.db" for call in recovery), "it was played back"
        disk = Disk(hot[number])
        for call in recovery:
            disk.apply(call)
            for image in disk.images(chance):
                assert await finder.state_of(image) == expected[number], str(call)[:80]
            boundaries += 1
        assert finder.refused == 0
        seen += len(finder.seen)
    tally.add(boundaries, seen, "of 2 recoveries")


async def test_the_search_notices_a_vault_that_does_not_sync(tmp_path: Path, quick_directory: Path) -> None:
    """The same calls without the syncs of the journal: were this not noticed, the tests above would show nothing."""
    calls = [call for call in recorded(tmp_path, "steps") if call != Sync("vault.db-journal")]
    expected = await states()
    disk, finder, chance = Disk(), Finder(quick_directory, {}), random.Random(3)
    returned, wrong = -1, 0
    for call in calls:
        disk.apply(call)
        returned += call == Told()
        if isinstance(call, Write) and call.name == "vault.db" and returned == 3:
            for image in disk.images(chance):
                wrong += await finder.state_of(image) not in expected[returned : returned + 2]
    assert wrong > 0


async def test_the_name_of_a_new_vault_is_synced_before_anything_is_told(tmp_path: Path) -> None:
    calls = recorded(tmp_path, "open")
    renamed = calls.index(Rename("vault.db.new", "vault.db"))
    assert renamed < calls.index(Sync(""), renamed) < calls.index(Told())
    assert calls.index(Sync("vault.db.new")) < renamed


async def test_a_key_that_was_erased_is_nowhere_on_the_disk_once_run_returned(tmp_path: Path) -> None:
    calls = recorded(tmp_path, "steps")
    disk, chance, told, wrapped = Disk(), random.Random(4), -1, b""
    for call in calls:
        disk.apply(call)
        told += call == Told()
        images = list(disk.images(chance)) if call == Told() else []
        if images and told == ERASING - 1:
            write_image(images[0], tmp_path / "home")
            connection = raw(tmp_path / "home")
            (wrapped,) = connection.execute("SELECT wrapped FROM data_keys WHERE name = 'g1'").fetchone()
            connection.close()
            assert any(wrapped in content for content in images[0].values()), "the search sees what is there"
        if images and told == ERASING:
            assert not any(wrapped in content for image in images for content in image.values())
            return
    pytest.fail("the erasing step was not reached")
