"""A whole run counts its tests, fails when some have got lost, and names the slowest files; a part of one does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.run import WORLD, pytest_words
from tests.suite import FLOOR, dearness, floor
from tests.watchdog import HANG_S

ROOT = Path(__file__).parents[2]
PLUGIN = """
from tests import suite
suite.floor = lambda: {{"tests": {least}, "world": 0}}
suite.refusals.missing = lambda directory: {unmet}
from tests.suite import *
from tests.conftest import pytest_addoption
"""


def run(directory: Path, *words: str, least: int, unmet: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    (directory / "test_a.py").write_text(
        "import pytest\n\n@pytest.mark.parametrize('n', range(5))\ndef test_one(n): ...\n"
    )
    (directory / "test_b.py").write_text("def test_two(): ...\n")
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "plugin.py").write_text(PLUGIN.format(least=least, unmet=list(unmet)))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", *words],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{directory}", "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=HANG_S,
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2", "--dist", "loadfile")], ids=["alone", "workers"])
@pytest.mark.parametrize(("least", "code"), [(6, 0), (7, 1)])
def test_fewer_tests_than_there_were_fail_the_run(
    tmp_path: Path, workers: tuple[str, ...], least: int, code: int
) -> None:
    ran = run(tmp_path, *workers, least=least)
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert f"6 tests collected, {least} at least" in ran.stdout
    assert ("tests have got lost" in ran.stdout) is bool(code)
    assert "test_a.py" in ran.stdout.partition("slowest files")[2]


@pytest.mark.parametrize("workers", [(), ("-n", "2", "--dist", "loadfile")], ids=["alone", "workers"])
def test_a_refusal_that_no_test_has_met_fails_the_run(tmp_path: Path, workers: tuple[str, ...]) -> None:
    ran = run(tmp_path, *workers, least=6, unmet=["relay/x.py:7 in open: 'wrong length'"])
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert ran.stdout.count("relay/x.py:7 in open: 'wrong length'") == 1


def test_a_part_is_held_to_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "-k", "two", least=7, unmet=["x"]).returncode == 0


def test_the_floor_never_sinks() -> None:
    """These are the numbers of the day on which they were first held. The file has those of today."""
    assert FLOOR.is_file()
    now = floor()
    assert int(str(now["tests"])) >= 9135
    histories = now["histories"]
    assert isinstance(histories, dict)
    assert histories["fast"] >= 10_200 and histories["real"] >= 510


def test_what_starts_processes_begins_before_what_only_computes() -> None:
    tests = ROOT / "tests"
    assert dearness(tests / "chaos" / "test_chaos_kills.py") < dearness(tests / "vault" / "test_store.py")
    assert dearness(tests / "vault" / "test_store.py") < dearness(tests / "core" / "test_lease.py")


def test_every_place_that_a_run_names_is_there() -> None:
    assert all((ROOT / place).exists() for place in WORLD)
    assert "tests.suite" in pytest_words([])
