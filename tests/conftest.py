"""What the whole suite needs: the repository on the path, and one line for what this machine cannot run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # plain `pytest` adds each test's own directory only

PROGRAMS = ("mosquitto", "mosquitto_pub", "mosquitto_sub")
NEED_A_BROKER = ("tests/channel", "tests/chaos", "tests/e2e", "tests/certs/test_broker.py")
NEED_NONE = ("tests/channel/test_topics.py", "tests/channel/test_broker_decoder.py", "tests/chaos/test_chaos_plan.py")
WHY = "mosquitto is not installed: apt-get install mosquitto mosquitto-clients"
SKIPPED = pytest.StashKey[int]()


def is_installed(name: str) -> bool:
    """Whether Debian's program is there; sbin is not on every user's path."""
    return bool(shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, and count, what needs a real broker where there is none."""
    if all(map(is_installed, PROGRAMS)):
        return
    count = 0
    for item in items:
        place = item.path.relative_to(ROOT).as_posix()
        if place.startswith(NEED_A_BROKER) and place not in NEED_NONE:
            item.add_marker(pytest.mark.skip(reason=WHY))
            count += 1
    config.stash[SKIPPED] = count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was not run, and why."""
    count = terminalreporter.config.stash.get(SKIPPED, 0)
    if count:
        terminalreporter.write_line(f"not run: {count} tests, {WHY}", yellow=True)
