"""Topic names and the broker's access list, built in one place so that they cannot drift apart.

``relay/v1/<to>/from/<from>`` carries everything between two paired devices; the broker itself enforces the
sender's name through the access list. ``relay/v1/pair/<id>`` is the mailbox of one invitation, open to every
enrolled client: what lies in it is sealed, and its name is 128 bits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from token_relay.protocol.identity import DEVICE_ID_PATTERN

PREFIX = "relay/v1"
_PEER = re.compile(rf"{PREFIX}/([a-z2-7]{{26}})/from/([a-z2-7]{{26}})", re.ASCII)
_MAILBOX = re.compile(rf"{PREFIX}/pair/([0-9a-f]{{32}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class PeerTopic:
    """A parsed ``relay/v1/<to>/from/<from>``."""

    recipient: str
    sender: str


@dataclass(frozen=True, slots=True)
class MailboxTopic:
    """A parsed ``relay/v1/pair/<id>``; ``mailbox_id`` is 16 raw bytes."""

    mailbox_id: bytes


def peer_topic(*, recipient: str, sender: str) -> str:
    """Return the topic for messages from one device id to another."""
    assert DEVICE_ID_PATTERN.fullmatch(recipient) and DEVICE_ID_PATTERN.fullmatch(sender)
    return f"{PREFIX}/{recipient}/from/{sender}"


def inbox_filter(recipient: str) -> str:
    """Return the topic filter for everything that is meant for this device id."""
    assert DEVICE_ID_PATTERN.fullmatch(recipient)
    return f"{PREFIX}/{recipient}/from/+"


def mailbox_topic(mailbox_id: bytes) -> str:
    """Return the topic of an invitation's mailbox (16 raw bytes, spelled as hex)."""
    assert len(mailbox_id) == 16
    return f"{PREFIX}/pair/{mailbox_id.hex()}"


def parse_topic(topic: str) -> PeerTopic | MailboxTopic | None:
    """Parse a topic that the broker delivered; None when it is not one of ours."""
    if match := _PEER.fullmatch(topic):
        return PeerTopic(recipient=match[1], sender=match[2])
    if match := _MAILBOX.fullmatch(topic):
        return MailboxTopic(bytes.fromhex(match[1]))
    return None


def broker_acl() -> str:
    """Return mosquitto's ACL file. ``%u`` is the certificate's common name, which is a device id.

    The CA refuses every other name: mosquitto pastes ``%u`` into the pattern as it is, so a certificate
    named ``x/in`` could read another device's topics.
    """
    return f"pattern read {PREFIX}/%u/from/+\npattern write {PREFIX}/+/from/%u\npattern readwrite {PREFIX}/pair/+\n"
