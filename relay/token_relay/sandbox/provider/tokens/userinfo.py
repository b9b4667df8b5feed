"""``/userinfo``: what the provider tells about the person of an access token. OpenID Connect Core §5.3.

It takes only tokens that were granted ``openid``, and of the signed ones only those whose ``aud`` lists it. Ours: the
text of the refusal; of an opaque token without ``openid`` Auth0's support tells of 200 with an empty object.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import JsonValue, Response, json_response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.tokens.issued import live_access
from token_relay.sandbox.provider.tokens.person_claims import person_claims
from token_relay.sandbox.provider.tokens.resource import invalid_token
from token_relay.sandbox.provider.tokens.token_answer import subject


def userinfo(state: State, authorization: str, trace: Trace) -> Response:
    """Say which person the access token speaks for."""
    kind, _, value = authorization.partition(" ")
    found = live_access(state, value.strip(), trace.now) if kind.lower() == "bearer" else ""
    user = None if isinstance(found, str) else state.users.get(found[1].username)
    if isinstance(found, str) or user is None:
        return invalid_token("the access token is not valid")
    entry, family = found
    words = entry.scope.split()
    if state.keeps("userinfo-openid"):
        if "openid" not in words:
            return invalid_token("the access token was not granted openid")
        if state.keeps("audience") and not entry.is_for_userinfo:
            return invalid_token("the access token is not for /userinfo")
    body: dict[str, JsonValue] = {"sub": subject(state, user.username, family.client_id)}
    return json_response(body | person_claims(state.urls.profile, family, user, words))
