"""Two real agents on simulated ports: real protocol, real records, the provider's core; no process, no socket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

from device.companion.agent import CompanionAgent
from device.elapsed import Stamp
from device.phone.account import AccountSettings, NewGrant, Person, SignInOptions
from device.phone.agent import HandoffWish, PhoneAgent
from device.ports import Record
from device.records import (
    RECORDS,
    CompanionHandoff,
    Grant,
    Identity,
    Pairing,
    PhoneHandoff,
)
from device.simulation.memory_vault import Image, MemoryVault
from device.simulation.world import SeededPort, SimulatedBroker, SimulatedChannel, SimulatedHttp, VirtualClock, settle
from device.token_source import TokenGranted, TokenQuery, TokenRefused
from relay.identity import KeyPair, device_id
from relay.provider import oauth
from relay.provider.http import HttpRequest, HttpResponse
from relay.provider.outcome import Refreshed
from relay.provider.profile import PROFILES
from relay.sandbox.provider import Provider
from relay.sandbox.rules import Places
from relay.sandbox.signing import RsaSigner
from relay.sandbox.world import CLIENT_ID, DEFAULT_WORLD, PASSWORD
from relay.secret import Code, RefreshToken
from relay.topics import inbox_filter

T = TypeVar("T")
R = TypeVar("R", bound=Record)
BASE = "https://provider.example"
USER = "password@contoso.example"
SIGNER = RsaSigner()
SCOPE = "offline_access openid profile"


class Nobody:
    """A person who is not there, or who types the password of the default world."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        return self.answers.get(str(kind))

    async def progress(self, step: dict[str, Any]) -> None:
        return None


class End:
    """One device: vault, channel, agent; can be stopped, started and restored."""

    def __init__(self, world: World, name: str, seed: int) -> None:
        self.world = world
        self.name = name
        self.random = SeededPort(seed)
        self.identity = Identity("self", (k := KeyPair.from_random(self.random.bytes(32))).public_key, k.private_key, 0)
        self.id = device_id(self.identity.public_key)
        self.vault = MemoryVault(RECORDS)
        self.http = SimulatedHttp(world.provider, world.clock)
        self.agent: Any = None
        self.channel: SimulatedChannel
        self._task: asyncio.Task[None] | None = None

    def build(self, tasks: asyncio.TaskGroup) -> Any:
        raise NotImplementedError

    async def start(self, *, connect: bool = True) -> None:
        started = asyncio.Event()

        async def run() -> None:
            async with asyncio.TaskGroup() as tasks:
                self.agent = self.build(tasks)
                self.channel = SimulatedChannel(
                    self.world.broker,
                    self.id,
                    inbox=inbox_filter(self.id),
                    on_message=self.agent.link.receive,
                    on_connected=self._connected,
                )
                self.agent.link.channel = self.channel
                await self.agent.start()
                for work in (self.channel.run(), self.agent.link.resend_loop(), self.agent.keeper.run()):
                    tasks.create_task(work)
                started.set()
                await asyncio.Event().wait()

        self._task = asyncio.create_task(run())
        await started.wait()
        if connect:
            await self.channel.connect()
        await settle()

    async def _connected(self) -> None:
        await self.agent.link.connected()
        network_is_up = getattr(self.agent, "network_is_up", self.agent.keeper.network_is_up)
        network_is_up()

    async def stop(self) -> None:
        """The power goes: nothing in memory survives, the vault is as the last commit left it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.channel.cut()

    def image(self) -> Image:
        return self.vault.snapshot()

    async def restore(self, image: Image) -> None:
        await self.stop()
        self.vault = MemoryVault(RECORDS, image)

    async def rows(self, record: type[R], **equals: Any) -> list[R]:
        return await self.vault.run(lambda tx: tx.select(record, **equals))

    async def one(self, record: type[R], **equals: Any) -> R:
        (row,) = await self.rows(record, **equals)
        return row

    async def edit(self, row: Record, **changes: Any) -> None:
        """Change a record from outside, as no program would: to plant a situation."""
        await self.vault.run(lambda tx: tx.put(replace(row, **changes)))  # type: ignore[type-var]  # any record


class PhoneEnd(End):
    agent: PhoneAgent

    allow = True
    lease_days = 90

    def build(self, tasks: asyncio.TaskGroup) -> PhoneAgent:
        profile = PROFILES[self.world.profile]
        url = BASE if self.world.profile == "entra" else self.world.provider.state.places.issuer
        agent = PhoneAgent(
            vault=self.vault,
            http=self.http,
            clock=self.world.clock,
            random=self.random,
            identity=self.identity,
            name=self.name,
            settings=AccountSettings(url, CLIENT_ID, "contoso", SCOPE, profile, self.allow),
            strategy=None,
            lease_days=self.lease_days,
            tasks=tasks,
        )
        if profile.sign_in == "browser":
            agent.accounts.authenticate = self._authenticate  # type: ignore[method-assign]  # no browser here
        return agent

    async def _authenticate(self, person: Person, options: SignInOptions) -> NewGrant:
        metadata = await self.agent.accounts.discover()
        sent = Stamp.of(self.world.clock.now())
        tokens = await sign_in_by_form(self.http, self.world.profile, metadata)
        return NewGrant(tokens, metadata, sent, "nonce", is_otp=False, username=USER)

    async def sign_in(self) -> Grant:
        return await self.agent.accounts.sign_in(Nobody(password=PASSWORD), SignInOptions(username=USER))

    async def hand_off(self, device: str = "watch", **wish: Any) -> PhoneHandoff:
        return await self.world.within(self.agent.hand_off(device, HandoffWish(**wish), Nobody(password=PASSWORD)))

    async def handoff(self, **equals: Any) -> PhoneHandoff:
        return (await self.rows(PhoneHandoff, **equals))[-1]


class CompanionEnd(End):
    agent: CompanionAgent

    def build(self, tasks: asyncio.TaskGroup) -> CompanionAgent:
        return CompanionAgent(
            vault=self.vault,
            http=self.http,
            clock=self.world.clock,
            random=self.random,
            identity=self.identity,
            name=self.name,
            broker_url="mqtts://broker.example:8883",
            tasks=tasks,
        )

    async def token(self, **query: Any) -> TokenGranted | TokenRefused:
        return await self.agent.keeper.get_token(TokenQuery(**{"min_valid_s": 0.0, "timeout_s": 0.2, **query}))

    async def grant(self) -> Grant:
        rows = await self.rows(Grant)
        return max(rows, key=lambda grant: (grant.stored_at, grant.state != "dead"))

    async def handoff(self, **equals: Any) -> CompanionHandoff:
        return (await self.rows(CompanionHandoff, **equals))[-1]


class World:
    """One provider, one broker, one clock, a phone and a watch; more devices on request."""

    def __init__(self, profile: str = "entra", *, seed: int = 1) -> None:
        self.profile = profile
        self.clock = VirtualClock()
        self.broker = SimulatedBroker()
        places = Places(profile, BASE, "contoso")  # type: ignore[arg-type]  # a test's parameter
        self.provider = Provider(DEFAULT_WORLD, places, Random(seed), SIGNER, now=self.clock.now().wall_s)
        self.phone = PhoneEnd(self, "phone", seed + 1)
        self.watch = CompanionEnd(self, "watch", seed + 2)
        self.ends: list[End] = [self.phone, self.watch]

    async def pair(self, phone: PhoneEnd | None = None, watch: CompanionEnd | None = None) -> Pairing:
        phone, watch = phone or self.phone, watch or self.watch
        text = await watch.agent.invitations.show()

        async def confirm(number: str, name: str) -> bool:
            assert watch.agent.invitations.progress is not None
            assert number == watch.agent.invitations.progress.check_number
            return True

        pairing = await self.within(phone.agent.pairing.pair(text, confirm))
        await settle()
        return pairing

    async def within(self, work: Awaitable[T], *, seconds: float = 120.0) -> T:
        """Await something while virtual time passes, at most ``seconds`` of it."""
        task = asyncio.ensure_future(work)
        await settle()
        for _ in range(int(seconds)):
            if task.done():
                break
            await self.clock.advance(1.0)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise AssertionError(f"not done within {seconds} s of virtual time")
        return task.result()

    def kinds(self) -> list[str]:
        """What the provider saw, in order."""
        return [event.kind for event in self.provider.state.events_after(0)]


@asynccontextmanager
async def running(profile: str = "entra", *, paired: bool = True, **options: Any) -> AsyncIterator[World]:
    """A world whose phone and watch run, are connected, and (``paired``) know each other."""
    world = World(profile, **options)
    for end in world.ends:
        await end.start()
    if paired:
        await world.phone.sign_in()
        await world.pair()
    try:
        yield world
    finally:
        for end in world.ends:
            await end.stop()


async def sign_in_by_form(http: SimulatedHttp, profile: str, metadata: oauth.ProviderMetadata) -> Refreshed:
    """Code and PKCE, the one-form page filled as a browser would."""
    verifier, challenge = oauth.pkce_pair(bytes(range(32)))
    redirect_uri = "http://127.0.0.1:9999/callback"
    assert metadata.authorization_endpoint is not None
    url = oauth.authorization_url(
        authorization_endpoint=metadata.authorization_endpoint,
        client_id=CLIENT_ID,
        redirect_uri=redirect_uri,
        scope=SCOPE,
        state="0123456789abcdef0123",
        nonce="nonce",
        code_challenge=challenge,
    )
    page = await http.request(HttpRequest("GET", url))
    assert isinstance(page, HttpResponse) and page.status == 200, page
    html = page.body.decode()
    ticket = re.search(r'name="ticket" value="([^"]+)"', html)
    action = re.search(r'action="([^"]+)"', html)
    assert ticket and action
    fields = (("ticket", ticket[1]), ("username", USER), ("password", PASSWORD))
    sent = await http.request(HttpRequest("POST", urljoin(url, action[1]), form=fields))
    assert isinstance(sent, HttpResponse) and sent.status in (302, 303), sent
    code = parse_qs(urlsplit(sent.headers["location"]).query)["code"][0]
    outcome = await oauth.exchange_code(
        http,
        PROFILES[profile],
        token_endpoint=metadata.token_endpoint,
        client_id=CLIENT_ID,
        code=Code(code),
        code_verifier=verifier,
        redirect_uri=redirect_uri,
    )
    assert isinstance(outcome, Refreshed), outcome
    return outcome


def form_value(request: HttpRequest, name: str) -> str:
    """Return a field of a request, to compare token values by equality only."""
    for key, value in request.form or ():
        if key == name:
            return value if isinstance(value, str) else str(value.reveal())
    return ""


__all__ = [
    "RefreshToken",
    "World",
    "form_value",
    "running",
    "urlencode",
]
