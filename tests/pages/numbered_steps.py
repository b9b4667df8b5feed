"""Numbered steps of a page in docs/, as a person reads them: where, what to type, what is to be seen. Pure.

A step begins with its number at the edge of the page. The first words in bold that are a place of :data:`PLACES` say
where it is done. A block marked ``sh`` is typed, one command a line; a block without a mark is what is to be seen after
it, line for line and in this order, where ``…`` stands for anything and other lines may lie between. A block of which
the last line is ``…`` alone leaves the command running: a later step at the same place, with a block and no command,
says how it ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

PLACES = (
    "companion",
    "old companion",
    "new companion",
    "phone",
    "old phone",
    "new phone",
    "other companion",
    "broker's machine",
    "any machine",
)
ANYTHING = "…"
_STEP = re.compile(r"^(\d+)\. (.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Deed:
    """A command (or none: one that runs already goes on), the lines to be seen after it, and how it ends.

    ``exit_code`` is what the text between it and the next command says; 0 where that says nothing.
    """

    command: str
    seen: tuple[str, ...] = ()
    goes_on: bool = False
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step."""

    number: int
    text: str
    place: str
    deeds: tuple[Deed, ...]


def steps_of(page: str) -> list[Step]:
    """Return the steps of a page, in order. LookupError: commands without a place, or a number that does not follow."""
    steps = [_step(int(found[1]), found[2]) for found in _STEP.finditer(page)]
    for before, step in zip([0, *(step.number for step in steps)], steps, strict=False):
        if step.number not in (1, before + 1):
            raise LookupError(f"step {step.number} comes after step {before}")
    return steps


def pattern_of(line: str) -> str:
    """Return the regular expression of a line to be seen: columns may be wider, ``…`` is anything."""
    parts = [r"[ ]+".join(map(re.escape, part.split(" "))) for part in re.sub(" +", " ", line.strip()).split(ANYTHING)]
    return r"(?m:^)[ ]*" + r"[^\n]*".join(parts)


def _step(number: int, text: str) -> Step:
    prose = " ".join(_BLOCK.sub("", text).split())
    deeds = tuple(_deeds(text))
    place = next((bold for bold in re.findall(r"\*\*([^*]+)\*\*", prose) if bold in PLACES), "")
    if deeds and not place:
        raise LookupError(f"step {number} says no place: {prose}")
    return Step(number, prose, place, deeds)


def _deeds(text: str) -> Iterator[Deed]:
    waiting: Deed | None = None
    _, *rest = _BLOCK.split(text)
    for mark, body, after in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        if mark == "sh":
            for command in re.sub(r"\\\n\s*", "", body).splitlines():
                if waiting is not None:
                    yield waiting
                waiting = Deed(command.strip())
        else:
            lines = tuple(line.strip() for line in body.splitlines() if line.strip())
            goes_on = lines[-1] == ANYTHING
            waiting = replace(waiting or Deed(""), seen=lines[:-1] if goes_on else lines, goes_on=goes_on)
        if waiting is not None and (code := re.search(r"exit\s+code\s+(\d)", after)):
            waiting = replace(waiting, exit_code=int(code[1]))
        if mark != "sh" and waiting is not None:
            yield waiting
            waiting = None
    if waiting is not None:
        yield waiting
