"""What the power-cut tests report at the end, and where they cannot run."""

from __future__ import annotations

import functools

import pytest

from .power import Tally, why_not

TALLY = pytest.StashKey[Tally]()
NEEDS_STRACE = "test_power_cut.py"
SKIPPED = pytest.StashKey[int]()
_why_not = functools.cache(why_not)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, and count, what needs a recorder where there is none."""
    needy = [item for item in items if item.path.name == NEEDS_STRACE]
    if needy and (why := _why_not()):
        for item in needy:
            item.add_marker(pytest.mark.skip(reason=why))
        config.stash[SKIPPED] = len(needy)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Where a test notes what it has checked."""
    return request.config.stash.setdefault(TALLY, Tally())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many moments were checked, or in one line what was not run, and why."""
    stash = terminalreporter.config.stash
    for line in stash.get(TALLY, Tally()).lines:
        terminalreporter.write_line(line)
    if count := stash.get(SKIPPED, 0):
        terminalreporter.write_line(f"not run: {count} tests, {_why_not()}", yellow=True)
