"""Real programs for end-to-end tests: ``token-relay`` as users start it, one process each, on real sockets.

:class:`World` owns everything of one test: a short directory, broker, sandbox provider, agents, and whatever
any of them wrote. Nothing in here sleeps to be in time: programs are waited for by the lines they log, the provider by
its event long poll, the rest by :func:`eventually`, the only place that asks again and again.

Leaving the ``async with`` ends every process, and then holds three promises for every test alike: no program printed a
traceback, no marked token stands in anything that was written (output, logs, homes, command lines, environments), and
no process is left. A test that means one of these to fail says so by :attr:`World.permitted`.

Usable without pytest::

    async with World("auth0") as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests import refusals
from tests.channel.mosquitto import Mosquitto
from tests.e2e.agents import OTP_USER, PASSWORD, PASSWORD_USER, Agent, Companion, Phone, pair, ready
from tests.e2e.processes import COMMAND, Program, Ran, eventually
from tests.e2e.provider_control import Sandbox
from token_relay.sandbox.marked_tokens import find_marked

__all__ = [
    "OTP_USER",
    "PASSWORD",
    "PASSWORD_USER",
    "Agent",
    "BrokerKind",
    "Companion",
    "Phone",
    "Program",
    "Ran",
    "World",
    "eventually",
    "pair",
    "ready",
]

BrokerKind = Literal["sandbox", "mosquitto", "mosquitto-311", "mutual-tls"]


@dataclass
class World:
    """Everything of one test. ``access_token_lifetime_s`` is the provider's; ``world_toml`` more of its world."""

    profile: str = "entra"
    broker: BrokerKind = "sandbox"
    access_token_lifetime_s: float = 3600.0
    world_toml: str = ""
    by_exec: bool = False
    """Whether each program is a new interpreter, as a shell starts it, and not a fork of one that waits."""
    commands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By an agent's name: how its program is started, if it is not the one of this tree."""
    directory: Path = field(init=False)
    sandbox: Sandbox = field(init=False)
    mosquitto: Mosquitto | None = field(init=False, default=None)
    programs: list[Program] = field(init=False, default_factory=list)
    agents: list[Agent] = field(init=False, default_factory=list)
    permitted: set[str] = field(init=False, default_factory=set)
    """Names of what may hold a marked token: a program's words joined, or a file's path."""
    _seen_by_others: list[tuple[str, bytes]] = field(init=False, default_factory=list)
    _signing: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    async def __aenter__(self) -> Self:
        # short: a Unix socket's path has at most 107 bytes (unix(7)), and pytest's directories are long
        self.directory = Path(tempfile.mkdtemp(prefix="tr-", dir="/tmp"))
        try:
            await self._start_broker()
            await self._start_sandbox()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.check_for_leaks()
        finally:
            problems = await self._end()
            if error is not None:
                for program in self.programs:
                    if "run" in program.words or program.process.returncode not in (0, None):
                        print(f"--- {' '.join(program.words)}: exit {program.process.returncode}\n{program.text}")
        if error is None:
            assert not problems, "\n".join(problems)

    # -- starting things -------------------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """The environment of every program: nothing of the tester's own."""
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
            "PYTHONWARNINGS": "default",
        }

    async def start(
        self, *words: str, stdin: bool = False, is_permitted: bool = False, command: tuple[str, ...] = ()
    ) -> Program:
        """Start ``token-relay``, or another ``command``, with these words; it is ended with the world."""
        command = command or (COMMAND if self.by_exec else ())
        env = self.env | (refusals.inherited() if command else {})
        program = await Program.start(*words, env=env, cwd=self.directory, stdin=stdin, command=command)
        self.programs.append(program)
        self._seen_by_others.append((" ".join(words), program.seen_by_others()))
        if is_permitted:
            self.permitted.add(" ".join(words))
        return program

    async def run(self, *words: str) -> Ran:
        """Run a command that belongs to no agent."""
        return await (await self.start(*words)).ended()

    async def _start_broker(self) -> None:
        match self.broker:
            case "mosquitto" | "mosquitto-311":
                self.mosquitto = Mosquitto(self.directory / "broker", "max_packet_size 20480")
            case "mutual-tls":
                self.mosquitto = Mosquitto(self.directory / "broker")
                port = str(self.mosquitto.port)
                (await self.run("certs", "init", "--dir", "ca", "--port", port)).expect()
                (await self.run("certs", "issue", "127.0.0.1", "--dir", "ca")).expect()
                conf = self.directory / "ca" / "broker" / "mosquitto.conf"
                if os.geteuid() == 0:  # else it would change to an account that cannot read below this directory
                    conf.write_text(conf.read_text() + "user root\n")
                self.mosquitto.config = conf
            case "sandbox":
                return
        await self.mosquitto.start()

    async def _start_sandbox(self) -> None:
        words = ["sandbox", "--json", "--http-port", "0", "--mqtt-port", "0", "--profile", self.profile]
        words += ["--access-token-lifetime", f"{self.access_token_lifetime_s:g}"]
        if self.world_toml:
            path = self.directory / "world.toml"
            path.write_text(self.world_toml)
            words += ["--world", str(path)]
        program = await self.start(*words)
        await program.find(r"^\{.*\}$")
        self.sandbox = Sandbox(json.loads(bytes(program.out)))

    @property
    def broker_url(self) -> str:
        """What ``--broker`` is given."""
        if self.mosquitto is None:
            return self.sandbox.mqtt
        return f"{'mqtts' if self.broker == 'mutual-tls' else 'mqtt'}://127.0.0.1:{self.mosquitto.port}"

    @property
    def broker_port(self) -> int:
        return int(self.broker_url.rpartition(":")[2])

    async def phone(
        self, name: str = "phone", *options: str, provider: str = "", may_release: bool = True, is_running: bool = True
    ) -> Phone:
        """Initialise (and start) a phone; ``provider`` is where it finds the sandbox, if not at its own address."""
        sandbox = self.sandbox
        words = ["--provider", provider or (sandbox.http if sandbox.profile == "entra" else sandbox.issuer)]
        words += ["--client-id", sandbox.client_id, "--profile", sandbox.profile]
        if sandbox.profile == "entra":
            words += ["--tenant", sandbox.tenant]
        if may_release:
            words.append("--allow-refresh-token-access")
        phone = Phone(self, "phone", name)
        await self._init(phone, *words, *options, is_running=is_running)
        return phone

    async def companion(self, name: str = "watch", *options: str, is_running: bool = True) -> Companion:
        """Initialise (and start) a companion."""
        companion = Companion(self, "companion", name)
        hosts = () if name in self.commands else ("--provider-host", "127.0.0.1")  # an old program asks for none
        await self._init(companion, *hosts, *options, is_running=is_running)
        return companion

    async def _init(self, agent: Agent, *options: str, is_running: bool) -> None:
        self.agents.append(agent)
        made = await agent("init", "--broker", self.broker_url, "--name", agent.name, *options)
        agent.device_id = made.expect().last_line
        if self.broker == "mosquitto-311":
            agent.edit_config('# protocol = "5"', 'protocol = "3.1.1"')
        if self.broker == "mutual-tls":
            async with self._signing:  # a second `certs` command at the same time is refused
                (await self.run("certs", "sign", f"{agent.home}/device.csr", "--dir", "ca")).expect()
            shutil.copy(self.directory / "ca" / "ca.pem", agent.home / "ca.pem")
        if is_running:
            await agent.run()

    # -- what holds at every end -----------------------------------------------------------------------

    def written(self) -> Iterator[tuple[str, bytes]]:
        """Everything that the programs have written so far, or that others can see of them, with its name."""
        for program in self.programs:
            name = " ".join(program.words)
            yield name, bytes(program.out + b"\n" + program.err)
            if program.is_running:
                yield f"{name} in /proc", program.seen_by_others()
        for name, found in self._seen_by_others:
            yield f"{name} in /proc", found
        for path in sorted(self.directory.rglob("*")):
            if path.is_file():
                yield str(path), path.read_bytes()

    def leaks(self) -> list[str]:
        """Name every place where a marked token or the password stands in clear or in an encoding of it."""
        found = []
        for name, data in self.written():
            if name in self.permitted:
                continue
            places = find_marked(data)
            if not name.startswith("sandbox "):  # it announces the password of its own users
                places += find_marked(data, PASSWORD)
            found += [f"{name}: {leak.encoding} at {leak.offset}" for leak in places]
        return found

    def check_for_leaks(self) -> None:
        """Assert that nothing has leaked so far."""
        found = self.leaks()
        assert not found, "\n".join(found)

    async def _end(self) -> list[str]:
        """End every process; returns what must not be."""
        problems = []
        for program in self.programs:
            if program.is_running:
                program.process.send_signal(signal.SIGTERM)
        for program in reversed(self.programs):
            try:
                await program.ended()
            except AssertionError as exc:
                problems.append(str(exc))
                await program.kill()
            if b"Traceback (most" in program.err or b"internal_error" in program.out + program.err:
                problems.append(f"a traceback or an internal error of {program.words}:\n{program.text}")
            if b"Warning: " in program.err or b"library_warned" in program.err:
                problems.append(f"a warning of {program.words}:\n{program.text}")
        if self.mosquitto is not None:
            await self.mosquitto.stop()
        problems += [f"left behind: {line}" for line in self._left_behind()]
        shutil.rmtree(self.directory)
        return problems

    def _left_behind(self) -> Iterator[str]:
        """Name every process whose command line names our directory."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has just ended
                line = path.read_bytes()
                if os.fsencode(self.directory) in line:
                    yield line.replace(b"\0", b" ").decode(errors="replace")
