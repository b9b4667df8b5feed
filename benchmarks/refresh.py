"""A refresh through the agent, against the sandbox's provider over HTTP.

One refresh is an intent on the disk, the request, and the rotated token on the disk. The floor is the same request
sent with aiohttp and two raw durable commits; agent and floor take turns, each with a chain of its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from statistics import median

import aiohttp

from benchmarks.floors import DurableCommits
from benchmarks.homes import CLIENT_ID, Homes, grant, paired_homes, write
from benchmarks.measure import Agent, Bench, BenchmarkError, ask, sandbox
from benchmarks.table import Row, Section, number, spread
from token_relay.cli.client import control_call
from token_relay.host.clock import SystemClock
from token_relay.provider.http import JsonObject

PROFILE = "auth0"  # rotates at each use, and its sandbox signs in with one request
COMMITS = 2
ROUND = 5  # refreshes of one end before it is the other's turn


def run(bench: Bench) -> Section:
    """Refresh again and again, and tell the provider's share from ours."""
    place = bench.place("r")
    with sandbox(place, PROFILE) as (_, facts):
        homes = paired_homes(place, str(facts["mqtt"]))
        ours, floor, request = asyncio.run(_measure(place, homes, facts, rounds=bench.count(20, 4)))
    row = Row(
        "refresh through the agent",
        median(ours),
        "ms",
        floor=median(floor),
        how="the same request with aiohttp + 2 raw durable SQLite commits",
    )
    details = (
        f"{len(ours)} refreshes, 9 of 10 in {spread(ours, 'ms')}: {number(1000 / median(ours), 'a second')}; the "
        f"sandbox's answer alone takes {number(median(request), 'ms')}",
    )
    return Section("refresh", (row,), details)


async def _measure(
    place: Path, homes: Homes, facts: JsonObject, *, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    raw = DurableCommits(place / "floor.db")
    endpoint = facts["http"] + "/oauth/token"
    ours: list[float] = []
    floor: list[float] = []
    requests: list[float] = []
    async with aiohttp.ClientSession() as session:
        held = grant(
            SystemClock().now(),
            pairing_id=os.urandom(16).hex(),
            token_endpoint=endpoint,
            refresh_token=await _sign_in(session, endpoint, facts),
            profile=PROFILE,
        )
        await asyncio.to_thread(write, homes.companion, held)
        refresh_token = await _sign_in(session, endpoint, facts)
        command = [sys.executable, "-m", "benchmarks.worker", "companion", str(homes.companion), "--provider"]
        agent = await asyncio.to_thread(Agent, command, place=place / "w")
        with agent:
            for _ in range(rounds):
                for _ in range(ROUND):
                    began = time.perf_counter()
                    raw.commit()
                    sent = time.perf_counter()
                    refresh_token = await _refresh(session, endpoint, refresh_token)
                    answered = time.perf_counter()
                    raw.commit()
                    floor.append((time.perf_counter() - began) * 1e3)
                    requests.append((answered - sent) * 1e3)
                ours += await _through_agent(homes.companion / "control.sock")
    raw.close()
    return ours, floor, requests


async def _through_agent(socket: Path) -> list[float]:
    answer = await asyncio.to_thread(control_call, socket, "refresh", {"count": ROUND})
    taken = answer["taken_s"]
    if answer["generations"] != ROUND or not isinstance(taken, list):
        raise BenchmarkError(f"{answer['generations']} of {ROUND} refreshes came about")
    return [float(str(seconds)) * 1e3 for seconds in taken]


async def _sign_in(session: aiohttp.ClientSession, endpoint: str, facts: JsonObject) -> str:
    user = next(user for user in facts["users"] if "password" in user)
    form = {"grant_type": "password", "username": user["username"], "password": user["password"]}
    return await _token(session, endpoint, {**form, "client_id": CLIENT_ID, "scope": "openid profile offline_access"})


async def _refresh(session: aiohttp.ClientSession, endpoint: str, refresh_token: str) -> str:
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": CLIENT_ID}
    return await _token(session, endpoint, form)


async def _token(session: aiohttp.ClientSession, endpoint: str, form: dict[str, str]) -> str:
    return str((await ask(session, endpoint, form))["refresh_token"])
