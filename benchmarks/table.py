"""The rows of the report and how they are shown: a rich table on a terminal, plain text elsewhere, or JSON. Pure but
for :func:`show`.

A row is a cost beside its floor, the least that the same work can cost with the same libraries, disk and broker. The
ratio is the figure to compare across machines; the absolute values are for the machine that printed them. A row
without a floor (a rate, an idle load) stands for itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TextIO

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
    table = [COLUMNS, *(cells(row) for section in report.sections for row in section.rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    lines = [_line(line, widths) for line in table]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*_machine(report), "", *lines, "", *_details(report)]) + "\n"


def _line(line: tuple[str, ...], widths: list[int]) -> str:
    shown = [
        text.rjust(width) if 0 < i < len(COLUMNS) - 1 else text.ljust(width)
        for i, (text, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join(shown).rstrip()


def _machine(report: Report) -> list[str]:
    return [f"{name}: {value}" for name, value in report.machine.items()]


def _details(report: Report) -> list[str]:
    lines: list[str] = []
    for section in report.sections:
        if section.not_measured:
            lines.append(f"{section.title}: not measured: {section.not_measured}")
        if section.details:
            lines.append(f"{section.title}:")
            lines += [f"  {detail}" for detail in section.details]
    return lines


def as_json(report: Report) -> str:
    """Return the report as one JSON object; the ratios are spelled out."""
    sections = [
        {
            "title": section.title,
            "rows": [{**asdict(row), "ratio": row.ratio} for row in section.rows],
            "details": list(section.details),
            "not_measured": section.not_measured,
        }
        for section in report.sections
    ]
    return json.dumps({"machine": dict(report.machine), "sections": sections}) + "\n"


def show(report: Report, *, json_wanted: bool, stream: TextIO = sys.stdout) -> None:
    """Print the report in the form that fits the stream."""
    if json_wanted:
        stream.write(as_json(report))
    elif not stream.isatty():
        stream.write(plain(report))
    else:
        _show_rich(report, stream)


def _show_rich(report: Report, stream: TextIO) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(file=stream, highlight=False)
    for line in _machine(report):
        console.print(escape(line), style="dim")
    table = Table(*COLUMNS)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for section in report.sections:
        for row in section.rows:
            table.add_row(*map(escape, cells(row)), style=_style(row))
        table.add_section()
    console.print(table)
    for line in _details(report):
        console.print(escape(line))


def _style(row: Row) -> str:
    if row.ratio is None or row.ratio_max is None:
        return ""
    return "green" if row.ratio <= row.ratio_max else "yellow"


def spread(values: Iterable[float], unit: str) -> str:
    """Say between which values the middle nine tenths lie."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    return f"{number(low, unit)} to {number(high, unit)}"
