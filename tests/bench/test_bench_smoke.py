"""The benchmarks run and print what they found. No figure is asserted: it would be one about this machine today."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from benchmarks import envelope, token
from benchmarks.floors import DurableCommits
from benchmarks.idle import charge
from benchmarks.measure import Agent, Bench, BenchmarkError, load_of, memory_of, percentile
from benchmarks.table import Report, Row, Section, as_json, plain, show

REPORT = Report(
    {"machine": "abacus"},
    (
        Section("one", (Row("a thing", 3.0, "ms", floor=2.0, ratio_max=2.0, how="by hand"), Row("a rate", 1234, "/s"))),
        Section("two", details=("more of it",), not_measured="no broker"),
    ),
)


def test_the_envelope_benchmark_runs(tmp_path: Path) -> None:
    section = envelope.run(Bench(tmp_path, is_quick=True))
    assert [row.ratio is not None for row in section.rows] == [True, True]


def test_the_token_benchmark_runs_without_a_broker(tmp_path_factory: pytest.TempPathFactory) -> None:
    section = token.run(Bench(tmp_path_factory.mktemp("b"), is_quick=True))
    assert all(row.value > 0 and row.ratio is not None for row in section.rows)


def test_raw_commits_are_on_the_disk_when_they_return(tmp_path: Path) -> None:
    commits = DurableCommits(tmp_path / "floor.db")
    commits.commit()
    assert not (tmp_path / "floor.db-journal").exists()
    assert (tmp_path / "floor.db").stat().st_size > 4096
    commits.close()


def test_an_agent_that_dies_at_its_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no such thing"):
        Agent(["sh", "-c", "echo no such thing"], place=tmp_path)


def test_the_kernel_says_what_this_process_uses() -> None:
    assert load_of(os.getpid()).cpu_s > 0
    memory = memory_of(os.getpid())
    assert memory.rss >= memory.pss >= memory.private > 0


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 2), (0.75, 3), (0.99, 4), (1.0, 4)])
def test_a_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([4, 1, 3, 2], share) == expected


def test_a_standard_module_is_charged_to_the_package_that_wanted_it_first() -> None:
    printed = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 | site
import time:        10 |         10 |     re
import time:        20 |         30 |   json
import time:         5 |          5 |     idna
import time:         7 |         42 |   aiohttp.http
{"event": "agent_started"}
import time:         1 |         73 | aiohttp
"""
    assert charge(printed) == {"aiohttp": 38, "idna": 5, "(the interpreter's start)": 100}


def test_the_plain_report_has_aligned_columns_and_says_what_was_not_measured() -> None:
    lines = plain(REPORT).splitlines()
    assert lines[0] == "machine: abacus"
    assert lines[4].split() == ["a", "thing", "3.00", "ms", "2.00", "ms", "1.50", "≤", "2", "by", "hand"]
    assert lines[5].split() == ["a", "rate", "1,234", "/s"]
    assert "two: not measured: no broker" in lines
    assert not any("\x1b" in line for line in lines)


def test_the_json_report_spells_out_the_ratio() -> None:
    stream = io.StringIO()
    show(REPORT, json_wanted=True, stream=stream)
    assert stream.getvalue() == as_json(REPORT)
    rows = json.loads(stream.getvalue())["sections"][0]["rows"]
    assert [row["ratio"] for row in rows] == [1.5, None]
