"""Whatever the provider answers, a native flow goes on, ends or fails with a sentence; nothing is raised or shown."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.provider.native_core import NEW, RIGHT
from tests.provider.provider_kit import MARK, response
from token_relay.protocol.secret import Code
from token_relay.provider.native_auth.password_reset import PasswordReset
from token_relay.provider.native_auth.service import CAPABILITIES, Service
from token_relay.provider.native_auth.sign_in import SignInFlow
from token_relay.provider.native_auth.sign_up import SignUp
from token_relay.provider.native_auth.states import (
    AttributesRequired,
    CodeRequired,
    Completed,
    Failed,
    MfaRequired,
    NewPasswordRequired,
    PasswordRequired,
    Redirect,
    RegistrationRequired,
    ResetPending,
    Step,
)
from token_relay.provider.native_auth.wire import ENDPOINTS
from token_relay.provider.profile import ENTRA

CODE = Code("12345678")
STEPS_MAX = 12

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))
method = st.fixed_dictionaries(
    {}, optional={"id": st.just("1") | values, "challenge_channel": st.just("sms") | values, "login_hint": values}
)
attribute = st.fixed_dictionaries({}, optional={"name": st.just("age") | values, "type": values, "options": values})
likely = st.fixed_dictionaries(
    {},
    optional={
        "continuation_token": st.just(f"{MARK}-ct") | values,
        "challenge_type": st.sampled_from(["password", "oob", "preverified", "redirect"]) | values,
        "challenge_channel": values,
        "challenge_target_label": values,
        "code_length": st.just(8) | values,
        "interval": values,
        "poll_interval": values,
        "status": st.sampled_from(["not_started", "in_progress", "succeeded", "failed"]) | values,
        "methods": st.lists(method, max_size=3) | values,
        "required_attributes": st.lists(attribute, max_size=3) | values,
        "invalid_attributes": st.lists(attribute, max_size=3) | values,
        "error": st.sampled_from(sorted({error for one in ENDPOINTS for error in one.errors})) | values,
        "suberror": st.sampled_from(
            ["mfa_required", "registration_required", "invalid_oob_value", "expired_token", "password_banned",
             "attribute_validation_failed", "provider_blocked_by_rep"]
        ) | values,
        "error_codes": st.lists(st.sampled_from([50126, 50181, 901001, 55200, 50053]), max_size=2) | values,
        "access_token": st.just(f"{MARK}.at") | values,
        "refresh_token": st.just(f"{MARK}-rt") | values,
        "token_type": st.just("Bearer") | values,
    },
)  # fmt: skip
answers = st.lists(
    st.tuples(st.sampled_from([200, 200, 200, 400, 400, 429, 500, 302]), likely | values), min_size=1, max_size=10
)


class Anything:
    """An Http port that gives prepared answers, the last one for ever."""

    def __init__(self, prepared: list[tuple[int, Any]]) -> None:
        self.prepared = list(prepared)

    async def request(self, request: object) -> object:
        status, body = self.prepared.pop(0) if len(self.prepared) > 1 else self.prepared[0]
        return response(status, json.dumps(body).encode())


async def next_of(flow: SignInFlow | SignUp | PasswordReset, step: Step) -> Step:
    match step:
        case PasswordRequired():
            assert isinstance(flow, SignInFlow)
            return await flow.submit_password(step, RIGHT)
        case NewPasswordRequired():
            assert isinstance(flow, SignUp | PasswordReset)
            return await flow.submit_password(step, NEW)
        case CodeRequired():
            return await flow.submit_code(step, CODE)
        case MfaRequired(methods=methods):
            return await flow.choose_method(step, methods[0])
        case RegistrationRequired(methods=methods):
            return await flow.register_method(step, methods[0], "a@b.example")
        case AttributesRequired(missing=missing):
            assert isinstance(flow, SignUp)
            return await flow.submit_attributes(step, {one.name: "x" for one in missing} or {"a": "x"})
        case ResetPending():
            assert isinstance(flow, PasswordReset)
            return await flow.poll(step)
        case Failed(again=again) if again is not None:
            return again
        case _:
            return step


async def run(kind: str, prepared: list[tuple[int, Any]]) -> None:
    http: Any = Anything(prepared)
    service = Service(http, ENTRA, "http://127.0.0.1:1/t", "app", capabilities=CAPABILITIES)
    flow = {"sign_in": SignInFlow, "sign_up": SignUp, "reset": PasswordReset}[kind](service, "a@b.example")
    step = await flow.start()
    for _ in range(STEPS_MAX):
        assert MARK not in repr(step)
        if isinstance(step, Failed):
            assert step.detail and step.detail.isprintable() and step.error.isprintable()
        if isinstance(step, Completed | Redirect) or (isinstance(step, Failed) and step.again is None):
            return
        step = await next_of(flow, step)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(kind=st.sampled_from(["sign_in", "sign_up", "reset"]), prepared=answers)
def test_no_answer_makes_a_flow_stumble(kind: str, prepared: list[tuple[int, Any]]) -> None:
    asyncio.run(run(kind, prepared))
