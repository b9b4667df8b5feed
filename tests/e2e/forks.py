"""The tests' end of the fork server: one server for each process of pytest, and a fork of it as an asyncio process."""

from __future__ import annotations

import asyncio
import atexit
import functools
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from tests import refusals
from tests.e2e.fork_server import REQUEST_BYTES_MAX, ROOM_BYTES
from tests.watchdog import HANG_S

ROOT = Path(__file__).parents[2]
AT_START = ("LANG", "LC_ALL", "LC_CTYPE")  # what the interpreter reads once, beside PYTHON...: a fork comes too late


def of_start(env: Mapping[str, str]) -> dict[str, str]:
    """What an interpreter reads of its environment before any code runs."""
    return {name: value for name, value in env.items() if name in AT_START or name.startswith("PYTHON")}


class ForkServer:
    """Forks programs whose environment begins an interpreter like the server's."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours = {name: value for name, value in os.environ.items() if name == "PYTHONPYCACHEPREFIX"}
        with theirs:
            fd = str(theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.fork_server", fd, "-" * ROOM_BYTES],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", "")} | ours | refusals.inherited() | dict(env),
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
            )
        self._socket.settimeout(HANG_S)
        assert self._socket.recv(REQUEST_BYTES_MAX) == b"{}", "the fork server did not start"
        self._socket.settimeout(None)
        self._numbers = itertools.count()
        self._pids: dict[int, Future[int]] = {}
        self._codes: dict[int, Future[int]] = {}
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self.close)

    def _listen(self) -> None:
        while packet := self._socket.recv(REQUEST_BYTES_MAX):
            answer = json.loads(packet)
            for name, futures in (("pid", self._pids), ("code", self._codes)):
                if name in answer:
                    futures.pop(answer["number"]).set_result(answer[name])
        for future in [*self._pids.values(), *self._codes.values()]:
            future.set_exception(AssertionError("the fork server has ended"))

    async def start(self, argv: list[str], env: dict[str, str], cwd: Path, streams: list[int]) -> Forked:
        """Fork one program with these descriptors as its standard streams."""
        number = next(self._numbers)
        pid, code = self._pids[number], self._codes[number] = Future[int](), Future[int]()
        request = {"number": number, "argv": argv, "env": env, "cwd": str(cwd)}
        socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
        return Forked(await asyncio.wrap_future(pid), code)

    def close(self) -> None:
        """End the server, and with it whatever still runs."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait(HANG_S)


class Forked:
    """A forked program: what the tests use of :class:`asyncio.subprocess.Process`."""

    stdin: asyncio.StreamWriter | None
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    def __init__(self, pid: int, code: Future[int]) -> None:
        self.pid = pid
        self._code = code

    @property
    def returncode(self) -> int | None:
        return self._code.result() if self._code.done() else None

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        code = await asyncio.shield(asyncio.wrap_future(self._code))
        if self.stdin is not None:
            self.stdin.close()
        return code


@functools.cache
def _server(env: tuple[tuple[str, str], ...]) -> ForkServer:
    return ForkServer(dict(env))


async def fork(*argv: str, env: dict[str, str], cwd: Path, stdin: bool) -> Forked:
    """Start a program as ``asyncio.create_subprocess_exec`` would, both outputs piped."""
    server = _server(tuple(sorted(of_start(env).items())))
    loop = asyncio.get_running_loop()
    (out_read, out_write), (err_read, err_write) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    if stdin:
        in_read, in_write = os.pipe2(os.O_CLOEXEC)
    else:
        in_read = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        forked = await server.start(list(argv), env, cwd, [in_read, out_write, err_write])
    finally:
        for fd in (in_read, out_write, err_write):
            os.close(fd)
    forked.stdout, forked.stderr = await _reader(out_read), await _reader(err_read)
    forked.stdin = None
    if stdin:
        pipe = os.fdopen(in_write, "wb", 0)
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
        forked.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
    return forked


async def _reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(fd, "rb", 0))
    return reader
