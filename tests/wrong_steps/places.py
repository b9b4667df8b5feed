"""Prepared situations: a world of real programs in which a row's lines are typed, as a person would without options.

The homes lie where the commands look for them by themselves, and the working directory is the world's own. A place
is prepared when the first row asks for it and ends with the module's last, with all promises of
:class:`~tests.e2e.kit.World`.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.kit import PASSWORD, PASSWORD_USER, Agent, Companion, Phone, World, pair
from tests.e2e.processes import Ran
from tests.e2e.terminal import Terminal

HOMES = ".local/state/token-relay"


@dataclass
class Place:
    """One situation."""

    world: World
    phone: Phone | None = None
    companion: Companion | None = None
    others: list[Companion] = field(default_factory=list)
    has_provider: bool = True

    @property
    def agents(self) -> dict[str, Agent]:
        """The agents by the names that rows use."""
        both = {"phone": self.phone, "companion": self.companion}
        return {name: agent for name, agent in both.items() if agent is not None}

    async def filled(self, text: str) -> str:
        """Fill in what only this place knows."""
        names = {"here": str(self.world.directory), "user": PASSWORD_USER, "no_text": "\udcff", "password": PASSWORD}
        for name, agent in self.agents.items():
            names |= {name: str(agent.home), f"{name}_id": agent.device_id}
            names[f"home_of_{name}"] = str(self.world.directory / HOMES / name)
        sandbox = self.world.sandbox
        names |= {"provider": sandbox.http, "client": sandbox.client_id, "tenant": sandbox.tenant}
        names["provider_port"] = sandbox.http.rpartition(":")[2]
        names |= {"issuer": sandbox.issuer, "broker": self.world.broker_url, "broker_port": str(self.world.broker_port)}
        names |= {f"link_{name.replace('-', '_')}": address for name, address in sandbox.links.items()}
        if "{invitation}" in text:
            assert self.companion is not None
            names["invitation"] = await self.companion.invitation()
        for name, value in names.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    async def do(self, line: str) -> None:
        """Do one line of ``before`` or ``after``; it succeeds."""
        first, _, rest = line.partition(" ")
        match first:
            case "start":
                await self.agents[rest].run()
            case "begin":  # of an agent that finds no broker
                await self.agents[rest].run(is_connected=False)
            case "stop":
                await self.agents[rest].stop()
            case "kill":
                await self.agents[rest].kill()
            case "sign-in":
                assert self.phone is not None
                await self.phone.sign_in(rest or PASSWORD_USER)
            case "decline":
                invitation = Path(self.world.directory, rest).read_text()
                (await self.talk(f"phone pair {invitation}", ((r"\[y/N\]", "n"),))).expect(4)
            case "!":  # it is refused
                assert (await self.run(rest.removeprefix("token-relay "))).code != 0, line
            case "token-relay":
                (await self.run(rest)).expect()
            case _:
                await _shell(await self.filled(line), self.world)

    async def run(self, line: str) -> Ran:
        """Type a command, perhaps with a file as its input, and see its end."""
        words = shlex.split(await self.filled(line))
        given = None
        if "<" in words:
            given = Path(self.world.directory, words.pop()).read_text(errors="surrogateescape")
            assert words.pop() == "<", line
        program = await self.world.start(*words, stdin=given is not None, is_permitted=True)
        if given is not None:
            await program.write(given)
        return await program.ended()

    async def talk(self, line: str, dialogue: tuple[tuple[str, str], ...]) -> Ran:
        """Type a command at a terminal and answer its questions; a terminal has one stream."""
        words = shlex.split(await self.filled(line))
        async with Terminal(*words, env=self.world.env, cwd=self.world.directory) as terminal:
            for sees, types in dialogue:
                await terminal.sees(sees)
                await terminal.types(await self.filled(types))
            code = await terminal.ended()
        return Ran(tuple(words), code, "", terminal.text)


async def _shell(line: str, world: World) -> None:
    process = await asyncio.create_subprocess_shell(line, cwd=world.directory, env=world.env)
    assert await process.wait() == 0, line


async def _nothing(world: World) -> Place:
    return Place(world)


async def _made(world: World) -> Place:
    """Both homes are made, and no agent runs."""
    homes = world.directory / HOMES
    homes.mkdir(parents=True)
    found = []
    for make, name in ((world.phone, "phone"), (world.companion, "companion")):
        (homes / name).symlink_to(world.directory / name)
        found.append(await make(name, is_running=False))
    phone, companion = found
    assert isinstance(phone, Phone) and isinstance(companion, Companion)
    return Place(world, phone, companion)


async def _running(world: World) -> Place:
    place = await _made(world)
    await asyncio.gather(*(agent.run() for agent in place.agents.values()))
    return place


async def _signed_in(world: World) -> Place:
    place = await _running(world)
    assert place.phone is not None
    await place.phone.sign_in(PASSWORD_USER)
    return place


async def _paired(world: World) -> Place:
    place = await _signed_in(world)
    assert place.phone is not None and place.companion is not None
    await pair(place.phone, place.companion)
    return place


async def _handed_off(world: World) -> Place:
    place = await _paired(world)
    assert place.phone is not None and place.companion is not None
    await place.phone.hand_off(place.companion)
    await place.companion.until_generation(2)
    return place


async def _gate_closed(world: World) -> Place:
    place = await _made(world)
    assert place.phone is not None and place.companion is not None
    place.phone.edit_config("allow_refresh_token_access = true", "allow_refresh_token_access = false")
    await asyncio.gather(*(agent.run() for agent in place.agents.values()))
    await place.phone.sign_in(PASSWORD_USER)
    await pair(place.phone, place.companion)
    return place


async def _several(world: World) -> Place:
    """One phone with two accounts and three companions: companion, car-2 and car-20."""
    place = await _handed_off(world)
    assert place.phone is not None
    for name in ("car-2", "car-20"):
        car = await world.companion(name)
        await pair(place.phone, car)
        place.others.append(car)
    await place.phone.sign_in("otp@contoso.example")
    return place


async def _auth0(world: World) -> Place:
    place = await _running(world)
    assert place.phone is not None and place.companion is not None
    await place.phone.sign_in()
    await pair(place.phone, place.companion)
    return place


async def _tls_provider(world: World) -> Place:
    """A phone whose provider is a second sandbox, over TLS with a CA that this machine does not know."""
    place = await _made(world)
    assert place.phone is not None
    await place.do("token-relay certs init --dir private --host 127.0.0.1")
    words = ("sandbox", "--json", "--http-port", "0", "--mqtt-port", "0", "--tls-cert", "private/broker/broker.pem")
    second = await world.start(*words, "--tls-key", "private/broker/broker.key")
    await second.find(r"^\{.*\}$")
    place.phone.edit_config(world.sandbox.http, json.loads(bytes(second.out))["http"])
    await place.phone.run()
    return place


PLACES: dict[str, tuple[dict[str, str], Callable[[World], Awaitable[Place]]]] = {
    "nothing": ({}, _nothing),
    "made": ({}, _made),
    "running": ({}, _running),
    "signed-in": ({}, _signed_in),
    "paired": ({}, _paired),
    "handed-off": ({}, _handed_off),
    "gate-closed": ({}, _gate_closed),
    "several": ({}, _several),
    "auth0": ({"profile": "auth0"}, _auth0),
    "auth0-running": ({"profile": "auth0"}, _running),
    "tls-provider": ({}, _tls_provider),
    "mutual-tls": ({"broker": "mutual-tls"}, _made),
    "mosquitto": ({"broker": "mosquitto"}, _made),
}


class Places:
    """The places of one module, and the event loop that their programs are read in."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._worlds: list[World] = []
        self._prepared: dict[str, Place] = {}

    def do(self, coroutine: Awaitable[object]) -> object:
        """Run one thing to its end in the loop of the places."""

        async def done() -> object:
            return await coroutine

        return self._runner.run(done())

    async def at(self, name: str, *, alone: bool) -> Place:
        """Return a place, prepared now or before."""
        if name in self._prepared and not alone:
            return self._prepared[name]
        options, prepare = PLACES[name]
        world = World(**options)  # type: ignore[arg-type]  # literals of the table above
        await world.__aenter__()
        self._worlds.append(world)
        place = await prepare(world)
        if not alone:
            self._prepared[name] = place
        return place

    def close(self) -> None:
        """End everything; what must not be left behind is an error."""
        try:
            for world in self._worlds:
                self._runner.run(world.__aexit__(None, None, None))
        finally:
            self._runner.close()
