"""What the whole suite needs: the repository on the path, and a line for whatever this machine cannot run."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # plain `pytest` adds each test's own directory only

PROGRAMS = ("mosquitto", "mosquitto_pub", "mosquitto_sub")
NEED_A_BROKER = ("tests/channel", "tests/chaos", "tests/e2e", "tests/certs/test_broker.py")
NEED_NONE = ("tests/channel/test_topics.py", "tests/channel/test_broker_decoder.py", "tests/chaos/test_chaos_plan.py")
WHY = "mosquitto is not installed: apt-get install mosquitto mosquitto-clients"


def is_installed(name: str) -> bool:
    """Whether Debian's program is there; sbin is not on every user's path."""
    return bool(shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a real broker where there is none."""
    if all(map(is_installed, PROGRAMS)):
        return
    for item in items:
        place = item.nodeid.partition("::")[0]
        if place.startswith(NEED_A_BROKER) and place not in NEED_NONE:
            item.add_marker(pytest.mark.skip(reason=WHY))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not run: one line for each reason, with the count. No skip is silent."""
    tests: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        counter = modules if isinstance(report, pytest.CollectReport) else tests  # a module skips itself as a whole
        counter[reason.removeprefix("Skipped: ")] += 1
    for counter, what in ((tests, "tests"), (modules, "whole modules")):
        for reason, count in counter.items():
            terminalreporter.write_line(f"not run: {count} {what}, {reason}", yellow=True)
