"""The two agents as a test holds them: a home, the command line in front of it, and the process behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from tests.e2e.processes import Program, Ran, eventually
from tests.watchdog import HANG_S
from token_relay.cli.client import ClientError, control_call

if TYPE_CHECKING:
    from tests.e2e.kit import World

Kind = Literal["phone", "companion"]
OTP_USER, PASSWORD_USER, PASSWORD = "otp@contoso.example", "password@contoso.example", "correct-horse-7-battery"


class Agent:
    """One agent with its home: initialised once, started and ended as often as a test wants."""

    def __init__(self, world: World, kind: Kind, name: str) -> None:
        self.world = world
        self.kind = kind
        self.name = name
        self.home = world.directory / name
        self.device_id = ""
        self.program: Program | None = None

    async def __call__(self, *words: str, stdin: str | None = None, is_permitted: bool = False) -> Ran:
        """Run one command of this agent to its end; ``is_permitted``: its output may hold a token."""
        program = await self.begin(*words, stdin=stdin, is_permitted=is_permitted)
        return await program.ended()

    async def begin(self, *words: str, stdin: str | None = None, is_permitted: bool = False) -> Program:
        """Start one command of this agent."""
        line = (self.kind, *words, "--home", str(self.home))
        command = self.world.commands.get(self.name, ())
        program = await self.world.start(*line, stdin=stdin is not None, is_permitted=is_permitted, command=command)
        if stdin is not None:
            await program.write(stdin)
        return program

    async def run(self, *, is_connected: bool = True) -> Program:
        """Start the agent and wait until it listens (and has reached the broker)."""
        assert self.program is None or not self.program.is_running, "it runs already"
        self.program = await self.begin("run")
        await self.program.logged("agent_started")
        if is_connected:
            await self.program.logged("mqtt_connected")
        return self.program

    @property
    def running(self) -> Program:
        assert self.program is not None
        return self.program

    async def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        await self.running.terminate()

    async def kill(self) -> None:
        """kill -9."""
        await self.running.kill()

    async def control(self, command: str, **args: Any) -> dict[str, Any]:
        """Ask the agent over its control socket, as the command line does, without a process for it."""
        path = self.home / "control.sock"
        return dict(await asyncio.to_thread(control_call, path, command, args, silence_s=HANG_S))

    async def status(self) -> dict[str, Any]:
        """What ``status --json`` prints."""
        return await self.control("status")

    async def until(self, what: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until the status fulfils a condition, and return it."""

        async def look() -> dict[str, Any] | None:
            try:
                status = await self.status()
            except ClientError:
                return None
            return status if holds(status) else None

        try:
            return await eventually(what, look)
        except AssertionError:
            with contextlib.suppress(ClientError):
                print(json.dumps(await self.status(), indent=1))
            print(self.running.text)
            raise

    async def until_gone(self, name: str) -> None:
        """Wait until a file of the home is no longer there."""

        async def look() -> bool:
            return not (self.home / name).exists()

        await eventually(f"the end of {name}", look)

    async def action(self) -> str:
        """The slug of what a person must do, or an empty string."""
        action = (await self.status())["action"]
        return "" if action is None else str(action["slug"])

    async def events(self) -> list[str]:
        """The names in the audit table, oldest first."""
        return [row["name"] for row in (await self.control("events", limit=1000))["events"]]

    def edit_config(self, old: str, new: str) -> None:
        """Change the configuration; it counts from the next start."""
        path = self.home / "config.toml"
        text = path.read_text()
        assert old in text, f"{old!r} is not in {path}"
        path.write_text(text.replace(old, new))

    async def token(self, *options: str) -> str:
        """Return an access token; the one output that may hold one.

        A fast machine asks more often than the agent allows a user; it is told so, and asks again, as an app does.
        """

        async def look() -> str:
            ran = await self("token", *options, is_permitted=True)
            is_too_often = ran.code != 0 and "busy: " in ran.err
            return "" if is_too_often else ran.expect(0).last_line

        return await eventually("an access token", look)

    async def gets_in(self, *options: str) -> str:
        """Return a token that the protected resource accepts.

        The provider counts whole seconds and the agent does not: where tokens live for two seconds, one that the
        agent still trusts may be refused for up to one. An app asks again then, and so does this.
        """

        async def look() -> str:
            token = await self.token(*options)
            return token if (await self.world.sandbox.resource(token))[0] == 200 else ""

        return await eventually("a token that the resource accepts", look)


class Phone(Agent):
    """The phone's agent."""

    async def sign_in(self, username: str = OTP_USER) -> Ran:
        """Sign in as a person would with this profile's usual way."""
        sandbox = self.world.sandbox
        if sandbox.profile != "entra":
            return await self.with_browser("sign-in", "--browser", "--no-open")
        if username == PASSWORD_USER:
            return (await self("sign-in", "--username", username, "--password-file", "-", stdin=PASSWORD)).expect()
        line = ("phone", "sign-in", "--home", str(self.home), "--username", username, "--otp-file", "-")
        program = await self.world.start(*line, stdin=True, command=self.world.commands.get(self.name, ()))
        await program.write(await sandbox.code(username) + "\n")
        return (await program.ended()).expect()

    async def with_browser(self, *words: str, code: int = 0) -> Ran:
        """Run a command that signs in with a browser, and be the person at that browser."""
        program = await self.begin(*words)
        url = (await program.find(r"^(?:open in a browser: )?(https?://\S+)$"))[1]
        await self.world.sandbox.fill_in_form(url, PASSWORD_USER, PASSWORD)
        return (await program.ended()).expect(code)

    async def hand_off(self, device: Agent, *options: str, code: int = 0) -> Ran:
        """Hand off with this profile's usual strategy, signing in where it needs that."""
        words = ("handoff", device.name, "--wait", "20", *options)
        if self.world.sandbox.profile == "entra" or "move" in options:
            return (await self(*words)).expect(code)
        return await self.with_browser(*words, "--browser", "--no-open", code=code)

    async def handoffs(self, device: Agent) -> list[dict[str, Any]]:
        """This phone's handoffs to a device, oldest first within each of its pairings."""
        devices = (await self.status())["devices"]
        return [row for one in devices if one["device_id"] == device.device_id for row in one["handoffs"]]


class Companion(Agent):
    """The companion's agent."""

    async def invitation(self) -> str:
        """Show an invitation and return its text."""
        return (await self("pair", "--no-qr", "--no-wait")).expect(0).last_line

    async def grant(self) -> dict[str, Any]:
        """The newest grant, as ``status`` shows it; empty when there is none."""
        grants = (await self.status())["grants"]
        return dict(grants[-1]) if grants else {}

    async def until_generation(self, generation: int) -> dict[str, Any]:
        """Wait until the newest grant is held in this generation, and return it."""
        status = await self.until(
            f"generation {generation}",
            lambda s: (
                s["grants"] and s["grants"][-1]["state"] == "held" and s["grants"][-1]["generation"] == generation
            ),
        )
        return dict(status["grants"][-1])


async def pair(phone: Phone, companion: Companion) -> None:
    """Pair the two by their command lines; returns when both have it on disk."""
    invitation = await companion.invitation()
    (await phone("pair", "--yes", invitation)).expect()


async def ready(world: World, name: str = "watch") -> tuple[Phone, Companion]:
    """A signed-in phone, paired with one companion: where most stories begin."""
    phone, companion = await asyncio.gather(world.phone(), world.companion(name))
    await phone.sign_in()
    await pair(phone, companion)
    return phone, companion
