"""For ``test_rekey_killed.py``: processes that move a vault to another key and are killed before their n-th change.

``rekey_child.py HOME file|passphrase [FILE]``, and on stdin a number for each process, which is a fork of this one.
The answer on stdout is how it ended: 9 when it was killed, 0 when it had fewer changes. Counted are the creation,
renaming and removal of files under HOME, by Python's audit events, so nothing in the program knows of it. What SQLite
writes lies between them and is whole or not there.

The key stretching is the lightest that Argon2id knows: a hundred stretchings would be all that this takes. It is given
to both sides, and ``test_rekey.py`` moves vaults with the real one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.vault.light_stretching import stretch_lightly
from token_relay.cli.commands import vault  # noqa: F401  # likewise
from token_relay.cli.main import main
from token_relay.service import rekey as rekeying  # noqa: F401  # for the forks, which would each import it

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
KILLED = 9
left = 0


def count(event: str, args: tuple[object, ...]) -> None:
    """Count one change and end the process instead of the one that is due."""
    global left
    if event == "open":
        is_change = isinstance(args[2], int) and bool(args[2] & WRITES)
    else:
        is_change = event in ("os.rename", "os.remove")
    if not is_change or not str(args[0]).startswith(sys.argv[1]):
        return
    left -= 1
    if left == 0:
        os._exit(KILLED)


def serve() -> None:
    """Fork for each number."""
    global left
    home, target, *file = sys.argv[1:]
    words = ["vault", "rekey", "--home", home, "--to", target]
    if target == "passphrase":
        words += ["--passphrase-file", file[0], "--memory", "64"]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # the answers are their parent's
            left = int(line)
            sys.addaudithook(count)
            code = main(words)
            sys.stderr.flush()
            os._exit(code)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    stretch_lightly()
    serve()
