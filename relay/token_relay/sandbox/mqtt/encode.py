"""MQTT packets as the embedded broker sends them: values in, bytes out. Pure.

The other half of :mod:`token_relay.sandbox.mqtt.packets`. ``level`` is that of the receiver, because the two protocol
levels differ in nearly every packet. Sources: OASIS MQTT 3.1.1, OASIS MQTT 5.0.
"""

from __future__ import annotations

import struct

from token_relay.sandbox.mqtt.packets import MQTT_5, MQTT_311, ONE_BYTE, TWO_BYTES, Properties, Publish


def connack(level: int, code: int, *, session_present: bool = False, properties: Properties = ()) -> bytes:
    """Encode CONNACK; for level 4 ``code`` is the return code of MQTT 3.1.1 §3.2.2.3."""
    tail = _properties(properties) if level >= MQTT_5 else b""
    return _frame(0x20, bytes((session_present, code)) + tail)


def publish(level: int, message: Publish) -> bytes:
    """Encode a PUBLISH for a subscriber; properties go only to clients that speak MQTT 5."""
    flags = message.is_dup << 3 | message.qos << 1 | message.is_retained
    body = _text(message.topic) + (message.packet_id.to_bytes(2, "big") if message.qos else b"")
    if level == MQTT_5:
        body += _properties(message.properties)
    return _frame(0x30 | flags, body + message.payload)


def puback(level: int, packet_id: int, code: int) -> bytes:
    """Encode PUBACK; 3.1.1 has no place for the code."""
    return _frame(0x40, packet_id.to_bytes(2, "big") + (bytes((code,)) if level == MQTT_5 and code else b""))


def suback(level: int, packet_id: int, codes: list[int]) -> bytes:
    """Encode SUBACK; in 3.1.1 every failure is 0x80."""
    if level == MQTT_311:
        codes = [min(code, 0x80) for code in codes]
    return _frame(0x90, packet_id.to_bytes(2, "big") + (b"\0" if level == MQTT_5 else b"") + bytes(codes))


def unsuback(level: int, packet_id: int, codes: list[int]) -> bytes:
    """Encode UNSUBACK; 3.1.1 has no codes."""
    return _frame(0xB0, packet_id.to_bytes(2, "big") + (b"\0" + bytes(codes) if level == MQTT_5 else b""))


def pingresp() -> bytes:
    """Encode PINGRESP."""
    return b"\xd0\x00"


def disconnect(code: int) -> bytes:
    """Encode DISCONNECT from the broker, which only MQTT 5 has."""
    return _frame(0xE0, bytes((code,)))


def _frame(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _variable(len(body)) + body


def _variable(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(raw)) + raw


def _properties(properties: Properties) -> bytes:
    encoded = b""
    for key, value in properties:
        encoded += bytes((key,))
        match value:
            case int():
                size = 1 if key in ONE_BYTE else 2 if key in TWO_BYTES else 4
                encoded += value.to_bytes(size, "big")
            case tuple():
                encoded += _text(value[0]) + _text(value[1])
            case _:
                encoded += _text(value)
    return _variable(len(encoded)) + encoded
