"""Killed at any step of a change of the key, a vault opens with the key that the configuration names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vault.light_stretching import light
from tests.vault.rekey_kit import make_home, move, passphrase, records
from tests.watchdog import HANG_S
from token_relay.vault import keys
from token_relay.vault import rekey as copies

CHILD = Path(__file__).with_name("rekey_child.py")
KILLED = 9
KILLS_MAX = 60  # more changes of the disk than one change of the key has


@contextmanager
def nursery(*words: object) -> Iterator[Callable[[int], int]]:
    """Yield what starts a process that is killed before its n-th change, and returns how it ended."""
    command = [sys.executable, str(CHILD), *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        numbers, ends = process.stdin, process.stdout
        assert numbers is not None and ends is not None

        def end_of(number: int) -> int:
            numbers.write(f"{number}\n")
            numbers.flush()
            return int(ends.readline())

        yield end_of
        numbers.close()
        assert process.wait(HANG_S) == 0


@pytest.mark.parametrize("way", ["file to file", "passphrase to passphrase"])
def test_killed_at_any_step_the_vault_opens_with_the_configured_key(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_stretch", light)
    home = tmp_path / "home"
    before = make_home(home)
    if way.startswith("passphrase"):
        move(home, passphrase(tmp_path))
    image = tmp_path / "image"
    home.rename(image)
    target = "file" if way.endswith("file") else "passphrase"
    new = passphrase(tmp_path, "another four words, longer")
    kills = finished_early = 0
    with nursery(home, target, str(new.file)) as end_of:
        for number in range(1, KILLS_MAX):
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(image, home)
            code = end_of(number)
            assert code in (0, KILLED)
            finished_early += (home / "config.toml").read_text() != (image / "config.toml").read_text()
            assert records(home) == before, f"killed before change {number}"
            assert not copies.has_copy(home)
            if code == 0:
                break
            kills += 1
    assert kills >= 10
    assert finished_early >= 3, "some kills fall after the configuration was written"
