"""The token and revocation endpoints: which grant types a profile knows, and which function carries out each."""

from __future__ import annotations

from collections.abc import Callable

from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal, Response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.native import password_reset, registration, second_factor, sign_in, sign_up, version_2
from token_relay.sandbox.provider.native.flows import Call, check_native
from token_relay.sandbox.provider.native.passwords import check_password
from token_relay.sandbox.provider.tokens import delegation, families
from token_relay.sandbox.provider.tokens.actions import ask, denial
from token_relay.sandbox.provider.tokens.management_token import management_token
from token_relay.sandbox.provider.tokens.refresh import refresh
from token_relay.sandbox.provider.web import browser, device_code, second_step
from token_relay.sandbox.provider.web.session_login import BLOCKED
from token_relay.sandbox.provider.world.auth0_clients import CONNECTION, PASSWORD_REALM
from token_relay.sandbox.provider.world.model import ClientModel, EndpointName

GRANT_TYPES = frozenset(  # the names that an event may hold
    {
        "authorization_code",
        "refresh_token",
        "password",
        "oob",
        "mfa_oob",
        "continuation_token",
        "attributes",
        "client_credentials",
        PASSWORD_REALM,
        delegation.GRANT_TYPE,
        device_code.GRANT_TYPE,
    }
)


def token(state: State, params: Params, trace: Trace) -> Response:
    """Answer a token request. Raises Refusal. RFC 6749 §3.2."""
    client = families.find_client(state, params)
    if state.rules.is_native and not client.is_confidential and _proves_itself(params):
        text = "Client is public so neither 'client_assertion' nor 'client_secret' should be presented."
        raise Refusal("invalid_client", text, code=700025)
    grant_type = params.need("grant_type")
    _check_grant_type(state, client, grant_type)
    if grant_type == "refresh_token":
        return refresh(state, client, params, trace)
    if grant_type == "authorization_code" and version_2.is_code(params.get("code")):
        return version_2.redeem(Call(state, client, params, trace, version=2))
    if grant_type == "authorization_code":
        return browser.redeem(state, client, params, trace)
    if state.rules.is_native and grant_type in sign_in.NATIVE_GRANTS:
        check_native(client)
        return sign_in.token(Call(state, client, params, trace))
    if state.rules.is_managed and grant_type == PASSWORD_REALM:
        if params.need("realm") != CONNECTION:
            raise Refusal("invalid_request", "There is no such connection.")
        return _password(state, client, params, trace)
    if state.rules.has_password_grant and grant_type == "password":
        return _password(state, client, params, trace)
    if state.rules.is_managed and grant_type == "client_credentials":
        return management_token(state, client, params, trace)
    if state.rules.is_managed and grant_type == delegation.GRANT_TYPE:
        return delegation.exchange(state, client, params, trace)
    if state.rules.is_managed and grant_type == device_code.GRANT_TYPE:
        return device_code.redeem(state, client, params, trace)
    raise Refusal("unsupported_grant_type", "The grant type is not supported here.", code=70003)


def _proves_itself(params: Params) -> bool:
    return any(params.get(name) for name in ("client_secret", "client_assertion"))


def _check_grant_type(state: State, client: ClientModel, grant_type: str) -> None:
    """Refuse a grant type that the client does not have. Raises Refusal.

    No setting of a client names session delegation's; unknown ones are refused as such.
    """
    is_open = client.grant_types is None and not (state.rules.is_managed and state.keeps("grant-types"))
    if is_open or grant_type not in GRANT_TYPES - {delegation.GRANT_TYPE}:
        return
    if grant_type not in client.allowed_grant_types:
        raise families.grant_type_refused(grant_type)


def revoke(state: State, params: Params, trace: Trace) -> Response:
    """Answer a revocation request. Raises Refusal. RFC 7009."""
    return families.revoke(state, families.find_client(state, params), params, trace)


def _password(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Carry out ``grant_type=password``; people who sign in by code cannot use it. RFC 6749 §4.3."""
    user = state.users.get(params.need("username").lower())
    password = params.need("password")
    scope, audience = families.asked_scope(client, params), families.asked_audience(params)
    if user is None or user.password is None or check_password(state, user, password, trace) is not None:
        state.log("fepft", trace, client_id=client.client_id, description="Wrong email or password.")
        raise Refusal("invalid_grant", "Wrong email or password.")
    if user.is_disabled:
        state.log("fepft", trace, client_id=client.client_id, username=user.username, description=BLOCKED)
        raise Refusal("unauthorized", BLOCKED, status=403)
    if second_step.is_needed(state, user):
        text = "Multifactor authentication required"
        state.log("fepft", trace, client_id=client.client_id, username=user.username, description=text)
        raise Refusal("mfa_required", text, status=403, more={"mfa_token": state.token("mt")})
    verdict = ask(state, trace, client=client, user=user, protocol="oauth2-password", scope=scope)
    problem = denial(verdict)
    if problem:
        failure: dict[str, JsonValue] = {"action_failure": verdict.failure} if verdict.failure else {}
        name = client.client_id
        state.log("fepft", trace, client_id=name, username=user.username, description=problem, details=failure)
        raise Refusal("access_denied", problem, status=403)
    state.log("sepft", trace, client_id=client.client_id, username=user.username, scope=" ".join(scope))
    return families.sign_in(
        state,
        user,
        trace,
        families.SignInRequest(client.client_id, scope, "password", audience),
        commands=verdict.commands,
    )[1]


def form(endpoint: EndpointName, state: State, params: Params, trace: Trace) -> Response:
    """Answer a form posted to this endpoint. Raises Refusal."""
    if endpoint == "token":
        return token(state, params, trace)
    if endpoint == "revoke":
        return revoke(state, params, trace)
    if endpoint == "device_code":
        client = families.find_client(state, params)
        _check_grant_type(state, client, device_code.GRANT_TYPE)
        return device_code.begin(state, client, params, trace)
    client = families.find_client(state, params)
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
