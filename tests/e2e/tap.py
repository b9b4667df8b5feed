"""An attacker at a broker without an access list: it hears everything and may publish anything under any topic.

An independent client (paho, in its own thread), so that what the relay's own MQTT code gets wrong cannot hide here.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any, NamedTuple, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.watchdog import HANG_S


class Heard(NamedTuple):
    """One message, as the broker delivered it."""

    topic: str
    payload: bytes


class Tap:
    """A client that subscribes to ``#``; use with ``async with``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._heard: list[Heard] = []
        self._changed = threading.Condition()
        self._is_subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="tap", protocol=mqtt.MQTTv311)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._is_subscribed.set()
        self._client.on_message = self._on_message

    async def __aenter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert await asyncio.to_thread(self._is_subscribed.wait, HANG_S), "the tap is not subscribed"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe("#", qos=1)

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self._heard.append(Heard(message.topic, bytes(message.payload)))
            self._changed.notify_all()

    @property
    def heard(self) -> list[Heard]:
        """Everything so far, our own messages too."""
        with self._changed:
            return list(self._heard)

    def between(self, *, to: str, sender: str) -> list[Heard]:
        """What went from one device to another so far."""
        return [one for one in self.heard if one.topic == f"relay/v1/{to}/from/{sender}"]

    async def publish(self, topic: str, *payloads: bytes) -> None:
        """Publish with QoS 1 and wait until the broker has them all."""
        sent = [self._client.publish(topic, payload, qos=1) for payload in payloads]
        for one in sent:
            await asyncio.to_thread(one.wait_for_publish, HANG_S)
            assert one.is_published()
