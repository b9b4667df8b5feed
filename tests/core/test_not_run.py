"""What a machine cannot run stands at the end of the output, with the reason and the count: no skip is silent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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

@pytest.mark.skipif(True, reason="there is no TPM")
@pytest.mark.parametrize("name", ["a", "b"])
def test_five(name): ...
"""
INTERRUPTED = """\
import signal, subprocess, sys

def test_child_ends_at_an_interrupt():
    code = "print('ready', flush=True); import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\\n"
        child.send_signal(signal.SIGINT)
        assert child.wait() == -signal.SIGINT
"""


def run(place: Path, *before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a directory with the conftest of all tests."""
    (place / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [*before, sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(place)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=place,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        timeout=HANG_S,
    )


@pytest.mark.parametrize(("ci", "code"), [({}, 0), ({"CI": "true"}, 1)], ids=["at home", "in CI"])
def test_each_reason_for_a_skip_has_its_line_with_count_and_names_and_in_ci_it_fails(
    tmp_path: Path, ci: dict[str, str], code: int
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('nowhere', reason='no such client')\n")
    ran = run(tmp_path, **ci)
    assert ran.returncode == code, ran.stdout
    lines = ran.stdout.splitlines()
    begin = lines.index("not run: 2 tests, npm is not installed")
    assert lines[begin + 1 : begin + 9] == [
        "    test_some.py::test_one",
        "    test_some.py::test_two",
        "not run: 3 tests, there is no TPM",
        "    test_some.py::test_three",
        "    test_some.py::test_five (2)",
        "not run: 1 whole modules, no such client",
        "    test_whole.py",
        *(["CI=true: what was not run fails the run"] if ci else [lines[begin + 8]]),
    ]


def test_in_ci_a_run_that_leaves_nothing_out_passes(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("def test_one(): ...\n")
    ran = run(tmp_path, CI="true")
    assert ran.returncode == 0 and "not run" not in ran.stdout, ran.stdout


def test_programs_can_be_interrupted_also_under_a_shell_that_ignores_interrupts(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(INTERRUPTED)
    ran = run(tmp_path, "sh", "-c", 'trap "" INT HUP QUIT; exec "$@"', "sh")
    assert ran.returncode == 0, ran.stdout


def test_library_is_compiled_anew_without_an_error_and_our_own_files_are_not_forgiven(tmp_path: Path) -> None:
    """auth0-python has invalid escape sequences; the compiler warns, once, and warnings are errors here."""
    for directory in ("lib/site-packages", "ours"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "lib/site-packages/library.py").write_text('TEXT = "\\d"\n')
    (tmp_path / "ours/ours.py").write_text('TEXT = "\\d"\n')
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\ndef test_one():\n    import library\n    with pytest.raises(SyntaxError): import ours\n"
    )
    path = os.pathsep.join(str(tmp_path / name) for name in ("lib/site-packages", "ours"))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", tmp_path],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")},
        timeout=HANG_S,
    )
    assert ran.returncode == 0, ran.stdout


def test_plain_pytest_needs_nothing_of_the_makefile(tmp_path: Path) -> None:
    """As an IDE starts it: no environment, nothing compiled yet, one file."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/sandbox/test_transfer_sdk_python.py"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPYCACHEPREFIX": str(tmp_path)},
        timeout=HANG_S,
    )
    assert ran.returncode == 0 and re.search(r"^\d+ passed", ran.stdout, re.MULTILINE), ran.stdout
