"""The sandbox's provider under load: refreshes of many clients at once, and whether its memory stays flat.

There is no floor: the sandbox is for tests, and must only not slow them down. Each client keeps one
connection and one grant, and refreshes again as soon as it has its answer.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from benchmarks.measure import Bench, ask, memory_of, percentile, sandbox
from benchmarks.table import Row, Section, number
from token_relay.sandbox.provider.world.model import PASSWORD

CLIENTS = 50
USER = "password@contoso.example"
SCOPE = "openid profile offline_access"
CAPABILITIES = "password oob redirect"


def run(bench: Bench) -> Section:
    """Refresh with many clients; compare the memory after the first tenth with that at the end."""
    place = bench.place("p")
    count = bench.count(100_000, 2_000)
    with sandbox(place, "entra", "--no-links") as (program, facts):
        taken, began_mib, ended_mib, seconds = asyncio.run(_measure(facts["authority"], program.pid, count))
    rows = (
        Row(f"a refresh at the sandbox, {CLIENTS} clients, p50", percentile(taken, 0.5), "ms"),
        Row(f"a refresh at the sandbox, {CLIENTS} clients, p99", percentile(taken, 0.99), "ms"),
        Row("its memory at the end", ended_mib, "MiB", floor=began_mib, how="its memory after the first tenth"),
    )
    return Section("sandbox", rows, (f"{count:,} refreshes: {number(count / seconds, 'a second')}",))


async def _measure(authority: str, pid: int, count: int) -> tuple[list[float], float, float, float]:
    connector = aiohttp.TCPConnector(limit=CLIENTS)
    async with aiohttp.ClientSession(connector=connector) as session:
        first = await _sign_in(session, authority)
        held = [first] * CLIENTS  # an old refresh token stays good here, so all may begin with one
        taken: list[float] = []

        async def one(index: int, times: int) -> None:
            for _ in range(times):
                began = time.perf_counter()
                form = {"grant_type": "refresh_token", "refresh_token": held[index], "scope": SCOPE}
                answer = await ask(session, f"{authority}/oauth2/v2.0/token", form)
                taken.append((time.perf_counter() - began) * 1e3)
                held[index] = str(answer["refresh_token"])

        tenth = max(1, count // 10 // CLIENTS)
        await asyncio.gather(*(one(index, tenth) for index in range(CLIENTS)))
        began_mib = memory_of(pid).rss
        taken.clear()
        began = time.perf_counter()
        await asyncio.gather(*(one(index, max(1, count // CLIENTS - tenth)) for index in range(CLIENTS)))
        share = len(taken) / count
        return taken, began_mib, memory_of(pid).rss, (time.perf_counter() - began) / share


async def _sign_in(session: aiohttp.ClientSession, authority: str) -> str:
    base = f"{authority}/oauth2/v2.0"
    begun = await ask(session, f"{base}/initiate", {"username": USER, "challenge_type": CAPABILITIES})
    token = str(begun["continuation_token"])
    asked = await ask(session, f"{base}/challenge", {"continuation_token": token, "challenge_type": CAPABILITIES})
    form = {"continuation_token": str(asked["continuation_token"]), "grant_type": "password", "password": PASSWORD}
    done = await ask(session, f"{base}/token", {**form, "scope": SCOPE})
    return str(done["refresh_token"])
