"""A JSON Web Token in words, and the difference between two. RFC 7519. Pure.

Only header and claims are read: the signature never leaves here, and nothing says that it was verified. A token that is
none (Auth0's without an audience, Microsoft's for its own APIs) is opaque to its client, which is no fault.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass

from token_relay.pages.words import moment, seen_from

TOKEN_CHARS_MAX = 65_536
VALUE_CHARS_MAX = 400
OWN_NUMBERS = frozenset({"jti", "uti"})
# The end of a token's own number: enough to tell two apart, and a search for the whole finds none.
NUMBER_CHARS_SHOWN = 12
MOMENTS = frozenset({"iat", "nbf", "exp", "auth_time", "xms_tdbr"})
MEANINGS: Mapping[str, str] = {
    "typ": "what kind of token this is",
    "alg": "how it is signed",
    "kid": "the key that signed it",
    "iss": "who issued it",
    "aud": "for whom it is: an API refuses one that is for another",
    "sub": "the person, as this client alone knows them",
    "oid": "the person, as the whole tenant knows them",
    "tid": "the tenant",
    "azp": "the client that it was issued to",
    "appid": "the client that it was issued to",
    "client_id": "the client that it was issued to",
    "scp": "what it allows",
    "scope": "what it allows",
    "iat": "issued",
    "nbf": "valid from",
    "exp": "ends",
    "auth_time": "the person signed in",
    "sid": "the sign-in that it came of",
    "amr": "how the person signed in",
    "acr": "how strong that was",
    "jti": "this token's own number",
    "uti": "this token's own number",
    "nonce": "answers one request for a sign-in",
    "name": "the person's name",
    "email": "the person's address",
    "preferred_username": "what the person signs in as",
    "cnf": "the key that it is bound to",
    "xms_cc": "what its client can do, such as answer a claims challenge (cp1)",
    "ver": "the version of the token's form",
}


@dataclass(frozen=True, slots=True)
class Words:
    """What a token says."""

    header: Mapping[str, object]
    claims: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Said:
    """One line: a name, its value as a person reads it, and what it is; ``part`` is "header" or "claims"."""

    part: str
    name: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Changed:
    """One line of a difference; a value that one token has not is empty. ``kind``: same, changed, added or gone."""

    name: str
    before: str
    after: str
    meaning: str
    kind: str


def read(token: str) -> Words | None:
    """Return what a token says, or None for one that only its issuer can read."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > TOKEN_CHARS_MAX:
        return None
    header, claims = (_object(part) for part in parts[:2])
    return None if header is None or claims is None else Words(header, claims)


def said(words: Words, now: float) -> list[Said]:
    """Return the lines of a token, header first."""
    rows = [("header", name, value) for name, value in words.header.items()]
    rows += [("claims", name, value) for name, value in words.claims.items()]
    return [Said(part, name, _value(name, value, now), MEANINGS.get(name, "")) for part, name, value in rows]


def difference(before: Words, after: Words, now: float) -> list[Changed]:
    """Return one line for each claim of either token, what differs first."""
    rows = []
    for name in {**before.claims, **after.claims}:
        has = name in before.claims, name in after.claims
        values = [_value(name, words.claims[name], now) if name in words.claims else "" for words in (before, after)]
        is_same = all(has) and before.claims[name] == after.claims[name]
        kind = "same" if is_same else "changed" if all(has) else "gone" if has[0] else "added"
        rows.append(Changed(name, values[0], values[1], MEANINGS.get(name, ""), kind))
    return sorted(rows, key=lambda row: row.kind == "same")


def _object(part: str) -> dict[str, object] | None:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        json.dumps(found, ensure_ascii=False).encode()  # what no page could show, such as half a character, is no token
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _value(name: str, value: object, now: float) -> str:
    if name in MOMENTS and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{seen_from(value, now)} ({moment(value)})"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if name in OWN_NUMBERS and len(text) > NUMBER_CHARS_SHOWN:
        return f"…{text[-NUMBER_CHARS_SHOWN:]}"
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}…"
