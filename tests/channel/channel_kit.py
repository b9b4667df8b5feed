"""What the tests of the channel share: its two ends, and handlers that wait or fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import CoroutineType
from typing import Any, Literal, TypedDict

from tests.channel import raw
from tests.channel.mosquitto import Mosquitto
from tests.channel.raw import Raw, Wire
from tests.watchdog import HANG_S
from token_relay.mqtt.channel import MqttChannel
from token_relay.mqtt.connection import MqttSettings
from token_relay.protocol.errors import VaultError
from token_relay.sandbox.mqtt.broker import Broker

PACKET_BYTES_MAX = 20_480
ME, PEER = "a" * 26, "b" * 26
INBOX = f"relay/v1/{ME}/from/+"
FROM_PEER = f"relay/v1/{ME}/from/{PEER}"
TO_PEER = f"relay/v1/{PEER}/from/{ME}"
AnyBroker = Mosquitto | Broker


class End:
    """One end of the relay: a channel, and queues of what it reported."""

    def __init__(self, settings: MqttSettings, *, subscriptions: tuple[str, ...] = (INBOX,), **ports: Any) -> None:
        self.received: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.connected: asyncio.Queue[bool] = asyncio.Queue()
        self.pauses: list[float] = []
        self.paused: asyncio.Queue[str] = asyncio.Queue()
        self.handler: Callable[[str, bytes], Awaitable[None]] | None = None
        self.greeter: Callable[[bool], Awaitable[None]] | None = None
        ports = {"sleep": self._sleep, "uniform": lambda low, high: high} | ports
        self.channel = MqttChannel(settings, subscriptions=subscriptions, **ports)

    async def run(self) -> None:
        await self.channel.run(self._on_message, self._on_connected)

    async def _on_message(self, topic: str, payload: bytes) -> None:
        if self.handler is not None:
            await self.handler(topic, payload)
        self.received.put_nowait((topic, payload))

    async def _on_connected(self, session_present: bool) -> None:
        if self.greeter is not None:
            await self.greeter(session_present)
        self.connected.put_nowait(session_present)

    async def _sleep(self, seconds: float) -> None:
        """No waiting in tests: note the pause and let others run."""
        self.pauses.append(seconds)
        self.paused.put_nowait(self.channel.last_error)
        await asyncio.sleep(0.01)

    async def up(self) -> bool:
        async with asyncio.timeout(HANG_S):
            return await self.connected.get()

    async def down(self) -> str:
        """Wait for the end of a connection (or of an attempt) and return ``last_error``."""
        async with asyncio.timeout(HANG_S):
            return await self.paused.get()

    async def next(self) -> bytes:
        async with asyncio.timeout(HANG_S):
            return (await self.received.get())[1]


_RUNNING: set[asyncio.Task[None]] = set()
_OURS = ("MqttChannel.", "Connection.", "Client.")  # the last is aiomqtt's


def _coroutine_name(task: asyncio.Task[object]) -> str:
    coroutine = task.get_coro()
    assert isinstance(coroutine, CoroutineType)
    return coroutine.__qualname__


@asynccontextmanager
async def running(end: End) -> AsyncIterator[End]:
    """Run a channel, and check at the end of the last one that nothing is left behind."""
    task = asyncio.create_task(end.run())
    _RUNNING.add(task)
    try:
        yield end
    finally:
        task.cancel()
        async with asyncio.timeout(HANG_S):
            await asyncio.wait({task})
        assert task.cancelled(), task.exception()
        assert not end.channel.is_connected
        _RUNNING.discard(task)
        if not _RUNNING:
            ours = [other for other in asyncio.all_tasks() if _coroutine_name(other).startswith(_OURS)]
            assert ours == [], "the channel left tasks behind"


class Tls(TypedDict):
    """The part of :class:`MqttSettings` for a connection over TLS."""

    use_tls: Literal[True]
    ca_file: Path
    cert_file: Path
    key_file: Path


def settings(port: int, *, client_id: str = ME, **others: Any) -> MqttSettings:
    return MqttSettings("127.0.0.1", port, client_id, **others)


def peer(broker: AnyBroker, protocol: str = "5") -> End:
    return End(settings(broker.port, client_id=PEER, protocol=protocol), subscriptions=(f"relay/v1/{PEER}/from/+",))


class Handler:
    """An ``on_message`` that waits at a gate, or fails a given number of times."""

    def __init__(self, *, failures: int = 0, is_open: bool = True) -> None:
        self.failures = failures
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()
        self.begun: asyncio.Queue[bytes] = asyncio.Queue()

    async def __call__(self, topic: str, payload: bytes) -> None:
        self.begun.put_nowait(payload)
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise VaultError("disk full")

    async def next(self) -> bytes:
        async with asyncio.timeout(HANG_S):
            return await self.begun.get()


async def read_until(wire: Wire, kind: int) -> Raw:
    """Read packets until one of this kind, answering pings."""
    while (got := await wire.read()).kind != kind:
        if got.kind == 12:
            wire.send(raw.PINGRESP)
    return got
