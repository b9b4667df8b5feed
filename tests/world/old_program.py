"""The program as it was before HELLO had a second version, out of this tree's own history."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OLD_COMMIT = "0da65df864ba87a0f671a4f03945b46874927f4f"
HALVES = ("relay", "device")
WITHOUT_HISTORY = (
    f"the old program is commit {OLD_COMMIT}, which this checkout does not have: fetch the history with "
    "`git fetch --unshallow`, or run this in a clone of the repository"
)
LAUNCHER = """#!{python}
import sys

ours = {ours!r}
sys.path[:] = [*{halves!r}, *(path for path in sys.path if path not in ours)]
from token_relay.cli.main import main

sys.exit(main(sys.argv[1:]))
"""


class NoHistoryError(AssertionError):
    """The old program cannot be made."""


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)


def unpack(into: Path) -> tuple[str, ...]:
    """Write the old program into a directory; returns the command that starts it.

    Raises:
        NoHistoryError: the commit is not here; it says what to do.
    """
    archive = _git("archive", OLD_COMMIT, *HALVES)
    if archive.returncode != 0:  # a clone of the newest commit alone: ask where it came from
        _git("fetch", "--quiet", "--depth=1", "origin", OLD_COMMIT)
        archive = _git("archive", OLD_COMMIT, *HALVES)
    if archive.returncode != 0:
        raise NoHistoryError(f"{WITHOUT_HISTORY} ({archive.stderr.decode(errors='replace').strip()})")
    into.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-x", "-C", str(into)], input=archive.stdout, check=True)
    ours, halves = ([str(root / half) for half in HALVES] for root in (ROOT, into))
    launcher = into / "token-relay"
    launcher.write_text(LAUNCHER.format(python=sys.executable, ours=ours, halves=halves))
    launcher.chmod(0o755)
    return (str(launcher),)
