"""A vault that was damaged or tampered with says so, and nothing else; what was moved or put back does not open."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from tests.vault.samples import GRANT, KEY, RECORDS, TOKEN, Grant, Mixed, Shared, open_vault, put, raw
from token_relay.agents.ports import Transaction
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import RefreshToken
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.files import set_aside

pytestmark = pytest.mark.asyncio


# -- moved and old cells -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE mixed SET token = (SELECT token FROM mixed WHERE seq = 2) WHERE seq = 1",  # another row
        "UPDATE mixed SET token = private_key WHERE seq = 1",  # another column
        "UPDATE mixed SET token = (SELECT token FROM shared WHERE name = 's') WHERE seq = 1",  # another table
        "UPDATE mixed SET token = zeroblob(64) WHERE seq = 1",
        "UPDATE mixed SET token = zeroblob(0) WHERE seq = 1",
        "UPDATE mixed SET token = substr(token, 1, 40) WHERE seq = 1",
        "UPDATE mixed SET seq = 3 WHERE seq = 1",  # the row given another key
        "UPDATE mixed SET peer = 'q' WHERE seq = 1",
    ],
)
async def test_a_sealed_cell_moved_or_changed_does_not_open(tmp_path: Path, statement: str) -> None:
    async with open_vault(tmp_path) as vault:
        await vault.run(lambda tx: tx.put(Mixed("p", 1, token=TOKEN, private_key=KEY)))
        await vault.run(lambda tx: tx.put(Mixed("p", 2, token=TOKEN, private_key=KEY)))
        await vault.run(lambda tx: tx.put(Shared("s", "k", TOKEN)))
    with raw(tmp_path) as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()
    async with open_vault(tmp_path) as vault:
        other = await vault.run(lambda tx: tx.get(Mixed, "p", 2))
        assert other and other.token == TOKEN
        with pytest.raises(CorruptVaultError):
            await vault.run(lambda tx: tx.select(Mixed))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE mixed SET state = 'old' WHERE seq = 1",
        "UPDATE mixed SET note = NULL WHERE seq = 1",
        "UPDATE mixed SET payload = x'00' WHERE seq = 1",
        "UPDATE mixed SET is_known = 0 WHERE seq = 1",
        "UPDATE mixed SET row_mac = (SELECT row_mac FROM mixed WHERE seq = 2) WHERE seq = 1",
        "UPDATE mixed SET row_mac = zeroblob(16) WHERE seq = 1",
        "UPDATE mixed SET row_mac = zeroblob(0) WHERE seq = 1",
    ],
)
async def test_a_changed_clear_column_is_told(tmp_path: Path, statement: str) -> None:
    rows = [Mixed("p", n, note="new", payload=b"new", state="new", is_known=True) for n in (1, 2)]
    async with open_vault(tmp_path) as vault:
        await vault.run(put(*rows))
    with raw(tmp_path) as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()
    async with open_vault(tmp_path) as vault:
        assert await vault.run(lambda tx: tx.get(Mixed, "p", 2)) == rows[1]
        with pytest.raises(CorruptVaultError, match="table mixed"):
            await vault.run(lambda tx: tx.get(Mixed, "p", 1))
        with pytest.raises(CorruptVaultError, match="table mixed"):
            await vault.run(lambda tx: tx.select(Mixed))


@pytest.mark.parametrize("statement", ["UPDATE shared SET owner = 'b' WHERE name = 'a'", None])
async def test_a_row_does_not_open_under_another_data_key(tmp_path: Path, statement: str | None) -> None:
    async with open_vault(tmp_path) as vault:
        await vault.run(put(Shared("a", "a", TOKEN), Shared("b", "b", TOKEN)))
    with raw(tmp_path) as connection:
        if statement:
            connection.execute(statement)
        else:  # the wrapped keys exchanged
            wrapped = dict(connection.execute("SELECT name, wrapped FROM data_keys"))
            connection.execute("UPDATE data_keys SET wrapped = ? WHERE name = 'a'", (wrapped["b"],))
    connection.close()
    async with open_vault(tmp_path) as vault:
        with pytest.raises(CorruptVaultError):
            await vault.run(lambda tx: tx.get(Shared, "a"))


async def test_old_rows_put_back_after_erasing_their_key_stay_shut(tmp_path: Path) -> None:
    def erase(tx: Transaction) -> None:
        tx.erase_key("g1")
        tx.delete(Grant, "g1")

    async with open_vault(tmp_path) as vault:
        await vault.run(lambda tx: tx.put(GRANT))
    with raw(tmp_path) as connection:
        stolen = connection.execute("SELECT * FROM grants").fetchone()
    connection.close()
    async with open_vault(tmp_path) as vault:
        await vault.run(erase)
    with raw(tmp_path) as connection:
        connection.execute("INSERT INTO grants VALUES (?, ?, ?, ?)", stolen)
    connection.close()
    async with open_vault(tmp_path) as vault:
        with pytest.raises(CorruptVaultError, match="erased"):
            await vault.run(lambda tx: tx.get(Grant, "g1"))
        await vault.run(lambda tx: tx.put(GRANT))  # makes a new key of the same name
    with raw(tmp_path) as connection:
        connection.execute("INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)", stolen)
    connection.close()
    async with open_vault(tmp_path) as vault:
        with pytest.raises(CorruptVaultError):
            await vault.run(lambda tx: tx.get(Grant, "g1"))


# -- damage ------------------------------------------------------------------------------------------------


async def fill(directory: Path) -> None:
    async with open_vault(directory) as vault:

        def step(tx: Transaction) -> None:
            for n in range(40):
                tx.put(Grant(f"g{n}", n, RefreshToken(f"token {n} " + "z" * 900)))
                tx.put(Mixed("péer", n, note="ñ" * 50, payload=bytes(50), token=TOKEN, state="old", is_known=True))

        await vault.run(step)


@pytest.mark.parametrize("seed", range(8))
async def test_random_damage_is_told_as_damage_or_does_no_harm(tmp_path: Path, seed: int) -> None:
    await fill(tmp_path)
    path = tmp_path / "vault.db"
    whole = path.read_bytes()
    chance = random.Random(seed)
    told = 0
    for _ in range(25):
        damaged = bytearray(whole)
        match chance.randrange(4):
            case 0:  # one octet
                damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            case 1:  # some random octets
                at = chance.randrange(len(whole))
                damaged[at : at + 64] = chance.randbytes(64)
            case 2:  # a sector of zeros
                at = chance.randrange(len(whole) // 512) * 512
                damaged[at : at + 512] = bytes(512)
            case _:
                del damaged[chance.randrange(len(whole)) :]
        path.write_bytes(damaged)
        try:
            async with open_vault(tmp_path) as vault:
                await vault.run(lambda tx: [tx.select(record) for record in RECORDS])
        except CorruptVaultError:
            told += 1
    assert told >= 5  # unused room, and clear values that stay plausible, hurt nobody


@pytest.mark.parametrize(
    "octet",
    [
        47,  # the schema format number, which SQLite calls "unsupported file format"
        b"CREATE TABLE",  # quoted in a message of SQLite, which is then not UTF-8
    ],
)
async def test_damage_that_sqlite_reports_in_unusual_ways_is_damage(tmp_path: Path, octet: int | bytes) -> None:
    await open_vault(tmp_path).close()
    content = bytearray((tmp_path / "vault.db").read_bytes())
    content[octet if isinstance(octet, int) else content.index(octet) + 8] = 0xFF
    (tmp_path / "vault.db").write_bytes(content)
    with pytest.raises(CorruptVaultError):
        open_vault(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"SQLite format 3\0", b"hello " * 1000, None])
async def test_what_is_not_a_vault_is_refused_and_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "vault.db"
    if content is None:  # a database, but another program's
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (x)")
        connection.close()
        content = path.read_bytes()
    else:
        path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(CorruptVaultError) as caught:
        open_vault(tmp_path)
    assert "pair" in caught.value.hint
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = zeroblob(16) WHERE name = 'salt'",
        "DELETE FROM meta WHERE name = 'salt'",
        "DELETE FROM data_keys",
        "UPDATE data_keys SET wrapped = zeroblob(72)",
        "DROP TABLE grants",
        "CREATE TRIGGER t AFTER INSERT ON grants BEGIN DELETE FROM counters; END",
        "CREATE VIEW v AS SELECT 1",
        "PRAGMA user_version = 9",
    ],
)
async def test_damaged_key_data_or_schema_is_damage_not_a_wrong_key(tmp_path: Path, statement: str) -> None:
    await open_vault(tmp_path).close()
    with raw(tmp_path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(CorruptVaultError):
        open_vault(tmp_path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE mixed SET state = 'third'",
        "UPDATE mixed SET is_done = 2",
        "UPDATE mixed SET note = CAST(x'ff41' AS TEXT)",
        "UPDATE mixed SET colour = 'green'",
    ],
)
async def test_a_clear_value_that_was_never_stored_is_damage_without_a_quote(tmp_path: Path, statement: str) -> None:
    async with open_vault(tmp_path) as vault:
        await vault.run(lambda tx: tx.put(Mixed("p", 1)))
    with raw(tmp_path) as connection:
        connection.execute(statement)
    connection.close()
    async with open_vault(tmp_path) as vault:
        with pytest.raises(CorruptVaultError, match="damaged"):
            await vault.run(lambda tx: tx.select(Mixed))
        await vault.run(lambda tx: tx.put(GRANT))  # and the rest goes on
        assert await vault.run(lambda tx: tx.select(Grant)) == [GRANT]


async def test_set_aside_keeps_the_damaged_file_and_makes_room_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    path.write_bytes(b"damaged")
    path.chmod(0o600)
    (tmp_path / "vault.db-journal").write_bytes(b"its journal")
    aside = set_aside(path, "2026-01-31T12:00:00Z")
    assert aside == tmp_path / "vault.db.corrupt-2026-01-31T12:00:00Z"
    assert aside.read_bytes() == b"damaged"
    assert (tmp_path / f"{aside.name}-journal").read_bytes() == b"its journal"
    async with open_vault(tmp_path) as vault:
        assert await vault.run(lambda tx: tx.select(Grant)) == []
        with pytest.raises(VaultError, match="another process"):
            set_aside(path, "later")
    with pytest.raises(VaultError, match="exists already"):
        set_aside(path, "2026-01-31T12:00:00Z")
    set_aside(path, "later")
    with pytest.raises(VaultError, match="to set aside"):
        set_aside(path, "later")
    with pytest.raises(ValueError, match="file name"):
        set_aside(path, "../x")


async def test_a_journal_without_its_database_is_damage_never_a_new_vault(tmp_path: Path) -> None:
    (tmp_path / "vault.db-journal").write_bytes(b"x")
    with pytest.raises(CorruptVaultError, match="is gone"):
        open_vault(tmp_path)
    assert not (tmp_path / "vault.db").exists()


async def test_remains_of_an_interrupted_creation_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "vault.db.new").write_bytes(b"half")
    (tmp_path / "vault.db.new-journal").write_bytes(b"half")
    await open_vault(tmp_path).close()
    assert {file.name for file in tmp_path.iterdir()} == {"vault.db", "vault.lock"}
