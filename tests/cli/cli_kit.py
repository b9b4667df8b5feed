"""Helpers of these tests: the command line in this process or its own, and an agent whose answers a test writes.

The agent is the real control server and the real token API over real sockets, in a thread; only what stands behind
them is a script.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.watchdog import HANG_S
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused, TransferGranted, TransferQuery
from token_relay.apps.policy import Policy
from token_relay.apps.server import TokenApi
from token_relay.cli.parsing import Context
from token_relay.host.clock import SystemClock
from token_relay.service.control import JSON, ControlServer, Exchange, Handler

Answer = TokenGranted | TokenRefused


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    encoding = "utf-8"  # StringIO has none; a terminal has one

    def isatty(self) -> bool:
        return True


class Pipe(io.StringIO):
    """A text stream that is none."""

    encoding = "utf-8"  # as above


@dataclass
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.out.rstrip("\n").rpartition("\n")[2]


@dataclass
class Shell:
    """Runs ``token-relay`` in this process, with streams and environment of its own."""

    monkeypatch: pytest.MonkeyPatch
    env: dict[str, str]

    def __call__(self, *arguments: str, stdin: str | io.StringIO = "", tty: bool = False) -> Ran:
        from token_relay.cli import main as cli

        out, err = (Terminal(), Terminal()) if tty else (Pipe(), Pipe())
        source = stdin if isinstance(stdin, io.StringIO) else Pipe(stdin)
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", source)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(os, "environ", {**self.env})
            code = cli.main(list(arguments))
        return Ran(code, out.getvalue(), err.getvalue())


def context(stdin: str | io.StringIO = "", *, env: Mapping[str, str] | None = None, as_json: bool = False) -> Context:
    """Return a context over pipes."""
    source = stdin if isinstance(stdin, io.StringIO) else Pipe(stdin)
    return Context(env or {}, source, Pipe(), Pipe(), as_json=as_json)


def run_process(
    *arguments: str, env: Mapping[str, str], cwd: Path, stdin: str = "", encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    """Run ``token-relay`` as a process of its own, as a person's shell does."""
    return subprocess.run(
        [sys.executable, "-m", "token_relay.cli", *arguments],
        env={"PATH": os.environ["PATH"], "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(sys.path), **env},
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        encoding=encoding,
        timeout=HANG_S,
        check=False,
    )


# -- An agent ----------------------------------------------------------------------------------------------


@dataclass
class Agent:
    """An agent that answers what the test wrote, and remembers what it was asked."""

    directory: Path
    handlers: dict[str, Handler] = field(default_factory=dict)
    token: Answer | None = None
    calls: list[tuple[str, dict[str, JSON]]] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    queries: list[TokenQuery] = field(default_factory=list)
    transfer: TransferGranted | TokenRefused | None = None
    transfers: list[TransferQuery] = field(default_factory=list)

    def replies(self, command: str, result: dict[str, JSON]) -> None:
        """Let ``command`` succeed at once."""

        async def handle(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            self.calls.append((command, args))
            return result

        self.handlers[command] = handle

    def asks(self, command: str, kind: str, text: str, result: dict[str, JSON], **extra: JSON) -> None:
        """Let ``command`` ask one question and then succeed."""

        async def handle(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            self.calls.append((command, args))
            self.answers.append(await exchange.ask(kind, text, **extra))  # type: ignore[arg-type]  # any kind
            return result

        self.handlers[command] = handle

    def raises(self, command: str, error: Exception) -> None:
        """Let ``command`` fail."""

        async def handle(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            self.calls.append((command, args))
            raise error

        self.handlers[command] = handle

    async def get_session_transfer(self, query: TransferQuery) -> TransferGranted | TokenRefused:
        self.transfers.append(query)
        assert self.transfer is not None
        return self.transfer

    async def get_token(self, query: TokenQuery) -> Answer:
        self.queries.append(query)
        assert self.token is not None
        return self.token

    @contextmanager
    def running(self) -> Iterator[Agent]:
        """Serve both sockets until the block ends."""
        started, failures = threading.Event(), []
        stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def serve() -> None:
            control = ControlServer(self.handlers, owner_uid=os.geteuid(), kind="phone")
            tokens = TokenApi(self, Policy(os.geteuid()), clock=SystemClock(), transfers=self)
            await control.start(self.directory / "control.sock")
            await tokens.start(self.directory / "token.sock")
            ended = asyncio.Event()
            stop.append((asyncio.get_running_loop(), ended))
            started.set()
            try:
                await ended.wait()
            finally:
                await tokens.stop()
                await control.stop()

        def work() -> None:
            try:
                asyncio.run(serve())
            except BaseException as exc:
                failures.append(exc)
                started.set()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert started.wait(HANG_S)
            if not failures:
                yield self
        finally:
            for loop, ended in stop:
                loop.call_soon_threadsafe(ended.set)
            thread.join()
        if failures:
            raise failures[0]
