"""Walks a page with numbered steps: each command word for word by the real program at a terminal, and what is seen.

What the pages name and a test cannot have stands in three tables, and nowhere else: :data:`WORDS` (a name on the page,
and what the test has in its place), :data:`MACHINERY` (commands of the machine: systemctl, the provider's
administration), :data:`ANSWERS` (what a person types at a question).
"""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.agents import OTP_USER, Agent
from tests.e2e.kit import World
from tests.e2e.terminal import Terminal
from tests.pages.numbered_steps import Deed, Step, pattern_of, steps_of
from tests.watchdog import HANG_S

DOCS = Path(__file__).parents[2] / "docs"

# A name on a page, and what the test has in its place, in this order: {home} is the home of the machine's agent, and
# {machine} the directory that it lies in.
WORDS = {
    "sudo ": "",
    "ann@contoso.example": OTP_USER,
    "/var/lib/token-relay-ca": "{ca}",
    "/var/lib/token-relay/companion": "{home}",
    "~/.local/state/token-relay/phone": "{home}",
    "/var/lib/token-relay": "{machine}",
    "/root/": "{machine}/",
    "/etc": "{machine}/etc",
}
UNIT = r"token-relay-(?:companion|phone)"


@dataclass
class Walk:
    """A person with a page in front of them, who goes from machine to machine."""

    world: World
    places: dict[str, Agent]
    words: dict[str, str] = field(default_factory=dict)
    """Placeholders of this page, such as DEVICE-ID."""
    before: dict[int, Callable[[], Awaitable[object]]] = field(default_factory=dict)
    """By the number of a step: what happens before it without a command, such as a file that the person carries."""
    _open: dict[str, tuple[Step, Terminal]] = field(default_factory=dict)
    _terminals: AsyncExitStack = field(default_factory=AsyncExitStack)
    _invitation: str = ""

    async def page(self, name: str) -> None:
        """Take every step of a page."""
        steps = steps_of((DOCS / name).read_text(encoding="utf-8"))
        async with AsyncExitStack() as self._terminals:
            for step in steps:
                print(f"--- {name}, step {step.number}: {step.text}")
                if (happens := self.before.pop(step.number, None)) is not None:
                    await happens()
                for deed in step.deeds:
                    await self._do(step, deed)
            assert not self._open, f"{name} does not say how these end: {list(self._open)}"

    async def _do(self, step: Step, deed: Deed) -> None:
        if not deed.command:
            begun, terminal = self._open.pop(step.place)
            await self._see(begun, terminal, deed)
            return
        command = self._worded(step, deed.command)
        for pattern, do in MACHINERY.items():
            if re.fullmatch(pattern, command):
                self._find(step, deed, await do(self, step) or "")
                return
        words = shlex.split(command)
        if words[0] == "token-relay":
            terminal = Terminal(*words[1:], env=self._env(step), cwd=self.world.directory)
            await self._see(step, await self._terminals.enter_async_context(terminal), deed)
            return
        ran = await asyncio.to_thread(
            subprocess.run, ["sh", "-ec", command], cwd=self.world.directory, env=self._env(step),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=HANG_S,
        )  # fmt: skip
        assert ran.returncode == deed.exit_code, f"{command}: exit {ran.returncode}\n{ran.stdout}"
        self._find(step, deed, ran.stdout)

    async def _see(self, step: Step, terminal: Terminal, deed: Deed) -> None:
        """Wait for the lines, answer the questions among them, and wait for the end unless it goes on."""
        for line in deed.seen:
            question, answer = self._question(self._worded(step, line))
            found = await terminal.sees(pattern_of(question) + ("" if answer else r"[ ]*\n"))
            if invitation := re.search(r"RTR1:[A-Z2-7]+", found[0]):
                self._invitation = invitation[0]
            if answer:
                await terminal.types(answer if isinstance(answer, str) else await answer(self))
        if deed.goes_on:
            self._open[step.place] = (step, terminal)
            return
        code = await terminal.ended()
        print(f"$ {deed.command}\n{terminal.text}exit {code}")
        assert code == deed.exit_code, f"step {step.number}: exit {code}\n{terminal.text}"

    def _find(self, step: Step, deed: Deed, text: str) -> None:
        at = 0
        for line in deed.seen:
            found = re.compile(pattern_of(self._worded(step, line)) + r"[ ]*$", re.MULTILINE).search(text, at)
            assert found, f"{deed.command}: no {line!r} in\n{text}"
            at = found.end()

    def _worded(self, step: Step, text: str) -> str:
        """Put the test's names in place of the page's."""
        for name, ours in {**self.words, **WORDS}.items():
            text = text.replace(name, ours)
        directories = {"ca": self.world.directory / "ca"}
        if (agent := self.places.get(step.place)) is not None:
            directories |= {"home": agent.home, "machine": agent.home.parent}
        return re.sub(r"\{(ca|home|machine)\}", lambda found: str(directories[found[1]]), text)

    def _env(self, step: Step) -> dict[str, str]:
        agent = self.places.get(step.place)
        return self.world.env | ({} if agent is None else {"TOKEN_RELAY_HOME": str(agent.home)})

    @staticmethod
    def _question(line: str) -> tuple[str, str | Callable[[Walk], Awaitable[str]]]:
        """Part a line into a question and the answer of the table; the answer may stand on the page behind it."""
        for pattern, answer in ANSWERS.items():
            if found := re.search(pattern, line):
                return line[: found.end()], answer
        return line, ""

    def agent(self, step: Step) -> Agent:
        """Return the agent of the machine where a step is done."""
        return self.places[step.place]


# -- Commands of the machine that a test does not have -----------------------------------------------------


async def _restart_broker(walk: Walk, step: Step) -> None:
    """Restart it; a person takes longer for the next step than the agents to connect again."""
    assert walk.world.mosquitto is not None
    running = [agent for agent in walk.places.values() if agent.program is not None and agent.program.is_running]
    connected = [agent for agent in running if (await agent.status())["broker"]["connected"]]
    lost = [sum(event["event"] == "mqtt_disconnected" for event in agent.running.events()) for agent in connected]
    await walk.world.mosquitto.restart()
    for agent, before in zip(connected, lost, strict=True):
        await agent.running.logged("mqtt_disconnected", count=before + 1)
        await agent.until("connected again", lambda status: status["broker"]["connected"])


async def _stop(walk: Walk, step: Step) -> None:
    await walk.agent(step).stop()


async def _start(walk: Walk, step: Step) -> None:
    agent = walk.agent(step)
    if agent.program is not None and agent.program.is_running:
        await agent.stop()
    agent.program = await agent.begin("run")
    await agent.program.logged("token_api_started")


async def _reload(walk: Walk, step: Step) -> None:
    walk.agent(step).running.process.send_signal(signal.SIGHUP)
    await walk.agent(step).until("connected", lambda status: status["broker"]["connected"])


async def _journal(walk: Walk, step: Step) -> str:
    return bytes(walk.agent(step).running.err).decode()


async def _end_sessions(walk: Walk, step: Step) -> None:
    await walk.world.sandbox.control("POST", "revoke", {"username": OTP_USER})


async def _is_this_program(walk: Walk, step: Step) -> None:
    """The program of this tree is the newer one; tests/booted installs it over an older one."""


MACHINERY: dict[str, Callable[[Walk, Step], Awaitable[str | None]]] = {
    r"systemctl restart mosquitto": _restart_broker,
    rf"systemctl stop '{UNIT}\*'": _stop,
    rf"systemctl (?:--user )?disable --now '?{UNIT}\*?'?": _stop,
    rf"systemctl (?:--user )?(?:start|restart|enable --now) {UNIT}": _start,
    rf"systemctl reload {UNIT}": _reload,
    rf"journalctl -u {UNIT} --since -5min": _journal,
    r"make install": _is_this_program,
    r"az rest --method POST --url https://graph\.microsoft\.com/v1\.0/users/\S+/revokeSignInSessions": _end_sessions,
}


# -- What a person types -----------------------------------------------------------------------------------


async def _typed_invitation(walk: Walk) -> str:
    return walk._invitation


async def _mailed_code(walk: Walk) -> str:
    return await walk.world.sandbox.code(OTP_USER)


ANSWERS: dict[str, str | Callable[[Walk], Awaitable[str]]] = {
    r"\[y/N\]": "y",
    r"\(RTR1:…\):": _typed_invitation,
    r"[Cc]ode .*:$": _mailed_code,
}
