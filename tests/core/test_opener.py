"""The second opener: right by the published vectors, then of one mind with libsodium on every one of ours."""

from __future__ import annotations

import base64
import functools
import hashlib

import pytest

from tests.core import vector_files as v
from tests.core.opener import (
    RefusedError,
    box_key,
    hsalsa20,
    open_box,
    open_envelope,
    open_once,
    open_pair,
    poly1305,
    x25519,
)

CRYPTO = ("bad_length", "bad_magic", "wrong_sender", "wrong_recipient", "bad_box", "bad_padding")

# "Cryptography in NaCl", Bernstein 2009, sections 2, 5, 8, 9 and 10
ALICE_PRIVATE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
FIRST_KEY = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
NACL_NONCE = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
SECOND_KEY = bytes.fromhex("dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4")
NACL_BOX = bytes.fromhex(
    "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a"
    "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae"
    "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74"
    "e355a5"
)
NACL_MESSAGE = bytes.fromhex(
    "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c6129"
    "6cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde"
    "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705"
)


@pytest.mark.parametrize(
    ("scalar", "u", "product"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_x25519_is_that_of_rfc_7748(scalar: str, u: str, product: str) -> None:
    assert x25519(bytes.fromhex(scalar), bytes.fromhex(u)).hex() == product


def test_x25519_iterated_as_in_rfc_7748() -> None:
    k = u = (9).to_bytes(32, "little")
    for _ in range(1000):
        k, u = x25519(k, u), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_poly1305_is_that_of_rfc_8439() -> None:
    key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    tag = poly1305(key, b"Cryptographic Forum Research Group")
    assert tag.hex() == "a8061dc1305136c6c22b8baf0c0127a9"


def test_box_is_that_of_cryptography_in_nacl() -> None:
    assert x25519(ALICE_PRIVATE, BOB_PUBLIC) == SHARED
    assert hsalsa20(SHARED, bytes(16)) == FIRST_KEY == box_key(ALICE_PRIVATE, BOB_PUBLIC)
    assert hsalsa20(FIRST_KEY, NACL_NONCE[:16]) == SECOND_KEY
    assert open_box(FIRST_KEY, NACL_NONCE, NACL_BOX) == NACL_MESSAGE


@pytest.mark.parametrize("at", range(0, len(NACL_BOX), 7))
def test_a_changed_box_does_not_open(at: int) -> None:
    with pytest.raises(RefusedError, match="bad_box"):
        open_box(FIRST_KEY, NACL_NONCE, NACL_BOX[:at] + bytes([NACL_BOX[at] ^ 1]) + NACL_BOX[at + 1 :])


# -- Our vectors -------------------------------------------------------------------------------------------


@functools.cache
def shared(own: str, peer: str) -> bytes:
    return box_key(v.device(own)[0], v.device(peer)[1])


def second_opinion(case: v.Case) -> bytes:
    """Open a case's envelope as its receiver, which expects it from its one peer."""
    octets = v.envelope(case)
    assert octets is not None
    own, peer = (case["to"], "phone" if case["to"] == "companion" else "companion")
    return open_envelope(octets, key=shared(own, peer), own_public=v.device(own)[1], peer_public=v.device(peer)[1])


def cases_with(*reasons: str) -> list[v.Case]:
    found = [case for name in v.ENVELOPE_FILES for case in v.cases(f"envelopes-{name}")]
    return [case for case in found if case["reason"] in reasons]


@pytest.mark.parametrize("case", v.cases("envelopes-valid"), ids=lambda case: case["name"])
def test_every_valid_envelope_opens_without_libsodium(case: v.Case) -> None:
    assert second_opinion(case) == v.plaintext(case)


@pytest.mark.parametrize("case", cases_with(*CRYPTO), ids=lambda case: case["name"])
def test_every_envelope_refused_before_the_plaintext_is_refused_for_the_same_reason(case: v.Case) -> None:
    with pytest.raises(RefusedError) as refused:
        second_opinion(case)
    if case["reason"] == "wrong_sender" and case["name"].startswith("reflected"):
        assert refused.value.reason == "wrong_recipient"  # the topic, which the opener does not see, told first
    else:
        assert refused.value.reason == case["reason"]


@pytest.mark.parametrize(
    "reason", ["bad_json", "duplicate_key", "bad_field", "unsupported", "id_mismatch", "wrong_pairing", "conflict"]
)
def test_what_is_refused_for_its_content_opens(reason: str) -> None:
    found = [case for case in cases_with(reason) if "envelope" in case]
    assert len(found) >= 8
    for case in found[:8]:  # a subset: these boxes differ in nothing that matters here
        assert second_opinion(case) == v.plaintext(case)


@pytest.mark.parametrize("case", v.cases("keys"), ids=lambda case: case["name"])
def test_shared_keys_and_low_order_points_agree(case: v.Case) -> None:
    private, public = v.device(case["own"])
    peer = bytes.fromhex(case["peer_public_key"])
    match case.get("reason"):
        case "own_key":
            assert peer == public
        case "bad_point":
            with pytest.raises(RefusedError, match="bad_point"):
                box_key(private, peer)
        case _:
            assert box_key(private, peer).hex() == case["shared_key"]


@pytest.mark.parametrize("case", v.cases("grants"), ids=lambda case: case["name"])
def test_sealed_grants_agree(case: v.Case) -> None:
    if case.get("reason") == "bad_field":
        return  # its base64url is wrong: nothing to open
    sealed = base64.urlsafe_b64decode(case["sealed"] + "=" * (-len(case["sealed"]) % 4))
    keys = v.load("grants")["one_time"]
    private, public = bytes.fromhex(keys["private_key"]), bytes.fromhex(keys["public_key"])
    if case.get("reason") == "bad_sealed_box":
        with pytest.raises(RefusedError, match="bad_sealed_box"):
            open_once(sealed, private_key=private, public_key=public)
    else:
        assert open_once(sealed, private_key=private, public_key=public) == v.plaintext(case)


@pytest.mark.parametrize("case", v.load("pairing")["transcripts"], ids=lambda case: case["name"])
def test_transcripts_agree_byte_by_byte(case: v.Case) -> None:
    text = case["invitation"].removeprefix("RTR1:")
    invitation = base64.b32decode(text + "=" * (-len(text) % 8))[:-4]
    secret = invitation[33:49]
    pair1, pair2 = base64.b64decode(case["pair1"]), base64.b64decode(case["pair2"])

    def hashed(data: bytes, person: bytes, key: bytes = b"") -> bytes:
        return hashlib.blake2b(data, digest_size=32, key=key, person=person).digest()

    assert hashed(b"", b"rtr1-mbx", secret)[:16].hex() == case["mailbox_id"]
    private, public = v.device("companion")
    mac, octets = open_pair(pair1, own_private=private, own_public=public)
    assert mac == hashed(invitation + pair1[:60] + octets, b"rtr1-pm1", secret)
    after1 = hashed(invitation + pair1, b"rtr1-pth")
    assert after1.hex() == case["hash_after_pair1"]
    fresh = case["phone_fresh"]
    mac, octets = open_pair(
        pair2, own_private=bytes.fromhex(fresh["private_key"]), own_public=bytes.fromhex(fresh["public_key"])
    )
    assert mac == hashed(after1 + pair2[:60] + octets, b"rtr1-pm2", secret)
    final = hashed(invitation + pair1 + pair2, b"rtr1-pth")
    assert final.hex() == case["transcript_hash"]
    assert int.from_bytes(hashed(final, b"rtr1-sas")[:8], "big") % 10**6 == int(case["check_number"])


@pytest.mark.parametrize("step", ["pair1", "pair2"])
def test_pairing_messages_refused_before_the_plaintext_are_refused_for_the_same_reason(step: str) -> None:
    fresh = v.load("pairing")["transcripts"][0]["phone_fresh"]
    private, public = v.device("companion")
    if step == "pair2":
        private, public = bytes.fromhex(fresh["private_key"]), bytes.fromhex(fresh["public_key"])
    for case in v.load("pairing")[step]:
        wire = v.pair_wire(case, base=step)
        if case["reason"] in (*CRYPTO, "bad_point") and not case["name"].startswith("static-key"):
            with pytest.raises(RefusedError) as refused:
                open_pair(wire, own_private=private, own_public=public)
            assert refused.value.reason == case["reason"], case["name"]
        elif case["name"] in ("fresh-key-is-the-companions", "pair1-reflected"):
            with pytest.raises(RefusedError, match="own_key"):
                open_pair(wire, own_private=private, own_public=public)
        else:
            open_pair(wire, own_private=private, own_public=public)
