"""Argon2id with the least memory and passes that libsodium takes, whatever a vault asks for.

For tests that open vaults often and are about something else.
"""

from __future__ import annotations

import nacl.pwhash.argon2id as argon2id

from token_relay.protocol.secret import Password
from token_relay.vault import keys
from token_relay.vault.sealing import KEY_BYTES


def light(passphrase: Password, *, salt: bytes, passes: int, memory_bytes: int) -> bytes:
    """Stretch as :mod:`token_relay.vault.keys` does, with other parameters."""
    octets = passphrase.reveal().encode()
    return argon2id.kdf(KEY_BYTES, octets, salt, opslimit=argon2id.OPSLIMIT_MIN, memlimit=argon2id.MEMLIMIT_MIN)


def stretch_lightly() -> None:
    """From now on, in this process."""
    assert callable(keys._stretch)
    keys._stretch = light
