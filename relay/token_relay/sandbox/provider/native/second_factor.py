"""The second factor: which methods a person has, and a code to one of them.

The first factor is proven before any of this; a continuation token from anywhere else is refused. Without ``id`` the
only method is taken; where there are several and they have not been listed, the answer is ``introspect_required``.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import JsonValue, Refusal, Response, json_response
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.flow_states import MfaCodeSent, MfaDue, MfaMethods, NativeFlow
from token_relay.sandbox.provider.native.codes import send_code
from token_relay.sandbox.provider.native.flows import (
    Call,
    advance,
    count_code,
    find,
    find_user,
    misplaced,
    oob_answer,
    redirect,
)
from token_relay.sandbox.provider.world.contacts import masked


def introspect(call: Call) -> Response:
    """List the person's methods. Raises Refusal."""
    flow = find(call, error="invalid_request")
    user = find_user(call, flow, error="invalid_request")
    match flow.stage:
        case MfaDue(first) | MfaMethods(first):
            if "oob" not in flow.challenge_types:
                return redirect(call, "A second factor is a code, which the client does not offer.")
            token = advance(call, flow, MfaMethods(first))
        case _:
            raise misplaced("invalid_request")
    methods: list[JsonValue] = [
        {
            "id": method.method_id,
            "challenge_type": "oob",
            "challenge_channel": method.channel,
            "login_hint": masked(method.target),
        }
        for method in user.methods
    ]
    return json_response({"continuation_token": token, "methods": methods})


def challenge_method(call: Call, flow: NativeFlow, user: User, stage: MfaDue | MfaMethods | MfaCodeSent) -> Response:
    """Send a code to the method of this ``id``, or once more to the one before. Raises Refusal."""
    if "oob" not in flow.challenge_types:
        return redirect(call, "A second factor is a code, which the client does not offer.")
    method_id = call.params.get("id")
    match stage:
        case MfaDue():
            if method_id:
                raise misplaced()
            if len(user.methods) != 1:
                text = "There is no default method; introspect the methods first."
                raise Refusal("invalid_request", text, code=90100, suberror="introspect_required")
            method_id = user.methods[0].method_id
        case MfaMethods():
            if not method_id and len(user.methods) == 1:
                method_id = user.methods[0].method_id
        case MfaCodeSent():
            method_id = method_id or stage.method_id
    method = next((one for one in user.methods if one.method_id == method_id), None)
    if method is None:
        raise Refusal("invalid_request", "id parameter is empty or not valid.", code=90100)
    flow = count_code(call, flow)
    sent = send_code(
        call.state,
        method.target,
        call.trace,
        client_id=flow.client_id,
        username=user.username,
        channel=method.channel,
    )
    token = advance(call, flow, MfaCodeSent(stage.first, method.method_id, sent))
    return oob_answer(call, token, method.channel, method.target)
