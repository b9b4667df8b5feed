"""A pytest plugin for whole runs: slow files first, how many tests there are, and what they have left out.

``-p tests.suite``. The number collected may not be below the one in ``floor.toml``: a test that is no longer found
fails the run as one that fails does, and so does a refusal of the source that no test has met (``tests/refusals.py``).
A part of the suite (files, ``-k``, ``-m``) is no whole run and is not held to it.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from tests import refusals

TESTS = Path(__file__).parent
FLOOR = TESTS / "floor.toml"
SLOWEST = 10

# With several workers, what takes long must not begin last. Folders and files that start processes, the slowest first;
# the order of everything else is pytest's own.
DEAR = (
    "chaos",
    "providers",
    "e2e",
    "wrong_steps",
    "demo",
    "pages",
    "docs/test_testing_page.py",
    "vault",
    "exhaustive",
    "bench",
    "simulation",
    "systemd",
    "auth0_js",
    "sdk_js",
    "web_js",
    "pages_world",
    "pages_core/test_live_module.py",
    "certs",
    "docs",
    "sandbox/test_transfer_actions.py",
    "provider/test_native_fuzz.py",
)


def floor() -> dict[str, int | dict[str, int]]:
    """Return the least numbers of tests and histories."""
    return tomllib.loads(FLOOR.read_text())


def dearness(path: Path) -> int:
    """Return the place of a file in the order of a run."""
    name = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
    return next((at for at, dear in enumerate(DEAR) if name == dear or name.startswith(f"{dear}/")), len(DEAR))


class Suite:
    """What is counted while the tests run; with xdist in the process that runs none."""

    def __init__(self) -> None:
        self.collected = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.unmet: list[refusals.Refusal] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Put the slow ones first; the sort is stable."""
        items.sort(key=lambda item: dearness(item.path))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count without xdist."""
        self.collected = max(self.collected, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """Count with xdist: every worker has collected all."""
        self.collected = max(self.collected, len(ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sum up by file."""
        self.seconds[report.nodeid.partition("::")[0]] += report.duration

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a whole run that has too few tests, or has not met every refusal."""
        if self.is_whole(session.config) and not session.config.getoption("--world"):
            self.unmet = refusals.missing(refusals.begin())
        is_wrong = self.is_too_small(session.config) or self.unmet
        if is_wrong and session.exitstatus in (0, pytest.ExitCode.OK):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @staticmethod
    def least(config: pytest.Config) -> int:
        """Return how many there must be."""
        return int(str(floor()["world" if config.getoption("--world") else "tests"]))

    def is_too_small(self, config: pytest.Config) -> bool:
        """Whether tests have got lost."""
        return self.collected < self.least(config) and self.is_whole(config)

    @staticmethod
    def is_whole(config: pytest.Config) -> bool:
        """Whether this process has seen a whole run."""
        is_named = config.args_source is pytest.Config.ArgsSource.ARGS and not config.getoption("--world")
        is_part = bool(is_named or config.option.keyword or config.option.markexpr or config.option.collectonly)
        is_worker = hasattr(config, "workerinput")
        return not is_part and not is_worker

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which files took longest, and how many tests there are."""
        terminalreporter.write_line(f"the {SLOWEST} slowest files, in seconds of their workers:")
        for name, seconds in sorted(self.seconds.items(), key=lambda item: item[1], reverse=True)[:SLOWEST]:
            terminalreporter.write_line(f"{seconds:7.1f}  {name}")
        least = self.least(terminalreporter.config)
        terminalreporter.write_line(f"{self.collected} tests collected, {least} at least")
        if self.is_too_small(terminalreporter.config):
            terminalreporter.write_line("error: tests have got lost; the floor stands in tests/floor.toml", red=True)
        if self.unmet:
            terminalreporter.write_line("error: no test has met these refusals; see tests/refusals.toml", red=True)
        for refusal in self.unmet:
            terminalreporter.write_line(f"    {refusal}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin, in workers too: the order must be the same everywhere."""
    config.pluginmanager.register(Suite(), "suite")
    if refusals.VARIABLE not in os.environ:
        directory = refusals.begin()
        config.add_cleanup(lambda: _forget(directory))
    refusals.record()


def _forget(directory: Path) -> None:
    del os.environ[refusals.VARIABLE]
    shutil.rmtree(directory)
