"""``/userinfo``: what the provider tells about the person of an access token. OpenID Connect Core §5.3."""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import JsonValue, Response, json_response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.tokens.issued import find_access, is_revoked
from token_relay.sandbox.provider.tokens.token_answer import subject


def userinfo(state: State, authorization: str, trace: Trace) -> Response:
    """Say which person the access token speaks for."""
    kind, _, value = authorization.partition(" ")
    entry = find_access(state, value.strip()) if kind.lower() == "bearer" else None
    family = state.families.get(entry.family_id) if entry is not None else None
    user = state.users.get(family.username) if family is not None else None
    is_dead = entry is None or family is None or is_revoked(state, entry, family)
    if is_dead or entry is None or family is None or user is None or trace.now >= entry.expires_at:
        refused = json_response({"error": "invalid_token", "error_description": "the access token is not valid"}, 401)
        return refused.with_headers(("WWW-Authenticate", 'Bearer error="invalid_token"'))
    body: dict[str, JsonValue] = {"sub": subject(state, user.username, family.client_id)}
    words = entry.scope.split()
    if "profile" in words:
        body |= {"name": user.name, "nickname": user.username.partition("@")[0]}
    if "email" in words:
        body |= {"email": user.username, "email_verified": True}
    return json_response(body)
