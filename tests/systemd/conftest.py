"""One line for what a machine without systemd's tools cannot run."""

from __future__ import annotations

import shutil

import pytest

WHY = "systemd-analyze is not installed: apt-get install systemd"
SKIPPED = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, and count, what asks systemd for its judgement where there is none."""
    asking = [item for item in items if item.get_closest_marker("asks_systemd")]
    if shutil.which("systemd-analyze") is None:
        for item in asking:
            item.add_marker(pytest.mark.skip(reason=WHY))
        config.stash[SKIPPED] = len(asking)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was not run, and why."""
    count = terminalreporter.config.stash.get(SKIPPED, 0)
    if count:
        terminalreporter.write_line(f"not run: {count} tests, {WHY}", yellow=True)
