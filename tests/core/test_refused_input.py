"""Refusals of what comes over the wire or in a file, where no other test meets them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from token_relay.agents.companion.messages import CompanionMessages
from token_relay.mqtt.connection import Connection, DroppedError
from token_relay.pki.certificates import parse_csr
from token_relay.protocol.envelope import PeerBox
from token_relay.protocol.errors import LocalError, PeerError
from token_relay.protocol.identity import KeyPair, device_id

ECDSA_WITH_SHA256 = bytes.fromhex("2a8648ce3d040302")


def test_a_request_signed_in_a_way_that_nobody_knows_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a" * 26)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    der = request.public_bytes(serialization.Encoding.DER)
    assert der.count(ECDSA_WITH_SHA256) == 1
    odd = x509.load_der_x509_csr(der.replace(ECDSA_WITH_SHA256, ECDSA_WITH_SHA256[:-1] + b"\x09"))
    with pytest.raises(LocalError, match="not signed with its own key"):
        parse_csr(odd.public_bytes(serialization.Encoding.PEM))


def test_only_an_envelope_of_ours_is_opened_as_ours() -> None:
    ours, theirs = KeyPair.from_random(bytes(32)), KeyPair.from_random(bytes([1]) * 32)
    sealed = PeerBox(theirs, ours.public_key).seal(b"{}", bytes(24))
    with pytest.raises(PeerError) as caught:
        PeerBox(ours, theirs.public_key).open_own(sealed)
    assert caught.value.reason == "wrong_sender" and device_id(ours.public_key) != device_id(theirs.public_key)


def test_a_grant_for_a_key_that_was_thrown_away_is_not_opened() -> None:
    messages: Any = None
    row: Any = SimpleNamespace(one_time_key=None)
    with pytest.raises(PeerError) as caught:
        CompanionMessages._open_grant(messages, row, row, row)
    assert caught.value.reason == "no_one_time_key"


def test_a_broker_that_leaves_an_unsubscription_unanswered_has_dropped_us() -> None:
    async def unsubscribe(topic_filter: str) -> None:
        raise aiomqtt.MqttError("timed out")

    connection: Any = SimpleNamespace(unsubscribe=unsubscribe, _reason="")
    with pytest.raises(DroppedError, match="did not answer an unsubscription"):
        asyncio.run(Connection.unsubscribe_from(connection, "relay/v1/pair/x"))
