"""A device of the simulated world: disk, clock, wire and way to the provider, and, while its power is on, its agent.

What belongs to one power-on (:mod:`token_relay.simulation.ports.power`) ends with it: at a power cut the agent's tasks
are cancelled wherever they are, and their ports are dead, so that no clean-up code of theirs reaches the world. What a
person has asked of a device whose power goes ends in ``PowerCutError``.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from token_relay.agents.agent import Agent
from token_relay.agents.companion.agent import CompanionAgent
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.agent import HandoffWish, PhoneAgent
from token_relay.agents.phone.person import SignIn, SignInOptions
from token_relay.agents.phone.sign_in import ProviderSignIn
from token_relay.agents.ports import Ports, Record, Transaction
from token_relay.agents.records import Grant, Identity, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.protocol.handoff import Strategy
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.topics import inbox_filter
from token_relay.sandbox.provider.world.model import CLIENT_ID
from token_relay.simulation.announcer import Announcer
from token_relay.simulation.loop import OWNER, VirtualLoop
from token_relay.simulation.observer import Tables
from token_relay.simulation.ports.channel import SimulatedBroker, SimulatedChannel, Wire
from token_relay.simulation.ports.clocks import SeededPort, SimulatedClock, seeded
from token_relay.simulation.ports.disk import Disk, SimulatedVault
from token_relay.simulation.ports.http import SimulatedHttp
from token_relay.simulation.ports.power import Power, PowerCutError
from token_relay.simulation.ports.provider import SCOPE, USERNAMES, SimulatedProvider
from token_relay.simulation.ports.tiers import Tier
from token_relay.simulation.world.signing_in import DirectSignIn, FormSignIn, SimulatedPerson, no_browser

T = TypeVar("T")
R = TypeVar("R", bound=Record)

DRAIN_S = 1.5  # as the production runtime


class SimulatedDevice:
    """One device."""

    agent: Agent

    def __init__(
        self,
        name: str,
        *,
        seed: int,
        tier: Tier,
        loop: VirtualLoop,
        announcer: Announcer,
        broker: SimulatedBroker,
        provider: SimulatedProvider,
    ) -> None:
        self.name = name
        self.tier = tier
        self.loop = loop
        self.announcer = announcer
        self.broker = broker
        self.provider = provider
        self.context = contextvars.Context()
        self.context.run(OWNER.set, name)
        self.random = SeededPort(f"{seed}-{name}")
        self.clock = SimulatedClock(loop, name)
        self.link = Wire(seeded(seed, f"{name}-wire"))
        self.power = self._new_power()
        self.power.is_on = False
        self.http = SimulatedHttp(
            name=name,
            clock=self.clock,
            power=lambda: self.power,
            provider=provider,
            announcer=announcer,
            random=seeded(seed, f"{name}-http"),
        )
        self.disk = Disk(tier.new_store(name))
        self.identity = self._new_identity()
        self.vault: SimulatedVault
        self.channel: SimulatedChannel
        self.main: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._must_reboot = False

    def _new_power(self) -> Power:
        return Power(self.clock, self.context, partial(self.power_off, crashed=True))

    def _new_identity(self) -> Identity:
        pair = KeyPair.from_random(self.random.bytes(32))
        return Identity("self", pair.public_key, pair.private_key, 0)

    @property
    def id(self) -> str:
        """The device id."""
        return device_id(self.identity.public_key)

    @property
    def is_on(self) -> bool:
        """Whether it runs."""
        return self.power.is_on

    @property
    def tables(self) -> Tables:
        """What is durable now."""
        return self.disk.store.tables

    def build(self, ports: Ports) -> Agent:
        """Return the agent on this device's ports."""
        raise NotImplementedError

    # -- power -----------------------------------------------------------------------------------------

    async def start(self, *, connect: bool = True) -> None:
        """Switch on; returns when the agent has started and all that it does at once is done.

        Raises:
            CorruptVaultError: the vault is damaged; see :meth:`set_aside`.
        """
        if self.is_on:
            return
        if self.main is not None:
            await asyncio.wait({self.main})
        self.disk.open()
        if self._must_reboot:
            self.clock.reboot()
            self._must_reboot = False
        self.power = self._new_power()
        started: asyncio.Future[None] = self.loop.create_future()
        self.main = self.loop.create_task(
            self._run(self.power, started, connect=connect), name=self.name, context=self.context
        )
        await asyncio.wait({started, self.main}, return_when=asyncio.FIRST_COMPLETED)
        await self.loop.settle()

    async def _run(self, power: Power, started: asyncio.Future[None], *, connect: bool) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                self.vault = SimulatedVault(self.name, self.disk, power, self.announcer)
                self.channel = SimulatedChannel(
                    name=self.name,
                    client_id=self.id,
                    broker=self.broker,
                    wire=self.link,
                    loop=self.loop,
                    power=power,
                    announcer=self.announcer,
                    tasks=tasks,
                    inbox=inbox_filter(self.id),
                    on_message=self._receive,
                    on_connected=self._connected,
                )
                ports = Ports(
                    vault=self.vault,
                    channel=self.channel,
                    http=self.http,
                    clock=self.clock,
                    random=self.random,
                    tasks=tasks,
                    new_box=self.tier.box,
                )
                self.agent = agent = self.build(ports)
                await agent.start()
                for work in agent.works():
                    tasks.create_task(work)
                started.set_result(None)
                if connect:
                    await self.channel.open()
                await self.loop.create_future()
        except* asyncio.CancelledError:
            raise
        except* Exception as group:
            self.loop.fail(group)
            raise
        finally:
            if power.is_on:  # not cut: the agent has ended by itself, which it never may
                self.power_off(crashed=True)

    async def _receive(self, topic: str, payload: bytes) -> None:
        await self.agent.link.receive(topic, payload)

    async def _connected(self) -> None:
        await self.agent.link.connected()
        self.agent.network_is_up()

    async def stop(self) -> None:
        """Stop the service cleanly: requests in flight may end, as long as the production runtime waits."""
        if self.is_on:
            drained = self.loop.create_task(self.agent.keeper.flights.drain(DRAIN_S), context=self.context)
            await asyncio.wait({drained})
            if self.is_on:
                self.power_off(crashed=False)
        await self._ended()

    async def crash(self) -> None:
        """Cut the power now: nothing in memory survives, the disk is as the last commit left it."""
        if self.is_on:
            self.power_off(crashed=True)
        await self._ended()

    def power_off(self, *, crashed: bool) -> None:
        """End everything that runs on this device, at once; its tasks find their ports dead."""
        self.power.is_on = False
        if self.link.channel is not None:
            self.link.channel.drop()
        self.clock.resume()
        self._must_reboot = self._must_reboot or crashed
        if self.main is not None:
            self.main.cancel()
        for call in self._calls:
            call.cancel()
        self.announcer.stopped(self.name, crashed=crashed)
        if self.disk.power_off(crashed=crashed):
            self.announcer.restored(self.name, self.tables)

    async def _ended(self) -> None:
        if self.main is not None:
            await asyncio.wait({self.main})
            if not self.main.cancelled():
                self.main.exception()  # seen

    async def suspend(self, seconds: float) -> None:
        """Sleep as a whole: the connection is lost, boot time goes on, monotonic sleeps stand still."""
        await self.loop.settle()
        self.channel.drop()
        self.clock.suspend(seconds)
        await asyncio.sleep(seconds)
        self.clock.resume()
        if self.is_on:
            self.channel.connect_soon()
        await self.loop.settle()

    # -- disk ------------------------------------------------------------------------------------------

    def image(self) -> Any:
        """Return what is durable, to be put back later."""
        return self.disk.store.image()

    async def restore(self, image: Any) -> None:
        """Put an older image of the disk back; the device is off afterwards."""
        await self.crash()
        self.disk.store.restore(image)
        self.announcer.restored(self.name, self.tables)

    async def set_aside(self) -> None:
        """Begin with an empty vault, as after damage; the device has a new identity then."""
        await self.crash()
        self.disk.store.close()
        self.disk = Disk(self.tier.new_store(self.name))
        self.identity = self._new_identity()
        self.announcer.restored(self.name, self.tables)

    def read(self, step: Callable[[Transaction], T]) -> T:
        """Read what is durable, also while the device is off."""
        return self.disk.store.read(step)

    def rows(self, record: type[R], **equals: Any) -> list[R]:
        """Return records of this disk."""
        return self.read(lambda tx: tx.select(record, **equals))

    # -- what people and programs ask --------------------------------------------------------------------

    async def command(self, act: str, work: Coroutine[Any, Any, T]) -> T:
        """Run a person's command that may erase grants; the observers hear of it. Raises PowerCutError: see call."""
        self.announcer.commanded(self.name, act, is_over=False)
        try:
            return await self.call(work)
        finally:
            self.announcer.commanded(self.name, act, is_over=True)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of the agent's, as a command of a person does.

        Raises:
            PowerCutError: the device is off, or its power went meanwhile.
        """
        if not self.is_on:
            work.close()
            raise PowerCutError(f"{self.name} is off")
        power = self.power
        await self.clock.awake()
        task = self.loop.create_task(work, context=self.context.copy())
        self._calls.add(task)
        try:
            await asyncio.wait({task})
        except BaseException:
            task.cancel()
            raise
        finally:
            self._calls.discard(task)
        if task.cancelled() or not power.is_on:
            if not task.cancelled():
                task.exception()  # seen
            raise PowerCutError(f"the power of {self.name} went")
        return task.result()

    async def token(self, **query: Any) -> TokenGranted | TokenRefused:
        """Ask for an access token as an app on the device does."""
        asked = TokenQuery(**{"min_valid_s": 0.0, **query})
        answer = await self.call(self.agent.keeper.get_token(asked))
        self.announcer.served(self.name, asked, answer)
        return answer


class SimulatedPhone(SimulatedDevice):
    """A phone, and the person who holds it."""

    agent: PhoneAgent
    allow = True
    lease_days = 90
    strategy: Strategy | None = None

    def build(self, ports: Ports) -> PhoneAgent:
        provider = self.provider
        settings = AccountSettings(provider.url, CLIENT_ID, "contoso", SCOPE, provider.client_profile, self.allow)
        return PhoneAgent(
            ports,
            self.identity,
            sign_in=self._new_sign_in(settings),
            name=self.name,
            settings=settings,
            strategy=self.strategy,
            lease_days=self.lease_days,
        )

    def _new_sign_in(self, settings: AccountSettings) -> SignIn:
        ports: dict[str, Any] = {"http": self.http, "clock": self.clock, "random": self.random}
        ports |= {"settings": settings, "new_receiver": no_browser}
        if not self.tier.signs:
            return DirectSignIn(metadata=self.provider.metadata, usual=USERNAMES[0], **ports)
        return (FormSignIn if settings.profile.sign_in == "browser" else ProviderSignIn)(**ports)

    def person(self, username: str = "") -> SimulatedPerson:
        """Return who answers the questions of the command line."""
        return SimulatedPerson(self.provider, username or USERNAMES[0])

    async def sign_in(self, username: str = "") -> Grant:
        """Sign a person in, the world's first unless named."""
        username = username or USERNAMES[0]
        options = SignInOptions(username=username)
        return await self.command("sign_in", self.agent.accounts.sign_in(self.person(username), options))

    async def sign_out(self) -> list[dict[str, str]]:
        """Sign everybody out."""
        return await self.command("sign_out", self.agent.accounts.sign_out("", self.person()))

    async def pair(self, companion: SimulatedCompanion) -> Pairing:
        """Pair with a companion: show, read, compare the numbers, confirm; a name that is taken gets the id behind."""

        async def confirm(number: str, name: str) -> bool:
            progress = companion.agent.invitations.progress
            return progress is not None and number == progress.check_number

        async def rename(problem: str) -> str:
            return f"{companion.name} {companion.id}"

        text = await companion.call(companion.agent.invitations.show())
        pairing = await self.call(self.agent.pairing.pair(text, confirm, rename=rename))
        await self.loop.settle()
        return pairing

    async def hand_off(
        self, device: SimulatedDevice | str = "watch", *, username: str = "", **wish: Any
    ) -> PhoneHandoff:
        """Hand a grant to a device; ``wish`` has the fields of :class:`token_relay.agents.phone.agent.HandoffWish`."""
        if username:
            wish.setdefault("sign_in", SignInOptions(username=username))
        return await self.call(self.agent.hand_off(_name_of(device), HandoffWish(**wish), self.person(username)))

    async def cancel(self, device: SimulatedDevice | str = "watch") -> PhoneHandoff:
        """Give up an open handoff."""
        return await self.call(self.agent.cancel(_name_of(device)))

    async def revoke(self, device: SimulatedDevice | str = "watch", *, wait_s: float = 10.0) -> list[PhoneHandoff]:
        """Take a device's grants away."""
        return await self.call(self.agent.revoke(_name_of(device), wait_s=wait_s))

    async def unpair(self, device: SimulatedDevice | str = "watch") -> list[PhoneHandoff]:
        """End a pairing, and tell the device."""
        return await self.call(self.agent.unpair(_name_of(device)))

    async def forget(self, device: SimulatedDevice | str = "watch") -> int:
        """Forget a device without asking it."""
        return await self.call(self.agent.forget(_name_of(device)))


class SimulatedCompanion(SimulatedDevice):
    """A companion, and the apps on it."""

    agent: CompanionAgent

    def build(self, ports: Ports) -> CompanionAgent:
        return CompanionAgent(ports, self.identity, name=self.name, broker_url="mqtts://broker.example:8883")

    async def forget(self, *, pairing: bool = False) -> dict[str, int]:
        """Erase the grants here, and with ``pairing`` the pairings."""
        return await self.command("forget", self.agent.forget(pairing=pairing))


def _name_of(device: SimulatedDevice | str) -> str:
    return device if isinstance(device, str) else device.id
