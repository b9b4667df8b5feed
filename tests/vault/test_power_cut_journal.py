"""More of ``test_power_cut.py``: recoveries that are cut, the search itself, names, and erased keys."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.vault.power import Disk, Rename, Sync, Tally, Told, Unlink, Write, write_image
from tests.vault.power_child import STEPS
from tests.vault.power_kit import ERASING, Finder, recorded, states
from tests.vault.samples import raw

pytestmark = pytest.mark.asyncio


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
