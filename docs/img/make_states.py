"""Draws both ends of a handoff from their state machines: ``make docs-img`` writes the end of ``docs/spec/handoff.md``.

Each machine is walked from its first state; what the steps answer is the diagram and the table. A test makes both again
and compares.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from token_relay.protocol import handoff
from token_relay.protocol.errors import LocalProtocolError

PAGE = Path(__file__).parents[1] / "spec" / "handoff.md"
BEGIN, END = "<!-- states: made by `make docs-img` -->", "<!-- end of states -->"
NAMES: dict[Any, str] = {
    handoff.Offered(is_accepted=True): "ACCEPTED",
    handoff.NoHandoff(): "NONE",
    handoff.HandoffStored(): "STORED",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one event does in one state."""

    state: Any
    event: str
    next: Any  # None: the event raises
    effects: tuple[str, ...]

    @property
    def answer(self) -> tuple[str, str]:
        """Next state and effects, as the table says them."""
        if self.next is None:
            return "raises", ""
        return "same" if self.next == self.state else name(self.next), ", ".join(self.effects)


@dataclass(frozen=True, slots=True)
class Machine:
    """One end: its kinds of state, where it begins, what it hears, and its step."""

    title: str
    kinds: tuple[type, ...]
    begins: tuple[Any, ...]
    events: tuple[Any, ...]
    step: Callable[[Any, Any], Any]

    def cells(self) -> list[Cell]:
        """Return every state that can be reached with every event, in the order of the kinds."""
        states, cells = list(self.begins), []
        for state in states:
            for event in self.events:
                try:
                    step = self.step(state, event)
                except LocalProtocolError:
                    cells.append(Cell(state, event, None, ()))
                    continue
                cells.append(Cell(state, event, step.state, tuple(effect.name for effect in step.effects)))
                if step.state not in states:
                    states.append(step.state)
        return sorted(cells, key=lambda cell: self.kinds.index(type(cell.state)))


MACHINES = (
    Machine(
        "phone",
        get_args(handoff.PhoneState),
        (handoff.New(), handoff.Gone("rollback")),  # a restored disk begins there
        get_args(handoff.PhoneEvent),
        handoff.phone_step,
    ),
    Machine(
        "companion",
        get_args(handoff.CompanionState),
        (handoff.NoHandoff(),),
        get_args(handoff.CompanionEvent),
        handoff.companion_step,
    ),
)


def box(state: Any) -> str:
    """Name a state without its reason; each name is one box of the diagram."""
    return NAMES.get(state) or type(state).__name__.upper()


def name(state: Any) -> str:
    """Name a state with all that it remembers."""
    reason = f"({state.reason})" if hasattr(state, "reason") else ""
    return box(state) + reason + (" stored" if getattr(state, "was_stored", False) else "")


def diagram(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the diagram: what changes a state, and its effects. One arrow for what means the same in every state."""
    first = cells[0].state
    yield from ("```mermaid", "stateDiagram-v2", f"    [*] --> {box(first)}")
    everywhere = {
        event
        for event in {cell.event for cell in cells}
        if len({(cell.next, cell.effects) for cell in cells if cell.event == event}) == 1
    }
    arrows: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.next not in (None, cell.state):
            source = "any" if cell.event in everywhere else box(cell.state)
            events = arrows.setdefault((source, box(cell.next), ", ".join(cell.effects)), [])
            if cell.event not in events:
                events.append(cell.event)
    if everywhere:
        yield "    any: in any state"
    for (source, target, effects), events in arrows.items():
        yield f"    {source} --> {target}: {', '.join(events)} / {effects}"
    yield "```"


def table(cells: Iterable[Cell]) -> Iterator[str]:
    """Yield the table: each state with each event; events and states with the same answers share a row."""
    yield from ("| state | event | next | effects |", "| --- | --- | --- | --- |")
    answers: dict[str, dict[tuple[str, str], list[str]]] = {}
    for cell in cells:
        answers.setdefault(name(cell.state), {}).setdefault(cell.answer, []).append(cell.event)
    alike: list[tuple[list[str], dict[tuple[str, str], list[str]]]] = []
    for state, rows in answers.items():
        others = next((states for states, same in alike if same == rows), None)
        if others is None:
            alike.append(([state], rows))
        else:
            others.append(state)
    for states, rows in alike:
        for (following, effects), events in rows.items():
            yield f"| {', '.join(states)} | {', '.join(events)} | {following} | {effects or '-'} |"


def drawn() -> str:
    """Return what stands between the markers."""
    lines: list[str] = []
    for machine in MACHINES:
        cells = machine.cells()
        lines += [f"### Every state of the {machine.title}", "", *diagram(cells), "", *table(cells), ""]
    return "\n".join(lines)


def with_states(page: str) -> str:
    """Return the page with both machines drawn anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{drawn()}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Write the page."""
    PAGE.write_text(with_states(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
