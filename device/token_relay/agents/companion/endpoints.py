"""Where a companion may send what a handed-over grant allows.

A phone chooses the endpoints that stand in its grant, and a phone may be hostile: no grant may aim this device at the
programs on it, or at hosts that have nothing to do with its provider. An endpoint is https on the issuer's host, on a
host that the issuer's own discovery names, or, for an issuer under ``ciamlogin.com``, on another host there; or its
host stands in this device's ``provider.hosts``. This machine itself is allowed only so. A grant that does not fit is
stored and kept, and not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from token_relay.agents.grants.serving import NO_URL
from token_relay.agents.records import Grant
from token_relay.provider import discovery
from token_relay.provider.http import PLAIN_HTTP, Http, is_loopback, url_problem
from token_relay.provider.native_auth.endpoints import CIAM_SUFFIX
from token_relay.provider.outcome import Unavailable

DISCOVERY_S = 10.0
ISSUERS_MAX = 64  # whose discovery is remembered; a phone may name any number
PORTS = {"https": 443, "http": 80}


class Endpoints:
    """The rule of one companion; ``hosts`` may be replaced while it runs (a reload)."""

    def __init__(self, http: Http, hosts: Collection[str]) -> None:
        self.hosts = hosts
        self._http = http
        self._named: dict[str, frozenset[str]] = {}  # by issuer: the hosts of its discovery document

    async def judge(self, grant: Grant) -> str | Unavailable:
        """Return the host that is not allowed, empty where all are; Unavailable: discovery does not answer now.

        Discovery is read only where it can decide, and again as long as it does not name the host.
        """
        host = misfit(grant, self.hosts, self._named.get(grant.issuer, ()))
        if not host or misfit(grant, self.hosts, None):
            return host
        try:
            async with asyncio.timeout(DISCOVERY_S):
                found = await discovery.discover(self._http, grant.issuer)
        except TimeoutError:
            return Unavailable(f"no discovery document within {DISCOVERY_S:g} s")
        if isinstance(found, discovery.DiscoveryFailed):
            return Unavailable(f"no discovery document: {found.reason}") if found.is_temporary else host
        if len(self._named) >= ISSUERS_MAX:
            self._named.clear()
        urls = (found.token_endpoint, found.revocation_endpoint, found.authorization_endpoint)
        self._named[grant.issuer] = frozenset(urlsplit(url).hostname or "" for url in urls if url)
        return misfit(grant, self.hosts, self._named[grant.issuer])


def misfit(grant: Grant, hosts: Collection[str], named: Collection[str] | None) -> str:
    """Return the first host of a grant that is not allowed, as it would stand in ``provider.hosts``.

    ``named`` are those of the issuer's discovery; None: it might name any.
    """
    urls = filter(None, (grant.issuer, grant.token_endpoint, grant.revocation_endpoint))
    return next(filter(None, (host_not_allowed(url, grant.issuer, hosts, named) for url in urls)), "")


def host_not_allowed(url: str, issuer: str, hosts: Collection[str], named: Collection[str] | None = ()) -> str:
    """Return the host of one URL of this issuer's grant, where it is not allowed; see :func:`misfit`."""
    if {url_problem(url), url_problem(issuer)} - {"", PLAIN_HTTP}:
        return NO_URL
    parts, issuer_host = urlsplit(url), urlsplit(issuer).hostname or ""
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    with_port = f"{name}:{parts.port or PORTS.get(parts.scheme, 0)}"
    if name in hosts or with_port in hosts:
        return ""
    if parts.scheme != "https" or _is_here(host):
        return with_port
    is_ciam = host.endswith(CIAM_SUFFIX) and issuer_host.endswith(CIAM_SUFFIX)
    return "" if host == issuer_host or is_ciam or named is None or host in named else name


def _is_here(host: str) -> bool:
    """Return whether this machine may answer for a host, in whatever spelling the system's resolver takes."""
    host = host.rstrip(".").lower()
    if is_loopback(host) or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.rpartition(".")[2][:1].isdigit()  # inet_aton(3): 127.1, 0x7f.1, 2130706433
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)
