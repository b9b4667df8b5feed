"""Session transfer: a refresh token traded for a token that signs a browser in, once, within a minute.

The request is a refresh with an audience of its own, so everything that holds for a refresh holds here: the provider
may rotate the refresh token, also when its answer got lost. :func:`classify_exchange` therefore asks
:func:`~token_relay.provider.oauth.classify` first, which takes what may be the only live refresh token out of any
success, and judges the rest afterwards.

The value of ``access_token`` becomes a :class:`~token_relay.protocol.secret.SessionTransferToken` only if
``issued_token_type`` says so. A provider that does not know the audience answers with an ordinary access token, which
lives long and works many times; that value is dropped here and never gets near a URL.

A refusal of the exchange says nothing about the grant, unless it is ``invalid_grant``: a client that may not trade its
refresh token can still use it. So it comes back as :class:`ExchangeRefused`, which leaves the grant alone.

Only :func:`exchange` reaches out, by the port given to it; it stores, retries and logs nothing. Source: Auth0's
documents of Native to Web SSO; RFC 8693 §2.2.1 for the shape of the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlsplit

from token_relay.protocol.secret import RefreshToken, Secret, SessionTransferToken
from token_relay.provider.http import AnswerLost, ClientIdentity, Http, HttpResponse, NotSent
from token_relay.provider.oauth import classify, post
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import Profile
from token_relay.provider.tokens import find_seconds, parse_object

ISSUED_TOKEN_TYPE = "urn:auth0:params:oauth:token-type:session_transfer_token"  # noqa: S105  # a type's name
PARAMETER = "session_transfer_token"  # of a web application's login address, and of /authorize
COOKIE = "auth0_session_transfer_token"  # on the provider's domain
EXPIRES_IN_S_DEFAULT = 60.0  # what the documents say; for an answer that leaves it out or says it oddly
EXPIRES_IN_S_MAX = 300.0  # a token that lives longer is not one for a browser's next step
TOKEN_CHARS_MAX = 1_024  # it has to fit into an address of URL_CHARS_MAX, beside the web application's own part

_VALUE = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)  # unreserved (RFC 3986 §2.3): the same in a URL and in a cookie


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A success. Store ``refresh_token`` (when there is one) before looking at anything else.

    ``token`` is None when the answer holds no session transfer token; ``problem`` then says why. ``expires_in_s`` is
    counted from the moment the request was sent.
    """

    refresh_token: RefreshToken | None
    token: SessionTransferToken | None
    expires_in_s: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ExchangeRefused:
    """The provider refused the exchange, not the grant: the refresh token works as before."""

    error: str
    retry_after_s: float | None = None
    trace_id: str = ""
    correlation_id: str = ""


ExchangeOutcome = Exchanged | ExchangeRefused | Denied | Unavailable | OutcomeUnknown


async def exchange(
    http: Http,
    profile: Profile,
    *,
    token_endpoint: str,
    client_id: str,
    refresh_token: RefreshToken,
    audience: str,
    issuer: str = "",
) -> ExchangeOutcome:
    """Send one exchange. The caller has its intent on disk; a cancelled call is an unknown outcome."""
    form: tuple[tuple[str, str | Secret[str]], ...] = (
        ("grant_type", "refresh_token"),
        ("client_id", client_id),
        ("refresh_token", refresh_token),
        ("audience", audience),
    )
    client = ClientIdentity(issuer, client_id, token_endpoint)
    return classify_exchange(profile, await http.request(post(token_endpoint, form, client=client)))


def audience_of(issuer: str) -> str:
    """Return the audience of the exchange at this issuer: its host, without a port."""
    return f"urn:{cookie_domain(issuer)}:session_transfer"


def cookie_domain(issuer: str) -> str:
    """Return the host on which the provider reads its cookies, as far as the issuer tells."""
    return (urlsplit(issuer).hostname or "").lower()


def classify_exchange(profile: Profile, answer: HttpResponse | NotSent | AnswerLost) -> ExchangeOutcome:
    """Judge what an exchange came to. Never raises, whatever the provider sent."""
    outcome = classify(profile, answer)
    match outcome:
        case Refreshed(refresh_token=refresh_token):
            assert isinstance(answer, HttpResponse)
            return _exchanged(answer, refresh_token)
        case Denied(kind="final") | Unavailable() | OutcomeUnknown():
            return outcome
        case Denied(error=error, retry_after_s=retry_after_s, trace_id=trace_id, correlation_id=correlation_id):
            return ExchangeRefused(error, retry_after_s, trace_id, correlation_id)
        case _:
            assert_never(outcome)


def _exchanged(response: HttpResponse, refresh_token: RefreshToken | None) -> Exchanged:
    parsed = parse_object(response.body)
    answer, doubled = parsed or ({}, frozenset())
    value = answer.get("access_token")
    if not doubled.isdisjoint(("access_token", "issued_token_type", "refresh_token")):
        problem = "a key came twice"
    elif answer.get("issued_token_type") != ISSUED_TOKEN_TYPE:
        problem = "the provider answered with a token of another type"
    elif not isinstance(value, str) or len(value) > TOKEN_CHARS_MAX or not _VALUE.fullmatch(value):
        problem = "access_token missing, malformed or unusable"
    else:
        expires_in_s = find_seconds(answer.get("expires_in")) or EXPIRES_IN_S_DEFAULT
        return Exchanged(refresh_token, SessionTransferToken(value), min(expires_in_s, EXPIRES_IN_S_MAX))
    return Exchanged(refresh_token, None, problem=problem)


def for_grant(outcome: ExchangeOutcome) -> TokenOutcome:
    """Return what the exchange means to the grant behind it: to its lifecycle it is a refresh like any other."""
    match outcome:
        case Exchanged(refresh_token=refresh_token, problem=problem):
            return Refreshed(refresh_token, None, token_type="", expires_in_s=0.0, scope="", problem=problem)
        case ExchangeRefused(error, retry_after_s, trace_id, correlation_id):
            # Not processed as far as the refresh token goes; "temporary" keeps the grant as it was.
            return Denied("temporary", error, "", (), trace_id, correlation_id, retry_after_s)
        case Denied() | Unavailable() | OutcomeUnknown():
            return outcome
        case _:
            assert_never(outcome)
