"""The codec: what a record may look like, the SQL that follows, and that every value survives the way to SQLite."""

from __future__ import annotations

import enum
import sqlite3
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vault.samples import Colour, Counter, Grant, Mixed
from token_relay.agents.ports import Record
from token_relay.protocol.secret import PrivateKey, RefreshToken, Secret
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.records import Column, Layout, layouts_of
from token_relay.vault.sealing import AnySecret, mac_of

MAC_KEY = PrivateKey(bytes(range(32)))


def make(
    fields: dict[str, object],
    *,
    table: object = "t",
    key: tuple[str, ...] = ("name",),
    sealed_under: str = "vault",
) -> type:
    """Make a record type with these annotations."""
    spelled = {"table": ClassVar[str], "key": ClassVar[tuple[str, ...]], "sealed_under": ClassVar[str]}
    body = {"__annotations__": spelled | fields, "table": table, "key": key, "sealed_under": sealed_under}
    return dataclass(frozen=True)(type("Made", (), body))


def test_tables_are_strict_and_without_rowid_unless_the_key_is_one_integer() -> None:
    assert Layout(Grant).create_sql == (
        'CREATE TABLE "grants" ("grant_id" TEXT NOT NULL, "generation" INTEGER NOT NULL, "refresh_token" BLOB, '
        '"row_mac" BLOB NOT NULL, PRIMARY KEY ("grant_id")) STRICT, WITHOUT ROWID'
    )
    assert Layout(Counter).create_sql == (
        'CREATE TABLE "counters" ("number" INTEGER NOT NULL, "value" INTEGER NOT NULL, "row_mac" BLOB NOT NULL, '
        'PRIMARY KEY ("number")) STRICT'
    )


class Numbers(enum.Enum):
    ONE = 1


class Untold(Secret):  # type: ignore[type-arg]  # says neither str nor bytes: what this test is about
    __slots__ = ()


@pytest.mark.parametrize(
    "record",
    [
        make({"name": str, "x": list}),
        make({"name": str, "x": str | int}),
        make({"name": str, "x": Literal["a", 1]}),
        make({"name": str, "x": Untold}),
        make({"name": str, "X": str}),
        make({"name": str, "ü": str}),
        make({"name": str | None}),
        make({"name": bytes}),
        make({"name": RefreshToken}),
        make({"name": float}),
        make({"name": str}, key=()),
        make({"name": str}, key=("absent",)),
        make({"name": str}, key=("name", "name")),
        make({"name": str}, table="meta"),
        make({"name": str}, table="data_keys"),
        make({"name": str}, table="sqlite_x"),
        make({"name": str}, table='t"; DROP TABLE x'),
        make({"name": str}, sealed_under="other"),
        make({"name": str}, sealed_under="{absent}"),
        make({"name": str, "x": str | None}, sealed_under="{x}"),
        make({"name": str, "x": int}, sealed_under="{x}"),
        make({"name": str, "x": RefreshToken}, sealed_under="{x}"),
        int,
    ],
    ids=str,
)
def test_what_is_not_a_record_is_a_bug_found_at_open(record: type) -> None:
    with pytest.raises(TypeError):
        Layout(record)


def test_two_records_of_one_table_are_refused() -> None:
    with pytest.raises(TypeError, match="share a table"):
        layouts_of((make({"name": str}), make({"name": str})))


def test_a_bytes_secret_comes_back_as_bytes_and_a_text_secret_as_text() -> None:
    columns = {column.name: column for column in Layout(Mixed).columns}
    assert columns["token"].make_secret(b"t") == RefreshToken("t")
    assert columns["private_key"].make_secret(b"k" * 32) == PrivateKey(b"k" * 32)


def test_integer_choices_are_kept() -> None:
    layout: Layout[Record] = Layout(make({"name": str, "x": Numbers, "y": Literal[1, 2]}))
    record = layout._make("n", Numbers.ONE, 2)
    row = layout.encode(record, lambda *_: b"")
    assert row == ("n", 1, 2)
    assert layout.decode(row, lambda *_: PrivateKey(b"k" * 32)) == record


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
INTEGER = st.integers(-(2**63) + 1, 2**63 - 1)
REAL = st.floats(allow_nan=False)
MIXED = st.builds(
    Mixed,
    peer=TEXT,
    seq=INTEGER,
    weight=REAL,
    is_done=st.booleans(),
    payload=st.binary(max_size=100),
    state=st.sampled_from(["new", "old"]),
    colour=st.none() | st.sampled_from(Colour),
    note=st.none() | TEXT,
    is_known=st.none() | st.booleans(),
    count=st.none() | INTEGER,
    ratio=st.none() | REAL,
    blob=st.none() | st.binary(max_size=100),
    token=st.none() | TEXT.filter(bool).map(RefreshToken),
    private_key=st.none() | st.binary(min_size=32, max_size=32).map(PrivateKey),
)


@given(MIXED)
def test_every_record_survives_a_strict_table(record: Mixed) -> None:
    layout = Layout(Mixed)
    connection = sqlite3.connect(":memory:")
    connection.execute(layout.create_sql)

    def seal(name: str, place: bytes, secret: AnySecret) -> bytes:
        assert name == "vault"
        value = secret.reveal()
        return place + b"|" + (value.encode() if isinstance(value, str) else value)

    def open_cell(_: str, place: bytes, column: Column, sealed: object) -> AnySecret:
        assert isinstance(sealed, bytes) and sealed.startswith(place + b"|")
        return column.make_secret(sealed[len(place) + 1 :])

    connection.execute(
        layout.put_sql, (*(written := layout.encode(record, seal)), mac_of("mixed", written, mac_key=MAC_KEY))
    )
    ((*row, mac),) = connection.execute(layout.get_sql, (record.peer, record.seq)).fetchall()
    connection.close()
    assert mac == mac_of("mixed", row, mac_key=MAC_KEY)
    back = layout.decode(row, open_cell)
    assert back == record
    assert [type(getattr(back, name)) for name in Mixed.__slots__] == [
        type(getattr(record, name)) for name in Mixed.__slots__
    ]


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, None), (0, b"x"), (1, "1"), (1, 1.0), (2, "x"), (3, 2), (3, None), (5, "x"), (6, 1), (8, "1"), (9, 1.5)],
)
def test_a_row_with_a_value_of_another_type_is_damage(position: int, value: object) -> None:
    layout = Layout(Mixed)
    row: list[object] = list(layout.encode(Mixed("p", 1), lambda *_: b""))
    row[position] = value
    with pytest.raises(CorruptVaultError, match="table mixed"):
        layout.decode(row, lambda *_: PrivateKey(b"k" * 32))


def test_a_row_with_too_few_values_is_damage() -> None:
    with pytest.raises(CorruptVaultError):
        Layout(Counter).decode((1,), lambda *_: PrivateKey(b"k" * 32))
