"""Says in one line what this run could not check: some promises need root, to become another uid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sockets_kit import short_directory

_not_run: list[str] = []


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for sockets."""
    with short_directory() as path:
        yield path


@pytest.fixture
def other_uid(request: pytest.FixtureRequest) -> int:
    """A uid that is neither ours nor root's; only root can become it."""
    if os.geteuid() != 0:
        _not_run.append(request.node.name)
        pytest.skip("needs root to become another uid")
    return 4711


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _not_run:
        terminalreporter.write_line(f"sockets: {len(_not_run)} tests about other uids not run (need root)")
