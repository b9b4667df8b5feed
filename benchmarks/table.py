"""The rows of the report and how they are shown: a rich table on a terminal, plain text elsewhere, or JSON. Pure but
for :func:`show`.

A row is a cost beside its floor, the least that the same work can cost with the same libraries, disk and broker. The
ratio is the figure to compare across machines; the absolute values are for the machine that printed them. A row
without a floor (a rate, an idle load) stands for itself.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_COLUMNS = 200  # wider than any line
COLUMNS = ("subject", "value", "floor", "ratio", "target", "how")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``value`` and ``floor`` are in ``unit``; ``ratio_max`` is what we aim at, None for no aim."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    ratio_max: float | None = None
    how: str = ""

    @property
    def ratio(self) -> float | None:
        """Value over floor; None without a floor that can be divided by."""
        return self.value / self.floor if self.floor else None


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one subject, and lines of detail to be printed below the table."""

    title: str
    rows: tuple[Row, ...] = ()
    details: tuple[str, ...] = ()
    not_measured: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One run: where it was, and what it found."""

    machine: Mapping[str, str]
    sections: tuple[Section, ...] = field(default=())


def medians(
    name: str,
    samples: Iterable[float],
    floor: Iterable[float],
    unit: str = "ms",
    *,
    ratio_max: float | None = None,
    how: str = "the same",
) -> Row:
    """Return the row of two kinds of samples, the median of each."""
    return Row(name, median(samples), unit, median(floor), ratio_max, how)


def number(value: float, unit: str) -> str:
    """Write three significant digits and the unit, without an exponent."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:,.{digits}f}"
    return f"{text} {unit}" if unit else text


def cells(row: Row) -> tuple[str, ...]:
    """Return the texts of one row, in the order of ``COLUMNS``."""
    return (
        row.name,
        number(row.value, row.unit),
        "" if row.floor is None else number(row.floor, row.unit),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.ratio_max is None else f"≤ {row.ratio_max:g}",
        row.how,
    )


def plain(report: Report) -> str:
    """Return the report as plain text with aligned columns; numbers to the right."""
    stream = io.StringIO()
    _print(report, Console(file=stream, width=PLAIN_COLUMNS))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _print(report: Report, console: Console) -> None:
    for name, value in report.machine.items():
        console.print(Text(f"{name}: {value}", style="dim"))
    console.print()
    table = Table(*COLUMNS, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for section in report.sections:
        for row in section.rows:
            table.add_row(*map(Text, cells(row)), style=_style(row))
    console.print(table)
    console.print()
    for section in report.sections:
        if section.not_measured:
            console.print(Text(f"{section.title}: not measured: {section.not_measured}"))
        if section.details:
            console.print(Text("\n  ".join([f"{section.title}:", *section.details])))


def _style(row: Row) -> str:
    if row.ratio is None or row.ratio_max is None:
        return ""
    return "green" if row.ratio <= row.ratio_max else "yellow"


def as_json(report: Report) -> str:
    """Return the report as one JSON object; the ratios are spelled out."""
    shown = asdict(report)
    for section, found in zip(report.sections, shown["sections"], strict=True):
        found["rows"] = [{**asdict(row), "ratio": row.ratio} for row in section.rows]
    return json.dumps(shown) + "\n"


def show(report: Report, *, json_wanted: bool, stream: TextIO = sys.stdout) -> None:
    """Print the report in the form that fits the stream."""
    if json_wanted:
        stream.write(as_json(report))
    elif stream.isatty():
        _print(report, Console(file=stream, highlight=False))
    else:
        stream.write(plain(report))


def spread(values: Iterable[float], unit: str) -> str:
    """Say between which values the middle nine tenths lie."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    return f"{number(low, unit)} to {number(high, unit)}"
