"""Types in both halves of the one import name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.watchdog import HANG_S

ROOT = Path(__file__).parents[2]

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
