"""No test asserts a duration: a busy machine would answer otherwise. The order of events, virtual time, a watchdog do.

A clock's reading may be waited for, and may bound a moment that a program names. What may not be is an ``assert`` that
compares two readings, or one that compares something computed from two.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CLOCKS = {"monotonic", "perf_counter", "process_time", "monotonic_ns", "perf_counter_ns", "clock_gettime"}
VIRTUAL = ("agents", "simulation")  # the loop of these tests has a clock of its own, which no machine can make late
WATCHDOGS = {  # functions that wait for a condition and give up at a hang
    "e2e/processes.py": {"eventually"},
    "e2e/terminal.py": {"_sees"},
    "test_clock.py": {"test_now_reads_boot_time_and_wall_time"},  # moments of one clock around another's
    "mutants/child.py": {"main"},
    # moments that a status names
    "chaos/test_chaos_silence.py": {"test_each_end_says_since_when_it_has_not_heard_the_other_and_what_to_do"},
    "cli/test_open_web.py": {
        "test_the_cookie_is_the_providers_alone_and_ends_with_the_token"
    },  # a moment, on two sides
}


def reads_a_clock(node: ast.AST, tainted: set[str]) -> bool:
    """Whether an expression holds a clock's reading, or a name that was computed from one."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id in tainted:
            return True
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
            of = inner.func.value
            is_loop = isinstance(of, ast.Name) and of.id in ("loop", "time") and inner.func.attr == "time"
            if inner.func.attr in CLOCKS or is_loop:
                return True
    return False


def asserted_durations(source: str) -> list[tuple[str, int]]:
    """Return the functions and lines of asserts that a clock decides."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        tainted: set[str] = set()
        for node in ast.walk(function):  # in the order of the lines, which is enough for tests
            if isinstance(node, ast.Assign) and reads_a_clock(node.value, tainted):
                tainted |= {
                    name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)
                }
        for node in ast.walk(function):
            if isinstance(node, ast.Assert) and reads_a_clock(node.test, tainted):
                found.append((function.name, node.lineno))
    return found


def test_no_test_asserts_a_duration() -> None:
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS).as_posix()
        if name.startswith(VIRTUAL) or "node_modules" in name:
            continue
        source = path.read_text()
        if not any(f"{clock}(" in source for clock in (*CLOCKS, "time")):
            continue  # which is most of them, and quicker than to parse it
        allowed = WATCHDOGS.get(name, set())
        found += [f"{name}:{line}" for function, line in asserted_durations(source) if function not in allowed]
    assert found == []


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("began = time.monotonic()\n    await work()\n    assert time.monotonic() - began < 2", [4]),
        ("began = loop.time()\n    took = loop.time() - began\n    assert took < 2", [4]),
        ("a, b = time.perf_counter(), 1\n    assert a > b", [3]),
        ("ends_at = time.monotonic() + 20\n    while time.monotonic() < ends_at:\n        pass", []),
        ("assert await work() == 3", []),
    ],
)
def test_a_planted_one_is_seen(code: str, lines: list[int]) -> None:
    found = asserted_durations(f"async def test_one():\n    {code}\n")
    assert [line for _, line in found] == lines
