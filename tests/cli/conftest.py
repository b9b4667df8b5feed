"""Fixtures of the command line's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.cli.cli_kit import Agent, Shell
from token_relay.host import mounts


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Keep the agent's log out of the output that these tests read."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    table = tmp_path / "mountinfo-of-a-disk"  # whatever the tests' own directory lies on
    table.write_text("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", table)
    return Shell(monkeypatch, {"HOME": str(tmp_path / "user"), "COLUMNS": "100"})


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's: unix(7) allows 107 bytes, pytest's own are long."""
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def agent(short_path: Path) -> Agent:
    directory = short_path / "agent"
    directory.mkdir(mode=0o700)
    return Agent(directory)
