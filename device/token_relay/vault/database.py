"""Makes, opens and examines a vault's database file, before anybody works with it.

Invariants: a vault appears under its name only when it is complete (made under another name, then renamed), so
an empty or cut ``vault.db`` is always damage; a file that is damaged, foreign or from a newer program is never changed.
Everything here blocks and runs on the vault's own thread.

Pragmas and why: ``journal_mode=DELETE, synchronous=EXTRA`` make a commit survive power loss, the removal of the
journal included; ``secure_delete`` overwrites what is deleted; ``trusted_schema=OFF, cell_size_check=ON,
mmap_size=0`` keep a prepared file from doing harm; ``temp_store=MEMORY`` leaves no copies.

Source: sqlite.org/pragma.html, sqlite.org/security.html.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from token_relay.agents.ports import Record
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import PrivateKey
from token_relay.vault import keyring
from token_relay.vault.errors import CorruptVaultError, WrongVaultKeyError
from token_relay.vault.files import check_directory, check_private, create_private, side_files, sync_directory
from token_relay.vault.keyring import new_data_key
from token_relay.vault.records import VAULT_DATA_KEY, Layout
from token_relay.vault.schema import LayoutError, SchemaStep, apply, version_of
from token_relay.vault.sealing import SALT_BYTES, check_of, kek_of, unwrap

APPLICATION_ID = 0x52545631  # "RTV1", so that file(1) and we recognise a vault
BUSY_TIMEOUT_S = 5.0  # another SQLite program may read the file; agents keep each other out by the lock
SQLITE_VERSION_MIN = (3, 37, 0)  # STRICT tables

_META_SQL = 'CREATE TABLE "meta" ("name" TEXT NOT NULL PRIMARY KEY, "value" BLOB NOT NULL) STRICT, WITHOUT ROWID'
_PUT_META_SQL = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"
_PRAGMAS = (
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "mmap_size=0",
    "temp_store=MEMORY",
    "foreign_keys=ON",
    "secure_delete=ON",
    "journal_mode=DELETE",
    "synchronous=EXTRA",
)
# Read back, because SQLite silently ignores a pragma that it does not know or cannot obey.
_REQUIRED = {"journal_mode": "delete", "synchronous": 3, "secure_delete": 1, "trusted_schema": 0}

# After one of these in COMMIT nobody knows what is on the disk: the kernel may have dropped the dirty pages and will
# report the next fsync as a success, or the journal's removal may or may not last.
_UNKNOWN_OUTCOME = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC, sqlite3.SQLITE_IOERR_DELETE})


class Database(NamedTuple):
    """An open vault, the key that wraps its data keys, and the schema that the file had before it was opened."""

    connection: sqlite3.Connection
    kek: PrivateKey
    found_version: int


def open_database(
    path: Path, key: PrivateKey, layouts: Collection[Layout[Record]], steps: Sequence[SchemaStep], *, create: bool
) -> Database:
    """Open and examine the vault at ``path``, or make it when it is absent and ``create``.

    The caller holds the lock. Reads the whole file once (``quick_check``). Brings an older vault to the version of the
    last step, one transaction a step: after a kill at any instant, the next open goes on from there. Durable on return.

    Raises:
        CorruptVaultError: damaged, cut, not a vault. WrongVaultKeyError: whole, but under another key.
        VaultError: mode, owner, absent, disk, or written by a newer program. LayoutError: no step fits it.
    """
    if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
        raise VaultError(f"SQLite {sqlite3.sqlite_version} is too old, 3.37 is needed")
    schema_version = version_of(steps)
    check_directory(path.parent)
    if not path.is_symlink() and not path.exists():
        _create(path, key, layouts, schema_version, is_allowed=create)
    check_private(path)
    with sqlite_errors_mapped(path):
        connection = _connect(path)
        try:
            kek, found_version = _examine(connection, path, key, schema_version)
            for step in steps[found_version - 1 :]:
                _update(connection, path, kek, step, layouts if step is steps[-1] else ())
            if not _is_laid_out(connection, layouts):
                raise CorruptVaultError(f"{path} is not laid out as schema {schema_version} says")
            return Database(connection, kek, found_version)
        except BaseException:
            connection.close()
            raise


@contextmanager
def sqlite_errors_mapped(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about file and disk into a VaultError; errors about our statements are bugs."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except sqlite3.Error as exc:
        raise _mapped(exc, path) from exc
    except UnicodeDecodeError:  # an error message quotes a damaged schema
        raise CorruptVaultError(f"{path} is damaged") from None


def is_outcome_unknown(error: BaseException) -> bool:
    """Return whether a COMMIT that failed with this error (or its cause) may be on the disk all the same."""
    cause = error.__cause__ if isinstance(error, VaultError) else error
    return getattr(cause, "sqlite_errorcode", None) in _UNKNOWN_OUTCOME


def _mapped(exc: sqlite3.Error, path: Path) -> VaultError:
    extended: int | None = getattr(exc, "sqlite_errorcode", None)
    if extended is None:
        # A stored row can cause only one error without a code: text that is not UTF-8. The message quotes it.
        return CorruptVaultError(f"{path} holds damaged text")
    match extended & 0xFF:
        # ERROR is "no such table", "unsupported file format" …: our few statements are right, so the file is not.
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR:
            return CorruptVaultError(f"{path} is damaged: {exc}")
        case sqlite3.SQLITE_FULL:
            return VaultError(f"no room to write {path}", hint="make room on the disk; nothing is lost")
        case sqlite3.SQLITE_BUSY:
            return VaultError(f"another program holds {path}", hint="close the program that reads it")
        case sqlite3.SQLITE_READONLY:
            return VaultError(f"{path} cannot be written", hint="make its file system writable: mount -o remount,rw")
        case _:
            return VaultError(f"cannot use {path}: {exc}")


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"  # rw: never make a file that is not there
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, cached_statements=256)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        for name, wanted in _REQUIRED.items():
            (actual,) = connection.execute(f"PRAGMA {name}").fetchone()
            if actual != wanted:
                raise VaultError(f"SQLite keeps {name} at {actual}, {wanted} is needed")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(
    path: Path, key: PrivateKey, layouts: Collection[Layout[Record]], schema_version: int, *, is_allowed: bool
) -> None:
    # A journal that outlived its database would be played back into the new one.
    orphans = [side for side in side_files(path) if side.exists()]
    if orphans:
        raise CorruptVaultError(f"{path} is gone, but {orphans[0].name} is there")
    if not is_allowed:
        raise VaultError(f"there is no vault at {path}", hint="run init first")
    new = path.with_name(path.name + ".new")
    try:
        for leftover in (new, *side_files(new)):  # of a creation that a power cut ended; they never held anything
            leftover.unlink(missing_ok=True)
        create_private(new, b"")
        with sqlite_errors_mapped(new):
            connection = _connect(new)
            try:
                _fill(connection, key, layouts, schema_version)
            finally:
                connection.close()
        new.rename(path)
        sync_directory(path.parent)
    except OSError as exc:
        raise VaultError(f"cannot create {path}: {exc.strerror}") from exc


def _fill(
    connection: sqlite3.Connection, key: PrivateKey, layouts: Collection[Layout[Record]], schema_version: int
) -> None:
    salt = os.urandom(SALT_BYTES)
    _, wrapped = new_data_key(kek_of(key, salt), VAULT_DATA_KEY)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    for sql in (_META_SQL, keyring.CREATE_SQL, *(layout.create_sql for layout in layouts)):
        connection.execute(sql)
    connection.execute("INSERT INTO data_keys (name, wrapped) VALUES (?, ?)", (VAULT_DATA_KEY, wrapped))
    connection.execute(_PUT_META_SQL, ("salt", salt))
    _put_version(connection, schema_version, salt, wrapped)
    connection.execute("COMMIT")


def _put_version(connection: sqlite3.Connection, schema_version: int, salt: bytes, wrapped: bytes) -> None:
    check = check_of(schema_version=schema_version, salt=salt, wrapped=wrapped)
    connection.execute(_PUT_META_SQL, ("check", check))
    connection.execute(f"PRAGMA user_version={schema_version}")


def _examine(
    connection: sqlite3.Connection,
    path: Path,
    key: PrivateKey,
    schema_version: int,
) -> tuple[PrivateKey, int]:
    """Return the KEK and the version of a whole vault that is not newer than this program."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise CorruptVaultError(f"{path} is damaged: {str(verdict)[:200]}")
    tables: dict[object, object] = {}
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_schema"):
        if kind != "table":  # we make no view, trigger or index: such a thing may execute something
            raise CorruptVaultError(f"{path} holds a foreign {kind}")
        tables[name] = sql
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    own = {"meta": _META_SQL, "data_keys": keyring.CREATE_SQL}
    if application_id != APPLICATION_ID or any(tables.get(name) != sql for name, sql in own.items()):
        raise CorruptVaultError(f"{path} is not a vault, or is damaged")
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    row = connection.execute("SELECT wrapped FROM data_keys WHERE name = ?", (VAULT_DATA_KEY,)).fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    salt, wrapped = meta.get("salt"), row[0] if row else None
    if not isinstance(salt, bytes) or not isinstance(wrapped, bytes) or len(salt) != SALT_BYTES or version < 1:
        raise CorruptVaultError(f"{path} has lost its key data")
    if meta.get("check") != check_of(schema_version=version, salt=salt, wrapped=wrapped):
        raise CorruptVaultError(f"{path} has damaged key data")
    kek = kek_of(key, salt)
    if unwrap(wrapped, kek=kek, name=VAULT_DATA_KEY) is None:
        raise WrongVaultKeyError(
            f"wrong vault key for {path}",
            hint=f"bring back the vault.key of {path.parent}",
        )
    if version > schema_version:
        raise VaultError(
            f"{path} was written by a newer program (schema {version}, this one knows {schema_version})",
            hint="install the newer version again; a vault cannot go back: token-relay docs updating",
        )
    return kek, version


def _update(
    connection: sqlite3.Connection, path: Path, kek: PrivateKey, step: SchemaStep, layouts: Collection[Layout[Record]]
) -> None:
    """Bring the vault one version on, whole or not at all: a caller that gets an error closes the connection."""
    connection.text_factory = lambda octets: octets.decode(errors="surrogateescape")  # a damaged row must not stop it
    connection.execute("BEGIN IMMEDIATE")
    try:
        apply(step, connection, kek)
    except LayoutError as exc:
        raise LayoutError(f"{path} is not laid out as schema {step.version - 1} says: {exc}") from exc
    if not _is_laid_out(connection, layouts):
        raise LayoutError(f"{path} is not laid out as schema {step.version} says after the update")
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    (wrapped,) = connection.execute("SELECT wrapped FROM data_keys WHERE name = ?", (VAULT_DATA_KEY,)).fetchone()
    _put_version(connection, step.version, meta["salt"], wrapped)
    connection.execute("COMMIT")
    connection.text_factory = str


def _is_laid_out(connection: sqlite3.Connection, layouts: Collection[Layout[Record]]) -> bool:
    tables = dict(connection.execute("SELECT name, sql FROM sqlite_schema").fetchall())
    return all(tables.get(layout.table) == layout.create_sql for layout in layouts)
