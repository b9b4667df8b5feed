"""An access token from the companion's cache: over the socket, and by the whole command.

Over the socket, the floor is a bare aiohttp server that answers the same question with fixed bytes. The token API
gives one user ten tokens a second and no more; to find out what lies below that limit, the companion here runs with
the limit raised (:func:`serve_without_limit`), and nothing else changed.

By the command, the floor is an interpreter that imports the least that any such command needs: the parser of a command
line and an HTTP client.
"""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.homes import companion_with_token
from benchmarks.measure import ROOT, Agent, Bench, BenchmarkError, Program, in_turns, percentile, program_of
from benchmarks.table import Row, Section, medians, number, spread

CLIENTS = 8  # the most that the token API lets one user have open at once
REQUEST = b"GET /v1/token HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"
COMMAND_FLOOR = "import argparse, http.client"
BROKER_URL = "mqtt://127.0.0.1:9"  # nothing listens there: a cached token needs no network


def run(bench: Bench) -> Section:
    """Ask one at a time, eight at a time, and by the command."""
    place = bench.place("t")
    homes = companion_with_token(place, BROKER_URL)
    floor_socket = place / "floor.sock"
    rounds = bench.count(5, 1)
    with (
        Agent(program_of("benchmarks.token", homes.companion), place=place / "w"),
        Program(program_of("benchmarks.floors", "http", floor_socket), log=place / "floor") as floor_server,
    ):
        floor_server.wait_for("http is there")
        token_socket = homes.companion / "token.sock"
        alone = _in_turns(token_socket, floor_socket, clients=1, count=bench.count(400, 100), rounds=rounds)
        crowd = _in_turns(token_socket, floor_socket, clients=CLIENTS, count=bench.count(100, 25), rounds=rounds)
        command, command_floor = _commands(homes.companion, count=bench.count(30, 8))
    ours, floor = alone[0].times_ms, alone[1].times_ms
    at_once, whole = f"  time per request, {CLIENTS} clients at once", "token-relay companion token, whole command"
    rows = (
        medians("GET /v1/token from cache, p50", ours, floor, how="a bare aiohttp server with a fixed answer"),
        Row("GET /v1/token from cache, p99", percentile(ours, 0.99), "ms", percentile(floor, 0.99), how="the same"),
        Row(at_once, 1000 / crowd[0].per_s, "ms", 1000 / crowd[1].per_s, how="the same"),
        medians(whole, command, command_floor, how=f'python -c "{COMMAND_FLOOR}"'),
    )
    details = (
        f"{CLIENTS} clients: {number(crowd[0].per_s, 'requests/s')} (limit raised; as shipped one user gets 10/s), "
        f"p50 {number(median(crowd[0].times_ms), 'ms')}, p99 {number(percentile(crowd[0].times_ms, 0.99), 'ms')}; "
        f"the bare server {number(crowd[1].per_s, 'requests/s')}",
        f"the command: 9 of 10 in {spread(command, 'ms')}, its floor {spread(command_floor, 'ms')}",
    )
    return Section("token", rows, details)


@dataclass(slots=True)
class Answers:
    """Times of all requests in milliseconds, and how long all of it took."""

    times_ms: list[float] = field(default_factory=list)
    total_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return len(self.times_ms) / self.total_s


def _in_turns(ours: Path, floor: Path, *, clients: int, count: int, rounds: int) -> tuple[Answers, Answers]:
    answers = Answers(), Answers()
    for round_number in range(-1, rounds):
        for socket, found in zip((ours, floor), answers, strict=True):
            into = found if round_number >= 0 else Answers()  # the first round warms up
            asyncio.run(_ask(socket, clients=clients, count=count, answers=into))
    return answers


async def _ask(socket: Path, *, clients: int, count: int, answers: Answers) -> None:
    began = time.perf_counter()
    await asyncio.gather(*(_client(socket, count, answers) for _ in range(clients)))
    answers.total_s += time.perf_counter() - began


async def _client(socket: Path, count: int, answers: Answers) -> None:
    """One request per connection, one after the other, each read to the end of the connection."""
    for _ in range(count):
        began = time.perf_counter()
        reader, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(REQUEST)
        answer = await reader.read(-1)
        writer.close()
        answers.times_ms.append((time.perf_counter() - began) * 1e3)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"no token: {answer[:15].decode(errors='replace')}")


def _commands(home: Path, *, count: int) -> tuple[list[float], ...]:
    command = Path(sys.executable).with_name("token-relay")
    if not command.exists():
        raise BenchmarkError("the command token-relay is not installed beside this interpreter")
    ours = (str(command), "companion", "token", "--home", str(home))
    floor = (sys.executable, "-c", COMMAND_FLOOR)
    run = functools.partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return in_turns(functools.partial(run, ours), functools.partial(run, floor), count=count)


def serve_without_limit(home: str) -> int:
    """Run the companion as ``companion run`` does, but for the limit of tokens a second."""
    from token_relay.apps import server as token_api
    from token_relay.apps.rate_limit import RateLimit
    from token_relay.cli import main as cli

    token_api.RateLimit = functools.partial(RateLimit, 1e9)  # type: ignore[attr-defined,assignment]  # on purpose
    return cli.main(["companion", "run", "--home", home])


if __name__ == "__main__":
    sys.exit(serve_without_limit(sys.argv[1]))
