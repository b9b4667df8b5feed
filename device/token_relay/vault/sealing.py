"""How secrets lie on the disk: which key seals which cell.

Three layers, each key derived or wrapped by the one above, so that the vault key can come from anywhere and
one grant can be destroyed by destroying 72 bytes:

    vault key ──BLAKE2b(salt, "rtr1-vkek")──▶ KEK ──wraps──▶ data key (random, one per name)
    data key ──BLAKE2b(place, "rtr1-vrow")──▶ cell key ──SecretBox──▶ one cell
    KEK ──BLAKE2b("rtr1-vmac")──▶ MAC key ──BLAKE2b──▶ the MAC of one row, clear columns included

The *place* is ``table NUL primary key NUL column``, with the primary key as a JSON array in ASCII (JSON escapes
NUL, so no two places have one spelling). Invariants: a cell moved to another row, column or table does not open; a
wrapped key moved to another name does not open; nothing opens without the vault key; a row with a changed octet in
any column shows it.

This module does not know SQLite, files, or where randomness comes from (nonces are arguments). It does not promise that
a cell is the *newest* of its place (an old disk image opens), that its length is hidden, or that no row is missing.

Source: NaCl crypto_secretbox; RFC 7693 (BLAKE2b, keyed, with salt and personalisation).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from nacl.bindings import crypto_secretbox, crypto_secretbox_open
from nacl.exceptions import CryptoError

from token_relay.protocol.secret import PrivateKey, Secret

KEY_BYTES = 32
NONCE_BYTES = 24  # random: 192 bits never repeat by chance, whatever the number of cells
MAC_BYTES = 16
SALT_BYTES = 16  # what BLAKE2b takes
CHECK_BYTES = 32

AnySecret = Secret[str] | Secret[bytes]


def cell_label(table: str, key: tuple[str | int, ...], column: str) -> bytes:
    """Return the spelling of one cell's place; no two places have the same."""
    primary_key = _ENCODER.encode(list(key))
    return b"\0".join((table.encode(), primary_key.encode(), column.encode()))


def kek_of(vault_key: PrivateKey, salt: bytes) -> PrivateKey:
    """Derive the key that wraps the data keys; ``salt`` is 16 random bytes kept in clear beside them."""
    return PrivateKey(_derive(vault_key, b"", person=b"rtr1-vkek", salt=salt))


def mac_key_of(kek: PrivateKey) -> PrivateKey:
    """Derive the key of the rows' MACs."""
    return PrivateKey(_derive(kek, b"", person=b"rtr1-vmac"))


def mac_of(table: str, row: Sequence[object], *, mac_key: PrivateKey) -> bytes:
    """Return the MAC of one row as it is stored (str, int, float, bytes, None): 16 bytes."""
    spelled = _ENCODER.encode([table, *row])
    return hashlib.blake2b(spelled.encode(), digest_size=MAC_BYTES, key=_octets(mac_key)).digest()


def wrap(data_key: PrivateKey, *, kek: PrivateKey, name: str, nonce: bytes) -> bytes:
    """Seal a data key under the KEK, bound to its name: 72 bytes."""
    return _seal(_octets(data_key), _derive(kek, name.encode(), person=b"rtr1-vwrp"), nonce)


def unwrap(wrapped: bytes, *, kek: PrivateKey, name: str) -> PrivateKey | None:
    """Open a wrapped data key; None when the KEK is another one, or when the bytes or the name were changed."""
    opened = _open(wrapped, _derive(kek, name.encode(), person=b"rtr1-vwrp"))
    return PrivateKey(opened) if opened is not None and len(opened) == KEY_BYTES else None


def seal_cell(secret: AnySecret, *, data_key: PrivateKey, place: bytes, nonce: bytes) -> bytes:
    """Seal one secret for one place; 40 bytes longer than the secret itself (UTF-8)."""
    return _seal(_octets(secret), _derive(data_key, place, person=b"rtr1-vrow"), nonce)


def open_cell(sealed: bytes, *, data_key: PrivateKey, place: bytes) -> bytes | None:
    """Open one cell; None when it was sealed with another key or for another place, or was changed."""
    return _open(sealed, _derive(data_key, place, person=b"rtr1-vrow"))


def move_cell(
    sealed: bytes, *, data_key: PrivateKey, place: bytes, new_data_key: PrivateKey, new_place: bytes, nonce: bytes
) -> bytes | None:
    """Seal a cell again for another place or key; None when it does not open (see :func:`open_cell`)."""
    opened = open_cell(sealed, data_key=data_key, place=place)
    return None if opened is None else _seal(opened, _derive(new_data_key, new_place, person=b"rtr1-vrow"), nonce)


def check_of(*, schema_version: int, salt: bytes, wrapped: bytes) -> bytes:
    """Return the checksum that tells a damaged vault (it differs) from a wrong vault key (it does not).

    Not keyed: it protects against accident, not against an attacker, who gains nothing by confusing the two.
    """
    data = schema_version.to_bytes(4, "big") + salt + wrapped
    return hashlib.blake2b(data, digest_size=CHECK_BYTES, person=b"rtr1-vchk").digest()


def _derive(key: PrivateKey, data: bytes, *, person: bytes, salt: bytes = b"") -> bytes:
    return hashlib.blake2b(data, digest_size=KEY_BYTES, key=_octets(key), salt=salt, person=person).digest()


def _seal(message: bytes, key: bytes, nonce: bytes) -> bytes:
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    return nonce + crypto_secretbox(message, nonce, key)


def _open(sealed: bytes, key: bytes) -> bytes | None:
    if len(sealed) < NONCE_BYTES + MAC_BYTES:
        return None
    try:
        return crypto_secretbox_open(sealed[NONCE_BYTES:], sealed[:NONCE_BYTES], key)
    except CryptoError:
        return None


def _spell_octets(value: object) -> list[str]:
    if not isinstance(value, bytes):
        raise TypeError(f"a row never holds a {type(value).__name__}")
    return [value.hex()]  # a list: no column holds one, so nothing else spells like it


# Made once: json.dumps would make one for each row.
_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=_spell_octets)


def _octets(secret: AnySecret) -> bytes:
    value = secret.reveal()
    return value.encode() if isinstance(value, str) else value
