"""The real tier's disk: the production vault, SQLite on a file, run inline and compared with a shadow in memory.

Each step writes to both. The shadow commits only after SQLite has, and observers see the shadow. Every opening reads
the whole file, which must hold exactly what the shadow holds (:class:`ShadowError`): so a commit that was acknowledged
and is missing or incomplete ends the history.

There is no thread: the connection belongs to the simulation's own. A power cut abandons the connection as it is; SQLite
then finds in the file what the last COMMIT left.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import RECORDS
from token_relay.protocol.envelope import PeerBox
from token_relay.protocol.secret import PrivateKey
from token_relay.sandbox.provider.memory.signing import Signer
from token_relay.simulation.observer import Tables
from token_relay.simulation.ports.memory_vault import Image, MemoryVault
from token_relay.vault.database import open_database
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.files import Lock, lock_path
from token_relay.vault.keyring import KeyRing
from token_relay.vault.records import layouts_of
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

T = TypeVar("T")
R = TypeVar("R", bound=Record)

MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108  # a private directory is made in it
_WRITER = ThreadPoolExecutor(
    max_workers=1
)  # SqliteVault wants one; no thread starts before it is used, and it never is
_LAYOUTS = layouts_of(RECORDS)


class ShadowError(AssertionError):
    """The content of the file is not what was committed."""


@dataclass(frozen=True, slots=True)
class FileImage:
    """A copy of the file and its content."""

    octets: bytes
    shadow: Image


class RealStore:
    """A :class:`token_relay.simulation.ports.disk.Store` on a file; made at its first opening, as `init` does."""

    def __init__(self, path: Path, key: PrivateKey) -> None:
        self._path = path
        self._key = key
        self._shadow = MemoryVault(RECORDS, checks_values=False)  # the file's own vault checks them
        self._vault: SqliteVault | None = None
        self._connection: Any = None
        self._lock: Lock | None = None
        path.parent.mkdir(mode=0o700, exist_ok=True)

    # -- the store -------------------------------------------------------------------------------------

    @property
    def tables(self) -> Tables:
        return self._shadow.tables

    def transact(self, step: Callable[[Transaction], T], refuse: Callable[[], None]) -> T:
        if self._vault is None:
            self.open()
        vault = self._vault
        assert vault is not None

        def on_both(shadow: Transaction) -> T:
            def on_disk(disk: Transaction) -> T:
                both = _Both(disk, shadow)
                result = step(cast("Transaction", both))
                if both.has_written:
                    refuse()
                return result

            return vault.transact(on_disk)

        return self._shadow.transact(on_both, _agree)

    def read(self, step: Callable[[Transaction], T]) -> T:
        return self._shadow.read(step)

    def image(self) -> FileImage:
        if not self._path.exists():
            self.open()
        return FileImage(self._path.read_bytes(), self._shadow.snapshot())

    def restore(self, image: FileImage) -> None:
        self.abandon()
        self._path.write_bytes(image.octets)
        self._path.chmod(0o600)
        self._shadow.restore(image.shadow)

    def open(self) -> None:
        """Open the file as a start does. Raises CorruptVaultError, and ShadowError when it holds something else."""
        self.abandon()
        self._lock = Lock(lock_path(self._path))
        try:
            opened = open_database(self._path, self._key, _LAYOUTS.values(), STEPS, create=True)
        except BaseException:
            self.abandon()
            raise
        self._connection = opened.connection
        self._vault = SqliteVault(
            self._path,
            writer=_WRITER,
            lock=self._lock,
            connection=self._connection,
            keys=KeyRing(self._connection, opened.kek),
            layouts=_LAYOUTS,
            found_version=opened.found_version,
        )
        self._vault.transact(self._compare)

    def abandon(self) -> None:
        if self._connection is not None:
            self._connection.close()  # rolls back what was not committed, as the next opening would
        if self._lock is not None:
            self._lock.release()
        self._vault = self._connection = self._lock = None

    def tear(self) -> None:
        self.abandon()
        octets = bytearray(self._path.read_bytes())
        middle = len(octets) // 2
        octets[16 : 16 + 64] = os.urandom(64)  # page size, format, counters: what a torn first sector leaves
        octets[middle : middle + 512] = os.urandom(512)
        self._path.write_bytes(octets)

    def close(self) -> None:
        self.abandon()
        shutil.rmtree(self._path.parent, ignore_errors=True)

    def _compare(self, disk: Transaction) -> None:
        image = self._shadow.snapshot()
        lost = dict.fromkeys(image.lost)
        for record in RECORDS:
            held = dict(image.tables.get(record, {}))
            for key in [key for kind, key in lost if kind is record]:
                del held[key]
                try:
                    disk.get(cast("type[Any]", record), *key)
                except CorruptVaultError:
                    continue
                raise ShadowError(f"the file still opens {record.__name__} {key}, whose key was erased")
            if any(kind is record for kind, _ in lost):
                found = {key: row for key in held if (row := disk.get(cast("type[Any]", record), *key)) is not None}
            else:
                rows = disk.select(cast("type[Any]", record))
                found = {tuple(getattr(row, name) for name in record.key): row for row in rows}
            if found != held:
                raise ShadowError(f"the file holds other rows than were committed: {_difference(record, held, found)}")


class _Both:
    """A transaction that reads from the disk and writes to disk and shadow."""

    def __init__(self, disk: Transaction, shadow: Transaction) -> None:
        self._disk = disk
        self._shadow = shadow
        self.has_written = False

    def get(self, record: type[R], *key: str | int) -> R | None:
        return self._disk.get(record, *key)

    def select(self, record: type[R], **equals: str | int | bool | None) -> list[R]:
        return self._disk.select(record, **equals)

    def put(self, record: Record) -> None:
        self._disk.put(record)
        self._shadow.put(record)
        self.has_written = True

    def delete(self, record: type[R], *key: str | int) -> None:
        if self._shadow.get(record, *key) is not None:
            self.has_written = True
        self._disk.delete(record, *key)
        self._shadow.delete(record, *key)

    def erase_key(self, data_key: str) -> None:
        self._disk.erase_key(data_key)
        self._shadow.erase_key(data_key)
        self.has_written = True


class RealTier:
    """Everything as in production, except the network and the time."""

    signs = True
    box: type[PeerBox] = PeerBox

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        parent = MEMORY_DIRECTORY if MEMORY_DIRECTORY.is_dir() else None
        self._directory = Path(tempfile.mkdtemp(prefix="token-relay-world-", dir=parent))
        self._count = 0

    def new_store(self, name: str) -> RealStore:
        self._count += 1
        key = PrivateKey(hashlib.blake2b(name.encode(), digest_size=32).digest())  # another world may take a disk over
        return RealStore(self._directory / f"{name}-{self._count}" / "vault.db", key)

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _agree() -> None:
    """Refuse nothing."""


def _difference(record: type[Record], held: dict[Any, Any], found: dict[Any, Any]) -> str:
    """Return the keys and columns that differ, never a value."""
    names = [field.name for field in fields(cast("Any", record))]
    parts = [f"-{key}" for key in held if key not in found] + [f"+{key}" for key in found if key not in held]
    for key in held.keys() & found.keys():
        differing = [name for name in names if getattr(held[key], name) != getattr(found[key], name)]
        parts += [f"{key}: {', '.join(differing)}"] if differing else []
    return f"{record.__name__} {'; '.join(map(str, parts))}"
