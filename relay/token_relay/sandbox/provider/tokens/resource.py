"""A protected resource: who an access token speaks for, or 401. RFC 6750 §3.

A token under continuous access evaluation is also refused once something has happened to the account. The answer then
names the remedy: a token issued later. A refresh gives one, unless the grant has ended too.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import Response, json_response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import AccessEntry, Family, State
from token_relay.sandbox.provider.tokens.claims import challenge_header
from token_relay.sandbox.provider.tokens.issued import live_access
from token_relay.sandbox.provider.tokens.token_answer import subject


def look_at_access_token(state: State, authorization: str, trace: Trace) -> Response:
    """Answer a request that shows this ``Authorization``."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() != "bearer" or not value:
        return json_response({"error": "missing_token"}, 401).with_headers(("WWW-Authenticate", "Bearer"))
    found = live_access(state, value.strip(), trace.now)
    if isinstance(found, str):
        return invalid_token(found)
    entry, family = found
    not_before = _called_back_at(state, entry, family)
    if not_before is not None:
        text = "the account has changed; a token issued since then is needed"
        refused = json_response({"error": "insufficient_claims", "error_description": text}, 401)
        state.note(
            "claims_challenge_sent",
            trace.now,
            trace_id=trace.trace_id,
            username=family.username,
            family=family.family_id,
        )
        return refused.with_headers(("WWW-Authenticate", challenge_header(state.urls.url("authorize"), not_before)))
    return json_response(
        {
            "sub": subject(state, family.username, family.client_id),
            "username": family.username,
            "client_id": family.client_id,
            "scope": entry.scope,
            "exp": entry.expires_at,
        }
    )


def invalid_token(text: str) -> Response:
    """Refuse an access token. RFC 6750 §3.1."""
    refused = json_response({"error": "invalid_token", "error_description": text}, 401)
    return refused.with_headers(("WWW-Authenticate", f'Bearer error="invalid_token", error_description="{text}"'))


def _called_back_at(state: State, entry: AccessEntry, family: Family) -> int | None:
    """Return the moment before which tokens of this account no longer count, or None while this one counts."""
    user = state.users.get(family.username)
    if not entry.is_cae or user is None or entry.born_at_seq > user.challenged_at_seq:
        return None
    return int(user.challenged_at)
