"""The test kit in virtual time: :class:`token_relay.simulation.world.world.World`, driven from any other event loop or
from none.

The world has its own event loop in its own thread, which runs only during a call: between two calls its time stands
still. So it needs nothing of the test's event loop, which may be pytest-asyncio's in either mode, anyio's or none. A
call blocks that loop until it is answered, so that the app's other work cannot change the history. The same seed and
calls give the same history.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import urlencode

from token_relay.agents.records import CachedToken, Grant, Outgoing, Pairing, PhoneHandoff, PrimaryPhone
from token_relay.agents.token_source import Peer, TokenGranted, TokenQuery, TokenRefused
from token_relay.apps.policy import Policy
from token_relay.apps.server import PATH, TokenApi
from token_relay.cli.client import EXIT_NOT_RUNNING, ClientError, JsonObject
from token_relay.protocol.errors import RelayError
from token_relay.protocol.handoff import Strategy
from token_relay.sandbox.control import api as control
from token_relay.sandbox.links.orders import LINK_NAMES, Cut, LinkReport, LinkState, Slow, Whole
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.world.rules import Kind
from token_relay.service.control import error_line
from token_relay.service.status import Surroundings, companion_status, phone_status
from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.ports.power import PowerCutError
from token_relay.simulation.ports.provider import SimulatedProvider
from token_relay.simulation.testkit import api as testkit
from token_relay.simulation.testkit.api import Json, control_answer, event_line, seconds_of
from token_relay.simulation.testkit.socket import TokenSocket
from token_relay.simulation.world.devices import SimulatedCompanion, SimulatedDevice, SimulatedPhone
from token_relay.simulation.world.world import TierName, World

T = TypeVar("T")

BROKER_URL = "mqtts://broker.example:8883"
REFRESH_S_MAX = 60.0  # until a forced refresh is at the provider, perhaps over a slow link
EVENTS_SHOWN = 40


class Steps:
    """Runs coroutines on the world's loop: one after the other in its thread, or at once if called on that loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="relay-world")
        self.loop: VirtualLoop
        self._ident = self._pool.submit(threading.get_ident).result()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the world's thread, and wait for it."""
        if threading.get_ident() == self._ident:
            raise RuntimeError("inside of world.run() only what is awaited works: await …token(), not get_token()")
        return self._pool.submit(function).result()

    def block(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and everything that follows from it, without time passing."""
        try:
            return self.call(lambda: self._to_its_end(work))
        finally:
            if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                work.close()  # it never began, and nothing else closes it

    def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self.loop.run_until_complete(work)
        finally:
            self.loop.run_until_complete(self.loop.settle())

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the same from a coroutine of any loop."""
        if asyncio.get_running_loop() is not self.loop:
            return self.block(work)
        try:
            return await work
        finally:
            await self.loop.settle()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


class VirtualLinks:
    """The simulated links as the sandbox's control interface sees them."""

    def __init__(self, world: World) -> None:
        self._world = world
        now = world.provider.true_wall_s()
        self._states: dict[str, tuple[LinkState, float]] = {name: (Whole(), now) for name in LINK_NAMES}

    def set(self, state: LinkState, *names: str) -> None:
        """Bring these links, or all, into one state."""
        for name in names or LINK_NAMES:
            self._states[name] = (state, self._world.provider.true_wall_s())
            device, _, server = name.partition("-")
            end: SimulatedDevice = self._world.phones[0] if device == "phone" else self._world.companions[0]
            (_set_wire if server == "broker" else _set_http)(end, state)

    def status(self) -> Sequence[LinkReport]:
        """Return the state of each link; bytes are not counted here."""
        return [
            LinkReport(name, state, since, name, name.partition("-")[2], 0, 0, 0, 0, 0)
            for name, (state, since) in self._states.items()
        ]


def _set_wire(end: SimulatedDevice, state: LinkState) -> None:
    wire = end.link
    if isinstance(state, Cut) and state.how != "drop":
        wire.cut()
        return
    wire.calm()
    if isinstance(state, Slow):
        wire.out.delay_s = wire.inward.delay_s = (state.latency_s, state.latency_s)
    if isinstance(state, Cut):
        if state.loses("up"):
            wire.cut("out")
        if state.loses("down"):
            wire.cut("in")


def _set_http(end: SimulatedDevice, state: LinkState) -> None:
    http = end.http
    http.heal()
    http.gate.set()
    match state:
        case Cut(how="refuse"):
            http.cut()
        case Cut(direction="down"):
            http.fault = lambda _: "lost_after"
        case Cut():
            http.gate.clear()
        case Slow(latency_s=latency_s):
            http.delay_s = (latency_s, latency_s)
        case Whole():
            pass


class _VirtualDevice(testkit.Device):
    """What both devices have."""

    def __init__(self, steps: Steps, end: SimulatedDevice) -> None:
        self._steps = steps
        self._end = end
        self.name = end.name
        self._socket: TokenSocket | None = None

    @property
    def token_socket(self) -> Path:
        if self._socket is None:
            self._socket = TokenSocket(lambda query: self._steps.block(self._serve(query)))
            self._socket.follow(is_on=self.is_on)
        return self._socket.path

    @property
    def is_on(self) -> bool:
        return self._end.is_on

    async def start(self) -> None:
        await self._steps.run(self._end.start())
        self._follow()

    async def stop(self) -> None:
        await self._steps.run(self._end.stop())
        self._follow()

    async def crash(self) -> None:
        await self._steps.run(self._end.crash())
        self._follow()

    def _follow(self) -> None:
        if self._socket is not None:
            self._socket.follow(is_on=self.is_on)

    def close(self) -> None:
        """Remove the socket; the world calls it."""
        if self._socket is not None:
            self._socket.close()

    def get_token(self, query: Mapping[str, str] | None = None, *, timeout_s: float = 10.0) -> tuple[int, JsonObject]:
        return self._steps.block(self._token(query or {}))

    async def _ask_token(self, query: Mapping[str, str]) -> tuple[int, JsonObject]:
        return await self._steps.run(self._token(query))

    async def _token(self, query: Mapping[str, str]) -> tuple[int, JsonObject]:
        """Ask the token API's own code, as the agent's user; its limit per second is for real time."""
        end, uid = self._end, os.geteuid()
        target = f"{PATH}?{urlencode(query)}" if query else PATH

        async def answer() -> tuple[int, JsonObject]:
            keeper = end.agent.keeper
            api = TokenApi(keeper, Policy(uid), clock=end.clock, phones=keeper)
            reply = await api.answer(Peer(uid=uid, gid=os.getegid(), pid=os.getpid()), "GET", target)
            return reply.status, json.loads(reply.octets())

        return await self._ask(lambda: end.call(answer()))

    async def _serve(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        end = self._end
        return await self._ask(lambda: end.call(end.agent.keeper.get_token(query)))

    async def _command(self, command: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._steps.run(self._ask(command))

    async def _ask(self, command: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a command of the agent, with the errors of its sockets. Raises ClientError."""
        if not self.is_on:
            raise ClientError("not_running", f"no agent runs: {self.name} is off", exit_code=EXIT_NOT_RUNNING)
        try:
            return await command()
        except PowerCutError as exc:
            raise ClientError("agent_went_away", f"the agent ended without an answer: {exc}") from None
        except ClientError:
            raise
        except RelayError as exc:
            error: Any = error_line(exc)["error"]
            said = ClientError(error["code"], error["message"], hint=error["hint"], exit_code=error["exit"])
            raise said from exc

    def _surroundings(self, kind: str) -> Surroundings:
        end = self._end
        return Surroundings(
            kind=kind,
            name=end.name,
            device_id=end.id,
            broker_url=BROKER_URL,
            is_connected=end.channel.is_connected,
            broker_error="" if end.channel.is_connected else "the link is cut",
            vault_key="simulated",
            rejects=end.agent.turns.rejects,
            home="",
        )

    def _problems(self) -> tuple[list[Grant], dict[str, str]]:
        grants = self._end.rows(Grant)
        return grants, {grant.grant_id: self._end.agent.keeper.pause_reason(grant.grant_id) for grant in grants}


class VirtualPhone(_VirtualDevice, testkit.Phone):
    """The phone in virtual time."""

    _end: SimulatedPhone

    async def sign_in(self, username: str = "") -> None:
        await self._command(lambda: self._end.sign_in(username))

    async def hand_off(
        self,
        device: str = "watch",
        *,
        strategy: Strategy | None = None,
        lease_days: int | None = None,
        wait_s: float = testkit.HANDOFF_WAIT_S,
    ) -> str:
        wish: dict[str, Any] = {"strategy": strategy, "lease_days": lease_days, "wait_s": wait_s}
        row: PhoneHandoff = await self._command(lambda: self._end.hand_off(device, **wish))
        return row.state

    async def cancel(self, device: str = "watch") -> str:
        row: PhoneHandoff = await self._command(lambda: self._end.cancel(device))
        return row.state

    async def revoke(self, device: str = "watch", *, wait_s: float = testkit.REVOKE_WAIT_S) -> bool:
        rows = await self._command(lambda: self._end.revoke(device, wait_s=wait_s))
        return all(row.state == "gone" for row in rows)

    async def status(self) -> Json:
        async def look() -> Json:
            grants, problems = self._problems()
            end = self._end
            return phone_status(
                self._surroundings("phone"),
                end.clock.now(),
                pairings=end.rows(Pairing),
                outbox=end.rows(Outgoing),
                handoffs=end.rows(PhoneHandoff),
                grants=grants,
                tokens=end.rows(CachedToken),
                problems=problems,
                allow_refresh_token_access=end.allow,
                estranged=end.agent.link.estranged(),
            )

        return await self._command(look)


class VirtualCompanion(_VirtualDevice, testkit.Companion):
    """The companion in virtual time."""

    _end: SimulatedCompanion

    async def status(self) -> Json:
        async def look() -> Json:
            grants, problems = self._problems()
            end = self._end
            return companion_status(
                self._surroundings("companion"),
                end.clock.now(),
                pairings=end.rows(Pairing),
                outbox=end.rows(Outgoing),
                primary=end.rows(PrimaryPhone),
                grants=grants,
                tokens=end.rows(CachedToken),
                problems=problems,
                estranged=end.agent.link.estranged(),
            )

        return await self._command(look)

    async def _crash_at(self, fault: str) -> None:
        await self._steps.run(self._refresh_and_crash(fault))

    async def _refresh_and_crash(self, fault: str) -> None:
        loop, provider = self._end.loop, self._end.provider
        state = provider.state
        _control(provider, None, "POST", "faults", {"name": fault, "grant_type": "refresh_token"})
        mark, ends_at = state.next_event_id - 1, loop.time() + REFRESH_S_MAX
        asking = asyncio.ensure_future(self.token(force_refresh=True))
        await loop.settle()
        while not any(event.kind == "request_held" for event in state.events_after(mark)):
            if asking.done() and asking.result() and loop.time() < ends_at:
                asking = asyncio.ensure_future(self.token(force_refresh=True))  # it joined an older refresh
            elif asking.done() or loop.time() >= ends_at:
                raise ClientError("failed", f"no refresh began: {await asking}")
            await asyncio.wait({asking}, timeout=testkit.POLL_S)
        await self.crash()
        with contextlib.suppress(ClientError):
            await asking


class VirtualWorld(testkit.RelayWorld):
    """See :mod:`token_relay.simulation.testkit.api`; ``engine`` is its world, which is no part of the API."""

    flavour = "virtual"
    phone: VirtualPhone
    companion: VirtualCompanion

    def __init__(
        self,
        profile: Kind = "entra",
        *,
        seed: int = 1,
        access_token_lifetime_s: float | None = None,
        tier: TierName = "memory",
    ) -> None:
        if profile not in get_args(Kind):
            raise ValueError(f"there is no profile {profile!r}; there are {', '.join(get_args(Kind))}")
        self.profile = profile
        self._steps = Steps()
        self.engine = engine = self._steps.call(lambda: World(profile, seed=seed, tier=tier))
        self._steps.loop = engine.loop
        self._links = VirtualLinks(engine)
        self._began_at = engine.provider.true_wall_s()
        self.phone = VirtualPhone(self._steps, engine.phones[0])
        self.companion = VirtualCompanion(self._steps, engine.companions[0])
        self.provider = testkit.ProviderControls(self._ask, self._resource)
        self.links = testkit.Links(self._ask)
        try:
            self._steps.block(self._begin(access_token_lifetime_s))
        except BaseException:
            self.close()
            raise

    async def _begin(self, access_token_lifetime_s: float | None) -> None:
        if access_token_lifetime_s is not None:
            await self.provider.set_policy(access_token_lifetime_s=float(access_token_lifetime_s))
        for end in self.engine.ends:
            await end.start()
        await self.engine.phones[0].pair(self.engine.companions[0])

    async def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        await self._steps.run(self.engine.advance(seconds_of(days, hours, minutes, seconds)))

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._steps.run(work)

    @property
    def time_s(self) -> float:
        return self.engine.time_s

    async def _pause(self) -> None:
        await self.advance(seconds=testkit.POLL_S)

    def close(self) -> None:
        async def end_all() -> None:
            for end in self.engine.ends:
                await end.crash()

        def close() -> None:
            try:
                self.engine.loop.forgive()
                self.engine.loop.run_until_complete(end_all())
            finally:
                self.engine.close()

        for device in (self.phone, self.companion):
            device.close()
        try:
            self._steps.call(close)
        finally:
            self._steps.close()

    def describe(self) -> str:
        events = [event.as_json() for event in self.engine.provider.state.events][-EVENTS_SHOWN:]
        states = [f"{name} is {type(one.state).__name__.lower()}" for name, one in _by_name(self._links)]
        states += [f"{end.name} is {'on' if end.is_on else 'off'}" for end in self.engine.ends]
        lines = [event_line(event, self._began_at) for event in events]
        return "\n".join([f"{self.profile}, virtual time {self.time_s:.0f} s; {', '.join(states)}", *lines])

    async def _ask(self, method: str, path: str, value: Mapping[str, object] | None) -> Json:
        async def ask() -> Json:
            return _control(self.engine.provider, self._links, method, path, value)

        return await self._steps.run(ask())

    async def _resource(self, access_token: str) -> int:
        async def look() -> int:
            now = self.engine.provider.true_wall_s()
            provider = self.engine.provider
            asked = Request("GET", "/sandbox/resource", b"", {"authorization": f"Bearer {access_token}"})
            return provider.commit(asked, provider.admit(asked, now), now).response.status

        return await self._steps.run(look())


def _by_name(links: VirtualLinks) -> list[tuple[str, LinkReport]]:
    return [(one.name, one) for one in links.status()]


def _control(
    provider: SimulatedProvider, links: VirtualLinks | None, method: str, path: str, value: Mapping[str, object] | None
) -> Json:
    """Use the sandbox's control interface without its server. Raises ValueError for a refusal."""
    body = b"" if value is None else json.dumps(value).encode()
    asked = Request(method, f"{control.PREFIX}{path}", body, {"content-type": "application/json"})
    response = control.control(provider, asked, provider.true_wall_s(), links=links).response
    provider.tell()
    return control_answer(response.status, response.body)
