"""Packages for Node.js, installed once; where that cannot be, the tests that want them are counted as not run."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from tests import needs

INSTALL_S_MAX = 240


def program() -> str:
    """Return Node, for tests that have its packages."""
    found = needs.node()
    assert found is not None, "installed() comes first"
    return found[0]


def installed(here: Path, who: str) -> Path:
    """Install what package.json in ``here`` pins, once for each version of it; return where ``node_modules`` is."""
    found = needs.node()
    if found is None:
        pytest.skip(f"node {needs.NODE_MAJOR_MIN} or newer with npm is not installed: {who} not run")
    node, npm = found
    wanted, stamp = (here / "package.json").read_bytes(), here / "node_modules" / ".installed"
    with (here / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may run the tests
        if stamp.is_file() and stamp.read_bytes() == wanted:
            return here
        path = f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        try:
            done = subprocess.run(
                [*npm, "install", "--silent"],
                cwd=here,
                timeout=INSTALL_S_MAX,
                capture_output=True,
                env={**os.environ, "PATH": path},
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm install did not end in time: {who} not run")
        if done.returncode != 0:
            pytest.skip(f"npm install failed, is there a registry? Then {who} not run")
        stamp.write_bytes(wanted)
    return here
