"""Which web pages may call the provider from another origin, and read its answers. Fetch standard §3.2.

As at the real services: everybody reads discovery and keys; at Microsoft every page may redeem codes and refresh tokens
(whether it gets any is :mod:`token_relay.sandbox.provider.tokens.origins`), elsewhere the pages of registered
applications may; native authentication is open to no page. Pages of loopback addresses are registered, as their
redirect URIs are. An origin that a person named (``--cors``), and any while the rule ``cors`` is off, may call
everything; for development this replaces a proxy.

A cookie never counts for such a call, so credentials are not allowed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from token_relay.sandbox.provider.http_values import LOOPBACK_NAMES, Request, Response
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.web.pages import origin_of
from token_relay.sandbox.provider.world.model import EndpointName

_HEADER_NAMES = re.compile(r"[A-Za-z0-9-]{1,64}(?: *, *[A-Za-z0-9-]{1,64}){0,49}", re.ASCII)
# for a preflight that does not say; Microsoft's JavaScript SDK wants these for native authentication
_KNOWN_HEADERS = (
    "authorization, client-request-id, content-type, x-client-cpu, x-client-current-telemetry, "
    "x-client-last-telemetry, x-client-os, x-client-sku, x-client-ver"
)
_EXPOSED = "x-ms-request-id, client-request-id, Retry-After, WWW-Authenticate, DPoP-Nonce"
PREFLIGHT_S = "600"
_FOR_ALL: frozenset[EndpointName] = frozenset({"discovery", "jwks", "resource"})  # the last is an API to try
_FOR_APPLICATIONS: frozenset[EndpointName] = frozenset({"token", "revoke", "userinfo"})
_BY_PAGES = frozenset({"", "authorization_code", "refresh_token"})  # grant types; a preflight has none


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


def leave(state: State, named: Collection[str], origin: str, endpoint: EndpointName | None, grant_type: str) -> str:
    """Return which origin may read the answer of this endpoint: ``*`` for all, this one, or an empty string."""
    if endpoint in _FOR_ALL:
        return "*"
    if not origin or endpoint is None:
        return ""
    if origin in named or not state.keeps("cors"):
        return origin
    if endpoint not in _FOR_APPLICATIONS:
        return ""
    if state.rules.is_native:
        return origin if grant_type in _BY_PAGES else ""
    return origin if _is_registered(state, origin) else ""


def is_preflight(request: Request) -> bool:
    """Return whether a browser asks whether a page may send a request."""
    return request.method == "OPTIONS" and {"origin", "access-control-request-method"} <= request.headers.keys()


def preflight(request: Request) -> Response:
    """Allow the headers that the page wants to send."""
    wanted = request.headers.get("access-control-request-headers", "")
    return Response(204).with_headers(
        ("Access-Control-Allow-Methods", "GET, POST, PUT, OPTIONS"),
        ("Access-Control-Allow-Headers", wanted if _HEADER_NAMES.fullmatch(wanted) else _KNOWN_HEADERS),
        ("Access-Control-Max-Age", PREFLIGHT_S),
    )


def with_leave(response: Response, origin: str) -> Response:
    """Let a page of this origin, which :func:`leave` returned, read the answer."""
    if not origin:
        return response.with_headers(("Vary", "Origin"))
    vary = () if origin == "*" else (("Vary", "Origin"),)
    allowed = (("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", _EXPOSED))
    return response.with_headers(*vary, *allowed)


def _is_registered(state: State, origin: str) -> bool:
    """Return whether this is an origin of some client's pages."""
    if not origin_problem(origin) and urlsplit(origin).hostname in LOOPBACK_NAMES:
        return True
    return any(origin in {*one.web_origins, *map(origin_of, one.redirect_uris)} for one in state.clients.values())
