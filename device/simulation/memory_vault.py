"""The vault's contract in memory, deterministic: no thread, no file, no randomness, no cryptography.

A row is what the SQLite vault would store, made by the same codec, with each sealed cell replaced by
:class:`_SealedCell`: the secret as it is, beside the serial number of the data key that would have sealed it.
So erased keys, and keys made again under an old name, behave as on disk.

The committed state is one immutable :class:`Image`; a step works on copies of the tables it touches. Hence
:meth:`MemoryVault.snapshot` and :meth:`MemoryVault.restore` cost nothing: a crash keeps the image and drops
the rest, a restored backup is an older image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from device.ports import Record, Transaction
from device.vault.errors import CorruptVaultError
from device.vault.records import Column, Layout, StoredValue, check_data_key_name, layout_for, layouts_of
from device.vault.sealing import AnySecret
from relay.errors import VaultError

T = TypeVar("T")
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class _SealedCell:
    serial: int
    place: bytes
    secret: AnySecret


Key = tuple[StoredValue, ...]
Row = tuple[StoredValue | _SealedCell, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """What would be on the disk after a commit. Compares by content, so that histories can be compared."""

    tables: Mapping[str, Mapping[Key, Row]] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    data_keys: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    keys_made: int = 0


class MemoryVault:
    """A :class:`device.ports.Vault` for simulations and fast tests.

    ``commits`` counts the steps that changed something. Set ``failure`` to have every step refused, as a full
    disk would, until it is None again.
    """

    def __init__(self, records: tuple[type[Record], ...], image: Image | None = None) -> None:
        self._layouts = layouts_of(records)
        self._image = image or Image()
        self.commits = 0
        self.failure: VaultError | None = None

    async def run(self, step: Callable[[Transaction], T]) -> T:
        """Run ``step``; see :class:`device.ports.Vault`. Commits, then lets other tasks run once.

        So a caller that is cancelled here finds its step kept, as with the real vault.
        """
        try:
            return self._transact(step)
        finally:
            await asyncio.sleep(0)

    def snapshot(self) -> Image:
        """Return the committed state."""
        return self._image

    def restore(self, image: Image) -> None:
        """Make ``image`` the committed state: a reboot, or a backup put back."""
        self._image = image

    def _transact(self, step: Callable[[Transaction], T]) -> T:
        if self.failure is not None:
            raise self.failure
        transaction = _Transaction(self._image, self._layouts)
        try:
            result = step(transaction)
            if asyncio.iscoroutine(result):
                result.close()
                raise TypeError("a step is a plain function, not a coroutine")
        finally:
            image = transaction.end()
        if image is not self._image:
            self._image = image
            self.commits += 1
        return result


class _Transaction:
    """What one step sees: the image, and copies of the tables it has written."""

    def __init__(self, image: Image, layouts: Mapping[type[Record], Layout[Record]]) -> None:
        self._image = image
        self._layouts = layouts
        self._tables: dict[str, dict[Key, Row]] = {}
        self._data_keys = dict(image.data_keys)
        self._keys_made = image.keys_made
        self._has_ended = False

    def get(self, record: type[R], *key: str | int) -> R | None:
        layout = self._layout(record)
        row = self._rows(layout.table).get(layout.check_key(key))
        return None if row is None else layout.decode(row, self._open)

    def select(self, record: type[R], **equals: str | int | bool | None) -> list[R]:
        layout = self._layout(record)
        stored = layout.check_equals(equals)
        rows = [row for row in self._rows(layout.table).values() if layout.matches(row, stored)]
        return [layout.decode(row, self._open) for row in sorted(rows, key=layout.key_of)]

    def put(self, record: Record) -> None:
        layout = self._layout(type(record))
        row = layout.encode(record, self._seal)
        self._writable(layout.table)[layout.key_of(row)] = row

    def delete(self, record: type[R], *key: str | int) -> None:
        layout = self._layout(record)
        stored = layout.check_key(key)
        if stored in self._rows(layout.table):
            del self._writable(layout.table)[stored]

    def erase_key(self, data_key: str) -> None:
        self._check_usable()
        self._data_keys.pop(check_data_key_name(data_key), None)

    def end(self) -> Image:
        """Make every later use an error; return the state that the step has made, the old one if the same."""
        self._has_ended = True
        if not self._tables and self._data_keys == self._image.data_keys:
            return self._image
        changed = {name: MappingProxyType(rows) for name, rows in self._tables.items()}
        return replace(
            self._image,
            tables=MappingProxyType({**self._image.tables, **changed}),
            data_keys=MappingProxyType(self._data_keys),
            keys_made=self._keys_made,
        )

    def _seal(self, name: str, place: bytes, secret: AnySecret) -> _SealedCell:
        if name not in self._data_keys:
            self._keys_made += 1
            self._data_keys[name] = self._keys_made
        return _SealedCell(self._data_keys[name], place, secret)

    def _open(self, name: str, place: bytes, column: Column, sealed: object) -> AnySecret:
        serial = self._data_keys.get(name)
        if serial is None:
            raise CorruptVaultError("the data key of a secret is missing: erased, or damaged")
        if not isinstance(sealed, _SealedCell) or (sealed.serial, sealed.place) != (serial, place):
            raise CorruptVaultError(f"a secret in column {column.name} does not open")
        return sealed.secret

    def _rows(self, table: str) -> Mapping[Key, Row]:
        return self._tables.get(table, self._image.tables.get(table, {}))

    def _writable(self, table: str) -> dict[Key, Row]:
        if table not in self._tables:
            self._tables[table] = dict(self._image.tables.get(table, {}))
        return self._tables[table]

    def _layout(self, record: type[R]) -> Layout[R]:
        self._check_usable()
        return layout_for(self._layouts, record)

    def _check_usable(self) -> None:
        if self._has_ended:
            raise RuntimeError("a transaction was used after its step had returned")
