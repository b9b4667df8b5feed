"""What to do, as a page says it: names of buttons in place of commands, the first of ours as a link. Pure.

Agents say what to do for a terminal: ``token-relay phone sign-in --username U``. Whoever looks at a page needs none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

BUTTONS: Mapping[str, str] = {
    "sign-in": "Sign in",
    "sign-up": "Make an account",
    "reset-password": "Choose a new password",
    "import": "Adopt a refresh token",
    "pair": "Pair",
    "handoff": "Hand off",
    "cancel": "Give up the open handoff",
    "replace": "Replace",
    "rename": "Rename",
    "primary": "Make it primary",
    "devices": "Devices",
}
_WORD = r"""(?:'[^']*'|"[^"]*"|[^\s;,'"])+"""
_COMMAND = re.compile(
    rf"token-relay (phone|companion) ({'|'.join(BUTTONS)})(?![\w-])"
    rf"(?:(?<=handoff|replace|primary) {_WORD}|(?<=cancel) {_WORD})?"
    rf"(?: --(?:browser\b|[a-z-]+ {_WORD}))*(?:, or --browser)?"
)
_FOR_TERMINALS = "--yes goes on without the question"


@dataclass(frozen=True, slots=True)
class WayOn:
    """What to do: words, a button that has a page of ours, and the words after it; all may be empty."""

    before: str
    button: str = ""
    place: str = ""
    after: str = ""


def way_on(text: str, places: Mapping[str, str]) -> WayOn:
    """Put names of buttons in place of commands. ``places``: our pages by command, such as ``phone pair``."""
    if text == _FOR_TERMINALS:
        return WayOn("")
    ours = (found for found in _COMMAND.finditer(text) if f"{found[1]} {found[2]}" in places)
    if (first := next(ours, None)) is None:
        return WayOn(_named(text))
    place = places[f"{first[1]} {first[2]}"]
    return WayOn(_named(text[: first.start()]), BUTTONS[first[2]], place, _named(text[first.end() :]))


def _named(text: str) -> str:
    return _COMMAND.sub(lambda found: f"“{BUTTONS[found[2]]}”", text)
