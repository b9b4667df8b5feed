"""For ``test_power_cut.py``: a process that makes known commits, each told on stdout once ``run`` returned.

``power_child.py DIRECTORY steps|open``: all of the steps, or only opening and closing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.vault.samples import Counter, Grant, Mixed, Shared, open_vault
from token_relay.agents.ports import Transaction
from token_relay.protocol.secret import RefreshToken

TOLD = b"returned\n"


def rotate(tx: Transaction, generation: int, size: int = 900) -> None:
    """Store the next refresh token, as after each refresh."""
    tx.put(Grant("g1", generation, RefreshToken(f"token {generation} " + "t" * size)))
    tx.put(Counter(1, generation))


def fill(tx: Transaction) -> None:
    for n in range(12):
        tx.put(Mixed("peer", n, payload=bytes([n]) * 3000))


def erase(tx: Transaction) -> None:
    """The end of a grant, and the beginning of another under the same name."""
    tx.erase_key("g1")
    tx.delete(Grant, "g1")
    tx.put(Counter(2, 1))


def thin_out(tx: Transaction) -> None:
    for n in range(0, 12, 2):
        tx.delete(Mixed, "peer", n)


def empty(tx: Transaction) -> None:
    for n in range(12):
        tx.delete(Mixed, "peer", n)


STEPS: tuple[Callable[[Transaction], None], ...] = (
    lambda tx: tx.put(Counter(1, 0)),
    lambda tx: rotate(tx, 1),
    lambda tx: rotate(tx, 2),
    fill,  # the file grows by a dozen pages
    lambda tx: rotate(tx, 3, 9000),  # a value on overflow pages
    lambda tx: tx.put(Shared("s", "owner", RefreshToken("shared"))),
    thin_out,  # pages become free
    erase,
    lambda tx: rotate(tx, 4),  # a key made again under an erased name, on pages used again
    empty,
    lambda tx: rotate(tx, 5, 20),
)


async def main(directory: Path, what: str) -> None:
    async with open_vault(directory) as vault:
        os.write(1, TOLD)
        for step in STEPS if what == "steps" else ():
            await vault.run(step)
            os.write(1, TOLD)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
