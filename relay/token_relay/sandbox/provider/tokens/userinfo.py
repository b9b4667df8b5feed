"""``/userinfo``: what the provider tells about the person of an access token. OpenID Connect Core §5.3.

It takes only tokens that were granted ``openid``, and of the signed ones only those whose ``aud`` lists it. Ours: the
text of the refusal; of an opaque token without ``openid`` Auth0's support tells of 200 with an empty object.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import JsonValue, Response, json_response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.tokens.issued import find_access, is_revoked
from token_relay.sandbox.provider.tokens.person_claims import person_claims
from token_relay.sandbox.provider.tokens.token_answer import subject


def userinfo(state: State, authorization: str, trace: Trace) -> Response:
    """Say which person the access token speaks for."""
    kind, _, value = authorization.partition(" ")
    entry = find_access(state, value.strip()) if kind.lower() == "bearer" else None
    family = state.families.get(entry.family_id) if entry is not None else None
    user = state.users.get(family.username) if family is not None else None
    is_dead = entry is None or family is None or is_revoked(state, entry, family)
    if is_dead or entry is None or family is None or user is None or trace.now >= entry.expires_at:
        return _refused("the access token is not valid")
    words = entry.scope.split()
    if state.keeps("userinfo-openid"):
        if "openid" not in words:
            return _refused("the access token was not granted openid")
        if state.keeps("audience") and not entry.is_for_userinfo:
            return _refused("the access token is not for /userinfo")
    body: dict[str, JsonValue] = {"sub": subject(state, user.username, family.client_id)}
    return json_response(body | person_claims(state.urls.profile, family, user, words))


def _refused(text: str) -> Response:
    refused = json_response({"error": "invalid_token", "error_description": text}, 401)
    return refused.with_headers(("WWW-Authenticate", f'Bearer error="invalid_token", error_description="{text}"'))
