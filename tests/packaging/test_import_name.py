"""One import name: the wheel beside a project that has a device.py and a relay.py of its own, and types in both halves.

A relay board on a Raspberry Pi makes ``relay.py`` a likely name for a module of whoever uses the kit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.watchdog import HANG_S

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")

PROJECT = {
    "device.py": "def name() -> str:\n    return 'the board that switches the relay'\n",
    "relay.py": "def switch(on: bool) -> str:\n    return 'on' if on else 'off'\n",
    "conftest.py": 'pytest_plugins = ["token_relay.simulation.pytest_plugin"]\n',
    "test_board.py": """\
import pytest

import device
import relay


@pytest.mark.asyncio
async def test_the_board_switches_with_a_token(relay_world):
    await relay_world.phone.sign_in()
    await relay_world.phone.hand_off("watch")
    answer = await relay_world.until(relay_world.companion.token)
    assert answer.is_granted
    assert relay.switch(True) == "on" and device.name().startswith("the board")
""",
}


def run(*words: str | Path, cwd: Path) -> str:
    ran = subprocess.run(words, cwd=cwd, check=False, capture_output=True, text=True, timeout=HANG_S)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built by the backend that pyproject.toml names."""
    place, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source") / "token-relay"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "build", "dist")
    shutil.copytree(ROOT, source, ignore=left_out)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, ".", cwd=source)
    (built,) = place.glob("token_relay-*.whl")
    return built


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not re.fullmatch(r"token_relay-.*\.(dist-info|data)", top)} == {"token_relay"}
    assert len(names) == len(set(names)), "one file twice"
    assert "token_relay/py.typed" in names and "token_relay/__init__.py" not in names
    rooms = {name.split("/")[1] for name in names if name.startswith("token_relay/")}
    assert {"protocol", "sandbox", "agents", "cli"} <= rooms  # of both halves


def test_a_project_with_its_own_device_and_relay_uses_the_kit(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    run(*PIP, "--python", environment / "bin/python", "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # What it depends on is taken from here; the checkout itself is in a .pth file, which is not followed from there.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    project = tmp_path / "project"
    project.mkdir()
    for name, text in PROJECT.items():
        (project / name).write_text(text)
    where = "import token_relay.agents.link as link; print(link.__file__)"
    assert str(site) in run(environment / "bin/python", "-c", where, cwd=project)
    said = run(environment / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert "1 passed" in said
    assert run(environment / "bin/token-relay", "--version", cwd=project).startswith("token-relay ")


PLANTED = {
    "relay/token_relay/protocol/planted.py": "misspelt: int = 'relay'\n",
    "device/token_relay/agents/planted.py": "misspelt: int = 'device'\n",
    "tests/planted.py": "from token_relay.agents.planted import misspelt\n\nwrong: str = misspelt\n",
}


def test_a_type_error_in_either_half_and_in_a_test_is_found(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, text in PLANTED.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache")]
    ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=HANG_S)
    found = {line.partition(":")[0] for line in ran.stdout.splitlines() if ": error: " in line}
    assert ran.returncode == 1 and found == set(PLANTED), ran.stdout + ran.stderr
