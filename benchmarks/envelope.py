"""What an envelope costs over the box inside it.

The floor is PyNaCl's ``Box``, made once, encrypting and decrypting the same padded bytes; ours is
:class:`token_relay.protocol.envelope.PeerBox`: the same box, and header, padding and the checks of both.
"""

from __future__ import annotations

import os

from nacl.public import Box, PrivateKey, PublicKey

from benchmarks.measure import Bench, in_turns
from benchmarks.table import Section, medians
from token_relay.protocol.envelope import NONCE_BYTES, PADDED_BYTES, PeerBox
from token_relay.protocol.identity import KeyPair

MESSAGE_BYTES = 700  # an OFFER or a TOKEN has 500 to 1500
RATIO_MAX = 1.5


def run(bench: Bench) -> Section:
    """Seal and open an everyday envelope (4 KiB) and a large one (16 KiB) against the raw box."""
    count, repeat = bench.count(300, 30), bench.count(20, 5)
    rows = []
    for size, length in ((PADDED_BYTES[0], MESSAGE_BYTES), (PADDED_BYTES[1], PADDED_BYTES[0] + MESSAGE_BYTES)):
        ours, floor = ([ms * 1e3 for ms in taken] for taken in _samples(size, length, count=count, repeat=repeat))
        how = "PyNaCl Box encrypt + decrypt of the same padded bytes"
        ratio_max = RATIO_MAX if size == PADDED_BYTES[0] else None
        name = f"seal + open, {size // 1024} KiB envelope"
        rows.append(medians(name, ours, floor, "µs", ratio_max=ratio_max, how=how))
    return Section("envelope", tuple(rows))


def _samples(size: int, length: int, *, count: int, repeat: int) -> tuple[list[float], ...]:
    phone, companion = KeyPair.from_random(os.urandom(32)), KeyPair.from_random(os.urandom(32))
    to_companion, from_phone = PeerBox(phone, companion.public_key), PeerBox(companion, phone.public_key)
    raw_out = Box(PrivateKey(phone.private_key.reveal()), PublicKey(companion.public_key))
    raw_in = Box(PrivateKey(companion.private_key.reveal()), PublicKey(phone.public_key))
    plaintext, padded = os.urandom(length), os.urandom(size)

    def ours() -> None:
        assert from_phone.open(to_companion.seal(plaintext, os.urandom(NONCE_BYTES))) == plaintext

    def floor() -> None:
        nonce = os.urandom(NONCE_BYTES)
        assert raw_in.decrypt(raw_out.encrypt(padded, nonce).ciphertext, nonce) == padded

    return in_turns(ours, floor, count=count, repeat=repeat)
