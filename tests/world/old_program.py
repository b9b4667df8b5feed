"""The program as it was before HELLO had a second version, or a third, or LOST a fourth, out of this history."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OLD_COMMITS = {  # by the highest message version that each knows
    1: "0da65df864ba87a0f671a4f03945b46874927f4f",
    2: "ae6f8fee1bf8fb857e522d0ba69595f4209f9813",
    3: "fd1a4b826f2414e1ca17dee36ab9d204f18b0a1c",
}
HALVES = ("relay", "device")
WITHOUT_HISTORY = (
    "the old program is commit {}, which this checkout does not have: fetch the history with "
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


def unpack(into: Path, version: int) -> tuple[str, ...]:
    """Write the old program of this version into a directory; returns the command that starts it.

    Raises:
        NoHistoryError: the commit is not here; it says what to do.
    """
    commit = OLD_COMMITS[version]
    archive = _git("archive", commit, *HALVES)
    if archive.returncode != 0:  # a clone of the newest commit alone: ask where it came from
        _git("fetch", "--quiet", "--depth=1", "origin", commit)
        archive = _git("archive", commit, *HALVES)
    if archive.returncode != 0:
        raise NoHistoryError(f"{WITHOUT_HISTORY.format(commit)} ({archive.stderr.decode(errors='replace').strip()})")
    into.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-x", "-C", str(into)], input=archive.stdout, check=True)
    ours, halves = ([str(root / half) for half in HALVES] for root in (ROOT, into))
    launcher = into / "token-relay"
    launcher.write_text(LAUNCHER.format(python=sys.executable, ours=ours, halves=halves))
    launcher.chmod(0o755)
    return (str(launcher),)
