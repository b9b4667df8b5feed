"""What the provider wrote down, in words, and what an error code means and asks for. Pure.

Meanings come from the table that the phone itself speaks from; beside each stands what a person can do about it here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from token_relay.pages.words import short
from token_relay.provider.native_auth.refusals import BY_CODE, BY_ERROR, BY_SUBERROR

EVENTS: Mapping[str, str] = {
    "code_sent": "sends a code",
    "signed_in": "signs a person in, and begins a grant",
    "sign_in_denied": "refuses a sign-in",
    "more_required": "wants another step",
    "redirected": "sends the client to the browser",
    "method_registered": "registers a method",
    "signed_up": "makes an account",
    "password_reset": "takes a new password",
    "email_searched": "somebody looks for an address by phone number",
    "link_changed": "a link was changed",
    "token_request_received": "gets a token request",
    "refresh_committed": "takes a refresh token and issues the next one",
    "refresh_denied": "refuses to refresh",
    "token_request_answered": "has answered the token request",
    "request_answered": "has answered",
    "reuse_detected": "sees a spent refresh token again",
    "family_killed": "ends a grant",
    "token_revoked": "revokes",
    "account_event": "something happened to the account",
    "keys_rolled_over": "signs with a new key from now on",
    "clock_advanced": "its clock was put forward",
    "claims_challenge_sent": "wants a fresh token: claims challenge",
    "session_opened": "opens a session of a browser",
    "session_ended": "ends a session of a browser",
    "session_transfer_token_issued": "issues a session transfer token",
    "assertion_issued": "issues an assertion",
    "assertion_accepted": "an assertion was accepted",
    "fault_met": "a fault met this request",
    "request_held": "holds the request",
    "request_lost": "the client has gone: nothing was done",
    "answer_lost": "it was done, and its answer got lost",
}
BAD = frozenset(
    {"sign_in_denied", "refresh_denied", "reuse_detected", "family_killed", "fault_met", "request_lost", "answer_lost"}
)
# Shown in columns of their own, or of no use to a person.
_APART = frozenset({"id", "at", "kind", "trace_id", "correlation_id", "username", "endpoint", "client_id"})
_IDS = frozenset({"family", "session", "parent_family"})
_GENERAL = frozenset({"invalid_grant", "invalid_request", "password", "code"})  # where a number says it better
_AGAIN = "sign in again on the phone, and hand off again"
_LATER = "wait, and try again"
TO_DO: Mapping[str, str] = {
    "50126": "type the password again; too many wrong ones lock the account for a while",
    "50034": "look at the spelling, or sign up",
    "50053": _LATER,
    "50055": "reset the password",
    "50057": "switch the account on again: page Users",
    "50076": "sign in with a second factor; a companion needs a new handoff after it",
    "50142": "reset the password",
    "50173": _AGAIN,
    "50132": _AGAIN,
    "50133": _AGAIN,
    "50181": "type the newest code, or have another one sent",
    "500222": "sign in with a code in place of a password",
    "53003": "the administrator decides: conditional_access on page Clients and policy",
    "55200": "begin the flow again from its first step",
    "65001": "consent once in the browser",
    "70000": _AGAIN,
    "70008": _AGAIN,
    "70043": _AGAIN,
    "700082": _AGAIN,
    "700084": _AGAIN,
    "700016": "look at the client_id: page Clients and policy",
    "7000112": "switch the client on again: page Clients and policy",
    "invalid_grant": _AGAIN,
    "invalid_client": "look at the client_id and its secret: page Clients and policy",
    "unauthorized_client": "look at the client_id and what it may do: page Clients and policy",
    "unsupported_challenge_type": "offer the ways that this account has, or redirect and go to the browser",
    "user_not_found": "look at the spelling, or sign up",
    "user_already_exists": "sign in in place of signing up",
    "expired_token": "begin the flow again from its first step",
    "invalid_oob_value": "type the newest code, or have another one sent",
    "mfa_required": "go on with a second factor: introspect, challenge, token",
    "registration_required": "go on by registering a method: register/introspect",
    "interaction_required": "only a sign-in with the person helps",
    "redirect": "go to the browser",
    "temporarily_unavailable": _LATER,
    "slow_down": "wait longer between two questions",
    "invalid_scope": "ask for scopes of one API, and for those that the client may have",
    "invalid_request": "compare the parameters with the reference of this endpoint",
    "password": "type the password again; too many wrong ones lock the account for a while",
    "code": "type the newest code, or have another one sent",
}
MEANINGS: Mapping[str, str] = {
    **{str(code): words for code, words in BY_CODE.items()},
    **BY_ERROR,
    **BY_SUBERROR,
    "50076": "a second factor is required",
    "50173": "all tokens of this person were revoked",
    "50132": "the session is over: the password was changed or reset",
    "50133": "the session is over: the password was changed or has expired",
    "50181": "the code is wrong, old, or was tried too often",
    "70000": "the token is not one that this provider knows",
    "70008": "the code or the refresh token has expired",
    "70043": "the sign-in is older than the tenant allows",
    "700082": "the refresh token was not used for too long",
    "700084": "a single-page application's refresh token ends 24 hours after the sign-in",
    "700016": "there is no such client in this tenant",
    "7000112": "the application is switched off in the tenant",
    "900561": "the endpoint takes another method",
    "9002313": "the request is malformed",
    "invalid_grant": "the password, code or refresh token is not, or no longer, good",
    "invalid_client": "the client is unknown or could not prove itself",
    "invalid_request": "a parameter is missing, wrong, or there twice",
    "mfa_required": "the first factor was right, and a second one is required",
    "registration_required": "the first factor was right, and this person has no second one yet",
    "redirect": "this needs a browser",
    "temporarily_unavailable": "the provider has no time now",
    "slow_down": "too many requests",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """An error code, what it means, and what to do."""

    code: str
    meaning: str
    to_do: str


def in_words(event: Mapping[str, object]) -> str:
    """Return what an event says."""
    kind = str(event.get("kind", ""))
    words = EVENTS.get(kind, kind.replace("_", " "))
    more = ", ".join(
        f"{name.replace('_', ' ')} {_shown(name, value)}" for name, value in event.items() if name not in _APART
    )
    return f"{words}: {more}" if more else words


def _shown(name: str, value: object) -> str:
    return short(str(value).removeprefix("family-")) if name in _IDS else str(value)


def is_bad(event: Mapping[str, object]) -> bool:
    """Whether an event is a refusal, a loss or a fault."""
    status = event.get("status")
    return event.get("kind") in BAD or (isinstance(status, int) and status >= 400)


def codes_of(body: Mapping[str, object]) -> Iterator[str]:
    """Yield the error codes of an answer or an event, the most telling first."""
    codes = body.get("error_codes")
    for code in codes if isinstance(codes, list) else [body.get("code")]:
        yield str(code)
    for name in ("suberror", "error", "reason", "redirect_reason"):
        yield str(body.get(name) or "")


def advice(codes: Iterable[str]) -> list[Advice]:
    """Return what is known of these codes, each once; what nothing is known of is left out."""
    known = [code for code in dict.fromkeys(codes) if code in MEANINGS or code in TO_DO]
    if any(code.isdigit() for code in known):
        known = [code for code in known if code not in _GENERAL]
    return [Advice(code, MEANINGS.get(code, ""), TO_DO.get(code, "")) for code in known]
