"""The vault on disk: one SQLite database, one connection, one thread, one step after the other.

The agents acknowledge only what is on disk, and in the order of their steps; so there is exactly one writer, and
:meth:`SqliteVault.run` returns after COMMIT. A step that wrote nothing costs no disk access.

Invariants: a step is kept whole or not at all; after an error the next step finds the state before it; no
secret reaches SQLite unsealed; nobody can use a transaction object after its step has returned.

Limits: a disk that lies about flushing defeats every store. An older copy of the whole file opens like the true one:
only the peer can notice. Each row carries a MAC, so a changed octet shows; a row that is missing, or is an older one of
its key, does not show.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import Damaged
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import PrivateKey
from token_relay.vault.database import is_outcome_unknown, open_database, sqlite_errors_mapped
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.files import Lock, check_directory, lock_path
from token_relay.vault.keyring import KeyRing
from token_relay.vault.records import Column, Layout, StoredValue, layout_for, layouts_of
from token_relay.vault.schema import SchemaStep
from token_relay.vault.sealing import NONCE_BYTES, AnySecret, mac_of, open_cell, seal_cell

T = TypeVar("T")
R = TypeVar("R", bound=Record)

STEPS_WAITING_MAX = 1024  # some seconds of commits on an SD card; a caller this far ahead gets an error instead


class SqliteVault:
    """The :class:`.agents.ports.Vault` of one agent. Make it with :meth:`open`, close it with ``async with``."""

    def __init__(
        self,
        path: Path,
        *,
        writer: ThreadPoolExecutor,
        lock: Lock,
        connection: sqlite3.Connection,
        keys: KeyRing,
        layouts: Mapping[type[Record], Layout[Record]],
        found_version: int,
    ) -> None:
        self.found_version = found_version  # the schema that the file had when it was opened
        self._path = path
        self._writer = writer
        self._lock = lock
        self._connection = connection
        self._keys = keys
        self._layouts = layouts
        self._waiting = 0
        self._closing: Future[None] | None = None
        self._is_stopped = False
        self._irreplaceable: frozenset[type[Record]] | None = None
        self._on_damage: Callable[[], None] = lambda: None

    @classmethod
    def open(
        cls,
        path: Path,
        key: PrivateKey,
        records: tuple[type[Record], ...],
        steps: Sequence[SchemaStep] = (),
        *,
        create: bool = True,
    ) -> SqliteVault:
        """Open the vault at ``path`` (``…/vault.db``), or make it when it is absent and ``create``. Blocks.

        ``steps`` lead from the first version to that of ``records``: an older vault is brought there, durably, a newer
        one is refused.

        Raises:
            CorruptVaultError: damaged; :func:`token_relay.vault.files.set_aside` moves it away, a person pairs again.
            WrongVaultKeyError: whole, but made with another vault key.
            VaultError: a second process, wrong mode or owner, disk, version; the hint says what to do.
        """
        layouts = layouts_of(records)
        check_directory(path.parent)
        lock = Lock(lock_path(path))
        writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vault")
        try:
            opened = writer.submit(open_database, path, key, layouts.values(), steps, create=create).result()
        except BaseException:
            writer.shutdown()
            lock.release()
            raise
        return cls(
            path,
            writer=writer,
            lock=lock,
            connection=opened.connection,
            keys=KeyRing(opened.connection, opened.kek),
            layouts=layouts,
            found_version=opened.found_version,
        )

    async def run(self, step: Callable[[Transaction], T]) -> T:
        """Run ``step`` in one transaction on the vault's thread, in order of calls; its effect is durable on return.

        A cancelled call returns at once, while a step that was handed over runs to its end; the next ``run`` waits
        for it. See :class:`token_relay.agents.ports.Vault`.

        Raises:
            VaultError: the disk refused (nothing was kept), the vault is closed or has stopped, or more than
                ``STEPS_WAITING_MAX`` steps wait. CorruptVaultError: what the step read is damaged.
        """
        if self._closing is not None:
            raise VaultError("the vault is closed")
        if self._waiting >= STEPS_WAITING_MAX:
            raise VaultError(f"more than {STEPS_WAITING_MAX} steps wait for the vault")
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._writer, self.transact, step)
        future.add_done_callback(self._count_down)
        return await asyncio.shield(future)

    async def examine(self, irreplaceable: frozenset[type[Record]]) -> list[str]:
        """Read every row once, and give up those that are damaged; return their tables, durably noted in ``Damaged``.

        A row shows its damage only when it is read, and then it would be an error at each question. Where only a
        secret does not open, the row stays without it. From now on the same is done when a step meets damage; the step
        is run once more then, and finds the rest.

        Raises:
            CorruptVaultError: a row of these types is damaged; nothing was changed.
        """
        self._irreplaceable = irreplaceable
        return await self.run(self._give_up)

    def when_damaged(self, call: Callable[[], None]) -> None:
        """Have ``call`` called, on the event loop, after a step met damage and it was given up."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(call)

        self._on_damage = tell

    async def close(self) -> None:
        """Let the waiting steps finish, close the file, drop the lock. May be called again."""
        if self._closing is None:
            self._closing = self._writer.submit(self._shut)
            self._writer.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(self._closing))

    def close_now(self) -> None:
        """Close as :meth:`close` does. Blocks; for callers without an event loop."""
        if self._closing is None:
            self._closing = self._writer.submit(self._shut)
            self._writer.shutdown(wait=False)
        self._closing.result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _count_down(self, step: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not step.cancelled():
            step.exception()  # seen: where the caller has been cancelled, nobody else looks, and asyncio complains

    def _shut(self) -> None:
        try:
            self._connection.close()
        finally:
            self._keys.forget()
            self._lock.release()

    def transact(self, step: Callable[[Transaction], T]) -> T:
        """Run ``step`` as :meth:`run` does, on the calling thread, which must be the one that opened the connection."""
        try:
            return self._attempt(step)
        except CorruptVaultError:
            if not self._mend():
                raise
        return self._attempt(step)  # it finds the rest

    def _attempt(self, step: Callable[[Transaction], T]) -> T:
        if self._is_stopped:
            raise VaultError(
                "the vault has stopped after a disk error", hint="look at the disk with dmesg, then restart the agent"
            )
        transaction = _Transaction(self._path, self._connection, self._keys, self._layouts)
        try:
            with sqlite_errors_mapped(self._path):
                self._connection.execute("BEGIN IMMEDIATE")
            result = step(transaction)
            if asyncio.iscoroutine(result):
                result.close()
                raise TypeError("a step is a plain function, not a coroutine")
            if transaction.failure is not None:  # the step swallowed it; SQLite may have rolled back already
                raise transaction.failure
            self._commit()
        except BaseException:
            self._roll_back()
            raise
        finally:
            transaction.end()
        return result

    def _mend(self) -> bool:
        """Give up what is damaged; False: nothing was, or more than rows is, which the next start sets aside."""
        if self._irreplaceable is None:
            return False
        try:
            given_up = self._attempt(self._give_up)
        except VaultError:
            self._is_stopped = True
            return False
        if given_up:
            self._on_damage()
        return bool(given_up)

    def _give_up(self, tx: Transaction) -> list[str]:
        assert isinstance(tx, _Transaction) and self._irreplaceable is not None
        return [table for layout in self._layouts.values() for table in tx.give_up(layout, self._irreplaceable)]

    def _commit(self) -> None:
        try:
            with sqlite_errors_mapped(self._path):
                self._connection.execute("COMMIT")
        except VaultError as exc:
            if is_outcome_unknown(exc):
                self._is_stopped = True
                raise VaultError(
                    "the disk failed while storing; what it holds now is unknown until the agent starts again",
                    hint="look at the disk with dmesg, then restart the agent",
                ) from exc
            raise

    def _roll_back(self) -> None:
        self._keys.forget()
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                # The file or its journal is untouched: the next transaction plays that back, or fails as this one did.
                self._is_stopped = self._is_stopped or self._connection.in_transaction


class _Transaction:
    """What one step sees; lives on the writer thread for the length of the step."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        keys: KeyRing,
        layouts: Mapping[type[Record], Layout[Record]],
    ) -> None:
        self._path = path
        self._connection = connection
        self._keys = keys
        self._layouts = layouts
        self._has_ended = False
        self.failure: VaultError | None = None

    def get(self, record: type[R], *key: str | int) -> R | None:
        layout = self._layout(record)
        rows = self._execute(layout.get_sql, layout.check_key(key))
        return self._record(layout, rows[0]) if rows else None

    def select(self, record: type[R], **equals: str | int | bool | None) -> list[R]:
        layout = self._layout(record)
        stored = layout.check_equals(equals)
        rows = self._execute(layout.select_sql(tuple(stored)), tuple(stored.values()))
        return [self._record(layout, row) for row in rows]

    def put(self, record: Record) -> None:
        layout = self._layout(type(record))
        row = layout.encode(record, self._seal)
        self._execute(layout.put_sql, (*row, mac_of(layout.table, row, mac_key=self._keys.mac_key)))

    def delete(self, record: type[R], *key: str | int) -> None:
        layout = self._layout(record)
        self._execute(layout.delete_sql, layout.check_key(key))

    def erase_key(self, data_key: str) -> None:
        self._check_usable()
        with self._guarded():
            self._keys.erase(data_key)

    def give_up(self, layout: Layout[Record], irreplaceable: frozenset[type[Record]]) -> list[str]:
        """Delete this table's damaged rows, or their secrets, and note them; return the table once for each."""
        given_up = []
        self._connection.text_factory = _lenient  # a damaged text may not be UTF-8
        try:
            rows = self._execute(layout.select_sql(()), ())
        finally:
            self._connection.text_factory = str
        for found in rows:
            try:
                self._record(layout, found)
                continue
            except CorruptVaultError:
                self.failure = None
                if layout.record in irreplaceable:
                    raise
            key = layout.key_of(found)
            self._execute(layout.delete_damaged_sql, [_octets(part) for part in key])
            if (left := self._without_secrets(layout, found)) is not None:
                self.put(left)
            if layout.record is not Damaged:
                number = max((row.number for row in self.select(Damaged)), default=0) + 1
                self.put(Damaged(number, layout.table, " ".join(map(_shown, key))))
            given_up.append(layout.table)
        return given_up

    def _without_secrets(self, layout: Layout[R], found: Sequence[object]) -> R | None:
        """Return the rest of a row if that is as it was written, and drop a data key that does not open."""
        try:
            *row, _ = found
            self._check_mac(layout, found)
            name = layout.data_key_name(row)
            try:
                self._keys.get(name)
            except CorruptVaultError:
                self._keys.erase(name)
            return layout.decode(layout.without_secrets(row), self._open)
        except CorruptVaultError:
            self.failure = None
            return None

    def end(self) -> None:
        """Make every later use an error."""
        self._has_ended = True

    def _record(self, layout: Layout[R], found: Sequence[object]) -> R:
        self._check_mac(layout, found)
        return layout.decode(found[:-1], self._open)

    def _check_mac(self, layout: Layout[R], found: Sequence[object]) -> None:
        *row, mac = found
        expected = mac_of(layout.table, row, mac_key=self._keys.mac_key)
        if not isinstance(mac, bytes) or not hmac.compare_digest(mac, expected):
            raise CorruptVaultError(f"a row of table {layout.table} in {self._path} is damaged")

    def _seal(self, name: str, place: bytes, secret: AnySecret) -> bytes:
        with self._guarded():
            data_key = self._keys.get_or_make(name)
        return seal_cell(secret, data_key=data_key, place=place, nonce=os.urandom(NONCE_BYTES))

    def _open(self, name: str, place: bytes, column: Column, sealed: object) -> AnySecret:
        with self._guarded():
            data_key = self._keys.get(name)
        if data_key is None:
            raise CorruptVaultError("the data key of a secret is missing: erased, or damaged")
        opened = open_cell(sealed, data_key=data_key, place=place) if isinstance(sealed, bytes) else None
        if opened is None:
            raise CorruptVaultError(f"a secret in {self._path} does not open")
        return column.make_secret(opened)

    def _execute(self, sql: str, values: Sequence[StoredValue]) -> list[tuple[object, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as exc:
            self._fail(exc)

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        with self._guarded():
            raise error
        raise AssertionError("unreachable")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with sqlite_errors_mapped(self._path):
                yield
        except VaultError as exc:
            self.failure = exc
            raise

    def _layout(self, record: type[R]) -> Layout[R]:
        self._check_usable()
        return layout_for(self._layouts, record)

    def _check_usable(self) -> None:
        if self._has_ended:
            raise RuntimeError("a transaction was used after its step had returned")
        if self.failure is not None:
            raise self.failure


def _lenient(octets: bytes) -> str:
    return octets.decode(errors="surrogateescape")


def _octets(part: str | int) -> bytes | int:
    return part.encode(errors="surrogateescape") if isinstance(part, str) else part


def _shown(part: str | int) -> str:
    return str(part).encode(errors="backslashreplace").decode()
