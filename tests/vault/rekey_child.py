"""For ``test_rekey_killed.py``: ``rekey_child.py HOME file|passphrase [FILE]``, the rest as ``tests/kills.py`` says.

The key stretching is the lightest that Argon2id knows: a hundred stretchings would be all that this takes. It is given
to both sides, and ``test_rekey.py`` moves vaults with the real one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kills import serve
from tests.vault.light_stretching import stretch_lightly
from token_relay.cli.commands import vault  # noqa: F401  # for the forks, which would each import it
from token_relay.service import rekey as rekeying  # noqa: F401  # likewise

if __name__ == "__main__":
    stretch_lightly()
    home, target, *file = sys.argv[1:]
    words = ["vault", "rekey", "--home", home, "--to", target]
    if target == "passphrase":
        words += ["--passphrase-file", file[0], "--memory", "64"]
    if target == "file" and file:
        words += ["--key-file", file[0]]
    serve(str(Path(home).parent), words)
