"""A provider's metadata: where its endpoints are, and what it says about itself.

The document must come from the issuer's own address and name exactly that issuer. Every URL in it is https, or loopback
when the document itself came from loopback: no provider may aim this device at its own machine.
RFC 8414, OpenID Connect Discovery 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never
from urllib.parse import urlsplit, urlunsplit

from token_relay.provider.http import AnswerLost, Http, HttpRequest, HttpResponse, NotSent, is_loopback, url_problem
from token_relay.provider.tokens import parse_object

# Lists of the metadata that tell before a sign-in what cannot work in it. RFC 8414 §2, OpenID Connect Discovery §3.
SUPPORTED = (
    "code_challenge_methods_supported",
    "grant_types_supported",
    "id_token_signing_alg_values_supported",
    "prompt_values_supported",
    "response_types_supported",
    "revocation_endpoint_auth_methods_supported",
    "scopes_supported",
    "token_endpoint_auth_methods_supported",
    "token_endpoint_auth_signing_alg_values_supported",
)
# What a provider may demand of every client. RFC 9126 §5, RFC 9101 §10.5.
REQUIRED = ("require_pushed_authorization_requests", "require_signed_request_object")
WORDS_MAX = 1_024  # of one list; scopes are the longest, one for each API of a provider
WORD_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """A provider's issuer and endpoints; every URL is https, or loopback when the document came from loopback.

    ``supported`` holds the document's :data:`SUPPORTED` lists that it has, ``required`` which of :data:`REQUIRED` are
    true.
    """

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    jwks_uri: str | None = None
    supported: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    userinfo_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenEndpoints:
    """Endpoints that a person gave by hand; None: what the metadata says."""

    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    revocation_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    jwks_uri: str | None = None
    device_authorization_endpoint: str | None = None

    def over(self, found: ProviderMetadata) -> ProviderMetadata:
        """Return the metadata with these endpoints in it."""
        return replace(
            found,
            authorization_endpoint=self.authorization_endpoint or found.authorization_endpoint,
            token_endpoint=self.token_endpoint or found.token_endpoint,
            revocation_endpoint=self.revocation_endpoint or found.revocation_endpoint,
            userinfo_endpoint=self.userinfo_endpoint or found.userinfo_endpoint,
            jwks_uri=self.jwks_uri or found.jwks_uri,
            device_authorization_endpoint=self.device_authorization_endpoint or found.device_authorization_endpoint,
        )


@dataclass(frozen=True, slots=True)
class DiscoveryFailed:
    """No metadata. ``is_temporary``: asking later may help; otherwise a person must correct something.

    ``issuer`` is what the provider calls itself, where that is the whole trouble. ``status`` is that of the answer
    which was no document, 0 when none came.
    """

    reason: str
    is_temporary: bool
    issuer: str = ""
    status: int = 0


async def discover(http: Http, issuer: str) -> ProviderMetadata | DiscoveryFailed:
    """Read the provider's metadata: the OpenID Connect form first, then RFC 8414's.

    The document must name exactly the issuer that was asked for (RFC 8414 §3.3): otherwise one provider
    could answer in another's name.
    """
    if (problem := _issuer_problem(issuer)) != "":
        return DiscoveryFailed(f"the issuer {problem}", is_temporary=False)
    found: ProviderMetadata | DiscoveryFailed | None = None
    for url in discovery_urls(issuer):
        found = await read_metadata(http, url)
        if found is not None:
            break
    if found is None:
        return DiscoveryFailed("the provider has no discovery document at either known place", is_temporary=False)
    if isinstance(found, ProviderMetadata) and found.issuer != issuer:
        return DiscoveryFailed(
            f"the provider calls itself {found.issuer}, asked for was {issuer}; they must be equal to the letter",
            is_temporary=False,
            issuer=found.issuer,
        )
    return found


def discovery_urls(issuer: str) -> tuple[str, str]:
    """Return where the document may be: OpenID Connect appends, RFC 8414 §3 inserts before the path."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    return (
        urlunsplit(parts._replace(path=f"{path}/.well-known/openid-configuration")),
        urlunsplit(parts._replace(path=f"/.well-known/oauth-authorization-server{path}")),
    )


async def read_metadata(http: Http, url: str) -> ProviderMetadata | DiscoveryFailed | None:
    """Fetch and check one document, but not its issuer; None when there is none (a 4xx)."""
    answer = await http.request(HttpRequest("GET", url, headers={"accept": "application/json"}))
    match answer:
        case NotSent(reason) | AnswerLost(reason):
            return DiscoveryFailed(reason, is_temporary=True)
        case HttpResponse(status=200):
            return _check_metadata(answer.body, is_local=is_loopback(urlsplit(url).hostname or ""))
        case HttpResponse(status=status) if status >= 500 or status in (408, 429):
            reason = f"HTTP {status} instead of a discovery document"
            return DiscoveryFailed(reason, is_temporary=True, status=status)
        case HttpResponse(status=status) if status >= 400:
            return None
        case HttpResponse(status=status):
            return DiscoveryFailed(f"HTTP {status} instead of a discovery document", is_temporary=False)
        case _:
            assert_never(answer)


_ENDPOINTS = ("issuer", "token_endpoint", "authorization_endpoint", "revocation_endpoint", "jwks_uri")
_OPTIONAL_ENDPOINTS = ("userinfo_endpoint", "device_authorization_endpoint")  # no sign-in fails by these


def _check_metadata(body: bytes, *, is_local: bool) -> ProviderMetadata | DiscoveryFailed:
    parsed = parse_object(body)
    if parsed is None or parsed[1]:
        return DiscoveryFailed("the discovery document is not a JSON object with distinct keys", is_temporary=False)
    urls: dict[str, str] = {}
    for name in (*_ENDPOINTS, *_OPTIONAL_ENDPOINTS):
        value = parsed[0].get(name)
        if value is None:
            continue
        problem = url_problem(value) if isinstance(value, str) else "is not a string"
        if not problem and isinstance(value, str):
            urls[name] = value
            # A document from elsewhere must not point at a port on which any local program may listen.
            problem = (
                "" if is_local or urlsplit(value).scheme == "https" else "is plain http in a document from elsewhere"
            )
        if problem and name in _OPTIONAL_ENDPOINTS:
            urls.pop(name, None)
        elif problem:
            return DiscoveryFailed(f"{name} in the discovery document {problem}", is_temporary=False)
    for name in ("issuer", "token_endpoint"):
        if name not in urls:
            return DiscoveryFailed(f"the discovery document has no {name}", is_temporary=False)
    return ProviderMetadata(
        issuer=urls["issuer"],
        token_endpoint=urls["token_endpoint"],
        authorization_endpoint=urls.get("authorization_endpoint"),
        revocation_endpoint=urls.get("revocation_endpoint"),
        jwks_uri=urls.get("jwks_uri"),
        supported={name: words for name in SUPPORTED if (words := _words(parsed[0].get(name)))},
        userinfo_endpoint=urls.get("userinfo_endpoint"),
        device_authorization_endpoint=urls.get("device_authorization_endpoint"),
        required=tuple(name for name in REQUIRED if parsed[0].get(name) is True),
    )


def _words(value: object) -> tuple[str, ...]:
    listed = value[:WORDS_MAX] if isinstance(value, list) else []
    return tuple(word for word in listed if isinstance(word, str) and 0 < len(word) <= WORD_CHARS_MAX)


def _issuer_problem(issuer: str) -> str:
    return "holds a query" if "?" in issuer else url_problem(issuer)
