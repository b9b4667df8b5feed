"""A small MQTT broker on asyncio streams: for the demo without root, and to misbehave on command.

Speaks MQTT 3.1.1 and 5 in the subset that the channel needs: QoS 0 and 1, persistent sessions, take-over of a
client id, keep-alive, redelivery with DUP, wildcards. It refuses the rest in the protocol's own way: QoS 2, retained
messages, wills, topic aliases, shared subscriptions, subscription identifiers, enhanced authentication. It binds to
loopback only and has no authentication: it is not a broker for real use (mosquitto is).

Limits, each with a name below: sessions live in memory and end with the object (``stop`` and ``start`` keep
them); every buffer that a client can fill is bounded; a retained message from a 3.1.1 client is passed on and not kept,
and the client cannot be told.

Knobs for tests and simulation: ``on_publish`` sees every accepted message, ``should_deliver`` may drop a copy,
``hold`` and ``release`` stop and continue delivery to one client, ``drop`` cuts a connection without a DISCONNECT,
``inject`` publishes without a publisher, ``seen`` is what the broker saw, ``replay`` publishes some of it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.mqtt import encode
from token_relay.sandbox.mqtt.filters import is_filter, is_topic
from token_relay.sandbox.mqtt.packets import (
    MQTT_5,
    MQTT_311,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    PacketError,
    PingReq,
    Properties,
    Property,
    PubAck,
    Publish,
    Reason,
    Subscribe,
    Unsubscribe,
)
from token_relay.sandbox.mqtt.record import BrokerMessage
from token_relay.sandbox.mqtt.session import IN_FLIGHT_MAX, NEVER, RETAIN_AS_PUBLISHED, MqttSession, Waiting

PACKET_BYTES_MAX = 20_480  # an envelope has 16.5 KiB; the same limit stands in our mosquitto.conf
CONNECT_TIMEOUT_S = 10.0  # from the accepted socket to a whole CONNECT
CLOSE_TIMEOUT_S = 2.0  # for the last bytes to leave before the socket is cut
CONNECTIONS_MAX = 256
SESSIONS_MAX = 1024
SEEN_MAX = 256  # messages, and payloads when they are recorded
READ_BYTES = 65_536
OUTPUT_BYTES_MAX = 4 * 1024 * 1024  # unsent bytes to one client before QoS 0 is dropped; 20 in flight are 400 KiB

_OFFER: Properties = (
    (Property.MAXIMUM_QOS, 1),
    (Property.RETAIN_AVAILABLE, 0),
    (Property.SUBSCRIPTION_ID_AVAILABLE, 0),
    (Property.SHARED_AVAILABLE, 0),
)
_FORWARDED = frozenset(
    {Property.PAYLOAD_FORMAT, Property.MESSAGE_EXPIRY, Property.CONTENT_TYPE, Property.RESPONSE_TOPIC}
    | {Property.CORRELATION_DATA, Property.USER_PROPERTY}
)
# CONNACK return codes of 3.1.1 §3.2.2.3 for the refusals of MQTT 5; anything else is "server unavailable"
_RETURN_CODE_311 = {Reason.UNSUPPORTED_PROTOCOL_VERSION: 1, Reason.CLIENT_IDENTIFIER_NOT_VALID: 2}
_SERVER_UNAVAILABLE_311 = 3


@dataclass(frozen=True, slots=True)
class SeenPublish:
    """What a broker knows about a message; ``payload`` is None unless the broker records."""

    at: float
    topic: str
    payload_length: int
    payload: bytes | None = None


class _Connection:
    """One socket of a client whose CONNECT was accepted."""

    def __init__(self, writer: asyncio.StreamWriter, connect: Connect, session: MqttSession) -> None:
        self.writer = writer
        self.level = connect.level
        self.session = session
        self.packet_bytes_max = connect.number(Property.MAXIMUM_PACKET_SIZE, 268_435_460)
        self.is_resumed = False  # whether earlier unacknowledged messages have gone out again

    def send(self, data: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(data)

    def close(self, reason: Reason) -> None:
        """Send the reason, if the protocol level has one, and close once it has left."""
        if self.level == MQTT_5:
            self.send(encode.disconnect(reason))
        self.writer.close()


class Broker:
    """An MQTT broker on one loopback port."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        record: bool = False,
        packet_bytes_max: int = PACKET_BYTES_MAX,
        on_publish: Callable[[str, bytes], None] | None = None,
        should_deliver: Callable[[str, str, bytes], bool] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is bound before :meth:`start`.

        Args:
            port: 0 takes a free one, and keeps it for a later ``start``.
            record: keep the payloads of the last ``SEEN_MAX`` messages as well.
            on_publish: called with topic and payload of each accepted message, before delivery.
            should_deliver: called with client id, topic and payload; False drops this copy silently.

        Raises:
            ConfigError: ``host`` is not a loopback address.
        """
        if not _is_loopback(host):
            raise ConfigError(f"the embedded broker binds to loopback only, not to {host}")
        self.host, self.port = host, port
        self.seen: deque[SeenPublish] = deque(maxlen=SEEN_MAX)
        self.record = record
        self._seen_count = 0
        self.on_publish = on_publish
        self.should_deliver = should_deliver
        self._wall = wall
        self._packet_bytes_max = packet_bytes_max
        self._server: asyncio.Server | None = None
        self._sessions: dict[str, MqttSession] = {}
        self._connections: dict[str, _Connection] = {}
        self._handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._held: set[str] = set()

    # -- running it ------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Bind and accept connections; returns the port."""
        self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=READ_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def stop(self) -> None:
        """Close every connection and the port; sessions stay for a later ``start``."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for connection in list(self._connections.values()):
            connection.close(Reason.SERVER_SHUTTING_DOWN)
        for writer in list(self._handlers.values()):
            writer.close()
        if self._handlers:
            await asyncio.wait(set(self._handlers), timeout=CLOSE_TIMEOUT_S)
        for writer in list(self._handlers.values()):
            writer.transport.abort()
        if self._handlers:
            await asyncio.wait(set(self._handlers))
        await server.wait_closed()

    async def __aenter__(self) -> Broker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- knobs -----------------------------------------------------------------------------------------

    @property
    def client_ids(self) -> list[str]:
        """The ids of the clients that are connected."""
        return sorted(self._connections)

    def session(self, client_id: str) -> MqttSession | None:
        """Return a client's session, to look at its queue."""
        return self._sessions.get(client_id)

    def inject(self, topic: str, payload: bytes) -> int:
        """Publish with QoS 1 without a publisher (a replay); returns how many sessions it matched."""
        if not is_topic(topic):
            raise ValueError("not a topic name")
        return self._route(Publish(topic, payload, 1), publisher=None)

    def messages(self) -> list[BrokerMessage]:
        """Return what ``seen`` holds with running numbers, oldest first."""
        first = self._seen_count - len(self.seen) + 1
        return [BrokerMessage(n, seen.at, seen.topic, seen.payload_length) for n, seen in enumerate(self.seen, first)]

    def replay(self, numbers: Sequence[int]) -> None:
        """Inject recorded messages again, in this order.

        Raises:
            ValueError: one of them is not recorded; nothing was published.
        """
        payloads = dict(zip((one.number for one in self.messages()), self.seen, strict=True))
        chosen = [payloads.get(number) for number in numbers]
        again = [(seen.topic, seen.payload) for seen in chosen if seen is not None and seen.payload is not None]
        if len(again) != len(numbers):
            raise ValueError("a message to be replayed is not recorded")
        for topic, payload in again:
            self.inject(topic, payload)

    def drop(self, client_id: str) -> bool:
        """Cut a client's connection without a DISCONNECT; False when it has none."""
        connection = self._connections.get(client_id)
        if connection is not None:
            connection.writer.transport.abort()
        return connection is not None

    def hold(self, client_id: str) -> None:
        """Deliver nothing more to this client; messages wait in its session."""
        self._held.add(client_id)

    def release(self, client_id: str) -> None:
        """Undo :meth:`hold`."""
        self._held.discard(client_id)
        if connection := self._connections.get(client_id):
            self._pump(connection)

    # -- one connection --------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers[task] = writer
        try:
            if self._server is None or len(self._handlers) > CONNECTIONS_MAX:
                return
            with contextlib.suppress(OSError):
                await self._converse(reader, writer)
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                writer.close()
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await writer.wait_closed()
            writer.transport.abort()
            del self._handlers[task]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder(self._packet_bytes_max)
        connection: _Connection | None = None
        is_clean_end = False
        patience_s: float | None = CONNECT_TIMEOUT_S
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CONNECT_TIMEOUT_S
        try:
            while not is_clean_end:
                async with asyncio.timeout_at(deadline if patience_s is not None else None):
                    await writer.drain()
                    data = await reader.read(READ_BYTES)
                if not data or writer.is_closing():
                    return
                for packet in decoder.feed(data):
                    if isinstance(packet, Connect):
                        connection = self._connect(writer, packet)
                        patience_s = packet.keep_alive_s * 1.5 or None  # MQTT 5 §3.1.2.10; 0 turns it off
                    else:
                        assert connection is not None  # the decoder makes sure of it
                        is_clean_end = self._handle(connection, packet)
                    if patience_s is not None and connection is not None:
                        deadline = loop.time() + patience_s
                    if is_clean_end or writer.is_closing():
                        return
        except TimeoutError:
            if connection is not None:
                connection.close(Reason.KEEP_ALIVE_TIMEOUT)
        except PacketError as exc:
            self._refuse(writer, decoder.level, connection, exc.code)
        finally:
            if connection is not None:
                self._leave(connection)

    def _refuse(self, writer: asyncio.StreamWriter, level: int, connection: _Connection | None, code: Reason) -> None:
        if connection is not None:
            connection.close(code)
        elif level == MQTT_5:
            writer.write(encode.connack(MQTT_5, code))
        elif level == MQTT_311 or code is Reason.UNSUPPORTED_PROTOCOL_VERSION:
            writer.write(encode.connack(MQTT_311, _RETURN_CODE_311.get(code, _SERVER_UNAVAILABLE_311)))

    def _connect(self, writer: asyncio.StreamWriter, connect: Connect) -> _Connection:
        now = asyncio.get_running_loop().time()
        self._sweep(now)
        client_id, assigned = connect.client_id, False
        if any(key is Property.AUTHENTICATION_METHOD for key, _ in connect.properties):
            raise PacketError(Reason.BAD_AUTHENTICATION_METHOD, "no enhanced authentication here")
        if connect.has_will:
            raise PacketError(Reason.IMPLEMENTATION_SPECIFIC, "no wills here")
        if not client_id:
            if connect.level == MQTT_311 and not connect.is_clean:
                raise PacketError(Reason.CLIENT_IDENTIFIER_NOT_VALID, "a kept session needs a client id")
            client_id, assigned = f"auto-{secrets.token_hex(8)}", True

        if earlier := self._connections.get(client_id):
            earlier.close(Reason.SESSION_TAKEN_OVER)
            self._leave(earlier)
        if connect.is_clean:
            self._sessions.pop(client_id, None)
        session = self._sessions.get(client_id)
        is_present = session is not None
        if session is None:
            if len(self._sessions) >= SESSIONS_MAX:
                raise PacketError(Reason.QUOTA_EXCEEDED, f"more than {SESSIONS_MAX} sessions")
            session = self._sessions[client_id] = MqttSession(client_id)
        session.left_at = None
        if connect.level == MQTT_5:
            session.expiry_s = connect.number(Property.SESSION_EXPIRY, 0)
        else:
            session.expiry_s = 0 if connect.is_clean else NEVER
        session.in_flight_max = min(IN_FLIGHT_MAX, connect.number(Property.RECEIVE_MAXIMUM, IN_FLIGHT_MAX))

        connection = self._connections[client_id] = _Connection(writer, connect, session)
        offer = (*_OFFER, (Property.MAXIMUM_PACKET_SIZE, self._packet_bytes_max))
        if assigned:
            offer = (*offer, (Property.ASSIGNED_CLIENT_ID, client_id))
        connection.send(encode.connack(connect.level, 0, session_present=is_present, properties=offer))
        self._pump(connection)
        return connection

    def _leave(self, connection: _Connection) -> None:
        """Forget a connection, once; its session stays if the client asked for that."""
        session = connection.session
        if self._connections.get(session.client_id) is not connection:
            return
        del self._connections[session.client_id]
        session.left_at = asyncio.get_running_loop().time()
        if session.is_over(session.left_at):
            del self._sessions[session.client_id]

    def _sweep(self, now: float) -> None:
        for client_id in [key for key, session in self._sessions.items() if session.is_over(now)]:
            del self._sessions[client_id]

    def _handle(self, connection: _Connection, packet: Packet) -> bool:
        """Do what a packet asks; True when it was the client's DISCONNECT."""
        session, level = connection.session, connection.level
        match packet:
            case Publish():
                if packet.is_retained and level == MQTT_5:
                    raise PacketError(Reason.RETAIN_NOT_SUPPORTED, "no retained messages here")
                matched = self._route(packet, publisher=session.client_id)
                if packet.qos:
                    code = Reason.SUCCESS if matched else Reason.NO_MATCHING_SUBSCRIBERS
                    connection.send(encode.puback(level, packet.packet_id, code))
            case PubAck():
                session.acknowledge(packet.packet_id)
                self._pump(connection)
            case Subscribe():
                if any(key is Property.SUBSCRIPTION_ID for key, _ in packet.properties):
                    raise PacketError(Reason.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED, "no subscription identifiers")
                codes = [_grant(session, topic_filter, options) for topic_filter, options in packet.requests]
                connection.send(encode.suback(level, packet.packet_id, codes))
            case Unsubscribe():
                codes = [
                    Reason.NO_SUBSCRIPTION_EXISTED if session.subscriptions.pop(name, None) is None else Reason.SUCCESS
                    for name in packet.filters
                ]
                connection.send(encode.unsuback(level, packet.packet_id, codes))
            case PingReq():
                connection.send(encode.pingresp())
            case Disconnect():
                if packet.session_expiry_s is not None:
                    if session.expiry_s == 0 and packet.session_expiry_s:  # MQTT 5 §3.14.2.2.2
                        raise PacketError(Reason.PROTOCOL_ERROR, "a session without expiry cannot be kept at the end")
                    session.expiry_s = packet.session_expiry_s
                return True
            case Connect():
                raise PacketError(Reason.PROTOCOL_ERROR, "CONNECT comes only once")
        return False

    # -- delivery --------------------------------------------------------------------------------------

    def _route(self, packet: Publish, publisher: str | None) -> int:
        now = asyncio.get_running_loop().time()
        self._sweep(now)
        self._seen_count += 1
        payload = packet.payload if self.record else None
        self.seen.append(SeenPublish(self._wall(), packet.topic, len(packet.payload), payload))
        if self.on_publish is not None:
            self.on_publish(packet.topic, packet.payload)
        properties = tuple(item for item in packet.properties if item[0] in _FORWARDED)
        expiry_s = next((value for key, value in properties if key is Property.MESSAGE_EXPIRY), None)
        expires_at = now + expiry_s if isinstance(expiry_s, int) else None
        matched = 0
        for session in list(self._sessions.values()):
            qos = session.wants(packet, publisher)
            if qos is None:
                continue
            matched += 1
            if self.should_deliver and not self.should_deliver(session.client_id, packet.topic, packet.payload):
                continue
            connection = self._connections.get(session.client_id)
            if qos == 0 and (connection is None or _is_choked(connection)):
                continue
            message = replace(packet, qos=qos, packet_id=0, is_dup=False, is_retained=False, properties=properties)
            session.keep(Waiting(message, expires_at))
            if connection is not None:
                self._pump(connection)
        return matched

    def _pump(self, connection: _Connection) -> None:
        """Send what may be sent; messages larger than the client takes count as delivered. MQTT 5 §3.1.2.11.4."""
        session = connection.session
        if session.client_id in self._held or connection.writer.is_closing():
            return
        if not connection.is_resumed:
            connection.is_resumed = True
            for message in session.resumed():
                self._send(connection, message)
        now = asyncio.get_running_loop().time()
        for message in session.next_packets(now):
            self._send(connection, message)

    def _send(self, connection: _Connection, message: Publish) -> None:
        data = encode.publish(connection.level, message)
        if len(data) > connection.packet_bytes_max:
            connection.session.acknowledge(message.packet_id)
        else:
            connection.send(data)


def _grant(session: MqttSession, topic_filter: str, options: int) -> int:
    """Subscribe and return the SUBACK code: QoS 1 at most is granted."""
    if not is_filter(topic_filter):
        return Reason.TOPIC_FILTER_INVALID
    if topic_filter.startswith("$share/"):
        return Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
    granted = min(options & 0x03, 1)
    if not session.subscribe(topic_filter, options & ~(0x03 | RETAIN_AS_PUBLISHED) | granted):
        return Reason.QUOTA_EXCEEDED
    return granted


def _is_choked(connection: _Connection) -> bool:
    return connection.writer.transport.get_write_buffer_size() > OUTPUT_BYTES_MAX


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
