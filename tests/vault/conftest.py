"""What the power-cut tests report at the end, and where they cannot run."""

from __future__ import annotations

import functools

import pytest

from .power import Tally, why_not

TALLY = pytest.StashKey[Tally]()
NEEDS_STRACE = "test_power_cut.py"
_why_not = functools.cache(why_not)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a recorder where there is none."""
    needy = [item for item in items if item.path.name == NEEDS_STRACE]
    if needy and (why := _why_not()):
        for item in needy:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Where a test notes what it has checked."""
    return request.config.stash.setdefault(TALLY, Tally())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many moments were checked."""
    for line in terminalreporter.config.stash.get(TALLY, Tally()).lines:
        terminalreporter.write_line(line)
