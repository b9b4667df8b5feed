"""Finds marked tokens in bytes: logs, files, memory dumps, packets.

Every refresh token of the sandbox begins with ``rt.`` and :data:`MARK`, every access and id token carries it in its
``jti`` or ``uti``, so that a search for one word finds any of them. A JWT is base64url itself, so an access token in
clear text shows up here as base64, and an encoded one as base64 in something else; both are looked for.

Limits: it does not find tokens that were compressed, encrypted, hashed, broken over lines, or cut so that the mark is
missing.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from functools import lru_cache

MARK = "SANDBOXMARK"  # long enough never to occur by chance, and of letters only so that no encoder quotes it


@dataclass(frozen=True, slots=True)
class Leak:
    """One find: byte offset in the data, and how the mark was written there (``raw``, ``hex``, ``base64+1`` …)."""

    offset: int
    encoding: str


def find_marked(data: bytes, mark: str = MARK) -> list[Leak]:
    """Return every place where ``mark`` stands in ``data``, in order of offset."""
    found: dict[int, Leak] = {}
    for encoding, pattern in _patterns(mark.encode()):
        for match in pattern.finditer(data):
            found.setdefault(match.start(), Leak(match.start(), encoding))
    return [found[offset] for offset in sorted(found)]


@lru_cache(maxsize=8)  # some hundred expressions, and a search looks for the same few marks over and over
def _patterns(mark: bytes) -> list[tuple[str, re.Pattern[bytes]]]:
    patterns = [("raw", re.compile(re.escape(mark))), *_wrapped("", mark)]
    patterns.append(("utf-16", re.compile(re.escape(mark.decode().encode("utf-16-le")))))
    for name, inner in _base64_forms(mark):
        patterns.append((name, re.compile(re.escape(inner))))
        patterns += _wrapped(f"{name} in ", inner)
        patterns += [(f"{name} in {outer}", re.compile(re.escape(form))) for outer, form in _base64_forms(inner)]
    return patterns


def _wrapped(prefix: str, text: bytes) -> list[tuple[str, re.Pattern[bytes]]]:
    """Return patterns for hex in either case, and for percent escapes of any of the bytes (at least one, else it is the
    text itself)."""
    url = b"".join(b"(?:%s|%%%02x|%%%02X)" % (re.escape(bytes([octet])), octet, octet) for octet in text)
    has_escape = b"(?=[^%]{0," + str(len(text) - 1).encode() + b"}%)"
    escaped = re.compile(has_escape + url)
    return [(f"{prefix}hex", re.compile(text.hex().encode(), re.IGNORECASE)), (f"{prefix}url", escaped)]


def _base64_forms(text: bytes) -> list[tuple[str, bytes]]:
    """Return the characters of base64 that depend on ``text`` alone, for each of the three positions, in both
    alphabets."""
    forms: list[tuple[str, bytes]] = []
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + text)
        first = -(-shift * 8 // 6)  # characters that still hold a bit of what came before
        whole = (shift + len(text)) * 8 // 6  # characters that hold nothing of what comes after
        form = encoded[first:whole]
        forms.append((f"base64+{shift}", form))
        url_form = form.replace(b"+", b"-").replace(b"/", b"_")
        if url_form != form:
            forms.append((f"base64url+{shift}", url_form))
    return forms
