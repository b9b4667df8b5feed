"""What the power-cut tests report at the end, and where they cannot run."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vault.power import Tally, why_not

MOMENTS = "moments"
NEED_STRACE = ("test_power_cut.py", "test_power_cut_journal.py", "test_power_cut_update.py")
_why_not = functools.cache(why_not)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a recorder where there is none."""
    needy = [item for item in items if item.path.name in NEED_STRACE]
    if needy and (why := _why_not()):
        for item in needy:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def quick_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: thousands of vaults are opened in it, and none has to last."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as directory:
        yield Path(directory)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Where a test notes what it has checked."""
    noted = Tally()
    yield noted
    request.node.user_properties += [(MOMENTS, line) for line in noted.lines]  # these travel from a worker


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many moments were checked."""
    for report in terminalreporter.stats.get("", ()):
        for name, line in report.user_properties:
            if name == MOMENTS and report.when == "teardown":
                terminalreporter.write_line(line)
