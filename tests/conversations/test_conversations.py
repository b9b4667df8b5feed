"""The conversations are what the table says, cover all of it, and both our ends agree with every one.

What an end must do comes from docs/spec/protocol.json by an interpreter that imports nothing of the program; so where
file and program differ, one of table, page and program is wrong.
"""

from __future__ import annotations

import ast
import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conversations.__main__ import FOLDER, PASSED, main, read_conversations
from tests.conversations.interpreter import Impossible
from tests.conversations.laws import Told
from tests.conversations.make import made
from tests.conversations.our_ends import OurEnd
from tests.conversations.runner import play
from tests.conversations.table import PROTOCOL, Facts, Json, Row, Table, _holds
from tests.core.protocol_table import make_spec

HERE = Path(__file__).parent
FILES = read_conversations(FOLDER)
END_OF = {file["name"]: file["end"] for file in FILES}


def test_the_files_are_those_that_the_table_makes() -> None:
    """``python -m tests.conversations.make`` writes them."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == made(Table())


def test_the_interpreter_imports_nothing_of_the_program() -> None:
    modules = [*HERE.glob("interpreter*.py"), HERE / "table.py"]
    assert len(modules) > 5
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("token_relay")], path.name


@pytest.mark.parametrize("file", FILES, ids=[file["name"] for file in FILES])
def test_our_end_does_what_the_file_says(file: dict[str, Any]) -> None:
    end, told = OurEnd(), Told()
    try:
        outcome = play(file, end, level="envelope", told=told)
    finally:
        end.close()
    told.settle(outcome)
    assert (outcome.verdict, outcome.failures) == ("passed", [])
    assert set(told.never_compared) <= {"state: own_grants"}  # a phone that has none yet says nothing of them


def test_our_ends_pass_as_programs_too(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "*-strategy-*", "--json", "--", sys.executable, "-m", "tests.conversations.our_ends"]
    assert main(words) == PASSED
    found = json.loads(capfd.readouterr().out)
    assert (found["passed"] >= 7, found["failed"], found["not_played"]) == (True, 0, 0)


# -- Nothing of the table is left out ----------------------------------------------------------------------


class AskedTable(Table):
    """A table that notes what is asked of it: cells, rules, and conditions with what they said."""

    def __init__(self, content: Json | None = None) -> None:
        super().__init__(content)
        self.cells: set[tuple[str, str, str]] = set()
        self.rules: set[int] = set()
        self.refusals: set[str | None] = set()
        self.leases: set[tuple[str, int, bool]] = set()

    def row(self, end: str, state: str, event: str) -> Row | None:
        self.cells.add((end, state, event))
        return super().row(end, state, event)

    def offer_refusal(self, facts: Facts) -> str | None:
        reason = super().offer_refusal(facts)
        self.refusals.add(reason)
        return reason

    def renewal(self, facts: Facts) -> list[str]:
        rules = self.content["renewal"]["rules"]
        self.rules.add(next(rule["number"] for rule in rules if self.holds(rule["when"], facts)))
        return super().renewal(facts)

    def lease(self, which: str, facts: Facts) -> bool:
        (conditions,) = self.content["lease"][which]["when"]
        said = [_holds(condition, facts) for condition in conditions]
        if sum(said) >= len(said) - 1:  # all hold, or all but this one
            self.leases |= {(which, number, holds) for number, holds in enumerate(said)}
        return super().lease(which, facts)


@pytest.fixture(scope="module")
def asked() -> AskedTable:
    """The table, after every file was made from it."""
    table = AskedTable()
    made(table)
    return table


# A forgotten device's pairings are deleted with it: no message of it is taken any more.
UNREACHED = {("phone", "GONE(forgotten)")}
# A device without a handoff has none that could be forgotten.
NO_SUCH_EVENT = {("phone", "NEW", "forget")}


def test_every_cell_of_both_tables_is_met(asked: AskedTable) -> None:
    cells = {
        (end, state, event)
        for end in ("phone", "companion")
        for row in asked.content[end]["rows"]
        for state in asked.states_of(end, row["states"])
        for event in row["events"]
        if (end, state) not in UNREACHED
    }
    assert cells - asked.cells == NO_SUCH_EVENT


def test_every_rule_of_renew_is_the_one_that_answers(asked: AskedTable) -> None:
    assert asked.rules == {rule["number"] for rule in asked.content["renewal"]["rules"]}


# 4096 handoffs would be a file of 8 192 steps; a repeated OFFER whose handoff is gone needs them all to be forgotten.
BEYOND_A_FILE = {"too_many_handoffs", "gone"}


def test_every_refusal_of_an_offer_is_met(asked: AskedTable) -> None:
    assert asked.refusals == {line["reason"] for line in asked.content["offer_refusals"]} - BEYOND_A_FILE | {None}


# A handoff that is DONE without an open REVOKE was asked for by a person, and that gave the right back.
RIGHT_TAKEN = 3


def test_every_condition_of_lease_alone_makes_the_difference(asked: AskedTable) -> None:
    wanted = {
        (which, number, holds)
        for which in ("given", "taken")
        for number in range(len(asked.content["lease"][which]["when"][0]))
        for holds in (True, False)
    }
    assert wanted - asked.leases == {("given", RIGHT_TAKEN, False)}


NOT_HERE = {
    "outbox_full",  # 256 open requests of one pairing need as many handoffs, and a phone has one open at a time
    "no_one_time_key",  # a handoff that is READY has its key, unless its row was damaged
    "bad_invitation",  # tests/vectors/invitations.json
}


def test_every_reason_is_met_at_each_end_that_has_it() -> None:
    refused = {step["refused"] for file in FILES for step in file["steps"] if "refused" in step}
    assert set(make_spec.reasons(Table().content)) - refused == NOT_HERE


def test_every_message_is_said_by_the_end_and_to_it() -> None:
    messages = Table().messages
    for end, other in (("phone", "companion"), ("companion", "phone")):
        files = [file for file in FILES if file["end"] == end]
        out = {item.get("type") for file in files for step in file["steps"] for item in step["out"]}
        came = {step["message"]["type"] for file in files for step in file["steps"] if "message" in step}
        paired = {"PAIR3", "PAIR4"}  # in the steps that "begin" stands for
        assert {kind for kind in messages if Table().travels_from(kind, end)} <= out | paired
        assert {kind for kind in messages if Table().travels_from(kind, other)} <= came | paired


# -- A wrong cell is seen ----------------------------------------------------------------------------------


def spoilt_rows() -> Iterator[tuple[str, Json]]:
    """Each row of both tables with another next state, and without each of its effects."""
    content = json.loads(PROTOCOL.read_text("utf-8"))
    for end, another in (("phone", "CANCELLED"), ("companion", "DEAD(rejected)")):
        for number, row in enumerate(content[end]["rows"]):
            if {(end, state) for state in row["states"]} <= UNREACHED:
                continue
            changes: list[Json] = [{"next": another if row["next"] != another else "same"}]
            changes += [{"effects": [e for e in row["effects"] if e != effect]} for effect in row["effects"]]
            for change in changes:
                spoilt = copy.deepcopy(content)
                spoilt[end]["rows"][number] |= change
                yield f"{end} row {number} {row['events'][0]}: {json.dumps(change)}", spoilt


def spoilt_rules() -> Iterator[tuple[str, Json]]:
    """Each rule of RENEW, each refusal of an OFFER and each condition of LEASE left out."""
    content = json.loads(PROTOCOL.read_text("utf-8"))
    for number, rule in enumerate(content["renewal"]["rules"][:-1]):
        spoilt = copy.deepcopy(content)
        del spoilt["renewal"]["rules"][number]
        yield f"RENEW without rule {rule['number']}", spoilt
    for number, line in enumerate(content["offer_refusals"]):
        if line["reason"] not in BEYOND_A_FILE:
            spoilt = copy.deepcopy(content)
            del spoilt["offer_refusals"][number]
            yield f"OFFER without {line['reason']}", spoilt
    for which in ("given", "taken"):
        for number, condition in enumerate(content["lease"][which]["when"][0]):
            if (which, number) == ("given", RIGHT_TAKEN):
                continue
            spoilt = copy.deepcopy(content)
            del spoilt["lease"][which]["when"][0][number]
            yield f"LEASE {which} without {condition}", spoilt


# Effects that have nothing to do where the row stands; the page lists them so that the row can be read alone.
NOTHING_TO_DO = {
    'phone row 10 cancelled: {"effects": []}',  # a handoff that is DONE has no open request
    'phone row 17 superseded: {"effects": []}',
    'phone row 16 forget: {"next": "CANCELLED"}',  # the device's pairings are deleted with all that is theirs
    'phone row 16 forget: {"effects": ["WIPE_TOKEN"]}',
    'phone row 16 forget: {"effects": ["SETTLE"]}',
    'companion row 8 revoke: {"effects": ["ERASE_KEY", "SETTLE", "SEND_REVOKED"]}',  # no grant was stored
    'companion row 8 revoke: {"effects": ["ERASE_GRANT", "ERASE_KEY", "SEND_REVOKED"]}',
    'companion row 9 revoke: {"effects": ["ERASE_GRANT", "SETTLE", "SEND_REVOKED"]}',  # erased when it was stored
}
SPOILT = dict([*spoilt_rows(), *spoilt_rules()])


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_wrong_cell_in_the_table_makes_other_conversations(spoilt: str) -> None:
    """And so our ends, which agree with those of the right table, do not agree with it."""
    try:
        is_seen = made(Table(SPOILT[spoilt])) != made(Table())
    except Impossible:
        is_seen = True  # a scenario makes no sense by this table
    assert is_seen != (spoilt in NOTHING_TO_DO)
