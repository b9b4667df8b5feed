"""The channel: a connection to the MQTT broker that keeps itself alive.

aiomqtt does not reconnect, and its defaults lose messages. Each rule here answers something observed with
aiomqtt 2.5 and mosquitto 2.0.11, and has a test:

* PUBACK goes out only after ``on_message`` returned, in order of arrival (one consumer per connection), and only on the
  connection that brought the message: on a new one the old packet identifier belongs to another message. Manual
  acknowledgement is switched on before connecting; afterwards is too late for a resumed session.
* The session is never cleaned (``clean_start=False`` each time, ``clean_session=False`` in 3.1.1): aiomqtt's default
  wipes it at each start of the process, and mosquitto forgets a session *created* with clean start at its restart.
* A new client object, and a new TLS context, per connection: renewed certificates are picked up, nothing of an old
  connection survives. A message that the broker did not acknowledge is not repeated here: the caller's outbox does
  that.

Limit: True from ``publish`` means that the broker took the message, not that anybody received it; a broker with an
access list also acknowledges messages that it then filters. Only an answer from the other end counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable

import structlog

from token_relay.mqtt.connection import Connection, DroppedError, MqttSettings
from token_relay.protocol.errors import LocalError, RelayError
from token_relay.protocol.identity import DEVICE_ID_PATTERN
from token_relay.protocol.topics import peer_topic

BACKOFF_S_BASE, BACKOFF_S_MAX = 1.0, 60.0
HEALTHY_AFTER_S = 60.0  # a connection younger than this does not reset the backoff

_log = structlog.get_logger(__name__)


class MqttChannel:
    """The connection to the broker; :meth:`run` keeps it up until it is cancelled. See ``agents.ports.Channel``."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        sleep: Callable[[float], Awaitable[None]],
        uniform: Callable[[float, float], float],
        subscriptions: Iterable[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing happens before :meth:`run`.

        Args:
            sleep, uniform, monotonic: seconds to wait, a random number between two, a clock for the backoff.
            subscriptions: topic filters that are indispensable: when one is refused, the connection is dropped.
        """
        self._settings = settings
        self._sleep, self._uniform, self._monotonic = sleep, uniform, monotonic
        self._needed = tuple(subscriptions)
        self._filters = dict.fromkeys(self._needed)
        self._unwanted: dict[str, None] = {}
        self._client: Connection | None = None
        self._up_since: float | None = None
        self._wake = asyncio.Event()
        self._renewed = asyncio.Event()
        self._probes: dict[bytes, asyncio.Future[None]] = {}
        is_device = DEVICE_ID_PATTERN.fullmatch(settings.client_id)
        self._probe_topic = peer_topic(recipient=settings.client_id, sender=settings.client_id) if is_device else ""
        self.last_error = ""
        """Why the last connection ended or failed, in words for a person; empty while all is well."""
        self.oversized = 0
        """Messages dropped because they were larger than ``packet_bytes_max`` or had no valid topic."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the present connection and its subscriptions."""
        return self._up_since is not None and self._client is not None and self._client.is_open

    # -- what the agent calls --------------------------------------------------------------------------

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Publish once with QoS 1; True when the broker acknowledged it without a failure code.

        False when it did not, or when that is unknown: no connection, connection lost meanwhile, no answer in
        ``PUBLISH_TIMEOUT_S``, a message larger than this channel or the broker takes. Several calls run side by side.
        """
        client = self._client
        if client is None or not client.is_open:
            return False
        return await client.publish_acknowledged(topic, payload)

    async def subscribe(self, topic_filter: str) -> None:
        """Add a subscription that outlives reconnects; returns at once while there is no connection.

        Raises:
            LocalError: the broker refused it; it is not remembered.
        """
        self._filters[topic_filter] = None
        self._unwanted.pop(topic_filter, None)
        client = self._client
        if client is None or not client.is_open:
            return
        try:
            refused = await client.subscribe_all([topic_filter])
        except DroppedError:
            return  # the next connection subscribes
        if refused:
            self._filters.pop(topic_filter, None)
            raise LocalError("the broker refused the subscription", hint="look at the broker's access list")

    async def unsubscribe(self, topic_filter: str) -> None:
        """Drop a subscription, at the next connection if there is none now."""
        self._filters.pop(topic_filter, None)
        self._unwanted[topic_filter] = None
        client = self._client
        if client is None or not client.is_open:
            return
        with contextlib.suppress(DroppedError):  # the next connection unsubscribes
            await client.unsubscribe_from(topic_filter)
            self._unwanted.pop(topic_filter, None)

    async def probe(self, timeout_s: float) -> bool:
        """Send a message to ourselves and wait for it: the only proof that the broker delivers to our inbox.

        A granted subscription proves nothing, since the access list may filter later. Works only when the
        client id is a device id and its inbox is subscribed; such messages never reach ``on_message``.
        """
        if not self._probe_topic:
            return False
        token = secrets.token_bytes(16)
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._probes[token] = arrived
        try:
            async with asyncio.timeout(timeout_s):
                if not await self.publish(self._probe_topic, token):
                    return False
                await arrived
                return True
        except TimeoutError:
            return False
        finally:
            del self._probes[token]

    def certificates_renewed(self) -> None:
        """End the present connection or pause at once: the next connection reads the certificate files anew."""
        self._renewed.set()
        self._wake.set()

    # -- the supervisor --------------------------------------------------------------------------------

    async def run(
        self,
        on_message: Callable[[str, bytes], Awaitable[None]],
        on_connected: Callable[[bool], Awaitable[None]],
    ) -> None:
        """Connect, serve, and connect again; returns only when cancelled, after a clean DISCONNECT.

        Args:
            on_message: handles topic and payload of one message. When it returns, the message is acknowledged;
                when it raises, nothing is, the connection is dropped, and the message comes again.
            on_connected: runs after each connection beside the reception of messages; its argument says whether
                the broker still had the session. When it raises, the connection is dropped.
        """
        attempt = 0
        while True:
            self._wake.clear()
            try:
                await self._serve_one_connection(on_message, on_connected)
            except DroppedError as exc:
                self.last_error = str(exc)
            if self._up_since is not None and self._monotonic() - self._up_since >= HEALTHY_AFTER_S:
                attempt = 0
            self._up_since = None
            delay_s = self._uniform(0.0, backoff_s_max(attempt))
            attempt += 1
            _log.warning("mqtt_disconnected", reason=self.last_error, attempt=attempt, retry_delay_s=round(delay_s, 1))
            await self._pause(delay_s)

    async def _pause(self, delay_s: float) -> None:
        waits = [asyncio.ensure_future(self._sleep(delay_s)), asyncio.ensure_future(self._wake.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _serve_one_connection(
        self,
        on_message: Callable[[str, bytes], Awaitable[None]],
        on_connected: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._renewed.clear()  # whatever is on the disk now is what this connection uses
        client = Connection(self._settings)
        try:
            await client.open()
            self._client = client
            await _until_first_failure(
                client.watch(),
                self._consume(client, on_message),
                self._greet(client, on_connected),
                self._until_renewed(),
            )
        finally:
            self._client = None
            await client.close()

    async def _until_renewed(self) -> None:
        await self._renewed.wait()
        raise DroppedError("the certificates were renewed")

    async def _greet(self, client: Connection, on_connected: Callable[[bool], Awaitable[None]]) -> None:
        for topic_filter in list(self._unwanted):
            await client.unsubscribe_from(topic_filter)
            self._unwanted.pop(topic_filter, None)
        refused = await client.subscribe_all(list(self._filters))
        if any(topic_filter in self._needed for topic_filter in refused):
            raise DroppedError("not authorized: the broker refused the subscription to our inbox")
        for topic_filter in refused:
            _log.warning("mqtt_subscription_refused", topic_filter=topic_filter)
        self._up_since = self._monotonic()
        self.last_error = ""
        _log.info("mqtt_connected", session_present=client.session_present)
        try:
            await on_connected(client.session_present)
        except Exception as exc:
            raise DroppedError(f"greeting failed: {_name(exc)}") from exc

    async def _consume(self, client: Connection, on_message: Callable[[str, bytes], Awaitable[None]]) -> None:
        """Handle messages one after the other, for as long as this connection lives."""
        while True:
            message = await client.inbox.get()
            if message.topic is None:
                self.oversized += 1
                if self.oversized & (self.oversized - 1) == 0:  # the 1st, 2nd, 4th …: a broker cannot fill the disk
                    _log.warning("mqtt_message_dropped", payload_bytes=message.payload_length, count=self.oversized)
            elif message.topic == self._probe_topic:
                waiting = self._probes.get(message.payload)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
            else:
                try:
                    await on_message(message.topic, message.payload)
                except Exception as exc:
                    # log the type only: the text of an unknown exception may hold the message
                    _log.error("mqtt_handler_failed", error=_name(exc))
                    raise DroppedError(f"message handler failed: {_name(exc)}") from exc
            client.acknowledge(message)


async def _until_first_failure(*jobs: Coroutine[None, None, None]) -> None:
    """Run jobs side by side until one fails; cancel the others, wait for them, raise the failure.

    Not a TaskGroup: when it is cancelled while one of its tasks fails, it raises only the failure, and in
    Python 3.11 and 3.12 it leaves ``Task.cancelling`` set after a failure, so that the two cannot be told apart.
    """
    tasks = [asyncio.ensure_future(job) for job in jobs]
    pending = set(tasks)
    failed: list[asyncio.Task[None]] = []
    try:
        while pending and not failed:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            failed = [t for t in tasks if t in done and (t.cancelled() or t.exception() is not None)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in failed:
        if task.cancelled():  # not by us: something that a handler awaited was cancelled
            raise DroppedError("message handler was cancelled")
        task.result()


def backoff_s_max(attempt: int) -> float:
    """Return the upper bound in seconds of the pause after this many failures in a row (full jitter)."""
    return min(BACKOFF_S_MAX, BACKOFF_S_BASE * 2.0 ** min(attempt, 16))


def _name(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}" if isinstance(exc, RelayError) else type(exc).__name__
