"""What the sandbox provider's pure core takes and gives: one request, one answer, one refusal.

Everything that comes from outside is decoded here, once, into :class:`Params`: whatever is not UTF-8, repeated, nested
or too long becomes a :class:`Refusal`, so no handler meets a value that it cannot encode again. The module knows no
socket, clock or profile.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote, unquote_plus

BODY_BYTES_MAX = 65_536  # the longest honest token request is a few KiB
PARAMS_MAX = 100  # fields of one form; the JavaScript SDK sends about a dozen
PARAM_CHARS_MAX = 16_384  # one value: a refresh token, or a claims request
LOOPBACK_NAMES = frozenset({"127.0.0.1", "::1", "localhost"})  # as a URL or a Host header spells this machine
JsonScalar = str | int | float | bool | None
JsonValue = JsonScalar | list["JsonValue"] | dict[str, "JsonValue"]
GUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", re.ASCII)
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*", re.ASCII)  # RFC 6749 §3.3


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as the core sees it. ``target`` is the raw request target, header names are lower case."""

    method: str
    target: str = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    peer: str = ""  # address of the other end of the connection; empty where there is none

    @property
    def path(self) -> str:
        """The decoded path; one that does not decode is returned raw and matches no route."""
        raw = self.target.partition("?")[0]
        try:
            return unquote(raw, errors="strict")
        except UnicodeDecodeError:
            return raw

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies, by name; of two with one name the first. RFC 6265 §5.4 sends the more specific one first."""
        found: dict[str, str] = {}
        for pair in self.headers.get("cookie", "").split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals and len(value) <= PARAM_CHARS_MAX:
                found.setdefault(name, value.strip('"'))
        return found

    @property
    def content_type(self) -> str:
        """Media type in lower case, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer; the body holds tokens and is never shown. ``raw``, where there is one, goes out in its place."""

    status: int
    body: bytes = field(default=b"", repr=False)
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    raw: bytes = field(default=b"", repr=False)  # from the status line on; the connection ends after it

    def with_headers(self, *headers: tuple[str, str]) -> Response:
        """Return the same answer with these headers added."""
        return replace(self, headers=(*self.headers, *headers))


def error_in(response: Response) -> dict[str, str | int]:
    """Return the codes of a refusal in JSON; its sentences may repeat what was sent, and stay out."""
    try:
        body = json.loads(response.body) if response.status >= 400 and response.body else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(body, dict):
        return {}
    codes = body.get("error_codes")
    found = {name: body.get(name) for name in ("error", "suberror")}
    found |= {"code": codes[0]} if isinstance(codes, list) and codes else {}
    return {name: value for name, value in found.items() if isinstance(value, str | int) and value}


class Refusal(Exception):  # an answer on its way out of a handler, not a fault of the program
    """A handler's refusal; the profile gives it its shape
    (:func:`token_relay.sandbox.provider.memory.refusals.render`).

    Attributes:
        error: OAuth error code, RFC 6749 §5.2 or the native API's.
        code: AADSTS number, shown only by the ``entra`` profile; 0 where none is known.
        status: HTTP status.
        more: further fields of the body, not shown by ``strict``; may hold a continuation token.
        retry_after_s: value of ``Retry-After``, for a status that means "later".
    """

    def __init__(
        self,
        error: str,
        description: str,
        *,
        code: int = 0,
        suberror: str = "",
        status: int = 400,
        more: Mapping[str, JsonValue] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.code = code
        self.suberror = suberror
        self.status = status
        self.more: Mapping[str, JsonValue] = more or {}
        self.retry_after_s = retry_after_s


class Params:
    """The parameters of one request. An empty value counts as left out, RFC 6749 §3.2."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            if not _is_text(name) or not _is_text(value):
                raise Refusal("invalid_request", "a parameter is not text or is too long", code=90100)
            if name in self._values:
                raise Refusal("invalid_request", "a parameter is repeated", code=90100)  # RFC 6749 §3.2
            self._values[name] = value

    def get(self, name: str) -> str:
        """Return the value, or an empty string."""
        return self._values.get(name, "")

    def need(self, name: str, *, code: int = 900144) -> str:
        """Return the value; refuse with ``invalid_request`` when it is left out."""
        value = self.get(name)
        if not value:
            raise Refusal("invalid_request", f"The request must contain the parameter '{name}'.", code=code)
        return value

    def over(self, more: Iterable[tuple[str, str]]) -> Params:
        """Return the same parameters with these in place of any of the same name."""
        return Params({**self._values, **dict(more)}.items())

    def words(self, name: str) -> tuple[str, ...]:
        """Return a space-separated list; a comma separates too, as some of the documented examples have it."""
        return tuple(self.get(name).replace(",", " ").split())


def query_params(request: Request) -> Params:
    """Decode the query. Raises Refusal."""
    return Params(_pairs(request.target.partition("?")[2]))


def body_params(request: Request, *, takes_json: bool) -> Params:
    """Decode a form, or, where the endpoint takes it, a flat JSON object of strings. Raises Refusal."""
    if len(request.body) > BODY_BYTES_MAX:
        raise Refusal("invalid_request", f"the body is longer than {BODY_BYTES_MAX} bytes", code=90100, status=413)
    if takes_json and request.content_type == "application/json":
        return Params(_json_pairs(request.body))
    if request.content_type != "application/x-www-form-urlencoded":
        raise Refusal("invalid_request", "the body must be application/x-www-form-urlencoded", code=900144)
    try:
        text = request.body.decode()
    except UnicodeDecodeError as exc:
        raise Refusal("invalid_request", "the body is not UTF-8", code=90100) from exc
    return Params(_pairs(text))


def with_basic(params: Params, authorization: str) -> Params:
    """Add the client's name and secret from HTTP Basic. Raises Refusal. RFC 6749 §2.3.1."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() != "basic":
        return params
    try:
        name, colon, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise Refusal("invalid_client", "The Authorization header cannot be read.", status=401)
    name, secret = unquote_plus(name), unquote_plus(secret)
    if params.get("client_secret") or params.get("client_id") not in {"", name}:
        raise Refusal("invalid_request", "The client proves itself in two ways.")
    return params.over((("client_id", name), ("client_secret", secret)))


def split_scope(text: str) -> tuple[str, ...]:
    """Return the scope's words, each once, in order. Raises Refusal ``invalid_scope``. RFC 6749 §3.3."""
    if not SCOPE.fullmatch(text):
        raise Refusal("invalid_scope", "The provided value for the input parameter 'scope' is not valid.", code=70011)
    return tuple(dict.fromkeys(text.split(" ")))


def json_response(value: Mapping[str, JsonValue], status: int = 200) -> Response:
    """Return a JSON answer that no cache keeps. RFC 6749 §5.1."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(status, body, headers=(("Cache-Control", "no-store"), ("Pragma", "no-cache")))


def stamp(at: float | None) -> str | None:
    """Return a moment as ISO 8601 text in UTC, or None."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def html_response(text: str, status: int = 200) -> Response:
    """Return a page that runs no script and cannot be framed."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    headers = (("Cache-Control", "no-store"), ("Content-Security-Policy", policy), ("Referrer-Policy", "no-referrer"))
    return Response(status, text.encode(), "text/html; charset=utf-8", headers)


def _is_text(value: str) -> bool:
    if len(value) > PARAM_CHARS_MAX or "\x00" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell
        return False
    return True


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=PARAMS_MAX)
    except ValueError as exc:  # too many fields, or an escape that is not UTF-8
        raise Refusal("invalid_request", "the parameters cannot be decoded", code=90100) from exc


def _json_pairs(body: bytes) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    try:
        top = json.loads(body.decode(), object_pairs_hook=tuple)  # an array is a list
    except (ValueError, RecursionError) as exc:
        raise Refusal("invalid_request", "the body is not JSON") from exc
    if not isinstance(top, tuple) or len(top) > PARAMS_MAX:
        raise Refusal("invalid_request", "the body must be a flat JSON object")
    for item in top:
        match item:
            case (str(name), str(value)):
                pairs.append((name, value))
            case (str(), None):
                pass  # an SDK's way to leave it out
            case _:
                raise Refusal("invalid_request", "the body must be a flat JSON object of strings")
    return pairs
