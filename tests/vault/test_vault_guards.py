"""What a vault asks of SQLite and of the file system, one guard at a time."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.vault.samples import RECORDS, Grant, put
from token_relay.agents.ports import Transaction
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import PrivateKey
from token_relay.vault import database
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.files import check_directory, check_private, read_file
from token_relay.vault.keyring import KeyRing, new_data_key
from token_relay.vault.sealing import KEY_BYTES
from token_relay.vault.store import SqliteVault

KEY = PrivateKey(bytes(range(KEY_BYTES)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a vault may lie."""
    tmp_path.chmod(0o700)
    return tmp_path / "vault.db"


def pragma(vault: SqliteVault, name: str) -> Any:
    """Ask the vault's own connection, on its own thread."""

    def ask() -> Any:
        return vault._connection.execute(f"PRAGMA {name}").fetchone()[0]

    return vault._writer.submit(ask).result()


@pytest.mark.asyncio
async def test_the_pragmas_that_make_a_commit_durable_and_a_deletion_final_are_on(path: Path) -> None:
    vault = SqliteVault.open(path, KEY, RECORDS)
    async with vault:
        found = {
            name: pragma(vault, name) for name in ("journal_mode", "synchronous", "secure_delete", "trusted_schema")
        }
        # 3: EXTRA, sqlite.org/pragma.html#pragma_synchronous
        assert found == {"journal_mode": "delete", "synchronous": 3, "secure_delete": 1, "trusted_schema": 0}


def test_a_pragma_that_sqlite_does_not_obey_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PRAGMAS", [p for p in database._PRAGMAS if not p.startswith("synchronous")])
    with pytest.raises(VaultError, match="synchronous"):
        SqliteVault.open(path, KEY, RECORDS)


@pytest.mark.asyncio
async def test_what_was_deleted_is_not_in_the_file(path: Path) -> None:
    marks = [f"handoff-{number:03}-{'x' * 80}" for number in range(40)]

    def delete(tx: Transaction) -> None:
        for mark in marks:
            tx.delete(Grant, mark)

    async with SqliteVault.open(path, KEY, RECORDS) as vault:
        await vault.run(put(*(Grant(mark, 1, None) for mark in marks)))
        assert marks[0].encode() in path.read_bytes()
        await vault.run(delete)
    content = path.read_bytes()
    assert not [mark for mark in marks if mark.encode() in content]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o700, 0o620])
def test_a_file_that_others_may_touch_is_refused(path: Path, mode: int) -> None:
    path.write_bytes(b"")
    path.chmod(mode)
    with pytest.raises(VaultError, match="open to others"):
        check_private(path)
    path.chmod(0o600)
    check_private(path)


def test_a_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"")
    path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(VaultError, match="another user"):
        check_private(path)
    with pytest.raises(VaultError, match="another user"):
        read_file(path, bytes_max=10)


def test_a_directory_of_another_user_is_refused_unless_it_is_roots(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = path.parent.stat()
    owner = {"uid": found.st_uid}

    def stat_of(self: Path, **options: Any) -> os.stat_result:
        return os.stat_result((*found[:4], owner["uid"], *found[5:]))

    monkeypatch.setattr(Path, "stat", stat_of)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for uid, refused in ((0, False), (1000, False), (1001, True)):
        owner["uid"] = uid
        if refused:
            with pytest.raises(VaultError, match="another user"):
                check_directory(path.parent)
        else:
            check_directory(path.parent)


def test_what_is_not_a_file_or_not_a_directory_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0o600)
    with pytest.raises(VaultError, match="not a directory"):
        check_directory(path)
    with pytest.raises(VaultError, match="not a regular file"):
        read_file(path.parent, bytes_max=10, is_private=False)


@pytest.mark.parametrize(("size", "refused"), [(9, False), (10, False), (11, True), (1000, True)])
def test_a_small_file_is_read_whole_or_refused(path: Path, size: int, refused: bool) -> None:
    path.write_bytes(b"x" * size)
    path.chmod(0o600)
    if refused:
        with pytest.raises(VaultError, match="longer"):
            read_file(path, bytes_max=10)
    else:
        assert read_file(path, bytes_max=10) == b"x" * size


def ring() -> tuple[sqlite3.Connection, KeyRing]:
    """Return a key ring over a table in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE data_keys (name TEXT PRIMARY KEY, wrapped BLOB) STRICT")
    return connection, KeyRing(connection, KEY)


def test_a_data_key_that_was_changed_or_moved_is_damage() -> None:
    connection, keys = ring()
    keys.get_or_make("one")
    _, other = new_data_key(PrivateKey(bytes(32)), "two")
    connection.execute("INSERT INTO data_keys SELECT 'moved', wrapped FROM data_keys WHERE name = 'one'")
    connection.execute("INSERT INTO data_keys VALUES ('foreign', ?)", (other,))
    for name in ("moved", "foreign"):
        with pytest.raises(CorruptVaultError, match="damaged"):
            keys.get(name)
    connection.close()


def test_the_vaults_own_key_is_never_made_again() -> None:
    connection, keys = ring()
    with pytest.raises(CorruptVaultError, match="missing"):
        keys.get_or_make("vault")
    with pytest.raises(ValueError, match="not the vault's"):
        keys.erase("vault")
    connection.close()


def cut_open(path: Path, change: str) -> None:
    """Change a closed vault as another SQLite program could."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(change)
    connection.close()


@pytest.mark.asyncio
async def test_a_database_of_another_program_is_no_vault(path: Path) -> None:
    async with SqliteVault.open(path, KEY, RECORDS):
        pass
    cut_open(path, "PRAGMA application_id=1")
    with pytest.raises(CorruptVaultError, match="not a vault"):
        SqliteVault.open(path, KEY, RECORDS)


@pytest.mark.asyncio
async def test_damage_where_nobody_reads_is_found_at_the_start(path: Path) -> None:
    marks = [f"handoff-{number:04}-".ljust(100, "x") for number in range(400)]
    async with SqliteVault.open(path, KEY, RECORDS) as vault:
        await vault.run(put(*(Grant(mark, 1, None) for mark in marks)))
    content = bytearray(path.read_bytes())
    page = content.index(marks[200].encode()) // 4096 * 4096
    content[page + 8 : page + 64] = bytes(56)  # the cell pointers of one page of one table, sqlite.org/fileformat2.html
    path.write_bytes(content)
    with pytest.raises(CorruptVaultError, match="damaged"):
        SqliteVault.open(path, KEY, RECORDS)
