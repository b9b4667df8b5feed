"""A refresh through the agent, against the sandbox's provider over HTTP.

One refresh is an intent on the disk, the request, and the rotated token on the disk. The floor is the same request
sent with aiohttp and two raw durable commits; agent and floor take turns, each with a chain of its own.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from benchmarks.floors import DurableCommits
from benchmarks.homes import Homes, grant, paired_homes, write
from benchmarks.measure import Agent, Bench, BenchmarkError, ask, program_of, sandbox
from benchmarks.table import Section, medians, number, spread
from token_relay.cli.client import control_call
from token_relay.host.clock import SystemClock
from token_relay.provider.http import JsonObject

PROFILE = "auth0"  # rotates at each use, and its sandbox signs in with one request
COMMITS = 2
ROUND = 5  # refreshes of one side before the other side's turn


def run(bench: Bench) -> Section:
    """Refresh again and again, and separate the provider's share from ours."""
    place = bench.place("r")
    with sandbox(place, PROFILE) as (_, facts):
        homes = paired_homes(place, str(facts["mqtt"]))
        ours, floor, request = asyncio.run(_measure(place, homes, facts, rounds=bench.count(20, 4)))
    how = "the same request with aiohttp + 2 raw durable SQLite commits"
    row = medians("refresh through the agent", ours, floor, how=how)
    details = (
        f"{len(ours)} refreshes, 9 of 10 in {spread(ours, 'ms')}: {number(1000 / median(ours), 'a second')}; the "
        f"sandbox's answer alone takes {number(median(request), 'ms')}",
    )
    return Section("refresh", (row,), details)


async def _measure(
    place: Path, homes: Homes, facts: JsonObject, *, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    endpoint = facts["http"] + "/oauth/token"
    ours: list[float] = []
    floor: list[float] = []
    requests: list[float] = []
    async with aiohttp.ClientSession() as session:
        user = next(user for user in facts["users"] if "password" in user)
        password_form = {"grant_type": "password", "scope": "openid profile offline_access"}
        password_form |= {"username": user["username"], "password": user["password"]}
        held = grant(
            SystemClock().now(),
            pairing_id=homes.pairing_id,
            token_endpoint=endpoint,
            refresh_token=await _refresh_token(session, endpoint, password_form),
            profile=PROFILE,
        )
        await asyncio.to_thread(write, homes.companion, held)
        form = {"grant_type": "refresh_token", "refresh_token": await _refresh_token(session, endpoint, password_form)}
        command = program_of("benchmarks.worker", "companion", homes.companion, "--provider")
        agent = await asyncio.to_thread(Agent, command, place=place / "w")
        with agent, closing(DurableCommits(place / "floor.db")) as raw:
            for _ in range(rounds):
                for _ in range(ROUND):
                    began = time.perf_counter()
                    raw.commit()
                    sent = time.perf_counter()
                    form["refresh_token"] = await _refresh_token(session, endpoint, form)
                    answered = time.perf_counter()
                    raw.commit()
                    floor.append((time.perf_counter() - began) * 1e3)
                    requests.append((answered - sent) * 1e3)
                ours += await _through_agent(homes.companion / "control.sock")
    return ours, floor, requests


async def _through_agent(socket: Path) -> list[float]:
    answer: dict[str, Any] = await asyncio.to_thread(control_call, socket, "refresh", {"count": ROUND})
    if answer["generations"] != ROUND:
        raise BenchmarkError(f"{answer['generations']} of {ROUND} refreshes came about")
    return [seconds * 1e3 for seconds in answer["taken_s"]]


async def _refresh_token(session: aiohttp.ClientSession, endpoint: str, form: dict[str, str]) -> str:
    return str((await ask(session, endpoint, form))["refresh_token"])
