"""Which web pages may call the provider from another origin: none, as at the real service, unless an origin is named.

This is for development without a proxy. Cookies are not used here, so credentials are not allowed. Fetch
standard §3.2.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from token_relay.sandbox.provider.http_values import Request, Response

_HEADER_NAMES = re.compile(r"[A-Za-z0-9-]{1,64}(?: *, *[A-Za-z0-9-]{1,64}){0,49}", re.ASCII)
# what Microsoft's JavaScript SDK asks for when a preflight does not say
_KNOWN_HEADERS = (
    "authorization, client-request-id, content-type, x-client-cpu, x-client-current-telemetry, "
    "x-client-last-telemetry, x-client-os, x-client-sku, x-client-ver"
)
_EXPOSED = "x-ms-request-id, client-request-id, Retry-After, WWW-Authenticate, DPoP-Nonce"
PREFLIGHT_S = "600"


def origin_problem(origin: str) -> str:
    """Say what is wrong with an origin that a person typed; empty when nothing is. RFC 6454 §6.1."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return "is not an origin"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        return "is not of the form http://host:port"
    rest = (parts.path, parts.query, parts.fragment, parts.username, parts.password)
    return "is not of the form http://host:port" if any(rest) or origin != origin.lower() else ""


def is_preflight(origins: Collection[str], request: Request) -> bool:
    """Return whether this is a preflight from an allowed origin."""
    asks = request.method == "OPTIONS" and "access-control-request-method" in request.headers
    return asks and request.headers.get("origin", "") in origins


def preflight(request: Request) -> Response:
    """Allow the headers that the page wants to send."""
    wanted = request.headers.get("access-control-request-headers", "")
    return Response(204).with_headers(
        ("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
        ("Access-Control-Allow-Headers", wanted if _HEADER_NAMES.fullmatch(wanted) else _KNOWN_HEADERS),
        ("Access-Control-Max-Age", PREFLIGHT_S),
    )


def with_leave(origins: Collection[str], request: Request, response: Response) -> Response:
    """Let a page of an allowed origin read the answer."""
    if not origins:
        return response
    response = response.with_headers(("Vary", "Origin"))
    origin = request.headers.get("origin", "")
    if origin not in origins:
        return response
    return response.with_headers(("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", _EXPOSED))
