"""The two ends of the lab's handoffs: those whose homes a person named, else two of the sandbox's own, made on demand.

Those of its own are programs like any agent, in a temporary directory, and end with the sandbox; they are reached
through its links. The limit of :mod:`.programs` holds here too: SIGKILL of the sandbox leaves them behind.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from token_relay.cli.client import ClientError, connect, locate
from token_relay.cli.demo.checks import StepFailedError
from token_relay.cli.demo.programs import WITHIN_S, Interrupts, Programs
from token_relay.console import event_words
from token_relay.console.agent_client import AgentClient
from token_relay.host.paths import CONTROL_SOCKET, Kind, agent_home
from token_relay.pages.columns import Happening
from token_relay.pages.conversation import Talk
from token_relay.pages.words import sentence
from token_relay.protocol.errors import LocalError, RelayError, TransientError

KINDS: tuple[Kind, ...] = ("phone", "companion")


class LabEnds:
    """A phone's agent and a companion's. ``init`` are the command lines that make them."""

    def __init__(self, init: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self._init, self._environment = init, environment
        self._homes = environment.get("TOKEN_RELAY_HOMES", "")
        self._programs: Programs | None = None
        self._starting: asyncio.Task[None] | None = None
        self._clients = {kind: AgentClient(kind, partial(self._place, kind)) for kind in KINDS}

    @property
    def are_running(self) -> bool:
        """Whether both listen."""
        if not self._homes and self._programs is None:
            return False
        try:
            for kind in KINDS:
                connect(self._home(kind) / CONTROL_SOCKET).close()
        except ClientError:
            return False
        return True

    def _home(self, kind: Kind) -> Path:
        if self._homes:
            return agent_home(kind, {"TOKEN_RELAY_HOMES": self._homes})
        if self._programs is None:
            raise LocalError("no phone and no companion run here", hint="start them on the page of the relay")
        return self._programs.directory / kind

    def _place(self, kind: Kind, name: str) -> Path:
        home = self._home(kind)
        return locate(kind, {}, name=name, home=home) if self._homes else home / name

    async def start(self) -> None:
        """Make both and run them; without effect on ones that run. Raises RelayError.

        It goes on when its caller is cancelled, as by a browser that goes away: half of it would be left behind.
        """
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
            # Seen: where the caller has gone, nobody else looks, and asyncio complains.
            self._starting.add_done_callback(lambda start: start.cancelled() or start.exception())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        if self.are_running:
            return
        if self._homes:
            lines = " and ".join(f"token-relay {kind} run" for kind in KINDS)
            raise LocalError(f"the agents of {self._homes} do not run", hint=f"start them: {lines}")
        await self._end()
        programs = Programs(self._environment, Interrupts())
        self._programs = await asyncio.to_thread(programs.__enter__)
        try:
            await asyncio.to_thread(_run, self._programs, self._init)
            async with asyncio.timeout(WITHIN_S):
                while not self.are_running:
                    _check(self._programs)
                    await asyncio.sleep(0.05)
        except (StepFailedError, TimeoutError) as exc:
            await self._end()
            raise TransientError("the two agents do not start", hint=str(getattr(exc, "got", ""))) from exc

    async def call(
        self,
        end: Kind,
        command: str,
        args: Mapping[str, object],
        talk: Talk | None = None,
    ) -> Mapping[str, Any]:
        """Give a command of control.sock, and return its result. Raises RelayError."""
        return await self._clients[end].call(command, dict(args), talk)

    async def access_token(self, end: Kind, *, force_refresh: bool = False) -> Mapping[str, object]:
        """Ask for an access token on token.sock. Raises RelayError."""
        status, body = await self._clients[end].token({"force_refresh": "true"} if force_refresh else {})
        if status != 200:
            raise RelayError(f"{body.get('error')}: {body.get('detail')}", hint=str(body.get("action") or ""))
        return body

    def happenings(
        self, end: Kind, events: Sequence[Mapping[str, Any]], messages: Sequence[Mapping[str, Any]]
    ) -> list[Happening]:
        """Return what an end wrote down and the messages that it saw, all in its own column.

        The columns of the broker and the provider are their own here, so that what an end believes of them is left
        out, or stands with the end.
        """
        found = (one for one in event_words.happenings(end, events, messages) if one.column != "broker")
        return [replace(one, column=end, text=sentence(one.text.removeprefix(f"The {end}: "))) for one in found]

    async def stop(self) -> None:
        """End the agents that were started here, and remove their homes."""
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._end()

    async def _end(self) -> None:
        programs, self._programs = self._programs, None
        if programs is not None:
            await asyncio.to_thread(programs.__exit__, None, None, None)


def _run(programs: Programs, init: Mapping[str, str]) -> None:
    """Make both homes, and start both agents. Raises StepFailedError."""
    begun = []
    for kind in KINDS:
        _program, _kind, *words = shlex.split(init[kind])
        begun.append(programs.start(kind, *words, "--home", str(programs.directory / kind)))
    for program in begun:
        program.expect(0)
    for kind in KINDS:
        programs.start(kind, "run", "--home", str(programs.directory / kind), log=f"{kind}.log")


def _check(programs: Programs) -> None:
    """Raise StepFailedError if an agent has ended."""
    for name, lines in programs.log_tails() if programs.count_left() < len(KINDS) else ():
        raise StepFailedError(f"{name} runs", " ".join(lines))
