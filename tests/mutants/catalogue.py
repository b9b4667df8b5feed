"""The list of protocol mistakes: what is changed in the shipped source, and which tests notice.

A mutant is one mistake that somebody could make in good faith, as exact text to find and text to put in its place.
The old text must be there once, so that a change of the source that touches it is noticed here. Where other code
still keeps the promise, the mutant names those layers: with them taken away too its tests fail, with only them taken
away they do not.

The data lies in ``*.toml`` beside this module, one file per room of the program.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}\z")]
Source = Annotated[str, Field(pattern=r"^(relay|device)/[a-z0-9_/]+\.py\z")]


class DriftError(Exception):
    """A mutant does not fit the source any more."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Edit(_Strict):
    """One change: ``old`` is in ``file`` exactly once."""

    file: Source
    old: Annotated[str, Field(min_length=1)]
    new: str


class Layers(_Strict):
    """What else keeps the promise, in words, and how it is taken away."""

    name: str
    edit: Annotated[list[Edit], Field(min_length=1)]


class Mutant(_Strict):
    """One mistake. ``tests`` are what it is shown to, by pytest's node ids."""

    id: Slug
    mistake: Annotated[str, Field(max_length=100, pattern=r"^[^|]+\z")]
    edit: Annotated[list[Edit], Field(min_length=1)]
    tests: Annotated[list[str], Field(min_length=1)]
    layers: Layers | None = None
    room: str = ""


class _Room(_Strict):
    room: str
    mutant: list[Mutant]


def read_catalogue() -> list[Mutant]:
    """Return every mutant, room by room in the order of the files."""
    mutants: list[Mutant] = []
    for path in sorted(HERE.glob("*.toml")):
        room = _Room.model_validate(tomllib.loads(path.read_text()))
        mutants.extend(mutant.model_copy(update={"room": room.room}) for mutant in room.mutant)
    return mutants


def apply(edits: Iterable[Edit], read: Callable[[str], str]) -> dict[str, str]:
    """Return the changed files by name; ``read`` gives a file's text.

    Raises:
        DriftError: an old text is not there, or more than once, or the change changes nothing that runs.
    """
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for edit in edits:
        text = after.get(edit.file) or before.setdefault(edit.file, read(edit.file))
        count = text.count(edit.old)
        if count != 1:
            raise DriftError(f"{edit.file}: {count} times instead of once: {edit.old.strip()[:80]!r}")
        after[edit.file] = text.replace(edit.old, edit.new)
    for file, text in after.items():
        try:
            changed = ast.dump(ast.parse(text)) != ast.dump(ast.parse(before[file]))
        except SyntaxError as exc:
            raise DriftError(f"{file}: what comes out is not Python: {exc.msg} in line {exc.lineno}") from exc
        if not changed:
            raise DriftError(f"{file}: the program stays the same")
    return after


def source(file: str) -> str:
    """Return a file of this tree."""
    return (ROOT / file).read_text()
