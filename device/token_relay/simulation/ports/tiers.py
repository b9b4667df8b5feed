"""The tiers of the simulation: different disks and cryptography beneath the same agents.

``fast``: records in memory, envelopes that are not encrypted, tokens that are not signed. ``memory``: records in
memory, all cryptography real. ``real``: SQLite on files, all cryptography real
(:mod:`token_relay.simulation.ports.real_disk`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Protocol

from token_relay.agents.records import RECORDS
from token_relay.protocol.envelope import (
    BOX_OVERHEAD_BYTES,
    HEADER_BYTES,
    MAGIC,
    NONCE_BYTES,
    Header,
    PeerBox,
    pad,
    unpad,
)
from token_relay.protocol.errors import PeerError
from token_relay.protocol.identity import KeyPair, raw_id
from token_relay.sandbox.provider.http_values import JsonValue
from token_relay.sandbox.provider.memory.signing import RsaSigner, Signer
from token_relay.simulation.ports.disk import Store
from token_relay.simulation.ports.memory_vault import MemoryVault

_ENCODER = json.JSONEncoder(separators=(",", ":"))


class IdentityBox(PeerBox):
    """Makes envelopes of the same length with the same header and the same refusals, without encryption."""

    __slots__ = ("_mark",)

    def __init__(self, own: KeyPair, peer_public_key: bytes) -> None:
        if peer_public_key == own.public_key:
            raise PeerError("own_key")
        if not any(peer_public_key):
            raise PeerError("bad_point")
        self.own_id = raw_id(own.public_key)
        self.peer_id = raw_id(peer_public_key)
        keys = min(own.public_key, peer_public_key) + max(own.public_key, peer_public_key)
        self._mark = hashlib.blake2b(keys, digest_size=BOX_OVERHEAD_BYTES).digest()  # in place of the authenticator

    def seal(self, plaintext: bytes, nonce: bytes) -> bytes:
        if len(nonce) != NONCE_BYTES:
            raise ValueError("a nonce has 24 bytes")
        return b"".join((MAGIC, self.own_id, self.peer_id, nonce, self._mark, pad(plaintext)))

    def _unseal(self, envelope: bytes, header: Header) -> bytes:
        if envelope[HEADER_BYTES : HEADER_BYTES + BOX_OVERHEAD_BYTES] != self._mark:
            raise PeerError("bad_box")
        return unpad(envelope[HEADER_BYTES + BOX_OVERHEAD_BYTES :])


class PlainSigner:
    """Makes JWTs without a real signature, for a simulation that does not verify them."""

    algorithm = "none"

    def sign(self, claims: dict[str, JsonValue], *, typ: str = "JWT") -> str:
        payload = base64.urlsafe_b64encode(_ENCODER.encode(claims).encode()).rstrip(b"=")
        return f"eyJhbGciOiJub25lIn0.{payload.decode()}.c2lnbmF0dXJl"

    def verify(self, token: str) -> dict[str, JsonValue] | None:
        try:
            return claims_of(token) if token.startswith("eyJhbGciOiJub25lIn0.") else None
        except ValueError:
            return None

    def jwks(self) -> dict[str, JsonValue]:
        return {"keys": []}


def claims_of(token: str) -> dict[str, JsonValue]:
    """Return the claims of a token of :class:`PlainSigner`."""
    payload = token.split(".")[1]
    found: dict[str, JsonValue] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


class Tier(Protocol):
    """Makes a device's parts."""

    signs: bool
    """Whether tokens are signed and checked, and sign-ins go through the provider's pages."""
    box: type[PeerBox]
    signer: Signer

    def new_store(self, name: str) -> Store:
        """Return an empty disk for the device of that name."""
        ...

    def close(self) -> None:
        """Remove the files."""
        ...


class FastTier:
    """See the module."""

    signs = False
    box: type[PeerBox] = IdentityBox
    signer: Signer = PlainSigner()

    def new_store(self, name: str) -> Store:
        return MemoryVault(RECORDS, checks_values=False)

    def close(self) -> None:
        """Nothing is open."""


_RSA: list[Signer] = []  # making a key takes a tenth of a second


class MemoryTier:
    """See the module."""

    signs = True
    box: type[PeerBox] = PeerBox

    def __init__(self) -> None:
        if not _RSA:
            _RSA.append(RsaSigner())
        self.signer = _RSA[0]

    def new_store(self, name: str) -> Store:
        return MemoryVault(RECORDS)

    def close(self) -> None:
        """Nothing is open."""
