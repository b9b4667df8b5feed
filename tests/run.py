"""``python -m tests.run [--histories | --world] [-- PYTEST ARGUMENTS]``: everything that `make test` means.

All tests, in one worker more than there are cores, and beside them the simulation, at the lowest priority: it takes
what the tests leave while they wait for processes, and the cores when they are done. It runs also when a test failed.
Its report comes after pytest's, a seed that fails at once. Both must be green, and the histories as many as
``floor.toml`` wants. Standard output is pytest's own, so its closing line is there for whoever counts.

An interrupt goes to both, and what each has found until then is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tests.suite import floor

ROOT = Path(__file__).parents[1]
TIERS: dict[str, list[str]] = {"fast": ["--cover"], "real": []}
LOWEST = 19  # nice(1)
RAN = re.compile(r"^(\w+) tier: ([\d,]+) schedules in ", re.MULTILINE)
INTERRUPTED = 130


class Part:
    """One program of the run, in a process group of its own: a terminal's interrupt reaches it through us, once."""

    def __init__(self, words: Sequence[str], *, is_quiet: bool = False, nice: int = 0) -> None:
        self.process = subprocess.Popen(
            [*(["nice", "-n", str(nice)] if nice else []), sys.executable, *words],
            cwd=ROOT,
            stdout=subprocess.PIPE if is_quiet else None,
            text=True,
            process_group=0,
        )

    def interrupt(self) -> None:
        """Ask it to end and to say what it has."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)


def pytest_words(given: Sequence[str]) -> list[str]:
    """Return how pytest is called for everything."""
    words = ["-m", "pytest", "-p", "tests.suite", "-q"]
    workers = str((os.cpu_count() or 1) + 1)  # one more than cores: a worker waits for its programs half of its time
    return [*words, "-n", workers, "--dist", "loadfile", "--no-loadscope-reorder", *given]


# Whole, and with what nothing else needs: `make test` has the same of today, in the environment of everything else.
WORLD = (
    "tests/providers",
    "tests/browser",
    "tests/world",
    "tests/auth0_js",
    "tests/sdk_js",
    "tests/web_js",
    "tests/pages_core",
    "tests/pages_world",
    "tests/clients",
    "tests/api/test_newman.py",
    "tests/api/test_schemathesis.py",
    "tests/sandbox/test_sandbox_msal.py",
    "tests/sandbox/test_transfer_msal.py",
    "tests/sandbox/test_transfer_sdk_python.py",
)


def simulation_words(tier: str, count: int) -> list[str]:
    """Return how one tier of the simulation is called."""
    return ["-m", "token_relay.simulation", "--count", str(count), "--tier", tier, *TIERS[tier]]


class Run:
    """The parts, one after the other where they must be, and what becomes of an interrupt."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.is_interrupted = False
        self.said: list[str] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupted)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.is_interrupted = True
        for part in self.parts:
            part.interrupt()

    def start(self, words: Sequence[str], *, is_quiet: bool = False, nice: int = 0) -> Part:
        """Start one part."""
        part = Part(words, is_quiet=is_quiet, nice=nice)
        self.parts.append(part)
        if self.is_interrupted:
            part.interrupt()
        return part

    def simulate(self, *, nice: int) -> list[str]:
        """Run all tiers; returns what is wrong. What they print is kept for later."""
        wrong: list[str] = []
        histories = floor()["histories"]
        assert isinstance(histories, dict)
        for tier, least in histories.items():
            if self.is_interrupted:
                return [*wrong, f"the {tier} histories were not run"]
            part = self.start(simulation_words(tier, least), is_quiet=True, nice=nice)
            said = part.process.communicate()[0]
            self.said.append(said)
            ran = {name: int(count.replace(",", "")) for name, count in RAN.findall(said)}
            if part.process.returncode != 0:
                wrong.append(f"the {tier} histories ended with {part.process.returncode}")
            elif ran.get(tier, 0) < least:
                wrong.append(f"{ran.get(tier, 0)} {tier} histories were run, and {least} at least are wanted")
        return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, and print what must be looked at; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", description="Run all tests and all histories.")
    parser.add_argument("--histories", action="store_true", help="the histories alone")
    parser.add_argument("--world", action="store_true", help="what `make test-world` means, and no histories")
    parser.add_argument("pytest", nargs="*", metavar="...", help="after --: more arguments for pytest")
    options = parser.parse_args(arguments)
    run = Run()
    wrong: list[str] = []
    if options.histories:
        wrong += run.simulate(nice=0)
    else:
        world = ["--world", *WORLD] if options.world else []
        tests = run.start(pytest_words([*world, *options.pytest]))
        found: list[str] = []

        def histories() -> None:
            if not options.world:
                found.extend(run.simulate(nice=LOWEST))

        beside = threading.Thread(target=histories)
        beside.start()
        code = tests.process.wait()
        if code != 0:
            wrong.append(f"pytest ended with {code}")
        beside.join()
        wrong += found
    sys.stdout.write("".join(run.said))
    for line in wrong:
        sys.stdout.write(f"error: {line}\n")
    sys.stdout.flush()
    if run.is_interrupted:
        return INTERRUPTED
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
