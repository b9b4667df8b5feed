"""Two lengths, one peer, one direction: what an envelope promises.

The other end of the comparison is PyNaCl's high-level ``Box`` and ``SealedBox``, written by others from the same
description, and padding written out by hand.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.public import Box, PublicKey, SealedBox
from nacl.public import PrivateKey as NaclKey

from token_relay.protocol.envelope import (
    ENVELOPE_BYTES,
    PLAINTEXT_BYTES_MAX,
    PeerBox,
    open_once,
    pad,
    parse_header,
    seal_once,
    shared_key,
    unpad,
)
from token_relay.protocol.errors import PeerError
from token_relay.protocol.identity import KeyPair, raw_id
from token_relay.protocol.secret import PrivateKey

PHONE_SEED, COMPANION_SEED, THIRD_SEED = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32
PHONE, COMPANION, THIRD = (KeyPair.from_random(seed) for seed in (PHONE_SEED, COMPANION_SEED, THIRD_SEED))
NONCE = bytes(range(24))
TO_COMPANION = PeerBox(PHONE, COMPANION.public_key)
TO_PHONE = PeerBox(COMPANION, PHONE.public_key)
BOX = Box(NaclKey(PHONE_SEED), PublicKey(COMPANION.public_key))

# Every encoding of the points of order 1, 2, 4 and 8, after libsodium's blocklist (crypto_scalarmult_curve25519).
LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def sealed_by_hand(padded: bytes, *, sender: KeyPair = PHONE, recipient: KeyPair = COMPANION) -> bytes:
    header = b"RTR1" + raw_id(sender.public_key) + raw_id(recipient.public_key) + NONCE
    return header + BOX.encrypt(padded, NONCE).ciphertext


def reason_of(box: PeerBox, envelope: bytes) -> str:
    with pytest.raises(PeerError) as caught:
        box.open(envelope)
    return caught.value.reason


# -- What is sealed opens ----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=PLAINTEXT_BYTES_MAX), st.binary(min_size=24, max_size=24))
def test_what_one_end_seals_the_other_opens(plaintext: bytes, nonce: bytes) -> None:
    assert TO_PHONE.open(TO_COMPANION.seal(plaintext, nonce)) == plaintext
    assert TO_COMPANION.open(TO_PHONE.seal(plaintext, nonce)) == plaintext


@pytest.mark.parametrize(
    ("plaintext_bytes", "envelope_bytes"),
    # 4 + 16 + 16 + 24 of header, 16 of box, 4096 or 16384 padded
    [(0, 4172), (1, 4172), (4095, 4172), (4096, 16460), (4097, 16460), (16383, 16460)],
)
def test_only_two_total_lengths_exist(plaintext_bytes: int, envelope_bytes: int) -> None:
    plaintext = b"x" * plaintext_bytes
    envelope = TO_COMPANION.seal(plaintext, NONCE)
    assert len(envelope) == envelope_bytes
    assert TO_PHONE.open(envelope) == plaintext
    assert ENVELOPE_BYTES == (4172, 16460)


def test_the_layout_is_the_documented_one() -> None:
    envelope = TO_COMPANION.seal(b"hello", NONCE)
    assert envelope[:4] == b"RTR1"
    assert envelope[4:20] == raw_id(PHONE.public_key)
    assert envelope[20:36] == raw_id(COMPANION.public_key)
    assert envelope[36:60] == NONCE
    assert BOX.decrypt(envelope[60:], NONCE) == b"hello" + b"\x80" + bytes(4090)
    assert TO_PHONE.open(sealed_by_hand(b"hello" + b"\x80" + bytes(4090))) == b"hello"


def test_a_plaintext_that_does_not_fit_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="16383"):
        TO_COMPANION.seal(bytes(PLAINTEXT_BYTES_MAX + 1), NONCE)
    with pytest.raises(ValueError, match="24 bytes"):
        TO_COMPANION.seal(b"", bytes(23))


# -- What is not from this peer to us does not -------------------------------------------------------------


def test_an_envelope_does_not_open_at_its_own_sender() -> None:
    # crypto_box itself would open it: both ends share one key.
    envelope = TO_COMPANION.seal(b"hello", NONCE)
    assert BOX.decrypt(envelope[60:], NONCE)
    assert reason_of(TO_COMPANION, envelope) == "wrong_recipient"


def test_an_envelope_turned_around_does_not_open() -> None:
    envelope = TO_COMPANION.seal(b"hello", NONCE)
    turned = envelope[:4] + envelope[20:36] + envelope[4:20] + envelope[36:]
    # the box opens and the header fits: only the ids inside the message tell, see protocol.messages and agents.link
    assert TO_COMPANION.open(turned) == b"hello"
    assert reason_of(TO_PHONE, turned) == "wrong_recipient"


def test_an_envelope_of_a_third_device_is_refused() -> None:
    from_third = PeerBox(THIRD, COMPANION.public_key).seal(b"hello", NONCE)
    assert reason_of(TO_PHONE, from_third) == "wrong_sender"
    posing = from_third[:4] + raw_id(PHONE.public_key) + from_third[20:]
    assert reason_of(TO_PHONE, posing) == "bad_box"
    to_third = PeerBox(PHONE, THIRD.public_key).seal(b"hello", NONCE)
    assert reason_of(TO_PHONE, to_third) == "wrong_recipient"
    readdressed = to_third[:20] + raw_id(COMPANION.public_key) + to_third[36:]
    assert reason_of(TO_PHONE, readdressed) == "bad_box"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 4171), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_refused(place: int, change: int) -> None:
    envelope = bytearray(TO_COMPANION.seal(b"hello", NONCE))
    envelope[place] ^= change
    expected = (
        "bad_magic" if place < 4 else "wrong_sender" if place < 20 else "wrong_recipient" if place < 36 else "bad_box"
    )
    assert reason_of(TO_PHONE, bytes(envelope)) == expected


@pytest.mark.parametrize("length", [0, 1, 59, 60, 76, 4171, 4173, 8268, 16459, 16461, 65536])
def test_any_other_length_is_dropped_before_any_crypto(length: int) -> None:
    with pytest.raises(PeerError) as caught:
        parse_header((b"RTR1" + bytes(length))[:length])
    assert caught.value.reason == "bad_length"
    assert reason_of(TO_PHONE, bytes(length)) == "bad_length"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.sampled_from(ENVELOPE_BYTES))
def test_noise_is_refused_and_nothing_else(noise: bytes, length: int) -> None:
    for data in (noise, (noise + bytes(length))[:length], (b"RTR1" + noise + bytes(length))[:length]):
        with pytest.raises(PeerError):
            TO_PHONE.open(data)


def test_our_own_key_is_no_peer() -> None:
    with pytest.raises(PeerError) as caught:
        PeerBox(PHONE, PHONE.public_key)
    assert caught.value.reason == "own_key"


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_low_order_point_is_no_peer(point: str) -> None:
    for attempt in (
        lambda: PeerBox(PHONE, bytes.fromhex(point)),
        lambda: shared_key(PHONE.private_key, bytes.fromhex(point)),
        lambda: seal_once(b"x", bytes.fromhex(point), THIRD),
    ):
        with pytest.raises(PeerError) as caught:
            attempt()
        assert caught.value.reason == "bad_point"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_no_peer(length: int) -> None:
    with pytest.raises(PeerError) as caught:
        shared_key(PHONE.private_key, b"\x09" * length)
    assert caught.value.reason == "bad_point"


# -- Padding -----------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=PLAINTEXT_BYTES_MAX))
def test_padding_is_a_mark_and_zeros(plaintext: bytes) -> None:
    size = 4096 if len(plaintext) <= 4095 else 16384
    assert pad(plaintext) == plaintext + b"\x80" + bytes(size - len(plaintext) - 1)
    assert unpad(pad(plaintext)) == plaintext


@pytest.mark.parametrize(
    "padded",
    [
        bytes(4096),  # no mark
        b"x" * 4096,
        b"x" * 4095 + b"\x81",
        b"x\x80" + bytes(4093) + b"\x01",  # something after the mark
        b"x" * 4095 + b"\x80" + bytes(16384 - 4096),  # 4095 bytes fit the short size
        b"\x80" + bytes(16383),
    ],
    ids=["zeros", "full", "wrong mark", "dirty", "long for 4095", "long for 0"],
)
def test_a_box_with_any_other_padding_is_refused(padded: bytes) -> None:
    assert reason_of(TO_PHONE, sealed_by_hand(padded)) == "bad_padding"
    with pytest.raises(PeerError):
        unpad(padded)


def test_a_plaintext_that_ends_like_padding_survives() -> None:
    for plaintext in (b"\x80", b"x\x80\x00\x00", bytes(100), b"\x80" * 4095, b"x" * 4095 + b"\x80"):
        assert TO_PHONE.open(TO_COMPANION.seal(plaintext, NONCE)) == plaintext


# -- The second seal ---------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=2000), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_the_second_seal_is_libsodiums_sealed_box(plaintext: bytes, one_time: bytes, ephemeral: bytes) -> None:
    recipient = KeyPair.from_random(one_time)
    sealed = seal_once(plaintext, recipient.public_key, KeyPair.from_random(ephemeral))
    assert len(sealed) == len(plaintext) + 48
    assert SealedBox(NaclKey(one_time)).decrypt(sealed) == plaintext
    assert open_once(sealed, recipient) == plaintext
    assert open_once(SealedBox(PublicKey(recipient.public_key)).encrypt(plaintext), recipient) == plaintext


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 52), st.integers(1, 255))
def test_a_changed_sealed_box_does_not_open(place: int, change: int) -> None:
    sealed = bytearray(seal_once(b"hello", COMPANION.public_key, THIRD))
    sealed[place] ^= change
    with pytest.raises(PeerError) as caught:
        open_once(bytes(sealed), COMPANION)
    # The top bit of an X25519 public key is ignored (RFC 7748 §5), but the nonce hashes it.
    assert caught.value.reason == "bad_sealed_box"


@pytest.mark.parametrize("sealed", [b"", bytes(47), bytes(48), bytes(64), b"\x01" + bytes(63), b"\xff" * 48])
def test_what_is_no_sealed_box_is_refused(sealed: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        open_once(sealed, COMPANION)
    assert caught.value.reason == "bad_sealed_box"


def test_a_sealed_box_opens_with_its_one_time_key_only() -> None:
    sealed = seal_once(b"hello", COMPANION.public_key, THIRD)
    with pytest.raises(PeerError):
        open_once(sealed, PHONE)
    with pytest.raises(PeerError):
        open_once(sealed, KeyPair(COMPANION.public_key, PHONE.private_key))


def test_the_shared_key_does_not_print() -> None:
    assert isinstance(shared_key(PHONE.private_key, COMPANION.public_key), PrivateKey)
    assert shared_key(PHONE.private_key, COMPANION.public_key).reveal() == BOX.shared_key()
