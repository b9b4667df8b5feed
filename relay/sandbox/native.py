"""Native authentication: initiate, challenge, token, as Microsoft Entra External ID offers them to apps.

A sign-in is one :class:`Flow`, found by its continuation token. A step that succeeds gives a new token and makes the
old one useless; a step that fails changes nothing, so the same token may try again: a wrong code or password does
not send the person back to the start. A repeated challenge is the resend: new token, new code, the older code void.
Tries are bounded per code, codes per flow, wrong passwords per account.

The account decides the method, not the client; when the client cannot do it, the answer is 200 with
``challenge_type`` = ``redirect``: go to the browser. What is not documented and so our choice: the codes 50181 and
7000218, all lifetimes, and that a used-up or expired code is answered like a wrong one.
"""

from __future__ import annotations

from relay.sandbox.refusals import Trace
from relay.sandbox.state import Flow, SentCode, State, User, digest, remember
from relay.sandbox.tokens import asked_scope, sign_in
from relay.sandbox.values import Params, Refusal, Response, json_response
from relay.sandbox.world import ClientModel
from relay.secret import Code, Password

CHALLENGE_TYPES = frozenset({"password", "oob", "redirect"})
CHALLENGES_MAX = 10  # codes sent in one flow; more is somebody who guesses, or a loop
USERNAME_CHARS_MAX = 254
PASSWORD_CHARS_MAX = 256
NATIVE_GRANTS = ("password", "oob")


def initiate(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Begin a sign-in. Raises Refusal."""
    _check_native(client)
    types = _challenge_types(params)
    username = params.get("username").lower()
    if not username or len(username) > USERNAME_CHARS_MAX or not username.isprintable() or " " in username:
        raise Refusal("invalid_request", "username parameter is empty or not valid.", code=90100)
    if username not in state.users:
        raise Refusal("user_not_found", "The user account does not exist in the directory.", code=50034)
    if types == ("redirect",):
        return _redirect("The client offers no challenge type but redirect.")
    flow = Flow(client.client_id, username, types, trace.now + state.policy.continuation_lifetime_s)
    return json_response({"continuation_token": _keep(state, flow)})


def challenge(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Choose the account's method and, for ``oob``, send a code. Raises Refusal."""
    _check_native(client)
    token, flow, user = _find(state, client, params, trace)
    types = _challenge_types(params) if params.get("challenge_type") else flow.challenge_types
    if user.method not in types:
        return _redirect(f"The account signs in by {user.method}, which the client does not offer.")
    if flow.challenges >= CHALLENGES_MAX:
        del state.flows[digest(token)]
        raise Refusal("expired_token", "Too many codes were sent; start again.", code=552003)
    del state.flows[digest(token)]
    flow.challenges += 1
    flow.method = user.method
    if user.method == "password":
        return json_response({"continuation_token": _keep(state, flow), "challenge_type": "password"})
    flow.sent = send_code(state, user, client.client_id, trace)
    return json_response(
        {
            "continuation_token": _keep(state, flow),
            "challenge_type": "oob",
            "binding_method": "prompt",
            "challenge_channel": "email",
            "challenge_target_label": masked(user.username),
            "code_length": state.policy.code_length,
            "interval": 300,
        }
    )


def token(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """End the sign-in: check the password or code and issue tokens. Raises Refusal."""
    _check_native(client)
    continuation_token, flow, user = _find(state, client, params, trace)
    if flow.method is None:
        raise Refusal("invalid_grant", "The continuation token is not valid for this step.", code=55200)
    grant_type = params.get("grant_type")
    if grant_type == "password" and user.password is None:
        raise Refusal("invalid_grant", "The user does not have a password.", code=500222)
    if grant_type != flow.method:
        raise Refusal("invalid_grant", "The continuation token is not valid for this grant.", code=55200)
    credential = params.need("password" if grant_type == "password" else "oob", code=90100)
    params.need("scope")
    scope = asked_scope(client, params)
    if grant_type == "password":
        problem = check_password(state, user, credential, trace)
        if problem is not None:
            raise problem
    elif flow.sent is None or not check_code(flow.sent, credential, trace.now):
        state.note("sign_in_denied", trace.now, trace_id=trace.trace_id, username=user.username, reason="code")
        text = "The one-time code is not valid, was replaced, has expired, or was tried too often."
        raise Refusal("invalid_grant", text, code=50181, suberror="invalid_oob_value")
    else:
        state.take_code(user.username, flow.sent)
    del state.flows[digest(continuation_token)]
    return sign_in(state, user, trace, client_id=client.client_id, scope=scope, method=flow.method)[1]


def check_password(state: State, user: User, password: str, trace: Trace) -> Refusal | None:
    """Return None when it is right. Ten wrong ones in a row lock the account's password for a minute."""
    if trace.now < user.locked_until:
        return Refusal("invalid_grant", "The account is locked for the moment: too many attempts.", code=50053)
    is_right = len(password) <= PASSWORD_CHARS_MAX and user.password == Password(password)
    if is_right:
        user.wrong_passwords = 0
        return None
    user.wrong_passwords += 1
    state.note("sign_in_denied", trace.now, trace_id=trace.trace_id, username=user.username, reason="password")
    if user.wrong_passwords >= state.policy.password_tries_max:
        user.wrong_passwords = 0
        user.locked_until = trace.now + state.policy.lockout_s
    return Refusal("invalid_grant", "Error validating credentials: invalid username or password.", code=50126)


def check_code(sent: SentCode, code: str, now: float) -> bool:
    """Return whether this is the code that was sent; each wrong one costs a try."""
    if sent.tries_left <= 0 or now >= sent.expires_at:
        return False
    if sent.code == Code(code):
        sent.tries_left = 0  # a code works once
        return True
    sent.tries_left -= 1
    return False


def send_code(state: State, user: User, client_id: str, trace: Trace) -> SentCode:
    """Send a fresh code to the person's mailbox."""
    sent = state.send_code(user.username, trace.now)
    state.note("code_sent", trace.now, trace_id=trace.trace_id, username=user.username, client_id=client_id)
    return sent


def masked(address: str) -> str:
    """Show as much of an address as its owner needs: ``o***p@co***.example``."""
    local, _, domain = address.partition("@")
    if not domain:
        return f"{address[:1]}***"
    host, dot, rest = domain.partition(".")
    return f"{local[:1]}***{local[-1:]}@{host[:2]}***{dot}{rest}"


def _check_native(client: ClientModel) -> None:
    if not client.native_auth:
        text = "Native authentication is not enabled for this application."
        raise Refusal("invalid_client", text, code=7000218, suberror="nativeauthapi_disabled", status=401)


def _challenge_types(params: Params) -> tuple[str, ...]:
    types = params.words("challenge_type")
    if not types:
        raise Refusal("invalid_request", "challenge_type parameter is empty or not valid.", code=90100)
    if not CHALLENGE_TYPES.issuperset(types):
        text = "The challenge_type list parameter contains an unsupported challenge type."
        raise Refusal("invalid_request", text, code=901007)
    if "redirect" not in types:
        text = "The challenge_type list parameter does not include the 'redirect' challenge type."
        raise Refusal("unsupported_challenge_type", text, code=901007)
    return tuple(dict.fromkeys(types))


def _find(state: State, client: ClientModel, params: Params, trace: Trace) -> tuple[str, Flow, User]:
    value = params.need("continuation_token", code=90100)
    flow = state.flows.get(digest(value))
    if flow is None or flow.client_id != client.client_id:
        raise Refusal("invalid_grant", "The continuation token is not valid.", code=55200)
    if trace.now >= flow.expires_at:
        raise Refusal("expired_token", "The continuation token has expired; start again.", code=552003)
    user = state.users.get(flow.username)
    if user is None:
        raise Refusal("invalid_grant", "The user account does not exist in the directory.", code=50034)
    return value, flow, user


def _keep(state: State, flow: Flow) -> str:
    value = state.token("ct")
    remember(state.flows, digest(value), flow)
    return value


def _redirect(reason: str) -> Response:
    return json_response({"challenge_type": "redirect", "redirect_reason": reason})
