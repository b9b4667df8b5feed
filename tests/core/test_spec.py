"""The wire specification says what the code does: its tables are read here and compared, row by row."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import get_args

import pytest

from tests.core import vector_files as v
from tests.core.opener import open_pair
from token_relay.protocol import delivery, messages, pairing
from token_relay.protocol import envelope as env
from token_relay.protocol.behaviour import CODES_MAX, LEEWAY_S_MAX, LIFETIME_S_MAX, Behaviour
from token_relay.protocol.errors import LocalProtocolError
from token_relay.protocol.handoff import (
    Cancelled,
    Cancelling,
    CompanionEffect,
    CompanionEvent,
    CompanionOwnEvent,
    CompanionState,
    Dead,
    Done,
    Gone,
    GoneReason,
    HandoffStored,
    New,
    NoHandoff,
    Offered,
    PhoneEffect,
    PhoneEvent,
    PhoneOwnEvent,
    PhoneState,
    Ready,
    Released,
    Revoking,
    companion_step,
    phone_step,
)
from token_relay.protocol.topics import broker_acl, mailbox_topic, peer_topic
from token_relay.provider.profile import PROFILES

ROOT = Path(__file__).resolve().parent.parent.parent
SPEC = ROOT / "docs" / "spec"
PAGES = ("README", "topics-and-broker", "envelope", "messages", "delivery", "handoff", "pairing")

PHONE_STATES: dict[str, PhoneState] = {
    "NEW": New(),
    "OFFERED": Offered(),
    "ACCEPTED": Offered(is_accepted=True),
    "RELEASED": Released(),
    "DONE": Done(),
    "CANCELLING": Cancelling(),
    "CANCELLED": Cancelled(),
    "REVOKING": Revoking(),
    **{f"GONE({why})": Gone(why) for why in get_args(GoneReason)},
}
COMPANION_STATES: dict[str, CompanionState] = {
    "NONE": NoHandoff(),
    "READY": Ready(),
    "STORED": HandoffStored(),
    "DEAD(cancelled)": Dead("cancelled"),
    "DEAD(revoked)": Dead("revoked"),
    "DEAD(revoked) stored": Dead("revoked", was_stored=True),
    "DEAD(lost)": Dead("lost"),
    "DEAD(rejected)": Dead("rejected"),
    "DEAD(replaced)": Dead("replaced"),
    "DEAD(ended) stored": Dead("ended", was_stored=True),
}


def text(page: str) -> str:
    return (SPEC / f"{page}.md").read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text(page), re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def rows(part: str, first_column: str) -> list[list[str]]:
    """Return the rows of the first table whose first column has this head."""
    found = re.search(rf"^\| {re.escape(first_column)} \|.*\n\| ---.*\n((?:\|.*\n)+)", part, re.MULTILINE)
    assert found, first_column
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines()]


# -- State machines ----------------------------------------------------------------------------------------


SILENT: tuple[str, list[str]] = ("same", [])  # no row: a message changes nothing, an event of our own is a bug


def lookup(table: list[list[str]], name: str, event: str) -> tuple[str, list[str]]:
    """Return next state and effects of the one row that fits; the plain name stands for all its reasons."""
    fitting = []
    plain = name.removesuffix(" stored")
    for states, events, following, effects in table:
        named = [state.strip() for state in states.split(",")]
        is_other = f"{plain.split('(')[0]}(other)" in named and plain != "DEAD(revoked)"
        if event in events.split(", ") and (
            plain in named or plain.split("(")[0] in named or is_other or named == ["any"]
        ):
            fitting.append((following, effects.split(", ")))
    assert len(fitting) <= 1, (name, event, fitting)
    return fitting[0] if fitting else SILENT


def test_the_phones_table_is_the_phones_state_machine() -> None:
    table = rows(section("handoff", "The phone's end"), "state")
    for name, state in PHONE_STATES.items():
        for event in get_args(PhoneEvent):
            following, effects = lookup(table, name, event)
            expected = state if following == "same" else PHONE_STATES[following]
            if event in get_args(PhoneOwnEvent) and (following, effects) == SILENT:
                with pytest.raises(LocalProtocolError):
                    phone_step(state, event)
                continue
            step = phone_step(state, event)
            assert step.state == expected, (name, event)
            assert step.effects == tuple(PhoneEffect[effect] for effect in effects), (name, event)


def test_the_companions_table_is_the_companions_state_machine() -> None:
    part = section("handoff", "The companion's end")
    table, answers = rows(part, "state"), dict(rows(part, "ANSWER_STATUS in"))
    for name, state in COMPANION_STATES.items():
        for event in get_args(CompanionEvent):
            following, effects = lookup(table, name, event)
            if event in get_args(CompanionOwnEvent) and (following, effects) == SILENT:
                with pytest.raises(LocalProtocolError):
                    companion_step(state, event)
                continue
            step = companion_step(state, event)
            if following == "same":
                assert step.state == state, (name, event)
            elif following.startswith("DEAD"):
                assert isinstance(step.state, Dead), (name, event)
                assert step.state.reason == following[5:-1], (name, event)
                assert step.state.was_stored == (name == "STORED" or name.endswith(" stored")), (name, event)
            else:
                assert step.state == COMPANION_STATES[following], (name, event)
            if effects == ["ANSWER_STATUS"]:
                plain = name.removesuffix(" stored")
                kind = answers.get(plain) or answers["DEAD, once stored" if plain != name else "DEAD, else"]
                effects = [f"SEND_{kind}"]
            assert step.effects == tuple(CompanionEffect[effect] for effect in effects), (name, event)


def test_every_effect_and_event_is_explained() -> None:
    names = {effect.name for effect in (*PhoneEffect, *CompanionEffect)}
    page = text("handoff")
    assert {name for name in names if f"| {name}" not in page and f", {name}" not in page} == set()
    assert set(re.findall(r"\b[A-Z]+_[A-Z]+\b", page)) <= names | {"ANSWER_STATUS"}


# -- Messages ----------------------------------------------------------------------------------------------


def fields_of(section_text: str, *tables: str) -> list[str]:
    """The fields that tables describe, each known by the head of its first column, in their order."""
    return [row[0].strip("`") for head in tables for row in rows(section_text, head)]


@pytest.mark.parametrize(("kind", "version"), sorted(messages.BODIES))
def test_every_field_of_every_message_is_described_in_its_order(kind: str, version: int) -> None:
    more = [f"field of version {later}" for later in range(2, version + 1)]
    described = fields_of(section("messages", kind), "field", *more)
    assert described == list(messages.BODIES[kind, version].model_fields)


def test_head_grant_reports_and_pairing_fields_are_described() -> None:
    head = [row[0].strip("`") for row in rows(section("messages", "Head"), "field")]
    assert head == [field.alias or name for name, field in messages.Head.model_fields.items()] + ["body"]
    grant = section("messages", "The sealed grant")
    assert fields_of(grant, "field") == list(messages.GrantPayload.model_fields)
    assert fields_of(grant, "field", "field of version 2") == list(messages.GrantPayload2.model_fields)
    assert fields_of(grant, "field of behaviour") == list(Behaviour.model_fields)
    (profile,) = (row for row in rows(grant, "field") if row[0] == "`profile`")
    assert re.findall(r"`([a-z0-9-]+)`", profile[2].partition(" An unknown")[0]) == list(PROFILES)
    for kind, model in (("HELLO", messages.HandoffReport), ("LEASE", messages.LeaseTerm)):
        nested = section("messages", kind).split("Each of `handoffs`:")[1]
        assert [row[0].strip("`") for row in rows(nested, "field")] == list(model.model_fields)
    fields = [row[0].strip("`") for row in rows(section("pairing", "PAIR1 and PAIR2"), "field")]
    assert fields == list(pairing.Pair2Fields.model_fields)


def test_requests_are_those_that_the_table_calls_so() -> None:
    table = rows(section("messages", "Who says what"), "type")
    assert {row[0] for row in table if row[3] == "request"} == messages.REQUESTS
    assert {kind for row in table for kind in row[0].split(", ")} == {name for name, _ in messages.BODIES}


# -- Reasons, limits, names --------------------------------------------------------------------------------


def test_every_reason_that_the_protocol_counts_is_listed() -> None:
    rooms = [
        ROOT / "relay/token_relay/protocol" / f"{name}.py"
        for name in ("envelope", "messages", "pairing", "delivery", "handoff", "topics")
    ]
    rooms += [ROOT / "device/token_relay/agents/link.py", *(ROOT / "device/token_relay/agents/phone").glob("*.py")]
    rooms += (ROOT / "device/token_relay/agents/companion").glob("*.py")
    source = "\n".join(path.read_text(encoding="utf-8") for path in rooms)
    reasons = set(re.findall(r'PeerError\(\s*"([a-z0-9_]+)"', source)) | {"duplicate", "unsupported", "outbox_full"}
    assert len(reasons) > 25
    pages = "".join(text(page) for page in PAGES)
    assert {reason for reason in reasons if f"`{reason}`" not in pages} == set()


def test_the_limits_are_those_of_the_code() -> None:
    limits = dict(row[:2] for row in rows(section("README", "Limits"), "what"))
    small, large = env.ENVELOPE_BYTES
    assert limits["envelope"] == f"exactly {small} or {large} bytes"
    assert limits["PAIR1, PAIR2"] == f"exactly {pairing.PAIR_BYTES} bytes"
    assert limits["plaintext of an envelope"] == f"{env.PLAINTEXT_BYTES_MAX} bytes"
    assert messages.INTEGER_MAX == 2**53 - 1 and messages.SEQUENCE_MAX == 2**52
    sealed = messages.SEALED_CHARS_MAX
    assert limits["sealed grant"].startswith(f"{sealed} base64url characters, that is {sealed * 3 // 4 - 48} bytes")
    assert limits["handoffs in HELLO, grants in LEASE"] == str(messages.HANDOFFS_LISTED_MAX)
    behaviour = {
        row[0].strip("`"): row[1] for row in rows(section("messages", "The sealed grant"), "field of behaviour")
    }
    assert behaviour["leeway_s"] == f"integer 0 to {LEEWAY_S_MAX}"
    assert behaviour["idle_lifetime_s"] == f"integer 0 to {LIFETIME_S_MAX}"
    assert behaviour["temporary_codes"].startswith(f"array of 0 to {CODES_MAX} integers")
    strategies = rows(section("messages", "HELLO"), "field of version 2")[1][1]
    assert strategies == f"array of 0 to {messages.STRATEGIES_NAMED_MAX} slugs"
    assert limits["replay window"].startswith(f"{delivery.WINDOW} ")
    assert limits["open requests"].startswith(f"{delivery.OUTBOX_ROWS_MAX} ")
    assert limits["repeated answer"].startswith(f"once per {delivery.ANSWER_PAUSE_S:g} s")
    assert limits["invitation"].startswith(f"{pairing.INVITATION_LIFETIME_S:g} s, one use, ")
    resend = (delivery.RESEND_FIRST_S, delivery.RESEND_S_MAX, delivery.RESEND_EAGER_S, delivery.RESEND_IDLE_S)
    assert resend == (2, 300, 3600, 6 * 3600)


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
