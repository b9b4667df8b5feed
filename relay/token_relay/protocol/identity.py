"""The identity of a device: one X25519 key pair and the name that follows from it.

``device_id`` is the lower-case base32, without padding, of the first 16 bytes of BLAKE2b-256 of the public
key: 26 characters ``[a-z2-7]``. It is the MQTT client id, the certificate's common name and the topic name, so no
other character ever gets into a topic (mosquitto pastes ``%u`` into its ACL patterns as it is).
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from nacl.bindings import crypto_scalarmult_base

from token_relay.protocol.secret import PrivateKey

DEVICE_ID_CHARS = 26
RAW_ID_BYTES = 16
DEVICE_ID_PATTERN = re.compile(rf"[a-z2-7]{{{DEVICE_ID_CHARS}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key pair; ``public_key`` is 32 raw bytes. NaCl crypto_box."""

    public_key: bytes
    private_key: PrivateKey

    @classmethod
    def from_random(cls, random_bytes: bytes) -> KeyPair:
        """Make the pair whose private key is these 32 fresh random bytes."""
        private_key = PrivateKey(random_bytes)
        return cls(crypto_scalarmult_base(private_key.reveal()), private_key)


def raw_id(public_key: bytes) -> bytes:
    """Return the 16 bytes that name the owner of ``public_key`` (32 bytes) in an envelope's header."""
    if len(public_key) != 32:
        raise ValueError("a public key has 32 bytes")
    return hashlib.blake2b(public_key, digest_size=32).digest()[:RAW_ID_BYTES]


@lru_cache(maxsize=1024)  # the same few peers in every header
def id_text(raw: bytes) -> str:
    """Spell a 16-byte id as the 26 characters used in topics and JSON."""
    if len(raw) != RAW_ID_BYTES:
        raise ValueError("a raw id has 16 bytes")
    return base64.b32encode(raw).decode().rstrip("=").lower()


def device_id(public_key: bytes) -> str:
    """Return the device id of the owner of ``public_key`` (32 bytes)."""
    return id_text(raw_id(public_key))
