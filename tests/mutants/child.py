"""Runs tests in a worker's tree: for each line that comes in, a fork imports everything and runs what the line names.

Each mutant has a process of its own, so that one which loops or crashes the interpreter harms no other; a fork, because
what does not change (pytest, pydantic, aiohttp …) is then loaded once and not a hundred times.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

FOREIGN = (
    "aiohttp.web",
    "aiomqtt",
    "cryptography.x509",
    "hypothesis",
    "joserfc.jwt",
    "nacl.bindings",
    "pydantic",
    "pytest_asyncio",
    "sqlite3",
    "structlog",
)
# pytest imports a plugin itself, and says so if we did.
LEFT_OUT = frozenset({"token_relay.simulation.pytest_entry", "token_relay.simulation.pytest_plugin"})
# Assertions are not rewritten: their messages are not read, and rewriting takes longer than most killers.
OPTIONS = ("-x", "-q", "--assert=plain", "--no-header", "--tb=short", "-p", "no:cacheprovider", "--hypothesis-seed=0")


class Recorder:
    """Collects what passed, what failed, and what never came to a verdict."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []
        self.errors: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sort one phase of one test; only the test itself can fail, all else is an error."""
        if report.when == "call" and report.passed:
            self.passed.append(report.nodeid)
        elif report.when == "call" and report.failed:
            self.failed.append(report.nodeid)
        elif report.failed:
            self.errors.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what cannot be collected."""
        if report.failed:
            self.errors.append(report.nodeid)


def import_all() -> str:
    """Import every module of the program; returns what went wrong, or an empty string."""
    import token_relay

    for module in pkgutil.walk_packages(token_relay.__path__, "token_relay."):
        if module.name.endswith("__main__") or module.name in LEFT_OUT:
            continue
        try:
            importlib.import_module(module.name)
        except Exception as exc:
            return f"does not import: {module.name}: {type(exc).__name__}: {exc}"
    return ""


def run(result: Path, tests: list[str]) -> None:
    """Write ``problem``, ``passed``, ``failed`` and ``errors`` to ``result``."""
    recorder = Recorder()
    problem = import_all()
    if not problem:
        code = pytest.main([*OPTIONS, *tests], plugins=[recorder])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            problem = f"pytest ended with {code!r}"
    found = {"problem": problem, "passed": recorder.passed, "failed": recorder.failed, "errors": recorder.errors}
    result.write_text(json.dumps(found))


def fork(result: Path, tests: list[str]) -> NoReturn:
    """Be the process of one mutant."""
    os.setsid()
    silence = os.open(result.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(silence, stream)
    try:
        run(result, tests)
    finally:
        sys.stdout.flush()
        os._exit(0)


def serve() -> None:
    """Answer each line ``{"result", "tests", "timeout_s"}`` by one line: how it ended."""
    for name in FOREIGN:
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            fork(Path(job["result"]), job["tests"])
        ends_at = time.monotonic() + job["timeout_s"]
        ended = False
        while not ended and time.monotonic() < ends_at:
            time.sleep(0.01)
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        if not ended:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        print("ended" if ended else f"not done in {job['timeout_s']:g} s", flush=True)


if __name__ == "__main__":
    serve()
