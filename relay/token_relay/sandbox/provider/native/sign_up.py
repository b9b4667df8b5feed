"""Native sign-up: the address is proven by a code, then password and attributes follow, where they are missing.

Everything may be given at the start; then the code alone completes it. Otherwise ``continue`` answers 400
``credential_required`` or ``attributes_required`` with the continuation token of the next step. The account is created
with the last piece, not before; the name is checked again then, since another person may have taken it.

``sign_up`` of the policy says what the tenant offers: accounts with a password, with e-mail codes, or (``any``) a
password wherever the client can do one.
"""

from __future__ import annotations

from dataclasses import replace

from token_relay.sandbox.provider.http_values import JsonValue, Refusal, Response, json_response
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.flow_states import (
    NativeFlow,
    Proven,
    SignUpAttributesWanted,
    SignUpBegun,
    SignUpCodeSent,
    SignUpForm,
    SignUpPasswordAsked,
    SignUpPasswordWanted,
)
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.native.attributes import asked_attributes, described, missing_attributes
from token_relay.sandbox.provider.native.codes import send_code, take_code
from token_relay.sandbox.provider.native.flows import (
    USERNAME_TEXT,
    Call,
    advance,
    asked_username,
    begin,
    count_code,
    declared,
    find,
    misplaced,
    oob_answer,
    redirect,
    with_types,
)
from token_relay.sandbox.provider.native.passwords import check_new_password
from token_relay.sandbox.provider.world.contacts import contact
from token_relay.sandbox.provider.world.model import USERS_MAX


def start(call: Call) -> Response:
    """Begin a sign-up with whatever the person has given already. Raises Refusal."""
    types = declared(call)
    username = asked_username(call.params)
    if contact("email", username) is None:
        raise Refusal("invalid_request", USERNAME_TEXT, code=90100)
    offered = call.state.policy.sign_up
    by_password = offered == "password" or (
        offered == "any" and ("password" in types or bool(call.params.get("password")))
    )
    needed = {"oob", "password"} if by_password else {"oob"}
    if not needed.issubset(types):
        return redirect(call, f"Signing up takes {' and '.join(sorted(needed))}, which the client does not offer.")
    check_is_new(call.state, username)
    password = None
    if call.params.get("password"):
        if not by_password:
            raise Refusal("invalid_request", "password parameter is empty or not valid.", code=90100)
        password = check_new_password(call.state.policy, call.params.get("password"))
    form = SignUpForm(by_password, password, asked_attributes(call.state.policy, call.params))
    token = begin(call, username, SignUpBegun(form))
    return json_response({"continuation_token": token})


def challenge(call: Call) -> Response:
    """Send the code, or say that the password is next. Raises Refusal."""
    flow = with_types(call, find(call))
    match flow.stage:
        case SignUpBegun(form) | SignUpCodeSent(form):
            if "oob" not in flow.challenge_types:
                return redirect(call, "The address is proven by oob, which the client does not offer.")
            flow = count_code(call, flow)
            sent = send_code(
                call.state, flow.username, call.trace, client_id=call.client.client_id, username=flow.username
            )
            token = advance(call, flow, SignUpCodeSent(form, sent))
            return oob_answer(call, token, "email", flow.username)
        case SignUpPasswordWanted(form) | SignUpPasswordAsked(form):
            if "password" not in flow.challenge_types:
                return redirect(call, "The account needs a password, which the client does not offer.")
            token = advance(call, flow, SignUpPasswordAsked(form))
            return json_response({"continuation_token": token, "challenge_type": "password"})
        case _:
            raise misplaced()


def continue_(call: Call) -> Response:
    """Take a code, password or attributes; create the account, or name what is missing. Raises Refusal."""
    flow = find(call, error="invalid_request")
    match (call.params.need("grant_type"), flow.stage):
        case ("oob", SignUpCodeSent(form, sent)):
            check_is_new(call.state, flow.username)
            take_code(call.state, sent, call.params, call.trace, username=flow.username)
        case ("password", SignUpPasswordAsked(form)):
            password = call.params.need("password", code=90100)
            form = replace(form, password=check_new_password(call.state.policy, password))
        case ("attributes", SignUpAttributesWanted(form)):
            call.params.need("attributes", code=90100)
            form = replace(form, attributes={**form.attributes, **asked_attributes(call.state.policy, call.params)})
        case _:
            raise misplaced("invalid_request")
    return _go_on(call, flow, form)


def _go_on(call: Call, flow: NativeFlow, form: SignUpForm) -> Response:
    if form.by_password and form.password is None:
        token = advance(call, flow, SignUpPasswordWanted(form))
        text = "The user needs to supply a credential."
        raise Refusal("credential_required", text, code=55103, more={"continuation_token": token})
    missing = missing_attributes(call.state.policy, form.attributes)
    if missing:
        # The answer to attributes repeats the token, since SDKs try again with the one they have.
        is_repeated = isinstance(flow.stage, SignUpAttributesWanted)
        token = (
            call.params.get("continuation_token") if is_repeated else advance(call, flow, SignUpAttributesWanted(form))
        )
        text = "The user needs to supply required attributes."
        more: dict[str, JsonValue] = {
            "continuation_token": token,
            "required_attributes": [described(one) for one in missing],
        }
        raise Refusal("attributes_required", text, code=55106, more=more)
    return create(call, flow, form)


def create(call: Call, flow: NativeFlow, form: SignUpForm) -> Response:
    """Create the account. Raises Refusal."""
    check_is_new(call.state, flow.username)
    if len(call.state.users) >= USERS_MAX:
        raise Refusal("temporarily_unavailable", "The directory is full.", code=90055, status=429, retry_after_s=60)
    user = User(
        username=flow.username,
        password=form.password,
        name=form.attributes.get("displayName") or flow.username.partition("@")[0],
        mfa=call.state.policy.sign_up_mfa,
        attributes=dict(form.attributes),
        email_proven=True,
        past_passwords=() if form.password is None else (form.password,),
    )
    if user.mfa == "required":
        user.add_method("email", user.username)
    call.state.users[user.username] = user
    call.state.note(
        "signed_up",
        call.trace.now,
        trace_id=call.trace.trace_id,
        username=user.username,
        client_id=call.client.client_id,
    )
    stage = Proven(user.method, has_second_factor=False, needs_username=True)
    return json_response({"continuation_token": advance(call, flow, stage)})


def check_is_new(state: State, username: str) -> None:
    """Refuse a name that is taken. Raises Refusal."""
    if username in state.users:
        raise Refusal("user_already_exists", "The user already exists in the directory.", code=1003037)
