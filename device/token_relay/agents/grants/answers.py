"""What a program that asks, and the audit, are told of a grant and of a request's outcome. Writes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypedDict, assert_never

from token_relay.agents.grants.choice import Candidate, PhoneBook, ambiguous, candidates, choose
from token_relay.agents.grants.serving import (
    NO_URL,
    Refresh,
    Serve,
    barred_host,
    expires_at,
    normalise_scope,
    serve_or_refresh,
    state_of,
)
from token_relay.agents.ports import Now, Transaction
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable


@dataclass(frozen=True, slots=True)
class ToRefresh:
    """The grant that answers a question must be refreshed first.

    ``fallback`` has a token that still works; ``has_worked``: this scope has brought one before.
    """

    grant: Grant
    fallback: Candidate | None
    has_worked: bool


def decide(
    tx: Transaction, query: TokenQuery, now: Now, reauth_action: str, book: PhoneBook | None
) -> tuple[Grant | None, TokenGranted | TokenRefused | ToRefresh]:
    """Return the grant that answers a question, and the answer, or that it must be refreshed first.

    A grant that counts as locked comes back as locked.
    """
    found = candidates(tx, query, now, book)
    if isinstance(found, TokenRefused):
        return None, found
    choice = choose(found)
    if isinstance(choice, tuple):
        return None, ambiguous(choice)
    if choice is None:
        return None, TokenRefused("not_found", _nothing_for(query), reauth_action)
    grant = choice.best.grant
    match serve_or_refresh(state_of(grant), choice.best.token, query, now):
        case Serve():
            return grant, granted(choice.best, now)
        case Refresh():
            before = tx.get(CachedToken, grant.grant_id, normalise_scope(query.scope))
            fallback = None if query.claims else choice.fallback
            return grant, ToRefresh(grant, fallback, has_worked=before is not None)
        case "refuse":
            return grant, refusal(grant, reauth_action)


def granted(one: Candidate, now: Now) -> TokenGranted:
    """Return a cached access token as a program gets it."""
    grant, token = one.grant, one.token
    assert token is not None and token.access_token is not None
    return TokenGranted(
        token.access_token,
        token.token_type,
        expires_at(token, now),
        token.granted_scope,
        grant.issuer,
        phone=one.phone,
        grant_id=grant.grant_id,
    )


def _nothing_for(query: TokenQuery) -> str:
    asked = {"account": query.account, "issuer": query.issuer, "audience": query.audience, "scope": query.scope}
    words = ", ".join(f"{name} {value}" for name, value in asked.items() if value)
    return f"no grant here is for {words}" if words else "there is no grant here"


def refusal(grant: Grant, reauth_action: str) -> TokenRefused:
    """Say why a grant that is not usable gives nothing, and what would change it."""
    said = f": {grant.said}" if grant.said else ""
    match grant.state, grant.reason:
        case "locked", "lease":
            return TokenRefused("locked", "the lease is over: no word from the phone", "bring the phone online")
        case "locked", "configuration" if host := barred_host(grant):
            return TokenRefused("locked", f"this device may not send tokens to {host}", allow_host(host))
        case "locked", "configuration":
            detail = f"the provider refuses this client{said}; it is asked again by itself"
            return TokenRefused("locked", detail, check_client(grant))
        case "locked", "damaged":
            detail = "the record of this grant's phone was damaged on this disk: no word of the phone can reach it"
            return TokenRefused("locked", detail, f"pair that phone again, then {reauth_action}")
        case "locked", reason:
            return TokenRefused("locked", f"the grant is locked: {reason}", reauth_action)
        case "needs_handoff", "person":
            return TokenRefused("reauth_required", f"the provider wants the person{said}", reauth_action)
        case "needs_handoff", _:
            detail = f"an answer of the provider was lost{said}; sending the token again could end other grants"
            return TokenRefused("reauth_required", detail, reauth_action)
        case "dead", "damaged":
            return TokenRefused("reauth_required", "the grant was damaged on this disk", reauth_action)
        case "dead", "denied":
            return TokenRefused("reauth_required", f"the provider has ended the grant{said}", reauth_action)
        case _, reason:
            return TokenRefused("reauth_required", f"the grant is over: {reason.replace('_', ' ')}", reauth_action)


def check_client(grant: Grant) -> str:
    """Return what a person does when the provider refuses the client."""
    own = "a client with a secret or key needs it in this device's config.toml too"
    return f"look at the app registration of client_id {grant.client_id} at the provider; {own}"


def allow_host(host: str) -> str:
    """Return what a person does where a grant's endpoint is on a host that nothing vouches for."""
    if host == NO_URL:
        return "the phone has named an address that is none; forget that phone if you do not know why"
    return (
        "if you know that this is your provider, set provider.hosts and reload the agent; "
        f"in config.toml, under [provider]: hosts = [{json.dumps(host)}]"
    )


def words_of(outcome: TokenOutcome) -> str:
    """Return what came, in the provider's own codes where it has any."""
    match outcome:
        case Refreshed(problem=problem):
            return problem
        case Denied():
            codes = " ".join(str(code) for code in outcome.codes)
            return " ".join(filter(None, (outcome.error, outcome.suberror, codes)))
        case Unavailable(reason=reason) | OutcomeUnknown(reason=reason):
            return reason
        case _:
            assert_never(outcome)


def problem_of(outcome: TokenOutcome) -> str:
    """Say in a sentence what a request came to that brought no token."""
    words = words_of(outcome)
    match outcome:
        case Refreshed():
            return f"the provider's answer has no usable access token: {words}"
        case Denied(kind="final"):
            return f"the provider has ended the grant: {words}"
        case Denied(kind="person"):
            return f"the provider wants the person: {words}"
        case Denied(kind="temporary"):
            return f"the provider refuses for now: {words}"
        case Denied():
            return f"the provider refuses this client: {words}"
        case Unavailable():
            return f"the provider cannot be reached: {words}"
        case OutcomeUnknown(came="page"):
            return f"no verdict from the provider: {words}"
        case OutcomeUnknown():
            return f"the provider's answer was lost: {words}"
        case _:
            assert_never(outcome)


class ProviderIds(TypedDict, total=False):
    """What the provider's support knows a request by."""

    trace_id: str
    correlation_id: str


def ids_of(outcome: TokenOutcome) -> ProviderIds:
    """Return the ids that came with a refusal; none where the provider gave none."""
    if isinstance(outcome, Denied | Unavailable):
        return {"trace_id": outcome.trace_id, "correlation_id": outcome.correlation_id}
    return {}


def event_of(outcome: TokenOutcome) -> tuple[str, str]:
    """Return the name and detail of the event that a refresh leaves."""
    words = words_of(outcome)
    match outcome:
        case Refreshed(note=note):
            return "refreshed", words or note
        case Denied(kind=kind):
            return "refresh_denied", f"{kind} {words}"
        case Unavailable():
            return "provider_unavailable", words
        case OutcomeUnknown(came="page"):
            return "refresh_page", words
        case OutcomeUnknown():
            return "refresh_answer_lost", words
        case _:
            assert_never(outcome)
