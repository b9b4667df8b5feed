"""Records, keys and vaults that the vault's tests share."""

from __future__ import annotations

import base64
import enum
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from token_relay.agents.ports import Record, Transaction
from token_relay.protocol.secret import PrivateKey, RefreshToken
from token_relay.vault.store import SqliteVault

KEY = PrivateKey(bytes(range(32)))
OTHER_KEY = PrivateKey(bytes(range(1, 33)))


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Grant:
    """Sealed under a data key of its own."""

    table: ClassVar[str] = "grants"
    key: ClassVar[tuple[str, ...]] = ("grant_id",)
    sealed_under: ClassVar[str] = "{grant_id}"

    grant_id: str
    generation: int
    refresh_token: RefreshToken | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Sealed under the vault's own data key."""

    table: ClassVar[str] = "identities"
    key: ClassVar[tuple[str, ...]] = ("name",)
    sealed_under: ClassVar[str] = "vault"

    name: str
    private_key: PrivateKey


@dataclass(frozen=True, slots=True)
class Mixed:
    """Every kind of field, and a key of two parts."""

    table: ClassVar[str] = "mixed"
    key: ClassVar[tuple[str, ...]] = ("peer", "seq")
    sealed_under: ClassVar[str] = "vault"

    peer: str
    seq: int
    weight: float = 0.0
    is_done: bool = False
    payload: bytes = b""
    state: Literal["new", "old"] = "new"
    colour: Colour | None = None
    note: str | None = None
    is_known: bool | None = None
    count: int | None = None
    ratio: float | None = None
    blob: bytes | None = None
    token: RefreshToken | None = None
    private_key: PrivateKey | None = None


@dataclass(frozen=True, slots=True)
class Counter:
    """An integer key."""

    table: ClassVar[str] = "counters"
    key: ClassVar[tuple[str, ...]] = ("number",)
    sealed_under: ClassVar[str] = "vault"

    number: int
    value: int


@dataclass(frozen=True, slots=True)
class Shared:
    """Several rows under one data key."""

    table: ClassVar[str] = "shared"
    key: ClassVar[tuple[str, ...]] = ("name",)
    sealed_under: ClassVar[str] = "{owner}"

    name: str
    owner: str
    token: RefreshToken


RECORDS: tuple[type[Record], ...] = (Grant, Identity, Mixed, Counter, Shared)


TOKEN = RefreshToken("0.AXkAmarked-refresh-token-" + "x1Y2" * 20)
GRANT = Grant("g1", 1, TOKEN)


def open_vault(directory: Path, key: PrivateKey = KEY, *, create: bool = True) -> SqliteVault:
    """Open the vault in this directory with the records above."""
    return SqliteVault.open(directory / "vault.db", key, RECORDS, create=create)


def put(*records: Record) -> Callable[[Transaction], None]:
    """Return a step that puts these records, one after the other."""

    def step(tx: Transaction) -> None:
        for record in records:
            tx.put(record)

    return step


def raw(directory: Path) -> sqlite3.Connection:
    """Open the file as a thief would."""
    return sqlite3.connect(directory / "vault.db", isolation_level=None)


def spellings(secret: bytes) -> list[bytes]:
    """Return the ways in which a secret could lie in a file: raw, hex, base64 at each of three offsets."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode(), secret[::-1]]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # what does not depend on the bytes around: whole groups of three only
            inner = secret[offset : offset + (len(secret) - offset) // 3 * 3]
            found.append(encode(inner))
    return found
