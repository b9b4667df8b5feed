"""What the provider's client asks of HTTP: one request, and an answer that says whether it was sent.

The distinction between :class:`NotSent` and :class:`Lost` carries the safety of refreshing: a request that
certainly never reached the provider may be repeated freely, one whose answer was lost may already have
rotated the refresh token. The implementation over aiohttp is ``device/http.py``; simulation has another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from relay.secret import Secret

RESPONSE_BYTES_MAX = 262_144  # a discovery document or JWKS is some 10 KiB; anything larger is not for us


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. ``form`` is sent as application/x-www-form-urlencoded; secrets in it are revealed last."""

    method: str
    url: str
    form: tuple[tuple[str, str | Secret[str]], ...] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole answer: header names in lower case, body of at most ``RESPONSE_BYTES_MAX`` bytes, never shown."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NotSent:
    """Certainly not processed: DNS, connect or TLS failed before the first byte of the request."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Anything else without a whole answer: the provider may have processed the request."""

    reason: str


class Http(Protocol):
    """The port. Never follows a redirect, never uses a proxy from the environment, always verifies TLS."""

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | Lost:
        """Send one request and wait at most ``request.timeout_s``; every failure comes back as a value."""
        ...


JsonObject = dict[str, Any]
