"""Shows the demo: one line per step, sometimes a small picture, colours only where a terminal wants them.

Plain text when the output is no terminal or ``NO_COLOR`` is set: no tables, no QR code, ASCII marks, lines of any
length. Text from programs is cleaned of control characters and never read as markup.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from token_relay.cli import render
from token_relay.cli.demo.checks import StepFailedError
from token_relay.cli.render import Block, Pairs, can_draw, clean, plain

READING_S = 1.3  # after each step, for a person; ten of them and the story itself stay below 40 s
INDENT = 7


@dataclass(frozen=True, slots=True)
class Rows:
    """A small table."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Text that is only a picture, such as a QR code: not for plain output."""

    text: str


Picture = Rows | Drawing


@dataclass(frozen=True, slots=True)
class Told:
    """The result of a step that held: one sentence, details, pictures side by side."""

    line: str
    details: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()


class Screen:
    """The output of the demo."""

    def __init__(
        self, stdout: TextIO, stdin: TextIO, *, is_plain: bool, fast: bool = False, step: bool = False
    ) -> None:
        self._stdin = stdin
        self._is_plain = is_plain or not stdout.isatty()
        self._reading_s = 0.0 if fast or step or self._is_plain else READING_S
        self._is_stepwise = step
        self._console = Console(
            file=stdout,
            no_color=is_plain,
            force_terminal=False if self._is_plain else None,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=self._is_plain,
        )
        self._can_draw = not self._is_plain and can_draw(stdout, "█▀▄✓✗─")

    def title(self, text: str) -> None:
        """Show the title."""
        self._console.print(Text(text, style="bold"))

    def explain(self, number: int, title: str, why: str) -> None:
        """With ``--step``: explain the next step, and wait for the return key (or the end of input)."""
        if not self._is_stepwise:
            return
        self._console.print()
        self._console.print(Text(f"step {number}: {title}", style="bold"))
        self._indented(Text(" ".join(why.split())), 3)
        self._console.print(Text("   return key to go on ", style="dim"), end="")
        if not self._stdin.readline().endswith("\n"):
            self._console.print()

    def working(self, number: int, title: str) -> AbstractContextManager[object]:
        """Show that the step is under way, on a terminal that can animate it."""
        if self._is_plain:
            return contextlib.nullcontext()
        return self._console.status(Text(f"{number:2}  {title} ..."), spinner="dots" if self._can_draw else "line")

    def held(self, number: int, told: Told) -> None:
        """Show a step that held."""
        mark = "✓ " if self._can_draw else "ok"
        line = Text.assemble((f"{mark} {number:2}  ", "green"), clean(told.line))
        self._console.print(line)
        for detail in told.details:
            self._indented(Text(clean(detail), style="dim"), INDENT)
        self._draw(told.pictures)
        time.sleep(self._reading_s)  # for the reader; nothing waits for a program here

    def failed(self, number: int, title: str, error: StepFailedError, logs: Sequence[tuple[str, list[str]]]) -> None:
        """Show a step that did not hold: what was expected, what came, the last lines of the logs."""
        mark = "✗ " if self._can_draw else "no"
        self._console.print(Text(f"{mark} {number:2}  {title}", style="bold red"))
        self._field("expected", error.expected)
        self._field("got", error.got)
        for name, lines in logs:
            self._console.print(Text(f"{'':{INDENT}}last lines of the log of {name}:"))
            for line in lines:
                self._console.print(Text(f"{'':{INDENT + 2}}{clean(line)}", style="dim"))

    def end(self, text: str, detail: str, *, is_good: bool) -> None:
        """Show the final result."""
        self._console.print(Text(text, style="bold green" if is_good else "bold red"))
        self._indented(Text(detail, style="dim"), INDENT)

    # -- drawing -------------------------------------------------------------------------------------------

    def _indented(self, text: Text, columns: int) -> None:
        """Print a paragraph: one long line in plain output, else wrapped under its indentation."""
        if self._is_plain:
            self._console.print(Text.assemble(" " * columns, text))
        else:
            self._console.print(Padding(text, (0, 0, 0, columns)))

    def _field(self, name: str, text: str) -> None:
        for number, line in enumerate(text.split("\n")):
            self._console.print(Text(f"{'':{INDENT}}{'' if number else name + ':':<10}{clean(line)}"))

    def _draw(self, pictures: tuple[Picture, ...]) -> None:
        if self._is_plain:
            for table in (picture for picture in pictures if isinstance(picture, Rows)):
                for line in plain([_block(table)]):
                    self._console.print(Text(f"{'':{INDENT}}{line}"))
        elif shown := [_shape(picture) for picture in pictures if self._can_draw or isinstance(picture, Rows)]:
            side_by_side = Table.grid(padding=(0, 3))
            side_by_side.add_row(*shown)
            self._console.print(Padding(side_by_side, (0, 0, 0, INDENT)))


def _shape(picture: Picture) -> Table | Text:
    if isinstance(picture, Drawing):
        return Text(picture.text.rstrip("\n"), style="white on black", no_wrap=True)
    columns = (Column(Text(header), no_wrap=True) for header in picture.headers)
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1), header_style="underline")
    for row in picture.rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    return table


def _block(table: Rows) -> Block:
    """Return a table as the other commands print theirs; with one column, the header is the title."""
    rows = tuple(tuple(map(clean, row)) for row in table.rows)
    return render.Table("", table.headers, rows) if len(table.headers) > 1 else Pairs(table.headers[0], rows)
