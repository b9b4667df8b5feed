"""What providers send: token answers and error answers.

This module knows shapes, not meanings: :func:`token_relay.provider.oauth.classify` alone decides what an answer means.
Three promises hold here. A ``refresh_token`` is found even when everything around it is wrong, because at a provider
that rotates it is the only live token left. A field beside the tokens that is missing or odd never withholds them: it
is read as far as it can be, and noted. And no text of a provider reaches a person unfiltered: error codes are reduced
to slugs, ids to GUIDs, names and descriptions to short printable text without anything that could be a token.

Unknown names are ignored (``extra="ignore"``): providers add fields whenever they like. RFC 6749 §5.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WrapValidator, field_validator
from pydantic import ValidationInfo as FieldInfo
from pydantic import ValidatorFunctionWrapHandler as Handler

from token_relay.protocol.errors import PeerError
from token_relay.protocol.secret import SECRET_CHARS_MAX, AccessToken, Code, IdToken, RefreshToken

EXPIRES_IN_S_DEFAULT = 300.0  # RFC 6749 §5.1 lets a provider leave it out; five minutes errs towards asking again
EXPIRES_IN_S_ODD = 60.0  # for 0 and what cannot be read: enough for the caller who waits, and asked again soon
EXPIRES_IN_S_MAX = 30 * 86_400.0  # the longest access token in the field lives 28 h; beyond a month it is a mistake
SECONDS_MAX = 1e12  # 30 000 years; a larger number is no time
SCOPE_CHARS_MAX = 4_096
ERROR_CODES_MAX = 16  # Entra sends one, rarely two
SHOWN_CHARS_MAX = 128
DESCRIPTION_CHARS_MAX = 200  # two lines of a terminal
WORD_CHARS_MAX = 30  # the shortest tokens have more; words and parameter names have fewer

_SLUG = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)  # the shape of every registered code, and of no token
_VSCHAR = re.compile(r"[\x21-\x7e]+", re.ASCII)  # what may follow "Bearer " in a header: RFC 6750 §2.1, no space
_SCOPE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*", re.ASCII)  # RFC 6749 §3.3
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,9})?", re.ASCII)  # some providers send a numeric string
_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_AADSTS = re.compile(r"AADSTS([0-9]{4,9}):", re.ASCII)
_TRACE_ID = re.compile(r"Trace ID: (" + _GUID.pattern + ")", re.ASCII)
_CORRELATION_ID = re.compile(r"Correlation ID: (" + _GUID.pattern + ")", re.ASCII)


class ProviderError(PeerError):
    """The provider, or whoever speaks in its name, sent something that cannot be accepted."""


def slug(text: object, *, otherwise: str = "unrecognised_error") -> str:
    """Return a provider's code when it is shaped like one, else ``otherwise``: safe to print and to log."""
    return text if isinstance(text, str) and _SLUG.fullmatch(text) else otherwise


def shown(text: object, *, chars_max: int = SHOWN_CHARS_MAX) -> str:
    """Return text meant for a person's eyes: printable characters only, cut at ``chars_max``."""
    if not isinstance(text, str):
        return ""
    return "".join(char if char.isprintable() else "?" for char in text[:chars_max])


def described(text: object) -> str:
    """Return a provider's description of an error, for the person who signs in: short, on one line.

    A word as long as a token is shown by its beginning alone: some providers repeat what they were sent.
    """
    words = shown(text, chars_max=DESCRIPTION_CHARS_MAX * 4).split() if isinstance(text, str) else []
    short = " ".join(word if len(word) <= WORD_CHARS_MAX or "://" in word else f"{word[:8]}…" for word in words)
    return short if len(short) <= DESCRIPTION_CHARS_MAX else f"{short[: DESCRIPTION_CHARS_MAX - 1]}…"


def parse_object(body: bytes) -> tuple[dict[str, object], frozenset[str]] | None:
    """Parse a JSON object and name the keys that came twice, at any depth (the last counts); None when it is not one.

    Text that is not UTF-8, UTF-16 or UTF-32 is read as Latin-1, which some pages of older servers are in. A line feed
    or a tab in a string is taken as it is: RFC 8259 §7 forbids it, and servers that write JSON by hand send it.
    """
    doubled: set[str] = set()

    def collect(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                doubled.add(name)
            found[name] = value
        return found

    try:
        try:
            value: object = json.loads(body, object_pairs_hook=collect, strict=False)
        except UnicodeDecodeError:
            value = json.loads(body.decode("latin-1"), object_pairs_hook=collect, strict=False)
    except (ValueError, RecursionError):  # ValueError covers bad JSON and numbers of 5 000 digits
        return None
    return (value, frozenset(doubled)) if isinstance(value, dict) else None


def find_refresh_token(answer: dict[str, object]) -> tuple[RefreshToken | None, str]:
    """Return the refresh token, and why what is in its place cannot be kept.

    An empty string, null, false and an empty list count as absent (RFC 6749 §3.2). What can be neither kept nor sent (a
    number, a lone surrogate, more than ``SECRET_CHARS_MAX``) is reported, because then the old token may be dead too.
    """
    value = answer.get("refresh_token")
    if not value:
        return None, ""
    if not isinstance(value, str) or not _is_encodable(value):
        return None, "refresh_token is not text"
    if len(value) > SECRET_CHARS_MAX:
        return None, f"refresh_token is longer than {SECRET_CHARS_MAX} characters"
    return RefreshToken(value), ""


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _only(pattern: re.Pattern[str]) -> BeforeValidator:
    def check(value: object) -> object:
        if isinstance(value, str) and not pattern.fullmatch(value):
            raise ValueError("holds characters that do not belong there")
        return value

    return BeforeValidator(check)


def _drop(value: object, handler: Handler, info: FieldInfo) -> object:
    try:
        checked: object = handler(value)
    except ValidationError:
        return None
    return checked


Dropped = WrapValidator(_drop)  # a field that is useful but not needed: when malformed, it counts as absent


class TokenResponse(BaseModel):
    """The part of a token answer that an access token depends on, after :func:`_mended`. RFC 6749 §5.1."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    access_token: Annotated[AccessToken, _only(_VSCHAR)]
    token_type: str
    expires_in: float = EXPIRES_IN_S_DEFAULT
    scope: Annotated[str, _only(_SCOPE)] = ""
    id_token: Annotated[IdToken | None, Dropped] = None
    refresh_token_expires_in: Annotated[float | None, Dropped] = None

    @field_validator("token_type")
    @classmethod
    def _bearer(cls, value: str) -> str:
        # RFC 6749 §7.1: a token of a type that the client does not know must not be used.
        if value.strip().casefold() not in ("bearer", "bearertoken"):  # the latter is Apigee's
            raise ValueError("is not Bearer")
        return "Bearer"


def check_token_answer(answer: dict[str, object]) -> tuple[TokenResponse | str, str]:
    """Return the checked answer, or why it has no usable access token; and a note about what was odd beside it.

    Both texts name fields, never values.
    """
    value = answer.get("access_token")
    if isinstance(value, str) and len(value) > SECRET_CHARS_MAX:
        return f"access_token is longer than {SECRET_CHARS_MAX} characters", ""
    mended, notes = _mended(answer)
    try:
        return TokenResponse.model_validate(mended), "; ".join(notes)
    except ValidationError as error:
        # Only the location: the error object itself holds the whole answer and must not leave this function.
        fields = sorted({str(detail["loc"][0]) for detail in error.errors(include_input=False, include_url=False)})
    return f"{' and '.join(fields)} missing, malformed or unusable", ""


def _mended(answer: dict[str, object]) -> tuple[dict[str, object], list[str]]:
    """Return the answer with its helper fields as the model wants them, and what was done to them."""
    notes: list[str] = []
    token_type = answer.get("token_type")
    if not isinstance(token_type, str) or not token_type:
        token_type = "Bearer"  # noqa: S105  # a type's name; RFC 6749 §5.1 requires the field, many leave it out
        notes.append("token_type is missing")
    expires_in = answer.get("expires_in")
    expires_in_s = EXPIRES_IN_S_DEFAULT if expires_in is None else find_seconds(expires_in)
    if expires_in_s is None:
        expires_in_s = EXPIRES_IN_S_ODD
        notes.append("expires_in cannot be used")
    elif isinstance(expires_in, str) and not expires_in.isdigit():
        notes.append("expires_in is not a whole number")
    scope = answer.get("scope")
    if isinstance(scope, list) and all(isinstance(part, str) for part in scope):
        scope = " ".join(scope)
        notes.append("scope is a list")
    scope = "" if scope is None else scope
    if not isinstance(scope, str) or len(scope) > SCOPE_CHARS_MAX or not _SCOPE.fullmatch(scope):
        scope = ""
        notes.append("scope cannot be used")
    mended = {
        **answer,
        "token_type": token_type,
        "expires_in": min(expires_in_s, EXPIRES_IN_S_MAX),
        "scope": scope,
    }
    return mended, notes


def find_refresh_token_life_s(answer: dict[str, object]) -> float | None:
    """Return how long the refresh token lives, as far as the provider tells.

    The field has no standard: Entra and others say ``refresh_token_expires_in``, Keycloak ``refresh_expires_in``, where
    0 means that the session decides.
    """
    return find_seconds(answer.get("refresh_token_expires_in")) or find_seconds(answer.get("refresh_expires_in"))


def find_seconds(value: object) -> float | None:
    """Read a positive number of seconds, a numeric string too; None when it is not one."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return None
    return float(min(value, SECONDS_MAX))


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """A provider's error, reduced to what may be shown. RFC 6749 §5.2, with Entra's additions."""

    error: str
    suberror: str = ""
    codes: tuple[int, ...] = ()
    trace_id: str = ""
    correlation_id: str = ""
    continuation_token: Code | None = None
    description: str = field(default="", repr=False, compare=False)


def find_error(answer: dict[str, object]) -> ErrorAnswer | None:
    """Read an error answer; None when there is no ``error`` string. Malformed side fields count as absent.

    Codes come from ``error_codes``, else from ``AADSTSnnnnn:`` in the description.
    """
    error = answer.get("error")
    if not isinstance(error, str) or not error:
        return None
    suberror = answer.get("suberror")
    description = answer.get("error_description")
    description = description if isinstance(description, str) else ""
    listed = answer.get("error_codes")
    codes = [
        code
        for code in (listed[:ERROR_CODES_MAX] if isinstance(listed, list) else ())
        if isinstance(code, int) and not isinstance(code, bool) and 0 < code < 10**9
    ]
    if not codes:
        codes = [int(code) for code in _AADSTS.findall(description)[:ERROR_CODES_MAX]]
    return ErrorAnswer(
        error=slug(error),
        suberror=slug(suberror) if suberror else "",
        codes=tuple(codes),
        trace_id=_guid(answer.get("trace_id"), _TRACE_ID, description),
        correlation_id=_guid(answer.get("correlation_id"), _CORRELATION_ID, description),
        continuation_token=find_code(answer, "continuation_token"),
        description=described(description),
    )


def find_code(answer: dict[str, object], name: str) -> Code | None:
    """Return the short-lived secret ``name`` of an answer, or None when it is absent or unusable."""
    value = answer.get(name)
    if not isinstance(value, str) or not value or len(value) > SECRET_CHARS_MAX or not _is_encodable(value):
        return None
    return Code(value)


def _guid(value: object, label: re.Pattern[str], description: str) -> str:
    if isinstance(value, str) and _GUID.fullmatch(value):
        return value.lower()
    found = label.search(description)
    return found.group(1).lower() if found else ""
