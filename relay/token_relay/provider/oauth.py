"""The OAuth client: refresh, code exchange, revocation; every outcome is a value.

:func:`classify` is the one place where a provider's answer to a token request is judged. Its order matters. First, what
may be the only live token is taken out of any success. Then the provider's clear "no" is told apart by what the holder
does next; only a well-formed one counts, never a word in a page. Then comes what was certainly not processed.
Everything else after the first byte of the request left is :class:`OutcomeUnknown`: front doors answer in a provider's
place, also when its own answer was late, so at a provider that rotates refresh tokens, guessing "not processed" or
"refused" loses grants.

Nothing here stores, retries, sleeps or logs; callers do, with the intent on disk before they call.
RFC 6749, RFC 7009, RFC 7636, RFC 9700.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import mktime_tz, parsedate_tz
from typing import assert_never

from token_relay.protocol.secret import Code, RefreshToken, Secret
from token_relay.provider.http import AnswerLost, ClientIdentity, Http, HttpRequest, HttpResponse, NotSent
from token_relay.provider.outcome import DenialKind, Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import Profile
from token_relay.provider.tokens import (
    ErrorAnswer,
    check_token_answer,
    find_error,
    find_refresh_token,
    find_refresh_token_life_s,
    parse_object,
)

RETRY_AFTER_S_MAX = 3_600.0  # a provider that asks for more is asked again in an hour, not in a year
RETRY_AFTER_S_DEFAULT = 60.0  # for a date that cannot be turned into a distance
REVOKE_TIMEOUT_S = 10.0

Form = tuple[tuple[str, str | Secret[str]], ...]

# What an error code means for the holder of the token. Codes of RFC 6749 §5.2, RFC 6750 §3.1, RFC 8707 §2 and
# RFC 9449. Any other one, access_denied, interaction_required and what nobody knows, is for the person: the token is
# kept and asked with again, slowly.
_CLIENT = frozenset(
    {"invalid_client", "invalid_dpop_proof", "unauthorized_client", "unsupported_grant_type", "use_dpop_nonce"}
)
_REQUEST = frozenset({"insufficient_scope", "invalid_request", "invalid_scope", "invalid_target"})
_UNAVAILABLE = frozenset({"temporarily_unavailable", "too_many_requests", "slow_down"})
_FINAL_SUBERRORS = frozenset({"bad_token", "token_expired"})  # Entra's; all others want the person
# What web frameworks write into ``error`` of their own pages in JSON; RFC 9110 §15.5 and §15.6, no OAuth code at all.
_STATUS_PHRASES = (
    *("Bad Request", "Unauthorized", "Forbidden", "Not Found", "Method Not Allowed", "Not Acceptable"),
    *("Proxy Authentication Required", "Request Timeout", "Conflict", "Gone", "Length Required"),
    *("Precondition Failed", "Content Too Large", "Payload Too Large", "Request Entity Too Large", "URI Too Long"),
    *("Unsupported Media Type", "Expectation Failed", "Misdirected Request", "Unprocessable Content"),
    *("Unprocessable Entity", "Too Early", "Upgrade Required", "Too Many Requests", "Request Header Fields Too Large"),
    *("Unavailable For Legal Reasons", "Internal Server Error", "Bad Gateway", "Service Unavailable"),
    "Gateway Timeout",
)
_HTML = ("text/html", "application/xhtml+xml")


# -- Judging a token answer --------------------------------------------------------------------------------


def classify(profile: Profile, answer: HttpResponse | NotSent | AnswerLost) -> TokenOutcome:
    """Judge what a token request came to under ``profile``. Pure; never raises, whatever the provider sent."""
    match answer:
        case NotSent(reason):
            return Unavailable(reason)
        case AnswerLost(reason):
            return OutcomeUnknown(reason)
        case HttpResponse(status=status) if 200 <= status < 300:
            return _classify_success(profile, answer)
        case HttpResponse():
            return _classify_refusal(profile, answer)
        case _:
            assert_never(answer)


def _classify_success(profile: Profile, response: HttpResponse) -> TokenOutcome:
    parsed = parse_object(response.body)
    if parsed is None:
        return _page(response)
    answer, doubled = parsed
    refresh_token, problem = find_refresh_token(answer)
    if problem:
        return _page(response, problem)
    has_access_token = isinstance(answer.get("access_token"), str) and answer["access_token"] != ""
    # An error object may name its fields: {"error": "invalid_request", "refresh_token": "is missing"} holds no token.
    # An empty one says nothing. RFC 6749 §3.2
    is_error = isinstance(answer.get("error"), str) and answer["error"] != ""
    if not has_access_token and (refresh_token is None or is_error):
        if "error" in answer:
            return _classify_refusal(profile, replace(response, status=400), came_as=response)
        return _page(response, "no token in it")
    checked, note = check_token_answer(answer)
    if not doubled.isdisjoint(("access_token", "refresh_token")):
        checked = "a token came twice"
    life_s = find_refresh_token_life_s(answer)
    if isinstance(checked, str):
        return Refreshed(refresh_token, None, "", 0.0, "", refresh_token_expires_in_s=life_s, problem=checked)
    return Refreshed(
        refresh_token,
        checked.access_token,
        token_type=checked.token_type,
        expires_in_s=checked.expires_in,
        scope=checked.scope,
        id_token=checked.id_token,
        refresh_token_expires_in_s=life_s,
        note="; ".join(filter(None, (note, "a key came twice" if doubled else ""))),
    )


def _classify_refusal(
    profile: Profile, response: HttpResponse, came_as: HttpResponse | None = None
) -> Denied | Unavailable | OutcomeUnknown:
    """Judge what brings no tokens. ``came_as`` is the answer as it came, where it is judged with another status."""
    status, came_as = response.status, came_as or response
    retry_after_s = find_retry_after_s(response.headers)
    error = _verdict(response)
    code = error.error if error else ""
    if error and code in _UNAVAILABLE and (status == 503 or 400 <= status < 500):
        reason = f"{code} (HTTP {came_as.status})"
        return Unavailable(reason, retry_after_s, trace_id=error.trace_id, correlation_id=error.correlation_id)
    if status == 429 and code != "invalid_grant":
        return Unavailable("too many requests (HTTP 429)", retry_after_s)
    if error is None or code == "server_error" or not 400 <= status < 500:
        return _page(came_as, "a redirect, which is never followed" if 300 <= status < 400 else code)
    return Denied(
        _denial_kind(profile, error),
        code,
        suberror=error.suberror,
        codes=error.codes,
        trace_id=error.trace_id,
        correlation_id=error.correlation_id,
        retry_after_s=retry_after_s,
        description=error.description,
    )


def _denial_kind(profile: Profile, error: ErrorAnswer) -> DenialKind:
    codes = frozenset(error.codes)
    if codes & profile.temporary_codes:
        return "temporary"
    if error.error == "invalid_grant":
        is_final = error.suberror in _FINAL_SUBERRORS or codes & profile.final_codes or not profile.final_codes
        return "final" if is_final else "person"
    if error.error in _CLIENT:
        return "client"
    return "request" if error.error in _REQUEST else "person"


def _verdict(response: HttpResponse) -> ErrorAnswer | None:
    """Return the OAuth error of an answer, None when it holds none that can be trusted to be the provider's."""
    media_type = _media_type(response)
    if media_type in _HTML:
        return None
    if media_type == "text/plain" and response.body.strip() == b"invalid_grant":
        return ErrorAnswer("invalid_grant")
    parsed = parse_object(response.body)
    if parsed is None or parsed[1] or parsed[0].get("error") in _STATUS_PHRASES:
        return None
    return find_error(parsed[0])


def _page(response: HttpResponse, words: str = "") -> OutcomeUnknown:
    kind = (_media_type(response) or "no media type") if response.body else "without a body"
    words = words or ("no OAuth answer" if "json" in kind else "")
    reason = f"{response.status} {kind}{': ' if words else ''}{words}"
    return OutcomeUnknown(reason, "page", find_retry_after_s(response.headers))


def _media_type(response: HttpResponse) -> str:
    """Return the media type, cut down to what may be shown."""
    said = re.split("[;,]", response.headers.get("content-type", "").lower(), maxsplit=1)[0]
    return re.sub(r"[^a-z0-9.+/-]", "", said)[:40]


def find_retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return ``Retry-After`` in seconds, 0 to ``RETRY_AFTER_S_MAX``; None when absent or unreadable.

    A date is measured against the answer's own ``Date``: the device's clock may be wrong. RFC 9110 §10.2.3.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,18}", value, re.ASCII):
        return min(float(value), RETRY_AFTER_S_MAX)
    until_at = _http_date_s(value)
    if until_at is None:
        return None
    now_at = _http_date_s(headers.get("date", ""))
    if now_at is None:
        return RETRY_AFTER_S_DEFAULT
    return min(max(until_at - now_at, 0.0), RETRY_AFTER_S_MAX)


def _http_date_s(text: str) -> float | None:
    try:
        parsed = parsedate_tz(text[:64])
        return None if parsed is None else float(mktime_tz(parsed))
    except (ValueError, TypeError, OverflowError, IndexError):  # the lenient parser itself fails on some texts
        return None


# -- Token requests ----------------------------------------------------------------------------------------


async def refresh(
    http: Http,
    profile: Profile,
    *,
    token_endpoint: str,
    client_id: str,
    refresh_token: RefreshToken,
    issuer: str = "",
    scope: str | None = None,
    resource: str = "",
    client_info: bool = False,
    claims: str = "",
) -> TokenOutcome:
    """Send one refresh request. The caller has its intent on disk; a cancelled call is an unknown outcome.

    ``issuer`` is whose credentials of this client are meant, where the device has any. ``scope`` None asks for what the
    grant has; ``resource`` is RFC 8707's; ``client_info`` is Entra's; ``claims`` is a claims request, OpenID Connect
    Core §5.5. RFC 6749 §6.
    """
    form: list[tuple[str, str | Secret[str]]] = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token),
        ("client_id", client_id),
    ]
    if scope:
        form.append(("scope", scope))
    if client_info:
        form.append(("client_info", "1"))
    if claims:
        form.append(("claims", claims))
    if resource:
        form.append(("resource", resource))
    client = ClientIdentity(issuer, client_id, token_endpoint)
    return classify(profile, await http.request(post(token_endpoint, tuple(form), client=client)))


async def exchange_code(
    http: Http,
    profile: Profile,
    *,
    token_endpoint: str,
    client_id: str,
    code: Code,
    code_verifier: Code,
    redirect_uri: str,
    issuer: str = "",
    resource: str = "",
) -> TokenOutcome:
    """Trade an authorization code for tokens, once: a code is single-use. RFC 6749 §4.1.3, RFC 7636 §4.5.

    ``issuer`` and ``resource`` as in :func:`refresh`. A description that repeats what was sent is dropped.
    """
    form: Form = (
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect_uri),
        ("client_id", client_id),
        ("code_verifier", code_verifier),
        *((("resource", resource),) if resource else ()),
    )
    client = ClientIdentity(issuer, client_id, token_endpoint)
    outcome = classify(profile, await http.request(post(token_endpoint, form, client=client)))
    if isinstance(outcome, Denied) and any(one.is_in(outcome.description) for one in (code, code_verifier)):
        return replace(outcome, description="")
    return outcome


def post(url: str, form: Form, *, timeout_s: float = 30.0, client: ClientIdentity | None = None) -> HttpRequest:
    """Build a form request that asks for JSON. RFC 6749 §3.2."""
    headers = {"accept": "application/json"}
    return HttpRequest("POST", url, form=form, headers=headers, timeout_s=timeout_s, client=client)


# -- Revocation --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RevokeAccepted:
    """The provider answered 200. This proves little: it does so for unknown tokens and, at some, for other clients'
    tokens."""


@dataclass(frozen=True, slots=True)
class RevokeRefused:
    """The provider said no, and asking again will not change it."""

    error: str
    status: int


@dataclass(frozen=True, slots=True)
class RevokeUnreachable:
    """No usable answer: assume that the token is alive."""

    reason: str
    retry_after_s: float | None = None


RevokeOutcome = RevokeAccepted | RevokeRefused | RevokeUnreachable


async def revoke(
    http: Http,
    *,
    revocation_endpoint: str,
    client_id: str,
    token: RefreshToken,
    issuer: str = "",
    token_endpoint: str = "",
    timeout_s: float = REVOKE_TIMEOUT_S,
) -> RevokeOutcome:
    """Ask the provider to revoke a refresh token, once, within ``timeout_s``. RFC 7009 §2.

    ``issuer`` and ``token_endpoint`` tell the client's credentials, as in :func:`refresh`.
    """
    form: Form = (("token", token), ("token_type_hint", "refresh_token"), ("client_id", client_id))
    client = ClientIdentity(issuer, client_id, token_endpoint)
    answer = await http.request(post(revocation_endpoint, form, timeout_s=timeout_s, client=client))
    match answer:
        case NotSent(reason) | AnswerLost(reason):
            return RevokeUnreachable(reason)
        case HttpResponse(status=200 | 204):
            return RevokeAccepted()
        case HttpResponse(status=status) if 400 <= status < 500 and status not in (408, 429):
            parsed = parse_object(answer.body)
            error = find_error(parsed[0]) if parsed else None
            return RevokeRefused(error.error if error else "no_oauth_error", status)
        case HttpResponse(status=status):
            return RevokeUnreachable(f"HTTP {status}", find_retry_after_s(answer.headers))
        case _:
            assert_never(answer)
