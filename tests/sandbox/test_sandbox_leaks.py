"""The search for marked tokens finds what is planted, in every writing, and nothing else."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from token_relay.sandbox.marked_tokens import MARK, Leak, find_marked
from token_relay.sandbox.provider.memory.signing import SharedKeySigner

TOKEN = f"rt.{MARK}.0011223344556677"
PLANTS = [
    ("raw", TOKEN.encode()),
    ("hex", TOKEN.encode().hex().encode()),
    ("hex", TOKEN.encode().hex().upper().encode()),
    ("url", "".join(f"%{octet:02X}" for octet in TOKEN.encode()).encode()),
    ("url", "".join(f"%{octet:02x}" for octet in TOKEN.encode()).encode()),
    ("url", TOKEN.replace("X", "%58").encode()),
    ("utf-16", TOKEN.encode("utf-16-le")),
    *[(f"base64+{(3 + shift) % 3}", base64.b64encode(b"z" * shift + TOKEN.encode())) for shift in range(3)],
    *[(f"base64+{(3 + shift) % 3}", base64.urlsafe_b64encode(b"z" * shift + TOKEN.encode())) for shift in range(3)],
]


@pytest.mark.parametrize(("encoding", "plant"), PLANTS)
@pytest.mark.parametrize("before", [b"", b"x", b"log line: \xff\x00"])
def test_a_planted_token_is_found_in_every_writing(encoding: str, plant: bytes, before: bytes) -> None:
    found = find_marked(before + plant + b" and more")
    assert [leak.encoding for leak in found] == [encoding]
    assert len(before) <= found[0].offset < len(before) + len(plant)


@pytest.mark.parametrize("outer", ["hex", "base64", "url"])
@pytest.mark.parametrize("pad", range(3))
def test_a_jwt_s_mark_is_found_even_when_the_jwt_is_encoded_again(outer: str, pad: int) -> None:
    token = SharedKeySigner(b"k" * 32).sign({"x": "y" * pad, "jti": f"{MARK}-00"})
    assert find_marked(token.encode()), "base64url is how a JWT looks in clear"
    match outer:
        case "hex":
            wrapped = token.encode().hex().encode()
        case "base64":
            wrapped = base64.b64encode(json.dumps({"access_token": token}).encode())
        case _:
            wrapped = "".join(f"%{octet:02X}" for octet in token.encode()).encode()
    (leak,) = find_marked(wrapped)
    assert outer in leak.encoding


def test_every_place_is_reported_in_order() -> None:
    data = b"--" + TOKEN.encode() + b"--" + TOKEN.encode().hex().encode()
    first, second = find_marked(data)
    assert first == Leak(2 + 3, "raw")  # after "rt."
    assert second == Leak(2 + len(TOKEN) + 2 + 6, "hex")


def test_nothing_is_found_where_nothing_is() -> None:
    assert find_marked(b"") == []
    assert find_marked(bytes(range(256)) * 100) == []
    assert find_marked(MARK[:-1].encode() + b"-" + quote(MARK[1:]).encode()) == []


def test_another_mark_whose_base64_differs_between_the_alphabets_is_found_in_both() -> None:
    mark = "\u00ff\u00fe>>??~~"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):
            assert find_marked(encode(b"a" * shift + mark.encode() + b"z"), mark), (encode, shift)
