"""One list of promises, held by mosquitto and by the embedded broker alike, on both protocol levels.

Packets are written by hand (``raw.py``); the clients that people really use come in ``test_broker_clients.py``.
"""

from __future__ import annotations

import pytest

from tests.channel import raw
from tests.channel.mosquitto import Mosquitto
from tests.channel.raw import Wire
from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.mqtt.broker import Broker
from token_relay.sandbox.mqtt.packets import Publish
from token_relay.sandbox.mqtt.session import QUEUED_MAX, MqttSession, Waiting

pytestmark = pytest.mark.asyncio
Any_ = Mosquitto | Broker


async def login(
    broker: Any_,
    client_id: str,
    level: int,
    *,
    clean: bool = False,
    keep: bool = True,
    props: bytes = b"",
    filters: tuple[str, ...] = (),
    keepalive: int = 60,
) -> tuple[Wire, bool]:
    """Connect, subscribe; returns the wire and whether the session was still there."""
    wire = await Wire.to(broker.port)
    if level == 5 and keep:
        props += raw.session_expiry(3600)
    wire.send(raw.connect(client_id, level=level, clean=clean, props=props, keepalive=keepalive))
    answer = await wire.expect(2)
    assert answer.body[1] == 0, answer
    if filters:
        wire.send(raw.subscribe(*filters, level=level))
        assert (await wire.expect(9)).body[-len(filters) :] == b"\x01" * len(filters)
    return wire, bool(answer.body[0])


async def send(broker: Any_, topic: str, *payloads: bytes, level: int = 4) -> list[int]:
    """Publish with QoS 1 from a client of its own, each acknowledged; returns the reason codes."""
    wire, _ = await login(broker, "sender", level, clean=True, keep=False)
    codes = []
    for mid, payload in enumerate(payloads, start=1):
        wire.send(raw.publish(topic, payload, level=level, mid=mid))
        answer = await wire.expect(4)
        assert answer.mid == mid
        codes.append(answer.body[2] if len(answer.body) > 2 else 0)
    wire.send(raw.DISCONNECT)
    await wire.end()
    await wire.close()
    return codes


async def test_messages_for_an_absent_client_are_kept_in_order(broker: Any_, level: int) -> None:
    wire, present = await login(broker, "sub", level, filters=("a/+",))
    assert not present
    wire.send(raw.DISCONNECT)
    await wire.end()
    await wire.close()
    await send(broker, "a/b", b"1", b"2", b"3")
    wire, present = await login(broker, "sub", level)
    assert present
    got = [(await wire.expect(3)).published(level) for _ in range(3)]
    assert [(topic, payload, dup) for topic, payload, _, dup in got] == [
        ("a/b", b"1", False),
        ("a/b", b"2", False),
        ("a/b", b"3", False),
    ]
    await wire.close()


async def test_what_was_not_acknowledged_comes_again_marked_dup_and_what_was_does_not(broker: Any_, level: int) -> None:
    wire, _ = await login(broker, "sub", level, filters=("a/b",))
    await send(broker, "a/b", b"1", b"2", b"3")
    mids = [(await wire.expect(3)).published(level)[2] for _ in range(3)]
    wire.send(raw.puback(mids[0]) + raw.PINGREQ)
    await wire.expect(13)  # what came before the ping is done
    await wire.close()

    wire, present = await login(broker, "sub", level)
    assert present
    again = [(await wire.expect(3)).published(level) for _ in range(2)]
    assert [(payload, mid, dup) for _, payload, mid, dup in again] == [(b"2", mids[1], True), (b"3", mids[2], True)]
    wire.send(raw.puback(mids[1]) + raw.puback(mids[2]) + raw.PINGREQ)
    await wire.expect(13)
    await wire.close()

    wire, _ = await login(broker, "sub", level)
    await send(broker, "a/b", b"4")
    assert (await wire.expect(3)).published(level)[1] == b"4"
    await wire.close()


async def test_a_second_connection_takes_the_client_id_over(broker: Any_, level: int) -> None:
    first, _ = await login(broker, "same", level, filters=("a/b",))
    second, present = await login(broker, "same", level)
    assert present
    # the old one is told why in MQTT 5 only: DISCONNECT 0x8E; mosquitto 2.0.11 leaves it out, as it may
    told = await first.end()
    assert told == (b"\xe0\x01\x8e" if level == 5 and isinstance(broker, Broker) else b"")
    await send(broker, "a/b", b"x")
    assert (await second.expect(3)).published(level)[1] == b"x"
    await first.close()
    await second.close()


async def test_a_silent_client_is_closed_after_one_and_a_half_keep_alives(broker: Any_, level: int) -> None:
    patient, _ = await login(broker, "patient", level, keepalive=60)
    wire, _ = await login(broker, "quiet", level, keepalive=1)
    rest = await wire.end()  # MQTT 5 §3.1.2.10; mosquitto 2.0.11 takes 5 to 6 s
    patient.send(raw.PINGREQ)
    assert (await patient.read()).first == 0xD0, "as silent, and not closed: its keep-alive is longer"
    await patient.close()
    assert rest == (b"\xe0\x01\x8d" if level == 5 and isinstance(broker, Broker) else b"")
    await wire.close()


async def test_ping_is_answered(broker: Any_, level: int) -> None:
    wire, _ = await login(broker, "sub", level)
    wire.send(raw.PINGREQ)
    assert (await wire.read()).first == 0xD0
    await wire.close()


async def test_a_clean_start_forgets_the_session(broker: Any_, level: int) -> None:
    wire, _ = await login(broker, "sub", level, filters=("a/b",))
    await wire.close()
    wire, present = await login(broker, "sub", level, clean=True)
    assert not present
    await wire.close()
    wire, present = await login(broker, "sub", level)
    # a 3.1.1 session that began clean ends with its connection; in MQTT 5 only the expiry interval decides
    assert present == (level == 5)
    await send(broker, "a/b", b"x")
    wire.send(raw.PINGREQ)
    assert (await wire.read()).kind == 13, "the subscription of the old session is gone"
    await wire.close()


async def test_a_session_without_expiry_interval_ends_with_its_connection(broker: Any_) -> None:
    wire, _ = await login(broker, "sub", 5, keep=False, filters=("a/b",))
    wire.send(raw.DISCONNECT)
    await wire.end()
    await wire.close()
    wire, present = await login(broker, "sub", 5, keep=False)
    assert not present
    await wire.close()


async def test_receive_maximum_bounds_what_is_in_flight(broker: Any_) -> None:
    wire, _ = await login(broker, "sub", 5, props=b"\x21\x00\x03", filters=("a/b",))
    await send(broker, "a/b", *(b"%d" % n for n in range(6)))
    mids = [(await wire.expect(3)).published(5)[2] for _ in range(3)]
    wire.send(raw.PINGREQ)
    await wire.expect(13)  # and no fourth message before it
    wire.send(raw.puback(mids[0]))
    assert (await wire.expect(3)).published(5)[1] == b"3"
    await wire.close()


async def test_qos_2_is_granted_as_1_and_refused_when_published(broker: Any_, level: int) -> None:
    wire, _ = await login(broker, "two", level)
    wire.send(raw.subscribe("a/b", level=level, options=2))
    assert (await wire.expect(9)).body[-1] == 1
    wire.send(raw.publish("a/b", b"x", level=level, qos=2))
    assert await wire.end() == (b"\xe0\x01\x9b" if level == 5 else b"")
    await wire.close()


async def test_connack_of_mqtt_5_says_what_is_not_spoken(broker: Any_) -> None:
    wire = await Wire.to(broker.port)
    wire.send(raw.connect("me", level=5))
    body = (await wire.expect(2)).body
    properties = body[3:]
    assert b"\x24\x01" in properties  # Maximum QoS 1
    assert b"\x25\x00" in properties  # Retain Available 0
    assert b"\x27" + (20_480).to_bytes(4, "big") in properties  # Maximum Packet Size
    await wire.close()


async def test_a_retained_message_is_refused_in_mqtt_5(broker: Any_) -> None:
    wire, _ = await login(broker, "keeper", 5)
    wire.send(raw.publish("a/b", b"x", level=5, retain=True))
    assert await wire.end() == b"\xe0\x01\x9a"
    await wire.close()


async def test_a_packet_over_the_limit_closes_the_connection(broker: Any_, level: int) -> None:
    wire, _ = await login(broker, "big", level)
    wire.send(raw.publish("a/b", bytes(20_480), level=level))
    assert await wire.end() in ((b"\xe0\x01\x95", b"") if level == 5 else (b"",))
    await wire.close()


async def test_a_message_larger_than_its_receiver_takes_is_kept_from_it(broker: Any_) -> None:
    wire, _ = await login(broker, "small", 5, props=b"\x27" + (200).to_bytes(4, "big"), filters=("a/b",))
    await send(broker, "a/b", bytes(300), b"small")
    assert (await wire.expect(3)).published(5)[1] == b"small"
    await wire.close()


async def test_a_publisher_is_told_that_nobody_listens(broker: Any_) -> None:
    assert await send(broker, "nobody/here", b"x", level=5) == [0x10]


async def test_a_kept_session_needs_a_client_id(broker: Any_) -> None:
    wire = await Wire.to(broker.port)
    wire.send(raw.connect("", level=4))
    assert await wire.end() == b"\x20\x02\x00\x02"  # identifier rejected; MQTT 3.1.1 §3.1.3.1
    await wire.close()


async def test_an_empty_client_id_gets_one_assigned(broker: Any_) -> None:
    wire = await Wire.to(broker.port)
    wire.send(raw.connect("", level=5, clean=True))
    body = (await wire.expect(2)).body
    assert body[1] == 0 and b"\x12\x00" in body
    await wire.close()


@pytest.mark.parametrize(
    "data",
    [
        raw.PINGREQ,
        b"\x10\xff\xff\xff\xff\x7f",
        raw.packet(0x10, raw.text("HTTP") + b"\x04\x02\x00\x3c" + raw.text("x")),
        b"GET / HTTP/1.1\r\n\r\n",
        raw.connect("me", level=4, flags=1),
        raw.connect("me", level=4) * 2,
        raw.connect("me", level=4) + raw.publish("a/+", b"", level=4),
        raw.connect("me", level=4) + b"\x80\x05\x00\x01\x00\x01a",
        raw.connect("me", level=4) + b"\x00\x00",
        raw.connect("me", level=5) + raw.publish("a", b"", level=5, props=b"\x23\xff\xff"),
    ],
)
async def test_who_breaks_the_protocol_is_closed_and_others_are_not(broker: Any_, data: bytes) -> None:
    bystander, _ = await login(broker, "bystander", 4)
    wire = await Wire.to(broker.port)
    wire.send(data)
    await wire.end()
    await wire.close()
    bystander.send(raw.PINGREQ)
    await bystander.expect(13)
    await bystander.close()


async def test_no_local_keeps_a_message_from_its_sender(broker: Any_) -> None:
    wire, _ = await login(broker, "self", 5)
    wire.send(raw.subscribe("a/b", level=5, options=0x05))
    await wire.expect(9)
    wire.send(raw.publish("a/b", b"own", level=5))
    await wire.expect(4)
    await send(broker, "a/b", b"other")
    assert (await wire.expect(3)).published(5)[1] == b"other"
    await wire.close()


async def test_sessions_outlive_a_restart(broker: Any_, level: int) -> None:
    wire, _ = await login(broker, "sub", level, filters=("a/b",))
    await send(broker, "a/b", b"1")
    await wire.close()
    await broker.stop()
    await broker.start()
    wire, present = await login(broker, "sub", level)
    assert present
    assert (await wire.expect(3)).published(level)[1] == b"1"
    await wire.close()


# -- the embedded one alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", ""])
async def test_it_binds_to_loopback_only(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback only"):
        Broker(host)


async def test_an_unknown_protocol_level_is_answered_in_words_of_3_1_1(embedded: Broker) -> None:
    wire = await Wire.to(embedded.port)
    wire.send(raw.connect("me", level=6))
    assert await wire.end() == b"\x20\x02\x00\x01"
    await wire.close()


async def test_a_will_is_refused(embedded: Broker, level: int) -> None:
    tail = raw.text("me") + (b"\0" if level == 5 else b"") + raw.text("gone") + raw.text(b"x")
    head = raw.text("MQTT") + bytes([level, 0x04]) + b"\x00\x3c" + (b"\0" if level == 5 else b"")
    wire = await Wire.to(embedded.port)
    wire.send(raw.packet(0x10, head + tail))
    assert await wire.end() == (b"\x20\x03\x00\x83\x00" if level == 5 else b"\x20\x02\x00\x03")
    await wire.close()


async def test_enhanced_authentication_is_refused(embedded: Broker) -> None:
    wire = await Wire.to(embedded.port)
    wire.send(raw.connect("me", level=5, props=b"\x15" + raw.text("SCRAM")))
    assert await wire.end() == b"\x20\x03\x00\x8c\x00"
    await wire.close()


async def test_a_shared_subscription_and_a_bad_filter_are_refused_one_by_one(embedded: Broker, level: int) -> None:
    wire, _ = await login(embedded, "me", level)
    wire.send(raw.subscribe("$share/g/a", "a/#/b", "ok", level=level))
    assert (await wire.expect(9)).body[-3:] == (b"\x9e\x8f\x01" if level == 5 else b"\x80\x80\x01")
    await wire.close()


async def test_a_subscription_identifier_is_refused(embedded: Broker) -> None:
    wire, _ = await login(embedded, "me", 5)
    wire.send(raw.subscribe("a", level=5, props=b"\x0b\x01"))
    assert await wire.end() == b"\xe0\x01\xa1"
    await wire.close()


async def test_seen_holds_topic_and_length_and_the_payload_only_when_recording(embedded: Broker) -> None:
    tapped: list[tuple[str, bytes]] = []
    embedded.on_publish = lambda topic, payload: tapped.append((topic, payload))
    await send(embedded, "a/b", b"one")
    embedded.record = False
    await send(embedded, "a/b", b"three")
    assert [(s.topic, s.payload_length, s.payload) for s in embedded.seen] == [("a/b", 3, b"one"), ("a/b", 5, None)]
    assert tapped == [("a/b", b"one"), ("a/b", b"three")]
    for _ in range(300):
        embedded.inject("a/c", b"")
    assert len(embedded.seen) == 256


async def test_inject_delivers_a_message_again(embedded: Broker, level: int) -> None:
    wire, _ = await login(embedded, "sub", level, filters=("a/b",))
    assert embedded.inject("a/b", b"again") == 1
    assert embedded.inject("c", b"nobody") == 0
    assert (await wire.expect(3)).published(level)[1] == b"again"
    with pytest.raises(ValueError, match="topic"):
        embedded.inject("a/+", b"")
    await wire.close()


async def test_hold_keeps_messages_back_until_release_also_across_a_reconnect(embedded: Broker, level: int) -> None:
    wire, _ = await login(embedded, "sub", level, filters=("a/b",))
    embedded.inject("a/b", b"1")
    await wire.expect(3)
    embedded.hold("sub")
    embedded.inject("a/b", b"2")
    assert embedded.drop("sub")
    await wire.end()
    await wire.close()
    wire, _ = await login(embedded, "sub", level)
    wire.send(raw.PINGREQ)
    await wire.expect(13)  # nothing came before it
    embedded.release("sub")
    got = [(await wire.expect(3)).published(level) for _ in range(2)]
    assert [(payload, dup) for _, payload, _, dup in got] == [(b"1", True), (b"2", False)]
    await wire.close()


async def test_should_deliver_drops_a_copy(embedded: Broker) -> None:
    embedded.should_deliver = lambda client_id, topic, payload: payload != b"lost"
    wire, _ = await login(embedded, "sub", 4, filters=("a/b",))
    await send(embedded, "a/b", b"lost", b"kept")
    assert (await wire.expect(3)).published(4)[1] == b"kept"
    await wire.close()


async def test_a_connection_that_never_says_connect_is_closed(
    embedded: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.sandbox.mqtt.broker.CONNECT_TIMEOUT_S", 0.05)
    wire = await Wire.to(embedded.port)
    wire.send(b"\x10")
    assert await wire.end() == b""
    await wire.close()


async def test_connections_and_sessions_are_bounded(embedded: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("token_relay.sandbox.mqtt.broker.CONNECTIONS_MAX", 2)
    monkeypatch.setattr("token_relay.sandbox.mqtt.broker.SESSIONS_MAX", 1)
    first, _ = await login(embedded, "one", 5)
    second = await Wire.to(embedded.port)
    third = await Wire.to(embedded.port)
    assert await third.end() == b"", "two are connected already"
    second.send(raw.connect("two", level=5))
    assert (await second.expect(2)).body[1] == 0x97
    for wire in (first, second, third):
        await wire.close()


async def test_stop_ends_connections_that_do_not_read(embedded: Broker) -> None:
    wire, _ = await login(embedded, "stuck", 5, filters=("a/b",))
    for _ in range(30):
        embedded.inject("a/b", bytes(16_000))
    await embedded.stop()
    assert embedded.client_ids == []
    await wire.close()


async def test_a_full_queue_drops_the_newest() -> None:
    session = MqttSession("sub", left_at=0.0)
    for n in range(QUEUED_MAX + 5):
        session.keep(Waiting(Publish("a", b"%d" % n, 1)))
    assert session.dropped == 5
    assert len(session.waiting) == QUEUED_MAX and session.waiting[-1].message.payload == b"%d" % (QUEUED_MAX - 1)


async def test_a_session_is_over_when_its_expiry_interval_has_passed() -> None:
    session = MqttSession("sub", expiry_s=30)
    assert not session.is_over(1e9), "never while connected"
    session.left_at = 100.0
    assert not session.is_over(129.9)
    assert session.is_over(130.0)
    session.expiry_s = 0xFFFFFFFF
    assert not session.is_over(1e12)


async def test_message_expiry_counts_down_while_waiting() -> None:
    from token_relay.sandbox.mqtt.packets import Property

    message = Publish("a", b"x", 1, properties=((Property.MESSAGE_EXPIRY, 60),))
    renewed = Waiting(message, expires_at=160.0).renewed(now=120.0)
    assert renewed is not None and renewed.properties == ((Property.MESSAGE_EXPIRY, 40),)
    assert Waiting(message, expires_at=160.0).renewed(now=160.0) is None


async def test_packet_identifiers_wrap_and_skip_those_in_flight() -> None:
    session = MqttSession("sub", in_flight_max=3)
    session._last_packet_id = 0xFFFE
    session.in_flight[1] = Waiting(Publish("a", b"", 1))
    for _ in range(2):
        session.keep(Waiting(Publish("a", b"", 1)))
    assert [packet.packet_id for packet in session.next_packets(0.0)] == [0xFFFF, 2]
