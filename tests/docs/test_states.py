"""The state diagrams and tables of a handoff are what the two state machines answer."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from token_relay.protocol import handoff

ROOT = Path(__file__).parents[2]
PHONE_CELLS, COMPANION_CELLS = 13 * 12, 10 * 9  # states x events


@pytest.fixture(scope="module")
def states() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_states", ROOT / "docs" / "img" / "make_states.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_diagrams_and_tables_are_those_of_the_machines(states: ModuleType) -> None:
    page = states.PAGE.read_text(encoding="utf-8")
    assert states.with_states(page) == page, "run: make docs-img"


def test_every_state_is_met_with_every_event_once(states: ModuleType) -> None:
    phone, companion = (machine.cells() for machine in states.MACHINES)
    assert (len(phone), len(companion)) == (PHONE_CELLS, COMPANION_CELLS)
    for cells in (phone, companion):
        table = [[part.split(", ") for part in row.strip("| ").split(" | ")[:2]] for row in states.table(cells)][2:]
        said = [(state, event) for named, events in table for state in named for event in events]
        assert len(said) == len(set(said)) == len(cells)
        assert set(said) == {(states.name(cell.state), cell.event) for cell in cells}


def test_every_change_of_state_is_an_arrow(states: ModuleType) -> None:
    for machine in states.MACHINES:
        cells = machine.cells()
        arrows = re.findall(r"^    (\w+) --> (\w+): (.*) / (.*)$", "\n".join(states.diagram(cells)), re.MULTILINE)
        drawn = {(source, target, event, what) for source, target, of, what in arrows for event in of.split(", ")}
        for cell in cells:
            if cell.next is not None and cell.next != cell.state:
                arrow = (states.box(cell.next), cell.event, ", ".join(cell.effects))
                assert {(states.box(cell.state), *arrow), ("any", *arrow)} & drawn, cell


def test_a_changed_step_changes_the_page(states: ModuleType) -> None:
    def step(state: handoff.PhoneState, event: handoff.PhoneEvent) -> handoff.PhoneStep:
        if state == handoff.Released() and event == "cancelled":
            return handoff.PhoneStep(handoff.Cancelled())
        return handoff.phone_step(state, event)

    honest = states.MACHINES[0]
    changed = replace(honest, step=step).cells()
    assert list(states.diagram(changed)) != list(states.diagram(honest.cells()))
    assert list(states.table(changed)) != list(states.table(honest.cells()))
