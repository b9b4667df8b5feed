"""A disk that refuses: the step is not kept, the state before it is, and the vault goes on or says that it stops."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vault.samples import GRANT, Counter, Grant, Mixed, open_vault
from tests.watchdog import HANG_S
from token_relay.agents.ports import Transaction
from token_relay.protocol.errors import VaultError
from token_relay.vault.database import is_outcome_unknown
from token_relay.vault.records import StoredValue

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).resolve().parents[2]

FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from token_relay.agents.ports import Transaction
from token_relay.protocol.errors import VaultError
from tests.vault.samples import Counter, Mixed, open_vault

async def main():
    directory = Path(sys.argv[2])
    async with open_vault(directory) as vault:
        await vault.run(lambda tx: tx.put(Counter(1, 1)))
        limit = (directory / "vault.db").stat().st_size + 20_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        def step(tx):
            tx.put(Counter(1, 2))
            tx.put(Mixed("p", 1, payload=bytes(500_000)))
        for _ in range(3):
            try:
                await vault.run(step)
            except VaultError as exc:
                print("refused")
            assert await vault.run(lambda tx: (tx.get(Counter, 1), tx.select(Mixed))) == (Counter(1, 1), [])
        await vault.run(lambda tx: tx.put(Counter(1, 3)))
        print("kept")

asyncio.run(main())
"""


async def test_a_file_that_may_not_grow_keeps_its_state_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert (done.stdout.split(), done.stderr) == (["refused", "refused", "refused", "kept"], "")
    async with open_vault(tmp_path) as vault:
        assert await vault.run(lambda tx: tx.get(Counter, 1)) == Counter(1, 3)


async def test_a_full_database_is_told_as_no_room_even_to_a_step_that_looks_away(tmp_path: Path) -> None:
    def step(tx: Transaction) -> None:
        tx.put(Counter(1, 2))
        try:
            tx.put(Mixed("p", 1, payload=bytes(500_000)))
        except VaultError:
            pass

    async with open_vault(tmp_path) as vault:
        await vault.run(lambda tx: tx.put(Counter(1, 1)))
        vault._writer.submit(lambda: vault._connection.execute("PRAGMA max_page_count = 20").fetchall()).result()
        with pytest.raises(VaultError, match="no room"):
            await vault.run(step)
        assert await vault.run(lambda tx: (tx.get(Counter, 1), tx.select(Mixed))) == (Counter(1, 1), [])
        await vault.run(lambda tx: tx.put(Counter(1, 3)))
        assert await vault.run(lambda tx: tx.get(Counter, 1)) == Counter(1, 3)


class FailingCommit:
    """A connection whose COMMIT ends with this SQLite error."""

    def __init__(self, connection: sqlite3.Connection, code: int) -> None:
        self._connection = connection
        self._code = code

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, sql: str, *values: Sequence[StoredValue]) -> sqlite3.Cursor:
        if sql == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self._code
            raise error
        return self._connection.execute(sql, *values)


async def test_after_a_failed_fsync_the_vault_stops_rather_than_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_vault(tmp_path) as vault:
        with monkeypatch.context() as patch:
            patch.setattr(vault, "_connection", FailingCommit(vault._connection, sqlite3.SQLITE_IOERR_FSYNC))
            with pytest.raises(VaultError, match="unknown until"):
                await vault.run(lambda tx: tx.put(GRANT))
        with pytest.raises(VaultError, match="stopped"):
            await vault.run(lambda tx: tx.get(Grant, "g1"))
    async with open_vault(tmp_path) as vault:
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) is None


async def test_another_disk_error_at_commit_rolls_back_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_vault(tmp_path) as vault:
        with monkeypatch.context() as patch:
            patch.setattr(vault, "_connection", FailingCommit(vault._connection, sqlite3.SQLITE_IOERR_WRITE))
            with pytest.raises(VaultError, match="cannot use"):
                await vault.run(lambda tx: tx.put(GRANT))
        await vault.run(lambda tx: tx.put(Counter(1, 1)))
        assert await vault.run(lambda tx: (tx.get(Grant, "g1"), tx.get(Counter, 1))) == (None, Counter(1, 1))


async def test_only_failures_of_durability_leave_the_outcome_unknown() -> None:
    def failed(code: int) -> VaultError:
        error = VaultError("x")
        error.__cause__ = sqlite3.OperationalError("x")
        error.__cause__.sqlite_errorcode = code
        return error

    assert is_outcome_unknown(failed(sqlite3.SQLITE_IOERR_DIR_FSYNC))
    assert not is_outcome_unknown(failed(sqlite3.SQLITE_FULL))
    assert not is_outcome_unknown(VaultError("x"))
