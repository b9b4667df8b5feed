"""One connection to the MQTT broker: aiomqtt's client with what it hides made visible.

The only importer of aiomqtt and paho.

aiomqtt has no manual acknowledgement, drops the reason codes of CONNACK and PUBACK, waits its full timeout when
the connection breaks under a pending call, and leaves socket, thread and task behind when it is cancelled while
connecting. :class:`Connection` mends these, with the private names in ``PRIVATE_NAMES``: the library is pinned
to one minor version, and a test checks that it has them. It does not reconnect (see :mod:`token_relay.mqtt.channel`).

Limit: a message larger than ``READ_BYTES_MAX`` breaks the connection each time it is delivered; a broker that
limits packets (ours does) never sends one. In MQTT 5 the broker is told our limit and keeps larger ones away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import aiomqtt
import structlog
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, MQTT_ERR_SUCCESS
from paho.mqtt.enums import LogLevel
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from token_relay.mqtt.tls import client_context
from token_relay.protocol.errors import ConfigError, RelayError
from token_relay.protocol.secret import Password

if TYPE_CHECKING:
    from paho.mqtt.client import Client as PahoClient
    from paho.mqtt.client import ConnectFlags, DisconnectFlags, MQTTMessage, SocketLike
    from paho.mqtt.reasoncodes import ReasonCode

SESSION_EXPIRY_S = 30 * 86_400  # a device may be in a drawer for a month; mosquitto by default never expires one
CONNECT_TIMEOUT_S = 10.0  # each for TCP, TLS handshake and CONNACK
CLOSE_TIMEOUT_S = 2.0  # for DISCONNECT to leave; then the socket is cut, which loses nothing
PUBLISH_TIMEOUT_S = 20.0  # 20 envelopes of 16.5 KiB over a 256 kbit/s uplink take 11 s
IN_FLIGHT_MAX = 20  # own unacknowledged publishes; paho's and mosquitto's default
INBOX_MAX = 2048  # messages read and not yet handled; the largest in-flight limit seen in a broker is 1024 (NATS)
READ_BYTES_MAX = 1 << 20  # the largest packet that is read; a larger one ends the connection unread
PACKET_OVERHEAD = 10  # fixed header 5, topic length 2, packet id 2, empty properties 1; MQTT 5 §3.3
FAILURE = 0x80  # reason codes from here on are failures; MQTT 5 §2.4

PRIVATE_NAMES = (
    "_client", "_client_connect", "_connected", "_disconnected", "_misc_loop", "_misc_task", "_on_connect",
    "_on_disconnect", "_on_message", "_on_publish", "_on_socket_register_write",
)  # fmt: skip
PAHO_PRIVATE_NAMES = ("_sock_close", "_sock_recv")

_log = structlog.get_logger(__name__)
# paho and aiomqtt log topics and addresses, also to stderr through logging's last resort: silence both
_quiet = logging.getLogger("token_relay.mqtt.library")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
_quiet.setLevel(logging.CRITICAL + 1)


def misc_interval_s(keepalive_s: int) -> float:
    """Return how often to look whether a PINGREQ is due: it may be late by half a keepalive, MQTT 5 §3.1.2.10."""
    return min(max(1.0, keepalive_s / 12), 5.0)


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """How to reach the broker.

    ``use_tls`` always verifies the broker's name and certificate, against ``ca_file`` or else the system's CAs.
    ``packet_bytes_max`` bounds a PUBLISH in both directions. ``client_id`` is the device id.

    Raises:
        ConfigError: a value that can never work.
    """

    host: str
    port: int
    client_id: str
    protocol: Literal["5", "3.1.1"] = "5"
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    use_tls: bool = False
    username: str = ""
    password: Password | None = None
    keepalive_s: int = 60
    session_expiry_s: int = SESSION_EXPIRY_S
    receive_maximum: int = 8
    packet_bytes_max: int = 20_480

    def __post_init__(self) -> None:
        if not self.host or not 0 < self.port < 65_536:
            raise ConfigError(f"no broker address: host {self.host!r}, port {self.port}")
        if not self.client_id:
            raise ConfigError("an empty client id cannot have a persistent session")
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("a client certificate needs both cert_file and key_file")
        if not self.use_tls and (self.ca_file or self.cert_file):
            raise ConfigError("certificates are set, but TLS is not", hint="write the broker address as mqtts://")
        if not 0 < self.keepalive_s < 65_536 or not 0 < self.receive_maximum < 65_536:
            raise ConfigError("keepalive_s and receive_maximum are 1 to 65535")


class DroppedError(RelayError):
    """This connection is over; the message says why, in words for ``status``."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the broker; ``topic`` is None when it is to be acknowledged and dropped unread."""

    topic: str | None
    payload: bytes
    payload_length: int
    packet_id: int
    qos: int


class _Socket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho leaves it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class Connection(aiomqtt.Client):
    """One connection; the object is used once."""

    def __init__(self, settings: MqttSettings) -> None:
        properties = None
        if settings.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types here
            properties.SessionExpiryInterval = settings.session_expiry_s
            properties.ReceiveMaximum = settings.receive_maximum
            properties.MaximumPacketSize = settings.packet_bytes_max
        super().__init__(
            settings.host,
            settings.port,
            username=settings.username or None,
            password=settings.password.reveal() if settings.password else None,
            logger=_quiet,
            identifier=settings.client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if settings.protocol == "5" else aiomqtt.ProtocolVersion.V311,
            # 3.1.1 knows only clean_session, 5 only clean_start; paho refuses the one that does not belong
            clean_session=None if settings.protocol == "5" else False,
            clean_start=False if settings.protocol == "5" else MQTT_CLEAN_START_FIRST_ONLY,
            keepalive=settings.keepalive_s,
            properties=properties,
            timeout=CONNECT_TIMEOUT_S,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        self._settings = settings
        self.session_present = False
        self.inbox: asyncio.Queue[Received] = asyncio.Queue()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._is_accepted = False
        self._reason = ""
        self._failure: Exception | None = None
        self._alert = ""
        self._unacknowledged: dict[int, asyncio.Future[int]] = {}
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._acknowledged_count = 0
        self._packet_bytes_max = settings.packet_bytes_max
        self._client.manual_ack_set(True)  # must happen before the connection exists
        self._client.connect_timeout = CONNECT_TIMEOUT_S
        self._client.on_log = self._on_log
        self._sock_recv = self._client._sock_recv
        setattr(self._client, "_sock_recv", self._read_within_limit)  # noqa: B010  # mypy forbids the plain form

    @property
    def is_open(self) -> bool:
        return self._is_accepted and not self._gone.done() and not self._disconnected.done()

    # -- life ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and wait for the broker's CONNACK.

        A blocking connect in a thread cannot be cancelled, and nobody would close what it opens. So a cancellation
        waits for the thread (at most the timeouts above, longer for a slow name lookup).
        """
        accepted = self._connected
        entering = asyncio.ensure_future(self.__aenter__())
        is_cancelled = False
        while not entering.done():
            try:
                await asyncio.wait({entering})
            except asyncio.CancelledError:
                is_cancelled = True
                if not accepted.done():
                    accepted.set_exception(aiomqtt.MqttError("cancelled"))
        error = entering.exception()
        if accepted.done() and not accepted.cancelled():
            accepted.exception()  # mark as retrieved
        if is_cancelled:
            raise asyncio.CancelledError
        if error is not None:
            if not isinstance(error, aiomqtt.MqttError | OSError | ValueError):
                raise error
            reason = self._reason or self._alert or describe(self._failure or error)
            raise DroppedError(reason) from error
        if self._client.socket() is None:  # closed again before we looked
            self._end(self._reason or "connection lost")

    async def watch(self) -> None:
        """Wait for the end of the connection and raise it."""
        await asyncio.wait({self._gone, self._disconnected}, return_when=asyncio.FIRST_COMPLETED)
        failure = self._disconnected.exception() if self._disconnected.done() else None
        raise DroppedError(self._reason or self._alert or describe(failure))

    async def close(self) -> None:
        """Send DISCONNECT if the connection is open, then free socket and task in any case."""
        try:
            if self.is_open:
                self.timeout = CLOSE_TIMEOUT_S
                with contextlib.suppress(aiomqtt.MqttError):
                    await self.__aexit__(None, None, None)
        finally:
            self._is_accepted = False
            self._end("connection closed")
            self._client._sock_close()
            if self._misc_task is not None:
                self._misc_task.cancel()
                await asyncio.gather(self._misc_task, return_exceptions=True)
            if self._disconnected.done() and not self._disconnected.cancelled():
                self._disconnected.exception()  # mark as retrieved

    def _end(self, reason: str) -> None:
        """Mark the connection as over and release everything that waits; :meth:`close` does the rest.

        Called from paho's callbacks as well, where it holds a lock that closing the socket would take again.
        """
        self._reason = self._reason or reason
        if not self._gone.done():
            self._gone.set_result(None)
        for waiting in self._unacknowledged.values():
            if not waiting.done():
                waiting.set_result(FAILURE)
            self._slots.release()
        self._unacknowledged.clear()

    def _client_connect(self) -> None:
        """Connect, in a thread; files are read here because reading them blocks."""
        try:
            if self._settings.use_tls:
                self._client.tls_set_context(_tls_context(self._settings))
            super()._client_connect()
        except Exception as exc:
            self._failure = exc
            raise

    async def _misc_loop(self) -> None:
        """Look after the keepalive as aiomqtt does, but not each second, which woke an idle agent most often."""
        while self._client.loop_misc() == MQTT_ERR_SUCCESS:  # noqa: ASYNC110  # paho has no event to wait for
            await asyncio.sleep(misc_interval_s(self._client.keepalive))

    # -- what is sent ----------------------------------------------------------------------------------

    async def publish_acknowledged(self, topic: str, payload: bytes) -> bool:
        if len(topic.encode()) + len(payload) + PACKET_OVERHEAD > self._packet_bytes_max:
            return False
        count_before = self._acknowledged_count
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await self._slots.acquire()  # released by the PUBACK, not here: the broker counts as well
                if not self.is_open:
                    self._slots.release()
                    return False
                info = self._client.publish(topic, payload, qos=1)
                if info.rc != 0:
                    self._slots.release()
                    return False
                acknowledged: asyncio.Future[int] = self._loop.create_future()
                self._unacknowledged[info.mid] = acknowledged
                code = await acknowledged
        except TimeoutError:
            if self._acknowledged_count == count_before:
                # the broker answers pings, but not one publish: only a new connection can help
                self._end("the broker does not acknowledge messages")
            return False
        if code >= FAILURE and self.is_open:
            _log.warning("mqtt_publish_refused", reason_code=code)
        return code < FAILURE

    async def subscribe_all(self, topic_filters: list[str]) -> list[str]:
        """Subscribe with QoS 1 and return the filters that were refused."""
        if not topic_filters:
            return []
        try:
            codes = await self.subscribe([(topic_filter, 1) for topic_filter in topic_filters])
        except aiomqtt.MqttError as exc:
            raise DroppedError(self._reason or "the broker did not answer a subscription") from exc
        return [name for name, code in zip(topic_filters, codes, strict=False) if _number(code) >= FAILURE]

    async def unsubscribe_from(self, topic_filter: str) -> None:
        try:
            await self.unsubscribe(topic_filter)
        except aiomqtt.MqttError as exc:
            raise DroppedError(self._reason or "the broker did not answer an unsubscription") from exc

    def acknowledge(self, message: Received) -> None:
        """Send PUBACK, on this connection or not at all."""
        if message.qos and not self._gone.done():
            self._client.ack(message.packet_id, message.qos)

    # -- what paho reports (all in the event loop, except during the connect) ----------------------------

    def _on_connect(
        self,
        client: PahoClient,
        userdata: object,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._connected.done():
            self.session_present = bool(flags.session_present)
            self._is_accepted = _number(reason_code) == 0
            if not self._is_accepted:
                self._reason = refusal(_number(reason_code))
            self._slots = asyncio.Semaphore(min(IN_FLIGHT_MAX, getattr(properties, "ReceiveMaximum", IN_FLIGHT_MAX)))
            limit = getattr(properties, "MaximumPacketSize", self._packet_bytes_max)
            self._packet_bytes_max = min(self._packet_bytes_max, limit)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: PahoClient,
        userdata: object,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # mark as retrieved; aiomqtt replaces this future right after CONNACK
        if flags.is_disconnect_packet_from_server:
            self._reason = self._reason or refusal(_number(reason_code))
        else:
            self._reason = self._reason or self._alert or "connection lost"
        if not self._connected.done():  # aiomqtt would wait for its timeout
            self._connected.set_exception(aiomqtt.MqttError(self._reason))
        self._end(self._reason)

    def _on_message(self, client: PahoClient, userdata: object, message: MQTTMessage) -> None:
        if self._gone.done():
            return
        if self.inbox.qsize() >= INBOX_MAX:
            self._end("the broker sends more messages than we can hold")
            return
        topic: str | None
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = None
        payload, length = bytes(message.payload), len(message.payload)
        if topic is None or len(topic.encode()) + length + PACKET_OVERHEAD > self._settings.packet_bytes_max:
            topic, payload = None, b""
        self.inbox.put_nowait(Received(topic, payload, length, message.mid, message.qos))

    def _on_publish(
        self, client: PahoClient, userdata: object, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._acknowledged_count += 1
        waiting = self._unacknowledged.pop(mid, None)
        if waiting is not None:
            self._slots.release()
            if not waiting.done():
                waiting.set_result(_number(reason_code))

    def _on_socket_register_write(self, client: PahoClient, userdata: object, sock: SocketLike) -> None:
        # aiomqtt always takes the thread-safe detour, which may add the writer after the socket was closed
        try:
            is_in_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_in_loop = False
        if is_in_loop:
            self._loop.add_writer(sock.fileno(), self._write)
        else:
            self._loop.call_soon_threadsafe(self._add_writer, sock)

    def _add_writer(self, sock: SocketLike) -> None:
        if self._client.socket() is sock:
            self._loop.add_writer(sock.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as exc:
            self._end(describe(exc))

    def _read_within_limit(self, count: int) -> bytes:
        """Read for paho, which would collect up to 256 MiB for one packet; ``count`` is what the packet still lacks."""
        if count > READ_BYTES_MAX:
            self._reason = f"the broker sent a packet of {count} bytes"
            raise ConnectionAbortedError(self._reason)
        return self._sock_recv(count)

    def _on_log(self, client: PahoClient, userdata: object, level: int, text: str) -> None:
        # with TLS 1.3 the broker's verdict on our certificate arrives after the handshake, and only here
        if level == LogLevel.MQTT_LOG_ERR and "alert" in text.lower():
            self._alert = "certificate not accepted by the broker"


def _tls_context(settings: MqttSettings) -> ssl.SSLContext:
    context = client_context(settings.ca_file)
    context.sslsocket_class = _Socket
    if settings.cert_file is not None:
        # an empty password makes an encrypted key an error, not a question on the terminal
        context.load_cert_chain(settings.cert_file, settings.key_file, password=b"")
    return context


def _number(code: object) -> int:
    """Return the number of a reason code; in 3.1.1 paho gives SUBACK codes as numbers."""
    return code if isinstance(code, int) else int(getattr(code, "value", FAILURE))


def refusal(code: int) -> str:
    """Put a reason code of CONNACK or DISCONNECT into words. MQTT 5 §2.4; paho translates those of 3.1.1."""
    return _REFUSALS.get(code, f"closed by the broker with reason code {code:#04x}")


_REFUSALS = {
    0x00: "closed by the broker",
    0x84: "the broker does not speak this protocol version",
    0x85: "client id not accepted",
    0x86: "user name or password not accepted",
    0x87: "not authorized",
    0x88: "the broker is not available",
    0x89: "the broker is busy",
    0x8A: "banned by the broker",
    0x8B: "the broker is shutting down",
    0x8D: "the broker heard nothing for too long",
    0x8E: "another connection uses this client id",
    0x95: "the broker takes no packets of this size",
    0x97: "a quota of the broker is exceeded",
}


def describe(exc: BaseException | None) -> str:
    """Put the failure of a connection into a few words without addresses or file contents."""
    match exc:
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLCertVerificationError():
            return f"certificate not accepted: {exc.verify_message}"
        case ssl.SSLError() if exc.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            return "certificate and key do not belong together"
        case ssl.SSLError():
            is_alert = "ALERT" in (exc.reason or "")
            return "certificate not accepted by the broker" if is_alert else f"TLS failed: {exc.reason or 'no reason'}"
        case socket.gaierror():
            return "host name not found"
        case TimeoutError():
            return "no answer from the broker"
        case UnicodeError():
            return "host name not valid"
        case FileNotFoundError() | PermissionError():
            return f"certificate file not readable: {exc.filename or 'unnamed'}"
        case OSError():
            return (exc.strerror or "connection failed").lower()
        case aiomqtt.MqttError() if "timed out" in str(exc):
            return "no answer from the broker"
        case _:
            return "connection lost"
