"""Simulated ports: a clock that is moved by hand, a broker in memory, the sandbox provider's core as HTTP.

Both agents run unchanged on these, with :class:`device.simulation.memory_vault.MemoryVault`: one process, no thread,
no socket, no real time. A link can be cut, messages can be held, repeated and replayed; time passes only in
:meth:`VirtualClock.advance`.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from random import Random as SeededRandom
from urllib.parse import urlencode, urlsplit

from device.ports import Now
from relay.errors import VaultError
from relay.provider.http import HttpRequest, HttpResponse, Lost, NotSent
from relay.sandbox.provider import Provider
from relay.sandbox.values import Request
from relay.secret import Secret

SETTLE_ROUNDS = 10_000  # turns of the event loop; more means that something spins without time passing


async def settle() -> None:
    """Let everything that can run without time passing run."""
    loop = asyncio.get_running_loop()
    ready = getattr(loop, "_ready", None)  # not public, but nothing else says "nothing left to run"
    for _ in range(SETTLE_ROUNDS):
        await asyncio.sleep(0)
        if ready is not None and not ready:
            return


class VirtualClock:
    """Time that stands still until :meth:`advance`. Several devices share it; each has a boot id of its own."""

    def __init__(self, *, wall_s: float = 1_800_000_000.0) -> None:
        self._elapsed_s = 0.0
        self._wall_s = wall_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        self.is_synced = True
        self.boot_id = "boot-1"
        self._booted_s = 0.0

    def now(self) -> Now:
        """Read all clocks."""
        boot_s = 100.0 + self._elapsed_s - self._booted_s
        return Now(self.boot_id, boot_s, self._wall_s + self._elapsed_s, self.is_synced)

    def reboot(self, boot_id: str) -> None:
        """Begin a new boot now."""
        self.boot_id = boot_id
        self._booted_s = self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Sleep until the clock has been advanced that far."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed_s + max(seconds, 0.0), self._count, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking sleepers in order and letting each run before time goes on."""
        ends_s = self._elapsed_s + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= ends_s:
            at_s, _, future = heapq.heappop(self._sleepers)
            self._elapsed_s = max(self._elapsed_s, at_s)
            if not future.done():
                future.set_result(None)
                await settle()
        self._elapsed_s = ends_s
        await settle()


class SeededPort:
    """The Random port over a seed."""

    def __init__(self, seed: int) -> None:
        self._random = SeededRandom(seed)  # noqa: S311  # reproducible histories are the point

    def bytes(self, count: int) -> bytes:
        """Return reproducible bytes."""
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        """Return a reproducible number."""
        return self._random.uniform(low, high)


@dataclass(frozen=True, slots=True)
class Packet:
    """One message as the broker has it."""

    topic: str
    payload: bytes


class SimulatedBroker:
    """Keeps a queue per client; delivers in order unless told otherwise."""

    def __init__(self) -> None:
        self.channels: dict[str, SimulatedChannel] = {}
        self.seen: list[Packet] = []
        self.hold: Callable[[Packet], bool] = lambda packet: False
        self.held: list[Packet] = []

    def publish(self, packet: Packet) -> None:
        """Take a message and pass it to every subscriber."""
        self.seen.append(packet)
        if self.hold(packet):
            self.held.append(packet)
        else:
            self.deliver(packet)

    def deliver(self, packet: Packet) -> None:
        """Put a message, seen before or made up, into the subscribers' queues."""
        for channel in self.channels.values():
            channel.offer(packet)

    def release(self) -> None:
        """Deliver what was held, and hold nothing any more."""
        self.hold = lambda packet: False
        held, self.held = self.held, []
        for packet in held:
            self.deliver(packet)


class SimulatedChannel:
    """One agent's connection to the simulated broker; a persistent session while it is away."""

    def __init__(
        self,
        broker: SimulatedBroker,
        client_id: str,
        *,
        inbox: str,
        on_message: Callable[[str, bytes], Awaitable[None]],
        on_connected: Callable[[], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._filters = {inbox}
        self._queue: deque[Packet] = deque()
        self._on_message = on_message
        self._on_connected = on_connected
        self._arrived = asyncio.Event()
        self._is_up = False
        previous = broker.channels.get(client_id)
        if previous is not None:
            self._queue.extend(previous._queue)  # the session outlives the process
        broker.channels[client_id] = self

    @property
    def is_connected(self) -> bool:
        """Whether the link is up."""
        return self._is_up

    def offer(self, packet: Packet) -> None:
        """Queue a message that matches a subscription."""
        if any(_matches(topic_filter, packet.topic) for topic_filter in self._filters):
            self._queue.append(packet)
            self._arrived.set()

    async def connect(self) -> None:
        """Bring the link up, as after a reconnect."""
        self._is_up = True
        await self._on_connected()
        self._arrived.set()

    def cut(self) -> None:
        """Cut the link; messages wait in the session."""
        self._is_up = False

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Publish, when the link is up."""
        if self._is_up:
            self._broker.publish(Packet(topic, payload))
        return self._is_up

    async def subscribe(self, topic_filter: str) -> None:
        """Subscribe."""
        self._filters.add(topic_filter)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe."""
        self._filters.discard(topic_filter)

    async def run(self) -> None:
        """Hand over messages one by one; one that is not taken stays and comes again at the next connection."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._is_up and self._queue:
                packet = self._queue[0]
                try:
                    await self._on_message(packet.topic, packet.payload)
                except VaultError:
                    self._is_up = False
                else:
                    self._queue.popleft()


def _matches(topic_filter: str, topic: str) -> bool:
    wanted, found = topic_filter.split("/"), topic.split("/")
    return len(wanted) == len(found) and all(w in ("+", f) for w, f in zip(wanted, found, strict=True))


class SimulatedHttp:
    """The Http port over the sandbox provider's core. ``fault`` decides what becomes of a request.

    ``fault(request)`` returns "" (carried out), "not_sent", "lost_before" or "lost_after" (the commit).
    """

    def __init__(self, provider: Provider, clock: VirtualClock) -> None:
        self.provider = provider
        self._clock = clock
        self.fault: Callable[[HttpRequest], str] = lambda request: ""
        self.requests: list[HttpRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | Lost:
        """Carry a request out at the provider's core."""
        self.requests.append(request)
        fault = self.fault(request)
        await self.gate.wait()
        if fault == "not_sent":
            return NotSent("the network is down")
        if fault == "lost_before":
            return Lost("connection reset")
        parts = urlsplit(request.url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        headers: Mapping[str, str] = dict(request.headers)
        body = b""
        if request.form is not None:
            fields = [(k, v.reveal() if isinstance(v, Secret) else v) for k, v in request.form]
            body = urlencode(fields).encode()
            headers = {**headers, "content-type": "application/x-www-form-urlencoded"}
        asked = Request(request.method, target, body, headers)
        now = self._clock.now().wall_s
        admission = self.provider.admit(asked, now)
        answer = self.provider.commit(asked, replace(admission), now)
        if fault == "lost_after":
            return Lost("connection reset")
        found = {name.lower(): value for name, value in answer.response.headers}
        found["content-type"] = answer.response.content_type
        return HttpResponse(answer.response.status, found, answer.response.body)

    async def close(self) -> None:
        """Nothing is open."""
