"""Self-service password reset, for accounts with a password: a code, a new password, and asking whether it is done.

The password is in force as soon as ``submit`` has answered; ``poll_completion`` only says for ``reset_duration_s`` that
it is not settled yet, so that clients can be tested for waiting. With ``reset_outcome`` = ``failed`` nothing is changed
and the person may submit again. A reset ends what was signed in by password.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import Refusal, Response, json_response
from token_relay.sandbox.provider.memory.flow_states import (
    Proven,
    ResetBegun,
    ResetCodeSent,
    ResetProven,
    ResetSubmitted,
)
from token_relay.sandbox.provider.native.codes import send_code, take_code
from token_relay.sandbox.provider.native.flows import (
    Call,
    advance,
    asked_username,
    begin,
    count_code,
    declared,
    find,
    find_user,
    misplaced,
    oob_answer,
    redirect,
    with_types,
)
from token_relay.sandbox.provider.native.passwords import check_new_password
from token_relay.sandbox.provider.tokens.families import revoke_user

PROVEN_S_MAX = 600  # ``expires_in`` of continue: the one lifetime that is documented
_ERROR = "invalid_request"  # these endpoints' error code for a bad continuation token


def start(call: Call) -> Response:
    """Begin a reset. Raises Refusal."""
    types = declared(call)
    username = asked_username(call.params)
    user = call.state.users.get(username)
    if user is None:
        raise Refusal("user_not_found", "The user account does not exist in the directory.", code=50034)
    if user.password is None:
        raise Refusal("invalid_request", "The user does not have a password.", code=500222)
    if "oob" not in types:
        return redirect(call, "A reset takes oob, which the client does not offer.")
    return json_response({"continuation_token": begin(call, username, ResetBegun())})


def challenge(call: Call) -> Response:
    """Send a code to the account's address. Raises Refusal."""
    flow = with_types(call, find(call, error=_ERROR))
    user = find_user(call, flow, error=_ERROR)
    match flow.stage:
        case ResetBegun() | ResetCodeSent():
            pass
        case _:
            raise misplaced(_ERROR)
    if "oob" not in flow.challenge_types:
        return redirect(call, "A reset takes oob, which the client does not offer.")
    flow = count_code(call, flow)
    sent = send_code(call.state, user.username, call.trace, client_id=call.client.client_id, username=user.username)
    return oob_answer(call, advance(call, flow, ResetCodeSent(sent)), "email", user.username)


def continue_(call: Call) -> Response:
    """Check the code. Raises Refusal."""
    flow = find(call, error=_ERROR)
    user = find_user(call, flow, error=_ERROR)
    match (call.params.need("grant_type"), flow.stage):
        case ("oob", ResetCodeSent(sent)):
            if not call.state.policy.self_service_reset:
                raise Refusal(_ERROR, "Self-service password reset is not enabled in this tenant.", code=55200)
            take_code(call.state, sent, call.params, call.trace, username=user.username)
        case _:
            raise misplaced(_ERROR)
    lasts_s = min(PROVEN_S_MAX, max(1, int(call.state.policy.continuation_lifetime_s)))
    token = advance(call, flow, ResetProven(), lifetime_s=lasts_s)
    return json_response({"expires_in": lasts_s, "continuation_token": token})


def submit(call: Call) -> Response:
    """Take the new password. Raises Refusal."""
    flow = find(call, error=_ERROR)
    user = find_user(call, flow, error=_ERROR)
    match flow.stage:
        case ResetProven():
            pass
        case _:
            raise misplaced(_ERROR)
    password = check_new_password(call.state.policy, call.params.need("new_password", code=90100), user)
    has_failed = call.state.policy.reset_outcome == "failed"
    if not has_failed:
        user.set_password(password)
        call.state.note("password_reset", call.trace.now, trace_id=call.trace.trace_id, username=user.username)
        revoke_user(call.state, user.username, call.trace, event="password_changed")
    stage = ResetSubmitted(call.trace.now, call.trace.now + call.state.policy.reset_duration_s, has_failed)
    lasts_s = call.state.policy.reset_duration_s + call.state.policy.continuation_lifetime_s
    token = advance(call, flow, stage, lifetime_s=lasts_s)
    return json_response({"continuation_token": token, "poll_interval": call.state.policy.poll_interval_s})


def poll_completion(call: Call) -> Response:
    """Say how far it is. Until it is settled the same token may ask again. Raises Refusal."""
    flow = find(call, error=_ERROR)
    find_user(call, flow, error=_ERROR)
    match flow.stage:
        case ResetSubmitted(submitted_at, done_at, has_failed):
            if call.trace.now < done_at:
                return json_response({"status": "not_started" if call.trace.now <= submitted_at else "in_progress"})
            after = ResetProven() if has_failed else Proven("password", has_second_factor=False, needs_username=True)
            token = advance(call, flow, after)
            return json_response({"status": "failed" if has_failed else "succeeded", "continuation_token": token})
        case _:
            raise misplaced(_ERROR)
