"""Placeholders: what stands in a conversation's file for ids, keys, hashes and numbers that differ in each run.

``$h1`` is bound where it first appears: in an input the runner makes the value, in an output it is whatever came, if
that is fresh and has the right form. From then on it means that value. All of it is pure: a :class:`Known` holds what
has been bound and said so far, the functions read an expectation against it. What may stand where is listed in
tests/vectors/README.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.vectors.vector_kit import COMPANION, PHONE, derive

SIZES = {"p": 16, "h": 16, "c": 16, "d": 16, "k": 32, "t": 32}  # bytes of "$p1", "$h1", …; other names are any text
NAME = re.compile(r"\$(?!heard)[a-z_]+[0-9]*")
HASH = re.compile(r"#([A-Z0-9]+(?:\(1\))?)(?: (\S+))?")
NUMBER = re.compile(r"@([A-Z0-9]+)(?: (\S+))?")
HEARD = re.compile(r"\$heard(?:\((\w+)\))?([+-]\d+)?")
RELATIVE = re.compile(r"[+-]\d+")
STATIC_KEYS = {"$phone_key": PHONE.public.hex(), "$companion_key": COMPANION.public.hex()}
WRONG_HASH = derive("a hash of nothing", 32).hex()
NOT_COMPARED = ("expires_at", "sent_at")  # by the end's clock, which nobody is told to set


@dataclass(slots=True)
class Known:
    """What one conversation has bound and heard so far."""

    now: int
    names: dict[str, str] = field(default_factory=lambda: dict(STATIC_KEYS))
    hashes: dict[tuple[str, str], str] = field(default_factory=dict)  # (type, handoff id) of either side
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)  # the same, of the end's own
    heard: dict[str, int] = field(default_factory=dict)  # pairing id: the highest number that the peer got
    kept: dict[str, dict[str, int]] = field(default_factory=dict)  # ``heard`` at the time of each image

    def said(self, kind: str, handoff: str, digest: str) -> None:
        """Note the hash of a message, of either side: it is the last of its kind, and may be the first."""
        self.hashes[kind, handoff] = digest
        self.hashes.setdefault((f"{kind}(1)", handoff), digest)

    def named(self, text: str) -> str:
        """Return a text for people: values that have a name are shown by it."""
        for name, value in self.names.items():
            if len(value) >= 8:
                text = text.replace(value, name)
        return text


class UnboundError(Exception):
    """A file uses a name before it can mean anything: the file is wrong, not the program."""


def filled(value: Any, known: Known, make: Callable[[str], str], pairing: str = "") -> Any:
    """Return an input with every placeholder replaced; ``make`` gives a new name its value."""
    if isinstance(value, dict):
        return {
            filled(key, known, make, pairing): item if key in ("do", "type") else filled(item, known, make, pairing)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [filled(item, known, make, pairing) for item in value]
    if not isinstance(value, str):
        return value
    if found := HEARD.fullmatch(value):
        heard = known.kept[found[1]] if found[1] else known.heard
        return max(0, heard.get(pairing, 0) + int(found[2] or 0))
    if NAME.fullmatch(value):
        if value not in known.names:
            known.names[value] = make(value)
        return known.names[value]
    if value == "#wrong":
        return WRONG_HASH
    if found := HASH.fullmatch(value):
        return _said(known.hashes, value, found, known)
    if found := NUMBER.fullmatch(value):
        return _said(known.numbers, value, found, known)
    if RELATIVE.fullmatch(value):
        return known.now + int(value)
    if value.endswith(tuple(f" {name}" for name in known.names)) and value.count(" ") == 1:  # "TOKEN $h1" in `open`
        kind, _, name = value.partition(" ")
        return f"{kind} {known.names[name]}"
    return value


def _said(said: dict[tuple[str, str], Any], value: str, found: re.Match[str], known: Known) -> Any:
    handoff = known.names.get(found[2], found[2]) if found[2] else ""
    if (found[1], handoff) not in said:
        raise UnboundError(f"{value}: no such message was there")
    return said[found[1], handoff]


def differences(expected: Any, actual: Any, known: Known, where: str = "", seq: int = 0) -> list[str]:
    """Say where a value is not what a file expects, and bind the names that it brings.

    A caller that only tries hands in a copy of ``known``'s names.
    """
    if expected == "*":
        return []
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            return [_differ(where, expected, actual)]
        return _objects(expected, actual, known, where, seq)
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(expected) != len(actual):
            return [_differ(where, expected, actual)]
        return [
            line
            for number, (one, other) in enumerate(zip(expected, actual, strict=True))
            for line in differences(one, other, known, f"{where}.{number}", seq)
        ]
    if expected == "=seq":
        return [] if actual == seq else [f"{where}: expected {seq}, the number of this very message, came {actual!r}"]
    if isinstance(expected, str) and NAME.fullmatch(expected) and expected not in known.names:
        return _bound(expected, actual, known, where)
    wanted = filled(expected, known, _nothing)
    is_same = wanted == actual and isinstance(wanted, bool) == isinstance(actual, bool)
    return [] if is_same else [_differ(where, expected, actual)]


def _objects(expected: dict[str, Any], actual: dict[str, Any], known: Known, where: str, seq: int) -> list[str]:
    found: list[str] = []
    left = dict(actual)
    late = [key for key in expected if NAME.fullmatch(key) and key not in known.names]
    for key, item in expected.items():
        if key in late:
            continue
        spelled = filled(key, known, _nothing)
        place = f"{where}.{key}" if where else key
        if spelled not in left:
            found += [] if key in NOT_COMPARED else [f"{place}: expected {_short(item)}, is missing"]
            continue
        other = left.pop(spelled)
        if key == "scope" and isinstance(item, str) and isinstance(other, str) and item != "*":
            item, other = _words(item), _words(other)  # their order means nothing. RFC 6749 §3.3
        if key == "handoffs" and isinstance(item, list) and isinstance(other, list):
            item, other = _by_id(item, known), _by_id(other, known)
        found += [] if key in NOT_COMPARED else differences(item, other, known, place, seq)
    for key in late:  # a name that this very object brings
        for spelled, other in left.items():
            names = dict(known.names)
            if not _bound(key, spelled, known, where) and not differences(expected[key], other, known, where, seq):
                del left[spelled]
                break
            known.names = names
        else:
            found.append(f"{where}.{key}: expected {_short(expected[key])}, is missing")
    for key, other in left.items():
        if key not in NOT_COMPARED:
            found.append(f"{where}.{key}: is {_short(other)}, and should not be there")
    return found


def _by_id(handoffs: list[Any], known: Known) -> list[Any]:
    """Return a list of handoffs in one order: of those begun in the same second no page says which is the newer one."""
    ids = [item.get("handoff_id") for item in handoffs if isinstance(item, dict)]
    if len(ids) < len(handoffs) or not all(known.names.get(str(one), one) != one or len(str(one)) == 32 for one in ids):
        return handoffs
    return sorted(handoffs, key=lambda item: known.names.get(item["handoff_id"], item["handoff_id"]))


def _words(scope: str) -> str:
    return " ".join(sorted(scope.split(" ")))


def _bound(name: str, value: Any, known: Known, where: str) -> list[str]:
    """Give a name the value that came, if it can be one."""
    size = SIZES.get(name[1])
    sizes = (16, 32) if name[1] == "d" else (size,)
    is_hex = isinstance(value, str) and re.fullmatch("[0-9a-f]+", value) is not None
    if not isinstance(value, str) or (size and not (is_hex and len(value) // 2 in sizes)):
        return [f"{where}: expected {size} bytes in hex ({name}), came {_short(value)}"]
    if other := next((other for other, taken in known.names.items() if taken == value), None):
        return [f"{where}: expected a fresh value ({name}), came {other} again"]
    known.names[name] = value
    return []


def _nothing(name: str) -> str:
    raise UnboundError(f"{name} means nothing yet")


def _differ(where: str, expected: Any, actual: Any) -> str:
    return f"{where}: expected {_short(expected)}, came {_short(actual)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
