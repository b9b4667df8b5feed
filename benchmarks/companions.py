"""What one more companion costs a phone: vault, start, greeting, memory.

Each companion has a finished handoff and a full replay window, as after months of use. The phone greets every one of
them with HELLO at each connection; a plain client on the same broker counts until the last has passed.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median

import aiomqtt

from benchmarks.floors import raw_client
from benchmarks.homes import make_home, write_companions
from benchmarks.measure import Agent, Bench, BenchmarkError, memory_of, mosquitto, program_of
from benchmarks.table import Row, Section, number
from token_relay.host.home import VAULT_FILE
from token_relay.protocol.delivery import WINDOW
from token_relay.protocol.identity import device_id

COUNTS = (1, 10, 50)
GREETING_TIMEOUT_S = 30.0


def run(bench: Bench) -> Section:
    """Connect a phone with 1, 10 and 50 companions."""
    place = bench.place("n")
    with mosquitto(place / "b") as port:
        found = [asyncio.run(_measure(place / f"n{count}", port, count, starts=bench.count(5, 1))) for count in COUNTS]
    (_, first_kib, first_ms, first_mib), *_, (most, kib, ms, mib) = found
    more, greeting = most - COUNTS[0], "from the phone's READY to its last HELLO"
    rows = (
        Row("one more companion: vault", (kib - first_kib) / more, "KiB", how=f"{COUNTS[0]} to {most} companions"),
        Row("one more companion: greeting", (ms - first_ms) / more, "ms", how=greeting),
        Row("one more companion: RSS of the phone", (mib - first_mib) * 1024 / more, "KiB", how="the same"),
    )
    details = tuple(
        f"{count} companions: vault {number(kib, 'KiB')}, READY to last HELLO {number(ms, 'ms')}, "
        f"RSS {number(mib, 'MiB')}"
        for count, kib, ms, mib in found
    )
    return Section("companions", rows, details)


async def _measure(place: Path, port: int, count: int, *, starts: int) -> tuple[int, float, float, float]:
    place.mkdir(mode=0o700)
    home = place / "p"
    public_key = await asyncio.to_thread(make_home, "phone", home, f"mqtt://127.0.0.1:{port}")
    await asyncio.to_thread(write_companions, home, count, seen=WINDOW)
    command = program_of("token_relay.cli", "phone", "run", "--home", home)
    greetings_ms: list[float] = []
    for start in range(starts):
        # a new listener each time: unread messages of the last greeting must not count for this one
        name, topic = f"counter-{count}-{start}", f"relay/v1/+/from/{device_id(public_key)}"
        async with raw_client(port, name, topic) as client:
            with await asyncio.to_thread(Agent, command, place=place / "w") as phone:
                await _all_greeted(client, count, phone)
                greetings_ms.append((time.monotonic() - phone.ready_at) * 1e3)
                rss = memory_of(phone.pid).rss
    return count, (home / VAULT_FILE).stat().st_size / 1024, median(greetings_ms), rss


async def _all_greeted(client: aiomqtt.Client, count: int, phone: Agent) -> None:
    greeted: set[str] = set()
    try:
        async with asyncio.timeout(GREETING_TIMEOUT_S):
            async for message in client.messages:
                greeted.add(str(message.topic))
                if len(greeted) == count:
                    return
    except TimeoutError:
        raise BenchmarkError(f"{len(greeted)} of {count} companions were greeted: {phone.tail()}") from None
