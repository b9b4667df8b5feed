"""An older vault becomes one of today, whatever a step changes, whatever is damaged, wherever it is killed."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from tests.vault.samples import KEY, put, raw
from tests.watchdog import HANG_S
from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import RECORDS
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import PrivateKey, RefreshToken
from token_relay.vault import database
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.records import layouts_of
from token_relay.vault.schema import (
    Add,
    ChangedTable,
    Drop,
    LayoutError,
    Map,
    NewTable,
    OldColumn,
    Rekey,
    Rename,
    Row,
    SchemaStep,
    version_of,
)
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

# -- three versions of a program ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant1:
    table: ClassVar[str] = "grants"
    key: ClassVar[tuple[str, ...]] = ("grant_id",)
    sealed_under: ClassVar[str] = "{grant_id}"

    grant_id: str
    pairing_id: str
    state: str
    refresh_token: RefreshToken | None
    intent: str
    tries: int
    ratio: float = 0.5


@dataclass(frozen=True, slots=True)
class Cached1:
    """Shares its data key with the grant."""

    table: ClassVar[str] = "cached"
    key: ClassVar[tuple[str, ...]] = ("grant_id",)
    sealed_under: ClassVar[str] = "{grant_id}"

    grant_id: str
    token: RefreshToken


@dataclass(frozen=True, slots=True)
class Own:
    """Is not changed by any step."""

    table: ClassVar[str] = "own"
    key: ClassVar[tuple[str, ...]] = ("number",)
    sealed_under: ClassVar[str] = "vault"

    number: int
    private_key: PrivateKey


@dataclass(frozen=True, slots=True)
class Grant2:
    """``intent_first`` and ``note`` came, ``tries`` is ``attempts``, ``ratio`` went, a state has another name."""

    table: ClassVar[str] = "grants"
    key: ClassVar[tuple[str, ...]] = ("grant_id",)
    sealed_under: ClassVar[str] = "{grant_id}"

    note: str | None
    grant_id: str
    pairing_id: str
    state: Literal["held", "uncertain"]
    token: RefreshToken | None
    intent: str
    intent_first: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Grant3:
    """Keyed by pairing and grant, under a data key of another name."""

    table: ClassVar[str] = "grants"
    key: ClassVar[tuple[str, ...]] = ("pairing_id", "grant_id")
    sealed_under: ClassVar[str] = "{data_key}"

    note: str | None
    grant_id: str
    pairing_id: str
    data_key: str
    state: Literal["held", "uncertain"]
    token: RefreshToken | None
    intent: str
    intent_first: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Cached3:
    table: ClassVar[str] = "cached"
    key: ClassVar[tuple[str, ...]] = ("grant_id",)
    sealed_under: ClassVar[str] = "{data_key}"

    grant_id: str
    data_key: str
    token: RefreshToken


def first_moment(row: Row) -> int:
    intent, tries = row["intent"], row["tries"]
    assert isinstance(intent, str) and isinstance(tries, int)
    return len(intent) * 100 + tries


def new_name(value: object) -> str:
    return {"in doubt": "uncertain"}.get(str(value), str(value))


def data_key(row: Row) -> str:
    return "grant:" + str(row["grant_id"])


CHANGED = SchemaStep(
    2,
    (
        ChangedTable(
            "grants",
            (
                Add(OldColumn("intent_first", "INTEGER"), after="intent", value=first_moment),
                Add(OldColumn("note", "TEXT", is_optional=True), after="", value=lambda row: None),
                Rename("tries", "attempts"),
                Rename("refresh_token", "token"),
                Drop("ratio"),
                Map("state", new_name),
            ),
            sealed=("refresh_token",),
            sealed_under="{grant_id}",
        ),
    ),
)
KEYED = SchemaStep(
    3,
    (
        ChangedTable(
            "grants",
            (
                Add(OldColumn("data_key", "TEXT"), after="pairing_id", value=data_key),
                Rekey(("pairing_id", "grant_id"), "{data_key}"),
            ),
            sealed=("token",),
            sealed_under="{grant_id}",
        ),
        ChangedTable(
            "cached",
            (
                Add(OldColumn("data_key", "TEXT"), after="grant_id", value=data_key),
                Rekey(("grant_id",), "grant:{grant_id}"),
            ),
            sealed=("token",),
            sealed_under="{grant_id}",
        ),
    ),
)
VERSIONS: dict[int, tuple[tuple[type[Record], ...], tuple[SchemaStep, ...]]] = {
    1: ((Grant1, Cached1, Own), ()),
    2: ((Grant2, Cached1, Own), (CHANGED,)),
    3: ((Grant3, Cached3, Own), (CHANGED, KEYED)),
}
STATES: dict[str, Literal["held", "uncertain"]] = {"held": "held", "in doubt": "uncertain"}
TRIES = {"a": ("held", "", 0, "token a"), "b": ("in doubt", "then", 3, "token b"), "c": ("held", "", 1, None)}


def rows_of(version: int) -> list[Record]:
    """Return the same content as each version spells it, by hand."""
    grants: list[Record] = []
    for name, (state, intent, tries, text) in TRIES.items():
        token = RefreshToken(text) if text else None
        if version == 1:
            grants.append(Grant1(name, "p", state, token, intent, tries))
        elif version == 2:
            grants.append(Grant2(None, name, "p", STATES[state], token, intent, len(intent) * 100 + tries, tries))
        else:
            first = len(intent) * 100 + tries
            grants.append(Grant3(None, name, "p", f"grant:{name}", STATES[state], token, intent, first, tries))
    cached = RefreshToken("cached a")
    shared = Cached3("a", "grant:a", cached) if version == 3 else Cached1("a", cached)
    return [*grants, shared, Own(1, KEY)]


def opened(directory: Path, version: int, *, create: bool = False) -> SqliteVault:
    records, steps = VERSIONS[version]
    return SqliteVault.open(directory / "vault.db", KEY, records, steps, create=create)


async def read(directory: Path, version: int) -> list[Record]:
    async with opened(directory, version) as vault:
        return await vault.run(lambda tx: [row for record in VERSIONS[version][0] for row in tx.select(record)])


async def make_first(directory: Path) -> None:
    async with opened(directory, 1, create=True) as vault:
        await vault.run(put(*rows_of(1)))


def version_in(directory: Path) -> int:
    connection = raw(directory)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(version)


# -- what a step can do ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [(2,), (3,), (2, 3)])
@pytest.mark.asyncio
async def test_every_row_and_secret_comes_along_in_the_new_shape(tmp_path: Path, way: Sequence[int]) -> None:
    await make_first(tmp_path)
    for version in way:
        assert await read(tmp_path, version) == rows_of(version)
        assert version_in(tmp_path) == version
        async with opened(tmp_path, version) as vault:
            assert vault.found_version == version
            await vault.run(put(*rows_of(version)))
        assert await read(tmp_path, version) == rows_of(version)


@pytest.mark.asyncio
async def test_the_vault_says_which_version_it_had(tmp_path: Path) -> None:
    await make_first(tmp_path)
    async with opened(tmp_path, 3) as vault:
        assert vault.found_version == 1


@pytest.mark.asyncio
async def test_a_data_key_with_a_new_name_leaves_nothing_under_the_old_one(tmp_path: Path) -> None:
    def erase(tx: Transaction) -> None:
        tx.erase_key("grant:a")

    def select(record: type[Record], tx: Transaction) -> None:
        tx.select(record)

    await make_first(tmp_path)
    connection = raw(tmp_path)
    (wrapped,) = connection.execute("SELECT wrapped FROM data_keys WHERE name = 'a'").fetchone()
    connection.close()
    assert await read(tmp_path, 3) == rows_of(3)
    connection = raw(tmp_path)
    names = {name for (name,) in connection.execute("SELECT name FROM data_keys")}
    connection.close()
    assert names == {"vault", "grant:a", "grant:b"}
    assert wrapped not in (tmp_path / "vault.db").read_bytes()
    async with opened(tmp_path, 3) as vault:
        await vault.run(erase)  # and the new name ends both rows
        for record in (Grant3, Cached3):
            with pytest.raises(CorruptVaultError, match="erased"):
                await vault.run(partial(select, record))


@pytest.mark.asyncio
async def test_a_data_key_may_be_named_after_several_columns(tmp_path: Path) -> None:
    """As ``handoff:{pairing_id}:{handoff_id}``: the cells move there even if no record of this program reads them."""
    rekeyed = SchemaStep(
        2, (ChangedTable("cached", (Rekey(("grant_id",), "x:{grant_id}:{grant_id}"),), ("token",), "{grant_id}"),)
    )
    async with opened(tmp_path, 1, create=True) as vault:
        await vault.run(put(Cached1("a", RefreshToken("secret"))))
    SqliteVault.open(tmp_path / "vault.db", KEY, (), (rekeyed,)).close_now()
    connection = raw(tmp_path)
    assert {name for (name,) in connection.execute("SELECT name FROM data_keys")} == {"vault", "x:a:a"}
    connection.close()


@pytest.mark.asyncio
async def test_no_secret_lies_in_clear_after_a_step(tmp_path: Path) -> None:
    await make_first(tmp_path)
    await read(tmp_path, 3)
    content = (tmp_path / "vault.db").read_bytes()
    assert not [text for text in (b"token a", b"token b", b"cached a") if text in content]
    assert b"uncertain" in content, "the search sees what is there"


def get(name: str, tx: Transaction) -> Grant3 | None:
    return tx.get(Grant3, "p", name)


# -- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE grants SET state = 'held' WHERE grant_id = 'b'",
        "UPDATE grants SET intent = CAST(x'ff41' AS TEXT) WHERE grant_id = 'b'",
        "UPDATE grants SET tries = 'x' || tries WHERE grant_id = 'b'",  # refused by STRICT: nothing changes
        "UPDATE grants SET row_mac = zeroblob(16) WHERE grant_id = 'b'",
        "UPDATE grants SET row_mac = zeroblob(0) WHERE grant_id = 'b'",
        "UPDATE grants SET refresh_token = zeroblob(64) WHERE grant_id = 'b'",
        "UPDATE data_keys SET wrapped = zeroblob(72) WHERE name = 'b'",
        "DELETE FROM data_keys WHERE name = 'b'",
    ],
)
@pytest.mark.asyncio
async def test_a_damaged_row_stays_damaged_and_costs_nothing_else(tmp_path: Path, damage: str) -> None:
    await make_first(tmp_path)
    connection = raw(tmp_path)
    try:
        is_damaged = connection.execute(damage).rowcount == 1
    except sqlite3.IntegrityError:
        is_damaged = False
    connection.close()
    async with opened(tmp_path, 3) as vault:
        for name, row in zip(TRIES, rows_of(3), strict=False):
            if name == "b" and is_damaged:
                with pytest.raises(CorruptVaultError):
                    await vault.run(lambda tx: tx.get(Grant3, "p", "b"))
            else:
                assert await vault.run(partial(get, name)) == row
        assert await vault.run(lambda tx: tx.select(Cached3)) == [rows_of(3)[3]]
        assert await vault.run(lambda tx: tx.select(Own)) == [rows_of(3)[4]]


@pytest.mark.asyncio
async def test_a_step_does_not_make_a_changed_row_look_whole(tmp_path: Path) -> None:
    """A row without a secret: its MAC alone tells."""
    await make_first(tmp_path)
    connection = raw(tmp_path)
    assert connection.execute("UPDATE grants SET tries = 7 WHERE grant_id = 'c'").rowcount == 1
    connection.close()
    async with opened(tmp_path, 3) as vault:
        with pytest.raises(CorruptVaultError, match="table grants"):
            await vault.run(partial(get, "c"))
        assert await vault.run(partial(get, "a")) == rows_of(3)[0]


@pytest.mark.asyncio
async def test_a_damaged_row_never_takes_the_place_of_a_whole_one(tmp_path: Path) -> None:
    """By the new key both would be one: the whole one stays."""
    by_pairing = SchemaStep(
        2, (ChangedTable("grants", (Rekey(("pairing_id",), "{grant_id}"),), ("refresh_token",), "{grant_id}"),)
    )
    async with opened(tmp_path, 1, create=True) as vault:
        await vault.run(put(Grant1("a", "q", "held", None, "", 1), Grant1("b", "p", "held", None, "", 2)))
    connection = raw(tmp_path)
    connection.execute("UPDATE grants SET pairing_id = 'p' WHERE grant_id = 'a'")
    connection.close()
    SqliteVault.open(tmp_path / "vault.db", KEY, (), (by_pairing,)).close_now()
    connection = raw(tmp_path)
    assert connection.execute("SELECT grant_id FROM grants").fetchall() == [("b",)]
    connection.close()


# -- what does not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        ChangedTable("absent", ()),
        ChangedTable("grants", (Drop("absent"),)),
        ChangedTable("grants", (Add(OldColumn("x", "TEXT"), after="absent", value=lambda row: ""),)),
        ChangedTable("grants", (Rekey(("pairing_id",), "{grant_id}"),)),  # three rows, one key
        NewTable("other", ("x",), (OldColumn("x", "TEXT"),)),  # not what Grant2 says
    ],
)
@pytest.mark.asyncio
async def test_steps_that_do_not_fit_leave_the_vault_as_it_was(tmp_path: Path, change: ChangedTable | NewTable) -> None:
    await make_first(tmp_path)
    before = (tmp_path / "vault.db").read_bytes()
    with pytest.raises(LayoutError, match=r"not laid out as schema [12] says") as caught:
        SqliteVault.open(tmp_path / "vault.db", KEY, VERSIONS[2][0], (SchemaStep(2, (change,)),))
    assert not isinstance(caught.value, CorruptVaultError), "it would be set aside"
    assert (tmp_path / "vault.db").read_bytes() == before
    assert await read(tmp_path, 1) == rows_of(1)


@pytest.mark.asyncio
async def test_an_older_program_says_what_to_do(tmp_path: Path) -> None:
    await make_first(tmp_path)
    await read(tmp_path, 3)
    with pytest.raises(VaultError, match=r"newer program \(schema 3, this one knows 2\)") as caught:
        opened(tmp_path, 2)
    assert "install the newer version again" in caught.value.hint
    assert not isinstance(caught.value, CorruptVaultError)
    assert await read(tmp_path, 3) == rows_of(3)


def test_the_agents_steps_lead_from_a_gapless_list_to_their_records(tmp_path: Path) -> None:
    assert version_of(STEPS) == 6
    with pytest.raises(ValueError, match="without a gap"):
        version_of((KEYED,))
    SqliteVault.open(tmp_path / "vault.db", KEY, RECORDS, STEPS).close_now()
    connection = raw(tmp_path)
    found = dict(connection.execute("SELECT name, sql FROM sqlite_schema").fetchall())
    connection.close()
    assert {layout.table: layout.create_sql for layout in layouts_of(RECORDS).values()}.items() <= found.items()


# -- killed, refused ---------------------------------------------------------------------------------------


def killed_before(directory: Path, number: int) -> int:
    """Update in a process that ends before its n-th SQL statement; return how it ended."""
    child = os.fork()
    if child == 0:
        left = number

        def count(statement: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)

        connect = database._connect

        def watched(path: Path) -> sqlite3.Connection:
            connection = connect(path)
            connection.set_trace_callback(count)
            return connection

        database._connect = watched
        opened(directory, 3).close_now()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_before_any_statement_of_an_update_the_vault_opens_with_all_rows(tmp_path: Path) -> None:
    asyncio.run(make_first(tmp_path))
    path = tmp_path / "vault.db"
    image = path.read_bytes()
    found = set()
    for number in range(1, 500):
        path.write_bytes(image)
        code = killed_before(tmp_path, number)
        if code == 0:
            break
        assert code == 9
        left = {name.name: name.read_bytes() for name in tmp_path.iterdir()}
        for version in (1, 2, 3):  # whichever program comes next: it opens what is not newer than itself
            for name, content in left.items():
                (tmp_path / name).write_bytes(content)
            try:
                assert asyncio.run(read(tmp_path, version)) == rows_of(version)
                found.add((version, True))
            except VaultError as exc:
                assert "newer program" in str(exc)
                found.add((version, False))
    assert number > 50
    assert found == {(1, True), (1, False), (2, True), (2, False), (3, True)}
    assert asyncio.run(read(tmp_path, 3)) == rows_of(3)


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.vault.test_schema import opened
from token_relay.protocol.errors import VaultError
directory, limit = Path(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    opened(directory, 3).close_now()
    print("updated")
except VaultError as exc:
    print(exc)
"""


def test_a_full_disk_refuses_the_update_and_loses_nothing(tmp_path: Path) -> None:
    asyncio.run(make_first(tmp_path))
    size = (tmp_path / "vault.db").stat().st_size
    root = str(Path(__file__).resolve().parents[2])
    outcomes = []
    for room in range(512, 3 * size, 2048):
        command = [sys.executable, "-c", FULL, root, str(tmp_path), str(room)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANG_S)
        outcomes.append(done.stdout.strip())
        if done.stdout.strip() == "updated":
            break
        assert str(tmp_path / "vault.db") in done.stdout and "damaged" not in done.stdout
        assert version_in(tmp_path) in (1, 2)
    assert outcomes[-1] == "updated" and len(outcomes) > 2, outcomes
    assert asyncio.run(read(tmp_path, 3)) == rows_of(3)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != size, "the limit was the child's"


@pytest.mark.asyncio
async def test_a_vault_that_cannot_be_written_is_not_updated_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file as SQLite finds it on a file system that is mounted read-only."""
    await make_first(tmp_path)
    connect = sqlite3.connect

    def read_only(path: str, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(path.replace("mode=rw", "mode=ro"), **options)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", read_only)
        with pytest.raises(VaultError, match="cannot be written") as caught:
            opened(tmp_path, 3)
    assert "remount,rw" in caught.value.hint
    assert await read(tmp_path, 1) == rows_of(1)
