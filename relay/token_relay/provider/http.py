"""What the provider's client asks of HTTP: one request, and an answer that says whether it was sent.

The distinction between :class:`NotSent` and :class:`AnswerLost` carries the safety of refreshing: a request that
certainly never reached the provider may be repeated freely, one whose answer was lost may already have
rotated the refresh token. The implementation over aiohttp is ``device/token_relay/host/http.py``; simulation has
another.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol
from urllib.parse import urlsplit

from token_relay.protocol.secret import Secret

RESPONSE_BYTES_MAX = 262_144  # a discovery document or JWKS is some 10 KiB; a larger answer is neither
AuthMethod = Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]  # RFC 7591 §2
SECRET_METHODS = ("client_secret_basic", "client_secret_post")
KEY_METHODS = ("private_key_jwt",)
URL_CHARS_MAX = 2_048  # issuers and endpoints are below 200; a longer one is a mistake or an attack


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Whose request it is: a client at an issuer. ``token_endpoint`` is that of the client's grant."""

    issuer: str
    client_id: str
    token_endpoint: str


class AuthorizationHeader(Secret[str]):
    """The value of a request's ``Authorization``."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. ``form`` is sent as application/x-www-form-urlencoded; secrets in it are revealed last.

    ``client``: the device's credentials for this client, where it has any, are added on the way
    (:mod:`.client_authentication`).
    """

    method: str
    url: str
    form: tuple[tuple[str, str | Secret[str]], ...] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 30.0
    client: ClientIdentity | None = None
    authorization: AuthorizationHeader | None = None


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole answer: header names in lower case, body of at most ``RESPONSE_BYTES_MAX`` bytes; neither is shown."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NotSent:
    """Certainly not processed: DNS, connect or TLS failed before the first byte of the request."""

    reason: str


@dataclass(frozen=True, slots=True)
class AnswerLost:
    """Anything else without a whole answer: the provider may have processed the request."""

    reason: str


class Http(Protocol):
    """The port. Never follows a redirect, never uses a proxy from the environment, always verifies TLS."""

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        """Send one request and wait at most ``request.timeout_s``; every failure comes back as a value."""
        ...


def is_loopback(host: str) -> bool:
    """Whether only this machine can answer for ``host``: 127.0.0.0/8, ::1 or ``localhost``. RFC 6761 §6.3."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


PLAIN_HTTP = "is plain http to a host that is not this machine"


def url_problem(url: str) -> str:
    """Say why no request with a secret may go to ``url``, or return an empty string.

    Plain http is for loopback only. User info, fragments, spaces and control characters are refused because
    URL parsers disagree about what they mean.
    """
    if len(url) > URL_CHARS_MAX:
        return f"is longer than {URL_CHARS_MAX} characters"
    if not url.isascii() or not url.isprintable() or any(mark in url for mark in ' \\"<>^`{|}'):
        return "holds characters that do not belong in a URL"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("https", "http") or not host or port == 0:
        return "is not an https URL"
    if "@" in parts.netloc or "#" in url:
        return "holds user info or a fragment"
    if parts.scheme == "http" and not is_loopback(host):
        return PLAIN_HTTP
    return ""
