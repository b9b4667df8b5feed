"""The data keys of one open vault: the table ``data_keys`` keeps them wrapped, memory keeps the opened ones.

The ring belongs to the writer thread, like the connection that it uses. Its statements run inside the step's
transaction, so a failed step neither makes nor erases a key: :meth:`KeyRing.forget` after each rollback clears memory.
"""

from __future__ import annotations

import os
import sqlite3

from token_relay.protocol.secret import PrivateKey
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.records import VAULT_DATA_KEY, check_data_key_name
from token_relay.vault.sealing import KEY_BYTES, NONCE_BYTES, mac_key_of, unwrap, wrap

KEYS_REMEMBERED_MAX = 256  # a device has a handful of grants; beyond this, forget all rather than grow

CREATE_SQL = (
    'CREATE TABLE "data_keys" ("name" TEXT NOT NULL PRIMARY KEY, "wrapped" BLOB NOT NULL) STRICT, WITHOUT ROWID'
)
_GET_SQL = "SELECT wrapped FROM data_keys WHERE name = ?"
_PUT_SQL = "INSERT INTO data_keys (name, wrapped) VALUES (?, ?)"
DELETE_SQL = "DELETE FROM data_keys WHERE name = ?"


class KeyRing:
    """Data keys by name. Methods raise sqlite3.Error for the connection's errors; the caller maps those."""

    def __init__(self, connection: sqlite3.Connection, kek: PrivateKey) -> None:
        self._connection = connection
        self._kek = kek
        self.mac_key = mac_key_of(kek)
        self._opened: dict[str, PrivateKey] = {}

    def get(self, name: str) -> PrivateKey | None:
        """Return the data key of this name, None when there is none, or none any more.

        Raises:
            CorruptVaultError: it is there but was changed.
        """
        if name in self._opened:
            return self._opened[name]
        found = self._connection.execute(_GET_SQL, (name,)).fetchone()
        if found is None:
            return None
        opened = unwrap(found[0], kek=self._kek, name=name) if isinstance(found[0], bytes) else None
        if opened is None:
            raise CorruptVaultError("a data key of the vault is damaged")
        return self._remember(name, opened)

    def get_or_make(self, name: str) -> PrivateKey:
        """Return the data key of this name, making one when there is none. Raises as :meth:`get`."""
        key = self.get(name)
        if key is not None:
            return key
        if name == VAULT_DATA_KEY:
            raise CorruptVaultError("the vault's own data key is missing")
        key, wrapped = new_data_key(self._kek, name)
        self._connection.execute(_PUT_SQL, (name, wrapped))
        return self._remember(name, key)

    def erase(self, name: str) -> None:
        """Delete the data key of this name if there is one.

        ``secure_delete`` overwrites it inside the database. A file system, a flash translation layer or the deleted
        rollback journal may keep an old copy; that copy is still wrapped.
        """
        self._opened.pop(check_data_key_name(name), None)
        self._connection.execute(DELETE_SQL, (name,))

    def forget(self) -> None:
        """Drop the opened keys from memory; only the table counts again."""
        self._opened.clear()

    def _remember(self, name: str, key: PrivateKey) -> PrivateKey:
        if len(self._opened) >= KEYS_REMEMBERED_MAX:
            self._opened.clear()
        self._opened[name] = key
        return key


def new_data_key(kek: PrivateKey, name: str) -> tuple[PrivateKey, bytes]:
    """Make a random data key; return it and its wrapped form."""
    key = PrivateKey(os.urandom(KEY_BYTES))
    return key, wrap(key, kek=kek, name=name, nonce=os.urandom(NONCE_BYTES))
