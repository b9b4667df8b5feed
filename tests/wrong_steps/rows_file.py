"""The wrong steps as data: ``rows/*.toml``, one table ``[[step]]`` each.

``did``     what the person did, in words; the name of the test
``place``   the prepared situation (:mod:`tests.wrong_steps.places`); ``alone``: a place for this row only
``files``   what lies in the working directory beforehand, by path
``before``  lines that succeed first; ``after``: lines that put things right for the next row
``type``    the line that is judged, perhaps with ``< FILE`` at its end; ``dialogue``: what a person at a terminal sees
            (a pattern) and types; without it there is no terminal
``says``    texts that stand in what it prints; ``do``: what stands in its one hint; ``exit``: its exit code
``code``    the error's slug with ``--json``; where it is given, the line is typed again with ``--json``
``stream``  where it says so: ``stderr``, or ``stdout`` for a result (``doctor``, a handoff that goes on)
``mark``    what begins a hint: ``hint:``, or ``try:`` in ``doctor``, where other findings may have hints too

A line that does not begin with ``token-relay`` is one of the place's own (``start phone``, ``stop companion``,
``sign-in USER``, ``decline FILE``) or a shell's; with ``!`` before it, it is refused. ``{phone}``, ``{companion}``,
``{broker}``, ``{provider}``, ``{client}``, ``{tenant}``, ``{invitation}`` and so on are the place's.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROWS = Path(__file__).with_name("rows")


@dataclass(frozen=True, slots=True)
class Step:
    """One row."""

    did: str
    place: str
    type: str
    says: tuple[str, ...]
    do: str
    exit: int
    code: str = ""
    dialogue: tuple[tuple[str, str], ...] = ()
    stream: str = "stderr"
    mark: str = "hint:"
    alone: bool = False
    files: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.did


def steps(name: str) -> list[Step]:
    """Return the rows of one file, those of one place together."""
    found = [_step(row) for row in tomllib.loads((ROWS / f"{name}.toml").read_text())["step"]]
    return sorted(found, key=lambda step: (step.alone, step.place))


def _step(row: dict[str, Any]) -> Step:
    lists = {key: tuple(value) for key, value in row.items() if key in ("says", "before", "after")}
    return Step(**{**row, **lists, "dialogue": tuple((sees, types) for sees, types in row.get("dialogue", []))})
