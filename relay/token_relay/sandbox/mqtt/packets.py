"""MQTT packets, decoded: bytes in, values out, without a session. Pure.

Knows the two protocol levels that clients use today, 4 (MQTT 3.1.1) and 5, in the subset that the embedded
broker offers: QoS 0 and 1, no enhanced authentication. Everything here is checked against a limit *before* it
is stored, because the bytes come from anybody who can open a socket:

* a decoder never holds more than one packet of ``packet_bytes_max`` plus what was fed in one call,
* every malformed packet becomes one :class:`PacketError` with the reason code that MQTT 5 has for it; no other
  exception leaves this module,
* a decoder that has raised is finished: the connection is to be closed (MQTT 5 §4.13).

Sources: OASIS MQTT 3.1.1, OASIS MQTT 5.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from token_relay.protocol.errors import PeerError
from token_relay.sandbox.mqtt.filters import is_topic

MQTT_311 = 4
MQTT_5 = 5
LENGTH_BYTES_MAX = 4  # of the variable byte integer; MQTT 5 §1.5.5
FILTERS_MAX = 64  # in one SUBSCRIBE or UNSUBSCRIBE; the channel sends two


class Reason(IntEnum):
    """The reason codes that the broker uses. MQTT 5 §2.4."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    UNSPECIFIED = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    QUOTA_EXCEEDED = 0x97
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1


class PacketError(PeerError):
    """The client broke the protocol, or used a part of it that is not supported: answer and close.

    Attributes:
        code: the reason code of MQTT 5; a 3.1.1 client does not get it, its connection is closed.
    """

    def __init__(self, code: Reason, message: str) -> None:
        super().__init__("mqtt_" + code.name.lower(), message)
        self.code = code


class Property(IntEnum):
    """Property identifiers. MQTT 5 §2.2.2.2."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM_INFORMATION = 0x17
    WILL_DELAY = 0x18
    REQUEST_RESPONSE_INFORMATION = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_AVAILABLE = 0x28
    SUBSCRIPTION_ID_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


P = Property
ONE_BYTE = {P.PAYLOAD_FORMAT, P.REQUEST_PROBLEM_INFORMATION, P.REQUEST_RESPONSE_INFORMATION, P.MAXIMUM_QOS}
ONE_BYTE |= {P.RETAIN_AVAILABLE, P.WILDCARD_AVAILABLE, P.SUBSCRIPTION_ID_AVAILABLE, P.SHARED_AVAILABLE}
TWO_BYTES = {P.SERVER_KEEP_ALIVE, P.RECEIVE_MAXIMUM, P.TOPIC_ALIAS_MAXIMUM, P.TOPIC_ALIAS}
_FOUR_BYTES = {P.MESSAGE_EXPIRY, P.SESSION_EXPIRY, P.WILL_DELAY, P.MAXIMUM_PACKET_SIZE}
_BINARY = {P.CORRELATION_DATA, P.AUTHENTICATION_DATA}
_BOOLEAN = {P.PAYLOAD_FORMAT, P.REQUEST_PROBLEM_INFORMATION, P.REQUEST_RESPONSE_INFORMATION}
_NOT_ZERO = {P.RECEIVE_MAXIMUM, P.MAXIMUM_PACKET_SIZE}

_IN_PUBLISH = frozenset(
    {P.PAYLOAD_FORMAT, P.MESSAGE_EXPIRY, P.CONTENT_TYPE, P.RESPONSE_TOPIC, P.CORRELATION_DATA, P.USER_PROPERTY}
    | {P.TOPIC_ALIAS}
)
_IN_WILL = (_IN_PUBLISH | {P.WILL_DELAY}) - {P.TOPIC_ALIAS}
_IN_CONNECT = frozenset(
    {P.SESSION_EXPIRY, P.AUTHENTICATION_METHOD, P.AUTHENTICATION_DATA, P.REQUEST_PROBLEM_INFORMATION}
    | {P.REQUEST_RESPONSE_INFORMATION, P.RECEIVE_MAXIMUM, P.TOPIC_ALIAS_MAXIMUM, P.USER_PROPERTY}
    | {P.MAXIMUM_PACKET_SIZE}
)
_IN_ACK = frozenset({P.REASON_STRING, P.USER_PROPERTY})
_IN_SUBSCRIBE = frozenset({P.SUBSCRIPTION_ID, P.USER_PROPERTY})
_IN_UNSUBSCRIBE = frozenset({P.USER_PROPERTY})
_IN_DISCONNECT = _IN_ACK | {P.SESSION_EXPIRY, P.SERVER_REFERENCE}

PropertyValue = int | str | bytes | tuple[str, str]
Properties = tuple[tuple[Property, PropertyValue], ...]


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT. User name and password are skipped and not kept: the embedded broker asks for none."""

    level: int
    client_id: str
    is_clean: bool
    keep_alive_s: int
    has_will: bool
    properties: Properties = ()

    def number(self, wanted: Property, default: int) -> int:
        """Return the numeric property, or ``default`` when the client did not send it."""
        return next((value for key, value in self.properties if key is wanted and isinstance(value, int)), default)


@dataclass(frozen=True, slots=True)
class Publish:
    """PUBLISH, in either direction; ``packet_id`` is 0 for QoS 0."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int = 0
    is_dup: bool = False
    is_retained: bool = False
    properties: Properties = ()


@dataclass(frozen=True, slots=True)
class PubAck:
    """PUBACK."""

    packet_id: int
    code: int = 0


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE: pairs of topic filter and options byte (its two low bits are the QoS asked for)."""

    packet_id: int
    requests: tuple[tuple[str, int], ...]
    properties: Properties = ()


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """UNSUBSCRIBE."""

    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PingReq:
    """PINGREQ."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """DISCONNECT from the client; ``session_expiry_s`` is None when it did not change it."""

    code: int = 0
    session_expiry_s: int | None = None


Packet = Connect | Publish | PubAck | Subscribe | Unsubscribe | PingReq | Disconnect


class Decoder:
    """Cuts a stream into packets. ``level`` follows from the CONNECT, which has to come first."""

    def __init__(self, packet_bytes_max: int) -> None:
        self.packet_bytes_max = packet_bytes_max
        self.level = 0
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """How much of an unfinished packet is held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Take bytes from the socket and yield the packets that they complete.

        Raises:
            PacketError: the stream is broken here; nothing after this point can be trusted.
        """
        self._buffer += data
        while (extent := self._extent()) is not None:
            header_bytes, whole = extent
            if len(self._buffer) < whole:
                return
            first, body = self._buffer[0], bytes(self._buffer[header_bytes:whole])
            del self._buffer[:whole]
            yield self._packet(first, body)

    def _extent(self) -> tuple[int, int] | None:
        """Return the bytes of the fixed header and of the whole packet, once the length has arrived."""
        if self._buffer and not self.level and self._buffer[0] != 0x10:  # reject before the packet is complete
            raise PacketError(Reason.PROTOCOL_ERROR, "CONNECT comes first")
        length = 0
        for index in range(LENGTH_BYTES_MAX):
            if len(self._buffer) < 2 + index:
                return None
            byte = self._buffer[1 + index]
            length |= (byte & 0x7F) << (7 * index)
            if not byte & 0x80:
                whole = 2 + index + length
                if whole > self.packet_bytes_max:
                    raise PacketError(Reason.PACKET_TOO_LARGE, f"packet of {whole} bytes")
                return 2 + index, whole
        raise PacketError(Reason.MALFORMED_PACKET, "remaining length has more than 4 bytes")

    def _packet(self, first: int, body: bytes) -> Packet:
        kind, flags, reader = first >> 4, first & 0x0F, _Reader(body)
        if kind == 1 and self.level:
            raise PacketError(Reason.PROTOCOL_ERROR, "CONNECT comes only once")
        if kind != 3 and flags != (0b0010 if kind in (8, 10) else 0):
            raise PacketError(Reason.MALFORMED_PACKET, f"reserved flags of packet type {kind}")
        packet: Packet
        match kind:
            case 1:
                packet = _connect(reader)
                self.level = packet.level
            case 3:
                packet = _publish(reader, flags, self.level)
            case 4:
                packet = _puback(reader, self.level)
            case 8:
                packet = _subscribe(reader, self.level)
            case 10:
                packet = _unsubscribe(reader, self.level)
            case 12:
                packet = PingReq()
            case 14:
                packet = _disconnect(reader, self.level)
            case 5 | 6 | 7:
                raise PacketError(Reason.PROTOCOL_ERROR, "QoS 2 is not spoken here")
            case 15:
                raise PacketError(Reason.PROTOCOL_ERROR, "no enhanced authentication was begun")
            case _:
                raise PacketError(Reason.PROTOCOL_ERROR, f"packet type {kind} is not for a broker")
        reader.end()
        return packet


class _Reader:
    """A cursor over one packet's body; every step checks that the bytes are there."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise PacketError(Reason.MALFORMED_PACKET, "packet ends early")
        self._at += count
        return self._body[self._at - count : self._at]

    def end(self) -> None:
        if self.left:
            raise PacketError(Reason.MALFORMED_PACKET, "bytes after the end of the packet")

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def variable(self) -> int:
        value = 0
        for index in range(LENGTH_BYTES_MAX):
            byte = self.number(1)
            value |= (byte & 0x7F) << (7 * index)
            if not byte & 0x80:
                return value
        raise PacketError(Reason.MALFORMED_PACKET, "variable byte integer has more than 4 bytes")

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            value = self.binary().decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise PacketError(Reason.MALFORMED_PACKET, "text is not UTF-8") from None
        if "\0" in value:
            raise PacketError(Reason.MALFORMED_PACKET, "text holds U+0000")
        return value

    def packet_id(self) -> int:
        value = self.number(2)
        if value == 0:
            raise PacketError(Reason.PROTOCOL_ERROR, "packet identifier 0")
        return value

    def properties(self, allowed: frozenset[Property]) -> Properties:
        inner = _Reader(self.take(self.variable()))
        found: list[tuple[Property, PropertyValue]] = []
        while inner.left:
            code = inner.variable()
            if code not in allowed:  # an IntEnum member equals its number
                raise PacketError(Reason.PROTOCOL_ERROR, f"property {code:#x} does not belong here")
            key = Property(code)
            if key is not P.USER_PROPERTY and any(key is earlier for earlier, _ in found):
                raise PacketError(Reason.PROTOCOL_ERROR, f"property {key.name.lower()} is there twice")
            found.append((key, inner._value(key)))
        return tuple(found)

    def _value(self, key: Property) -> PropertyValue:
        value: PropertyValue
        if key in ONE_BYTE or key in TWO_BYTES or key in _FOUR_BYTES:
            value = self.number(1 if key in ONE_BYTE else 2 if key in TWO_BYTES else 4)
            if (key in _BOOLEAN and value > 1) or (key in _NOT_ZERO and value == 0):
                raise PacketError(Reason.PROTOCOL_ERROR, f"property {key.name.lower()} cannot be {value}")
        elif key is P.SUBSCRIPTION_ID:
            value = self.variable()
        elif key in _BINARY:
            value = self.binary()
        elif key is P.USER_PROPERTY:
            value = (self.text(), self.text())
        else:
            value = self.text()
        return value


def _connect(reader: _Reader) -> Connect:
    name, level = reader.binary(), reader.number(1)
    if name not in (b"MQTT", b"MQIsdp"):
        raise PacketError(Reason.MALFORMED_PACKET, "not MQTT")
    if name != b"MQTT" or level not in (MQTT_311, MQTT_5):
        raise PacketError(Reason.UNSUPPORTED_PROTOCOL_VERSION, f"protocol level {level}")
    flags, keep_alive_s = reader.number(1), reader.number(2)
    has_will, will_qos = bool(flags & 0x04), flags >> 3 & 0x03
    if flags & 0x01 or will_qos == 3 or (not has_will and flags & 0x38):
        raise PacketError(Reason.MALFORMED_PACKET, "connect flags")
    if level == MQTT_311 and flags & 0x40 and not flags & 0x80:
        raise PacketError(Reason.MALFORMED_PACKET, "password without user name")
    properties = reader.properties(_IN_CONNECT) if level == MQTT_5 else ()
    client_id = reader.text()
    if has_will:
        if level == MQTT_5:
            reader.properties(_IN_WILL)
        _check_topic(reader.text())
        reader.binary()
    if flags & 0x80:
        reader.text()
    if flags & 0x40:
        reader.binary()
    return Connect(level, client_id, bool(flags & 0x02), keep_alive_s, has_will, properties)


def _publish(reader: _Reader, flags: int, level: int) -> Publish:
    qos, is_dup = flags >> 1 & 0x03, bool(flags & 0x08)
    if qos == 3 or (qos == 0 and is_dup):
        raise PacketError(Reason.MALFORMED_PACKET, "publish flags")
    if qos == 2:
        raise PacketError(Reason.QOS_NOT_SUPPORTED, "QoS 2 is not spoken here")
    topic = reader.text()
    packet_id = reader.packet_id() if qos else 0
    properties = reader.properties(_IN_PUBLISH) if level == MQTT_5 else ()
    if any(key is P.TOPIC_ALIAS for key, _ in properties):
        raise PacketError(Reason.TOPIC_ALIAS_INVALID, "no topic alias was offered")
    _check_topic(topic)
    return Publish(topic, reader.take(reader.left), qos, packet_id, is_dup, bool(flags & 0x01), properties)


def _puback(reader: _Reader, level: int) -> PubAck:
    packet_id, code = reader.packet_id(), 0
    if level == MQTT_5 and reader.left:
        code = reader.number(1)
        if reader.left:
            reader.properties(_IN_ACK)
    return PubAck(packet_id, code)


def _subscribe(reader: _Reader, level: int) -> Subscribe:
    packet_id = reader.packet_id()
    properties = reader.properties(_IN_SUBSCRIBE) if level == MQTT_5 else ()
    requests: list[tuple[str, int]] = []
    while reader.left:
        topic_filter, options = reader.text(), reader.number(1)
        if options & 0x03 == 3 or options & (0xC0 if level == MQTT_5 else 0xFC) or options & 0x30 == 0x30:
            raise PacketError(Reason.MALFORMED_PACKET, "subscription options")
        requests.append((topic_filter, options))
    _check_count(len(requests))
    return Subscribe(packet_id, tuple(requests), properties)


def _unsubscribe(reader: _Reader, level: int) -> Unsubscribe:
    packet_id = reader.packet_id()
    if level == MQTT_5:
        reader.properties(_IN_UNSUBSCRIBE)
    filters: list[str] = []
    while reader.left:
        filters.append(reader.text())
    _check_count(len(filters))
    return Unsubscribe(packet_id, tuple(filters))


def _check_count(count: int) -> None:
    if count == 0:
        raise PacketError(Reason.PROTOCOL_ERROR, "no topic filter")
    if count > FILTERS_MAX:
        raise PacketError(Reason.QUOTA_EXCEEDED, f"more than {FILTERS_MAX} topic filters")


def _disconnect(reader: _Reader, level: int) -> Disconnect:
    if level != MQTT_5 or not reader.left:
        return Disconnect()
    code = reader.number(1)
    expiry = None
    if reader.left:
        for key, value in reader.properties(_IN_DISCONNECT):
            if key is P.SESSION_EXPIRY and isinstance(value, int):
                expiry = value
    return Disconnect(code, expiry)


def _check_topic(topic: str) -> None:
    if not is_topic(topic):
        raise PacketError(Reason.TOPIC_NAME_INVALID, "topic name is empty or holds a wildcard")
