"""The embedded broker's decoder: whatever comes off the socket is a packet or a PacketError, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.channel import raw
from token_relay.sandbox.mqtt.packets import (
    Connect,
    Decoder,
    Disconnect,
    Packet,
    PacketError,
    PingReq,
    Property,
    PubAck,
    Publish,
    Reason,
    Subscribe,
    Unsubscribe,
)

LIMIT = 4096
GOOD = {
    level: [
        raw.publish("a/b", b"payload", level=level),
        raw.publish("a", b"", level=level, qos=0),
        raw.puback(7),
        raw.subscribe("a/+", "#", level=level),
        raw.packet(0xA2, b"\x00\x05" + (b"\0" if level == 5 else b"") + raw.text("a/+")),
        raw.PINGREQ,
        raw.DISCONNECT,
    ]
    for level in (4, 5)
}


def feed(data: bytes, *, chunk: int = 1 << 20) -> list[Packet]:
    decoder = Decoder(LIMIT)
    found: list[Packet] = []
    for start in range(0, len(data), chunk):
        found += decoder.feed(data[start : start + chunk])
        assert decoder.buffered_bytes <= LIMIT
    return found


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
def test_a_stream_is_cut_into_its_packets_wherever_the_chunks_end(level: int, chunk: int) -> None:
    assert feed(raw.connect("me", level=level, keepalive=7) + b"".join(GOOD[level]), chunk=chunk) == [
        Connect(level, "me", is_clean=False, keep_alive_s=7, has_will=False),
        Publish("a/b", b"payload", 1, packet_id=1),
        Publish("a", b"", 0),
        PubAck(7),
        Subscribe(1, (("a/+", 1), ("#", 1))),
        Unsubscribe(5, ("a/+",)),
        PingReq(),
        Disconnect(),
    ]


def test_properties_of_mqtt_5_are_read() -> None:
    props = raw.session_expiry(30) + b"\x21\x00\x08" + b"\x27\x00\x00\x50\x00" + b"\x26" + raw.text("k") + raw.text("v")
    (connect,) = feed(raw.connect("me", level=5, props=props))
    assert isinstance(connect, Connect)
    assert connect.number(Property.SESSION_EXPIRY, 0) == 30
    assert connect.number(Property.RECEIVE_MAXIMUM, 0) == 8
    assert connect.number(Property.MAXIMUM_PACKET_SIZE, 0) == 20480
    assert connect.properties[-1] == (Property.USER_PROPERTY, ("k", "v"))


HELLO4, HELLO5 = raw.connect("me", level=4), raw.connect("me", level=5)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (raw.PINGREQ, Reason.PROTOCOL_ERROR),
        (HELLO5 + HELLO5, Reason.PROTOCOL_ERROR),
        (raw.connect("me", level=6), Reason.UNSUPPORTED_PROTOCOL_VERSION),
        (
            raw.packet(0x10, raw.text("MQIsdp") + b"\x03\x02\x00\x3c" + raw.text("x")),
            Reason.UNSUPPORTED_PROTOCOL_VERSION,
        ),
        (raw.packet(0x10, raw.text("HTTP") + b"\x04\x02\x00\x3c" + raw.text("x")), Reason.MALFORMED_PACKET),
        (raw.connect("me", level=5, flags=0x01), Reason.MALFORMED_PACKET),
        (raw.connect("me", level=5, props=b"\x21\x00\x00"), Reason.PROTOCOL_ERROR),
        (raw.connect("me", level=5, props=raw.session_expiry(1) * 2), Reason.PROTOCOL_ERROR),
        (raw.connect("me", level=5, props=b"\x23\x00\x01"), Reason.PROTOCOL_ERROR),
        (raw.connect("me", level=5, props=b"\x7f"), Reason.PROTOCOL_ERROR),
        (b"\x10\xff\xff\xff\xff", Reason.MALFORMED_PACKET),
        (b"\x10\xff\xff\x7f", Reason.PACKET_TOO_LARGE),
        (b"\x11\x00", Reason.PROTOCOL_ERROR),
        (b"GET / HTTP/1.1", Reason.PROTOCOL_ERROR),
        (HELLO4 + b"\x80\x00", Reason.MALFORMED_PACKET),
        (HELLO4 + b"\x00\x00", Reason.PROTOCOL_ERROR),
        (HELLO4 + b"\x20\x02\x00\x00", Reason.PROTOCOL_ERROR),
        (HELLO4 + raw.publish("a", b"", level=4, qos=3), Reason.MALFORMED_PACKET),
        (HELLO4 + raw.publish("a", b"", level=4, qos=0, dup=True), Reason.MALFORMED_PACKET),
        (HELLO4 + raw.publish("a", b"", level=4, qos=2), Reason.QOS_NOT_SUPPORTED),
        (HELLO4 + raw.publish("a", b"", level=4, mid=0), Reason.PROTOCOL_ERROR),
        (HELLO4 + raw.publish("a/+", b"", level=4), Reason.TOPIC_NAME_INVALID),
        (HELLO4 + raw.publish("", b"", level=4), Reason.TOPIC_NAME_INVALID),
        (HELLO4 + raw.publish(b"\xff", b"", level=4), Reason.MALFORMED_PACKET),
        (HELLO4 + raw.publish(b"a\0", b"", level=4), Reason.MALFORMED_PACKET),
        (HELLO4 + raw.publish(b"\xed\xa0\x80", b"", level=4), Reason.MALFORMED_PACKET),
        (HELLO5 + raw.publish("a", b"", level=5, props=b"\x23\x00\x01"), Reason.TOPIC_ALIAS_INVALID),
        (HELLO4 + raw.subscribe(level=4), Reason.PROTOCOL_ERROR),
        (HELLO4 + raw.subscribe("a", level=4, options=3), Reason.MALFORMED_PACKET),
        (HELLO4 + raw.subscribe("a", level=4, options=4), Reason.MALFORMED_PACKET),
        (HELLO4 + raw.subscribe(*["a"] * 65, level=4), Reason.QUOTA_EXCEEDED),
        (HELLO4 + b"\x50\x02\x00\x01", Reason.PROTOCOL_ERROR),
        (HELLO5 + b"\xf0\x00", Reason.PROTOCOL_ERROR),
        (HELLO4 + b"\xc0\x01\x00", Reason.MALFORMED_PACKET),
    ],
)
def test_what_the_protocol_forbids_has_the_reason_code_of_mqtt_5(data: bytes, code: Reason) -> None:
    with pytest.raises(PacketError) as caught:
        feed(data)
    assert caught.value.code is code


def tolerant(data: bytes, chunk: int) -> None:
    try:
        feed(data, chunk=chunk)
    except PacketError:
        pass


@given(st.binary(max_size=400), st.integers(1, 64))
@example(b"\x10\x00", 1)
def test_random_bytes_never_crash_it_nor_grow_memory(data: bytes, chunk: int) -> None:
    tolerant(data, chunk)


@settings(max_examples=500)
@given(
    st.sampled_from([4, 5]).flatmap(
        lambda level: st.tuples(
            st.just(raw.connect("me", level=level, props=raw.session_expiry(9) if level == 5 else b"")),
            st.lists(st.sampled_from(GOOD[level]), max_size=6).map(b"".join),
        )
    ),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=6),
    st.integers(1, 64),
)
def test_good_packets_with_some_bytes_changed_never_crash_it(
    stream: tuple[bytes, bytes], changes: list[tuple[int, int]], chunk: int
) -> None:
    data = bytearray(b"".join(stream))
    for position, value in changes:
        data[position % len(data)] = value
    tolerant(bytes(data), chunk)


@given(st.binary(min_size=1, max_size=60), st.sampled_from([0x30, 0x32, 0x40, 0x82, 0xA2, 0xE0]))
def test_random_bodies_behind_a_good_header_never_crash_it(body: bytes, first: int) -> None:
    for hello in (HELLO4, HELLO5):
        tolerant(hello + raw.packet(first, body), 1000)
