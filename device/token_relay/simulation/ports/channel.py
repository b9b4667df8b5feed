"""The broker and the connections to it: persistent sessions, QoS 1, and all of their faults.

A message stays in the session of each subscriber until that subscriber has acknowledged it, and comes again at the
next connection, as with every honest broker. :class:`SimulatedBroker` can also be dishonest: forget all sessions,
acknowledge and drop, repeat old packets, hold back packets that a predicate names. :class:`Wire` is one device's way to
it, with faults for each direction; :class:`SimulatedChannel` is the port that the agent sees.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from token_relay.protocol.errors import VaultError
from token_relay.simulation.announcer import Announcer
from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.ports.power import Power

QUEUE_MAX = 1000  # per session, as mosquitto's max_queued_messages; what comes beyond is dropped
KEEPALIVE_S = 90.0  # after this time a connection that is dead in one direction is lost
RECONNECT_S = 5.0  # after a message that could not be taken
REORDER_S = 5.0  # the longest delay of a reordered packet
WORLD = contextvars.Context()  # in which the world's own timers run: they belong to no device

Way = Literal["both", "out", "in"]


@dataclass(frozen=True, slots=True)
class Packet:
    """One message as the broker has it. ``sender`` is the name of the device that published it."""

    topic: str
    payload: bytes
    sender: str = ""
    number: int = 0


@dataclass(slots=True)
class Direction:
    """What may happen to packets one way. Probabilities from 0 to 1; a delay is drawn between two bounds in seconds.

    ``loss`` forgets a packet for good, although QoS 1 forbids it: what matters must survive even that.
    """

    is_cut: bool = False
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)

    def arrivals(self, random: Random) -> list[float]:
        """Draw when copies of one packet arrive, in seconds from now: none, one or two."""
        if self.loss and random.random() < self.loss:
            return []
        copies = 2 if self.duplicate and random.random() < self.duplicate else 1
        low, high = self.delay_s
        found = []
        for _ in range(copies):
            delay = random.uniform(low, high) if high else 0.0
            if self.reorder and random.random() < self.reorder:
                delay += random.uniform(0.0, REORDER_S)
            found.append(delay)
        return found


class Wire:
    """One device's way to the broker. Its faults last until they are taken back."""

    def __init__(self, random: Random) -> None:
        self.out = Direction()
        self.inward = Direction()
        self.random = random
        self.is_down = False
        self.channel: SimulatedChannel | None = None

    def cut(self, way: Way = "both") -> None:
        """Cut it. ``"both"``: the connection is lost at once. One way: packets vanish, and later it is lost."""
        if way == "both":
            self.is_down = True
            if self.channel is not None:
                self.channel.drop()
            return
        (self.out if way == "out" else self.inward).is_cut = True
        if self.channel is not None:
            self.channel.fall_later()

    def heal(self) -> None:
        """Let packets through again both ways; the device connects anew. Other faults stay."""
        was_cut = self.is_down or self.out.is_cut or self.inward.is_cut
        self.is_down = self.out.is_cut = self.inward.is_cut = False
        if self.channel is not None and was_cut:
            self.channel.drop()
            self.channel.connect_soon()

    def calm(self) -> None:
        """Heal, and take back loss, duplicates, reordering and delay too."""
        self.out, self.inward = Direction(is_cut=self.out.is_cut), Direction(is_cut=self.inward.is_cut)
        self.heal()

    @property
    def lets_through(self) -> bool:
        """Whether a connection can be made."""
        return not (self.is_down or self.out.is_cut or self.inward.is_cut)


@dataclass(slots=True)
class SimulatedSession:
    """What the broker keeps of one client: its subscriptions, and what it has not acknowledged yet."""

    client_id: str
    filters: set[str] = field(default_factory=set)
    waiting: dict[int, Packet] = field(default_factory=dict)
    channel: SimulatedChannel | None = None


class SimulatedBroker:
    """Delivers in order and forgets nothing, unless told otherwise."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.sessions: dict[str, SimulatedSession] = {}
        self.seen: list[Packet] = []
        self.held: list[Packet] = []
        self.hold: Callable[[Packet], bool] | None = None
        """Holds a packet back when it says so, until :meth:`release`."""
        self.lie: Callable[[Packet], bool] | None = None
        """Acknowledges and drops a packet when it says so."""
        self.is_up = True
        self._deliveries = 0

    # -- the honest part -------------------------------------------------------------------------------

    def take(self, topic: str, payload: bytes, sender: str) -> None:
        """Take a message that has arrived from a device."""
        if not self.is_up:
            return
        packet = Packet(topic, payload, sender, len(self.seen))
        self.seen.append(packet)
        if self.lie is not None and self.lie(packet):
            return
        if self.hold is not None and self.hold(packet):
            self.held.append(packet)
        else:
            self.deliver(packet)

    def deliver(self, packet: Packet) -> None:
        """Put a message, new, seen before or made up, into its subscribers' sessions."""
        for session in self._subscribers(packet.topic):
            if len(session.waiting) < QUEUE_MAX:
                self._deliveries += 1
                session.waiting[self._deliveries] = packet
                if session.channel is not None and session.channel.is_greeted:
                    session.channel.send(self._deliveries, packet)

    def attach(self, channel: SimulatedChannel) -> SimulatedSession:
        """Connect a client: it takes its session up, and its subscriptions are made anew."""
        session = self.sessions.setdefault(channel.client_id, SimulatedSession(channel.client_id))
        if session.channel is not None and session.channel is not channel:
            session.channel.drop()
        session.filters |= channel.filters
        session.channel = channel
        return session

    def _subscribers(self, topic: str) -> list[SimulatedSession]:
        parts = topic.split("/")
        if len(parts) == 5 and parts[3] == "from":  # the access list lets nobody else subscribe there
            session = self.sessions.get(parts[2])
            wanted = f"{topic.rpartition('/')[0]}/+"
            return [session] if session is not None and wanted in session.filters else []
        return [session for session in self.sessions.values() if topic in session.filters]

    # -- the dishonest part ----------------------------------------------------------------------------

    def release(self) -> None:
        """Deliver what was held, and hold nothing any more."""
        self.hold = None
        held, self.held = self.held, []
        for packet in held:
            self.deliver(packet)

    def replay(self, packet: Packet | int) -> None:
        """Deliver an old packet once more; a number is its place in :attr:`seen`."""
        self.deliver(self.seen[packet] if isinstance(packet, int) else packet)

    def forget(self) -> None:
        """Lose every session and what waits in it, as after a crash without persistence; all clients connect anew."""
        channels = [session.channel for session in self.sessions.values()]
        self.sessions.clear()
        self.held.clear()
        for channel in channels:
            if channel is not None:
                channel.drop()
                channel.connect_soon()

    def go_down(self) -> None:
        """Close every connection; sessions stay."""
        self.is_up = False
        for session in list(self.sessions.values()):
            if session.channel is not None:
                session.channel.drop()

    def come_up(self, channels: list[SimulatedChannel]) -> None:
        """Listen again; these clients connect."""
        self.is_up = True
        for channel in channels:
            channel.connect_soon()


class SimulatedChannel:
    """The :class:`token_relay.agents.ports.Channel` of one device, for as long as its power is on."""

    def __init__(
        self,
        *,
        name: str,
        client_id: str,
        broker: SimulatedBroker,
        wire: Wire,
        loop: VirtualLoop,
        power: Power,
        announcer: Announcer,
        tasks: asyncio.TaskGroup,
        inbox: str,
        on_message: Callable[[str, bytes], Awaitable[None]],
        on_connected: Callable[[], Awaitable[None]],
    ) -> None:
        self.name = name
        self.client_id = client_id
        self.filters = {inbox}
        self._broker = broker
        self._wire = wire
        self._loop = loop
        self._power = power
        self._announcer = announcer
        self._tasks = tasks
        self._on_message = on_message
        self._on_connected = on_connected
        self._session: SimulatedSession | None = None
        self._connection = 0
        self.is_greeted = False  # before that, messages wait in the session
        self._inbox: deque[tuple[int, int, Packet]] = deque()
        self._is_pumping = False
        self._is_connecting = False
        wire.channel = self

    # -- the port --------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""
        return self._session is not None

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Publish, when the connection stands; True when the broker's PUBACK comes back."""
        if self._session is None or not self._power.is_on:
            return False
        self._announcer.published(self.name, topic, payload)
        out = self._wire.out
        if out.is_cut:
            return False
        for delay in out.arrivals(self._wire.random):
            if delay:
                self._loop.call_later(delay, self._broker.take, topic, payload, self.name, context=WORLD)
            else:
                self._broker.take(topic, payload, self.name)
        return not self._wire.inward.is_cut

    async def subscribe(self, topic_filter: str) -> None:
        """Subscribe, now or at the next connection."""
        self.filters.add(topic_filter)
        if self._session is not None:
            self._session.filters.add(topic_filter)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe."""
        self.filters.discard(topic_filter)
        session = self._broker.sessions.get(self.client_id)
        if session is not None:
            session.filters.discard(topic_filter)

    # -- the connection --------------------------------------------------------------------------------

    def cut(self) -> None:
        """Lose the connection until :meth:`connect`; the same as cutting the wire."""
        self._wire.cut()

    async def connect(self) -> None:
        """Mend the wire and connect; returns when the peers have been greeted."""
        self._wire.is_down = self._wire.out.is_cut = self._wire.inward.is_cut = False
        await self.open()

    async def open(self) -> None:
        """Connect if nothing is in the way, greet, and take what waits."""
        if self._session is not None or not self._can_connect():
            return
        self._session = session = self._broker.attach(self)
        self._connection += 1
        connection = self._connection
        try:
            await self._on_connected()
        except VaultError:
            self.drop()
            self._loop.call_later(RECONNECT_S, self.connect_soon, context=WORLD)
            return
        if self._connection == connection and self._session is session:
            self.is_greeted = True
            for number, packet in list(session.waiting.items()):
                self.send(number, packet)

    def _can_connect(self) -> bool:
        return self._power.is_on and not self._power.is_suspended and self._broker.is_up and self._wire.lets_through

    def connect_soon(self) -> None:
        """Connect beside everything else, if it is possible at all."""
        if self._power.is_on and not self._is_connecting and self._session is None:
            self._is_connecting = True
            self._power.spawn(self._tasks, self._connect)

    async def _connect(self) -> None:
        self._is_connecting = False
        await self.open()

    def drop(self) -> None:
        """The connection is lost; what was not acknowledged stays in the session."""
        self.is_greeted = False
        if self._session is not None:
            self._session.channel = None
            self._session = None
        self._inbox.clear()

    def fall_later(self) -> None:
        """A connection that is dead in one direction is noticed when the keep-alive time is over."""
        connection = self._connection

        def fall() -> None:
            if self._connection == connection and not self._wire.lets_through:
                self.drop()

        self._loop.call_later(KEEPALIVE_S, fall, context=WORLD)

    # -- receiving -------------------------------------------------------------------------------------

    def send(self, number: int, packet: Packet) -> None:
        """Send a packet of the session on its way to the device."""
        wire = self._wire.inward
        if wire.is_cut:
            return
        arrivals = wire.arrivals(self._wire.random)
        if not arrivals and self._session is not None:
            self._session.waiting.pop(number, None)  # forgotten for good
        for delay in arrivals:
            if delay:
                self._loop.call_later(delay, self._arrive, self._connection, number, packet, context=WORLD)
            else:
                self._arrive(self._connection, number, packet)

    def _arrive(self, connection: int, number: int, packet: Packet) -> None:
        if connection != self._connection or self._session is None or not self._power.is_on:
            return
        self._inbox.append((connection, number, packet))
        if not self._is_pumping:
            self._is_pumping = True
            self._power.spawn(self._tasks, self._pump)

    async def _pump(self) -> None:
        """Hand messages over one by one; one that is not taken ends the connection and comes again at the next."""
        try:
            while self._inbox:
                connection, number, packet = self._inbox.popleft()
                session = self._session
                if session is None or connection != self._connection:
                    continue
                self._announcer.delivered(self.name, packet.topic, packet.payload)
                try:
                    await self._on_message(packet.topic, packet.payload)
                except VaultError:
                    self.drop()
                    self._loop.call_later(RECONNECT_S, self.connect_soon, context=WORLD)
                    continue
                self._power.check()  # the power may have gone since: then no PUBACK leaves
                self._announcer.acknowledged(self.name, packet.topic, packet.payload)
                if self._session is session and not self._wire.out.is_cut:
                    session.waiting.pop(number, None)
        finally:
            self._is_pumping = False
