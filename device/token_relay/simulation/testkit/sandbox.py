"""The test kit in real time: ``token-relay`` itself, one process for the sandbox and one for each agent.

Everything is as on a device: a vault on the disk, ``token.sock`` for apps, MQTT and HTTP on loopback sockets, each
agent behind its own two links, a power cut by SIGKILL. All of it is in one temporary directory and ends with the
fixture. A call waits in a thread, so that the test's own event loop goes on, and so does the app on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import time
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, get_args

from token_relay.cli.client import ClientError, JsonObject, control_call, get_token
from token_relay.cli.demo.programs import WITHIN_S, Interrupts, Programs
from token_relay.cli.demo.sandbox import Sandbox
from token_relay.cli.demo.stage import DemoAgent
from token_relay.host.paths import CONTROL_SOCKET, TOKEN_SOCKET
from token_relay.protocol.handoff import Strategy
from token_relay.protocol.secret import AccessToken
from token_relay.sandbox.control.api import PREFIX
from token_relay.sandbox.provider.world.model import PASSWORD, ProfileName
from token_relay.simulation.testkit import api as testkit
from token_relay.simulation.testkit.api import Json, control_answer, event_line

T = TypeVar("T")

EVENTS_SHOWN = 40
HELD_POLL_S = 0.2


class SandboxPerson:
    """Who signs in: types the password or the code from their mailbox, or fills in the provider's page."""

    def __init__(self, sandbox: Sandbox, username: str) -> None:
        self._sandbox = sandbox
        self._owner = str(sandbox.password_user["username"])
        self.username = username or self._owner

    def __call__(self, ask: JsonObject) -> str | None:
        """Answer a question of the agent."""
        match ask.get("kind"):
            case "password":
                return PASSWORD
            case "code":
                return self._sandbox.control("GET", f"mailbox/{self.username}?wait_s=10").decode()
            case "browser" if self.username == self._owner:
                self._sandbox.fill_in_form(str(ask.get("url")))
                return "yes"
            case _:
                return None

    @property
    def options(self) -> JsonObject:
        """How they sign in, as the control socket takes it."""
        return {"username": self.username, "open": False}


class _SandboxDevice(testkit.Device):
    """What both devices have."""

    def __init__(self, sandbox: Sandbox, agent: DemoAgent, links: testkit.Links) -> None:
        self._sandbox = sandbox
        self._agent = agent
        self._links = links
        self.name = agent.name

    @property
    def home(self) -> Path:
        """The agent's directory: configuration, vault, sockets; its log is beside it."""
        return self._agent.home

    @property
    def token_socket(self) -> Path:
        return self._agent.home / TOKEN_SOCKET

    @property
    def is_on(self) -> bool:
        program = self._agent.program
        return program is not None and program.popen.poll() is None

    async def start(self) -> None:
        if not self.is_on:
            is_whole = await self._links.state(f"{self._agent.kind}-broker") != "cut"
            await asyncio.to_thread(self.begin)
            await asyncio.to_thread(self.wait_until_started, is_connected=is_whole)

    def begin(self) -> None:
        """Start the process."""
        self._agent.spawn()

    def wait_until_started(self, *, is_connected: bool) -> None:
        """Wait until it answers on its socket, and has reached the broker. Raises StepFailedError."""
        what = f"the {self._agent.kind} runs" + (" and is connected" if is_connected else "")
        self._agent.until(what, lambda status: status["broker"]["connected"] or not is_connected)

    async def stop(self) -> None:
        if self.is_on:
            await asyncio.to_thread(self._agent.stop)

    async def crash(self) -> None:
        if self.is_on:
            await asyncio.to_thread(self._agent.kill)

    async def status(self) -> Json:
        return await self._command("status")

    def get_token(self, query: Mapping[str, str] | None = None, *, timeout_s: float = 10.0) -> tuple[int, JsonObject]:
        return get_token(self.token_socket, query or {}, timeout_s=timeout_s)

    async def _ask_token(self, query: Mapping[str, str]) -> tuple[int, JsonObject]:
        return await asyncio.to_thread(get_token, self.token_socket, query, timeout_s=WITHIN_S + testkit.HANDOFF_WAIT_S)

    async def _command(self, command: str, person: SandboxPerson | None = None, **args: Any) -> Json:
        """Ask the agent on its control socket, as the command line does. Raises ClientError."""
        silence_s = WITHIN_S + float(args.get("wait_s", 0.0))
        path = self._agent.home / CONTROL_SOCKET
        return await asyncio.to_thread(control_call, path, command, args, on_ask=person, silence_s=silence_s)


class SandboxPhone(_SandboxDevice, testkit.Phone):
    """The phone's program."""

    async def sign_in(self, username: str = "") -> None:
        person = SandboxPerson(self._sandbox, username)
        await self._command("sign_in", person, **person.options)

    async def hand_off(
        self,
        device: str = "watch",
        *,
        strategy: Strategy | None = None,
        lease_days: int | None = None,
        wait_s: float = testkit.HANDOFF_WAIT_S,
    ) -> str:
        person = SandboxPerson(self._sandbox, "")
        wish: JsonObject = {"device": device, "wait_s": wait_s}
        wish |= {} if strategy is None else {"strategy": strategy}
        wish |= {} if lease_days is None else {"lease_days": lease_days}
        return str((await self._command("handoff", person, **wish))["state"])

    async def cancel(self, device: str = "watch") -> str:
        return str((await self._command("cancel", device=device))["state"])

    async def revoke(self, device: str = "watch", *, wait_s: float = testkit.REVOKE_WAIT_S) -> bool:
        return not (await self._command("revoke", device=device, wait_s=wait_s, yes=True))["pending"]


class SandboxCompanion(_SandboxDevice, testkit.Companion):
    """The companion's program."""

    async def _crash_at(self, fault: str) -> None:
        sandbox = self._sandbox
        mark = await asyncio.to_thread(sandbox.let_next_refresh, fault)
        ends_at = time.monotonic() + WITHIN_S
        asking = asyncio.ensure_future(self.token(force_refresh=True))
        while not await asyncio.to_thread(self._is_held, mark):
            if asking.done() and asking.result() and time.monotonic() < ends_at:
                asking = asyncio.ensure_future(self.token(force_refresh=True))  # it joined an older refresh
            elif asking.done() or time.monotonic() >= ends_at:
                raise ClientError("failed", f"no refresh began: {await asking}")
        await self.crash()
        with contextlib.suppress(ClientError):
            await asking

    def _is_held(self, mark: int) -> bool:
        """Return whether the provider holds a request; wait a moment for it."""
        return any(event["kind"] == "request_held" for event in self._sandbox.events(mark, HELD_POLL_S))


class SandboxWorld(testkit.RelayWorld):
    """See :mod:`.simulation.testkit.api`; ``sandbox_url`` is the sandbox's address, for ``sandbox ctl --url``."""

    flavour = "sandbox"
    phone: SandboxPhone
    companion: SandboxCompanion

    def __init__(
        self, profile: ProfileName = "entra", *, seed: int | None = None, access_token_lifetime_s: float | None = None
    ) -> None:
        if profile not in get_args(ProfileName):
            known = ", ".join(get_args(ProfileName))
            raise ValueError(f"the sandbox has no profile {profile!r}; it has {known}")
        self.profile = profile
        self._began_at = time.monotonic()
        self._stack = ExitStack()
        try:
            self._programs = self._stack.enter_context(Programs(os.environ, Interrupts()))
            words = ["sandbox", "--json", "--http-port", "0", "--mqtt-port", "0", "--profile", profile]
            words += [] if seed is None else ["--seed", str(seed)]
            if access_token_lifetime_s is not None:
                words += ["--access-token-lifetime", f"{access_token_lifetime_s:g}"]
            announced = self._programs.start(*words, log="sandbox.log").find(r"^\{.*\}$")[0]
            self._sandbox = Sandbox(announced)
            self.sandbox_url = str(self._sandbox.facts["http"])
            self.provider = testkit.ProviderControls(self._ask, self._resource)
            self.links = testkit.Links(self._ask)
            self._start_devices(self._sandbox.facts["init"])
        except BaseException:
            self._stack.close()
            raise

    def _start_devices(self, init: Mapping[str, str]) -> None:
        """Make both homes, start both agents, pair them; each step side by side."""
        phone = DemoAgent(self._programs, "phone", "phone")
        companion = DemoAgent(self._programs, "companion", "watch")
        begun = [agent(*shlex.split(init[agent.kind])[2:]) for agent in (phone, companion)]
        for program in begun:
            program.expect(0)
        self.phone = SandboxPhone(self._sandbox, phone, self.links)
        self.companion = SandboxCompanion(self._sandbox, companion, self.links)
        for device in (self.phone, self.companion):
            device.begin()
        for device in (self.phone, self.companion):
            device.wait_until_started(is_connected=True)
        shown = control_call(companion.home / CONTROL_SOCKET, "pair", {"wait": False}, silence_s=WITHIN_S)
        wish: JsonObject = {"invitation": shown["invitation"], "yes": True}
        control_call(phone.home / CONTROL_SOCKET, "pair", wish, silence_s=WITHIN_S)

    async def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        raise RuntimeError(
            "real time cannot be put forward: take relay_world, or move the provider's clock alone: provider.advance()"
        )

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        return await work

    @property
    def time_s(self) -> float:
        return time.monotonic() - self._began_at

    async def _pause(self) -> None:
        await asyncio.sleep(testkit.POLL_S)

    def close(self) -> None:
        self._stack.close()

    def describe(self) -> str:
        links = control_answer(*self._request("GET", "links", None))["links"]
        events = control_answer(*self._request("GET", "events", None))["events"]
        states = [f"{link['name']} is {link['state']}" for link in links]
        states += [f"{device.name} is {'on' if device.is_on else 'off'}" for device in (self.phone, self.companion)]
        lines = [event_line(event, events[0]["at"]) for event in events[-EVENTS_SHOWN:]]
        for name, tail in self._programs.log_tails():
            lines += [f"-- the end of {name}.log", *tail]
        return "\n".join([f"{self.profile}, {self.time_s:.1f} s; {', '.join(states)}", *lines])

    def _request(self, method: str, path: str, value: Mapping[str, object] | None) -> tuple[int, bytes]:
        body = b"" if value is None else json.dumps(value).encode()
        headers = {"Content-Type": "application/json"}
        status, _, raw = self._sandbox.request(method, f"{PREFIX}{path}", body=body, headers=headers)
        return status, raw

    async def _ask(self, method: str, path: str, value: Mapping[str, object] | None) -> Json:
        return control_answer(*await asyncio.to_thread(self._request, method, path, value))

    async def _resource(self, access_token: str) -> int:
        return await asyncio.to_thread(self._sandbox.show_to_resource, AccessToken(access_token))
