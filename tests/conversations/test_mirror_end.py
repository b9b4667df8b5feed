"""The files and the runner against each other: who does what a file says passes it, and with one thing less fails."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.conversations.__main__ import FOLDER, read_conversations
from tests.conversations.laws import Outcome, Told
from tests.conversations.mirror_end import MirrorEnd
from tests.conversations.runner import play

FIXTURES = Path(__file__).parent / "fixtures"
FILES = [file for folder in (FOLDER, FIXTURES, FIXTURES / "mailbox") for file in read_conversations(folder)]
IDS = [file["name"] for file in FILES]


def played(file: dict[str, Any], end: MirrorEnd, level: str) -> Outcome:
    """Play one file as the command line does."""
    told = Told()
    outcome = play(file, end, level=level, told=told)
    told.settle(outcome)
    return outcome


def levels(file: dict[str, Any]) -> list[str]:
    """The levels at which it is played."""
    return ["envelope"] if file["level"] == "envelope" else ["plain", "envelope"]


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_an_end_that_does_what_the_file_says_passes(file: dict[str, Any]) -> None:
    for level in levels(file):
        outcome = played(file, MirrorEnd(file), level)
        assert (outcome.verdict, outcome.failures) == ("passed", [])


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_nothing_that_the_file_expects_can_be_left_out(file: dict[str, Any]) -> None:
    level = levels(file)[0]
    whole = MirrorEnd(file)
    played(file, whole, level)
    for number, item in enumerate(whole.order):
        if item.get("times", [1])[0] > 0:
            assert played(file, MirrorEnd(file, leave_out=number), level).verdict == "failed", item


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_no_state_that_the_file_expects_can_be_another(file: dict[str, Any]) -> None:
    for number, step in enumerate(file["steps"]):
        for pairing in step.get("state", {}).get("pairings", {}):
            other = copy.deepcopy(file)
            of_pairing = other["steps"][number]["state"]["pairings"][pairing]
            of_pairing["open"] = [*of_pairing["open"], "PAIR3"]
            outcome = played(file, MirrorEnd(other), levels(file)[0])
            assert [failure.step for failure in outcome.failures] == [number]


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_every_refusal_that_the_file_expects_is_compared(file: dict[str, Any]) -> None:
    for number, step in enumerate(file["steps"]):
        if "refused" in step:
            other = copy.deepcopy(file)
            other["steps"][number]["refused"] = "another_reason"
            outcome = played(file, MirrorEnd(other), levels(file)[0])
            assert [failure.step for failure in outcome.failures] == [number]
