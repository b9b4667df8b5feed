"""What only the vault on disk promises: secrecy in the file, private modes, one process, versions."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.complaints import no_complaints
from tests.vault.samples import (
    GRANT,
    KEY,
    OTHER_KEY,
    RECORDS,
    TOKEN,
    Counter,
    Grant,
    Identity,
    Mixed,
    open_vault,
    put,
    raw,
    spellings,
)
from tests.watchdog import HANG_S
from token_relay.agents.ports import Record, Transaction
from token_relay.protocol.errors import PeerError, VaultError
from token_relay.protocol.secret import PrivateKey, RefreshToken
from token_relay.vault import store
from token_relay.vault.errors import CorruptVaultError, WrongVaultKeyError
from token_relay.vault.schema import NewTable, SchemaStep
from token_relay.vault.schema import OldColumn as SchemaColumn
from token_relay.vault.store import SqliteVault

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).resolve().parents[2]


# -- the file ----------------------------------------------------------------------------------------------


async def test_the_database_its_lock_and_its_journal_are_0600_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with open_vault(tmp_path) as vault:

            def step(tx: Transaction) -> set[str]:
                tx.put(GRANT)
                assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
                return {file.name for file in tmp_path.iterdir()}

            assert await vault.run(step) == {"vault.db", "vault.db-journal", "vault.lock"}
    finally:
        os.umask(old)
    assert {file.name for file in tmp_path.iterdir()} == {"vault.db", "vault.lock"}


async def test_commits_are_synchronous_and_deletions_overwritten(tmp_path: Path) -> None:
    async with open_vault(tmp_path) as vault:

        def pragma(name: str) -> tuple[object, ...] | None:
            found: tuple[object, ...] | None = vault._connection.execute(f"PRAGMA {name}").fetchone()
            return found

        found = {
            name: vault._writer.submit(pragma, name).result()
            for name in (
                "journal_mode",
                "synchronous",
                "secure_delete",
                "foreign_keys",
                "trusted_schema",
                "cell_size_check",
                "temp_store",
                "mmap_size",
            )
        }
    assert {name: value[0] for name, value in found.items() if value} == {
        "journal_mode": "delete",
        "synchronous": 3,  # EXTRA
        "secure_delete": 1,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "temp_store": 2,  # MEMORY
        "mmap_size": 0,
    }


async def test_a_step_that_only_reads_writes_nothing(tmp_path: Path) -> None:
    async with open_vault(tmp_path) as vault:
        await vault.run(lambda tx: tx.put(GRANT))
        before = (tmp_path / "vault.db").stat(), tmp_path.stat().st_mtime_ns

        def step(tx: Transaction) -> bool:
            tx.select(Grant)
            return tx.get(Grant, "g1") == GRANT and not (tmp_path / "vault.db-journal").exists()

        assert await vault.run(step)
        after = (tmp_path / "vault.db").stat(), tmp_path.stat().st_mtime_ns
    assert (before[0].st_mtime_ns, before[1]) == (after[0].st_mtime_ns, after[1])


async def test_no_secret_is_in_any_file_in_any_spelling_at_any_time(tmp_path: Path) -> None:
    key = PrivateKey(bytes(random.Random(1).randbytes(32)))
    looked = []

    def search() -> None:
        looked.append(b"".join(file.read_bytes() for file in tmp_path.iterdir()))

    def store_and_search(*records: Record) -> Callable[[Transaction], None]:
        def step(tx: Transaction) -> None:
            put(*records)(tx)
            search()

        return step

    def erase_and_search(tx: Transaction) -> None:
        tx.erase_key("g1")
        tx.delete(Grant, "g1")
        search()

    async with open_vault(tmp_path) as vault:
        await vault.run(store_and_search(GRANT, Identity("me", key)))
        await vault.run(store_and_search(Grant("g1", 2, RefreshToken("y" * 100))))
        await vault.run(store_and_search())
        await vault.run(erase_and_search)
    search()
    everything = b"".join(looked)
    assert len(looked) == 5
    assert b"grants" in everything  # the search sees what is there
    for secret in (TOKEN.reveal().encode(), key.reveal(), KEY.reveal(), b"y" * 100):
        for spelling in spellings(secret):
            assert spelling not in everything


async def test_the_search_for_secrets_finds_a_planted_one(tmp_path: Path) -> None:
    async with open_vault(tmp_path) as vault:
        await vault.run(lambda tx: tx.put(Mixed("p", 1, note="leak:" + TOKEN.reveal().encode().hex())))
    content = (tmp_path / "vault.db").read_bytes()
    assert any(spelling in content for spelling in spellings(TOKEN.reveal().encode()))


async def test_sealing_one_secret_twice_gives_different_bytes(tmp_path: Path) -> None:
    blobs = set()
    for _ in range(3):
        async with open_vault(tmp_path) as vault:
            await vault.run(lambda tx: tx.put(GRANT))
        with raw(tmp_path) as connection:
            blobs.add(connection.execute("SELECT refresh_token FROM grants").fetchone()[0])
        connection.close()
    assert len(blobs) == 3
    assert {len(blob) for blob in blobs} == {len(TOKEN.reveal()) + 24 + 16}  # nonce, MAC


# -- opening -----------------------------------------------------------------------------------------------


async def test_a_wrong_vault_key_is_called_that_and_changes_nothing(tmp_path: Path) -> None:
    async with open_vault(tmp_path) as vault:
        await vault.run(lambda tx: tx.put(GRANT))
    before = (tmp_path / "vault.db").read_bytes()
    with pytest.raises(WrongVaultKeyError, match="wrong vault key") as caught:
        open_vault(tmp_path, OTHER_KEY)
    assert caught.value.hint
    assert (tmp_path / "vault.db").read_bytes() == before
    async with open_vault(tmp_path) as vault:
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == GRANT


async def test_an_absent_vault_is_made_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="there is no vault"):
        open_vault(tmp_path, create=False)
    assert not (tmp_path / "vault.db").exists()
    await open_vault(tmp_path).close()
    await open_vault(tmp_path, create=False).close()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o700, 0o660])
async def test_a_database_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    await open_vault(tmp_path).close()
    (tmp_path / "vault.db").chmod(mode)
    with pytest.raises(VaultError, match="open to others") as caught:
        open_vault(tmp_path)
    assert caught.value.hint == f"chmod 600 {tmp_path}/vault.db"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722])
async def test_a_directory_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(VaultError, match="others may write") as caught:
        open_vault(tmp_path)
    assert caught.value.hint == f"chmod go-w {tmp_path}"
    assert list(tmp_path.iterdir()) == []


async def test_somebody_elses_file_or_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await open_vault(tmp_path).close()
    me = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: me + 1)
    with pytest.raises(VaultError, match="belongs to another user"):
        open_vault(tmp_path)


async def test_a_link_in_place_of_the_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "b").mkdir(mode=0o700)
    await open_vault(tmp_path / "a").close()
    (tmp_path / "b/vault.db").symlink_to(tmp_path / "a/vault.db")
    with pytest.raises(VaultError, match="not a regular file"):
        open_vault(tmp_path / "b")


async def test_a_missing_directory_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="cannot use directory") as caught:
        open_vault(tmp_path / "absent")
    assert "mkdir" in caught.value.hint


async def test_a_second_process_is_refused_and_let_in_after_the_first_has_closed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from token_relay.vault.store import SqliteVault; from token_relay.protocol.errors import VaultError\n"
        "from token_relay.protocol.secret import PrivateKey\n"
        "try: SqliteVault.open(Path(sys.argv[2]), PrivateKey(bytes(range(32))), (), create=False)\n"
        "except VaultError as exc: print('refused:', exc)\n"
        "else: print('opened')\n"
    )

    def second() -> str:
        command = [sys.executable, "-c", program, str(ROOT), str(tmp_path / "vault.db")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANG_S).stdout

    async with open_vault(tmp_path):
        assert "refused: another process uses the vault" in second()
        with pytest.raises(VaultError, match="another process"):
            open_vault(tmp_path)
    assert second() == "opened\n"


async def test_a_closed_vault_refuses_steps_and_closes_twice(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    waiting = [asyncio.create_task(vault.run(put(Counter(n, n)))) for n in range(5)]
    await asyncio.sleep(0)  # lets them hand their steps over
    await asyncio.gather(vault.close(), vault.close())
    await asyncio.gather(*waiting)
    await vault.close()
    with pytest.raises(VaultError, match="closed"):
        await vault.run(lambda tx: tx.select(Counter))
    async with open_vault(tmp_path) as vault:
        assert len(await vault.run(lambda tx: tx.select(Counter))) == 5


async def test_close_that_is_cancelled_closes_all_the_same(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    released = threading.Event()

    def wait_and_put(tx: Transaction) -> None:
        released.wait(HANG_S)
        tx.put(GRANT)

    step = asyncio.create_task(vault.run(wait_and_put))
    await asyncio.sleep(0)
    closing = asyncio.create_task(vault.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    released.set()
    await step
    await vault.close()
    await open_vault(tmp_path).close()


async def test_cancelling_the_caller_returns_at_once_while_the_step_goes_on(tmp_path: Path) -> None:
    began, released = threading.Event(), threading.Event()

    def step(tx: Transaction) -> None:
        tx.put(GRANT)
        began.set()
        assert released.wait(HANG_S)
        tx.put(Counter(1, 1))

    async with open_vault(tmp_path) as vault:
        task = asyncio.create_task(vault.run(step))
        assert await asyncio.to_thread(began.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        later = asyncio.create_task(vault.run(lambda tx: (tx.get(Grant, "g1"), tx.get(Counter, 1))))
        await asyncio.sleep(0)
        assert not later.done()
        released.set()
        assert await later == (GRANT, Counter(1, 1))


async def test_a_step_that_fails_after_its_caller_was_cancelled_is_no_complaint(tmp_path: Path) -> None:
    began, released = threading.Event(), threading.Event()

    def step(tx: Transaction) -> None:
        began.set()
        assert released.wait(HANG_S)
        raise PeerError("stale_challenge")

    with no_complaints():
        async with open_vault(tmp_path) as vault:
            task = asyncio.create_task(vault.run(step))
            assert await asyncio.to_thread(began.wait, HANG_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            released.set()
            assert await vault.run(lambda tx: tx.select(Grant)) == []


async def test_more_steps_than_may_wait_are_refused_not_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "STEPS_WAITING_MAX", 3)
    released = threading.Event()
    async with open_vault(tmp_path) as vault:
        tasks = [asyncio.create_task(vault.run(lambda tx: released.wait(HANG_S))) for _ in range(4)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(tasks[3].exception(), VaultError)
        released.set()
        assert await asyncio.gather(*tasks[:3]) == [True, True, True]
        assert await vault.run(lambda tx: tx.select(Grant)) == []


# -- versions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Newer:
    table: ClassVar[str] = "newer"
    key: ClassVar[tuple[str, ...]] = ("name",)
    sealed_under: ClassVar[str] = "vault"

    name: str


@dataclass(frozen=True, slots=True)
class OtherCounter:
    table: ClassVar[str] = "counters"
    key: ClassVar[tuple[str, ...]] = ("number",)
    sealed_under: ClassVar[str] = "vault"

    number: int
    value: str


STEPS = (SchemaStep(2, (NewTable("newer", ("name",), (SchemaColumn("name", "TEXT"),)),)),)


async def test_a_newer_schema_adds_its_tables_and_an_older_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    async with open_vault(tmp_path) as vault:
        await vault.run(lambda tx: tx.put(GRANT))
    async with SqliteVault.open(path, KEY, (*RECORDS, Newer), STEPS) as vault:
        await vault.run(lambda tx: tx.put(Newer("n")))
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == GRANT
    with pytest.raises(VaultError, match="newer program") as caught:
        open_vault(tmp_path)
    assert not isinstance(caught.value, CorruptVaultError)
    async with SqliteVault.open(path, KEY, (*RECORDS, Newer), STEPS) as vault:
        assert await vault.run(lambda tx: tx.get(Newer, "n")) == Newer("n")


async def test_a_layout_that_is_not_the_schemas_is_refused(tmp_path: Path) -> None:
    await open_vault(tmp_path).close()
    with pytest.raises(CorruptVaultError, match="not laid out"):
        SqliteVault.open(tmp_path / "vault.db", KEY, (OtherCounter,))
    with pytest.raises(CorruptVaultError, match="not laid out"):
        SqliteVault.open(tmp_path / "vault.db", KEY, (*RECORDS, Newer))
