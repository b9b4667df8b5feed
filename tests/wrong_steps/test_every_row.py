"""The rows themselves: each file is a test, each row says another step, and none gets lost."""

from __future__ import annotations

from pathlib import Path

from tests.wrong_steps.places import PLACES
from tests.wrong_steps.rows_file import ROWS, steps

FILES = sorted(path.stem for path in ROWS.glob("*.toml"))
ROWS_MIN = 150  # what there was on the first day, less what a better row may replace


def test_every_file_of_rows_is_a_test() -> None:
    here = Path(__file__).parent
    assert sorted(path.stem.removeprefix("test_wrong_") for path in here.glob("test_wrong_*.py")) == FILES


def test_every_row_says_another_step_in_a_place_that_there_is() -> None:
    rows = [step for name in FILES for step in steps(name)]
    assert len(rows) >= ROWS_MIN
    assert len({step.did for step in rows}) == len(rows)
    assert {step.place for step in rows} <= set(PLACES)
    assert all(step.says and step.do for step in rows)
