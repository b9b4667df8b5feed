"""The JSON of a message: one object, no key twice, and no number but integers from 0 to 2^53 - 1, wherever they stand.

No stock parser does all of it by itself. A text that breaks several of these rules is counted under any of them.
"""

from __future__ import annotations

import json
from typing import Any

from token_relay.protocol.errors import PeerError

INTEGER_MAX = 2**53 - 1  # the largest that every JSON parser keeps. RFC 8259 §6


def encode_json(value: dict[str, Any]) -> bytes:
    """Return compact UTF-8 JSON."""
    return _ENCODER.encode(value).encode()


def parse_object(plaintext: bytes) -> dict[str, Any]:
    """Parse one JSON object without duplicate keys; its numbers are integers from 0 to 2^53 - 1, wherever they stand.

    Raises:
        PeerError: ``bad_json``, ``duplicate_key`` or ``bad_field``.
    """
    try:
        value = _DECODER.decode(plaintext.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise PeerError("bad_json") from exc
    if not isinstance(value, dict):
        raise PeerError("bad_json")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise PeerError("duplicate_key")
    return value


def _integer(text: str) -> int:
    if len(text) > len(str(INTEGER_MAX)) or text.startswith("-") or int(text) > INTEGER_MAX:
        raise PeerError("bad_field")  # "-0" too, which some parsers read as a float
    return int(text)


def _refuse_float(text: str) -> None:
    raise PeerError("bad_field")


def _refuse_constant(text: str) -> None:
    raise PeerError("bad_json")  # NaN and Infinity are not JSON. RFC 8259 §6


# Made once: json.loads and json.dumps would make one for each message.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates,
    parse_int=_integer,
    parse_float=_refuse_float,
    parse_constant=_refuse_constant,
)
