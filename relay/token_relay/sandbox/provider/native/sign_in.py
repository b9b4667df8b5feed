"""Native sign-in: initiate, challenge, token, as Microsoft Entra External ID offers them to apps.

The account decides the method, not the client; when the client does not support it, the answer is 200 with
``challenge_type`` = ``redirect``: go to the browser. A password may not be enough: then the token endpoint answers 400
``mfa_required`` or ``registration_required`` with the continuation token of the next step, or ``redirect`` for a client
that did not declare that capability. Whoever signed in with an e-mail code is not asked for a second one.

The order of the checks is not documented and so ours.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import Refusal, Response, json_response
from token_relay.sandbox.provider.memory.accounts import FirstFactor, User
from token_relay.sandbox.provider.memory.flow_states import (
    CodeSent,
    MfaCodeSent,
    MfaDue,
    MfaMethods,
    NativeFlow,
    PasswordAsked,
    Proven,
    RegistrationDue,
    UsernameGiven,
)
from token_relay.sandbox.provider.native.codes import send_code, take_code
from token_relay.sandbox.provider.native.flows import (
    Call,
    advance,
    asked_username,
    begin,
    count_code,
    declared,
    end,
    find,
    find_user,
    known_as,
    misplaced,
    oob_answer,
    redirect,
    with_types,
)
from token_relay.sandbox.provider.native.passwords import check_password
from token_relay.sandbox.provider.native.second_factor import challenge_method
from token_relay.sandbox.provider.tokens import conditional_access
from token_relay.sandbox.provider.tokens.audience import check_resources
from token_relay.sandbox.provider.tokens.claims import asked_claims
from token_relay.sandbox.provider.tokens.families import SignInRequest, asked_scope, sign_in

NATIVE_GRANTS = ("password", "oob", "mfa_oob", "continuation_token")


def initiate(call: Call) -> Response:
    """Begin a sign-in. Raises Refusal."""
    types = declared(call)
    username = known_as(call, asked_username(call.params))
    if username not in call.state.users:
        raise Refusal("user_not_found", "The user account does not exist in the directory.", code=50034)
    if types == ("redirect",):
        return redirect(call, "The client offers no challenge type but redirect.")
    token = begin(call, username, UsernameGiven())
    return json_response({"continuation_token": token})


def challenge(call: Call) -> Response:
    """Choose the account's method and, for a code, send it; or send a second-factor code. Raises Refusal."""
    flow = with_types(call, find(call))
    user = find_user(call, flow)
    match flow.stage:
        case UsernameGiven() | PasswordAsked() | CodeSent():
            return _challenge_first(call, flow, user)
        case MfaDue() | MfaMethods() | MfaCodeSent() as stage:
            return challenge_method(call, flow, user, stage)
        case _:
            raise misplaced()


def token(call: Call) -> Response:
    """End the sign-in: check what is to be proven and issue tokens, or name the next step. Raises Refusal."""
    flow = find(call)
    user = find_user(call, flow)
    match (call.params.get("grant_type"), flow.stage):
        case ("password", CodeSent()):
            raise Refusal("invalid_grant", "The user does not have a password.", code=500222)
        case ("password", PasswordAsked()):
            password = call.params.need("password", code=90100)
            _check_rest(call)
            problem = check_password(call.state, user, password, call.trace)
            if problem is not None:
                raise problem
            return _finish(call, flow, user, first="password")
        case ("oob", CodeSent(sent)):
            call.params.need("oob", code=90100)
            _check_rest(call)
            take_code(call.state, sent, call.params, call.trace, username=user.username)
            return _finish(call, flow, user, first="oob")
        case ("mfa_oob" | "oob", MfaCodeSent(first, _, sent)):  # older documentation has oob for both
            call.params.need("oob", code=90100)
            _check_rest(call)
            take_code(call.state, sent, call.params, call.trace, username=user.username)
            return _finish(call, flow, user, first=first, has_second_factor=True)
        case ("continuation_token", Proven(first, has_second_factor, needs_username)):
            _check_rest(call)
            if (needs_username or call.params.get("username")) and not _is_named(call, user):
                raise Refusal("invalid_grant", "The username is not that of the continuation token.", code=55200)
            return _finish(call, flow, user, first=first, has_second_factor=has_second_factor)
        case _:
            raise misplaced()


def _challenge_first(call: Call, flow: NativeFlow, user: User) -> Response:
    if user.method not in flow.challenge_types:
        return redirect(call, f"The account signs in by {user.method}, which the client does not offer.")
    if user.method == "password":
        token = advance(call, flow, PasswordAsked())
        return json_response({"continuation_token": token, "challenge_type": "password"})
    flow = count_code(call, flow)
    sent = send_code(call.state, user.username, call.trace, client_id=flow.client_id, username=user.username)
    return oob_answer(call, advance(call, flow, CodeSent(sent)), "email", user.username)


def _is_named(call: Call, user: User) -> bool:
    return known_as(call, asked_username(call.params)) == user.username


def _check_rest(call: Call) -> None:
    """Look at the other parameters before a proof is used up. Raises Refusal."""
    call.params.need("scope")
    check_resources(call.state, asked_scope(call.client, call.params))
    asked_claims(call.params)


def _finish(
    call: Call,
    flow: NativeFlow,
    user: User,
    *,
    first: FirstFactor,
    has_second_factor: bool = False,
) -> Response:
    """Issue tokens, unless a rule of the tenant or a missing second factor prevents it. Raises Refusal."""
    wanted = wanted_more(call, user, first=first, has_second_factor=has_second_factor)
    if wanted:
        return _ask_for_more(call, flow, user, wanted)
    return issue(call, user, first=first, has_second_factor=has_second_factor)


def wanted_more(call: Call, user: User, *, first: FirstFactor, has_second_factor: bool) -> str:
    """Return the capability that the rest of this sign-in takes, empty if nothing is missing. Raises Refusal."""
    problem = conditional_access.at_sign_in(call.state, user, method=first)
    if problem is not None:
        call.state.note(
            "sign_in_denied",
            call.trace.now,
            trace_id=call.trace.trace_id,
            username=user.username,
            reason=f"policy_{problem.code}",
        )
        raise problem
    if first == "password" and not has_second_factor and conditional_access.wants_second_factor(call.state, user):
        return "mfa_required" if user.methods else "registration_required"
    return ""


def issue(call: Call, user: User, *, first: FirstFactor, has_second_factor: bool) -> Response:
    """Use the request's token up and issue tokens. Raises Refusal."""
    scope = asked_scope(call.client, call.params)
    check_resources(call.state, scope)
    asked = SignInRequest(
        call.client.client_id,
        scope,
        first,
        has_second_factor=has_second_factor,
        claims=asked_claims(call.params),
    )
    end(call)
    return sign_in(call.state, user, call.trace, asked)[1]


def _ask_for_more(call: Call, flow: NativeFlow, user: User, wanted: str) -> Response:
    if wanted not in flow.capabilities:
        return redirect(call, f"The client does not declare the {wanted} capability.")
    if user.methods:
        text = "Strong authentication is required: use one of the registered methods."
        code, token = 50076, advance(call, flow, MfaDue("password"))
    else:
        text = "Strong authentication is required: register a method first."
        code, token = 50079, advance(call, flow, RegistrationDue("password"))
    call.state.note("more_required", call.trace.now, trace_id=call.trace.trace_id, username=user.username, what=wanted)
    raise Refusal("invalid_grant", text, code=code, suberror=wanted, more={"continuation_token": token})
