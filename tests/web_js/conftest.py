"""The web clients' packages, installed once; where that cannot be, each test of theirs is counted as skipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALL_S_MAX = 240
NODE_MAJOR_MIN = 20


@pytest.fixture(scope="session")
def packages() -> Path:
    """Install what package.json pins, once for each version of it; return where ``node_modules`` is."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed: the web clients were not run")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    if int(version.lstrip("v").partition(".")[0]) < NODE_MAJOR_MIN:
        pytest.skip(f"node {NODE_MAJOR_MIN} or newer is needed: the web clients were not run")
    wanted, stamp = (HERE / "package.json").read_bytes(), HERE / "node_modules" / ".installed"
    if stamp.is_file() and stamp.read_bytes() == wanted:
        return HERE
    try:
        done = subprocess.run([npm, "install", "--silent"], cwd=HERE, timeout=INSTALL_S_MAX, capture_output=True)
    except subprocess.TimeoutExpired:
        pytest.skip("npm install did not end in time: the web clients were not run")
    if done.returncode != 0:
        pytest.skip("npm install failed, is there a registry? The web clients were not run")
    stamp.write_bytes(wanted)
    return HERE
