"""Killed at any step of a change of the key, a vault opens with the configured key, and no other key is left."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kills import KILLED, nursery
from tests.vault.light_stretching import light
from tests.vault.rekey_kit import make_home, move, passphrase, records
from token_relay.service.rekey import ToFile
from token_relay.vault import keys

CHILD = Path(__file__).with_name("rekey_child.py")
KILLS_MAX = 60  # more changes of the disk than one change of the key has


@dataclass(frozen=True)
class Way:
    """A change of the key; ``before`` makes the home's first key another one."""

    target: str
    before: str = "vault.key"
    file: str = ""


WAYS = {
    "file to file": Way("file"),
    "passphrase to passphrase": Way("passphrase", before="passphrase"),
    "file of another name to a file elsewhere": Way("file", before="mine.key", file="elsewhere.key"),
}


def key_files(directory: Path) -> list[Path]:
    """Return what holds a key or tells one, wherever it lies."""
    return sorted(path for path in directory.rglob("*") if path.suffix in (".key", ".kdf") or "rekey" in path.name)


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_any_step_the_vault_opens_with_the_configured_key_and_no_other_is_left(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_stretch", light)
    case, work = WAYS[way], tmp_path / "work"
    work.mkdir()
    home = work / "home"
    before = make_home(home)
    first = passphrase(tmp_path) if case.before == "passphrase" else ToFile(home / case.before)
    if case.before != "vault.key":
        move(home, first)
    work.rename(tmp_path / "image")
    new = passphrase(tmp_path, "another four words, longer").file if case.target == "passphrase" else None
    file = work / case.file if case.file else new
    kills = finished_early = left = 0
    with nursery(home, case.target, *filter(None, [file]), program=CHILD) as end_of:
        for number in range(1, KILLS_MAX):
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(tmp_path / "image", work)
            code = end_of(number)
            assert code in (0, KILLED)
            left += len(key_files(work)) > 1
            text = (home / "config.toml").read_text()
            finished_early += text != (tmp_path / "image/home/config.toml").read_text()
            assert records(home) == before, f"killed before change {number}"
            (only,) = key_files(work)
            assert only.name == "vault.kdf" if case.target == "passphrase" else only.suffix == ".key"
            if code == 0:
                break
            kills += 1
    assert kills >= 10
    assert left >= 3
    assert finished_early >= 3, "some kills fall after the configuration was written"
