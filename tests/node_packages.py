"""Packages for Node.js, installed once; where that cannot be, the tests that want them are counted as not run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.watchdog import HANG_S

INSTALL_S_MAX = 240
NODE_MAJOR_MIN = 20


def installed(here: Path, who: str) -> Path:
    """Install what package.json in ``here`` pins, once for each version of it; return where ``node_modules`` is."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip(f"node and npm are not installed: {who} not run")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=HANG_S).stdout
    if int(version.lstrip("v").partition(".")[0]) < NODE_MAJOR_MIN:
        pytest.skip(f"node {NODE_MAJOR_MIN} or newer is needed: {who} not run")
    wanted, stamp = (here / "package.json").read_bytes(), here / "node_modules" / ".installed"
    if stamp.is_file() and stamp.read_bytes() == wanted:
        return here
    try:
        done = subprocess.run([npm, "install", "--silent"], cwd=here, timeout=INSTALL_S_MAX, capture_output=True)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm install did not end in time: {who} not run")
    if done.returncode != 0:
        pytest.skip(f"npm install failed, is there a registry? Then {who} not run")
    stamp.write_bytes(wanted)
    return here
