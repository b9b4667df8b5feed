"""Who a device is follows from its key alone, and can be spelt in a topic."""

from __future__ import annotations

import base64

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from token_relay.protocol.identity import DEVICE_ID_PATTERN, KeyPair, device_id, id_text, raw_id

# RFC 7748 §6.1: Alice's and Bob's key pairs. The ids were made with coreutils from the public keys:
# xxd -r -p | b2sum -l 256 | cut -c1-32 | xxd -r -p | base32, then lower case without padding.
PAIRS = [
    (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        "7a91869e4c114964206972403b0a3d81",
        "pkiynhsmcfewiidjojadwcr5qe",
    ),
    (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        "e95918fc55316af0e2f82451824337cd",
        "5fmrr7cvgfvpbyxyeriyeqzxzu",
    ),
]


@pytest.mark.parametrize(("private", "public", "raw", "text"), PAIRS)
def test_a_key_pair_and_its_id_are_as_published(private: str, public: str, raw: str, text: str) -> None:
    pair = KeyPair.from_random(bytes.fromhex(private))
    assert pair.public_key.hex() == public
    assert raw_id(pair.public_key).hex() == raw
    assert device_id(pair.public_key) == id_text(bytes.fromhex(raw)) == text


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=32, max_size=32))
def test_a_device_id_is_26_characters_that_mean_nothing_to_a_topic(public_key: bytes) -> None:
    text = device_id(public_key)
    assert len(text) == 26
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert DEVICE_ID_PATTERN.fullmatch(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=16, max_size=16))
def test_the_text_of_an_id_says_all_of_it(raw: bytes) -> None:
    assert base64.b32decode(id_text(raw).upper() + "======") == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 25,
        "a" * 27,
        "A" * 26,
        "a" * 25 + "1",
        "a" * 25 + "/",
        "+" * 26,
        "a" * 26 + "\n",
        "ａ" * 26,
        "a" * 25 + "٢",
    ],
)
def test_nothing_else_passes_for_a_device_id(text: str) -> None:
    assert not DEVICE_ID_PATTERN.fullmatch(text)


def test_a_pair_does_not_show_its_private_key() -> None:
    pair = KeyPair.from_random(b"\x41" * 32)
    assert "A" * 8 not in repr(pair)
    assert "41" * 8 not in repr(pair)
    assert "<PrivateKey>" in repr(pair)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        raw_id(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        KeyPair.from_random(bytes(length))


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_raw_id_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        id_text(bytes(length))
