"""Pairing: one reader of the QR code becomes the peer, once; both ends see the same six digits."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.public import Box, PublicKey
from nacl.public import PrivateKey as NaclKey

from token_relay.protocol.errors import PeerError
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.pairing import (
    Invitation,
    Pair1Fields,
    Pair2Fields,
    PairingSecret,
    check_number,
    open_pair1,
    open_pair2,
    seal_pair1,
    seal_pair2,
    sender_key,
    transcript_hash,
)

PHONE, COMPANION = KeyPair.from_random(b"\x11" * 32), KeyPair.from_random(b"\x22" * 32)
FRESH_SEED, FRESH2_SEED = b"\x33" * 32, b"\x44" * 32
FRESH, FRESH2 = KeyPair.from_random(FRESH_SEED), KeyPair.from_random(FRESH2_SEED)
THIEF = KeyPair.from_random(b"\x55" * 32)
SECRET = PairingSecret(bytes(range(16)))
INVITATION = Invitation(COMPANION.public_key, SECRET, "mqtts://broker.example:8883")
NONCE, NONCE2 = b"\x01" * 24, b"\x02" * 24
ID = "0f" * 16
FIELDS1 = Pair1Fields(v=1, type="PAIR1", static_key=PHONE.public_key.hex(), name="Anna's phone", nonce=ID)
FIELDS2 = Pair2Fields(
    v=1, type="PAIR2", static_key=COMPANION.public_key.hex(), name="watch", nonce=ID, pairing_id="1e" * 16
)
PAIR1 = seal_pair1(INVITATION, fresh=FRESH, nonce=NONCE, fields=FIELDS1)
PAIR2 = seal_pair2(INVITATION, PAIR1, fresh=FRESH2, nonce=NONCE2, fields=FIELDS2)


def refused1(wire: bytes, invitation: Invitation = INVITATION) -> str:
    with pytest.raises(PeerError) as caught:
        open_pair1(invitation, wire, static=COMPANION)
    return caught.value.reason


def refused2(wire: bytes, *, invitation: Invitation = INVITATION, pair1: bytes = PAIR1, fresh: KeyPair = FRESH) -> str:
    with pytest.raises(PeerError) as caught:
        open_pair2(invitation, pair1, wire, fresh=fresh)
    return caught.value.reason


def boxed(
    plaintext: bytes, *, seed: bytes = FRESH_SEED, to: bytes = COMPANION.public_key, nonce: bytes = NONCE
) -> bytes:
    """A pairing message around any plaintext, by PyNaCl's own Box and padding written out."""
    header = b"RTP1" + KeyPair.from_random(seed).public_key + nonce
    padded = plaintext + b"\x80" + bytes(4096 - len(plaintext) - 1)
    return header + Box(NaclKey(seed), PublicKey(to)).encrypt(padded, nonce).ciphertext


def with_mac(text: bytes, *, before: bytes, person: bytes, seed: bytes = FRESH_SEED, to: bytes, nonce: bytes) -> bytes:
    header = b"RTP1" + KeyPair.from_random(seed).public_key + nonce
    mac = hashlib.blake2b(before + header + text, key=bytes(range(16)), digest_size=32, person=person).digest()
    return boxed(mac + text, seed=seed, to=to, nonce=nonce)


def pair1_by_hand(text: bytes) -> bytes:
    return with_mac(text, before=INVITATION.octets(), person=b"rtr1-pm1", to=COMPANION.public_key, nonce=NONCE)


def pair2_by_hand(text: bytes) -> bytes:
    before = hashlib.blake2b(INVITATION.octets() + PAIR1, digest_size=32, person=b"rtr1-pth").digest()
    return with_mac(text, before=before, person=b"rtr1-pm2", seed=FRESH2_SEED, to=FRESH.public_key, nonce=NONCE2)


# -- The invitation ----------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64),
)
def test_an_invitation_survives_its_text(public_key: bytes, secret: bytes, broker: str) -> None:
    invitation = Invitation(public_key, PairingSecret(secret), broker)
    text = invitation.text()
    assert Invitation.from_text(text) == invitation
    # QR's alphanumeric mode, ISO/IEC 18004: 45 characters, among them these
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567:1")
    assert len(text) <= 256


def test_the_octets_of_an_invitation_are_the_documented_ones() -> None:
    octets = b"\x01" + COMPANION.public_key + bytes(range(16)) + b"\x1b" + b"mqtts://broker.example:8883"
    checksum = hashlib.blake2b(octets, digest_size=4, person=b"rtr1-inv").digest()
    assert INVITATION.octets() == octets
    assert INVITATION.text() == "RTR1:" + base64.b32encode(octets + checksum).decode().rstrip("=")
    mailbox = hashlib.blake2b(key=bytes(range(16)), digest_size=32, person=b"rtr1-mbx").digest()[:16]
    assert INVITATION.mailbox_id == mailbox


def text_of(octets: bytes) -> str:
    checksum = hashlib.blake2b(octets, digest_size=4, person=b"rtr1-inv").digest()
    return "RTR1:" + base64.b32encode(octets + checksum).decode().rstrip("=")


PASTED = tomllib.loads((Path(__file__).parent / "pasted_invitations.toml").read_text())["pasted"]


@pytest.mark.parametrize("row", PASTED, ids=lambda row: row["name"])
def test_what_a_person_pastes_is_taken_or_refused_in_words(row: dict[str, str]) -> None:
    it = INVITATION.text()
    half, rest = it[: len(it) // 2], it[len(it) // 2 :]
    parts = {"it": it, "it_lower": it.lower(), "half": half, "rest": rest, "long": "x" * 5000 + it}
    parts["mistyped"] = it[:40] + ("A" if it[40] != "A" else "B") + it[41:]
    parts["version_2"] = text_of(b"\x02" + INVITATION.octets()[1:])
    text = row["text"].format(**parts)
    if "says" not in row:
        assert Invitation.from_text(text) == INVITATION
        return
    with pytest.raises(PeerError) as refused:
        Invitation.from_text(text)
    hint = row.get("hint", "copy all of it: token-relay companion pair shows it")
    assert (str(refused.value), refused.value.hint) == (row["says"], hint)


START = b"\x01" + COMPANION.public_key + bytes(16)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty", ""),
        ("prefix alone", "RTR1:"),
        ("another prefix", "RTX1:" + INVITATION.text()[5:]),
        ("no prefix", INVITATION.text()[5:]),
        ("a URL", "https://example.com/"),
        ("too long", INVITATION.text() + "A" * 256),
        ("endless", "RTR1:" + "A" * 1_000_000),
        ("characters outside base32", INVITATION.text()[:-1] + "1"),
        ("not ASCII", INVITATION.text()[:-1] + "Ä"),
        ("control character", INVITATION.text()[:-1] + "\x00"),
        ("no hint length", text_of(START)),
        ("hint shorter than it says", text_of(START + b"\x05mqtt")),
        ("hint longer than it says", text_of(START + b"\x03mqtt")),
        ("hint of 65 bytes", text_of(START + b"\x41" + b"x" * 65)),
        ("hint with a control character", text_of(START + b"\x02m\n")),
        ("hint that is not ASCII", text_of(START + b"\x02\xc3\xbc")),
    ],
)
def test_what_is_no_invitation_is_refused(name: str, text: str) -> None:
    with pytest.raises(PeerError) as caught:
        Invitation.from_text(text)
    assert caught.value.reason == "bad_invitation"


@pytest.mark.parametrize("length", range(len(INVITATION.text())))
def test_a_cut_invitation_is_refused(length: int) -> None:
    with pytest.raises(PeerError) as caught:
        Invitation.from_text(INVITATION.text()[:length])
    assert caught.value.reason == "bad_invitation"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(5, len(INVITATION.text()) - 2), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_one_mistyped_character_is_noticed(place: int, character: str) -> None:
    # not the last one: its low bits may carry nothing
    text = INVITATION.text()
    if text[place] == character:
        return
    with pytest.raises(PeerError):
        Invitation.from_text(text[:place] + character + text[place + 1 :])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=300), st.binary(max_size=130))
def test_no_text_at_all_raises_anything_but_a_peer_error(text: str, octets: bytes) -> None:
    for pasted in (text, "RTR1:" + text, text_of(octets)):
        try:
            Invitation.from_text(pasted)
        except PeerError:
            pass


@pytest.mark.parametrize("version", [0, 2, 255])
def test_an_invitation_of_another_version_says_so(version: int) -> None:
    with pytest.raises(PeerError) as caught:
        Invitation.from_text(text_of(bytes([version]) + START[1:] + b"\x00"))
    assert caught.value.reason == "unsupported"
    assert caught.value.hint
    with pytest.raises(PeerError, match=rf"another version, RTR{version + 2}") as caught:
        Invitation.from_text(f"RTR{version + 2}:" + INVITATION.text()[5:])
    assert caught.value.reason == "unsupported"


def test_a_broker_address_that_does_not_fit_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        dataclasses.replace(INVITATION, broker="x" * 65).text()


def test_an_invitation_that_cannot_be_read_again_is_not_made() -> None:
    # The text is ASCII by its format; an address that is not must not end in "incomplete or mistyped" at the phone.
    for broker in ("mqtt://bücher.example", "mqtt://x\n"):
        with pytest.raises(ValueError, match="ASCII"):
            dataclasses.replace(INVITATION, broker=broker).text()


def test_the_secret_does_not_print() -> None:
    assert "<PairingSecret>" in repr(INVITATION)
    assert SECRET.reveal().hex() not in repr(INVITATION)
    assert repr(SECRET.reveal())[2:-1] not in repr(INVITATION)


# -- PAIR1 and PAIR2 ---------------------------------------------------------------------------------------


def test_both_ends_learn_each_others_key_and_show_one_number() -> None:
    assert open_pair1(INVITATION, PAIR1, static=COMPANION) == FIELDS1
    assert open_pair2(INVITATION, PAIR1, PAIR2, fresh=FRESH) == FIELDS2
    scanned = Invitation.from_text(INVITATION.text())
    transcript = transcript_hash(scanned, PAIR1, PAIR2)
    assert transcript == transcript_hash(INVITATION, PAIR1, PAIR2)
    octets = INVITATION.octets() + PAIR1 + PAIR2
    assert transcript == hashlib.blake2b(octets, digest_size=32, person=b"rtr1-pth").digest()


def test_the_wire_is_the_documented_one() -> None:
    for wire, fresh, nonce in ((PAIR1, FRESH, NONCE), (PAIR2, FRESH2, NONCE2)):
        assert len(wire) == 4 + 32 + 24 + 16 + 4096
        assert wire[:60] == b"RTP1" + fresh.public_key + nonce
        assert sender_key(wire) == fresh.public_key
    by_hand = json.dumps(FIELDS1.model_dump(), separators=(",", ":"), ensure_ascii=False).encode()
    assert open_pair1(INVITATION, pair1_by_hand(by_hand), static=COMPANION) == FIELDS1
    text2 = json.dumps(FIELDS2.model_dump()).encode()
    assert open_pair2(INVITATION, PAIR1, pair2_by_hand(text2), fresh=FRESH) == FIELDS2


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=32, max_size=32))
def test_the_check_number_has_six_digits(transcript: bytes) -> None:
    digest = hashlib.blake2b(transcript, digest_size=32, person=b"rtr1-sas").digest()
    number = check_number(transcript)
    assert len(number) == 6
    assert number.isascii() and number.isdecimal()
    assert int(number) == int.from_bytes(digest[:8], "big") % 1_000_000


def test_a_check_number_keeps_its_leading_zeros() -> None:
    numbers = [check_number(n.to_bytes(32, "big")) for n in range(200)]
    assert any(number.startswith("0") for number in numbers)
    assert {len(number) for number in numbers} == {6}


def test_each_byte_of_the_exchange_is_in_the_transcript() -> None:
    base = transcript_hash(INVITATION, PAIR1, PAIR2)
    others = [
        transcript_hash(dataclasses.replace(INVITATION, broker=""), PAIR1, PAIR2),
        transcript_hash(dataclasses.replace(INVITATION, secret=PairingSecret(bytes(16))), PAIR1, PAIR2),
        transcript_hash(dataclasses.replace(INVITATION, public_key=THIEF.public_key), PAIR1, PAIR2),
        transcript_hash(INVITATION, PAIR1[:-1] + bytes([PAIR1[-1] ^ 1]), PAIR2),
        transcript_hash(INVITATION, PAIR1, PAIR2[:-1] + bytes([PAIR2[-1] ^ 1])),
        transcript_hash(INVITATION, PAIR2, PAIR1),
    ]
    assert base not in others
    assert len(set(others)) == len(others)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 4171), st.integers(1, 255))
def test_one_changed_byte_of_either_message_is_refused(place: int, change: int) -> None:
    for wire, refused in ((PAIR1, refused1), (PAIR2, refused2)):
        spoilt = bytearray(wire)
        spoilt[place] ^= change
        assert refused(bytes(spoilt)) == ("bad_magic" if place < 4 else "bad_box") or (
            place == 35 and change == 128  # the ignored top bit of the fresh key: the MAC covers it
        )


def test_the_ignored_bit_of_a_fresh_key_is_covered_by_the_mac() -> None:
    # X25519 ignores the top bit of the key (RFC 7748 §5), so the box still opens
    spoilt = PAIR1[:35] + bytes([PAIR1[35] ^ 128]) + PAIR1[36:]
    assert refused1(spoilt) == "bad_mac"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=100))
def test_noise_is_refused_and_nothing_else(noise: bytes) -> None:
    for wire in (noise, (b"RTP1" + noise + bytes(4172))[:4172], boxed(noise), pair1_by_hand(noise)):
        with pytest.raises(PeerError):
            open_pair1(INVITATION, wire, static=COMPANION)
        with pytest.raises(PeerError):
            open_pair2(INVITATION, PAIR1, wire, fresh=FRESH)


@pytest.mark.parametrize("length", [0, 59, 4171, 4173, 16460])
def test_a_message_of_another_length_is_refused(length: int) -> None:
    wire = (PAIR1 + bytes(20_000))[:length]
    assert refused1(wire) == "bad_length"
    assert refused2(wire) == "bad_length"
    with pytest.raises(PeerError):
        sender_key(wire)


# -- Who cannot take part ----------------------------------------------------------------------------------


def test_who_knows_the_key_but_not_the_secret_cannot_pair() -> None:
    guess = dataclasses.replace(INVITATION, secret=PairingSecret(b"\xff" * 16))
    assert refused1(seal_pair1(guess, fresh=THIEF, nonce=NONCE, fields=FIELDS1)) == "bad_mac"
    assert refused2(seal_pair2(guess, PAIR1, fresh=THIEF, nonce=NONCE, fields=FIELDS2)) == "bad_mac"
    assert refused1(boxed(bytes(31))) == "bad_mac"
    assert refused1(boxed(b"")) == "bad_mac"


def test_a_secret_of_an_older_invitation_is_worth_nothing() -> None:
    newer = dataclasses.replace(INVITATION, secret=PairingSecret(b"\x77" * 16))
    assert refused1(PAIR1, newer) == "bad_mac"


def test_who_changes_the_broker_in_the_invitation_is_noticed() -> None:
    # The companion knows what it has shown; a QR code printed over it with another broker makes another transcript.
    changed = dataclasses.replace(INVITATION, broker="mqtts://thief.example:8883")
    assert refused1(seal_pair1(changed, fresh=FRESH, nonce=NONCE, fields=FIELDS1)) == "bad_mac"


def test_the_companion_that_answers_is_the_one_of_the_qr_code() -> None:
    posing = Pair2Fields(**{**FIELDS2.model_dump(), "static_key": THIEF.public_key.hex()})
    answer = seal_pair2(INVITATION, PAIR1, fresh=FRESH2, nonce=NONCE2, fields=posing)
    assert refused2(answer) == "wrong_sender"


def test_an_answer_belongs_to_one_question() -> None:
    other = seal_pair1(INVITATION, fresh=FRESH, nonce=b"\x09" * 24, fields=FIELDS1)
    assert refused2(PAIR2, pair1=other) == "bad_mac"
    assert refused2(PAIR2, fresh=THIEF) == "bad_box"


def test_our_own_message_in_the_mailbox_is_known_by_its_key() -> None:
    assert sender_key(PAIR1) == FRESH.public_key
    assert refused2(PAIR1) == "own_key"  # the broker delivers to every subscriber, the sender included


def test_the_companions_own_answer_is_no_question() -> None:
    assert refused1(PAIR2) in ("bad_box", "bad_mac")


def test_a_companion_does_not_pair_with_itself() -> None:
    own = Pair1Fields(**{**FIELDS1.model_dump(), "static_key": COMPANION.public_key.hex()})
    assert refused1(seal_pair1(INVITATION, fresh=FRESH, nonce=NONCE, fields=own)) == "own_key"
    by_companion = dataclasses.replace(INVITATION, public_key=FRESH.public_key)
    assert refused1(seal_pair1(by_companion, fresh=COMPANION, nonce=NONCE, fields=FIELDS1)) == "own_key"


@pytest.mark.parametrize(
    "point", ["00" * 32, "01" + "00" * 31, "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"]
)
def test_a_low_order_key_is_refused_on_both_sides(point: str) -> None:
    low = bytes.fromhex(point)
    assert refused1(b"RTP1" + low + PAIR1[36:]) == "bad_point"
    with pytest.raises(PeerError) as caught:
        seal_pair1(dataclasses.replace(INVITATION, public_key=low), fresh=FRESH, nonce=NONCE, fields=FIELDS1)
    assert caught.value.reason == "bad_point"
    with pytest.raises(PeerError) as caught:
        seal_pair2(INVITATION, b"RTP1" + low + PAIR1[36:], fresh=FRESH2, nonce=NONCE2, fields=FIELDS2)
    assert caught.value.reason == "bad_point"


# -- Fields ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": None},
        {"type": "PAIR2"},
        {"type": "PAIR3"},
        {"static_key": ""},
        {"static_key": "AB" * 32},
        {"static_key": "ab" * 31},
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a\x1b[2J"},
        {"name": "a\n"},
        {"name": 5},
        {"nonce": "00" * 15},
        {"nonce": None},
        {"pairing_id": ID},
        {"x": 1},
    ],
)
def test_a_pair1_with_any_other_field_is_refused(change: dict[str, object]) -> None:
    document = {**FIELDS1.model_dump(), **change}
    assert refused1(pair1_by_hand(json.dumps(document).encode())) == "bad_field"
    if change != {"type": "PAIR2"} and "pairing_id" not in change:
        document = {**FIELDS2.model_dump(), **change}
        assert refused2(pair2_by_hand(json.dumps(document).encode())) == "bad_field"


@pytest.mark.parametrize("field", ["v", "type", "static_key", "name", "nonce"])
def test_a_pair1_without_a_field_is_refused(field: str) -> None:
    for fields, by_hand, refused in ((FIELDS1, pair1_by_hand, refused1), (FIELDS2, pair2_by_hand, refused2)):
        document = fields.model_dump()
        del document[field]
        assert refused(by_hand(json.dumps(document).encode())) == "bad_field"


def test_the_json_inside_is_as_strict_as_any_message() -> None:
    good = json.dumps(FIELDS1.model_dump())
    assert refused1(pair1_by_hand(good.replace('"v": 1', '"v": 1, "v": 1').encode())) == "duplicate_key"
    assert refused1(pair1_by_hand(good.replace('"v": 1', '"v": 1.0').encode())) == "bad_field"
    assert refused1(pair1_by_hand((good + "x").encode())) == "bad_json"
    assert refused1(pair1_by_hand(b"\xef\xbb\xbf" + good.encode())) == "bad_json"


def test_the_longest_name_fits() -> None:
    fields = Pair1Fields(**{**FIELDS1.model_dump(), "name": "\U0001f600" * 64})
    wire = seal_pair1(INVITATION, fresh=FRESH, nonce=NONCE, fields=fields)
    assert open_pair1(INVITATION, wire, static=COMPANION) == fields
