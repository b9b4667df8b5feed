"""A pytest plugin for the quick run: the tests of pure code, held to what they claim.

``-p tests.quick`` collects :data:`PURE` alone, without what is pure and takes long. While a test runs, no socket may be
bound or connected and no process started: such a test fails, and belongs to ``make test``. Python's audit events tell,
so no test can forget to ask.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

PURE = (
    "agents",
    "core",
    "fuzz",
    "probe",
    "properties",
    "provider",
    "replays",
    "sandbox",
    "simulation",
    "test_elapsed.py",
)
IMPURE = (  # of these: files that start processes or use sockets, and one test
    "core/test_needs.py",
    "core/test_refusal_list.py",
    "core/test_not_run.py",
    "core/test_suite.py",
    "core/test_vectors.py::test_the_script_writes_the_very_files_that_are_checked_in",
    "provider/test_http_port.py",
    "provider/test_loopback_receiver.py",
    "provider/test_native_sign_in.py",
    "provider/test_oauth_client.py",
    "provider/test_transfer_answers.py",
    "sandbox/test_native_beside.py",
    "sandbox/test_network.py",
    "sandbox/test_network_routes.py",
    "sandbox/test_sandbox_browser.py",
    "sandbox/test_sandbox_control.py",
    "sandbox/test_sandbox_faults.py",
    "sandbox/test_sandbox_main.py",
    "sandbox/test_sandbox_msal.py",
    "sandbox/test_sandbox_native.py",
    "sandbox/test_sandbox_refresh.py",
    "sandbox/test_transfer_actions.py",
    "sandbox/test_transfer_http.py",
    "sandbox/test_transfer_msal.py",
    "sandbox/test_transfer_sdk_python.py",
    "simulation/test_pytest_plugin.py",
    "simulation/test_runner.py",
    "simulation/test_world_determinism.py",
)
LONG = (  # searches that take seconds each; `make test` has them, and tests/exhaustive
    "provider/test_native_fuzz.py",
    "sandbox/test_native_walks.py",
    "sandbox/test_sandbox_core.py",
)

FORBIDDEN = ("socket.bind", "socket.connect", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "os.system")


class ImpureTestError(AssertionError):
    """A test of pure code has asked for a socket or a process."""


class Quick:
    """Watches one process."""

    def __init__(self) -> None:
        self.is_testing = False
        sys.addaudithook(self.hear)

    def hear(self, event: str, args: tuple[object, ...]) -> None:
        """Refuse what no pure code does."""
        if self.is_testing and event in FORBIDDEN:
            raise ImpureTestError(f"{event}{args!r:.200} in a test of pure code: see tests/quick.py")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        """Watch fixtures too."""
        self.is_testing = True
        try:
            return (yield)
        finally:
            self.is_testing = False

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Collect nothing else."""
        if not collection_path.is_relative_to(TESTS) or collection_path == TESTS:
            return None
        name = collection_path.relative_to(TESTS).as_posix()
        is_pure = name.partition("/")[0] in PURE and name not in IMPURE + LONG
        return None if is_pure else True

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave single tests out."""
        out = [item for item in items if item.nodeid.removeprefix("tests/").startswith(IMPURE)]
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin, in workers too."""
    config.pluginmanager.register(Quick(), "quick")
