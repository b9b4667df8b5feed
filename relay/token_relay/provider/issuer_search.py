"""Finds the issuer that a person meant whose URL is nearly right.

People paste the address of the document, leave the path out, take too much of it, or write the other scheme. Each such
guess costs a request or two, so it is made only after the URL itself has failed. What is found is said to the person,
never used by itself: a document may name whatever it likes, so its issuer must answer for itself as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit, urlunsplit

from token_relay.provider.discovery import DiscoveryFailed, ProviderMetadata, discover, discovery_urls, read_metadata
from token_relay.provider.http import Http, is_loopback

GUESSES_MAX = 16
# Where providers that people run themselves have their issuer: django-oauth-toolkit; Keycloak and its old path; Okta;
# ZITADEL, authentik and Dex as their guides have them; others.
COMMON_PATHS = ("/o", "/realms/master", "/auth/realms/master", "/oauth2/default", "/oidc", "/dex", "/oauth2", "/oauth")


async def find_issuer(http: Http, url: str) -> str:
    """Return the issuer that ``url`` nearly is, to the letter; empty when no guess leads to one."""
    for guess in guesses(url):
        found = await read_metadata(http, discovery_urls(guess)[0])
        if isinstance(found, DiscoveryFailed) and found.is_temporary and not found.status:
            if urlsplit(guess).scheme == urlsplit(url).scheme:
                return ""  # nobody is there, so the other guesses would only wait
            continue
        if isinstance(found, ProviderMetadata):
            proven = await discover(http, found.issuer)
            if isinstance(proven, ProviderMetadata):
                return proven.issuer
    return ""


def guesses(url: str) -> tuple[str, ...]:
    """Return the URLs that may have been meant, the likeliest first."""
    parts = urlsplit(url)
    found = dict.fromkeys(urlunsplit(one) for one in _guesses(parts))
    found.pop(url, None)
    return tuple(found)[:GUESSES_MAX]


def _guesses(parts: SplitResult) -> Iterator[SplitResult]:
    path, mark, _ = parts.path.partition("/.well-known/")
    base = parts._replace(path=path.rstrip("/"), query="", fragment="")
    if parts.scheme == "https" and is_loopback(parts.hostname or ""):
        yield base._replace(scheme="http")
    elif parts.scheme == "http":
        yield base._replace(scheme="https")
    if mark:
        yield base
    while base.path:
        base = base._replace(path=base.path.rpartition("/")[0])
        yield base
    for common in COMMON_PATHS:
        yield base._replace(path=common)
