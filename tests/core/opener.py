"""A second opener of envelopes, in pure Python and without libsodium, written from the specifications alone.

It exists so that the test vectors do not only say what one library does: X25519 is RFC 7748, Poly1305 is RFC 8439
§2.5, Salsa20 and its core are Bernstein's "Salsa20 specification", XSalsa20 and the box are "Cryptography in NaCl",
BLAKE2b (RFC 7693) comes from hashlib. Check order and reasons are those of ``docs/spec/envelope.md``.

For tests only: it is slow and its time depends on the secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

P = 2**255 - 19
POLY1305_P = 2**130 - 5
WORD = 0xFFFFFFFF
SIGMA = struct.unpack("<4I", b"expand 32-byte k")
HEADER_BYTES, TAG_BYTES = 60, 16
PADDED_BYTES = (4096, 16384)
# Salsa20's doubleround: four columns, then four rows, each a quarterround over four places of the 4x4 matrix
QUARTERS = (
    (0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11),
    (0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14),
)  # fmt: skip


class RefusedError(Exception):
    """Not opened; ``reason`` is the slug of the specification."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def x25519(private_key: bytes, u: bytes) -> bytes:
    """Multiply: the Montgomery ladder. RFC 7748 §5."""
    scalar = int.from_bytes(private_key, "little") & ~7 & ~(1 << 255) | 1 << 254
    x1 = int.from_bytes(u, "little") & ~(1 << 255)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = scalar >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def _rounds(words: tuple[int, ...]) -> list[int]:
    """Apply Salsa20's twenty rounds. Salsa20 specification §3 to §6."""
    x = list(words)
    for _ in range(10):
        for i, j, k, m in QUARTERS:
            t = x[i] + x[m] & WORD
            x[j] ^= (t << 7 | t >> 25) & WORD
            t = x[j] + x[i] & WORD
            x[k] ^= (t << 9 | t >> 23) & WORD
            t = x[k] + x[j] & WORD
            x[m] ^= (t << 13 | t >> 19) & WORD
            t = x[m] + x[k] & WORD
            x[i] ^= (t << 18 | t >> 14) & WORD
    return x


def _matrix(key: bytes, block: bytes) -> tuple[int, ...]:
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", block)
    return (SIGMA[0], *k[:4], SIGMA[1], *n, SIGMA[2], *k[4:], SIGMA[3])


def hsalsa20(key: bytes, block: bytes) -> bytes:
    """Derive a key from a key and 16 bytes. Cryptography in NaCl §8."""
    x = _rounds(_matrix(key, block))
    return struct.pack("<8I", x[0], x[5], x[10], x[15], x[6], x[7], x[8], x[9])


def xsalsa20(key: bytes, nonce: bytes, length: int) -> bytes:
    """Return so many bytes of the stream. Cryptography in NaCl §8."""
    subkey = hsalsa20(key, nonce[:16])
    stream = bytearray()
    for counter in range(-(-length // 64)):
        matrix = _matrix(subkey, nonce[16:] + counter.to_bytes(8, "little"))
        mixed = _rounds(matrix)
        stream += struct.pack("<16I", *(a + b & WORD for a, b in zip(mixed, matrix, strict=True)))
    return bytes(stream[:length])


def poly1305(key: bytes, message: bytes) -> bytes:
    """Return the 16-byte authenticator. RFC 8439 §2.5."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    accumulator = 0
    for at in range(0, len(message), 16):
        accumulator = (accumulator + int.from_bytes(message[at : at + 16] + b"\x01", "little")) * r % POLY1305_P
    return ((accumulator + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def box_key(private_key: bytes, public_key: bytes) -> bytes:
    """Return the shared key of crypto_box. ``bad_point`` when the point has low order: RFC 7748 §6.1."""
    shared = x25519(private_key, public_key)
    if shared == bytes(32):
        raise RefusedError("bad_point")
    return hsalsa20(shared, bytes(16))


def open_box(key: bytes, nonce: bytes, box: bytes) -> bytes:
    """Open a crypto_secretbox: the first 32 bytes of the stream authenticate, the rest encrypts."""
    tag, ciphertext = box[:TAG_BYTES], box[TAG_BYTES:]
    if len(tag) < TAG_BYTES or not hmac.compare_digest(poly1305(xsalsa20(key, nonce, 32), ciphertext), tag):
        raise RefusedError("bad_box")
    stream = xsalsa20(key, nonce, 32 + len(ciphertext))[32:]
    return bytes(a ^ b for a, b in zip(ciphertext, stream, strict=True))


def unpad(padded: bytes) -> bytes:
    """Take 0x80 and the zeros away; the large size only where the small one had no room."""
    text, marker, rest = padded.rpartition(b"\x80")
    if not marker or rest.strip(b"\0") or (len(padded) == PADDED_BYTES[1] and len(text) < PADDED_BYTES[0]):
        raise RefusedError("bad_padding")
    return text


def raw_id(public_key: bytes) -> bytes:
    """Return the id of a key in an envelope's header."""
    return hashlib.blake2b(public_key, digest_size=32).digest()[:16]


def open_envelope(envelope: bytes, *, key: bytes, own_public: bytes, peer_public: bytes) -> bytes:
    """Return the plaintext; ``key`` is the pair's :func:`box_key`."""
    if len(envelope) not in [HEADER_BYTES + TAG_BYTES + size for size in PADDED_BYTES]:
        raise RefusedError("bad_length")
    if envelope[:4] != b"RTR1":
        raise RefusedError("bad_magic")
    if envelope[20:36] != raw_id(own_public):
        raise RefusedError("wrong_recipient")
    if envelope[4:20] != raw_id(peer_public):
        raise RefusedError("wrong_sender")
    return unpad(open_box(key, envelope[36:60], envelope[60:]))


def open_once(sealed: bytes, *, private_key: bytes, public_key: bytes) -> bytes:
    """Open libsodium's crypto_box_seal: ephemeral key, then a box under a nonce made of both public keys."""
    ephemeral = sealed[:32]
    nonce = hashlib.blake2b(ephemeral + public_key, digest_size=24).digest()
    try:
        if len(sealed) < 32 + TAG_BYTES:
            raise RefusedError("bad_sealed_box")
        return open_box(box_key(private_key, ephemeral), nonce, sealed[32:])
    except RefusedError:
        raise RefusedError("bad_sealed_box") from None


def open_pair(wire: bytes, *, own_private: bytes, own_public: bytes) -> tuple[bytes, bytes]:
    """Return MAC and JSON of PAIR1 or PAIR2, both yet to be judged."""
    if len(wire) != HEADER_BYTES + TAG_BYTES + PADDED_BYTES[0]:
        raise RefusedError("bad_length")
    if wire[:4] != b"RTP1":
        raise RefusedError("bad_magic")
    if wire[4:36] == own_public:
        raise RefusedError("own_key")
    text = unpad(open_box(box_key(own_private, wire[4:36]), wire[36:60], wire[60:]))
    return text[:32], text[32:]
