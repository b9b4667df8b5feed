"""Timing, percentiles, and what the kernel says about a process.

Times come from the monotonic clock, which all processes of one machine share: a moment noted in one agent may be
subtracted from one noted in the other. Two things are compared by taking turns, sample by sample, so that a machine
that becomes slow for a second (another build, a disk that flushes) slows both.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.channel.mosquitto import Mosquitto, MosquittoMissingError, program
from token_relay.sandbox.provider.world.model import CLIENT_ID

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LOOK_S = 0.5  # how often we check that a silent process still runs


class BenchmarkError(Exception):
    """A benchmark could not be run; the message says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One run: how thorough, and where on the disk."""

    directory: Path
    is_quick: bool = False

    def count(self, usual: int, quick: int) -> int:
        """Return how many samples to take."""
        return quick if self.is_quick else usual

    def place(self, name: str) -> Path:
        """Make a new private directory of this run; short, since sockets have paths of at most 107 bytes."""
        path = self.directory / name
        path.mkdir(mode=0o700)
        return path


# -- Figures -----------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` (0 to 1) of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(round(share * len(ordered), 6)) - 1)]


def time_ms(call: Callable[[], object], repeat: int = 1) -> float:
    """Return how long one call takes, in milliseconds."""
    began = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - began) * 1e3 / repeat


def in_turns(*calls: Callable[[], object], count: int, repeat: int = 1) -> tuple[list[float], ...]:
    """Time the calls in turns; returns for each ``count`` samples, in milliseconds per call of ``repeat``."""
    samples: tuple[list[float], ...] = tuple([] for _ in calls)
    for _ in range(count):
        for call, taken in zip(calls, samples, strict=True):
            taken.append(time_ms(call, repeat))
    return samples


# -- Processes ---------------------------------------------------------------------------------------------


def program_of(module: str, *words: str | Path) -> list[str | Path]:
    """Return the command line that runs a module of ours as a program."""
    return [sys.executable, "-m", module, *words]


class Program:
    """A process of ours, ended with the ``with`` block; its output goes to ``log``."""

    def __init__(
        self, arguments: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.log = log
        self.started = time.monotonic()
        words = [str(argument) for argument in arguments]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=ROOT, env=environment
            )
        self.pid = self.process.pid

    def tail(self) -> str:
        """Return the last lines of its output, for an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def wait_for(self, text: str) -> str:
        """Wait until its output holds ``text``, and return that line. Raises BenchmarkError when it ends before."""
        ends = time.monotonic() + START_TIMEOUT_S
        while True:
            is_over = self.process.poll() is not None or time.monotonic() > ends
            for line in self.log.read_text(errors="replace").splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line
            if is_over:
                raise BenchmarkError(f"{self.log.name} did not say {text!r}: {self.tail()}")
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it as a service manager would, by force when that takes too long."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


class Agent(Program):
    """A program that says READY=1 by systemd's notify protocol; ``start_s`` is the time until then."""

    def __init__(self, arguments: Sequence[str | Path], *, place: Path) -> None:
        place.mkdir(mode=0o700, exist_ok=True)
        address = place / f"notify{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(address))
            listener.settimeout(LOOK_S)
            super().__init__(arguments, log=place / "log", environment={**os.environ, "NOTIFY_SOCKET": str(address)})
            said = b""
            while b"READY=1" not in said:
                try:
                    said = listener.recv(4096)
                except TimeoutError:
                    if self.process.poll() is not None or time.monotonic() - self.started > START_TIMEOUT_S:
                        self.__exit__()
                        raise BenchmarkError(f"an agent did not become ready: {self.tail()}") from None
        self.ready_at = time.monotonic()
        self.start_s = self.ready_at - self.started
        address.unlink()


@contextmanager
def sandbox(place: Path, profile: str, *options: str) -> Iterator[tuple[Program, dict[str, Any]]]:
    """Run a sandbox; yield its process, and what it announces."""
    ports = ("--http-port", "0", "--mqtt-port", "0")
    command = program_of("token_relay.cli", "sandbox", "--json", "--profile", profile, *ports, *options)
    with Program(command, log=place / "sandbox") as program:
        yield program, json.loads(program.wait_for('"issuer"'))


async def ask(session: aiohttp.ClientSession, url: str, form: dict[str, str]) -> dict[str, Any]:
    """Send the sandbox's provider a form of its client. Raises BenchmarkError when it refuses."""
    async with session.post(url, data={"client_id": CLIENT_ID, **form}) as response:
        body: dict[str, Any] = await response.json()
    if response.status != 200:
        raise BenchmarkError(f"the sandbox refused: {body.get('error')}: {body.get('error_description')}")
    return body


@dataclass(frozen=True, slots=True)
class Load:
    """What a process has used so far: CPU in seconds, and how often it went to sleep and was woken again."""

    cpu_s: float
    wakeups: int


def load_of(pid: int) -> Load:
    """Read the load of all threads of a process. proc(5): schedstat counts in nanoseconds."""
    cpu_ns = wakeups = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        cpu_ns += int((task / "schedstat").read_text().split()[0])
        wakeups += _field(task / "status", "voluntary_ctxt_switches")
    return Load(cpu_ns / 1e9, wakeups)


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB: ``rss`` counts shared pages in full, ``pss`` by share, ``private`` not at all."""

    rss: float
    pss: float
    private: float


def memory_of(pid: int) -> Memory:
    """Read the memory of a process. proc(5): smaps_rollup counts in KiB."""
    path = Path(f"/proc/{pid}/smaps_rollup")
    private = _field(path, "Private_Clean") + _field(path, "Private_Dirty")
    return Memory(_field(path, "Rss") / 1024, _field(path, "Pss") / 1024, private / 1024)


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise BenchmarkError(f"{path} has no {name}")


# -- The broker --------------------------------------------------------------------------------------------


@contextmanager
def mosquitto(place: Path) -> Iterator[int]:
    """Run a mosquitto of our own and yield its port: our settings without TLS, so the floor pays for none either.

    Raises:
        BenchmarkError: it is not installed, or does not start.
    """
    usual = ("error", "warning", "notice", "information")  # not each packet: that would be measured too
    broker = Mosquitto(place, "max_packet_size 20480", logged=usual)
    try:
        path = program("mosquitto")
    except MosquittoMissingError as exc:
        raise BenchmarkError(str(exc)) from None
    with Program([path, "-c", broker.config], log=place / "log") as process:
        process.wait_for(" running")
        yield broker.port


def machine() -> dict[str, str]:
    """Describe this machine as far as it matters to the figures."""
    found = re.search(r"^(?:model name|Model)\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cpu = found[1].strip() if found else platform.machine()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{os.cpu_count()} × {cpu}, {platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
    }
