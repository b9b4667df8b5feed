"""What a program that asks, and the audit, are told of a grant and of a request's outcome. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from token_relay.agents.grants.serving import Refresh, Serve, expires_at, look
from token_relay.agents.ports import Now, Transaction
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable


@dataclass(frozen=True, slots=True)
class ToRefresh:
    """The grant that answers a question must be refreshed first; ``fallback`` is a token that still works."""

    grant: Grant
    fallback: CachedToken | None


def decide(
    tx: Transaction, query: TokenQuery, now: Now, reauth_action: str
) -> tuple[Grant | None, TokenGranted | TokenRefused | ToRefresh]:
    """Return the grant that answers a question, and the answer, or that it must be refreshed first."""
    grant, decision = look(tx, query, now)
    if grant is None:
        return None, TokenRefused("not_found", "no grant here fits this account, audience and scope", reauth_action)
    match decision:
        case Serve(token):
            return grant, granted(grant, token, now)
        case Refresh(fallback):
            return grant, ToRefresh(grant, fallback)
        case "refuse":
            return grant, refusal(grant, reauth_action)


def granted(grant: Grant, token: CachedToken, now: Now) -> TokenGranted:
    """Return a cached access token as a program gets it."""
    assert token.access_token is not None
    return TokenGranted(token.access_token, token.token_type, expires_at(token, now), token.granted_scope, grant.issuer)


def refusal(grant: Grant, reauth_action: str) -> TokenRefused:
    """Say why a grant that is not usable gives nothing, and what would change it."""
    why = f"{grant.state.replace('_', ' ')}: {grant.reason}" if grant.reason else grant.state
    if grant.state == "locked" and grant.reason == "lease":
        return TokenRefused("locked", "the lease is over: no word from the phone", "bring the phone online")
    if grant.state == "locked" and grant.reason == "configuration":
        return TokenRefused("reauth_required", "the provider refuses this client; see events", "check client_id")
    if grant.state == "locked":
        return TokenRefused("locked", f"the grant is {why}", reauth_action)
    return TokenRefused("reauth_required", f"the grant is {why}", reauth_action)


def event_of(outcome: TokenOutcome) -> tuple[str, str]:
    """Return the name and detail of the event that a refresh leaves."""
    match outcome:
        case Refreshed(problem=problem):
            return "refreshed", problem
        case Denied():
            codes = " ".join(str(code) for code in outcome.codes)
            return "refresh_denied", " ".join(filter(None, (outcome.kind, outcome.error, outcome.suberror, codes)))
        case Unavailable(reason=reason):
            return "provider_unavailable", reason
        case OutcomeUnknown(reason=reason):
            return "refresh_answer_lost", reason
