"""The wire pages name topics, links and examples as they are; their tables: test_protocol_table.py."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from tests.core import vector_files as v
from tests.core.opener import open_pair
from token_relay.protocol import pairing
from token_relay.protocol.topics import broker_acl, mailbox_topic, peer_topic

ROOT = Path(__file__).resolve().parent.parent.parent
SPEC = ROOT / "docs" / "spec"
PAGES = ("README", "topics-and-broker", "envelope", "messages", "delivery", "handoff", "pairing")


def text(page: str) -> str:
    return (SPEC / f"{page}.md").read_text(encoding="utf-8")


# -- Names and examples ------------------------------------------------------------------------------------


def test_topics_and_access_list_are_those_of_the_code() -> None:
    page = text("topics-and-broker")
    assert broker_acl() in page
    assert len(peer_topic(recipient="a" * 26, sender="b" * 26)) == 67
    assert len(mailbox_topic(bytes(16))) == 46


def test_every_hex_value_in_the_examples_comes_from_the_vectors() -> None:
    closed = next(case for case in v.cases("envelopes-valid") if case["name"] == "closed")
    first = v.load("pairing")["transcripts"][0]
    pair1, pair2 = base64.b64decode(first["pair1"]), base64.b64decode(first["pair2"])
    private, public = v.device("companion")
    fresh = {name: bytes.fromhex(value) for name, value in first["phone_fresh"].items()}
    opened1 = open_pair(pair1, own_private=private, own_public=public)
    opened2 = open_pair(pair2, own_private=fresh["private_key"], own_public=fresh["public_key"])
    envelope = base64.b64decode(closed["envelope"])
    known = [path.read_text(encoding="ascii") for path in v.VECTORS.glob("*.json")]
    known += [octets.hex() for octets in (envelope, pair1[:60], pair2[:60], opened1[0], opened2[0])]
    known += [hashlib.sha256(octets).hexdigest() for octets in (envelope, pair1, pair2)]
    known += [pairing.Invitation.from_text(first["invitation"]).octets().hex()]
    haystack = "\n".join(known)
    pages = "\n".join(text(page) for page in PAGES)
    shown = set(re.findall(r"\b[0-9a-f]{16,}", pages))
    assert len(shown) > 20
    assert {value for value in shown if value not in haystack} == set()
    assert closed["plaintext"] in pages and closed["topic"] in pages
    for text_shown in (first["invitation"], opened1[1].decode(), opened2[1].decode(), first["check_number"]):
        assert text_shown in pages


@pytest.mark.parametrize("page", PAGES)
def test_links_between_the_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text(page)):
        assert (SPEC / target).exists(), target
