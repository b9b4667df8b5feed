"""A handoff between two running agents, from the phone's commit of OFFER until STORED is accepted and on its disk.

Four messages (OFFER, ACCEPT, TOKEN, STORED) and five commits (offered, ready, released, stored, done) lie in it, one
after the other, with nothing to overlap: so the floor is two round trips of raw aiomqtt over the same mosquitto and
five durable commits of raw sqlite3 on the same disk, in the same order between the same number of processes (the
broker writes to that disk too, and gets in the way of both alike). Strategy ``move``, which needs no provider; the
companion's first refresh comes afterwards and is shown apart. Handoff and floor take turns.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.floors import PONG, DurableCommits, chain, raw_client, round_trip
from benchmarks.homes import Homes, paired_homes
from benchmarks.measure import Agent, Bench, BenchmarkError, Program, mosquitto, program_of, time_ms
from benchmarks.table import Row, Section, number, spread
from token_relay.cli.client import control_call

ROUND_TRIPS, COMMITS = 2, 5
RATIO_MAX = 2.0
WARM_UP = 3
STEPS = ("offered", "ready", "released", "stored", "done")
Samples = defaultdict[str, list[float]]  # all times in milliseconds; a commit's under its name in STEPS


def run(bench: Bench) -> Section:
    """Hand off again and again, and print where the time goes."""
    place = bench.place("h")
    with mosquitto(place / "b") as port:
        homes = paired_homes(place, f"mqtt://127.0.0.1:{port}")
        samples = asyncio.run(_measure(place, port, homes, count=bench.count(40, 8)))
    return _section(samples)


async def _measure(place: Path, port: int, homes: Homes, *, count: int) -> Samples:
    samples: Samples = defaultdict(list)
    floor_echo = program_of("benchmarks.floors", "echo", str(port), place / "echo.db")
    with (
        closing(DurableCommits(place / "floor.db")) as raw,
        Program(floor_echo, log=place / "echo") as echo,
        Agent(program_of("benchmarks.worker", "companion", homes.companion), place=place / "wc"),
        Agent(program_of("benchmarks.worker", "phone", homes.phone), place=place / "wp"),
    ):
        echo.wait_for("echo is there")
        phone, companion = homes.phone / "control.sock", homes.companion / "control.sock"
        for socket in (phone, companion):
            await _call(socket, "connected")
        async with raw_client(port, "floor-pinger", PONG) as client:
            for number_ in range(WARM_UP + count):
                began = time.perf_counter()
                await chain(client, raw)
                chained = time.perf_counter()
                for _ in range(ROUND_TRIPS):
                    await round_trip(client)
                trips = (time.perf_counter() - chained) * 1e3
                commits = sum(time_ms(raw.commit) for _ in range(COMMITS))
                await _call(phone, "sign_in")
                handed = await _call(phone, "handoff", device=homes.companion_id)
                settled = await _call(companion, "settle")
                if number_ >= WARM_UP:
                    samples["floor_trips"].append(trips)
                    samples["floor_commits"].append(commits)
                    samples["floor"].append((chained - began) * 1e3)
                    _add(samples, handed, settled)
    return samples


async def _call(socket: Path, command: str, **arguments: str) -> dict[str, Any]:
    return await asyncio.to_thread(control_call, socket, command, {**arguments}, silence_s=30.0)


def _add(samples: Samples, handed: dict[str, Any], settled: dict[str, Any]) -> None:
    """Pick the five commits from all that both agents made."""
    if handed["state"] != "done":
        raise BenchmarkError(f"a handoff did not end: {handed['state']}")
    phone, companion = handed["commits"], settled["commits"]
    try:
        moments = {name: next(at for names, *at in phone + companion if name in names) for name in STEPS}
        asked, _ = next(at for names, *at in companion if "grant refreshing" in names)
    except StopIteration:
        raise BenchmarkError("a handoff left no trace of one of its commits") from None
    samples["total"].append((moments["done"][1] - moments["offered"][0]) * 1e3)
    for name, (began, ended) in moments.items():
        samples[name].append((ended - began) * 1e3)
    pairs = itertools.pairwise(moments.values())
    samples["hops"].append(sum(after[0] - before[1] for before, after in pairs) * 1e3)
    samples["refresh"].append((companion[-1][2] - asked) * 1e3)


def _section(samples: Samples) -> Section:
    middle = {name: median(taken) for name, taken in samples.items()}
    commits = sum(middle[name] for name in STEPS)
    total, floor = samples["total"], samples["floor"]
    rows = (
        Row(
            "handoff, OFFER committed to STORED accepted",
            middle["total"],
            "ms",
            floor=middle["floor"],
            ratio_max=RATIO_MAX,
            how="2 raw aiomqtt QoS 1 round trips + 5 raw durable SQLite commits",
        ),
        Row("  of it: 5 commits", commits, "ms", floor=middle["floor_commits"], how="the raw commits alone"),
        Row("  of it: 4 messages", middle["hops"], "ms", floor=middle["floor_trips"], how="the raw trips"),
        Row("  apart: the first refresh", middle["refresh"], "ms", how="2 commits; the provider answers at once"),
    )
    steps = ", ".join(f"{name} {number(middle[name], 'ms')}" for name in STEPS)
    details = (
        f"{len(total)} handoffs, 9 of 10 in {spread(total, 'ms')}, slowest {number(max(total), 'ms')}; "
        f"floor {spread(floor, 'ms')}",
        f"commits, from handing the step over to durable: {steps}",
    )
    return Section("handoff", rows, details)
