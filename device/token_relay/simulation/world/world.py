"""A world of phones and companions, one broker and one provider, in virtual time; one seed is one history.

The devices run the agents' real code on simulated ports: no thread, no socket, no real time. Time passes only when
nobody can go on, so ``await world.advance(3600)`` costs what happens in that hour and nothing else::

    world = World("strict", seed=7)

    async def story() -> None:
        await world.begin()                       # phone and watch are on, signed in, paired
        await world.phones[0].hand_off("watch")
        world.end("watch").http.plan("lost_after")
        await world.advance(36 * 3600)

    world.run(story())
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, Literal, TypeVar

from token_relay.protocol.envelope import HEADER_BYTES
from token_relay.protocol.errors import PeerError
from token_relay.protocol.identity import KeyPair, raw_id
from token_relay.protocol.messages import Message, decode
from token_relay.sandbox.provider.world.rules import Kind
from token_relay.simulation.announcer import Announcer
from token_relay.simulation.lies import Role
from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.observer import Observer
from token_relay.simulation.ports.channel import Packet, SimulatedBroker
from token_relay.simulation.ports.clocks import seeded
from token_relay.simulation.ports.provider import USERNAMES, SimulatedProvider
from token_relay.simulation.ports.real_disk import RealTier
from token_relay.simulation.ports.tiers import FastTier, MemoryTier, Tier
from token_relay.simulation.world.devices import SimulatedCompanion, SimulatedDevice, SimulatedPhone
from token_relay.simulation.world.snapshots import Snapshot, capture, restore
from token_relay.simulation.world.third_end import ThirdEnd

T = TypeVar("T")
E = TypeVar("E", bound=SimulatedDevice)
TierName = Literal["fast", "memory", "real"]

_SNAPSHOTS: dict[tuple[object, ...], Snapshot] = {}
_TIERS: dict[TierName, Callable[[], Tier]] = {
    "fast": FastTier,
    "memory": MemoryTier,
    "real": lambda: RealTier(MemoryTier().signer),
}


class World:
    """See the module. ``profile`` is a kind of provider (:data:`token_relay.sandbox.provider.world.rules.KINDS`)."""

    usernames = USERNAMES
    phone_type = SimulatedPhone
    companion_type = SimulatedCompanion

    def __init__(
        self,
        profile: Kind = "entra",
        *,
        seed: int = 1,
        tier: TierName = "fast",
        observers: Sequence[Observer] = (),
        phones: int = 1,
        companions: int = 1,
        shuffles: bool = False,
        third: Role | None = None,
        manners: float = 1.0,
    ) -> None:
        self.profile = profile
        self.seed = seed
        running = asyncio._get_running_loop()
        if running is not None and not isinstance(running, VirtualLoop):
            raise RuntimeError("a world needs virtual time: use World.run(), or a VirtualLoop as event loop")
        self.loop = running if isinstance(running, VirtualLoop) else VirtualLoop()
        self._owns_loop = self.loop is not running
        if shuffles:
            self.loop.choose(self.random("turns"))
        self.announcer = Announcer(self.loop, observers)
        if observers:
            self.loop.on_time = self.announcer.advanced
        self.tier_name = tier
        self.tier: Tier = _TIERS[tier]()
        self.broker = SimulatedBroker(self.loop)
        self.provider = SimulatedProvider(
            profile,
            self.random("provider"),
            self.tier.signer,
            loop=self.loop,
            announcer=self.announcer,
            has_pages=self.tier.signs,
        )
        self.phones: list[SimulatedPhone] = []
        self.companions: list[SimulatedCompanion] = []
        for _ in range(phones):
            self.add_phone()
        for _ in range(companions):
            self.add_companion()
        self.third: ThirdEnd | None = None
        """A hostile device that honest ones pair with; it is none of :attr:`ends`."""
        if third is not None:
            self.third = self._new(ThirdEnd, "third", role=third, manners=manners)
            self.third.others = self.ends

    # -- devices ---------------------------------------------------------------------------------------

    @property
    def ends(self) -> list[SimulatedDevice]:
        """All devices."""
        return [*self.phones, *self.companions]

    @property
    def everybody(self) -> list[SimulatedDevice]:
        """All devices, a hostile one among them."""
        return self.ends if self.third is None else [*self.ends, self.third]

    def add_phone(self) -> SimulatedPhone:
        """Add a phone, switched off: "phone", "phone2", …"""
        self.phones.append(self._new(self.phone_type, _numbered("phone", len(self.phones) + 1)))
        return self.phones[-1]

    def add_companion(self) -> SimulatedCompanion:
        """Add a companion, switched off: "watch", "watch2", …"""
        self.companions.append(self._new(self.companion_type, _numbered("watch", len(self.companions) + 1)))
        return self.companions[-1]

    def _new(self, kind: type[E], name: str, **more: Any) -> E:
        return kind(
            name,
            **more,
            seed=self.seed,
            tier=self.tier,
            loop=self.loop,
            announcer=self.announcer,
            broker=self.broker,
            provider=self.provider,
        )

    def end(self, name: str) -> SimulatedDevice:
        """Return the device of that name."""
        return next(end for end in self.ends if end.name == name)

    async def begin(self, *, live: bool = False) -> None:
        """Switch everything on, sign the first person in on each phone, pair each phone with each companion.

        Without observers, this state is restored from a snapshot of another world; ``live`` always does it here.
        """
        snapshot = None if live or self.loop.time() > 0 else _SNAPSHOTS.get(self._shape())
        if snapshot is None:
            await self._begin_live()
            return
        restore(snapshot, self.ends, self.provider, self.broker, self.loop)
        for end in self.ends:
            await end.start()

    def _shape(self) -> tuple[object, ...]:
        return self.profile, self.tier_name, len(self.phones), len(self.companions)

    async def _begin_live(self) -> None:
        for end in self.ends:
            await end.start()
        for phone in self.phones:
            await phone.sign_in()
            for companion in self.companions:
                await phone.pair(companion)

    def _prepare(self) -> None:
        """Make a snapshot of this shape if there is none: run another world until all is paired and quiet."""
        shape = self._shape()
        if shape in _SNAPSHOTS:
            return
        other = World(
            self.profile, seed=0, tier=self.tier_name, phones=len(self.phones), companions=len(self.companions)
        )

        async def story() -> Snapshot:
            await other._begin_live()
            await other.advance(3600.0)
            for end in other.ends:
                await end.stop()
            return capture(other.ends, other.provider, other.broker, other.loop)

        _SNAPSHOTS[shape] = other._run(story())

    # -- time ------------------------------------------------------------------------------------------

    @property
    def time_s(self) -> float:
        """The world's time in seconds since its beginning."""
        return self.loop.time()

    def run(self, story: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, then switch everything off. A world is run once.

        Raises:
            DeadlockError: it waits for what will never come. Whatever the story or an observer raises.
        """
        self._prepare()
        return self._run(story)

    def _run(self, story: Coroutine[Any, Any, T]) -> T:
        try:
            return self.loop.run_until_complete(self._tell(story))
        finally:
            self.close()

    async def _tell(self, story: Coroutine[Any, Any, T]) -> T:
        try:
            return await story
        finally:
            for end in self.everybody:
                await end.crash()

    def close(self) -> None:
        """Give up what the world holds, in whatever state it is."""
        if self._owns_loop and not self.loop.is_closed():
            leftover = asyncio.all_tasks(self.loop)
            for task in leftover:
                task.cancel()
            if leftover:
                self.loop.forgive()
                self.loop.run_until_complete(asyncio.wait(leftover))
            self.loop.close()
        for end in self.everybody:
            end.disk.store.close()
        self.tier.close()

    async def advance(self, seconds: float) -> None:
        """Let time pass, and then what happens at that moment."""
        await asyncio.sleep(seconds)
        await self.loop.settle()

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        await self.loop.settle()

    def random(self, name: str) -> Random:
        """Return a generator of the world's seed for one purpose."""
        return seeded(self.seed, name)

    # -- the broker ------------------------------------------------------------------------------------

    async def restart_broker(self, down_s: float = 0.0) -> None:
        """Close all connections, stay away for a while, let everybody connect again; sessions stay."""
        self.broker.go_down()
        await asyncio.sleep(down_s)
        self.broker.come_up([end.channel for end in self.everybody if end.is_on])
        await self.loop.settle()

    def read(self, packet: Packet | bytes) -> Message | None:
        """Open an envelope with its recipient's key, for a predicate that looks at the type; None for pairing."""
        payload = packet if isinstance(packet, bytes) else packet.payload
        sender, recipient = payload[4:20], payload[20:36]
        by_id = {raw_id(end.identity.public_key): end for end in self.everybody}
        if len(payload) <= HEADER_BYTES or sender not in by_id or recipient not in by_id:
            return None
        own = by_id[recipient].identity
        box = self.tier.box(KeyPair(own.public_key, own.private_key), by_id[sender].identity.public_key)
        try:
            return decode(box.open(payload))
        except PeerError:
            return None

    def type_of(self, packet: Packet | bytes) -> str:
        """Return a message's type; empty if it is not a message."""
        message = self.read(packet)
        return "" if message is None else message.head.type


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}{number}"
