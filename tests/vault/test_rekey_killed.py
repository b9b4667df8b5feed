"""Killed at any step of a change of the key, a vault opens with the key that the configuration names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kills import KILLED, nursery
from tests.vault.light_stretching import light
from tests.vault.rekey_kit import make_home, move, passphrase, records
from token_relay.vault import keys
from token_relay.vault import rekey as copies

CHILD = Path(__file__).with_name("rekey_child.py")
KILLS_MAX = 60  # more changes of the disk than one change of the key has


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
    with nursery(home, target, *([new.file] if target == "passphrase" else []), program=CHILD) as end_of:
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
