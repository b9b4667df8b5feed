"""Shows results to people: plain text in a pipe, tables in a terminal.

A result becomes blocks (:func:`blocks`, pure), and blocks become lines (:func:`plain`, pure) or, on a terminal, rich's
tables; rich is imported only then. The blocks follow from the shape of the result, not from a list of its keys, so new
keys of a later agent are shown without a change here.

Invariant: text that came from elsewhere (a device's name, a provider's error) cannot move the cursor or colour the
terminal. :func:`clean` replaces every unprintable character, and nothing is read as markup.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from token_relay.cli.parsing import Context

CELL_CHARS_MAX = 512  # as in the logs
ROWS_MAX = 1_000  # as many events as an agent keeps
COLUMNS_MAX = 8  # wider rows become separate blocks: eleven columns fit no terminal
DEPTH_MAX = 6  # results have two levels; this only bounds the recursion
HIDDEN = frozenset({"action", "pending", "message"})  # shown as sentences, not as fields


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names and values, one per line; or values alone."""

    title: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of equal length under headers."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Pairs | Table


# -- Pure --------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Return ``text`` on one line, without control characters, and of bounded length."""
    shown = "".join(c if _prints(c) else f"\\x{ord(c):02x}" for c in text[: CELL_CHARS_MAX + 1])
    return shown if len(text) <= CELL_CHARS_MAX else shown[:CELL_CHARS_MAX] + "…"


def _prints(character: str) -> bool:
    # Cf holds the direction overrides, which can make a name look like another one
    return character.isprintable() and unicodedata.category(character) != "Cf"


def value_text(key: str, value: object) -> str:
    """Return one value as a person reads it; a key that ends in ``_s`` is a duration in seconds."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case int() | float() if key.endswith("_s"):
            return duration(value)
        case int() if key in ("at", "now") or key.endswith("_at"):
            return moment(value)
        case float():
            return f"{value:g}"
        case str():
            return clean(value)
        case list() | tuple() if all(not isinstance(item, Mapping | list | tuple) for item in value):
            return ", ".join(value_text("", item) for item in value[:ROWS_MAX]) or "-"
        case int():
            return str(value)
        case Mapping() if not value:
            return "-"
        case _:
            return clean(json.dumps(value, ensure_ascii=False, default=lambda other: f"<{type(other).__name__}>"))


def moment(unix_s: int) -> str:
    """Return a moment in Unix seconds as date and time in UTC, as the logs have it; 0 is "never"."""
    if not 0 < unix_s < 2**40:
        return "-"
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``2 d 3 h``."""
    if not -1e12 < seconds < 1e12:  # also nan
        return "-"
    whole = round(abs(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count} {unit}")
    kept = [part for part in parts[:2] if not part.startswith("0 ")]
    return ("-" if seconds < 0 and kept else "") + (" ".join(kept) or "0 s")


def label(key: str) -> str:
    """Return a key as words: ``last_seen_at`` is ``last seen at``; a duration's value has the unit."""
    return clean(key.removesuffix("_s").replace("_", " "))


def blocks(result: Mapping[str, object], title: str = "", depth: int = 0) -> Iterator[Block]:
    """Lay out a result: its own values first, then nested ones, in the order of the result."""
    shown = [(key, value) for key, value in result.items() if depth or key not in HIDDEN]
    flat = [(label(key), value_text(key, value)) for key, value in shown if not (_is_nested(value) or _is_prose(value))]
    if flat:
        yield Pairs(title, tuple(flat))
    for key, value in shown:
        name = f"{title}: {label(key)}" if title else label(key)
        if _is_prose(value):
            assert isinstance(value, list | tuple)
            yield Pairs(name, tuple((f"- {value_text(key, item)}",) for item in value[:ROWS_MAX]))
        elif isinstance(value, Mapping) and value and depth < DEPTH_MAX:
            yield from blocks(value, name, depth + 1)
        elif isinstance(value, list | tuple) and value and _is_nested(value):
            if depth < DEPTH_MAX and any(len(row) > COLUMNS_MAX or _holds_more(row) for row in value):
                for row in value[:ROWS_MAX]:
                    yield from blocks(row, name, depth + 1)
            else:
                yield _table(name, value)


def _is_nested(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _is_prose(value: object) -> bool:
    """Whether it is a list of sentences: each is a line of its own."""
    return isinstance(value, list | tuple) and any(isinstance(item, str) and " " in item.strip() for item in value)


def _holds_more(row: Mapping[str, object]) -> bool:
    return any(_is_nested(value) for value in row.values())


def _table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    keys = list(dict.fromkeys(key for row in rows[:ROWS_MAX] for key in row))
    return Table(
        title,
        tuple(label(key) for key in keys),
        tuple(tuple(value_text(key, row.get(key)) for key in keys) for row in rows[:ROWS_MAX]),
    )


def plain(parts: Sequence[Block]) -> Iterator[str]:
    """Yield the lines of a page without any control sequence."""
    for number, block in enumerate(parts):
        if number:
            yield ""
        if block.title:
            yield f"{block.title}:"
        indent = "  " if block.title else ""
        rows = block.rows if isinstance(block, Pairs) else (block.headers, *block.rows)
        widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell + " " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True)]
            yield (indent + "  ".join(cells)).rstrip()


def _columns(text: str) -> int:
    """Return how many columns this text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


# -- To a stream -------------------------------------------------------------------------------------------


def can_draw(stream: TextIO, text: str = "█▀▄") -> bool:
    """Whether the stream's encoding has these characters, by default the half blocks of a QR code."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def show(context: Context, result: Mapping[str, object]) -> None:
    """Print a result as one JSON object, or for a person with its sentence first and its action last."""
    if context.as_json:
        context.out(json.dumps(result, default=lambda other: f"<{type(other).__name__}>"))
        return
    message = result.get("message")
    if isinstance(message, str) and message:
        context.out(clean(message))
    page = list(blocks(result))
    if page:
        if context.stdout.isatty() and context.env.get("TERM") != "dumb":
            _show_rich(context, page)
        else:
            for line in plain(page):
                context.out(line)
    if not (message or page):
        context.out("nothing to show")
    action = result.get("action")
    if isinstance(action, Mapping) and action.get("sentence"):
        slug = f" [{clean(str(action['slug']))}]" if action.get("slug") else ""
        context.out(f"next: {clean(str(action['sentence']))}{slug}")


def _show_rich(context: Context, page: Sequence[Block]) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    console = _console(context)
    for number, block in enumerate(page):
        if number:
            console.print()
        if block.title:
            console.print(Text(block.title, style="bold"))
        if isinstance(block, Table) and _natural_columns(block) > console.width:
            for row in block.rows:  # folded cells are unreadable, so each row is a paragraph of names and values
                first, *rest = zip(block.headers, row, strict=True)
                console.print(Text.assemble((first[1], "cyan"), *_words(rest)), soft_wrap=True)
            continue
        headers = block.headers if isinstance(block, Table) else ("", "")
        is_table = isinstance(block, Table)
        if isinstance(block, Pairs) and all(len(row) == 1 for row in block.rows):  # a terminal may wrap, not we
            for (line,) in block.rows:
                console.print(Text(line), soft_wrap=True)
            continue
        grid = RichTable(show_header=is_table, box=None, pad_edge=False, header_style="dim")
        for position, header in enumerate(headers):
            grid.add_column(Text(header), style="cyan" if position == 0 else None, overflow="fold")
        for row in block.rows:
            grid.add_row(*(Text(cell) for cell in row))  # Text, not str: a str would be read as markup
        console.print(grid)


def _natural_columns(table: Table) -> int:
    widths = (max(map(_columns, column)) for column in zip(table.headers, *table.rows, strict=True))
    return sum(widths) + 2 * (len(table.headers) - 1)


def _words(cells: Sequence[tuple[str, str]]) -> Iterator[str | tuple[str, str]]:
    """Yield the words of a row after its first cell, without empty values and without the names of moments."""
    for header, cell in cells:
        if cell == "-":
            continue
        yield "  "
        if header not in ("at", "name"):
            yield (f"{header} ", "dim")
        yield cell


def _console(context: Context) -> Console:
    from rich.console import Console

    return Console(
        file=context.stdout,
        no_color=bool(context.env.get("NO_COLOR")),  # no-color.org: present and not empty
        highlight=False,
        markup=False,
        emoji=False,
    )
