"""The continuation token: how a native flow is found, moved on, refused and sent to the browser.

A token leads to one flow at one stage. A step that succeeds (and so does an error that names a next step) gives a new
token and makes the old one useless; a step that fails changes nothing, so the same token may try again: a wrong code
or password does not send the person back to the start. The clock of a flow starts anew with each token.

Lifetimes and the limit of ten codes in one flow are not documented and so our choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from token_relay.sandbox.provider.http_values import Params, Refusal, Response, json_response
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.flow_states import SIGN_UP_STAGES, NativeFlow, Stage
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State, digest, remember
from token_relay.sandbox.provider.world.contacts import Channel, masked
from token_relay.sandbox.provider.world.model import ClientModel

CHALLENGE_TYPES = frozenset({"password", "oob", "redirect"})
CAPABILITIES = frozenset({"mfa_required", "registration_required"})  # all that documentation and SDKs know
CODES_MAX = 10  # codes sent in one flow; more means guessing, or a loop
RESEND_AFTER_S = 300  # ``interval``: the JavaScript SDK's default
USERNAME_CHARS_MAX = 254
USERNAME_TEXT = "username parameter is empty or not valid."  # SDKs look for this phrase


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a native endpoint of this version of the API, and the memory that it works on."""

    state: State
    client: ClientModel
    params: Params
    trace: Trace
    version: int = 1


def check_native(client: ClientModel) -> None:
    """Refuse a client whose registration does not have native authentication switched on."""
    if not client.native_auth:
        text = "Native authentication is not enabled for this application."
        raise Refusal("invalid_client", text, code=550022, suberror="nativeauthapi_disabled", status=401)


def asked_challenge_types(params: Params) -> tuple[str, ...]:
    """Return what the client can do, each once. Raises Refusal."""
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


def declared(call: Call) -> tuple[str, ...]:
    """Return the challenge types of a flow's first request, after a look at its capabilities. Raises Refusal."""
    types = asked_challenge_types(call.params)
    if call.state.keeps("capabilities") and not CAPABILITIES.issuperset(_capabilities(call.params)):
        raise Refusal("invalid_request", "capabilities parameter is empty or not valid.", code=90100)
    return types


def asked_username(params: Params) -> str:
    """Return the user name in lower case. Raises Refusal."""
    username = params.get("username").strip().lower()
    if not username or len(username) > USERNAME_CHARS_MAX or not username.isprintable() or " " in username:
        raise Refusal("invalid_request", USERNAME_TEXT, code=90100)
    return username


def known_as(call: Call, name: str) -> str:
    """Return the user name of whoever signs in with this name or, by password, this alias; else the name itself."""
    users = call.state.users
    if name in users:
        return name
    return next((one.username for one in users.values() if one.alias == name and one.password is not None), name)


def begin(call: Call, username: str, stage: Stage) -> str:
    """Start a flow and return its first continuation token. Raises Refusal."""
    flow = NativeFlow(
        client_id=call.client.client_id,
        username=username,
        challenge_types=asked_challenge_types(call.params),
        capabilities=_capabilities(call.params),
        expires_at=call.trace.now + call.state.policy.continuation_lifetime_s,
        stage=stage,
    )
    return keep(call.state, flow)


def keep(state: State, flow: NativeFlow) -> str:
    """Remember a flow, and return the token that leads to it."""
    value = state.token("ct")
    remember(state.flows, digest(value), flow)
    return value


def find(call: Call, *, error: str = "invalid_grant") -> NativeFlow:
    """Return the flow of the request's continuation token. ``error`` is this endpoint's error code for a bad token.

    Raises Refusal.
    """
    flow = call.state.flows.get(_name(call))
    if flow is None or flow.client_id != call.client.client_id or flow.version != call.version:
        raise misplaced(error)
    if call.trace.now >= flow.expires_at:
        raise Refusal("expired_token", "The continuation token has expired; start again.", code=552003)
    return flow


def misplaced(error: str = "invalid_grant") -> Refusal:
    """Return the refusal of a token that is unknown, used up, or for another step."""
    return Refusal(error, "The continuation token is not valid for this step.", code=55200)


def find_user(call: Call, flow: NativeFlow, *, error: str = "invalid_grant") -> User:
    """Return the flow's person, whose account may be gone by now; a sign-up has none yet. Raises Refusal."""
    if isinstance(flow.stage, SIGN_UP_STAGES):
        raise misplaced(error)
    user = call.state.users.get(flow.username)
    if user is None:
        raise Refusal("invalid_grant", "The user account does not exist in the directory.", code=50034)
    if user.is_disabled:
        raise Refusal("invalid_grant", "The user account is disabled.", code=50057)
    return user


def advance(call: Call, flow: NativeFlow, stage: Stage, *, lifetime_s: float | None = None) -> str:
    """Use the request's token up, put the flow at a new stage and return the new token."""
    end(call)
    lasts_s = call.state.policy.continuation_lifetime_s if lifetime_s is None else lifetime_s
    return keep(call.state, replace(flow, stage=stage, expires_at=call.trace.now + lasts_s))


def end(call: Call) -> None:
    """Use the request's token up."""
    del call.state.flows[_name(call)]


def with_types(call: Call, flow: NativeFlow) -> NativeFlow:
    """Return the flow with the challenge types of this request, where it has any. Raises Refusal."""
    if not call.params.get("challenge_type"):
        return flow
    return replace(flow, challenge_types=asked_challenge_types(call.params))


def count_code(call: Call, flow: NativeFlow) -> NativeFlow:
    """Return the flow with one code more; a flow that asks for too many ends. Raises Refusal."""
    if flow.codes_sent >= CODES_MAX:
        end(call)
        raise Refusal("expired_token", "Too many codes were sent; start again.", code=552003)
    return replace(flow, codes_sent=flow.codes_sent + 1)


def oob_answer(call: Call, token: str, channel: Channel, address: str) -> Response:
    """Say where a code went and how long it is."""
    return json_response(
        {
            "continuation_token": token,
            "challenge_type": "oob",
            "binding_method": "prompt",
            "challenge_channel": channel,
            "challenge_target_label": masked(address),
            "code_length": call.state.policy.code_length,
            "interval": RESEND_AFTER_S,
        }
    )


def redirect(call: Call, reason: str) -> Response:
    """Send the person to the browser; an answer like any other, not an error. The flow stays where it is."""
    call.state.note("redirected", call.trace.now, trace_id=call.trace.trace_id, endpoint=call.trace.endpoint)
    return json_response({"challenge_type": "redirect", "redirect_reason": reason})


def _capabilities(params: Params) -> frozenset[str]:
    """Return the declared capabilities, under either name that documentation uses."""
    return frozenset({*params.words("capabilities"), *params.words("capability")})


def _name(call: Call) -> str:
    return digest(call.params.need("continuation_token", code=90100))
