"""The token and revocation endpoints: which grant types a profile knows, and who carries them out."""

from __future__ import annotations

from collections.abc import Callable

from relay.sandbox import browser, password_reset, registration, second_factor, sign_in, sign_up, tokens
from relay.sandbox.flows import Call, check_native
from relay.sandbox.passwords import check_password
from relay.sandbox.refusals import Trace
from relay.sandbox.state import State
from relay.sandbox.values import Params, Refusal, Response
from relay.sandbox.world import EndpointName

GRANT_TYPES = frozenset(  # that an event may name
    {"authorization_code", "refresh_token", "password", "oob", "mfa_oob", "continuation_token", "attributes"}
)


def token(state: State, params: Params, trace: Trace) -> Response:
    """Answer a token request. Raises Refusal. RFC 6749 §3.2."""
    client = tokens.find_client(state, params)
    grant_type = params.need("grant_type")
    if grant_type == "refresh_token":
        return tokens.refresh(state, client, params, trace)
    if grant_type == "authorization_code":
        return browser.redeem(state, client, params, trace)
    if state.rules.is_native and grant_type in sign_in.NATIVE_GRANTS:
        check_native(client)
        return sign_in.token(Call(state, client, params, trace))
    if state.rules.has_password_grant and grant_type == "password":
        return _password(state, params, trace)
    raise Refusal("unsupported_grant_type", "The grant type is not supported here.", code=70003)


def revoke(state: State, params: Params, trace: Trace) -> Response:
    """Answer a revocation request. Raises Refusal. RFC 7009."""
    return tokens.revoke(state, tokens.find_client(state, params), params, trace)


def _password(state: State, params: Params, trace: Trace) -> Response:
    """Carry out ``grant_type=password``; people who sign in by code cannot use it. RFC 6749 §4.3."""
    client = tokens.find_client(state, params)
    user = state.users.get(params.need("username").lower())
    password = params.need("password")
    scope, audience = tokens.asked_scope(client, params), tokens.asked_audience(params)
    if user is None or user.password is None or check_password(state, user, password, trace) is not None:
        raise Refusal("invalid_grant", "Wrong email or password.")
    return tokens.sign_in(
        state, user, trace, client_id=client.client_id, scope=scope, method="password", audience=audience
    )[1]


def form(endpoint: EndpointName, state: State, params: Params, trace: Trace) -> Response:
    """Answer a form posted to this endpoint. Raises Refusal."""
    if endpoint == "token":
        return token(state, params, trace)
    if endpoint == "revoke":
        return revoke(state, params, trace)
    client = tokens.find_client(state, params)
    check_native(client)
    return NATIVE[endpoint](Call(state, client, params, trace))


NATIVE: dict[EndpointName, Callable[[Call], Response]] = {
    "initiate": sign_in.initiate,
    "challenge": sign_in.challenge,
    "introspect": second_factor.introspect,
    "register_introspect": registration.introspect,
    "register_challenge": registration.challenge,
    "register_continue": registration.continue_,
    "signup_start": sign_up.start,
    "signup_challenge": sign_up.challenge,
    "signup_continue": sign_up.continue_,
    "resetpassword_start": password_reset.start,
    "resetpassword_challenge": password_reset.challenge,
    "resetpassword_continue": password_reset.continue_,
    "resetpassword_submit": password_reset.submit,
    "resetpassword_poll_completion": password_reset.poll_completion,
}
