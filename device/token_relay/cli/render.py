"""Shows results to people: plain text in a pipe, tables in a terminal.

A result becomes blocks (:func:`blocks`, pure), and blocks become lines (:func:`plain`, pure) or, on a terminal, rich's
tables; rich is imported only then. The blocks follow from the shape of the result, not from a list of its keys, so new
keys of a later agent are shown without a change here.

Invariant: text that came from elsewhere (a device's name, a provider's error) cannot move the cursor or colour the
terminal. :func:`clean` replaces every unprintable character, and nothing is read as markup.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from token_relay.cli.parsing import Context

EMPTY = "-"  # a value that is not there; left out where it does not hold a column
TERMINAL_COLUMNS = 80  # where nothing says
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
            return EMPTY
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
            return ", ".join(value_text("", item) for item in value[:ROWS_MAX]) or EMPTY
        case int():
            return str(value)
        case Mapping() if not value:
            return EMPTY
        case _:
            return clean(json.dumps(value, ensure_ascii=False, default=lambda other: f"<{type(other).__name__}>"))


def moment(unix_s: int) -> str:
    """Return a moment in Unix seconds as date and time in UTC, as the logs have it; 0 is "never"."""
    if not 0 < unix_s < 2**40:
        return EMPTY
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``2 d 3 h``."""
    if not -1e12 < seconds < 1e12:  # also nan
        return EMPTY
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
    if flat := [(name, text) for name, text in flat if text != EMPTY]:
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
    texts: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for row in rows[:ROWS_MAX] for key in row):
        column = [value_text(key, row.get(key)) for row in rows[:ROWS_MAX]]
        if not texts or set(column) != {EMPTY}:
            texts[key] = column
    lines = (tuple(column[place] for column in texts.values()) for place in range(len(rows[:ROWS_MAX])))
    return Table(title, tuple(map(label, texts)), tuple(lines))


def plain(parts: Sequence[Block]) -> Iterator[str]:
    """Yield the lines of a page without any control sequence."""
    for number, block in enumerate(parts):
        if number:
            yield ""
        if block.title:
            yield f"{block.title}:"
        indent = "  " if block.title else ""
        rows = block.rows if isinstance(block, Pairs) else (block.headers, *block.rows)
        widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)]
            yield (indent + "  ".join(cells)).rstrip()


def columns(text: str) -> int:
    """Return how many columns this text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def cut(text: str, width: int) -> str:
    """Return the text, or as much of it as fits so many columns, with … at its end."""
    if columns(text) <= width:
        return text
    shown = ""
    for character in text:
        if columns(shown + character) > width - 1:
            break
        shown += character
    return shown + "…" if width > 0 else ""


def wrapped(text: str, width: int) -> list[str]:
    """Return the text in lines of at most so many columns; a word that is longer stays whole, to be copied."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and columns(lines[-1]) + 1 + columns(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def styled(block: Block, width: int) -> Iterator[list[tuple[str, str]]]:
    """Yield the lines of a block for a terminal, as texts with their styles.

    Lines break between words only, and a value that does not fit beside its name stands below it: what a person copies
    (an id, a path, an address) stays in one piece.
    """
    if isinstance(block, Pairs) and all(len(row) == 1 for row in block.rows):  # a terminal may wrap, not we
        yield from ([(line, "")] for (line,) in block.rows)
        return
    rows = block.rows if isinstance(block, Pairs) else (block.headers, *block.rows)
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    if isinstance(block, Pairs):
        for name, value in block.rows:
            yield from _pair(name, value, widths[0], width)
    elif sum(widths) + 2 * (len(widths) - 1) > width:
        for row in block.rows:
            yield from _paragraph(block.headers, row, width)
    else:
        for number, row in enumerate(rows):
            cells = [cell + " " * (size - columns(cell)) for cell, size in zip(row, widths, strict=True)]
            head, rest = cells[0], "".join("  " + cell for cell in cells[1:])
            yield [(head, "cyan" if number else "dim"), (rest.rstrip(), "" if number else "dim")]


def _pair(name: str, value: str, name_width: int, width: int) -> Iterator[list[tuple[str, str]]]:
    room = width - name_width - 2
    head = (name + " " * (name_width - columns(name)) + "  ", "cyan")
    lines = wrapped(value, room)
    if columns(value) > room and max(map(columns, lines)) > room:
        yield [(name, "cyan")]
        yield from ([("  " + line, "")] for line in wrapped(value, width - 2))
        return
    yield [head, (lines[0], "")]
    yield from ([(" " * (name_width + 2) + line, "")] for line in lines[1:])


def _paragraph(headers: Sequence[str], row: Sequence[str], width: int) -> Iterator[list[tuple[str, str]]]:
    """Lay out a row that is wider than the terminal: names and values, without empty ones."""
    line: list[tuple[str, str]] = [(row[0], "cyan")]
    taken = columns(row[0])
    for header, cell in zip(headers[1:], row[1:], strict=True):
        if cell == EMPTY:
            continue
        name = "" if header in ("at", "name") else f"{header} "  # a moment, or a name, says by itself what it is
        size = columns(name + cell)
        if taken + 2 + size <= width:
            line += [("  ", ""), (name, "dim"), (cell, "")]
            taken += 2 + size
            continue
        yield line
        first, *rest = wrapped(name + cell, width - 2)
        yield from ([("  " + part, "")] for part in (first, *rest)[:-1])
        last = (first, *rest)[-1]
        line, taken = [("  ", ""), (last, "")], 2 + columns(last)
    yield line


# -- To a stream -------------------------------------------------------------------------------------------


def can_draw(stream: TextIO, text: str = "█▀▄") -> bool:
    """Whether the stream's encoding has these characters, by default the half blocks of a QR code."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def is_terminal(context: Context) -> bool:
    """Whether a person looks at the output on a terminal that obeys control sequences."""
    return context.stdout.isatty() and context.env.get("TERM") != "dumb"


def width_of(context: Context) -> int | None:
    """Return how many columns the terminal has that the output goes to; None in a pipe, where nothing is cut."""
    if not context.stdout.isatty():
        return None
    given = context.env.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and 0 < len(given) < 6 and int(given):
        return int(given)
    try:
        return os.get_terminal_size(context.stdout.fileno()).columns or TERMINAL_COLUMNS
    except (OSError, ValueError):  # it says that it is a terminal, and is none
        return TERMINAL_COLUMNS


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
        if is_terminal(context):
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
    from rich.text import Text

    console, width = _console(context), width_of(context) or TERMINAL_COLUMNS
    for number, block in enumerate(page):
        if number:
            console.print()
        if block.title:
            console.print(Text(block.title, style="bold"), soft_wrap=True)
        for parts in styled(block, width):
            console.print(Text.assemble(*parts), soft_wrap=True)  # Text, not str: a str would be read as markup


def _console(context: Context) -> Console:
    from rich.console import Console

    return Console(
        file=context.stdout,
        no_color=bool(context.env.get("NO_COLOR")),  # no-color.org: present and not empty
        highlight=False,
        markup=False,
        emoji=False,
    )
