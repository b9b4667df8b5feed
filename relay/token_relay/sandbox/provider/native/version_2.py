"""Version 2 of the native API, a preview: links lead through a journey, and an authorization stands around it.

``authorize-challenge`` answers 401 with a continuation token and a link for each journey. Each step posts JSON to a
link of the answer before; the next answer says what is wanted (``action``), or ``state`` ``continue``. Then
``authorize-challenge`` gives a code, and the token endpoint tokens for it, without redirect URI and code_verifier.

What counts as proof, and what a tenant demands, is as in version 1, whose stages these are. The shapes of the answers
are those that ``@azure/msal-browser`` 5.30.0 takes. The paths behind the links are ours: clients follow them unread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from token_relay.sandbox.provider.http_values import (
    BODY_BYTES_MAX,
    JsonValue,
    Params,
    Refusal,
    Request,
    Response,
    json_response,
)
from token_relay.sandbox.provider.memory.accounts import FirstFactor, User
from token_relay.sandbox.provider.memory.flow_states import (
    Authorized,
    CodeSent,
    Entered,
    MfaCodeSent,
    MfaMethods,
    NativeFlow,
    PasswordAsked,
    Proven,
    RegistrationCodeSent,
    RegistrationMethods,
    ResetBegun,
    ResetCodeSent,
    ResetProven,
    ResetSubmitted,
    SignUpAttributesWanted,
    SignUpCodeSent,
    SignUpForm,
    UsernameGiven,
)
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State, digest
from token_relay.sandbox.provider.native import password_reset, registration, sign_in, sign_up
from token_relay.sandbox.provider.native.attributes import asked_attributes, missing_attributes
from token_relay.sandbox.provider.native.codes import send_code, take_code
from token_relay.sandbox.provider.native.flows import (
    CAPABILITIES,
    USERNAME_TEXT,
    Call,
    advance,
    asked_username,
    check_native,
    count_code,
    find,
    find_user,
    keep,
    known_as,
    misplaced,
)
from token_relay.sandbox.provider.native.passwords import check_new_password, check_password
from token_relay.sandbox.provider.throttle import count_request
from token_relay.sandbox.provider.tokens.claims import asked_claims
from token_relay.sandbox.provider.tokens.families import asked_scope, find_client
from token_relay.sandbox.provider.world.contacts import contact, masked
from token_relay.sandbox.provider.world.rules import NATIVE_STEPS

JOURNEYS = ("sign_in", "sign_up", "reset_password")
CODE_LIFETIME_S = 600.0  # as for the codes of a browser, RFC 6749 §4.1.2
_ERROR = "invalid_request"
_NAMES = {  # what the steps may send, and version 1's names of it
    "continuationToken": "continuation_token",
    "username": "username",
    "password": "password",
    "attributes": "attributes",
    "otp": "oob",
    "newPassword": "new_password",
    "email": "challenge_target",
    "phoneNumber": "challenge_target",
    "channel": "challenge_channel",
}
_REFUSALS = {  # code and inner code by version 1's number; any other refusal keeps its words, spelled in camel case
    50034: ("invalidRequest", "userNotFound"),
    50126: ("invalidGrant", "invalidUserNameOrPassword"),
    50181: ("invalidGrant", "invalidOneTimeCode"),
    55104: ("invalidRequest", "attributeValidationError"),
    55200: ("invalidRequest", "invalidContinuationToken"),
    552003: ("expiredToken", "expiredContinuationToken"),
    1003037: ("invalidRequest", "userAlreadyExists"),
}


def authorize_challenge(state: State, params: Params, trace: Trace) -> Response:
    """Begin an authorization, or give the code of one whose journey has come to its end. Raises Refusal."""
    count_request(state, params.get("client_id"), trace.now)
    if params.get("continuation_token"):
        call = _call(state, params, trace)
        flow = find(call)
        match flow.stage:
            case Proven(first, has_second_factor):
                stage = Authorized(first, has_second_factor)
                return json_response({"code": advance(call, flow, stage, lifetime_s=CODE_LIFETIME_S)})
            case _:
                raise misplaced()
    client = find_client(state, params)
    check_native(client)
    asked_scope(client, params)
    asked_claims(params)
    flow = NativeFlow(
        client_id=client.client_id,
        username="",
        challenge_types=("password", "oob", "redirect"),
        capabilities=CAPABILITIES,
        expires_at=trace.now + state.policy.continuation_lifetime_s,
        stage=Entered(),
        version=2,
        scope=params.get("scope"),
        claims=params.get("claims"),
    )
    body: dict[str, JsonValue] = {
        "error": "InsufficientAuthorization",
        "error_description": "No authenticated credentials found in request.",
        "continuation_token": keep(state, flow),
    }
    return json_response({**body, **{journey: f"{NATIVE_STEPS}{journey}/start" for journey in JOURNEYS}}, 401)


def is_code(value: str) -> bool:
    """Return whether this code, good or not, is of this version and not of a browser."""
    return value.startswith("ct.")


def redeem(call: Call) -> Response:
    """Give tokens for a code, for the scope that the authorization began with. Raises Refusal."""
    code = call.params.need("code")
    flow = call.state.flows.get(digest(code))
    if flow is None or flow.client_id != call.client.client_id or not isinstance(flow.stage, Authorized):
        raise Refusal("invalid_grant", "Invalid authorization code.", code=70000)
    if call.trace.now >= flow.expires_at:
        raise Refusal("invalid_grant", "The authorization code has expired.", code=70008)
    user = find_user(call, flow)
    asked = {"scope": call.params.get("scope") or flow.scope, "claims": call.params.get("claims") or flow.claims}
    call = replace(call, params=call.params.over({**asked, "continuation_token": code}.items()))
    return sign_in.issue(call, user, first=flow.stage.first, has_second_factor=flow.stage.has_second_factor)


def step(state: State, request: Request, trace: Trace) -> Response:
    """Take one step of a journey. A refusal has this version's own shape."""
    where, _, verb = request.path.partition(NATIVE_STEPS)[2].rpartition("/")
    allowed = "PUT" if verb == "update" else "POST"
    try:
        if request.method != allowed:
            raise Refusal(_ERROR, f"The endpoint only accepts {allowed} requests.", code=900561, status=405)
        call = _call(state, _fields(request), trace)
        return _step(call, find(call, error=_ERROR), where, verb)
    except Refusal as refusal:
        response = _refused(refusal, trace)
        return response.with_headers(("Allow", allowed)) if refusal.status == 405 else response


def _call(state: State, params: Params, trace: Trace) -> Call:
    """Find the client by its continuation token; this version's later requests do not name it. Raises Refusal."""
    flow = state.flows.get(digest(params.need("continuation_token", code=90100)))
    client = state.clients.get(flow.client_id) if flow is not None else None
    if client is None or client.disabled:
        raise misplaced(_ERROR)
    return Call(state, client, params, trace, version=2)


def _fields(request: Request) -> Params:
    """Decode a JSON object; a value that is no text stays JSON, and unknown names are ignored. Raises Refusal."""
    if len(request.body) > BODY_BYTES_MAX:
        raise Refusal(_ERROR, f"the body is longer than {BODY_BYTES_MAX} bytes", code=90100, status=413)
    try:
        found = json.loads(request.body)
        if not isinstance(found, dict):
            raise ValueError("not an object")
        spelled = [(str(name), one if isinstance(one, str) else json.dumps(one)) for name, one in found.items()]
    except (ValueError, RecursionError):
        raise Refusal(_ERROR, "The body must be a JSON object.", code=90100) from None
    return Params((_NAMES[name], one) for name, one in spelled if name in _NAMES)


def _step(call: Call, flow: NativeFlow, where: str, verb: str) -> Response:
    match (verb, flow.stage):
        case ("start", Entered()):
            return _start(call, flow, where)
        case ("challenge", UsernameGiven() | PasswordAsked() | CodeSent() | MfaMethods() | MfaCodeSent()):
            named = call.params.over((("id", where.rpartition("/")[2]),))
            return _challenged(sign_in.challenge(replace(call, params=named)))
        case ("resend", CodeSent() | MfaCodeSent()):
            return _challenged(sign_in.challenge(call))
        case ("verify", PasswordAsked() | CodeSent() | MfaCodeSent()):
            return _prove(call, flow)
        case ("enroll", RegistrationMethods(first) | RegistrationCodeSent(first)):
            channel, target = registration.asked_contact(call)
            return _activation(call, registration.send_new(call, flow, first=first, channel=channel, target=target))
        case ("resend", RegistrationCodeSent(first, channel, target)):
            return _activation(call, registration.send_new(call, flow, first=first, channel=channel, target=target))
        case ("activate", RegistrationCodeSent()):
            return _continue(_token(registration.continue_(_with_grant(call))))
        case ("resend", SignUpCodeSent()):
            return _challenged(sign_up.challenge(call))
        case ("verify", SignUpCodeSent(form, sent)):
            sign_up.check_is_new(call.state, flow.username)
            take_code(call.state, sent, call.params, call.trace, username=flow.username)
            return _collect(call, flow, form)
        case ("submitAttributes", SignUpAttributesWanted(form)):
            return _collect(call, flow, _filled(call, form))
        case ("challenge" | "resend", ResetBegun() | ResetCodeSent()):
            return _challenged(password_reset.challenge(call))
        case ("verify", ResetCodeSent()):
            return _wanted(_token(password_reset.continue_(_with_grant(call))), "update", "update")
        case ("update", ResetProven()):
            return _wanted(_token(password_reset.submit(call)), "poll", "poll")
        case ("poll", ResetSubmitted()):
            return _polled(call, password_reset.poll_completion(call))
        case _:
            raise misplaced(_ERROR)


def _start(call: Call, flow: NativeFlow, journey: str) -> Response:
    """Name the person: say how they sign in, or send a newcomer the code. Raises Refusal."""
    username = known_as(call, asked_username(call.params))
    user, flow = call.state.users.get(username), replace(flow, username=username)
    if user is None and journey == "sign_up":
        if contact("email", username) is None:
            raise Refusal(_ERROR, USERNAME_TEXT, code=90100)
        sent = send_code(call.state, username, call.trace, client_id=flow.client_id, username=username)
        form = SignUpForm(by_password=call.state.policy.sign_up != "oob")
        token = advance(call, count_code(call, flow), SignUpCodeSent(form, sent))
        return _code_sent(token, "verify", masked(username), call.state.policy.code_length, type="email")
    if user is None or journey not in JOURNEYS:
        raise Refusal("user_not_found", "The user account does not exist in the directory.", code=50034)
    if journey == "reset_password" and user.password is None:
        raise Refusal(_ERROR, "The user does not have a password.", code=500222)
    kind = "password" if user.method == "password" and journey != "reset_password" else "email"
    token = advance(call, flow, ResetBegun() if journey == "reset_password" else UsernameGiven())
    return _methods(token, "singleFactor", [("1", kind, "" if kind == "password" else masked(username))])


def _prove(call: Call, flow: NativeFlow) -> Response:
    """Take a password or a code of a sign-in. Raises Refusal."""
    user = find_user(call, flow)
    match flow.stage:
        case PasswordAsked():
            problem = check_password(call.state, user, call.params.need("password", code=90100), call.trace)
            if problem is not None:
                raise problem
            return _proven(call, flow, user, first="password")
        case CodeSent(sent):
            take_code(call.state, sent, call.params, call.trace, username=user.username)
            return _proven(call, flow, user, first="oob")
        case MfaCodeSent(first, _, sent):
            take_code(call.state, sent, call.params, call.trace, username=user.username)
            return _proven(call, flow, user, first=first, has_second_factor=True)
        case _:
            raise misplaced(_ERROR)


def _proven(
    call: Call, flow: NativeFlow, user: User, *, first: FirstFactor, has_second_factor: bool = False
) -> Response:
    """Say what is still missing, or that the authorization may go on. Raises Refusal."""
    wanted = sign_in.wanted_more(call, user, first=first, has_second_factor=has_second_factor)
    if wanted == "mfa_required":
        methods = [(one.method_id, one.channel, masked(one.target)) for one in user.methods]
        return _methods(advance(call, flow, MfaMethods(first)), "multiFactor", methods)
    if wanted:
        enroll: JsonValue = {"enroll": {"href": f"{NATIVE_STEPS}enroll"}}
        kinds: dict[str, dict[str, JsonValue]] = {
            "email": {"type": "email", "_links": enroll},
            "sms": {"type": "phone", "channels": ["sms"], "_links": enroll},
        }
        offered: list[JsonValue] = [kinds[channel] for channel in call.state.policy.registration_channels]
        return _wanted(advance(call, flow, RegistrationMethods(first)), "enroll", _embedded={"methods": offered})
    return _continue(advance(call, flow, Proven(first, has_second_factor, needs_username=False)))


def _after(call: Call, token: str) -> Response:
    """Go on with the person whose account was created or whose password was changed. Raises Refusal."""
    call = replace(call, params=call.params.over((("continuation_token", token),)))
    flow = find(call)
    user = find_user(call, flow)
    return _proven(call, flow, user, first=user.method)


def _collect(call: Call, flow: NativeFlow, form: SignUpForm) -> Response:
    """Create the account, or ask for what is missing. Raises Refusal."""
    missing: list[JsonValue] = []
    if form.by_password and form.password is None:
        missing.append({"attributeId": "password", "inputType": "password", "required": True, "label": "Password"})
    for one in missing_attributes(call.state.policy, form.attributes):
        said: dict[str, JsonValue] = {"attributeId": one.name, "inputType": "text", "required": True, "label": one.name}
        missing.append(said if one.regex is None else {**said, "regex": one.regex})
    if not missing:
        return _after(call, _token(sign_up.create(call, flow, form)))
    token = advance(call, flow, SignUpAttributesWanted(form))
    return _wanted(token, "collectAttributes", "submitAttributes", attributes=missing)


def _filled(call: Call, form: SignUpForm) -> SignUpForm:
    """Return the form with the attributes of the request; the password is one of them here. Raises Refusal."""
    text, policy = call.params.need("attributes", code=90100), call.state.policy
    attributes = {**form.attributes, **asked_attributes(policy, call.params)}
    password = json.loads(text).get("password")
    if form.by_password and isinstance(password, str):
        return replace(form, attributes=attributes, password=check_new_password(policy, password))
    return replace(form, attributes=attributes)


def _polled(call: Call, response: Response) -> Response:
    match json.loads(response.body):
        case {"status": "succeeded", "continuation_token": str(token)}:
            return _after(call, token)
        case {"status": "failed", "continuation_token": str(token)}:
            return _wanted(token, "update", "update")
        case _:
            return _wanted(call.params.get("continuation_token"), "poll", "poll")


def _challenged(response: Response) -> Response:
    """Say version 1's answer to a challenge in the words of this one."""
    said = json.loads(response.body)
    if said["challenge_type"] == "password":
        return _wanted(said["continuation_token"], "verify", "verify", type="password")
    label, length = said["challenge_target_label"], said["code_length"]
    return _code_sent(said["continuation_token"], "verify", label, length, type=said["challenge_channel"])


def _activation(call: Call, token: str) -> Response:
    flow = call.state.flows[digest(token)]
    assert isinstance(flow.stage, RegistrationCodeSent), "a code was just sent"
    return _code_sent(token, "activate", masked(flow.stage.target), call.state.policy.code_length)


def _code_sent(token: str, action: str, hint: str, length: int, **more: JsonValue) -> Response:
    return _wanted(token, action, action, "resend", hint=hint, codeLength=length, **more)


def _methods(token: str, factor: str, methods: Iterable[tuple[str, str, str]]) -> Response:
    listed: list[JsonValue] = [
        {"id": name, "type": kind, "hint": hint, "_links": {"challenge": {"href": f"{NATIVE_STEPS}{name}/challenge"}}}
        for name, kind, hint in methods
    ]
    context: JsonValue = {"authenticationFactor": factor}
    return _wanted(token, "challenge", challengeContext=context, _embedded={"methods": listed})


def _wanted(token: str, action: str, *links: str, **more: JsonValue) -> Response:
    """Say what is wanted next, and under which links; a link's relation is its step's name."""
    hrefs: dict[str, JsonValue] = {name: {"href": f"{NATIVE_STEPS}{name}"} for name in links}
    known: dict[str, JsonValue] = {"continuationToken": token, "state": "interactionRequired", "action": action}
    return json_response({**known, **more, **({"_links": hrefs} if hrefs else {})})


def _continue(token: str) -> Response:
    return json_response({"continuationToken": token, "state": "continue"})


def _token(response: Response) -> str:
    return str(json.loads(response.body)["continuation_token"])


def _with_grant(call: Call) -> Call:
    return replace(call, params=call.params.over((("grant_type", "oob"),)))


def _refused(refusal: Refusal, trace: Trace) -> Response:
    words = (_camel(refusal.error), _camel(refusal.suberror))
    if refusal.code == 399246:
        words = ("invalidRequest", words[1])
    code, inner_code = _REFUSALS.get(refusal.code, words)
    inner: dict[str, JsonValue] = {"code": inner_code} if inner_code else {}
    invalid = refusal.more.get("invalid_attributes")
    if isinstance(invalid, list):
        names: list[JsonValue] = [one["name"] for one in invalid if isinstance(one, dict)]
        inner["details"] = [{"attributeIds": names, "code": "attributeValidationFailed"}]
    error: dict[str, JsonValue] = {
        "code": code,
        "message": f"AADSTS{refusal.code or 9002313}: {refusal.description}",
        "timestamp": datetime.fromtimestamp(trace.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "traceId": trace.trace_id,
        "correlationId": trace.correlation_id,
    }
    return json_response({"error": {**error, "innerError": inner} if inner else error}, refusal.status)


def _camel(words: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), words)
