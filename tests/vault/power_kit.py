"""What the power-cut tests share: the states that are expected, and who opens a disk after a cut."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.vault.power import Call, Image, record, write_image
from tests.vault.power_child import STEPS, TOLD, erase
from tests.vault.samples import RECORDS, Counter, open_vault
from token_relay.agents.ports import Record, Transaction
from token_relay.simulation.ports.memory_vault import MemoryVault
from token_relay.vault.errors import CorruptVaultError

ERASING = STEPS.index(erase) + 1
CHILD = Path(__file__).with_name("power_child.py")
State = list[list[Record]]


def dump(tx: Transaction) -> State:
    return [tx.select(record) for record in RECORDS]


async def states() -> list[State]:
    """Return what is expected after each step: of the vault in memory, which shares no store with the other."""
    vault = MemoryVault(RECORDS)
    found = [await vault.run(dump)]
    for step in STEPS:
        await vault.run(step)
        found.append(await vault.run(dump))
    return found


@dataclass(slots=True)
class Finder:
    """Opens disks after a power cut, each different one once."""

    directory: Path
    seen: dict[bytes, State | None]
    refused: int = 0

    async def state_of(self, image: Image) -> State | None:
        """Return what the vault holds; None when it says that it is damaged. Another error is the test's failure."""
        digest = hashlib.blake2b()
        for name in sorted(image):
            digest.update(f"{name}:{len(image[name])}:".encode() + image[name])
        key = digest.digest()
        if key not in self.seen:
            self.seen[key] = await self._open(image)
        return self.seen[key]

    async def _open(self, image: Image) -> State | None:
        write_image(image, self.directory)
        try:
            async with open_vault(self.directory) as vault:
                found = await vault.run(dump)
                await vault.run(lambda tx: tx.put(Counter(99, 99)))  # and it goes on
                assert await vault.run(lambda tx: tx.get(Counter, 99)) == Counter(99, 99)
        except CorruptVaultError:
            self.refused += 1
            return None
        assert {file.name for file in self.directory.iterdir()} == {"vault.db", "vault.lock"}
        return found


def recorded(tmp_path: Path, what: str, image: Image | None = None) -> list[Call]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    write_image(image or {}, home)
    return record([sys.executable, str(CHILD), str(home), what], home, TOLD, tmp_path / "trace")
