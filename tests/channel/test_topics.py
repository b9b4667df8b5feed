"""Topic names: what is built is parsed, everything else is not ours, and the access list knows the same names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_relay.protocol.topics import (
    MailboxTopic,
    PeerTopic,
    broker_acl,
    inbox_filter,
    mailbox_topic,
    parse_topic,
    peer_topic,
)
from token_relay.sandbox.mqtt.filters import is_filter, is_match, is_topic

IDS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26)
A, B = "a" * 26, "b" * 26


def test_topics_are_spelled_as_the_specification_says() -> None:
    assert peer_topic(recipient=A, sender=B) == f"relay/v1/{A}/from/{B}"
    assert inbox_filter(A) == f"relay/v1/{A}/from/+"
    assert mailbox_topic(bytes(range(16))) == "relay/v1/pair/000102030405060708090a0b0c0d0e0f"


@given(IDS, IDS)
def test_a_peer_topic_is_parsed_back_and_falls_under_the_inbox_of_its_recipient_only(one: str, two: str) -> None:
    topic = peer_topic(recipient=one, sender=two)
    assert parse_topic(topic) == PeerTopic(recipient=one, sender=two)
    assert is_match(inbox_filter(one), topic)
    assert is_match(inbox_filter(two), topic) == (one == two)


@given(st.binary(min_size=16, max_size=16))
def test_a_mailbox_is_parsed_back_and_falls_under_no_inbox(mailbox_id: bytes) -> None:
    topic = mailbox_topic(mailbox_id)
    assert parse_topic(topic) == MailboxTopic(mailbox_id)
    assert is_topic(topic) and not is_match(inbox_filter(A), topic)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "relay/v1",
        f"relay/v2/{A}/from/{B}",
        f"relay/v1/{A}/from/{B}/x",
        f"relay/v1/{A}/from/{B}\n",
        f"/relay/v1/{A}/from/{B}",
        f"relay/v1/{A.upper()}/from/{B}",
        f"relay/v1/{A[:-1]}/from/{B}",
        f"relay/v1/{A}/from/{'1' * 26}",
        f"relay/v1/{A}/from/{'ａ' * 26}",
        f"relay/v1/{A}/to/{B}",
        "relay/v1/pair/" + "0" * 31,
        "relay/v1/pair/" + "A" * 32,
        "relay/v1/pair/" + "0" * 32 + "\n",
        f"relay/v1/{A}/from/+",
        "$SYS/broker/version",
    ],
)
def test_what_is_not_ours_is_none(topic: str) -> None:
    assert parse_topic(topic) is None


@given(st.text())
def test_no_text_makes_the_parser_raise(topic: str) -> None:
    parse_topic(topic)


@pytest.mark.parametrize("name", ["x/in", "", "+", "#", "A" * 26, "a" * 25, "a" * 27])
def test_a_name_that_is_no_device_id_never_gets_into_a_topic(name: str) -> None:
    with pytest.raises(AssertionError):
        peer_topic(recipient=name, sender=A)
    with pytest.raises(AssertionError):
        inbox_filter(name)


def test_the_access_list_lets_a_device_read_its_inbox_and_write_in_its_own_name_only() -> None:
    rules = [line.split() for line in broker_acl().splitlines()]
    assert {rule[0] for rule in rules} == {"pattern"}

    def may(action: str, user: str, topic: str) -> bool:
        return any(kind in (action, "readwrite") and is_match(f.replace("%u", user), topic) for _, kind, f in rules)

    to_a, to_b = peer_topic(recipient=A, sender=B), peer_topic(recipient=B, sender=A)
    assert may("read", A, to_a) and not may("read", A, to_b)
    assert may("write", A, to_b) and not may("write", A, to_a)
    assert may("read", A, mailbox_topic(bytes(16))) and may("write", A, mailbox_topic(bytes(16)))
    assert not may("write", A, "relay/v1/pair") and not may("read", A, "$SYS/broker/version")


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    # the examples of MQTT 5 §4.7.1 and §4.7.2
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("#", "anything/at/all", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/uptime", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/uptime", True),
        ("ACCOUNTS", "Accounts", False),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert is_filter(topic_filter)
    assert is_match(topic_filter, topic) is expected


@pytest.mark.parametrize("bad", ["", "sport/tennis#", "sport/tennis/#/ranking", "sport+", "a/b+/c", "##"])
def test_malformed_filters_are_refused(bad: str) -> None:
    assert not is_filter(bad)
