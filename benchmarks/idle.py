"""A companion that has nothing to do: its memory, its start, its CPU, and what its imports cost.

It runs as shipped, paired, with a grant and connected to a real mosquitto. The floor is an interpreter that waits for
its standard input. CPU time comes from the scheduler's own counters in nanoseconds; how often the process was woken
matters as much to a battery.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.homes import companion_with_token
from benchmarks.measure import Agent, Bench, Program, load_of, memory_of, mosquitto, program_of
from benchmarks.table import Row, Section, medians, number

IDLE_S, QUICK_IDLE_S = 60.0, 10.0
SETTLE_S = 3.0  # by then it has connected, greeted and allocated everything
IMPORTS_SHOWN = 10
FLOOR_CODE = "print('ready', flush=True); input()"


def run(bench: Bench) -> Section:
    """Start companion and floor a few times, measure the last pair idle, then the imports."""
    place = bench.place("i")
    starts: list[float] = []
    floor_starts: list[float] = []
    with mosquitto(place / "b") as port:
        homes = companion_with_token(place, f"mqtt://127.0.0.1:{port}")
        command = program_of("token_relay.cli", "companion", "run", "--home", homes.companion)
        for _ in range(bench.count(5, 2)):
            with Agent(command, place=place / "w") as companion:
                starts.append(companion.start_s * 1e3)
            floor_starts.append(_floor_start_ms())
        idle_s = QUICK_IDLE_S if bench.is_quick else IDLE_S
        with (
            Agent(command, place=place / "w") as companion,
            Program([sys.executable, "-c", FLOOR_CODE], log=place / "floor") as floor,
        ):
            floor.wait_for("ready")
            time.sleep(SETTLE_S)
            before = load_of(companion.pid), load_of(floor.pid)
            time.sleep(idle_s)
            after = load_of(companion.pid), load_of(floor.pid)
            memory, floor_memory = memory_of(companion.pid), memory_of(floor.pid)
        imports = imports_of(command, place / "w")
    used, floor_used = ((b.cpu_s - a.cpu_s) * 60e3 / idle_s for a, b in zip(before, after, strict=True))
    how = f"over {idle_s:g} s; the floor uses {floor_used:.2f} ms"
    woken = (after[0].wakeups - before[0].wakeups) * 60 / idle_s
    rows = (
        Row("companion, idle: RSS", memory.rss, "MiB", floor=floor_memory.rss, how='python -c "input()"'),
        Row("companion, idle: PSS", memory.pss, "MiB", floor=floor_memory.pss, how="the same"),
        medians("companion, start to ready", starts, floor_starts),
        Row("companion, idle: CPU per minute", used, "ms", how=how),
    )
    details = (
        f"idle: woken {number(woken, 'times')} a minute; CPU {used / 600:.3f} % of one core",
        f"import: {number(imports.total() / 1e3, 'ms')} in all (measured with -X importtime, which slows it); "
        "by package, each with the parts of the standard library that it was the first to want:",
        *(f"  {name:24} {number(us / 1e3, 'ms'):>10}" for name, us in imports.most_common(IMPORTS_SHOWN)),
    )
    return Section("idle", rows, details)


def _floor_start_ms() -> float:
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", FLOOR_CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        taken = (time.monotonic() - began) * 1e3
        process.kill()
    return taken


# -- Imports -----------------------------------------------------------------------------------------------

_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|( +)([\w.]+)$")


def imports_of(command: list[str | Path], place: Path) -> Counter[str]:
    """Start a program under ``-X importtime``; return what its imports cost once it is ready, by package, in µs."""
    python, *rest = command
    with Agent([python, "-X", "importtime", *rest], place=place / "imports") as program:
        pass
    return charge(program.log.read_text(errors="replace"))


def charge(text: str) -> Counter[str]:
    """Read the output of ``-X importtime``; it names a module after everything that the module imported.

    A module of the standard library is charged to the package that wanted it first, so that the sums add up.
    """
    costs_us: Counter[str] = Counter()
    waiting: list[tuple[int, int]] = []  # depth and microseconds of standard library modules without an importer yet
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        own_us, depth, name = int(found[1]), len(found[3]), found[4]
        package = name.partition(".")[0]
        below = sum(us for at, us in waiting if at > depth)
        waiting = [(at, us) for at, us in waiting if at <= depth]
        if package in sys.stdlib_module_names:
            waiting.append((depth, own_us + below))
        else:
            costs_us[package] += own_us + below
    costs_us["(the interpreter's start)"] += sum(us for _, us in waiting)
    return costs_us
