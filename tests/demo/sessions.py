"""What a program leaves behind: the processes of its session, the files of its place."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def of_session(session: int) -> list[int]:
    """Process ids of a session. proc(5): the sixth field of stat, the fourth after the name in brackets."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(path.parent.name))
    return found


def end_session(session: int) -> None:
    """Kill whatever is left of a session."""
    for pid in of_session(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def check_that_nothing_is_left(session: int, place: Path) -> None:
    assert of_session(session) == []
    assert [path.name for path in place.iterdir()] == []
