"""Two real agents on simulated ports: real protocol, real records, the provider's core; no process, no socket.

A thin layer over :mod:`token_relay.simulation.world.world`, which has the names that these tests like to use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from token_relay.agents.phone.agent import HandoffWish
from token_relay.agents.ports import Now, Record
from token_relay.agents.records import CompanionHandoff, Grant, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.provider.http import HttpRequest
from token_relay.sandbox.provider.world.model import PASSWORD
from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.ports.clocks import SimulatedClock
from token_relay.simulation.world import devices as ends
from token_relay.simulation.world import world

T = TypeVar("T")
R = TypeVar("R", bound=Record)


async def settle() -> None:
    """Let everything that can run without time passing run."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    await loop.settle()


class Nobody:
    """A person who is not there, or who types what he is told."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        return self.answers.get(str(kind))

    async def progress(self, step: dict[str, Any]) -> None:
        return None


class SimulatedDevice(ends.SimulatedDevice):
    """What both ends' disks are asked."""

    async def rows(self, record: type[R], **equals: Any) -> list[R]:  # type: ignore[override]  # a coroutine here
        return ends.SimulatedDevice.rows(self, record, **equals)

    async def one(self, record: type[R], **equals: Any) -> R:
        (row,) = ends.SimulatedDevice.rows(self, record, **equals)
        return row

    async def edit(self, row: Record, **changes: Any) -> None:
        """Change a record from outside, as no program would: to plant a situation."""
        self.disk.store.transact(lambda tx: tx.put(replace(row, **changes)), lambda: None)  # type: ignore[type-var]  # any


class SimulatedPhone(SimulatedDevice, ends.SimulatedPhone):
    async def hand_off(self, device: str = "watch", **wish: Any) -> PhoneHandoff:  # type: ignore[override]  # by name
        """Straight to the agent: a test may have put something in its place."""
        person = Nobody(password=PASSWORD)
        return await self.agent.hand_off(device, HandoffWish(**wish), person)

    async def handoff(self, **equals: Any) -> PhoneHandoff:
        return (await self.rows(PhoneHandoff, **equals))[-1]


class SimulatedCompanion(SimulatedDevice, ends.SimulatedCompanion):
    async def token(self, **query: Any) -> TokenGranted | TokenRefused:
        return await ends.SimulatedCompanion.token(self, **{"timeout_s": 0.2, **query})

    async def grant(self) -> Grant:
        rows = await self.rows(Grant)
        return max(rows, key=lambda grant: (grant.stored_at, grant.state != "dead"))

    async def handoff(self, **equals: Any) -> CompanionHandoff:
        return (await self.rows(CompanionHandoff, **equals))[-1]


class Clocks:
    """The clocks of all devices as one."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def all(self) -> list[SimulatedClock]:
        return [end.clock for end in self._world.ends]

    def now(self) -> Now:
        return self.all[0].now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def advance(self, seconds: float) -> None:
        await self._world.advance(seconds)

    def jump(self, seconds: float) -> None:
        for clock in self.all:
            clock.jump(seconds)

    def reboot(self) -> None:
        for clock in self.all:
            clock.reboot()

    def lose_sync(self) -> None:
        for clock in self.all:
            clock.is_synced = False


class World(world.World):
    """A phone and a watch, by these names; more devices on request."""

    phone_type = SimulatedPhone
    companion_type = SimulatedCompanion
    phones: list[SimulatedPhone]  # type: ignore[assignment]  # the types above, and nothing else comes into it
    companions: list[SimulatedCompanion]  # type: ignore[assignment]  # likewise

    def add_phone(self) -> SimulatedPhone:
        phone = super().add_phone()
        assert isinstance(phone, SimulatedPhone)
        return phone

    def add_companion(self) -> SimulatedCompanion:
        companion = super().add_companion()
        assert isinstance(companion, SimulatedCompanion)
        return companion

    @property
    def clock(self) -> Clocks:
        return Clocks(self)

    @property
    def phone(self) -> SimulatedPhone:
        return self.phones[0]

    @property
    def watch(self) -> SimulatedCompanion:
        return self.companions[0]

    async def pair(self, phone: SimulatedPhone | None = None, watch: SimulatedCompanion | None = None) -> Pairing:
        return await (phone or self.phone).pair(watch or self.watch)

    async def within(self, work: Awaitable[T], *, seconds: float = 120.0) -> T:
        """Await something while virtual time passes, at most ``seconds`` of it."""
        async with asyncio.timeout(seconds):
            return await work


@asynccontextmanager
async def running(profile: str = "entra", *, paired: bool = True, **options: Any) -> AsyncIterator[World]:
    """A world whose phone and watch run, are connected, and (``paired``) know each other."""
    world = World(profile, tier="memory", **options)  # type: ignore[arg-type]  # a test's parameter
    for end in world.ends:
        await end.start()
    if paired:
        await world.phone.sign_in()
        await world.pair()
    try:
        yield world
    finally:
        for end in world.ends:
            await end.crash()


def form_value(request: HttpRequest, name: str) -> str:
    """Return a field of a request, to compare token values by equality only."""
    for key, value in request.form or ():
        if key == name:
            return value if isinstance(value, str) else str(value.reveal())
    return ""
