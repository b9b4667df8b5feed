"""Times, sizes and ids in words. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

ID_CHARS_SHOWN = 8
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """Return a length of time in its largest unit, days and hours with the next one: ``7 min``, ``2 d 3 h``."""
    left = int(min(max(0.0, seconds), 1e12))
    for place, (unit_s, name) in enumerate(_UNITS):
        if left >= unit_s:
            rest = left % unit_s // _UNITS[place + 1][0] if place < 2 else 0
            return f"{left // unit_s} {name}" + (f" {rest} {_UNITS[place + 1][1]}" if rest else "")
    return "0 s"


def moment(at: float) -> str:
    """Return Unix seconds as people read them, in UTC."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "at no time that a calendar has"


def seen_from(at: float, now: float) -> str:
    """Return a moment as it is seen now: ``in 7 min``, ``3 s ago``."""
    at = min(max(at, -1e12), 1e12)  # a token's number may be larger than any float
    return f"in {duration(at - now)}" if at > now else f"{duration(now - at)} ago"


def sentence(text: str) -> str:
    """Return a message as a sentence begins: errors and steps are written in lower case."""
    return text[:1].upper() + text[1:]


def short(text: str) -> str:
    """Return the beginning of an id; the page has the whole one in a title."""
    return text if len(text) <= ID_CHARS_SHOWN + 1 else f"{text[:ID_CHARS_SHOWN]}…"


def size(count: float) -> str:
    """Return a number of bytes as people say it."""
    return f"{int(count)} B" if count < 1024 else f"{count / 1024:.1f} KiB"
