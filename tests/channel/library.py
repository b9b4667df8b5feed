"""What was found out about aiomqtt 2.5 and paho 2.1, row by row, and which tests hold the channel to it.

A test that shows a row carries ``@holds("K3")``. A fact is shown with the library alone, so that the rule it led to
can be dropped on the day it is no longer true; the rule is shown with our channel. Both against a real mosquitto.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.channel.channel_kit import ME

PROTOCOLS = ("5", "3.1.1")
T = TypeVar("T", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Row:
    """One fact about the library (or the broker), and what the channel does about it."""

    fact: str
    rule: str


ROWS = {
    "K1": Row(
        "manual acknowledgement, enabled before connect, works: only what was not acknowledged comes back",
        "enabled in the constructor of our connection",
    ),
    "K2": Row(
        "enabled after the connect it is too late: messages that waited in the session are acknowledged already",
        "never; a resumed session loses nothing",
    ),
    "K3": Row(
        "a packet identifier of an old connection acknowledges another message on a new one",
        "a message is acknowledged on the connection that brought it, or not at all",
    ),
    "K4": Row("by default the session is wiped at each start of the process", "clean start is never asked for"),
    "K5": Row(
        "mosquitto 2.0.11 forgets a session at its restart if that was created with clean start",
        "the first connect asks for the kept session too",
    ),
    "K6": Row(
        "publish() returns as if all were well when the broker refused the message",
        "the reason code is read; failures are told, 'nobody listens' (0x10) is none",
    ),
    "K7": Row(
        "neither session-present nor the properties of CONNACK are told",
        "both are read: on_connected(session_present), and the broker's limits are kept",
    ),
    "K8": Row(
        "a bounded queue of incoming messages drops without a word",
        "the queue is not bounded; Receive Maximum bounds what is in flight",
    ),
    "K9": Row(
        "a message may be held for longer than the keep-alive: the loop goes on pinging",
        "nothing blocks the loop; a vault commits on its own thread",
    ),
    "K10": Row("with QoS 2 the PUBREC leaves at once, manual or not", "we subscribe with QoS 1 only"),
    "K11": Row("the library does not reconnect", "our supervisor does, with a new object per connection"),
    "K12": Row(
        "what was published and not acknowledged is in memory only",
        "publish() says False and forgets; the caller's outbox repeats",
    ),
    "K13": Row("the broker drops a message that expired while we were away", "nothing we publish expires there"),
    "K14": Row(
        "a subscription is granted though the access list will filter what it asks for", "the channel probes itself"
    ),
    "K15": Row("manual acknowledgement costs little", "at least 100 messages of 4 kB a second: see the benchmark"),
}


def holds(*rows: str) -> Callable[[T], T]:
    """Mark a test as one that shows these rows."""
    assert set(rows) <= set(ROWS), rows

    def mark(test: T) -> T:
        test.rows = rows  # type: ignore[attr-defined]  # functions have no declared attributes
        return test

    return mark


_quiet = logging.getLogger("tests.channel.library")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def library(
    port: int, protocol: str, *, client_id: str = ME, is_manual: bool = False, **others: object
) -> aiomqtt.Client:
    """Return aiomqtt's client as its documentation has it, with a session that is kept unless ``others`` say so."""
    kept: dict[str, object]
    if protocol == "5":
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves this one untyped
        properties.SessionExpiryInterval = 3600
        kept = {"clean_start": False, "properties": properties}
    else:
        kept = {"clean_session": False, "clean_start": MQTT_CLEAN_START_FIRST_ONLY}
    version = aiomqtt.ProtocolVersion.V5 if protocol == "5" else aiomqtt.ProtocolVersion.V311
    client = aiomqtt.Client("127.0.0.1", port, identifier=client_id, protocol=version, logger=_quiet, **(kept | others))  # type: ignore[arg-type]  # keyword arguments by name
    if is_manual:
        client._client.manual_ack_set(True)
    return client
