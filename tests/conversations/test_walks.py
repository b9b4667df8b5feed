"""Random conversations: what the table makes of them, and what our own ends do."""

from __future__ import annotations

import pytest

from tests.conversations.table import Table
from tests.conversations.walks import main, walk

SEEDS = 150


@pytest.mark.parametrize("end", ["phone", "companion"])
def test_our_ends_walk_as_the_table_says(end: str) -> None:
    table = Table()
    for seed in range(SEEDS):
        _, outcome = walk(end, seed, table)
        assert outcome.failures == [], f"python -m tests.conversations.walks --end {end} --from {seed} --count 1"


def test_a_walk_meets_what_a_wrong_table_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Table()
    row = next(row for row in right.content["companion"]["rows"] if row["events"] == ["cancel"])
    row["next"] = "DEAD(rejected)"
    wrong = Table(right.content)
    monkeypatch.setattr("tests.conversations.walks.Table", lambda: wrong)
    assert main(["--end", "companion", "--count", "20"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED companion-walk-" in printed
    assert "walked 20, failed " in printed
