"""Vectors of the vault's format: the keys, wrapped data keys, sealed cells, the rows' MACs, the check of the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

from nacl.bindings import crypto_pwhash_alg, crypto_pwhash_ALG_ARGON2ID13, crypto_secretbox

from tests.vectors.vector_kit import Case, Json, derive

Value = None | int | float | str | bytes

VAULT_KEY, SALT = derive("vault key", 32), derive("vault salt", 16)
DATA_KEY = derive("vault data key", 32)


def hashed(data: bytes, *, key: bytes, person: bytes, salt: bytes = b"", size: int = 32) -> bytes:
    """Hash with BLAKE2b as the vault derives its keys."""
    return hashlib.blake2b(data, digest_size=size, key=key, salt=salt, person=person).digest()


KEK = hashed(b"", key=VAULT_KEY, person=b"rtr1-vkek", salt=SALT)
MAC_KEY = hashed(b"", key=KEK, person=b"rtr1-vmac")


def sealed(secret: bytes, key: bytes, label: str) -> tuple[str, str]:
    """Return nonce and sealed bytes, which begin with it."""
    nonce = derive(f"vault nonce {label}", 24)
    return nonce.hex(), (nonce + crypto_secretbox(secret, nonce, key)).hex()


def wrapped() -> Iterator[Case]:
    for name in ("vault", "grant:0123456789abcdef0123456789abcdef", "handoff:00ff:ff00"):
        nonce, octets = sealed(DATA_KEY, hashed(name.encode(), key=KEK, person=b"rtr1-vwrp"), name)
        yield {"name": name, "data_key": DATA_KEY.hex(), "nonce": nonce, "wrapped": octets}


def cells() -> Iterator[Case]:
    places: list[tuple[str, list[Json], str, bytes]] = [
        ("grants", ["g1"], "refresh_token", "tökén".encode()),
        ("grants", ["g1"], "access_token", b"\0"),
        ("outbox", ["p", 7], "octets", bytes(range(256))),
        ("companion_handoffs", ["p", 'é"\0'], "one_time_private_key", derive("vault cell", 32)),
    ]
    for table, key, column, secret in places:
        place = b"\0".join((table.encode(), json.dumps(key, separators=(",", ":")).encode(), column.encode()))
        nonce, octets = sealed(secret, hashed(place, key=DATA_KEY, person=b"rtr1-vrow"), place.hex())
        yield {
            "name": f"{table} {column}",
            **{"table": table, "key": key, "column": column, "place": place.hex(), "data_key": DATA_KEY.hex()},
            **{"secret": secret.hex(), "nonce": nonce, "sealed": octets},
        }


def spelled(values: Sequence[Value]) -> list[Json]:
    """Write octets as a list of their hex, which is what the MAC covers."""
    return [[value.hex()] if isinstance(value, bytes) else value for value in values]  # type: ignore[misc]  # JSON has floats


def rows() -> Iterator[Case]:
    kinds: list[tuple[str, str, list[Value]]] = [
        ("every type", "grants", ["g1", 7, 1.5, b"\x00\xff", None, "é\0"]),
        ("same row in another table", "handoffs", ["g1", 7, 1.5, b"\x00\xff", None, "é\0"]),
        ("octets are no text", "grants", ["00ff"]),
        ("octets", "grants", [b"\x00\xff"]),
        ("table and first column are parted", "grantsg1", []),
        ("empty", "grants", []),
    ]
    for name, table, row in kinds:
        text = json.dumps([table, *spelled(row)], separators=(",", ":"))
        mac = hashlib.blake2b(text.encode(), digest_size=16, key=MAC_KEY).digest()
        yield {"name": name, "table": table, "row": spelled(row), "covered": text, "mac": mac.hex()}


def checks() -> Iterator[Case]:
    for version in (1, 4, 1 << 24):
        data = version.to_bytes(4, "big") + SALT + DATA_KEY
        check = hashed(data, key=b"", person=b"rtr1-vchk")
        yield {"name": f"schema {version}", "schema_version": version, "wrapped": DATA_KEY.hex(), "check": check.hex()}


def vault() -> dict[str, Json]:
    """Return the content of ``vault.json``."""
    passphrase, salt = "four random words, größer", derive("vault passphrase salt", 16)
    root = crypto_pwhash_alg(32, passphrase.encode(), salt, 3, 64 << 20, crypto_pwhash_ALG_ARGON2ID13)
    return {
        "keys": {"vault_key": VAULT_KEY.hex(), "salt": SALT.hex(), "kek": KEK.hex(), "mac_key": MAC_KEY.hex()},
        "passphrase": {
            "passphrase": passphrase,
            **{"salt": salt.hex(), "passes": 3, "memory_bytes": 64 << 20},
            "verifier": hashed(b"", key=root, person=b"rtr1-vver").hex(),
            "vault_key": hashed(b"", key=root, person=b"rtr1-vkey").hex(),
        },
        "wrapped": list(wrapped()),
        "cells": list(cells()),
        "rows": list(rows()),
        "checks": list(checks()),
    }
