"""Registering a strong method during sign-in, when the account must have one and has none.

A code to the new address proves it. The address that was proven when the person signed up needs no code: the challenge
answers ``preverified`` and ``continue`` takes ``grant_type=continuation_token``. Either way the resulting continuation
token gives tokens at once: no second code goes to the address that was just proven.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import JsonValue, Refusal, Response, json_response
from token_relay.sandbox.provider.memory.accounts import FirstFactor, User
from token_relay.sandbox.provider.memory.flow_states import (
    NativeFlow,
    Preverified,
    Proven,
    RegistrationCodeSent,
    RegistrationDue,
    RegistrationMethods,
)
from token_relay.sandbox.provider.native.codes import send_code, take_code
from token_relay.sandbox.provider.native.flows import Call, advance, count_code, find, find_user, misplaced, redirect
from token_relay.sandbox.provider.world.contacts import Channel, contact

_ERROR = "invalid_request"  # these endpoints' error code for a bad continuation token


def introspect(call: Call) -> Response:
    """List what can be registered. Raises Refusal."""
    flow = find(call, error=_ERROR)
    user = find_user(call, flow, error=_ERROR)
    match flow.stage:
        case RegistrationDue(first) | RegistrationMethods(first):
            if "oob" not in flow.challenge_types:
                return redirect(call, "Registration takes a code, which the client does not offer.")
            token = advance(call, flow, RegistrationMethods(first))
        case _:
            raise misplaced(_ERROR)
    methods: list[JsonValue] = [
        {
            "id": channel,
            "challenge_type": "oob",
            "challenge_channel": channel,
            "login_hint": (contact("email", user.username) or "") if channel == "email" else "",
        }
        for channel in call.state.policy.registration_channels
    ]
    return json_response({"continuation_token": token, "methods": methods})


def challenge(call: Call) -> Response:
    """Send a code to the address that is to be registered, or say that it needs none. Raises Refusal."""
    flow = find(call, error=_ERROR)
    user = find_user(call, flow, error=_ERROR)
    match flow.stage:
        case RegistrationMethods(first) | RegistrationCodeSent(first) | Preverified(first):
            pass
        case _:
            raise misplaced(_ERROR)
    if "oob" not in call.params.words("challenge_type"):
        text = "The challenge_type list parameter contains an unsupported challenge type."
        raise Refusal("invalid_request", text, code=901007)
    channel, target = asked_contact(call)
    if channel == "email" and target == user.username and user.email_proven:
        token = advance(call, flow, Preverified(first, channel, target))
        return json_response(
            {
                "continuation_token": token,
                "challenge_type": "preverified",
                "binding_method": "prompt",
                "challenge_channel": channel,
                "challenge_target": target,
            }
        )
    return json_response(
        {
            "continuation_token": send_new(call, flow, first=first, channel=channel, target=target),
            "challenge_type": "oob",
            "binding_method": "prompt",
            "challenge_channel": channel,
            "challenge_target": target,  # the whole address, under this name, unlike a sign-in's challenge
            "code_length": call.state.policy.code_length,
        }
    )


def send_new(call: Call, flow: NativeFlow, *, first: FirstFactor, channel: Channel, target: str) -> str:
    """Send a code to the address that is to be registered, and return the new token. Raises Refusal."""
    flow = count_code(call, flow)
    sent = send_code(
        call.state, target, call.trace, client_id=call.client.client_id, username=flow.username, channel=channel
    )
    return advance(call, flow, RegistrationCodeSent(first, channel, target, sent))


def continue_(call: Call) -> Response:
    """Register the address if its code is right or not needed. Raises Refusal."""
    flow = find(call, error=_ERROR)
    user = find_user(call, flow, error=_ERROR)
    match (call.params.need("grant_type"), flow.stage):
        case ("oob", RegistrationCodeSent(first, channel, target, sent)):
            take_code(call.state, sent, call.params, call.trace, username=user.username)
        case ("continuation_token", Preverified(first, channel, target)):
            pass
        case _:
            raise misplaced(_ERROR)
    return _register(call, flow, user, first=first, channel=channel, target=target)


def _register(
    call: Call,
    flow: NativeFlow,
    user: User,
    *,
    first: FirstFactor,
    channel: Channel,
    target: str,
) -> Response:
    user.add_method(channel, target)
    if user.mfa == "register":
        user.mfa = "required"
    call.state.note(
        "method_registered", call.trace.now, trace_id=call.trace.trace_id, username=user.username, channel=channel
    )
    stage = Proven(first, has_second_factor=True, needs_username=False)
    return json_response({"continuation_token": advance(call, flow, stage)})


def asked_contact(call: Call) -> tuple[Channel, str]:
    """Return where the code is to go; the channel may be left out, an address shows what it is. Raises Refusal."""
    target, named = call.params.need("challenge_target", code=901001), call.params.get("challenge_channel")
    known: tuple[Channel, ...] = ("email", "sms")
    channel: Channel = next((one for one in known if one == named), "email" if "@" in target else "sms")
    spelled = contact(channel, target)
    if named not in {"", *known} or channel not in call.state.policy.registration_channels or spelled is None:
        raise Refusal("invalid_request", "The verification contact is not valid.", code=901001)
    return channel, spelled
