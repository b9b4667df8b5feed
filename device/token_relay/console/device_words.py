"""States and counts of devices in words, for the list in a terminal and for the page. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from token_relay.pages.words import duration

JUST_NOW_S = 60

STATES: Mapping[str, tuple[str, str, str]] = {  # a mark, the same in ASCII, and a word
    "needs_me": ("!", "!", "needs you"),
    "silent": ("○", "-", "silent"),
    "online": ("●", "*", "online"),
    "waiting": ("◦", "+", "waiting"),
    "unknown": ("·", ".", "unknown"),
    "leaving": ("·", ".", "leaving"),
}


GRANTS: Mapping[str, str] = {  # a grant's states
    "held": "works",
    "refreshing": "is being refreshed",
    "uncertain": "an answer of the provider is missing",
    "needs_handoff": "needs the person",
    "locked": "locked",
    "dead": "over",
}


def summary_text(summary: object, nothing: str = "no device is paired: token-relay phone pair") -> str:
    """Return the counts as a sentence: ``20 devices: 1 needs you, 1 silent, 18 fine``."""
    counts = {str(key): whole(value) for key, value in summary.items()} if isinstance(summary, Mapping) else {}
    total, asking = counts.get("devices", 0), counts.get("needs_me", 0)
    if not total:
        return nothing
    parts = [f"{asking} {'needs' if asking == 1 else 'need'} you"] if asking else []
    parts += [f"{counts[key]} {key}" for key in ("silent", "waiting", "unknown", "leaving", "fine") if counts.get(key)]
    return f"{total} device{'' if total == 1 else 's'}: {', '.join(parts)}"


def largest(seconds: float) -> str:
    """Return a length of time in its largest unit alone, so that it seldom changes: ``2 d``."""
    return " ".join(duration(seconds).split(" ")[:2])


def ago(at: int, now: float) -> str:
    """Return when something was, without seconds."""
    return "never" if not at else "just now" if now - at < JUST_NOW_S else f"{largest(now - at)} ago"


def whole(value: object) -> int:
    """Return a whole number of an agent's answer, 0 for anything else."""
    return value if isinstance(value, int) else 0
