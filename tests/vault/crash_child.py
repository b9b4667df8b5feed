"""For ``test_crash.py``: a process whose children open a vault and count, each acknowledged number told on stdout.

One line ``DIRECTORY`` on stdin makes one child (by fork: starting Python anew for each would take most of the time).
The child's process id comes first, then the numbers; the parent kills it when it likes. An empty line ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.vault.samples import Counter, Grant, open_vault
from token_relay.agents.ports import Transaction
from token_relay.protocol.secret import RefreshToken


def step(tx: Transaction) -> int:
    found = tx.get(Counter, 1)
    value = found.value + 1 if found else 1
    tx.put(Counter(1, value))
    tx.put(Grant("g1", value, RefreshToken(f"token {value} " + "t" * (value % 7) * 1000)))
    if value % 5 == 0:  # sometimes a key is destroyed and made anew in the same step
        tx.erase_key("g1")
        tx.put(Grant("g1", value, RefreshToken(f"token {value}")))
    return value


async def count(directory: Path) -> None:
    async with open_vault(directory) as vault:
        while True:
            value = await vault.run(step)
            os.write(1, b"%d\n" % value)


def main() -> None:
    for line in sys.stdin:
        if not line.strip():
            return
        child = os.fork()
        if child == 0:
            os.write(1, b"pid %d\n" % os.getpid())
            asyncio.run(count(Path(line.strip())))
        os.waitpid(child, 0)
        os.write(1, b"end\n")


if __name__ == "__main__":
    main()
