"""A vault in memory with the contract of the real one, but without thread, file, randomness or cryptography.

The tables hold the frozen records themselves. A row whose data key has been erased stays without its secrets, and
reading it is the same error as on disk, even after a key was made again under the old name.

The committed state is one immutable :class:`Image`; a step works on copies of the tables it writes. Hence
:meth:`MemoryVault.snapshot` and :meth:`MemoryVault.restore` cost nothing: a crash keeps the image and drops
the rest, a restored backup is an older image.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from token_relay.agents.ports import Record, Transaction
from token_relay.protocol.errors import VaultError
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.records import VAULT_DATA_KEY, Layout, check_data_key_name

T = TypeVar("T")
R = TypeVar("R", bound=Record)

Key = tuple[str | int, ...]
Rows = Mapping[Key, Record]
_NO_ROWS: Rows = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Image:
    """The content of the disk after a commit. It compares by content, so that histories can be compared.

    ``lost`` names the rows whose secrets were erased with their data key while the row stayed.
    """

    tables: Mapping[type[Record], Rows] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    lost: frozenset[tuple[type[Record], Key]] = frozenset()


class _Shape(Generic[R]):
    """The data that is prepared once for each record type."""

    def __init__(self, record: type[R]) -> None:
        self.layout = Layout(record)
        self.secrets = tuple(column.name for column in self.layout.columns if column.kind == "secret")
        self.key_of = cast(
            "Callable[[R], Key]", attrgetter(*record.key) if len(record.key) > 1 else _single(record.key)
        )
        self.sealed_under = "" if record.sealed_under == VAULT_DATA_KEY else record.sealed_under
        self.owners = tuple(re.findall(r"\{(\w+)\}", self.sealed_under))
        self.reals = tuple(column.name for column in self.layout.columns if column.kind == "real")
        self.getters = {column.name: attrgetter(column.name) for column in self.layout.columns}
        self.known_searches: set[frozenset[str]] = set()
        self.is_known = False

    def data_key_of(self, row: Record) -> str:
        """Return the name of the data key of a row's secrets."""
        return self.sealed_under.format_map({name: getattr(row, name) for name in self.owners})


_SHAPES: dict[type[Record], _Shape[Any]] = {}


class MemoryVault:
    """A :class:`token_relay.agents.ports.Vault` for simulations and fast tests.

    ``commits`` counts the steps that changed something. While ``failure`` is set, it refuses every step, as a full
    disk does. ``checks_values``: examine every value of every record as the disk would;
    without it, only the first record of each type, for speed: the other tiers of the simulation examine all.
    """

    def __init__(
        self, records: tuple[type[Record], ...], image: Image | None = None, *, checks_values: bool = True
    ) -> None:
        self._shapes = {record: _shape(record) for record in records}
        if len({record.table for record in records}) != len(records):
            raise TypeError("two record types share a table")
        self._image = image or Image()
        self._checks_values = checks_values
        self.commits = 0
        self.failure: VaultError | None = None

    async def run(self, step: Callable[[Transaction], T]) -> T:
        """Run ``step``; see :class:`token_relay.agents.ports.Vault`. Commits, then lets other tasks run once.

        So a caller that is cancelled here finds its step kept, as with the real vault.
        """
        try:
            if self.failure is not None:
                raise self.failure
            return self.transact(step, _agree)
        finally:
            await asyncio.sleep(0)

    def snapshot(self) -> Image:
        """Return the committed state."""
        return self._image

    image = snapshot

    @property
    def tables(self) -> Mapping[type[Record], Rows]:
        """Return the committed rows; a new object after each change."""
        return self._image.tables

    def restore(self, image: Image) -> None:
        """Make ``image`` the committed state: a reboot, or a backup put back."""
        self._image = image

    def read(self, step: Callable[[Transaction], T]) -> T:
        """Run a step that changes nothing."""
        return self.transact(step, _forbid)

    def open(self) -> None:
        """Do nothing: a vault in memory is always open."""

    abandon = tear = close = open

    def transact(self, step: Callable[[Transaction], T], refuse: Callable[[], None]) -> T:
        """Run one step to its commit. ``refuse`` is called before a change is kept, and may raise to prevent it."""
        transaction = _MemoryTransaction(self._image, self._shapes, checks_values=self._checks_values)
        try:
            result = step(transaction)
            if asyncio.iscoroutine(result):
                result.close()
                raise TypeError("a step is a plain function, not a coroutine")
        finally:
            image = transaction.end()
        if image is not self._image:
            refuse()
            self._image = image
            self.commits += 1
        return result


class _MemoryTransaction:
    """What one step sees: the image, and copies of the tables it has written."""

    def __init__(self, image: Image, shapes: Mapping[type[Record], _Shape[Any]], *, checks_values: bool) -> None:
        self._image = image
        self._tables = image.tables
        self._shapes = shapes
        self._checks_values = checks_values
        self._written: dict[type[Record], dict[Key, Record]] = {}
        self._lost = image.lost
        self._has_ended = False

    def get(self, record: type[R], *key: str | int) -> R | None:
        shape = self._shapes.get(record)
        if shape is None or self._has_ended or self._checks_values:
            shape = self._shape(record)
            shape.layout.check_key(key)
        written = self._written.get(record)
        row = (self._tables.get(record, _NO_ROWS) if written is None else written).get(key)
        if row is not None and self._lost and (record, key) in self._lost:
            raise _corrupt()
        return cast("R | None", row)

    def select(self, record: type[R], **equals: str | int | bool | None) -> list[R]:
        shape = self._shapes.get(record)
        if shape is None or self._has_ended or self._checks_values or frozenset(equals) not in shape.known_searches:
            shape = self._shape(record)
            shape.layout.check_equals(equals)
            shape.known_searches.add(frozenset(equals))
        rows = cast("Mapping[Key, R]", self._rows(record))
        if not rows:
            return []
        found = list(rows.items())
        for name, value in equals.items():
            get = shape.getters[name]
            found = [item for item in found if get(item[1]) == value]
        if self._lost and any((record, key) in self._lost for key, _ in found):
            raise _corrupt()
        if len(found) > 1:
            found.sort(key=_first)
        return [row for _, row in found]

    def put(self, record: Record) -> None:
        kind = type(record)
        shape = self._shapes.get(kind)
        if shape is None or self._has_ended or self._checks_values or not shape.is_known:
            shape = self._shape(kind)
            shape.layout.encode(record, _unsealed)
            shape.is_known = True
            whole = {name: float(value) for name in shape.reals if type(value := getattr(record, name)) is int}
            if whole:  # a disk gives a float back
                record = replace(cast("Any", record), **whole)
        key = shape.key_of(record)
        self._writable(kind)[key] = record
        if self._lost:
            self._lost -= {(kind, key)}

    def delete(self, record: type[R], *key: str | int) -> None:
        shape = self._shape(record)
        if self._checks_values:
            shape.layout.check_key(key)
        if key in self._rows(record):
            del self._writable(record)[key]
            if self._lost:
                self._lost -= {(record, key)}

    def erase_key(self, data_key: str) -> None:
        self._check_usable()
        check_data_key_name(data_key)
        for kind, shape in self._shapes.items():
            if not shape.sealed_under or not shape.secrets:
                continue
            for key, row in list(self._rows(kind).items()):
                present = [name for name in shape.secrets if getattr(row, name) is not None]
                if present and shape.data_key_of(row) == data_key:
                    # without its secrets: even an observer of the disk must not see them any more
                    self._writable(kind)[key] = replace(cast("Any", row), **dict.fromkeys(present))
                    self._lost |= {(kind, key)}

    def end(self) -> Image:
        """Make every later use an error; return the step's new state, or the old one if nothing changed."""
        self._has_ended = True
        if not self._written:
            return self._image
        return Image(MappingProxyType({**self._image.tables, **self._written}), self._lost)

    def _rows(self, record: type[Record]) -> Rows:
        written = self._written.get(record)
        return written if written is not None else self._image.tables.get(record, _NO_ROWS)

    def _writable(self, record: type[Record]) -> dict[Key, Record]:
        rows = self._written.get(record)
        if rows is None:
            rows = self._written[record] = dict(self._image.tables.get(record, _NO_ROWS))
        return rows

    def _shape(self, record: type[R]) -> _Shape[R]:
        self._check_usable()
        shape = self._shapes.get(record)
        if shape is None:
            raise TypeError(f"the vault was opened without {record.__name__}")
        return shape

    def _check_usable(self) -> None:
        if self._has_ended:
            raise RuntimeError("a transaction was used after its step had returned")


def _shape(record: type[Record]) -> _Shape[Any]:
    found = _SHAPES.get(record)
    if found is None:
        found = _SHAPES[record] = _Shape(record)
    return found


def _single(names: tuple[str, ...]) -> Callable[[object], tuple[Any, ...]]:
    get = attrgetter(names[0])
    return lambda record: (get(record),)


def _first(item: tuple[Any, Any]) -> Any:
    return item[0]


def _unsealed(name: str, place: bytes, secret: object) -> bytes:
    return b""


def _agree() -> None:
    """Refuse nothing."""


def _forbid() -> None:
    raise AssertionError("a disk is only read from outside")


def _corrupt() -> CorruptVaultError:
    return CorruptVaultError("the data key of a secret is missing: erased, or damaged")
