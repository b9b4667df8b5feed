"""What a machine cannot run stands at the end of the output, with the reason and the count: no skip is silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.watchdog import HANG_S

ROOT = Path(__file__).parents[2]
TESTS = """\
import pytest

@pytest.fixture(scope="session")
def packages():
    pytest.skip("npm is not installed")

def test_one(packages): ...
def test_two(packages): ...

@pytest.mark.skipif(True, reason="there is no TPM")
def test_three(): ...

def test_four(): ...
"""


def test_each_reason_for_a_skip_has_its_line_with_the_count(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('nowhere', reason='no such client')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=HANG_S,
    )
    assert ran.returncode == 0, ran.stdout
    found = {line for line in ran.stdout.splitlines() if line.startswith("not run: ")}
    assert found == {
        "not run: 2 tests, npm is not installed",
        "not run: 1 tests, there is no TPM",
        "not run: 1 whole modules, no such client",
    }
