"""The token and revocation endpoints: which grant types a profile knows, and who carries them out."""

from __future__ import annotations

from relay.sandbox import browser, native, tokens
from relay.sandbox.refusals import Trace
from relay.sandbox.state import State
from relay.sandbox.values import Params, Refusal, Response, json_response

GRANT_TYPES = frozenset({"authorization_code", "refresh_token", "password", "oob"})  # that an event may name


def token(state: State, params: Params, trace: Trace) -> Response:
    """Answer a token request. Raises Refusal. RFC 6749 §3.2."""
    client = tokens.find_client(state, params)
    grant_type = params.need("grant_type")
    if grant_type == "refresh_token":
        return tokens.refresh(state, client, params, trace)
    if grant_type == "authorization_code":
        return browser.redeem(state, client, params, trace)
    if state.rules.is_native and grant_type in native.NATIVE_GRANTS:
        return native.token(state, client, params, trace)
    if state.rules.has_password_grant and grant_type == "password":
        return _password(state, params, trace)
    raise Refusal("unsupported_grant_type", "The grant type is not supported here.", code=70003)


def revoke(state: State, params: Params, trace: Trace) -> Response:
    """Answer a revocation request. Raises Refusal. RFC 7009."""
    return tokens.revoke(state, tokens.find_client(state, params), params, trace)


def initiate(state: State, params: Params, trace: Trace) -> Response:
    """Answer the first call of a native sign-in. Raises Refusal."""
    return native.initiate(state, tokens.find_client(state, params), params, trace)


def challenge(state: State, params: Params, trace: Trace) -> Response:
    """Answer the second call of a native sign-in. Raises Refusal."""
    return native.challenge(state, tokens.find_client(state, params), params, trace)


def _password(state: State, params: Params, trace: Trace) -> Response:
    """Carry out ``grant_type=password``; people who sign in by code cannot use it. RFC 6749 §4.3."""
    client = tokens.find_client(state, params)
    user = state.users.get(params.need("username").lower())
    password = params.need("password")
    scope, audience = tokens.asked_scope(client, params), tokens.asked_audience(params)
    if user is None or user.password is None or native.check_password(state, user, password, trace) is not None:
        raise Refusal("invalid_grant", "Wrong email or password.")
    return tokens.sign_in(
        state, user, trace, client_id=client.client_id, scope=scope, method="password", audience=audience
    )[1]


def not_found() -> Response:
    """Answer for a path where nothing is."""
    return json_response({"error": "not_found", "error_description": "nothing is at this path in this profile"}, 404)
