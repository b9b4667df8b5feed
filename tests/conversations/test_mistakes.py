"""A mistake that an implementer may make is seen by a conversation, also by those that a happy path does not meet.

Each is planted in our own end; ``python -m tests.conversations.mistakes ID`` plays all against it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conversations.__main__ import FOLDER
from tests.conversations.mistakes import read_mistakes
from tests.mutants.catalogue import ROOT

MISTAKES = read_mistakes()


def test_there_are_enough_of_them_at_both_ends() -> None:
    assert len(MISTAKES) >= 24
    ends = [mistake.end for mistake in MISTAKES.values()]
    assert min(ends.count("phone"), ends.count("companion")) >= 10


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_conversation_sees_it(mistake: str) -> None:
    seen_by = MISTAKES[mistake].seen_by
    assert (FOLDER / f"{seen_by}.json").is_file()
    words = [sys.executable, "-m", "tests.conversations.mistakes", mistake, seen_by]
    played = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert json.loads(played.stdout or "null") == [seen_by], played.stderr[-2000:]
