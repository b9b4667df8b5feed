"""Sign-in on a device without a keyboard: a code to type in elsewhere. RFC 8628.

The device asks at ``/oauth/device/code`` and polls the token endpoint; the person opens ``/activate``, signs in (or is
signed in already), and accepts the code that device and browser both show. The refresh token is an offline one:
``online_access`` has no effect here. A device that a transferred session approved depends on that session's parent,
as any grant born there does. A device that must wait reads 403, or 429 if it asks too often, as at Auth0; RFC 8628 says
400.
"""

from __future__ import annotations

from dataclasses import dataclass

from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal, Response, html_response, json_response
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Authorization, DeviceCode, Session, State, digest, remember
from token_relay.sandbox.provider.tokens.families import SignInRequest, asked_audience, asked_scope, sign_in
from token_relay.sandbox.provider.tokens.sessions import granted_scope
from token_relay.sandbox.provider.web import consent
from token_relay.sandbox.provider.web.pages import activation_page, error_page, page
from token_relay.sandbox.provider.web.session_login import Visit
from token_relay.sandbox.provider.world.model import ClientModel

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
PROTOCOL = "oauth2-device-code"
LIFETIME_S = 900.0
INTERVAL_S = 5.0  # §3.2
SLOWER_S = 5.0  # §3.5
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # §6.1: no vowels, so no words


@dataclass(frozen=True, slots=True)
class _Denied:
    error: str
    description: str
    is_final: bool = True


def begin(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Answer a device that wants to be signed in. Raises Refusal."""
    scope, audience = asked_scope(client, params), asked_audience(params)
    value = state.token("dc")
    letters = "".join(_LETTERS[state.rng.randrange(len(_LETTERS))] for _ in range(8))
    user_code = f"{letters[:4]}-{letters[4:]}"
    waiting = DeviceCode(client.client_id, scope, audience, trace.now + LIFETIME_S, INTERVAL_S)
    remember(state.devices, digest(value), waiting)
    remember(state.user_codes, user_code, digest(value))
    address = f"{state.urls.base_url}/activate"
    body: dict[str, JsonValue] = {
        "device_code": value,
        "user_code": user_code,
        "verification_uri": address,
        "verification_uri_complete": f"{address}?user_code={user_code}",
        "expires_in": int(LIFETIME_S),
        "interval": int(INTERVAL_S),
    }
    return json_response(body)


def authorization_of(state: State, params: Params, trace: Trace) -> Authorization | Response:
    """Return the authorization that a typed-in code stands for, or the page that asks for the code."""
    user_code = params.get("user_code").strip().upper()
    if not user_code:
        return activation_page("")
    if len(user_code) == 8:
        user_code = f"{user_code[:4]}-{user_code[4:]}"
    device = state.devices.get(state.user_codes.get(user_code, ""))
    if device is None or device.outcome or trace.now >= device.expires_at:
        return activation_page("This code is not known, was used, or is too old.")
    return Authorization(
        client_id=device.client_id,
        redirect_uri="",
        scope=device.scope,
        audience=device.audience,
        state="",
        nonce="",
        code_challenge="",
        expires_at=trace.now + LIFETIME_S,
        protocol=PROTOCOL,
        device=user_code,
    )


def finish(visit: Visit, user: User, session: Session) -> Response:
    """Ask a signed-in person whether to sign in on the device that shows this code."""
    if session.is_delegated:
        return error_page("Somebody who acts for another person cannot sign a device in.")
    question = f"Sign in on the device that shows {visit.authorization.device}?"
    return consent.ask(visit.state, visit.client, visit.authorization, session, question)


def decide(state: State, authorization: Authorization, session: Session, *, is_yes: bool) -> Response:
    """Take the person's answer."""
    device = state.devices.get(state.user_codes.pop(authorization.device, ""))
    if device is None or device.outcome:
        return error_page("This code was used before.")
    device.outcome = "approved" if is_yes else "denied"
    device.username, device.session_id = authorization.username, session.session_id
    device.is_transferred = session.parent_family_id != ""
    device.commands = authorization.commands
    text = "You are signed in on your device." if is_yes else "Your device was not signed in."
    return html_response(page("Your device", f"<p>{text}</p>"))


def redeem(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Carry out the grant: the device polls until there is an answer. Raises Refusal."""
    name = digest(params.need("device_code"))
    device = state.devices.get(name)
    user = state.users.get(device.username) if device is not None else None
    session = state.sessions.get(device.session_id) if device is not None else None
    if session is not None and not session.is_alive(trace.now):
        session = None
    denied = _problem(client, device, user, session, trace)
    if device is None or user is None or denied is not None:
        denied = denied or _Denied("invalid_grant", "The device code is not valid.")
        if denied.error != "authorization_pending" and denied.is_final:
            state.devices.pop(name, None)
            state.log("fede", trace, client_id=client.client_id, description=denied.description)
        raise Refusal(denied.error, denied.description, status=429 if denied.error == "slow_down" else 403)
    del state.devices[name]
    scope = granted_scope(state, client, session, device.scope)
    family, response = sign_in(
        state,
        user,
        trace,
        SignInRequest(
            client.client_id, tuple(word for word in scope if word != "online_access"), user.method, device.audience
        ),
        session=session if device.is_transferred else None,
        commands=device.commands,
    )
    state.log(
        "sede",
        trace,
        client_id=client.client_id,
        username=user.username,
        scope=" ".join(scope),
        details={"familyId": family.family_id},
    )
    return response


def _problem(
    client: ClientModel, device: DeviceCode | None, user: User | None, session: Session | None, trace: Trace
) -> _Denied | None:
    """Return why there are no tokens, or not yet; None if there are. RFC 8628 §3.5."""
    if device is None or device.client_id != client.client_id:
        return _Denied("invalid_grant", "The device code is not valid.", is_final=device is None)
    if trace.now >= device.expires_at:
        return _Denied("expired_token", "The device code has expired.")
    if device.outcome == "denied":
        return _Denied("access_denied", "The person has said no.")
    if device.outcome and (user is None or user.is_disabled or (device.is_transferred and session is None)):
        return _Denied("access_denied", "The session that approved the device has ended.")
    if device.outcome:
        return None
    too_soon = device.polled_at is not None and trace.now - device.polled_at < device.interval_s
    device.polled_at = trace.now
    if too_soon:
        device.interval_s += SLOWER_S
        return _Denied("slow_down", "The device asks too often.", is_final=False)
    return _Denied("authorization_pending", "Nobody has answered yet.", is_final=False)
