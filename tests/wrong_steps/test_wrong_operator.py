"""Whoever looks after many devices: each wrong step is answered with what happened and the one thing to do."""

from __future__ import annotations

import pytest

from tests.wrong_steps.judge import take
from tests.wrong_steps.places import Places
from tests.wrong_steps.rows_file import Step, steps


@pytest.mark.parametrize("step", steps("operator"), ids=str)
def test_wrong_step_is_answered(step: Step, places: Places) -> None:
    take(step, places)
