"""A command killed before its n-th change of the disk, whatever n is, for tests of what the next one finds.

``kills.py DIRECTORY WORD …`` runs ``token-relay WORD …`` in a fork of itself for each number on stdin, and answers how
it ended: 9 when it was killed, its exit code when it had fewer changes. Counted are directories, files opened for
writing, links, renames and removals under DIRECTORY, by Python's audit events, so nothing in the program knows of it.
What SQLite writes lies between them and is whole or not there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import refusals
from tests.watchdog import HANG_S
from token_relay.cli.main import main

KILLED = 9
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.link", "os.mkdir")


def kill_before(number: int, directory: str) -> None:
    """End this process in place of its n-th change."""
    left = number

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        is_change = event in CHANGES
        if event == "open":
            is_change = isinstance(args[2], int) and bool(args[2] & WRITES)
        if not is_change or not str(args[0]).startswith(directory):
            return
        left -= 1
        if left == 0:
            os._exit(KILLED)

    sys.addaudithook(count)


def serve(directory: str, words: list[str]) -> None:
    """Fork for each number."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # the answers are their parent's
            kill_before(int(line), directory)
            code = main(words)
            sys.stderr.flush()
            os._exit(code)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


@contextmanager
def nursery(*words: object, program: Path = Path(__file__)) -> Iterator[Callable[[int], int]]:
    """Yield what starts a process that is killed before its n-th change, and returns how it ended."""
    command = [sys.executable, str(program), *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        numbers, ends = process.stdin, process.stdout
        assert numbers is not None and ends is not None

        def end_of(number: int) -> int:
            numbers.write(f"{number}\n")
            numbers.flush()
            return int(ends.readline())

        yield end_of
        numbers.close()
        assert process.wait(HANG_S) == 0


if __name__ == "__main__":
    from token_relay.ca import store  # noqa: F401  # for the forks, which would each import it

    refusals.record()
    serve(sys.argv[1], sys.argv[2:])
