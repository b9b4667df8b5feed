"""The envelope: what two paired devices put on the channel. NaCl crypto_box and nothing else.

Layout, in bytes::

    "RTR1" (4) | sender id (16) | recipient id (16) | nonce (24, random) | crypto_box (16 + 4096 or 16 + 16384)

The plaintext is padded as ``sodium_pad`` does (0x80, then zeros) to 4096 or 16384 bytes, so only two total
lengths exist and every everyday message looks alike; any other length is dropped before any crypto.

crypto_box opens at its own sender too (both ends share one key), so the header's ids are compared with the
pairing's keys, and :mod:`token_relay.protocol.messages` compares them once more with the ids inside. Whoever holds a
device's static private key can forge messages *to* that device: a property of static Diffie-Hellman, stated in the
threat model.

The grant is sealed once more, to a one-time key, with :func:`seal_once` and :func:`open_once`: libsodium's
crypto_box_seal with a given ephemeral key, so that recorded traffic stays closed when static keys leak later.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from nacl.bindings import (
    crypto_box_beforenm,
    crypto_box_easy_afternm,
    crypto_box_open_easy_afternm,
    crypto_box_seal_open,
)
from nacl.exceptions import CryptoError

from token_relay.protocol.errors import PeerError
from token_relay.protocol.identity import RAW_ID_BYTES, KeyPair, raw_id
from token_relay.protocol.secret import PrivateKey

MAGIC = b"RTR1"
NONCE_BYTES = 24
BOX_OVERHEAD_BYTES = 16
HEADER_BYTES = len(MAGIC) + 2 * RAW_ID_BYTES + NONCE_BYTES
PADDED_BYTES = (4096, 16384)
ENVELOPE_BYTES = tuple(HEADER_BYTES + BOX_OVERHEAD_BYTES + padded for padded in PADDED_BYTES)
PLAINTEXT_BYTES_MAX = PADDED_BYTES[-1] - 1
_ZEROS = bytes(PADDED_BYTES[-1])
SEALED_OVERHEAD_BYTES = 48  # crypto_box_seal: ephemeral public key and authenticator


@dataclass(frozen=True, slots=True)
class Header:
    """The clear part of an envelope; nothing in it is trusted before the box has opened."""

    sender: bytes
    recipient: bytes
    nonce: bytes


def parse_header(envelope: bytes) -> Header:
    """Read the header of an envelope.

    Raises:
        PeerError: ``bad_length`` or ``bad_magic``; drop the message.
    """
    if len(envelope) not in ENVELOPE_BYTES:
        raise PeerError("bad_length")
    if envelope[:4] != MAGIC:
        raise PeerError("bad_magic")
    return Header(envelope[4:20], envelope[20:36], envelope[36:60])


class PeerBox:
    """Seals to and opens from one peer; holds the precomputed shared key of the two static keys."""

    __slots__ = ("_shared", "own_id", "peer_id")

    def __init__(self, own: KeyPair, peer_public_key: bytes) -> None:
        """Prepare the shared key.

        Raises:
            PeerError: ``own_key`` when the peer's key is ours, ``bad_point`` for a low-order point.
        """
        if peer_public_key == own.public_key:
            raise PeerError("own_key")
        self._shared = shared_key(own.private_key, peer_public_key)
        self.own_id = raw_id(own.public_key)
        self.peer_id = raw_id(peer_public_key)

    def seal(self, plaintext: bytes, nonce: bytes) -> bytes:
        """Return the envelope of ``plaintext`` (at most 16383 bytes) under 24 fresh random bytes."""
        if len(nonce) != NONCE_BYTES:
            raise ValueError("a nonce has 24 bytes")
        header = MAGIC + self.own_id + self.peer_id + nonce
        return header + crypto_box_easy_afternm(pad(plaintext), nonce, self._shared.reveal())

    def open(self, envelope: bytes) -> bytes:
        """Return the plaintext of an envelope from this peer to us.

        Raises:
            PeerError: ``bad_length``, ``bad_magic``, ``wrong_recipient``, ``wrong_sender``, ``bad_box`` or
                ``bad_padding``; drop the message.
        """
        header = parse_header(envelope)
        if header.recipient != self.own_id:
            raise PeerError("wrong_recipient")
        if header.sender != self.peer_id:
            raise PeerError("wrong_sender")
        return self._unseal(envelope, header)

    def open_own(self, envelope: bytes) -> bytes:
        """Return the plaintext of an envelope that we sealed to this peer ourselves: the box opens at both ends.

        Raises:
            PeerError: as :meth:`open`.
        """
        header = parse_header(envelope)
        if (header.sender, header.recipient) != (self.own_id, self.peer_id):
            raise PeerError("wrong_sender")
        return self._unseal(envelope, header)

    def _unseal(self, envelope: bytes, header: Header) -> bytes:
        try:
            padded = crypto_box_open_easy_afternm(envelope[HEADER_BYTES:], header.nonce, self._shared.reveal())
        except CryptoError as exc:
            raise PeerError("bad_box") from exc
        return unpad(padded)


def pad(plaintext: bytes) -> bytes:
    """Append 0x80 and zeros up to 4096 or 16384 bytes. libsodium sodium_pad."""
    for size in PADDED_BYTES:
        if len(plaintext) < size:
            return (plaintext + b"\x80").ljust(size, b"\0")
    raise ValueError(f"plaintext is longer than {PLAINTEXT_BYTES_MAX} bytes")


def unpad(padded: bytes) -> bytes:
    """Undo :func:`pad`; the short size must have been used where it sufficed. libsodium sodium_unpad.

    Raises:
        PeerError: ``bad_padding``.
    """
    end = padded.rfind(b"\x80")
    if end < 0 or padded[end + 1 :] != _ZEROS[: len(padded) - end - 1]:
        raise PeerError("bad_padding")
    plaintext = padded[:end]
    if len(padded) == PADDED_BYTES[1] and len(plaintext) < PADDED_BYTES[0]:
        raise PeerError("bad_padding")
    return plaintext


def seal_once(plaintext: bytes, recipient_public_key: bytes, ephemeral: KeyPair) -> bytes:
    """Seal to a public key with a fresh ephemeral key pair that the caller then forgets.

    The bytes are libsodium's crypto_box_seal: ephemeral public key, then a box whose nonce is
    BLAKE2b-192(ephemeral key | recipient key).

    Raises:
        PeerError: ``bad_point``.
    """
    shared = shared_key(ephemeral.private_key, recipient_public_key)
    nonce = hashlib.blake2b(ephemeral.public_key + recipient_public_key, digest_size=NONCE_BYTES).digest()
    return ephemeral.public_key + crypto_box_easy_afternm(plaintext, nonce, shared.reveal())


def open_once(sealed: bytes, one_time: KeyPair) -> bytes:
    """Open what was sealed to this one-time key. NaCl crypto_box_seal_open.

    Raises:
        PeerError: ``bad_sealed_box``.
    """
    if len(sealed) < SEALED_OVERHEAD_BYTES:
        raise PeerError("bad_sealed_box")
    try:
        return crypto_box_seal_open(sealed, one_time.public_key, one_time.private_key.reveal())
    except (CryptoError, RuntimeError) as exc:
        raise PeerError("bad_sealed_box") from exc


def shared_key(private_key: PrivateKey, public_key: bytes) -> PrivateKey:
    """Return the key of NaCl crypto_box between these two.

    Raises:
        PeerError: ``bad_point`` for a low-order or malformed public key.
    """
    try:
        return PrivateKey(crypto_box_beforenm(public_key, private_key.reveal()))
    except (CryptoError, RuntimeError, ValueError, TypeError) as exc:
        # PyNaCl reports libsodium's refusal of a low-order point as RuntimeError or CryptoError, by version
        raise PeerError("bad_point") from exc
