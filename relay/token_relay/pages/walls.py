"""Who may look at a page on a loopback port, where every program and every other web page of the machine can ask. Pure.

Each wall stands by itself, and all of them must let a request through:

* *the person*: the kernel says whose program is at the other end, and it is the person who started this.
* *the name*: Host is a loopback name, on any port (``ssh -L``). A name that somebody points here is not one.
* *the method*: GET and POST, nothing else.
* *the page*: another page, of another port too, neither reads nor posts. A browser says where a request comes from in
  Sec-Fetch-Site, and in Origin when it posts. That is ``null`` under our own Referrer-Policy (Fetch, "append a request
  Origin header"), so ``null`` counts if Sec-Fetch-Site says that the page is ours.
* *the path*: everything is under a random path of 128 bits, to which the cookie is bound. A cookie of ``/`` would go to
  every other port of this machine's address, to other users' programs too.
* *the key*: who has no cookie gets it for a key that was printed, once.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
METHODS = frozenset({"GET", "POST"})
COOKIE = "token_relay_page"
OWN_PAGE = frozenset({"", "same-origin", "none"})  # Sec-Fetch-Site; "" of a program that is no browser


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of a request before its path is looked at; ``uid`` is None where the kernel does not say."""

    method: str
    uid: int | None
    host: str
    origin: str | None
    fetch_site: str


@dataclass(frozen=True, slots=True)
class Barred:
    """A request that is not let in, with a sentence for the person who may be at the other end."""

    status: int
    why: str


def refusal(caller: Caller, *, uids: Collection[int], comes_from_elsewhere: bool = False) -> Barred | None:
    """Return why a request is not let in, or None.

    ``comes_from_elsewhere``: this path may be reached from another page, by GET alone.
    """
    if caller.uid not in uids:
        return Barred(403, "this page belongs to another user of this machine")
    if host_of(caller.host) not in HOSTS:
        return Barred(421, "this page has the names 127.0.0.1 and localhost alone")
    if caller.method not in METHODS:
        return Barred(405, "this page knows GET and POST")
    if caller.method == "GET":
        is_own = caller.fetch_site in OWN_PAGE or comes_from_elsewhere
    elif caller.origin == "null":
        is_own = caller.fetch_site == "same-origin"
    else:
        is_own = caller.origin == f"http://{caller.host}" and caller.fetch_site in OWN_PAGE
    return None if is_own else Barred(403, "another page asked for this; open the address that was printed")


def host_of(host: str) -> str:
    """Return the name in a Host header, without its port; empty for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for what is no number
    except ValueError:
        return ""
    return parts.hostname or "" if parts.netloc == host and "@" not in host else ""


def has_cookie(headers: Iterable[str], value: str) -> bool:
    """Whether one of the Cookie headers brings ours: another port may have set one of that name beside it."""
    pairs = (pair.strip().partition("=") for header in headers for pair in header.split(";"))
    found = [given for name, _, given in pairs if name == COOKIE]
    return any(hmac.compare_digest(given.encode("utf-8", "replace"), value.encode()) for given in found)


def cookie_header(value: str, root: str) -> str:
    """Return Set-Cookie for the path ``root``."""
    return f"{COOKIE}={value}; Path={root}; HttpOnly; SameSite=Strict"


HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
