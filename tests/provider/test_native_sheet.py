"""The tables of the API reference, row by row: what each documented answer means to the client.

Each row is named after endpoint, error, suberror and code. The flow is driven by the sandbox's core to the call that
is to go wrong; then the row's answer comes in place of the core's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from tests.provider.native_core import BASE, NEW, PASSWORD_USER, RIGHT, Core
from tests.provider.provider_kit import CORRELATION_ID, MARK, TRACE_ID, assert_no_secret, entra_error
from token_relay.protocol.secret import Code
from token_relay.provider.native_auth.states import Failed, Redirect, Step
from token_relay.provider.native_auth.wire import ENDPOINTS, NativeRequest

CODE = Code("12345678")


@dataclass(frozen=True)
class Row:
    """``again``: the state survives. ``restarts``: the flow is begun anew, by itself."""

    endpoint: str
    error: str
    suberror: str = ""
    code: int = 0
    status: int = 400
    retryable: bool = False
    again: bool = False
    restarts: bool = False
    says: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.endpoint, self.error, self.suberror, str(self.code or ""))))


async def initiate(core: Core, row: Row) -> Step:
    core.instead(row.status, body_of(row))
    return await core.sign_in(PASSWORD_USER).start()


async def challenge(core: Core, row: Row) -> Step:
    flow, state = await core.at_code()
    core.instead(row.status, body_of(row))
    return await flow.resend(state)


async def token(core: Core, row: Row) -> Step:
    flow, state = await core.at_password()
    core.instead(row.status, body_of(row))
    return await flow.submit_password(state, RIGHT)


async def introspect(core: Core, row: Row) -> Step:
    flow, state = await core.at_password()
    core.instead(400, entra_error("invalid_grant", 50076, suberror="mfa_required", continuation_token="x"))
    core.instead(row.status, body_of(row))
    return await flow.submit_password(state, RIGHT)


async def register_introspect(core: Core, row: Row) -> Step:
    flow, state = await core.at_password()
    core.instead(400, entra_error("invalid_grant", 50079, suberror="registration_required", continuation_token="x"))
    core.instead(row.status, body_of(row))
    return await flow.submit_password(state, RIGHT)


async def register_challenge(core: Core, row: Row) -> Step:
    flow, state = await core.at_registration()
    core.instead(row.status, body_of(row))
    return await flow.register_method(state, state.methods[0], "other@contoso.example")


async def register_continue(core: Core, row: Row) -> Step:
    flow, state = await core.at_registration_code()
    core.instead(row.status, body_of(row))
    return await flow.submit_code(state, CODE)


async def signup_start(core: Core, row: Row) -> Step:
    core.instead(row.status, body_of(row))
    return await core.sign_up().start()


async def signup_challenge(core: Core, row: Row) -> Step:
    flow, state = await core.at_sign_up_code()
    core.instead(row.status, body_of(row))
    return await flow.resend(state)


async def signup_continue(core: Core, row: Row) -> Step:
    flow, state = await core.at_sign_up_code()
    core.instead(row.status, body_of(row))
    return await flow.submit_code(state, CODE)


async def signup_password(core: Core, row: Row) -> Step:
    flow, state = await core.at_new_password()
    core.instead(row.status, body_of(row))
    return await flow.submit_password(state, NEW)


async def signup_attributes(core: Core, row: Row) -> Step:
    flow, state = await core.at_attributes()
    core.instead(row.status, body_of(row))
    return await flow.submit_attributes(state, {"displayName": "Ann"})


async def reset_start(core: Core, row: Row) -> Step:
    core.instead(row.status, body_of(row))
    return await core.reset().start()


async def reset_challenge(core: Core, row: Row) -> Step:
    flow, state = await core.at_reset_code()
    core.instead(row.status, body_of(row))
    return await flow.resend(state)


async def reset_continue(core: Core, row: Row) -> Step:
    flow, state = await core.at_reset_code()
    core.instead(row.status, body_of(row))
    return await flow.submit_code(state, CODE)


async def reset_submit(core: Core, row: Row) -> Step:
    flow, state = await core.at_reset_password()
    core.instead(row.status, body_of(row))
    return await flow.submit_password(state, NEW)


async def reset_poll(core: Core, row: Row) -> Step:
    flow, state = await core.at_reset_pending()
    core.instead(row.status, body_of(row))
    return await flow.poll(state)


RUN: dict[str, Callable[[Core, Row], Awaitable[Step]]] = {
    run.__name__: run
    for run in (
        *(initiate, challenge, token, introspect),
        *(register_introspect, register_challenge, register_continue),
        *(signup_start, signup_challenge, signup_continue, signup_password, signup_attributes),
        *(reset_start, reset_challenge, reset_continue, reset_submit, reset_poll),
    )
}

STARTS = ("initiate", "signup_start", "reset_start")
STEPS = tuple(name for name in RUN if name not in STARTS)
NEW_PASSWORDS = ("signup_password", "reset_submit", "reset_poll")

ROWS = [
    *(Row(at, "invalid_request", code=901007) for at in STARTS),
    *(Row(at, "unsupported_challenge_type", code=901007, says="ways of signing in") for at in STARTS),
    *(Row(at, "invalid_request", code=90100, says="empty or invalid") for at in STARTS),
    *(Row(at, "unauthorized_client", code=700016, says="does not know this client_id") for at in STARTS),
    *(Row(at, "invalid_client", "nativeauthapi_disabled", 7000218, says="not switched on") for at in STARTS),
    *(Row(at, "temporarily_unavailable", code=90055, status=429, retryable=True) for at in STARTS),
    *(
        Row(at, "temporarily_unavailable", code=90055, status=429, retryable=True, again="introspect" not in at)
        for at in STEPS
    ),
    *(Row(at, "server_error", code=90033, status=500, retryable=True, again=at == "reset_poll") for at in STEPS),
    *(Row(at, "expired_token", code=552003, restarts=True) for at in STEPS if at != "reset_poll"),
    *(Row(at, "invalid_request", "expired_token", 552003, restarts=True) for at in STEPS if at != "reset_poll"),
    *(Row(at, "invalid_request", code=55200, retryable=True, says="begin again") for at in STEPS),
    *(Row(at, "invalid_request", code=90100) for at in STEPS),
    Row("initiate", "user_not_found", code=50034, says="knows no account"),
    Row("challenge", "invalid_grant", code=55200, retryable=True),
    Row("challenge", "unsupported_challenge_type", code=901007),
    Row("challenge", "access_denied", "provider_blocked_by_rep", 550024, says="does not send codes"),
    Row("challenge", "invalid_request", code=901001, says="does not accept this address"),
    Row("challenge", "invalid_request", "introspect_required", 90100),
    Row("token", "invalid_grant", code=50126, retryable=True, again=True, says="wrong password"),
    Row("token", "invalid_grant", code=50034, says="knows no account"),
    Row("token", "invalid_grant", code=500222, says="has no password"),
    Row("token", "invalid_grant", code=55200, retryable=True),
    Row("token", "invalid_grant", code=50053, retryable=True, again=True, says="locked"),
    Row("token", "invalid_grant", code=50057, says="disabled"),
    Row("token", "invalid_request", code=50142, says="must be reset"),
    Row("token", "invalid_grant", code=50055, says="has expired"),
    Row("token", "invalid_client"),
    Row("token", "unauthorized_client", code=700016),
    Row("token", "invalid_scope", code=70011, says="scope"),
    Row("token", "unsupported_grant_type", code=70003),
    Row("token", "interaction_required", code=53003, says="blocks this sign-in"),
    Row("token", "consent_required", code=65001, says="consent"),
    Row("token", "user_not_found"),
    Row("token", "slow_down", retryable=True, again=True),
    Row("token", "authorization_pending"),
    Row("token", "expired_refresh_token"),
    Row("introspect", "invalid_client"),
    Row("register_challenge", "invalid_request", code=901001, retryable=True, again=True),
    Row("register_challenge", "access_denied", "provider_blocked_by_rep", 550024, retryable=True, again=True),
    Row(
        "register_continue", "invalid_grant", "invalid_oob_value", 50181, retryable=True, again=True, says="wrong code"
    ),
    Row("signup_start", "user_already_exists", code=1003037, says="there is an account"),
    Row("signup_start", "invalid_grant", "password_too_weak", 399246, says="too weak"),
    Row("signup_start", "invalid_grant", "attribute_validation_failed", 55104, says="these attributes"),
    Row("signup_start", "attributes_required", code=55106),
    Row("signup_start", "unsupported_auth_method"),
    Row("signup_challenge", "unsupported_challenge_type", code=901007),
    Row("signup_challenge", "invalid_grant", code=55200, retryable=True),
    Row(
        "signup_continue", "invalid_grant", "invalid_oob_value", 50181, retryable=True, again=True, says="2 tries left"
    ),
    Row("signup_continue", "user_already_exists", code=1003037),
    Row("signup_continue", "verification_required"),
    *(
        Row(at, "invalid_grant", f"password_{what}", 399246, retryable=True, again=at != "reset_poll", says="password")
        for at in NEW_PASSWORDS
        for what in ("too_weak", "too_short", "too_long", "recently_used", "banned", "is_invalid")
    ),
    Row("signup_attributes", "invalid_grant", "attribute_validation_failed", 55104, retryable=True, again=True),
    Row("reset_start", "user_not_found", code=50034, says="knows no account"),
    Row("reset_challenge", "unsupported_challenge_type", code=901007),
    Row("reset_continue", "invalid_grant", "invalid_oob_value", 50181, retryable=True, again=True, says="wrong code"),
    Row("reset_continue", "verification_required"),
    Row("reset_poll", "expired_token", code=552003, retryable=True, says="may be in force already"),
    Row("reset_poll", "user_not_found", code=50034, says="knows no account"),
]


def body_of(row: Row) -> dict[str, object]:
    return entra_error(row.error, *((row.code,) if row.code else ()), suberror=row.suberror)


@pytest.mark.asyncio
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_row_of_the_reference(row: Row) -> None:
    core = Core()
    step = await RUN[row.endpoint](core, row)
    if row.restarts:
        assert core.calls.count(core.calls[0]) == 2
        return
    assert isinstance(step, Failed), step
    assert (step.retryable, step.again is not None) == (row.retryable, row.again)
    assert row.says in step.detail
    assert step.detail
    if row.error not in ("temporarily_unavailable", "slow_down", "server_error"):
        assert (step.error, step.suberror) == (row.error, row.suberror)
        assert step.codes == ((row.code,) if row.code else (90100,))  # else out of the description
        assert (step.trace_id, step.correlation_id) == (TRACE_ID, CORRELATION_ID)
    assert MARK not in step.detail
    assert_no_secret(step)


@pytest.mark.asyncio
@pytest.mark.parametrize("endpoint", RUN)
async def test_redirect_from(endpoint: str) -> None:
    core = Core()
    row = Row(endpoint, "", status=200)

    async def run() -> Step:
        return await RUN[endpoint](core, row)

    redirect = {"challenge_type": "redirect", "redirect_reason": f"{MARK} \x1b[0m"}
    original = core.instead
    core.instead = lambda status, body, headers=None: original(  # type: ignore[method-assign]  # the row's answer only
        status, redirect if status == 200 else body, headers
    )
    step = await run()
    assert step == Redirect("the provider wants a browser for this account")


def replace_row(core: Core, endpoint: str, row_status: int, row_body: object) -> None:
    """Let the core answer so where the row's own answer was planned."""
    original = core.instead

    def answer(status: int, body: object, headers: dict[str, str] | None = None) -> None:
        is_row = body == body_of(Row(endpoint, "planned"))
        original(row_status if is_row else status, row_body if is_row else body, headers)

    core.instead = answer  # type: ignore[method-assign]  # as above


@pytest.mark.asyncio
@pytest.mark.parametrize("endpoint", RUN)
@pytest.mark.parametrize("status", [200, 400])
async def test_no_answer_out_of_shape_gets_through(endpoint: str, status: int) -> None:
    bodies: list[object] = [b"", b"<html>", b"[]", b"null", b'{"a":1,"a":2}', {}, {"continuation_token": 7}]
    for body in bodies:
        core = Core()
        replace_row(core, endpoint, status, body)
        step = await RUN[endpoint](core, Row(endpoint, "planned"))
        assert isinstance(step, Failed), (step, body)
        assert step.detail


def test_the_rows_cover_every_endpoint() -> None:
    of_model = {
        model.request.path.split("/")[1].partition(".")[0] + "_" + model.request.path.rpartition("/")[2]
        for model in ENDPOINTS
    }
    assert len(of_model) == len(ENDPOINTS) == 15
    assert {row.endpoint for row in ROWS} == set(RUN)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: one.request.path)
def test_every_documented_error_has_its_row(endpoint: object) -> None:
    model = next(one for one in ENDPOINTS if one is endpoint)
    family, _, last = model.request.path.removeprefix("/").rpartition("/")
    names = {
        "oauth2/v2.0": {"initiate": ["initiate"], "challenge": ["challenge"], "introspect": ["introspect"]},
        "register/v1.0": {},
        "signup/v1.0": {"continue": ["signup_continue", "signup_password", "signup_attributes"]},
        "resetpassword/v1.0": {"poll_completion": ["reset_poll"]},
    }[family]
    prefix = {"oauth2/v2.0": "", "register/v1.0": "register_", "signup/v1.0": "signup_", "resetpassword/v1.0": "reset_"}
    rows = names.get(last, [f"{prefix[family]}{last}"])
    told = {row.error for row in ROWS if row.endpoint in rows}
    # Names of a next step are told by the sequences in test_native_client_flows.
    assert set(model.errors) - told <= {"attributes_required", "credential_required"}


def test_requests_are_closed_and_their_secrets_do_not_print() -> None:
    for model in ENDPOINTS:
        fields = {
            name: f"{MARK}12345678" if "token" in name or name in ("oob", "password", "new_password") else "x"
            for name in model.request.model_fields
        }
        assert issubclass(model.request, NativeRequest)
        with pytest.raises(ValueError, match="unknown") as caught:
            model.request.model_validate({**fields, "unknown": "1"})
        assert MARK not in str(caught.value)
        assert not model.request.path.startswith(BASE)
