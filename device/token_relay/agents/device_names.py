"""What a person may call a device: its id, its name, or the beginning of its id. Pure.

A device chooses its own name, and may be hostile. So no name is preferred to an id nor an id to a name: a word that
could mean two devices is refused, and both are shown. Nor may two names look alike: see :func:`as_seen`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches

from token_relay.protocol.errors import LocalError

ID_PREFIX_CHARS_MIN = 4  # one in a million by chance; fewer would catch a short name
SHOWN_CHARS = 6  # of an id, beside a name
NEAR_MAX = 3  # names that a mistyped word may stand for
LISTED_MAX = 8  # names in an error; a hub has thousands of devices
NAME_CHARS_MAX = 64  # as a device's own name in PAIR1, PAIR2 and HELLO
MARKS_MAX = 3  # on one letter, beside those that are written with it as one: no living language has more
NAME_RULE = f"a name has 1 to {NAME_CHARS_MAX} printable characters, no spaces around it and no - in front"
# Printable to Python, and nothing to the eye: blanks, fillers, joiners and selectors (Default_Ignorable_Code_Point).
_UNSEEN = re.compile(
    r"[\s\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# What is another character to the eye, as it is after case folding (UTS #39 has them all): Greek, Cyrillic and rare
# Latin letters, 0 and 1, dashes and the minus, apostrophes, colons, slashes.
_LOOKS = str.maketrans("αβεζηικμνορτυχавекмнорстухѕіјһԁԛԝıɑɡ01|", "abezhikmnoptyxabekmhopctyxsijhdqwiagoll") | {
    ord(seen): plain
    for plain, alike in (
        ("-", "\u2010\u2012\u2013\u2014\u2015\u2212\u02d7\u2043"),
        ("'", "\u2018\u2019\u201b\u2032\u02b9\u02bc`"),
        (":", "\u02d0\u2236\ua789"),
        ("/", "\u2044\u2215"),
    )
    for seen in alike
}
_CAPITAL_I = str.maketrans("I1|", "lll")  # where case counts: Iamp looks like lamp, and KIOSK is kiosk all the same


def shown(device_id: str, name: str) -> str:
    """Return a device as people see it; :func:`resolve_device` takes this too."""
    return f"{name} ({device_id[:SHOWN_CHARS]})"


def resolve_device(word: str, known: Sequence[tuple[str, str]], *, lists: str = "token-relay phone devices") -> str:
    """Return the id of the one device that a word can mean; ``known`` are ids with their names.

    ``lists``: the command that lists them.

    Raises:
        LocalError: no device is called so, or several could be; the message shows which.
    """
    found = [device for device in known if _can_mean(word, *device)]
    match found:
        case [(device_id, _)]:
            return device_id
        case []:
            raise LocalError(
                f"no paired device is called {word!r}{_meant(word, known)}",
                hint=lists if known else lists.rpartition(" ")[0] + " pair",
            )
        case _:
            ways = ", ".join(f"{name} ({_own_prefix(device_id, known)})" for device_id, name in found)
            raise LocalError(f"{word!r} means several devices: {ways}", hint="use what stands in brackets")


def _meant(word: str, known: Sequence[tuple[str, str]]) -> str:
    """Return the names that a mistyped word may stand for, else all, as far as one line takes them."""
    near = get_close_matches(word.lower(), {name.lower() for _, name in known}, n=NEAR_MAX)
    if near:
        names = sorted(name for _, name in known if name.lower() in near)
        return f"; did you mean {' or '.join(names)}?"
    listed = [shown(*device) for device in known[:LISTED_MAX]]
    more = f" and {len(known) - LISTED_MAX} more" if len(known) > LISTED_MAX else ""
    return f"; paired: {', '.join(listed) or 'none'}{more}"


def is_name(text: str) -> bool:
    """Return whether a person may call a device so: it is seen, and no command takes it for an option."""
    is_word = text.isprintable() and text == text.strip() and not text.startswith("-")
    is_clean = is_word and not _has_loose_marks(text)
    return len(text) <= NAME_CHARS_MAX and is_clean and as_seen(text) != ""


def _has_loose_marks(text: str) -> bool:
    """Whether marks stand on nothing, or so many on one letter that they cover what is printed beside it."""
    marks = MARKS_MAX  # before the first letter none is taken
    for character in unicodedata.normalize("NFC", text):
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks > MARKS_MAX:
            return True
    return False


def name_problem(device_id: str, name: str, known: Sequence[tuple[str, str]]) -> str:
    """Return why a new device cannot be called so beside those that are known, or an empty string."""
    if not is_name(name):
        return NAME_RULE
    word, sights = as_seen(name), _sights(name)
    for other_id, other_name in known:
        alike = sights & (_sights(other_name) | _sights(shown(other_id, other_name)))
        if other_id != device_id and (alike or _is_prefix(word, other_id)):
            return f"{name!r} can mean {shown(other_id, other_name)} already"
    return ""


def as_seen(name: str) -> str:
    """Return a name as a person sees it: of case, width, spelling and blanks two names that look alike have the same.

    Unicode Standard Annex #15, NFKC.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return _UNSEEN.sub("", folded).translate(_LOOKS)


def _sights(name: str) -> set[str]:
    return {as_seen(name), as_seen(name.translate(_CAPITAL_I))}


def _can_mean(word: str, device_id: str, name: str) -> bool:
    return _is_prefix(word, device_id) or word in (name, shown(device_id, name))


def _is_prefix(word: str, device_id: str) -> bool:
    return len(word) >= ID_PREFIX_CHARS_MIN and device_id.startswith(word)


def _own_prefix(device_id: str, known: Sequence[tuple[str, str]]) -> str:
    """Return the shortest beginning of an id, of those that people are shown, that means no other device."""
    lengths = range(SHOWN_CHARS, len(device_id) + 1)
    prefixes = (device_id[:length] for length in lengths)
    return next((p for p in prefixes if sum(_can_mean(p, *device) for device in known) == 1), device_id)


def free_name(device_id: str, name: str, known: Sequence[tuple[str, str]]) -> str:
    """Return the name, or where it could mean another device the name with the beginning of this device's id.

    For an end where nobody is asked: a phone that was lost is paired anew under the same name.
    """
    name = name.strip()
    ways = (name, *(f"{name} {device_id[:length]}" for length in range(SHOWN_CHARS, len(device_id) + 1)))
    return next((way for way in ways if not name_problem(device_id, way, known)), device_id)
