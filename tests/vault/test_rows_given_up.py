"""One damaged row costs what hangs on it: the vault gives it up, notes it, and keeps every other row."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.vault.make_homes import plain
from tests.vault.test_old_homes import HOMES, everything, opened, placed
from token_relay.agents.ports import Record
from token_relay.agents.records import RECORDS, Damaged, Grant, Identity
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import RefreshToken
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.keys import KeyFile
from token_relay.vault.records import Layout
from token_relay.vault.schema import version_of
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

pytestmark = pytest.mark.asyncio

NEWEST = HOMES / f"v{version_of(STEPS)}"
BY_TABLE = {record.table: record for record in RECORDS}


def of_row(values: str) -> Callable[[str, str], str]:
    return lambda table, where: f"UPDATE {table} SET {values} WHERE {where}"  # our own names


# What may happen to one row: its statement, by kind of damage.
ROWS: dict[str, Callable[[str, str], str]] = {
    "its mac is another": of_row("row_mac = zeroblob(16)"),
    "its mac is no mac": of_row("row_mac = x''"),
    "one of its clear columns is another": of_row("{clear} = {other}"),
    "a text of it is not UTF-8": of_row("{text} = CAST(x'ff41' AS TEXT)"),
    "a sealed cell of it is another": of_row("{sealed} = zeroblob(80)"),
}
SECRETS: dict[str, str] = {
    "its data key does not open": "UPDATE data_keys SET wrapped = zeroblob(72) WHERE name = 'grant:{id}'",
    "its data key is another type": "UPDATE data_keys SET wrapped = x'00' WHERE name = 'grant:{id}'",
    "its data key is gone": "DELETE FROM data_keys WHERE name = 'grant:{id}'",
    "another's data key stands in its place": (
        "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE name = 'vault') WHERE name = 'grant:{id}'"
    ),
}


def change(home: Path, statement: str) -> None:
    with closing(sqlite3.connect(home / "vault.db")) as connection, connection:
        assert connection.execute(statement).rowcount == 1


async def rows_of(home: Path, kind: Any) -> tuple[list[Record], list[list[str]]]:
    """Open as an agent does, twice; return the rows and what was told."""
    with capture_logs() as logs:
        async with await opened(home, kind) as vault:
            first = await vault.run(everything)
    with capture_logs() as again:
        async with await opened(home, kind) as vault:
            assert list(map(plain, await vault.run(everything))) == list(map(plain, first))
    assert [line for line in again if line["event"] == "rows_damaged"] == [], "told once"
    return first, [line["tables"] for line in logs if line["event"] == "rows_damaged"]


def where_of(row: Record) -> str:
    return " AND ".join(f"{name} = {getattr(row, name)!r}" for name in row.key)


@pytest.mark.parametrize("damage", ROWS)
@pytest.mark.parametrize("end", ["companion", "phone"])
async def test_each_row_of_each_table_may_be_lost_without_the_others(end: str, damage: str, tmp_path: Path) -> None:
    home = NEWEST / f"{end}-file"
    async with await opened(placed(home, tmp_path / "whole"), end) as vault:  # type: ignore[arg-type]  # a Kind
        whole = await vault.run(everything)
    tried = 0
    for number, row in enumerate(whole):
        columns = [c for c in Layout(type(row)).columns if c.kind != "secret"]
        texts = [c.name for c in columns if c.kind == "text"]
        sealed = [c.name for c in Layout(type(row)).columns if c.kind == "secret"]
        free = [c for c in columns if c.name not in row.key]
        is_text = bool(free) and free[0].kind == "text"
        other = "'another'" if is_text else "x'616e6f74686572'" if free and free[0].kind == "blob" else "7777"
        text = next((name for name in texts if name not in row.key), texts[0] if texts else "")
        names = {"{clear}": free[0].name if free else "", "{text}": text, "{sealed}": sealed[0] if sealed else ""}
        statement = ROWS[damage](row.table, where_of(row))
        if any(place in statement and not name for place, name in names.items()):
            continue  # it has no such column
        for place, name in {**names, "{other}": other}.items():
            statement = statement.replace(place, name)
        copy = placed(home, tmp_path / str(number))
        change(copy, statement)
        tried += 1
        if isinstance(row, Identity):
            with pytest.raises(VaultError, match="set aside"):
                await opened(copy, end)  # type: ignore[arg-type]  # a Kind
            continue
        found, told = await rows_of(copy, end)
        assert told == [[row.table]]
        assert next(r for r in found if isinstance(r, Damaged)).table_name == row.table
        left = [plain(r) for r in found if not isinstance(r, Damaged)]
        assert left == [plain(r) for r in whole if r is not row]
    assert tried >= 2


@pytest.mark.parametrize("damage", SECRETS)
async def test_a_secret_that_does_not_open_leaves_the_rest_of_its_row(damage: str, tmp_path: Path) -> None:
    copy = placed(NEWEST / "companion-file", tmp_path)
    async with await opened(copy, "companion") as vault:
        whole = await vault.run(everything)
    hurt = next(row for row in whole if isinstance(row, Grant) and row.state == "held")
    change(copy, SECRETS[damage].format(id=hurt.grant_id))
    found, told = await rows_of(copy, "companion")
    (after,) = [row for row in found if isinstance(row, Grant) and row.grant_id == hurt.grant_id]
    assert after.refresh_token is None and after.state == "held" and after.account == hurt.account
    assert {row.table_name for row in found if isinstance(row, Damaged)} == {"grants", "access_tokens"}
    assert told == [["access_tokens", "grants"]]
    async with await opened(copy, "companion") as vault:  # and a secret can be put in its place
        await vault.run(lambda tx: tx.put(replace(after, refresh_token=RefreshToken("new"))))
        assert (await vault.run(lambda tx: tx.get(Grant, hurt.grant_id))) != after
    others = [plain(row) for row in found if isinstance(row, Grant) and row.grant_id != hurt.grant_id]
    assert others == [plain(row) for row in whole if isinstance(row, Grant) and row.grant_id != hurt.grant_id]


async def test_damage_that_a_step_meets_costs_its_row_and_no_answer(tmp_path: Path) -> None:
    """As when one peer erased the key of what came by another (it cannot any more): the rest goes on at once."""
    copy = placed(NEWEST / "companion-file", tmp_path)
    calls: list[str] = []
    async with await opened(copy, "companion") as vault:
        vault.when_damaged(lambda: calls.append("damaged"))
        hurt = next(row for row in await vault.run(lambda tx: tx.select(Grant)) if row.state == "held")
        await vault.run(lambda tx: tx.erase_key(f"grant:{hurt.grant_id}"))
        after = await vault.run(lambda tx: tx.select(Grant))
        assert {row.grant_id for row in after if row.refresh_token is None and row.state == "held"} == {hurt.grant_id}
        await asyncio.sleep(0)
        assert calls == ["damaged"]
        found = await vault.run(everything)
    assert {row.table_name for row in found if isinstance(row, Damaged)} == {"grants", "access_tokens"}


async def test_a_vault_that_was_not_examined_gives_nothing_up(tmp_path: Path) -> None:
    copy = placed(NEWEST / "companion-file", tmp_path)
    await (await opened(copy, "companion")).close()
    key = KeyFile(copy / "vault.key").load()
    change(copy, "UPDATE access_tokens SET row_mac = zeroblob(16)")
    async with SqliteVault.open(copy / "vault.db", key, RECORDS, STEPS) as vault:
        for _ in range(2):
            with pytest.raises(CorruptVaultError):
                await vault.run(everything)
