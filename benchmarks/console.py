"""The first page of a phone with 200 devices, as Chromium paints it.

Agent and console run as shipped, over a real mosquitto. The floor is the page of one line that the same server gives to
who has asked for nothing; the two take turns. Both paints are the browser's own figure (W3C Paint Timing). The browser
is headless, so nothing waits for a screen.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from benchmarks.homes import make_home, write_companions
from benchmarks.measure import Agent, Bench, BenchmarkError, Program, mosquitto, program_of
from benchmarks.table import Row, Section, medians
from tests import needs

COUNT = 200
REMEMBERED = 20  # messages of each device: what months leave behind is no part of a page
PAINTED = """() => new Promise((done) => new PerformanceObserver((list) => {
  const found = list.getEntriesByName("first-contentful-paint")[0];
  const { domContentLoadedEventEnd } = performance.getEntriesByType("navigation")[0];
  if (found) done([found.startTime, domContentLoadedEventEnd, document.querySelectorAll("tbody tr").length]);
}).observe({ type: "paint", buffered: true }))"""


def run(bench: Bench) -> Section:
    """Open the page again and again, and in between the page of one line."""
    if missing := needs.missing("chromium"):
        raise BenchmarkError(missing)
    place = bench.place("w")
    with mosquitto(place / "b") as port:
        home = place / "p"
        make_home("phone", home, f"mqtt://127.0.0.1:{port}")
        write_companions(home, COUNT, seen=REMEMBERED)
        command = program_of("token_relay.cli", "phone", "run", "--home", home)
        with Agent(command, place=place / "w"), Program(_console(home), log=place / "console") as console:
            address = json.loads(console.wait_for('"address"'))["address"]
            paints, floor, whole = asyncio.run(_paints(address, bench.count(25, 5)))
    rows = (
        medians("console: first paint of 200 devices", paints, floor, how="a page of one line, same server"),
        Row("console: all 200 rows are there", sorted(whole)[len(whole) // 2], "ms", how="DOMContentLoaded"),
    )
    return Section("console", rows)


def _console(home: Path) -> list[str | Path]:
    return program_of("token_relay.cli", "phone", "console", "--json", "--home", home)


async def _paints(address: str, count: int) -> tuple[list[float], list[float], list[float]]:
    """Return first paints of the two pages, and when the first had all its rows, in milliseconds."""
    from tests.browser.chromium import chromium, new_profile

    first, origin = address.partition("open?")[0], "/".join(address.split("/")[:3])
    paints: list[float] = []
    floor: list[float] = []
    whole: list[float] = []
    async with chromium() as browser, new_profile(browser) as profile:
        page = await profile.new_page()
        await page.goto(address)
        await page.wait_for_url(first)
        for number in range(-1, count):  # the first of each fills caches and counts for nothing
            for url, figures in ((first, paints), (f"{origin}/", floor)):
                await page.goto(url)
                painted, is_whole_at, rows = await page.evaluate(PAINTED)
                if url == first and rows != COUNT:
                    raise BenchmarkError(f"the page shows {rows} devices")
                if number >= 0:
                    figures.append(painted)
                if number >= 0 and url == first:
                    whole.append(is_whole_at)
    return paints, floor, whole
