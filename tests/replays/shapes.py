"""Types of members, as a data file spells them: what somebody's program demands of a JSON answer.

A ``?`` behind a type: the program goes on without the member, or with null; what is there must still have the type.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

_MILLISECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


def claims_of(jwt: object) -> dict[str, Any]:
    """Return the claims of a JWT that nobody checks.

    Raises:
        ValueError: it is none.
    """
    parts = str(jwt).split(".")
    if len(parts) != 3:
        raise ValueError("not three parts")
    found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _is_jwt(value: object) -> bool:
    try:
        return bool(claims_of(value))
    except (ValueError, binascii.Error):
        return False


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and "T" in value and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str) and value != "",
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": _is_number,
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "strings": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "jwt": _is_jwt,
    "time": _is_time,  # RFC 3339
    "time with milliseconds": lambda value: isinstance(value, str) and _MILLISECONDS.fullmatch(value) is not None,
    "url": lambda value: isinstance(value, str) and bool(urlsplit(value).scheme and urlsplit(value).netloc),
}


def problem(answer: Mapping[str, Any], member: str, wanted: str) -> str:
    """Return what is wrong with one member; empty if nothing is."""
    kind, is_optional = wanted.removesuffix("?"), wanted.endswith("?")
    value = answer.get(member)
    if value is None:
        return "" if is_optional else f"{member} is missing"
    return "" if TYPES[kind](value) else f"{member} is no {kind}"


def problems(answer: Mapping[str, Any], wanted: Mapping[str, str]) -> list[str]:
    """Return what is wrong with an answer."""
    return [found for member, kind in wanted.items() if (found := problem(answer, member, kind))]
