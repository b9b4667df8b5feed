"""From one version of a vault's tables to the next: what may change, and how rows and secrets are carried over.

A :class:`SchemaStep` says what a version changed. It names its tables and columns itself and finds the rest in the
file, so a step stays right whatever the records of today look like. Old columns keep their order; a new one says where
it stands.

Invariants: what could be read before a step can be read after it; what could not is carried over and still cannot, so a
step neither hides damage nor stops at it. A row's MAC is checked by the old columns before anything is computed
from it. A secret is opened and sealed again when its key, column or data key changes, and data keys that seal nothing
any more are erased. The caller begins and commits the transaction.

Source: sqlite.org/lang_altertable.html (making the table anew).
"""

from __future__ import annotations

import hmac
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import PrivateKey
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.keyring import DELETE_SQL, KeyRing
from token_relay.vault.records import MAC_COLUMN, VAULT_DATA_KEY, StoredValue, check_data_key_name, create_sql
from token_relay.vault.sealing import MAC_BYTES, NONCE_BYTES, cell_label, mac_of, move_cell

Row = Mapping[str, StoredValue]
SqlType = Literal["TEXT", "INTEGER", "REAL", "BLOB"]
_ZERO: Mapping[str, StoredValue] = {"TEXT": "", "INTEGER": 0, "REAL": 0.0, "BLOB": b""}
_BEFORE = "before_this_step"  # the old table's name while its rows are copied
_DAMAGED = bytes(MAC_BYTES)  # for a row whose MAC did not fit: this one does not either


@dataclass(frozen=True, slots=True)
class OldColumn:
    """A column as a step spells it."""

    name: str
    type: SqlType
    is_optional: bool = False

    @property
    def sql(self) -> str:
        """The column's definition."""
        return f'"{self.name}" {self.type}{"" if self.is_optional else " NOT NULL"}'


@dataclass(frozen=True, slots=True)
class NewTable:
    """A table that the older version did not have."""

    table: str
    key: tuple[str, ...]
    columns: tuple[OldColumn, ...]


@dataclass(frozen=True, slots=True)
class Add:
    """A new column after another (first when ``after`` is empty); ``value`` gets the row as it was before."""

    column: OldColumn
    after: str
    value: Callable[[Row], StoredValue]


@dataclass(frozen=True, slots=True)
class Rename:
    """A column gets another name."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Drop:
    """A column is removed."""

    name: str


@dataclass(frozen=True, slots=True)
class Map:
    """A column gets other values."""

    name: str
    value: Callable[[StoredValue], StoredValue]


@dataclass(frozen=True, slots=True)
class Rekey:
    """Another primary key; ``sealed_under`` is a format of the new columns: ``handoff:{pairing_id}:{handoff_id}``."""

    key: tuple[str, ...]
    sealed_under: str


@dataclass(frozen=True, slots=True)
class ChangedTable:
    """Changes of one table, made in this order; a column is called by its name at that point.

    ``sealed`` names the columns that hold secrets and ``sealed_under`` their data key, both as they were. Tables whose
    rows share a data key that gets another name are changed in the same step.
    """

    table: str
    changes: tuple[Add | Rename | Drop | Map | Rekey, ...]
    sealed: tuple[str, ...] = ()
    sealed_under: str = VAULT_DATA_KEY


@dataclass(frozen=True, slots=True)
class SchemaStep:
    """What this version changed."""

    version: int
    changes: tuple[NewTable | ChangedTable, ...]


class LayoutError(VaultError):
    """The tables are not what the steps expect. The file is left alone: another program may know it."""


def version_of(steps: Sequence[SchemaStep]) -> int:
    """Return the version to which these steps lead. ValueError when one is missing."""
    if [step.version for step in steps] != list(range(2, len(steps) + 2)):
        raise ValueError("schema steps lead to versions 2, 3, … without a gap")
    return len(steps) + 1


def apply(step: SchemaStep, connection: sqlite3.Connection, kek: PrivateKey) -> None:
    """Make the changes of one step, inside the caller's transaction. Raises sqlite3.Error, LayoutError."""
    keys = KeyRing(connection, kek)
    former: set[str] = set()  # data keys that rows were sealed under
    present: set[str] = set()
    for change in step.changes:
        if isinstance(change, NewTable):
            connection.execute(create_sql(change.table, change.columns, change.key))
        else:
            _Changing(connection, keys, change, former, present).change()
    connection.executemany(DELETE_SQL, [(name,) for name in sorted(former - present - {VAULT_DATA_KEY})])


class _Changing:
    """The change of one table."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        keys: KeyRing,
        change: ChangedTable,
        former: set[str],
        present: set[str],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._change = change
        self._former, self._present = former, present
        info = connection.execute(f'PRAGMA table_info("{change.table}")').fetchall()
        self._old = [OldColumn(name, type_, not is_not_null) for _, name, type_, is_not_null, _, _ in info]
        if not self._old or self._old.pop().name != MAC_COLUMN:
            raise LayoutError(f"table {change.table} is not there as the schema before this one had it")
        self._old_names = [column.name for column in self._old]
        self._old_key = tuple(name for _, name, *_, at in sorted(info, key=lambda row: row[-1]) if at)
        self._new = list(self._old)
        self._new_key, self._new_under = self._old_key, change.sealed_under
        self._sealed = {name: name for name in change.sealed}  # present name: name in the file
        for part in change.changes:
            self._define(part)
        self._new_names = [column.name for column in self._new]
        self._places_move = (self._new_key, self._new_under) != (self._old_key, change.sealed_under)

    def change(self) -> None:
        """Make the table anew and carry its rows over."""
        table, connection = self._change.table, self._connection
        connection.execute(f'ALTER TABLE "{table}" RENAME TO {_BEFORE}')
        connection.execute(create_sql(table, self._new, self._new_key))
        marks = ", ".join("?" * (len(self._new) + 1))
        # OR IGNORE: a damaged row may bear the key of a whole one.
        put = f'INSERT OR IGNORE INTO "{table}" VALUES ({marks})'  # noqa: S608  # our own name
        for row, is_whole in self._rows():
            new = self._moved(row) if is_whole else self._carried(row)
            mac = mac_of(table, new, mac_key=self._keys.mac_key) if is_whole else _DAMAGED
            if connection.execute(put, (*new, mac)).rowcount != 1 and is_whole:
                raise LayoutError(f"two rows of table {table} would have one key")
        connection.execute(f"DROP TABLE {_BEFORE}")

    def _define(self, part: Add | Rename | Drop | Map | Rekey) -> None:
        match part:
            case Add(column, after, _):
                self._new.insert(self._at(after) + 1 if after else 0, column)
            case Rename(old, new):
                at = self._at(old)
                self._new[at] = OldColumn(new, self._new[at].type, self._new[at].is_optional)
                self._new_key = tuple(new if name == old else name for name in self._new_key)
                self._new_under = self._new_under.replace("{" + old + "}", "{" + new + "}")
                if old in self._sealed:
                    self._sealed[new] = self._sealed.pop(old)
            case Drop(name):
                del self._new[self._at(name)]
                self._sealed.pop(name, None)
            case Map(name, _):
                self._at(name)
            case Rekey(key, sealed_under):
                self._new_key, self._new_under = key, sealed_under

    def _at(self, name: str) -> int:
        for at, column in enumerate(self._new):
            if column.name == name:
                return at
        raise LayoutError(f"table {self._change.table} has no column {name}")

    def _rows(self) -> Iterator[tuple[dict[str, StoredValue], bool]]:
        """Yield each old row and whether it is as it was written: whole rows first, so that none loses its place."""
        names = ", ".join(f'"{name}"' for name in (*self._old_names, MAC_COLUMN))
        damaged = []
        for *values, mac in self._connection.execute(f"SELECT {names} FROM {_BEFORE}"):  # noqa: S608  # our names
            row = dict(zip(self._old_names, values, strict=True))
            expected = mac_of(self._change.table, values, mac_key=self._keys.mac_key)
            if isinstance(mac, bytes) and hmac.compare_digest(mac, expected):
                yield row, True
            else:
                damaged.append(row)
        for row in damaged:
            yield row, False

    def _moved(self, row: Row) -> list[StoredValue]:
        """Return the new row of a whole one."""
        now = self._changed(row)
        if self._sealed:
            self._former.add(self._change.sealed_under.format_map(row))
            self._present.add(self._new_under.format_map(now))
        for name, old in self._sealed.items():
            if now[name] is not None and (self._places_move or name != old):
                now[name] = self._sealed_again(row, old, now, name)
        return [now[name] for name in self._new_names]

    def _changed(self, row: Row, *, is_whole: bool = True) -> dict[str, StoredValue]:
        now = dict(row)
        for part in self._change.changes:
            match part:
                case Add(column, _, value):
                    empty = None if column.is_optional else _ZERO[column.type]
                    now[column.name] = value(row) if is_whole else empty
                case Rename(old, new):
                    now[new] = now.pop(old)
                case Drop(name):
                    del now[name]
                case Map(name, value_of) if is_whole:
                    now[name] = value_of(now[name])
                case _:
                    pass
        return now

    def _carried(self, row: Row) -> list[StoredValue]:
        """Return the new row of a damaged one: nothing is computed from it."""
        now = self._changed(row, is_whole=False)
        return [_writable(now[name]) for name in self._new_names]

    def _sealed_again(self, row: Row, old: str, now: Row, new: str) -> StoredValue:
        sealed, name = row[old], self._new_under.format_map(now)
        try:
            key = self._keys.get(self._change.sealed_under.format_map(row))
        except CorruptVaultError:
            key = None
        if key is None or not isinstance(sealed, bytes):  # its key is damaged or erased: it stays shut
            return sealed
        moved = move_cell(
            sealed,
            data_key=key,
            place=cell_label(self._change.table, _key(row, self._old_key), old),
            new_data_key=self._keys.get_or_make(name if name == VAULT_DATA_KEY else check_data_key_name(name)),
            new_place=cell_label(self._change.table, _key(now, self._new_key), new),
            nonce=os.urandom(NONCE_BYTES),
        )
        return sealed if moved is None else moved


def _key(row: Row, names: Sequence[str]) -> tuple[str | int, ...]:
    found = tuple(row[name] for name in names)
    assert all(isinstance(part, str | int) for part in found)
    return found  # type: ignore[return-value]  # asserted


def _writable(value: StoredValue) -> StoredValue:
    """Return a value of a damaged row in a form that SQLite takes: its text may not be UTF-8."""
    return value.encode(errors="surrogateescape").decode(errors="replace") if isinstance(value, str) else value
