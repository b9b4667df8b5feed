"""The control interface under ``/sandbox/``: JSON in, JSON out, closed schemas, a clear 400 for every mistake.

Pure, like the core: a question that may wait (``wait_s``) is answered at once, with ``is_empty`` set, and the driver
asks again when something has changed. Only the mailbox shows a secret: it is there to read codes. Of the broker's
messages it shows topic and length, which any broker knows; a payload is never shown, only published again
(``broker/replay``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from token_relay.protocol.secret import Password
from token_relay.sandbox.control.find_email import PhoneModel, find_email
from token_relay.sandbox.control.links import LinkBook, LinkOrder, carry_out, event_fields, shown
from token_relay.sandbox.mqtt.record import BrokerRecord
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.http_values import JsonValue, Refusal, Request, Response, json_response, query_params
from token_relay.sandbox.provider.memory.accounts import AccountEvent, User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.signing import RollsOver, published
from token_relay.sandbox.provider.tokens.families import remove_user, revoke_user
from token_relay.sandbox.provider.world.animal import AnimalOrder
from token_relay.sandbox.provider.world.contacts import mailbox
from token_relay.sandbox.provider.world.model import (
    CLIENTS_MAX,
    FAULT_NAMES,
    SECONDS_MAX,
    USERS_MAX,
    ClientModel,
    FaultModel,
    Name,
    PolicyModel,
    UserModel,
    problems_of,
)
from token_relay.sandbox.provider.world.strictness import RULE_NAMES, SENTENCES, RuleName

PREFIX = "/sandbox/"
WAIT_S_MAX = 60.0  # one long poll; the caller asks again
EVENTS_PER_ANSWER_MAX = 1_000
M = TypeVar("M", bound=BaseModel)


class RevokeModel(BaseModel):
    """Whose tokens are revoked, and by what; see :data:`token_relay.sandbox.provider.memory.accounts.REVOKES`."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    username: Name
    event: AccountEvent = "revoke_all"


class UserChangeModel(BaseModel):
    """What an administrator changes of an account: ``disabled``, or the ``password``, which ends its sign-ins."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    username: Name
    disabled: bool | None = None
    password: Password | None = None


class UserNameModel(BaseModel):
    """Who is deleted."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    username: Name


class KeysModel(BaseModel):
    """A new signing key. ``keep_old``: the former ones stay published, so that what they signed can be verified."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    keep_old: bool = True


class LenientModel(BaseModel):
    """A rule that is switched off."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    name: RuleName


class ClockModel(BaseModel):
    """By how much the provider's clock is advanced; never back, since tokens would come from the future."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    advance_s: float = Field(ge=0, le=SECONDS_MAX, allow_inf_nan=False)


class ReplayModel(BaseModel):
    """Which recorded messages are published again: numbers above ``after``, up to ``until``."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    after: int = Field(ge=0, le=2**53 - 1)
    until: int = Field(ge=1, le=2**53 - 1)


@dataclass(frozen=True, slots=True)
class ControlAnswer:
    """An answer; when ``is_empty``, the driver may wait ``wait_s`` for something to change, and ask again."""

    response: Response
    is_empty: bool = False
    wait_s: float = 0.0


def control(
    provider: Provider,
    request: Request,
    now: float,
    *,
    broker: BrokerRecord | None = None,
    links: LinkBook | None = None,
) -> ControlAnswer:
    """Answer one question or carry out one order; without ``broker`` or ``links``, their paths are unknown."""
    path = request.path.removeprefix(PREFIX).strip("/")
    try:
        if path.startswith("mailbox/"):
            _only(request, "GET")
            return _mailbox(provider, path.removeprefix("mailbox/"), request, now)
        if path == "events":
            _only(request, "GET")
            return _events(provider, request)
        if path == "broker/messages" and broker is not None:
            _only(request, "GET")
            return _broker_messages(broker, request)
        if path == "broker/replay" and broker is not None:
            _only(request, "POST")
            return ControlAnswer(_broker_replay(broker, request))
        if path == "links" and links is not None:
            _only(request, "GET", "POST")
            return ControlAnswer(_links(links, provider, request, now))
        handler = _HANDLERS.get((request.method, path))
        if handler is None:
            allowed = sorted(method for method, known in _HANDLERS if known == path)
            if not allowed:
                return ControlAnswer(json_response({"error": "not_found", "paths": [*_PATHS]}, 404))
            _only(request, *allowed)
            raise AssertionError("unreachable: the method is not among those allowed")
        return ControlAnswer(handler(provider, request, now))
    except Refusal as refusal:
        body: dict[str, JsonValue] = {"error": refusal.error, "detail": refusal.description}
        if path == "faults":
            body["faults"] = [*FAULT_NAMES]
        if path == "lenient":
            body["rules"] = [*RULE_NAMES]
        return ControlAnswer(json_response(body, refusal.status))


def _users(provider: Provider, request: Request, now: float) -> Response:
    user = _read(UserModel, request)
    if len(provider.state.users) >= USERS_MAX and user.username.lower() not in provider.state.users:
        raise Refusal("invalid_request", f"there are {USERS_MAX} users already")
    provider.state.put_user(user)
    return json_response({"username": user.username.lower()}, 201)


def _change_user(provider: Provider, request: Request, now: float) -> Response:
    order = _read(UserChangeModel, request)
    user = provider.state.users.get(order.username.lower())
    if user is None:
        raise _no_user()
    if order.disabled is not None:
        user.is_disabled = order.disabled
    if order.password is not None:
        if user.password is None:
            raise Refusal("invalid_request", "this account has no password: it signs in with a code")
        user.set_password(order.password)
        revoke_user(provider.state, user.username, _trace(provider, now), event="password_changed")
    return json_response({**described(user), "disabled": user.is_disabled})


def _delete_user(provider: Provider, request: Request, now: float) -> Response:
    order = _read(UserNameModel, request)
    if not remove_user(provider.state, order.username, _trace(provider, now)):
        raise _no_user()
    return json_response({"username": order.username.lower()})


def _no_user() -> Refusal:
    return Refusal("not_found", "there is no such user", status=404)


def _trace(provider: Provider, now: float) -> Trace:
    """Return ids for what nobody has asked the provider itself for."""
    trace_id = provider.state.guid()
    return Trace(trace_id, trace_id, provider.time(now))


def _list_users(provider: Provider, request: Request, now: float) -> Response:
    return json_response({"users": [described(one) for one in provider.state.users.values()]})


def described(user: User) -> dict[str, JsonValue]:
    """Show a person without the password; default values are left out."""
    shown: dict[str, JsonValue] = {"username": user.username, "kind": user.kind}
    if user.alias:
        shown["alias"] = user.alias
    if user.mfa != "none":
        shown["mfa"] = user.mfa
    if user.is_findable:
        shown["findable_by_phone"] = True
    if user.methods:
        shown["methods"] = [{"channel": one.channel, "target": one.target} for one in user.methods]
    return shown


def _clients(provider: Provider, request: Request, now: float) -> Response:
    client = _read(ClientModel, request)
    if len(provider.state.clients) >= CLIENTS_MAX and client.client_id not in provider.state.clients:
        raise Refusal("invalid_request", f"there are {CLIENTS_MAX} clients already")
    provider.state.clients[client.client_id] = client
    return json_response({"client_id": client.client_id}, 201)


def _policy(provider: Provider, request: Request, now: float) -> Response:
    change = _read(PolicyModel, request)
    state = provider.state
    state.policy = change.over(state.policy)
    return _show_policy(provider, request, now)


def _show_policy(provider: Provider, request: Request, now: float) -> Response:
    return json_response(provider.state.policy.model_dump())


def _faults(provider: Provider, request: Request, now: float) -> Response:
    return _arm(provider, _read(FaultModel, request), now)


def _animals(provider: Provider, request: Request, now: float) -> Response:
    return _arm(provider, _read(AnimalOrder, request).fault(), now)


def _arm(provider: Provider, fault: FaultModel, now: float) -> Response:
    if not provider.faults.arm(fault, provider.time(now)):
        raise Refusal("invalid_request", "too many faults are armed; DELETE faults clears them")
    return json_response({"armed": len(provider.faults.armed)}, 201)


def _list_faults(provider: Provider, request: Request, now: float) -> Response:
    armed: list[JsonValue] = [
        {**one.fault.model_dump(exclude_unset=True), "left": one.left} for one in provider.faults.armed
    ]
    return json_response({"faults": armed, "known": [*FAULT_NAMES]})


def _clear_faults(provider: Provider, request: Request, now: float) -> Response:
    provider.faults.clear()
    return json_response({"armed": 0})


def _lenient(provider: Provider, request: Request, now: float) -> Response:
    provider.state.lenient.add(_read(LenientModel, request).name)
    return _list_rules(provider, request, now)


def _list_rules(provider: Provider, request: Request, now: float) -> Response:
    rules: list[JsonValue] = [
        {"name": name, "is_kept": provider.state.keeps(name), "rule": SENTENCES[name]} for name in RULE_NAMES
    ]
    return json_response({"rules": rules})


def _keep_rules(provider: Provider, request: Request, now: float) -> Response:
    provider.state.lenient.clear()
    return _list_rules(provider, request, now)


def _find_email(provider: Provider, request: Request, now: float) -> Response:
    return find_email(provider.state, _read(PhoneModel, request).phone, provider.time(now))


def _revoke(provider: Provider, request: Request, now: float) -> Response:
    order = _read(RevokeModel, request)
    if not revoke_user(provider.state, order.username, _trace(provider, now), event=order.event):
        raise _no_user()
    return json_response({"username": order.username.lower()})


def _keys(provider: Provider, request: Request, now: float) -> Response:
    order, signer = _read(KeysModel, request), provider.state.signer
    if not isinstance(signer, RollsOver):
        raise Refusal("invalid_request", "the signer of this sandbox has one key for good")
    signer.roll_over(keep_old=order.keep_old)
    provider.state.note("keys_rolled_over", provider.time(now))
    return json_response({"kids": [key["kid"] for key in published(signer)]}, 201)


def _clock(provider: Provider, request: Request, now: float) -> Response:
    advance_s = _read(ClockModel, request).advance_s
    offset_s = provider.state.clock_offset_s + advance_s
    if offset_s > SECONDS_MAX:
        raise Refusal("invalid_request", f"advance_s: the sum would be more than {SECONDS_MAX:.0f} s")
    provider.state.clock_offset_s = offset_s
    provider.state.note("clock_advanced", provider.time(now), advance_s=f"{advance_s:g}")
    return _show_clock(provider, request, now)


def _show_clock(provider: Provider, request: Request, now: float) -> Response:
    return json_response({"now": provider.time(now), "offset_s": provider.state.clock_offset_s})


def _state(provider: Provider, request: Request, now: float) -> Response:
    state = provider.state
    return json_response(
        {
            "profile": state.urls.profile,
            "issuer": state.urls.issuer,
            "users": len(state.users),
            "clients": len(state.clients),
            "families": len(state.families),
            "families_alive": sum(not family.is_dead for family in state.families.values()),
            "refresh_tokens": sum(family.generation for family in state.families.values()),
            "last_event_id": state.next_event_id - 1,
            "faults_armed": len(provider.faults.armed),
        }
    )


def _mailbox(provider: Provider, address: str, request: Request, now: float) -> ControlAnswer:
    wait_s = _number(request, "wait_s", WAIT_S_MAX)
    sent = provider.state.mailboxes.get(mailbox(address))
    if sent is None or not sent.is_good(provider.time(now)):
        body: dict[str, JsonValue] = {"error": "not_found", "detail": "no code has been sent there, or it was used"}
        return ControlAnswer(json_response(body, 404), is_empty=True, wait_s=wait_s)
    response = Response(200, sent.code.reveal().encode(), "text/plain; charset=utf-8", (("Cache-Control", "no-store"),))
    return ControlAnswer(response)


def _events(provider: Provider, request: Request) -> ControlAnswer:
    after = int(_number(request, "after", 2**53 - 1))
    wait_s = _number(request, "wait_s", WAIT_S_MAX)
    found: list[JsonValue] = []
    for event in provider.state.events_after(after):
        found.append(event.as_json())
        if len(found) == EVENTS_PER_ANSWER_MAX:
            break
    body: dict[str, JsonValue] = {"events": found, "last_event_id": provider.state.next_event_id - 1}
    return ControlAnswer(json_response(body), is_empty=not found, wait_s=wait_s)


def _broker_messages(broker: BrokerRecord, request: Request) -> ControlAnswer:
    after = int(_number(request, "after", 2**53 - 1))
    wait_s = _number(request, "wait_s", WAIT_S_MAX)
    known = broker.messages()
    found: list[JsonValue] = [
        {"number": one.number, "at": one.at, "topic": one.topic, "payload_bytes": one.payload_bytes}
        for one in known
        if one.number > after
    ]
    body: dict[str, JsonValue] = {"messages": found, "last_number": known[-1].number if known else 0}
    return ControlAnswer(json_response(body), is_empty=not found, wait_s=wait_s)


def _broker_replay(broker: BrokerRecord, request: Request) -> Response:
    wanted = _read(ReplayModel, request)
    known = [one.number for one in broker.messages()]
    numbers = [number for number in known if wanted.after < number <= wanted.until]
    if len(numbers) != wanted.until - wanted.after:
        kept = f"{known[0]} to {known[-1]}" if known else "none"
        raise Refusal("invalid_request", f"after and until must name recorded messages; recorded: {kept}")
    broker.replay(numbers)
    return json_response({"replayed": len(numbers)})


def _links(links: LinkBook, provider: Provider, request: Request, now: float) -> Response:
    if request.method == "GET":
        return json_response(shown(links))
    order = _read(LinkOrder, request)
    result = carry_out(links, order)
    provider.state.note("link_changed", provider.time(now), **event_fields(order))
    return json_response(result)


def _read(model: type[M], request: Request) -> M:
    if request.content_type != "application/json":  # also keeps forms of foreign web pages out
        raise Refusal("invalid_request", "the content type must be application/json", status=415)
    try:
        json.loads(request.body or b"null")  # pydantic's own message would quote the text
    except (ValueError, RecursionError) as exc:
        raise Refusal("invalid_request", "the body is not JSON") from exc
    try:
        return model.model_validate_json(request.body)
    except ValidationError as exc:
        raise Refusal("invalid_request", problems_of(exc)) from None  # the cause would hold the input


def _number(request: Request, name: str, most: float) -> float:
    text = query_params(request).get(name)
    if not text:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:  # also false for nan
        raise Refusal("invalid_request", f"{name}: a number from 0 to {most:.0f} is wanted")
    return value


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise Refusal("invalid_request", f"only {' and '.join(methods)} can be used here", status=405)


_HANDLERS: dict[tuple[str, str], Callable[[Provider, Request, float], Response]] = {
    ("POST", "users"): _users,
    ("GET", "users"): _list_users,
    ("PATCH", "users"): _change_user,
    ("DELETE", "users"): _delete_user,
    ("POST", "clients"): _clients,
    ("POST", "policy"): _policy,
    ("GET", "policy"): _show_policy,
    ("POST", "faults"): _faults,
    ("POST", "animals"): _animals,
    ("GET", "faults"): _list_faults,
    ("DELETE", "faults"): _clear_faults,
    ("POST", "lenient"): _lenient,
    ("GET", "lenient"): _list_rules,
    ("DELETE", "lenient"): _keep_rules,
    ("POST", "find-email"): _find_email,
    ("POST", "revoke"): _revoke,
    ("POST", "keys"): _keys,
    ("POST", "clock"): _clock,
    ("GET", "clock"): _show_clock,
    ("GET", "state"): _state,
}
_PATHS = sorted(
    {path for _, path in _HANDLERS}
    | {"broker/messages", "broker/replay", "events", "links", "mailbox/{address}", "resource"}
)
