"""The codec between records and rows: a table per frozen dataclass, a column per field, and one for the row's MAC.

It knows the annotations that a record may have and the SQL that follows from them. It knows neither a connection nor a
key: sealing and opening come in as functions. It prepares once per record type what it uses for each row.

Invariants: ``decode(encode(record)) == record`` with equal types; what :meth:`Layout.encode` refuses never
reaches the disk; :meth:`Layout.decode` returns a record in which every field has its declared type, or raises
:class:`CorruptVaultError`. An error's text names table and column, never a value.

Source: SQLite STRICT tables (sqlite.org/stricttables.html), WITHOUT ROWID (sqlite.org/withoutrowid.html).
"""

from __future__ import annotations

import enum
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Generic, Literal, Protocol, TypeVar, cast, get_args, get_origin

from token_relay.agents.ports import Record
from token_relay.protocol.secret import Secret
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.sealing import AnySecret, cell_label

R = TypeVar("R", bound=Record)
S = TypeVar("S")

StoredValue = str | int | float | bytes | None
Kind = Literal["text", "integer", "real", "bool", "blob", "secret"]

VAULT_DATA_KEY = "vault"
RESERVED_TABLES = frozenset({"meta", "data_keys"})
MAC_COLUMN = "row_mac"
VALUE_BYTES_MAX = 1_048_576  # 60 times the largest envelope; a larger value is a mistake, not data
INTEGER_MAX = 2**63 - 1  # SQLite's integers are signed 64 bit
DATA_KEY_NAME_CHARS_MAX = 128

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_SQL_TYPES: Mapping[Kind, str] = {
    "text": "TEXT",
    "integer": "INTEGER",
    "real": "REAL",
    "bool": "INTEGER",
    "blob": "BLOB",
    "secret": "BLOB",
}
_STORED_TYPES: Mapping[Kind, type] = {
    "text": str,
    "integer": int,
    "real": float,
    "bool": int,
    "blob": bytes,
    "secret": bytes,
}
_PLAIN: Mapping[object, Kind] = {str: "text", int: "integer", float: "real", bool: "bool", bytes: "blob"}


class Defined(Protocol):
    """A column that SQL can define."""

    @property
    def name(self) -> str: ...

    @property
    def sql(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Column:
    """One field: what it may hold, and how it is stored.

    ``choices`` maps each stored value to the field's value for ``Literal`` and string enums; empty otherwise.
    """

    name: str
    kind: Kind
    is_optional: bool
    choices: Mapping[str | int, object]
    secret: type[AnySecret] | None
    is_text_secret: bool

    @property
    def sql(self) -> str:
        """The column's definition."""
        return f'"{self.name}" {_SQL_TYPES[self.kind]}{"" if self.is_optional else " NOT NULL"}'

    def store(self, value: object) -> StoredValue:
        """Return what goes to the disk for a clear value.

        Raises:
            TypeError, ValueError: a bug of the caller: the value is not of the declared type, or is too large.
        """
        if value is None and self.is_optional:
            return None
        if isinstance(value, enum.Enum):
            if value not in self.choices.values():
                raise TypeError(f"column {self.name} ({self.kind}) cannot hold a {type(value).__name__}")
            value = value.value
        if self.choices:
            if type(value) in (str, int) and value in self.choices:
                return cast("str | int", value)
        elif self.kind == "text" and type(value) is str:
            return _bounded_text(self.name, value)
        elif self.kind == "integer" and type(value) is int:
            if abs(value) > INTEGER_MAX:
                raise ValueError(f"column {self.name}: an integer beyond 63 bits")
            return value
        elif self.kind == "real" and type(value) in (float, int):
            real = float(cast("float", value))
            if math.isnan(real):
                raise ValueError(f"column {self.name}: not a number")  # SQLite would silently store NULL
            return real + 0.0  # SQLite drops the sign of zero, so the row's MAC must not cover it
        elif self.kind == "bool" and type(value) is bool:
            return int(value)
        elif self.kind == "blob" and type(value) is bytes:
            if len(value) > VALUE_BYTES_MAX:
                raise ValueError(f"column {self.name}: more than {VALUE_BYTES_MAX} bytes")
            return value
        raise TypeError(f"column {self.name} ({self.kind}) cannot hold a {type(value).__name__}")

    def load(self, stored: object) -> object:
        """Return the field's value for what is on the disk; ValueError when :meth:`store` cannot have made it."""
        if stored is None and self.is_optional:
            return None
        if self.choices:
            if type(stored) in (str, int) and stored in self.choices:
                return self.choices[cast("str | int", stored)]
        elif self.kind == "bool":
            if type(stored) is int and stored in (0, 1):
                return bool(stored)
        elif _PLAIN.get(type(stored)) == self.kind:
            return stored
        raise ValueError(f"column {self.name} holds something else than its type")

    def make_secret(self, octets: bytes) -> AnySecret:
        """Wrap opened bytes in the field's own type; ValueError when that type refuses them."""
        assert self.secret is not None
        make = cast("Callable[[str | bytes], AnySecret]", self.secret)
        return make(octets.decode() if self.is_text_secret else octets)


class Layout(Generic[R]):
    """What is prepared once per record type.

    Raises:
        TypeError: the class is not a :class:`token_relay.agents.ports.Record`: a bug, found when the vault opens.
    """

    def __init__(self, record: type[R]) -> None:
        class_: type = record
        if not is_dataclass(class_):
            raise TypeError(f"{class_.__name__} is not a dataclass")
        self.record = record
        self.table: str = record.table
        if not _NAME.fullmatch(self.table) or self.table in RESERVED_TABLES or self.table.startswith("sqlite_"):
            raise TypeError(f"{record.__name__}: {self.table!r} cannot be the name of a table")
        hints = typing.get_type_hints(class_)
        self.columns = tuple(_column_of(field.name, hints[field.name]) for field in fields(class_))
        self._by_name = {column.name: column for column in self.columns}
        self._position = {column.name: index for index, column in enumerate(self.columns)}
        self.key_columns = self._key_columns(record.key)
        self._owned_by = self._owners(record.sealed_under)
        self._data_key = re.sub(r"\{\w+\}", "{}", record.sealed_under)
        self._make = cast("Callable[..., R]", record)
        self._stored_types = tuple(_STORED_TYPES[column.kind] for column in self.columns)
        self._converted = tuple(i for i, c in enumerate(self.columns) if c.kind == "bool" or c.choices)
        self._secrets = tuple(i for i, c in enumerate(self.columns) if c.kind == "secret")
        self._write_sql()

    def encode(self, record: R, seal: Callable[[str, bytes, AnySecret], S]) -> tuple[StoredValue | S, ...]:
        """Return the record's row; ``seal(data_key_name, place, secret)`` makes each sealed cell.

        Raises:
            TypeError, ValueError: a value is not of its field's declared type, or is too large.
        """
        clear = tuple(
            None if column.kind == "secret" else column.store(getattr(record, column.name)) for column in self.columns
        )
        key = self.key_of(clear)
        row: list[StoredValue | S] = list(clear)
        for index in self._secrets:
            column = self.columns[index]
            secret: object = getattr(record, column.name)
            if secret is None and column.is_optional:
                continue
            if type(secret) is not column.secret:
                raise TypeError(f"column {column.name} (secret) cannot hold a {type(secret).__name__}")
            place = cell_label(self.table, key, column.name)
            row[index] = seal(self.data_key_name(clear), place, secret)
        return tuple(row)

    def decode(self, row: Sequence[object], open_cell: Callable[[str, bytes, Column, object], AnySecret]) -> R:
        """Return the record of a row; ``open_cell(data_key_name, place, column, sealed)`` opens each sealed cell.

        Raises:
            CorruptVaultError: a value is not of the type that was stored. Whatever ``open_cell`` raises.
        """
        try:
            values = list(row)
            if tuple(map(type, row)) == self._stored_types:  # the usual row: only these need a check
                for index in self._converted:
                    values[index] = self.columns[index].load(row[index])
            else:
                values = [
                    None if column.kind == "secret" else column.load(stored)
                    for column, stored in zip(self.columns, row, strict=True)
                ]
            for index in self._secrets:
                column = self.columns[index]
                if row[index] is None and column.is_optional:
                    continue
                place = cell_label(self.table, self.key_of(row), column.name)
                values[index] = open_cell(self.data_key_name(row), place, column, row[index])
            return self._make(*values)
        except (ValueError, TypeError) as exc:
            raise CorruptVaultError(f"a row of table {self.table} is damaged") from exc

    def without_secrets(self, row: Sequence[object]) -> list[object]:
        """Return a stored row without its sealed cells."""
        return [None if index in self._secrets else stored for index, stored in enumerate(row)]

    def key_of(self, row: Sequence[object]) -> tuple[str | int, ...]:
        """Return the primary key from a row's stored values."""
        return tuple(cast("str | int", row[self._position[column.name]]) for column in self.key_columns)

    def check_key(self, key: tuple[str | int, ...]) -> tuple[StoredValue, ...]:
        """Return a primary key as it is stored; TypeError when the number or a type of its parts is wrong."""
        if len(key) != len(self.key_columns):
            raise TypeError(f"the key of {self.table} has {len(self.key_columns)} parts")
        return tuple(column.store(part) for column, part in zip(self.key_columns, key, strict=True))

    def check_equals(self, equals: Mapping[str, str | int | bool | None]) -> dict[str, StoredValue]:
        """Return what ``select`` compares with, as it is stored; TypeError for unknown or sealed fields."""
        stored: dict[str, StoredValue] = {}
        for name, value in equals.items():
            column = self._by_name.get(name)
            if column is None or column.kind == "secret":
                raise TypeError(f"{self.table} cannot be searched by {name}")
            stored[name] = None if value is None else column.store(value)
        return stored

    def select_sql(self, names: Sequence[str]) -> str:
        """Return the statement that selects by these fields, ordered by primary key. ``IS`` finds NULL too."""
        where = " AND ".join(f'"{name}" IS ?' for name in names)
        return f"{self._select}{' WHERE ' + where if where else ''}{self._order}"

    def _write_sql(self) -> None:
        keys = ", ".join(f'"{column.name}"' for column in self.key_columns)
        names = ", ".join(f'"{name}"' for name in (*self._by_name, MAC_COLUMN))
        here = " AND ".join(f'"{column.name}" = ?' for column in self.key_columns)
        marks = ", ".join("?" * (len(self.columns) + 1))
        self.create_sql = create_sql(self.table, self.columns, tuple(column.name for column in self.key_columns))
        self._select = f'SELECT {names} FROM "{self.table}"'  # noqa: S608  # see above
        self._order = f" ORDER BY {keys}"
        self.get_sql = f"{self._select} WHERE {here}"
        self.put_sql = f'INSERT OR REPLACE INTO "{self.table}" ({names}) VALUES ({marks})'  # noqa: S608  # see above
        self.delete_sql = f'DELETE FROM "{self.table}" WHERE {here}'  # noqa: S608  # see above
        octets = " AND ".join(f'CAST("{column.name}" AS BLOB) = CAST(? AS BLOB)' for column in self.key_columns)
        self.delete_damaged_sql = f'DELETE FROM "{self.table}" WHERE {octets}'  # noqa: S608  # see above

    def _key_columns(self, names: tuple[str, ...]) -> tuple[Column, ...]:
        columns = tuple(self._by_name[name] for name in names if name in self._by_name)
        if not names or len(columns) != len(names) or len(set(names)) != len(names):
            raise TypeError(f"{self.table}: key must name one or more different fields")
        if any(column.kind not in ("text", "integer") or column.is_optional for column in columns):
            raise TypeError(f"{self.table}: a key is made of str and int, never None")
        return columns

    def _owners(self, sealed_under: str) -> tuple[int, ...]:
        """Return where in a row the fields stand that name its data key; none for the vault's own."""
        names = re.findall(r"\{(\w+)\}", sealed_under)
        columns = [self._by_name.get(name) for name in names]
        is_named = names and all(c is not None and c.kind == "text" and not c.is_optional for c in columns)
        if not is_named and sealed_under != VAULT_DATA_KEY:
            raise TypeError(f'{self.table}: sealed_under is "{VAULT_DATA_KEY}" or names a str field as "{{field}}"')
        return tuple(self._position[name] for name in names)

    def data_key_name(self, row: Sequence[object]) -> str:
        """Return the name of the data key of a row's secrets, from its stored values."""
        if not self._owned_by:
            return VAULT_DATA_KEY
        return check_data_key_name(self._data_key.format(*(row[index] for index in self._owned_by)))


def create_sql(table: str, columns: Sequence[Defined], key: Sequence[str]) -> str:
    """Return the statement that makes a table with these columns and one for the row's MAC.

    The names come from our own classes, which checked them.
    """
    definitions = ", ".join((*(column.sql for column in columns), f'"{MAC_COLUMN}" BLOB NOT NULL'))
    keys = ", ".join(f'"{name}"' for name in key)
    # WITHOUT ROWID: the primary key is the table, so a commit writes one tree less, and no index can
    # disagree with the table. Pointless for a single integer key, which is the rowid anyway.
    (first, *rest) = (column.sql for name in key for column in columns if column.name == name)
    is_rowid = not rest and first == f'"{key[0]}" INTEGER NOT NULL'
    return f'CREATE TABLE "{table}" ({definitions}, PRIMARY KEY ({keys})) STRICT{"" if is_rowid else ", WITHOUT ROWID"}'


def check_data_key_name(name: str) -> str:
    """Return the name of a data key that may be made and erased; ValueError for any other.

    The vault's own key is not one of them: one mistaken erase would lose the device's identity.
    """
    if not 0 < len(name) <= DATA_KEY_NAME_CHARS_MAX or name == VAULT_DATA_KEY:
        raise ValueError(f"a data key's name has 1 to {DATA_KEY_NAME_CHARS_MAX} characters and is not the vault's")
    return name


def layouts_of(records: Sequence[type[Record]]) -> dict[type[Record], Layout[Record]]:
    """Prepare the layouts of all record types; TypeError when two of them share a table."""
    layouts = {record: Layout(record) for record in records}
    if len({layout.table for layout in layouts.values()}) != len(records):
        raise TypeError("two record types share a table")
    return layouts


def layout_for(layouts: Mapping[type[Record], Layout[Record]], record: type[R]) -> Layout[R]:
    """Return the layout of a record type that the vault was opened with; TypeError for any other."""
    layout = layouts.get(record)
    if layout is None:
        raise TypeError(f"the vault was opened without {record.__name__}")
    return cast("Layout[R]", layout)


def _column_of(name: str, hint: object) -> Column:
    if not _NAME.fullmatch(name) or name == MAC_COLUMN:
        raise TypeError(f"{name!r} cannot be the name of a column")
    options = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    present = [option for option in options if option is not type(None)]
    if len(present) != 1:
        raise TypeError(f"column {name}: a union of types cannot be stored")
    only = present[0]
    kind = _PLAIN.get(only)
    choices: dict[str | int, object] = {}
    secret: type[AnySecret] | None = None
    text: bool | None = None
    if get_origin(only) is Literal:
        choices = {value: value for value in get_args(only)}
        kind = _kind_of_choices(name, choices)
    elif isinstance(only, type) and issubclass(only, enum.Enum):
        choices = {member.value: member for member in only}
        kind = _kind_of_choices(name, choices)
    elif isinstance(only, type) and issubclass(only, Secret):
        text = _holds_text(only)
        secret, kind = only, "secret"
    if kind is None:
        raise TypeError(f"column {name}: {only} cannot be stored")
    return Column(name, kind, len(options) > 1, choices, secret, bool(text))


def _kind_of_choices(name: str, choices: Mapping[str | int, object]) -> Kind:
    kinds = {type(value) for value in choices}
    if kinds == {str}:
        return "text"
    if kinds == {int}:
        return "integer"
    raise TypeError(f"column {name}: choices are all str or all int")


def _holds_text(secret: type[AnySecret]) -> bool:
    """Return whether a Secret type holds str, not bytes, as its definition ``class X(Secret[str])`` says."""
    for base in secret.__mro__:
        for generic in getattr(base, "__orig_bases__", ()):
            if get_origin(generic) is Secret and get_args(generic)[0] in (str, bytes):
                return get_args(generic)[0] is str
    raise TypeError(f"{secret.__name__} says neither Secret[str] nor Secret[bytes]")


def _bounded_text(name: str, value: str) -> str:
    if len(value) <= VALUE_BYTES_MAX and value.isascii():
        return value
    if len(value.encode()) > VALUE_BYTES_MAX:  # lone surrogates fail here: UnicodeEncodeError is a ValueError
        raise ValueError(f"column {name}: more than {VALUE_BYTES_MAX} bytes")
    return value
