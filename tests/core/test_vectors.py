"""The test vectors hold: our code says of each case what the case says, and the script still writes the same bytes.

Envelopes go through the real link over a vault in memory, so that the order of the checks is tested as well.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.core import vector_files as v
from tests.core.vector_world import key_pair, receive
from tests.watchdog import HANG_S
from token_relay.agents.records import CompanionHandoff
from token_relay.protocol import delivery, pairing
from token_relay.protocol.envelope import PeerBox, seal_once
from token_relay.protocol.errors import PeerError
from token_relay.protocol.identity import KeyPair, device_id, raw_id
from token_relay.protocol.messages import (
    Accept,
    GrantPayload,
    GrantPayload2,
    Head,
    Lost,
    Reject,
    Stored,
    Token,
    decode,
    decode_base64url,
    decode_grant,
    encode,
    encode_grant,
    envelope_digest,
    plaintext_hash,
)
from token_relay.protocol.secret import PrivateKey

SPEC = (v.VECTORS.parents[1] / "docs/spec/protocol.json").read_text()
NAMES = {*re.findall(r'"name": "(\w+)"', SPEC), *json.loads(SPEC)["messages"], "of", "an", "unknown", "field", "body"}
INVALID = [case for name in v.ENVELOPE_FILES for case in v.cases(f"envelopes-{name}")]


def test_the_script_writes_the_very_files_that_are_checked_in(tmp_path: Path) -> None:
    script = v.VECTORS / "make.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=HANG_S)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in v.VECTORS.glob("*.json")}


def test_there_are_enough_cases_of_each_class() -> None:
    assert len(v.cases("envelopes-valid")) >= 40
    classes = Counter(case["reason"] for case in INVALID if v.envelope(case) is not None)
    assert sum(classes.values()) >= 200
    assert sum(count >= 8 for count in classes.values()) >= 12, classes


# -- Identity, keys, hashes --------------------------------------------------------------------------------


def test_devices_have_the_ids_that_follow_from_their_keys() -> None:
    for described in v.load("devices")["devices"].values():
        pair = KeyPair.from_random(bytes.fromhex(described["private_key"]))
        assert pair.public_key.hex() == described["public_key"]
        assert raw_id(pair.public_key).hex() == described["raw_id"]
        assert device_id(pair.public_key) == described["device_id"]


@pytest.mark.parametrize("case", v.cases("keys"), ids=lambda case: case["name"])
def test_a_peer_key_is_good_or_refused_for_the_reason_given(case: v.Case) -> None:
    own, peer = key_pair(case["own"]), bytes.fromhex(case["peer_public_key"])
    if "reason" not in case:
        PeerBox(own, peer)  # the key itself never leaves it: the second opener compares it
        return
    with pytest.raises(PeerError) as refused:
        PeerBox(own, peer)
    assert refused.value.reason == case["reason"]


def test_every_hash_is_the_one_of_the_table() -> None:
    table = {case["name"]: case for case in v.cases("hashes")}
    for case in table.values():
        key, data = bytes.fromhex(case["key"]), bytes.fromhex(case["input"])
        digest = hashlib.blake2b(data, key=key, digest_size=case["digest_bytes"], person=case["person"].encode())
        assert digest.digest()[: case["kept_bytes"]].hex() == case["output"]

    def output(name: str) -> bytes:
        return bytes.fromhex(table[name]["output"])

    def given(name: str) -> bytes:
        return bytes.fromhex(table[name]["input"])

    assert raw_id(given("device-id")) == output("device-id")
    assert plaintext_hash(given("message-hash")) == output("message-hash")
    assert envelope_digest(given("envelope-digest")) == output("envelope-digest")
    number = int.from_bytes(output("check-number"), "big") % 10**6
    assert pairing.check_number(given("check-number")) == f"{number:06d}"


# -- Envelopes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", v.cases("envelopes-valid"), ids=lambda case: case["name"])
def test_a_valid_envelope_is_taken_and_says_what_it_says(case: v.Case) -> None:
    envelope, plaintext = v.envelope(case), v.plaintext(case)
    assert envelope is not None
    own, sender = key_pair(case["to"]), key_pair("phone" if case["to"] == "companion" else "companion")
    assert PeerBox(own, sender.public_key).open(envelope) == plaintext
    assert PeerBox(sender, own.public_key).seal(plaintext, envelope[36:60]) == envelope
    message, expected = decode(plaintext), json.loads(plaintext)
    assert json.loads(encode(message.head, message.body)) == expected
    received = receive(case, case["topic"], envelope)
    assert received.reasons == []
    if message.head.type not in ("HELLO", "ROLLBACK"):  # those two the link keeps to itself
        assert [json.loads(encode(got.head, got.body)) for got in received.delivered] == [expected]


WRITTEN = ("HELLO", "HELLO 2", "HELLO 3", "OFFER", "ACCEPT", "ACCEPT 2", "TOKEN", "STORED", "REVOKED", "LEASE", "PAIR3")


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_the_relay_writes_is_the_vector_byte_for_byte(kind: str) -> None:
    heads = ((case, decode(v.plaintext(case)).head) for case in v.cases("envelopes-valid"))
    case = next(case for case, head in heads if f"{head.type} {head.v}".removesuffix(" 1") == kind)
    message = decode(v.plaintext(case))
    assert encode(message.head, message.body) == v.plaintext(case)


@pytest.mark.parametrize("case", INVALID, ids=lambda case: f"{case['reason']}-{case['name']}")
def test_an_invalid_envelope_is_refused_for_the_reason_given(case: v.Case) -> None:
    envelope = v.envelope(case)
    if envelope is None:  # a plaintext alone
        with pytest.raises(PeerError) as refused:
            decode(v.plaintext(case))
        assert refused.value.reason == case["reason"]
        return
    with capture_logs() as logs:
        received = receive(case, case["topic"], envelope, agent=case["reason"] == "wrong_direction")
    assert received.reasons == [case["reason"]]
    assert received.delivered == []
    told = [line for line in logs if line["event"] == "message_refused"]
    assert len(told) == (case["reason"] != "duplicate")
    for line in told:
        reason, _, names = line["detail"].partition(": ")
        assert (line["log_level"], reason) == ("info", case["reason"])
        assert set(re.findall("[A-Za-z_][A-Za-z0-9_]*", names)) <= NAMES, (
            "names of fields and types, never what they hold"
        )
    match case["reason"]:
        case "unsupported":
            (answer,) = received.answers
            assert answer.body == Reject(handoff_id=None, reason="unsupported")
            assert answer.head.in_reply_to == json.loads(v.plaintext(case))["seq"]
        case "too_old":
            assert [answer.head.type for answer in received.answers] == ["HELLO"]
        case "conflict":
            assert [answer.head.type for answer in received.answers] == ["ROLLBACK"]
        case _:
            assert received.answers == []


# -- The sealed grant --------------------------------------------------------------------------------------


def ready_row() -> CompanionHandoff:
    """A companion that has answered the OFFER of the vectors."""
    file = v.load("grants")
    offer = json.loads(file["offer"])
    return CompanionHandoff(
        handoff_id=offer["body"]["handoff_id"],
        pairing_id=offer["pairing_id"],
        state="ready",
        offer_hash=bytes.fromhex(file["offer_hash"]),
        accept_hashes=b"\x11" * 32 + bytes.fromhex(file["accept_hash"]),  # the second ACCEPT was the one that arrived
        one_time_public=bytes.fromhex(file["one_time"]["public_key"]),
        one_time_key=PrivateKey(bytes.fromhex(file["one_time"]["private_key"])),
        issuer=offer["body"]["issuer"],
        client_id=offer["body"]["client_id"],
    )


def token_envelope(sealed: str, handoff_id: str, pairing_id: str) -> tuple[str, bytes]:
    """A TOKEN of the vectors' phone."""
    phone, companion = key_pair("phone"), key_pair("companion")
    head = Head(
        v=1,
        type="TOKEN",
        pairing_id=pairing_id,
        sender=device_id(phone.public_key),
        recipient=device_id(companion.public_key),
        seq=8,
        sent_at=0,
        in_reply_to=None,
    )
    plaintext = encode(head, Token(handoff_id=handoff_id, sealed=sealed))
    topic = f"relay/v1/{head.recipient}/from/{head.sender}"
    return topic, PeerBox(phone, companion.public_key).seal(plaintext, bytes(24))


@pytest.mark.parametrize("case", v.cases("grants"), ids=lambda case: f"{case.get('reason', 'stored')}-{case['name']}")
def test_a_sealed_grant_is_stored_only_when_it_agrees_in_every_point(case: v.Case) -> None:
    row = ready_row()
    topic, envelope = token_envelope(case["sealed"], row.handoff_id, row.pairing_id)
    received = receive({"to": "companion"}, topic, envelope, agent=True, row=row)
    (after,) = received.rows
    assert after.one_time_key is None
    if "reason" not in case:
        assert (received.reasons, after.state) == ([], "stored")
        assert [answer.body for answer in received.answers] == [Stored(handoff_id=row.handoff_id)]
    else:
        assert (received.reasons, after.state, after.reason) == ([case["reason"]], "dead", "lost")
        assert [answer.body for answer in received.answers] == [Lost(handoff_id=row.handoff_id)]


def test_a_token_that_was_not_asked_for_is_buried_and_answered_lost() -> None:
    sealed = v.cases("grants")[0]["sealed"]
    pairing_id = v.load("devices")["pairings"][0]["pairing_id"]
    topic, envelope = token_envelope(sealed, "0" * 32, pairing_id)
    received = receive({"to": "companion"}, topic, envelope, agent=True)
    assert [(row.state, row.reason) for row in received.rows] == [("dead", "lost")]
    assert [answer.body for answer in received.answers] == [Lost(handoff_id="0" * 32)]


def test_the_sealed_grant_is_what_the_relay_writes() -> None:
    file = v.load("grants")
    assert isinstance(decode(file["accept"].encode()).body, Accept)
    assert plaintext_hash(file["offer"].encode()).hex() == file["offer_hash"]
    assert plaintext_hash(file["accept"].encode()).hex() == file["accept_hash"]
    for model, name in ((GrantPayload, ""), (GrantPayload2, "version-2-")):
        (case,) = (case for case in v.cases("grants") if case["name"] == f"{name}as-the-relay-writes-it")
        payload = decode_grant(v.plaintext(case))
        assert type(payload) is model
        assert encode_grant(payload) == v.plaintext(case)
        ephemeral = KeyPair.from_random(bytes.fromhex(file["ephemeral"]["private_key"]))
        recipient = bytes.fromhex(file["one_time"]["public_key"])
        assert seal_once(v.plaintext(case), recipient, ephemeral) == decode_base64url(case["sealed"])


# -- Invitations and pairing -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", v.cases("invitations"), ids=lambda case: case["name"])
def test_an_invitation_is_read_or_refused_for_the_reason_given(case: v.Case) -> None:
    if "reason" in case:
        with pytest.raises(PeerError) as refused:
            pairing.Invitation.from_text(case["text"])
        assert refused.value.reason == case["reason"]
        return
    invitation = pairing.Invitation.from_text(case["text"])
    assert invitation.public_key.hex() == case["public_key"]
    assert invitation.secret == pairing.PairingSecret(bytes.fromhex(case["secret"]))
    assert invitation.broker == case["broker"]
    assert invitation.mailbox_id.hex() == case["mailbox_id"]
    assert invitation.text() in "".join(case["text"].split()).upper()


@pytest.mark.parametrize("case", v.load("pairing")["transcripts"], ids=lambda case: case["name"])
def test_both_ends_come_to_one_transcript_and_one_check_number(case: v.Case) -> None:
    invitation = pairing.Invitation.from_text(case["invitation"])
    pair1, pair2 = base64.b64decode(case["pair1"]), base64.b64decode(case["pair2"])
    phone_fresh = KeyPair.from_random(bytes.fromhex(case["phone_fresh"]["private_key"]))
    companion_fresh = KeyPair.from_random(bytes.fromhex(case["companion_fresh"]["private_key"]))
    fields1, fields2 = pairing.Pair1Fields(**case["pair1_fields"]), pairing.Pair2Fields(**case["pair2_fields"])
    assert pairing.open_pair1(invitation, pair1, static=key_pair("companion")) == fields1
    assert pairing.open_pair2(invitation, pair1, pair2, fresh=phone_fresh) == fields2
    assert pairing.transcript_hash(invitation, pair1, pair2).hex() == case["transcript_hash"]
    assert pairing.check_number(bytes.fromhex(case["transcript_hash"])) == case["check_number"]
    again1 = pairing.seal_pair1(invitation, fresh=phone_fresh, nonce=pair1[36:60], fields=fields1)
    again2 = pairing.seal_pair2(invitation, pair1, fresh=companion_fresh, nonce=pair2[36:60], fields=fields2)
    assert (again1, again2) == (pair1, pair2)

    for ended in case["ended"]:
        said = pairing.Ended(ended["reason"], ended["ago_s"])
        octets = base64.b64decode(ended["wire"])
        assert pairing.open_ended(invitation, pair1, octets) == said
        assert (pairing.seal_ended(invitation, pair1, said) == octets) == (octets[4] <= 5)
    transcript = bytes.fromhex(case["transcript_hash"])
    for declined in case["declined"]:
        octets = base64.b64decode(declined["wire"])
        assert pairing.open_declined(invitation, transcript, octets) == declined["reason"]
        assert (pairing.seal_declined(invitation, transcript, declined["reason"]) == octets) == (octets[4] <= 3)


@pytest.mark.parametrize("step", ["ended", "declined"])
def test_a_tampered_word_about_the_end_is_refused_for_the_reason_given(step: str) -> None:
    first = v.load("pairing")["transcripts"][0]
    invitation, pair1 = pairing.Invitation.from_text(first["invitation"]), base64.b64decode(first["pair1"])
    for case in v.load("pairing")[step]:
        wire = base64.b64decode(case["wire"])
        with pytest.raises(PeerError) as refused:
            if step == "ended":
                pairing.open_ended(invitation, pair1, wire)
            else:
                pairing.open_declined(invitation, bytes.fromhex(first["transcript_hash"]), wire)
        assert refused.value.reason == case["reason"], case["name"]


@pytest.mark.parametrize("step", ["pair1", "pair2"])
def test_a_tampered_pairing_message_is_refused_for_the_reason_given(step: str) -> None:
    first = v.load("pairing")["transcripts"][0]
    invitation, pair1 = pairing.Invitation.from_text(first["invitation"]), base64.b64decode(first["pair1"])
    fresh = KeyPair.from_random(bytes.fromhex(first["phone_fresh"]["private_key"]))
    for case in v.load("pairing")[step]:
        wire = v.pair_wire(case, base=step)
        with pytest.raises(PeerError) as refused:
            if step == "pair1":
                pairing.open_pair1(invitation, wire, static=key_pair("companion"))
            else:
                pairing.open_pair2(invitation, pair1, wire, fresh=fresh)
        assert refused.value.reason == case["reason"], case["name"]


# -- Delivery ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", v.load("delivery")["windows"], ids=lambda case: case["name"])
def test_the_replay_window_judges_as_worked_out_by_hand(case: v.Case) -> None:
    seen: dict[int, bytes] = {}
    high = 0
    for step in case["steps"]:
        seq, digest = step["seq"], envelope_digest(step["bytes"].encode())
        verdict = delivery.judge(seq=seq, high=high, seen_digest=seen.get(seq), digest=digest)
        assert verdict == step["verdict"], step
        if verdict == "new":
            for old in delivery.forgotten(old_high=high, new_high=max(high, seq)):
                seen.pop(old, None)
            high = max(high, seq)
            seen[seq] = digest
            assert all(high - delivery.WINDOW < number <= high for number in seen)


@pytest.mark.parametrize("case", v.load("delivery")["hellos"], ids=lambda case: case["name"])
def test_a_hello_shows_a_restored_backup_as_worked_out_by_hand(case: v.Case) -> None:
    claim, disk = delivery.PeerNumbers(**case["hello"]), case["receiver"]
    peer = delivery.peer_is_rolled_back(claim, high=disk["seq_high"], peer_accepted=disk["peer_accepted"])
    assert peer is case["peer_rolled_back"]
    assert delivery.we_are_rolled_back(claim, seq_sent=disk["seq_sent"]) is case["own_rolled_back"]


def test_the_pauses_between_resends_are_those_of_the_table() -> None:
    for row in v.load("delivery")["pauses"]:
        assert delivery.resend_delay_s(attempts=row["attempts"], age_s=row["age_s"]) == row["pause_s"], row
