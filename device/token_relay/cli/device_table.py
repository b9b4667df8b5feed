"""The list of devices as a person reads it: one line each, cut to the width of the terminal. It prints nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from token_relay.cli.render import clean, columns, cut, duration
from token_relay.console.device_words import STATES, summary_text, whole

Row = Mapping[str, object]
HEADING = ("  state", "name", "account", "heard", "lease", "next")
NARROW_CHARS = 8  # a name or an account is not cut below this
GAP = "  "


def lines_of(result: Mapping[str, object], *, width: int | None, in_ascii: bool = False, asked: str = "") -> list[str]:
    """Return heading, one line a device, the counts, and what to do next; ``width``: None cuts nothing.

    ``result`` is the agent's answer to ``devices``; what a newer agent adds is left out. ``asked``: the options of a
    page, which the next one has too.
    """
    listed = result.get("devices")
    rows = [row for row in listed if isinstance(row, Mapping)] if isinstance(listed, list) else []
    lines = _table(rows, whole(result.get("now")), width, in_ascii=in_ascii) if rows else []
    lines.append(summary_text(result.get("summary")))
    if isinstance(place := result.get("next"), str) and place:
        lines.append(f"more: token-relay phone devices {asked}--after {clean(place)}")
    lines += _next([result] if result.get("action") else rows, width)
    return lines


def _table(rows: Sequence[Row], now: int, width: int | None, *, in_ascii: bool) -> list[str]:
    cells = [HEADING, *(_cells(row, now, in_ascii=in_ascii) for row in rows)]
    widths = [max(map(columns, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        free = width - sum(widths) - len(GAP) * (len(widths) - 1)
        if free < 0:
            room = max(widths[1] + widths[2] + free, 2 * NARROW_CHARS)
            widths[1] = min(widths[1], max(room - widths[2], room * 9 // 20))
            widths[2] = min(widths[2], room - widths[1])
    return [GAP.join(_fit(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cells(row: Row, now: int, *, in_ascii: bool) -> tuple[str, ...]:
    mark, plain_mark, word = STATES.get(str(row.get("state")), ("·", ".", clean(str(row.get("state")))))
    others = whole(row.get("accounts")) - 1
    heard_at, left_s = whole(row.get("heard_at")), row.get("lease_left_s")
    return (
        f"{plain_mark if in_ascii else mark} {word}",
        clean(str(row.get("name") or row.get("device_id"))),
        clean(str(row.get("account") or "")) + (f" +{others}" if others > 0 else ""),
        _about(now - heard_at) if heard_at else "never",
        _about(left_s) if isinstance(left_s, int) else "",
        clean(str(row.get("next") or "")),
    )


def _about(seconds: int) -> str:
    """Return a duration in its largest unit."""
    return " ".join(duration(max(0, seconds)).split(" ")[:2])


def _fit(text: str, width: int) -> str:
    shown = cut(text, width)
    return shown + " " * (width - columns(shown))


def _next(rows: Sequence[Row], width: int | None) -> list[str]:
    """Return what to do about the first device that needs a person, or where that is said if it needs two lines.

    What the answer itself says comes before: without a broker nobody knows of any device.
    """
    row = next((row for row in rows if isinstance(row.get("action"), Mapping)), None)
    if row is None or not isinstance(action := row["action"], Mapping):
        return []
    line = f"next: {clean(str(action.get('sentence')))} [{clean(str(action.get('slug')))}]"
    if width is None or columns(line) <= width or "device_id" not in row:
        return [line]
    return [f"next: token-relay phone devices {shlex.quote(clean(str(row.get('name') or row.get('device_id'))))}"]
