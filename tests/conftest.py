"""What the whole suite needs: the repository on the path, and a list of whatever this machine cannot run."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # plain `pytest` adds each test's own directory only

from tests import needs  # noqa: E402

WORLD = ROOT / "tests" / "world"
NEED_A_BROKER = (
    "tests/channel",
    "tests/chaos",
    "tests/e2e",
    "tests/pages/",
    "tests/certs/test_broker.py",
    "tests/providers",
    "tests/wrong_steps/test_wrong_owner.py",
    "tests/wrong_steps/test_wrong_usage.py",
    "tests/world/test_versions_of_ends.py",
)
NEED_NONE = ("tests/channel/test_topics.py", "tests/channel/test_broker_decoder.py", "tests/chaos/test_chaos_plan.py")

# A shell without job control starts `... &` with SIGINT ignored, and children inherit that. The programs that tests
# interrupt are started as from a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tests of programs that others wrote and that only another environment has."""
    parser.addoption("--world", action="store_true", help="collect tests/world too, as `make test-world` does")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the world out where nobody has asked for it: what it imports is not here."""
    return True if collection_path == WORLD and not config.getoption("--world", default=False) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a real broker where there is none."""
    why = needs.missing("mosquitto", "mosquitto_pub", "mosquitto_sub")
    if not why:
        return
    for item in items:
        place = item.nodeid.partition("::")[0]
        if place.startswith(NEED_A_BROKER) and place not in NEED_NONE:
            item.add_marker(pytest.mark.skip(reason=why))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not run: each reason with the count, and below it the names. No skip is silent."""
    tests: defaultdict[str, list[str]] = defaultdict(list)
    modules: defaultdict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        found = modules if isinstance(report, pytest.CollectReport) else tests  # a module skips itself as a whole
        found[reason.removeprefix("Skipped: ")].append(report.nodeid)
    for by_reason, what in ((tests, "tests"), (modules, "whole modules")):
        for reason, names in by_reason.items():
            terminalreporter.write_line(f"not run: {len(names)} {what}, {reason}", yellow=True)
            for name, count in Counter(name.partition("[")[0] for name in names).items():
                terminalreporter.write_line(f"    {name}{f' ({count})' if count > 1 else ''}")
    if terminalreporter.stats.get("skipped") and _is_ci():
        terminalreporter.write_line("CI=true: what was not run fails the run", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing may be left out."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if _is_ci() and reporter is not None and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_ci() -> bool:
    return os.environ.get("CI") == "true"
