"""A process that moves a vault to another key and is killed before its n-th change of the disk.

``python rekey_child.py N HOME file|passphrase [FILE]``: counted are the creation, renaming and removal of files under
HOME, by Python's audit events, so nothing in the program knows of it. What SQLite writes lies between them and is
whole or not there. Ends with 9 when it was killed and 0 when it had fewer than N changes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from token_relay.cli.main import main

left = int(sys.argv[1])
home = sys.argv[2]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def count(event: str, args: tuple[object, ...]) -> None:
    """Count one change and end the process instead of the one that is due."""
    global left
    if event == "open":
        is_change = isinstance(args[2], int) and bool(args[2] & WRITES)
    else:
        is_change = event in ("os.rename", "os.remove")
    if not is_change or not str(args[0]).startswith(home):
        return
    left -= 1
    if left == 0:
        os._exit(9)


sys.addaudithook(count)
words = ["vault", "rekey", "--home", home, "--to", sys.argv[3]]
if sys.argv[3] == "passphrase":
    words += ["--passphrase-file", sys.argv[4], "--memory", "64"]
sys.exit(main(words))
