"""The native client against the sandbox's core: the sequences of calls, what carries over, and what begins anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from tests.provider.native_core import (
    MFA_USER,
    NEW,
    NEW_USER,
    OTP_USER,
    PASSWORD_USER,
    PREVERIFIED_USER,
    REGISTER_USER,
    RESET_USER,
    RIGHT,
    SMS,
    Core,
    token_of,
    wrong,
)
from tests.provider.provider_kit import CORRELATION_ID, MARK, TRACE_ID, entra_error
from token_relay.protocol.secret import Code, Password
from token_relay.provider.native_auth.flow import Flow
from token_relay.provider.native_auth.states import (
    Attribute,
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
from token_relay.provider.native_auth.wire import CODES_ONLY

pytestmark = pytest.mark.asyncio

INITIATE, CHALLENGE, TOKEN = "oauth2/v2.0/initiate", "oauth2/v2.0/challenge", "oauth2/v2.0/token"
INTROSPECT, REGISTER = "oauth2/v2.0/introspect", "register/v1.0"
SIGN_UP, RESET = "signup/v1.0", "resetpassword/v1.0"


@pytest.fixture
def core() -> Core:
    return Core()


# -- The sequences -----------------------------------------------------------------------------------------


async def by_password(core: Core) -> Step:
    flow, state = await core.at_password()
    return await flow.submit_password(state, RIGHT)


async def by_code(core: Core) -> Step:
    flow, state = await core.at_code()
    return await flow.submit_code(state, core.mail(OTP_USER))


async def by_mfa(core: Core) -> Step:
    flow, state = await core.at_mfa_code()
    return await flow.submit_code(state, core.mail(MFA_USER))


async def by_mfa_sms(core: Core) -> Step:
    flow, state = await core.at_mfa_code("sms")
    return await flow.submit_code(state, core.mail(SMS))


async def by_registration(core: Core) -> Step:
    flow, state = await core.at_registration_code()
    return await flow.submit_code(state, core.mail("other@contoso.example"))


async def by_fast_pass(core: Core) -> Step:
    flow, state = await core.at_registration(PREVERIFIED_USER)
    return await flow.register_method(state, state.methods[0], state.methods[0].label)


async def by_sign_up(core: Core) -> Step:
    flow, state = await core.at_attributes()
    return await flow.submit_attributes(state, {"displayName": "Ann", "extension_1_age": "42"})


async def by_sign_up_with_all_at_start(core: Core) -> Step:
    core.order("policy", required_attributes=[{"name": "displayName", "type": "String", "required": True}])
    flow = core.sign_up(attributes={"displayName": "Ann"}, challenge_types=CODES_ONLY)
    state = await flow.start()
    assert isinstance(state, CodeRequired)
    return await flow.submit_code(state, core.mail(NEW_USER))


async def by_reset(core: Core) -> Step:
    flow, state = await core.at_reset_pending()
    return await flow.poll(state)


SEQUENCES: dict[str, tuple[Callable[[Core], Awaitable[Step]], list[str]]] = {
    "password": (by_password, [INITIATE, CHALLENGE, f"{TOKEN}(password)"]),
    "otp": (by_code, [INITIATE, CHALLENGE, f"{TOKEN}(oob)"]),
    "mfa": (
        by_mfa,
        [INITIATE, CHALLENGE, f"{TOKEN}(password)", INTROSPECT, CHALLENGE, f"{TOKEN}(mfa_oob)"],
    ),
    "mfa_sms": (
        by_mfa_sms,
        [INITIATE, CHALLENGE, f"{TOKEN}(password)", INTROSPECT, CHALLENGE, f"{TOKEN}(mfa_oob)"],
    ),
    "registration": (
        by_registration,
        [
            INITIATE,
            CHALLENGE,
            f"{TOKEN}(password)",
            f"{REGISTER}/introspect",
            f"{REGISTER}/challenge",
            f"{REGISTER}/continue(oob)",
            f"{TOKEN}(continuation_token)",
        ],
    ),
    "registration_fast_pass": (
        by_fast_pass,
        [
            INITIATE,
            CHALLENGE,
            f"{TOKEN}(password)",
            f"{REGISTER}/introspect",
            f"{REGISTER}/challenge",
            f"{REGISTER}/continue(continuation_token)",
            f"{TOKEN}(continuation_token)",
        ],
    ),
    "sign_up_stepwise": (
        by_sign_up,
        [
            f"{SIGN_UP}/start",
            f"{SIGN_UP}/challenge",
            f"{SIGN_UP}/continue(oob)",
            f"{SIGN_UP}/challenge",
            f"{SIGN_UP}/continue(password)",
            f"{SIGN_UP}/continue(attributes)",
            f"{TOKEN}(continuation_token)",
        ],
    ),
    "sign_up_one_shot": (
        by_sign_up_with_all_at_start,
        [f"{SIGN_UP}/start", f"{SIGN_UP}/challenge", f"{SIGN_UP}/continue(oob)", f"{TOKEN}(continuation_token)"],
    ),
    "reset": (
        by_reset,
        [
            f"{RESET}/start",
            f"{RESET}/challenge",
            f"{RESET}/continue(oob)",
            f"{RESET}/submit",
            f"{RESET}/poll_completion",
            f"{TOKEN}(continuation_token)",
        ],
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
async def test_a_flow_makes_the_documented_calls_in_order(name: str, core: Core) -> None:
    run, expected = SEQUENCES[name]
    step = await run(core)
    assert isinstance(step, Completed)
    assert step.tokens.refresh_token is not None and not step.tokens.problem
    assert core.paths() == expected


@pytest.mark.parametrize("name", SEQUENCES)
async def test_every_call_carries_the_token_of_the_answer_before(name: str, core: Core) -> None:
    await SEQUENCES[name][0](core)
    tokens = [form["continuation_token"] for _, form in core.calls[1:]]
    assert "continuation_token" not in core.calls[0][1]
    assert len(set(tokens)) == len(tokens)  # each answer brought a new one, and it was taken


@pytest.mark.parametrize("name", SEQUENCES)
async def test_only_the_first_call_declares_capabilities(name: str, core: Core) -> None:
    await SEQUENCES[name][0](core)
    declared = [form.get("capabilities") for _, form in core.calls]
    assert declared == ["mfa_required registration_required", *[None] * (len(declared) - 1)]


@pytest.mark.parametrize(
    ("name", "is_by_code"),
    [("password", False), ("otp", True), ("mfa", False), ("sign_up_stepwise", False), ("sign_up_one_shot", True)],
)
async def test_a_grant_that_began_with_a_code_is_known_as_such(name: str, is_by_code: bool, core: Core) -> None:
    step = await SEQUENCES[name][0](core)
    assert isinstance(step, Completed) and step.is_by_code is is_by_code


@pytest.mark.parametrize("name", ["sign_up_stepwise", "reset"])
async def test_username_is_named_again_after_sign_up_and_reset(name: str, core: Core) -> None:
    await SEQUENCES[name][0](core)
    assert core.calls[-1][1]["username"] == core.calls[0][1]["username"]


async def test_no_username_after_a_registration(core: Core) -> None:
    await by_registration(core)
    assert "username" not in core.calls[-1][1]


async def test_mfa_methods_have_id_channel_and_masked_address(core: Core) -> None:
    _, state = await core.at_mfa()
    assert [one.channel for one in state.methods] == ["email", "sms"]
    assert all(one.id and "*" in one.label for one in state.methods)


async def test_a_code_of_a_second_factor_says_where_it_went(core: Core) -> None:
    _, state = await core.at_mfa_code("sms")
    assert (state.channel, state.purpose, state.code_length) == ("sms", "second_factor", 8)
    assert "*" in state.target_label


async def test_registration_proposes_the_account_s_address(core: Core) -> None:
    _, state = await core.at_registration()
    assert [(one.channel, one.label) for one in state.methods] == [("email", REGISTER_USER), ("sms", "")]


async def test_attributes_required_says_what_is_missing(core: Core) -> None:
    _, state = await core.at_attributes()
    assert state.missing == (
        Attribute("displayName", "String"),
        Attribute("extension_1_age", "Int64", "^[1-9][0-9]*$"),
    )


async def test_an_otp_account_is_never_asked_for_a_second_code(core: Core) -> None:
    core.order("policy", conditional_access=50076)
    assert isinstance(await by_code(core), Completed)


# -- Failing and trying again ------------------------------------------------------------------------------

CODE_STAGES: dict[str, Callable[[Core], Awaitable[tuple[Flow, CodeRequired]]]] = {
    "sign_in": Core.at_code,
    "second_factor": Core.at_mfa_code,
    "registration": Core.at_registration_code,
    "sign_up": Core.at_sign_up_code,
    "reset": Core.at_reset_code,
}
MAILBOX = {
    "sign_in": OTP_USER,
    "second_factor": MFA_USER,
    "registration": "other@contoso.example",
    "sign_up": NEW_USER,
    "reset": RESET_USER,
}


@pytest.mark.parametrize("stage", CODE_STAGES)
async def test_a_wrong_code_leaves_two_more_tries_with_the_same_token(stage: str, core: Core) -> None:
    flow, state = await CODE_STAGES[stage](core)
    right = core.mail(MAILBOX[stage])
    left = []
    present = state
    for _ in range(3):
        step = await flow.submit_code(present, wrong(right))
        assert isinstance(step, Failed) and isinstance(step.again, CodeRequired)
        assert (step.error, step.suberror, step.codes) == ("invalid_grant", "invalid_oob_value", (50181,))
        assert step.trace_id and step.correlation_id
        present = step.again
        left.append((present.tries_left, step.detail))
        assert present.continuation_token == state.continuation_token
    assert left == [
        (2, "wrong code, 2 tries left"),
        (1, "wrong code, 1 try left"),
        (0, "wrong code, and no try is left: ask for a new one"),
    ]
    calls = len(core.calls)
    step = await flow.submit_code(present, right)
    assert isinstance(step, Failed) and step.error == "too_many_tries"
    assert len(core.calls) == calls  # not even the right one is sent


@pytest.mark.parametrize("stage", CODE_STAGES)
async def test_a_resend_voids_the_older_code_and_gives_three_new_tries(stage: str, core: Core) -> None:
    flow, state = await CODE_STAGES[stage](core)
    older = core.mail(MAILBOX[stage])
    again = await flow.resend(replace(state, tries_left=0))
    assert isinstance(again, CodeRequired)
    assert (again.tries_left, again.purpose) == (3, state.purpose)
    assert again.continuation_token != state.continuation_token
    newer = core.mail(MAILBOX[stage])
    assert newer != older
    step = await flow.submit_code(again, older)
    assert isinstance(step, Failed) and step.suberror == "invalid_oob_value"
    assert isinstance(step.again, CodeRequired)
    assert not isinstance(await flow.submit_code(step.again, newer), Failed)


@pytest.mark.parametrize("stage", CODE_STAGES)
@pytest.mark.parametrize("error", [{"error": "expired_token"}, {"error": "invalid_grant", "suberror": "expired_token"}])
async def test_expired_token_begins_the_flow_anew_once(stage: str, error: dict[str, str], core: Core) -> None:
    flow, state = await CODE_STAGES[stage](core)
    first = core.calls[0]
    begun = len(core.calls)
    body = entra_error(error["error"], 552003, suberror=error.get("suberror", ""))
    core.instead(400, body)
    step = await flow.submit_code(state, Code("12345678"))
    assert isinstance(step, CodeRequired | PasswordRequired)
    assert core.calls[begun + 1] == first  # the same first call, capabilities and all
    if isinstance(step, CodeRequired):
        core.instead(400, body)
        again = await flow.submit_code(step, Code("12345678"))
        assert isinstance(again, Failed)
        assert (again.retryable, again.again, again.is_expired) == (True, None, True)
        assert core.calls.count(first) == 2


async def test_a_flow_that_expires_at_the_provider_begins_anew(core: Core) -> None:
    flow, state = await core.at_password()
    core.now += 901
    assert isinstance(await flow.submit_password(state, RIGHT), Completed)
    assert core.paths() == [INITIATE, CHALLENGE, f"{TOKEN}(password)"] * 2


async def test_a_second_factor_that_expires_asks_for_the_password_again(core: Core) -> None:
    flow, state = await core.at_mfa_code()
    code = core.mail(MFA_USER)
    core.now += 901
    assert isinstance(await flow.submit_code(state, code), PasswordRequired)


@pytest.mark.parametrize("stage", CODE_STAGES)
async def test_a_request_that_was_not_sent_keeps_its_state_and_a_lost_one_does_not(stage: str, core: Core) -> None:
    flow, state = await CODE_STAGES[stage](core)
    core.vanish(sent=False)
    step = await flow.submit_code(state, Code("12345678"))
    assert isinstance(step, Failed)
    assert (step.error, step.retryable, step.again) == ("unavailable", True, state)
    core.instead(429, entra_error("temporarily_unavailable", 90055), {"retry-after": "7"})
    step = await flow.submit_code(state, Code("12345678"))
    assert isinstance(step, Failed)
    assert (step.error, step.retry_after_s, step.again) == ("unavailable", 7.0, state)
    core.vanish(sent=True)
    step = await flow.submit_code(state, Code("12345678"))
    assert isinstance(step, Failed)
    assert (step.error, step.retryable, step.again) == ("outcome_unknown", True, None)


@pytest.mark.parametrize("error", ["interaction_required", "consent_required"])
@pytest.mark.parametrize("stage", CODE_STAGES)
async def test_what_only_a_person_can_change_is_never_tried_again(stage: str, error: str, core: Core) -> None:
    flow, state = await CODE_STAGES[stage](core)
    calls = len(core.calls)
    core.instead(400, entra_error(error, 65001))
    step = await flow.submit_code(state, Code("12345678"))
    assert isinstance(step, Failed)
    assert (step.retryable, step.again, step.error) == (False, None, error)
    assert (step.trace_id, step.correlation_id) == (TRACE_ID, CORRELATION_ID)
    assert len(core.calls) == calls + 1


@pytest.mark.parametrize("stage", CODE_STAGES)
async def test_every_stage_may_send_the_person_to_a_browser(stage: str, core: Core) -> None:
    flow, state = await CODE_STAGES[stage](core)
    core.instead(200, {"challenge_type": "redirect", "redirect_reason": f"{MARK} mfa_required"})
    step = await flow.submit_code(state, Code("12345678"))
    assert step == Redirect("the provider wants a browser for this account (mfa_required)")


@pytest.mark.parametrize(("username", "said"), [(MFA_USER, "mfa_required"), (REGISTER_USER, "registration_required")])
async def test_without_the_capability_the_answer_is_a_redirect(username: str, said: str, core: Core) -> None:
    flow = core.sign_in(username, capabilities=())
    state = await flow.start()
    assert isinstance(state, PasswordRequired)
    step = await flow.submit_password(state, RIGHT)
    assert step == Redirect(f"the provider wants a browser for this account ({said})")


@pytest.mark.parametrize("stage", ["sign_in", "second_factor"])
async def test_a_password_account_that_is_locked_may_be_tried_again_later(stage: str, core: Core) -> None:
    flow, state = await CODE_STAGES[stage](core)
    core.instead(400, entra_error("invalid_grant", 50053))
    step = await flow.submit_code(state, Code("12345678"))
    assert isinstance(step, Failed)
    assert (step.retryable, step.again) == (True, state)


async def test_a_new_token_in_an_error_is_carried_on(core: Core) -> None:
    flow, state = await core.at_reset_code()
    core.instead(
        400, entra_error("invalid_grant", 50181, suberror="invalid_oob_value", continuation_token=f"{MARK}-new")
    )
    step = await flow.submit_code(state, Code("12345678"))
    assert isinstance(step, Failed) and step.again is not None
    assert token_of(step.again) == Code(f"{MARK}-new")


# -- Passwords, attributes, contacts -----------------------------------------------------------------------

PASSWORDS = {
    "password_too_weak": "aaaaaaaa",
    "password_too_short": "Ab1!",
    "password_too_long": "Ab1!" * 65,
    "password_banned": "Password123",
    "password_is_invalid": "Wrong-Horse-\u00008",
}


@pytest.mark.parametrize("suberror", PASSWORDS)
@pytest.mark.parametrize("at", ["sign_up", "reset"])
async def test_a_refused_new_password_may_be_chosen_again(at: str, suberror: str, core: Core) -> None:
    flow, state = await (core.at_new_password() if at == "sign_up" else core.at_reset_password())
    if suberror == "password_is_invalid":
        core.instead(400, entra_error("invalid_grant", 399246, suberror=suberror))
    step = await flow.submit_password(state, Password(PASSWORDS[suberror]))
    assert isinstance(step, Failed)
    assert (step.suberror, step.retryable, step.again) == (suberror, True, state)
    assert step.detail.startswith("the password ")
    assert isinstance(await flow.submit_password(state, NEW), Completed | ResetPending)


async def test_password_recently_used_is_told(core: Core) -> None:
    flow, state = await core.at_reset_password()
    step = await flow.submit_password(state, RIGHT)
    assert isinstance(step, Failed)
    assert (step.suberror, step.detail) == ("password_recently_used", "the password was used before")
    assert isinstance(step.again, NewPasswordRequired)


async def test_attributes_that_are_not_accepted_are_named_and_may_be_corrected(core: Core) -> None:
    flow, state = await core.at_attributes()
    step = await flow.submit_attributes(state, {"displayName": "Ann", "extension_1_age": "old"})
    assert isinstance(step, Failed) and isinstance(step.again, AttributesRequired)
    assert step.suberror == "attribute_validation_failed"
    assert step.again.invalid == ("extension_1_age",)
    assert step.again.continuation_token == state.continuation_token
    done = await flow.submit_attributes(step.again, {"displayName": "Ann", "extension_1_age": "42"})
    assert isinstance(done, Completed)


async def test_attributes_that_are_still_missing_are_asked_for_again(core: Core) -> None:
    flow, state = await core.at_attributes()
    step = await flow.submit_attributes(state, {"displayName": "Ann"})
    assert isinstance(step, AttributesRequired)
    assert [one.name for one in step.missing] == ["extension_1_age"]
    assert step.continuation_token == state.continuation_token


async def test_attributes_that_the_start_refuses_are_named(core: Core) -> None:
    core.order("policy", required_attributes=[{"name": "extension_1_age", "type": "Int64", "required": True}])
    step = await core.sign_up(attributes={"extension_1_age": "old"}).start()
    assert isinstance(step, Failed)
    assert not step.retryable
    assert step.detail == "the provider does not accept these attributes: extension_1_age"


@pytest.mark.parametrize(
    "required",
    [[], "displayName", [{"name": "\x1b[2J"}], [{"name": 7}], [{"type": "String"}], [{"name": "a"}] * 33],
)
async def test_attributes_out_of_shape_end_the_flow(required: object, core: Core) -> None:
    flow, state = await core.at_new_password()
    core.instead(400, entra_error("attributes_required", 55106, continuation_token="x", required_attributes=required))
    step = await flow.submit_password(state, NEW)
    assert isinstance(step, Failed)
    assert (step.error, step.again) == ("bad_answer", None)


async def test_a_contact_that_is_not_accepted_may_be_corrected(core: Core) -> None:
    flow, state = await core.at_registration()
    step = await flow.register_method(state, state.methods[0], "no address")
    assert isinstance(step, Failed)
    assert (step.codes, step.retryable, step.again) == ((901001,), True, state)
    core.order("policy", blocked_contacts=["blocked@contoso.example"])
    step = await flow.register_method(state, state.methods[0], "blocked@contoso.example")
    assert isinstance(step, Failed)
    assert (step.suberror, step.again) == ("provider_blocked_by_rep", state)
    assert isinstance(await flow.register_method(state, state.methods[1], "+14255550177"), CodeRequired)


@pytest.mark.parametrize("contact", ["", " ", "x" * 321, "a\nb"])
async def test_an_unusable_contact_is_not_sent(contact: str, core: Core) -> None:
    flow, state = await core.at_registration()
    calls = len(core.calls)
    step = await flow.register_method(state, state.methods[0], contact)
    assert isinstance(step, Failed) and step.again == state
    assert len(core.calls) == calls


# -- What has come about stays -----------------------------------------------------------------------------


async def test_an_account_that_was_made_is_not_made_again(core: Core) -> None:
    flow, state = await core.at_new_password()
    core.order("faults", name="refuse", endpoint="token", error="expired_token", code=552003)
    step = await flow.submit_password(state, NEW)
    assert isinstance(step, Failed)
    assert (step.done, step.is_expired) == ("account_created", True)
    assert core.paths().count(f"{SIGN_UP}/start") == 1


async def test_a_sign_up_whose_last_answer_was_lost_says_so(core: Core) -> None:
    flow, state = await core.at_new_password()
    core.vanish(sent=True)
    step = await flow.submit_password(state, NEW)
    assert isinstance(step, Failed)
    assert "may exist already" in step.detail


async def test_mfa_after_a_sign_up_is_asked_for_like_any_other(core: Core) -> None:
    core.order("policy", sign_up_mfa="register")
    flow, state = await core.at_new_password()
    step = await flow.submit_password(state, NEW)
    assert isinstance(step, RegistrationRequired)
    assert flow.done == "account_created"
    assert isinstance(await flow.register_method(step, step.methods[0], NEW_USER), Completed)  # proven already


async def test_mfa_after_a_reset_is_asked_for_like_any_other(core: Core) -> None:
    core.order("policy", conditional_access=50076)
    core.order("users", username=RESET_USER, password=RIGHT.reveal(), methods=[{"channel": "sms", "target": SMS}])
    flow, state = await core.at_reset_pending()
    step = await flow.poll(state)
    assert isinstance(step, MfaRequired)
    assert flow.done == "password_changed"


async def test_polling_goes_on_with_the_same_token_until_it_is_settled(core: Core) -> None:
    core.order("policy", reset_duration_s=5)
    flow, state = await core.at_reset_pending()
    assert state.poll_after_s == 2.0
    assert await flow.poll(state) == state
    core.now += 3
    assert await flow.poll(state) == state
    core.now += 3
    assert isinstance(await flow.poll(state), Completed)


async def test_a_poll_whose_answer_was_lost_is_asked_again(core: Core) -> None:
    flow, state = await core.at_reset_pending()
    core.vanish(sent=True)
    step = await flow.poll(state)
    assert isinstance(step, Failed) and isinstance(step.again, ResetPending)
    assert isinstance(await flow.poll(step.again), Completed)


async def test_a_reset_that_failed_may_be_submitted_again(core: Core) -> None:
    core.order("policy", reset_outcome="failed")
    flow, state = await core.at_reset_pending()
    step = await flow.poll(state)
    assert isinstance(step, Failed)
    assert (step.error, step.done) == ("password_change_failed", "")
    assert isinstance(step.again, NewPasswordRequired)
    core.order("policy", reset_outcome="succeeded")
    pending = await flow.submit_password(step.again, NEW)
    assert isinstance(pending, ResetPending)
    assert isinstance(await flow.poll(pending), Completed)


async def test_a_poll_that_expired_begins_nothing_anew(core: Core) -> None:
    flow, state = await core.at_reset_pending()
    core.instead(400, entra_error("expired_token", 552003))
    step = await flow.poll(state)
    assert isinstance(step, Failed)
    assert "may be in force already" in step.detail
    assert core.paths().count(f"{RESET}/start") == 1


@pytest.mark.parametrize(("given", "taken"), [(0, 2.0), (-1, 2.0), ("5", 2.0), (5, 5.0), (10**9, 60.0)])
async def test_the_poll_interval_is_bounded(given: object, taken: float, core: Core) -> None:
    flow, state = await core.at_reset_password()
    core.instead(200, {"continuation_token": "x", "poll_interval": given})
    step = await flow.submit_password(state, NEW)
    assert isinstance(step, ResetPending) and step.poll_after_s == taken


async def test_an_unknown_poll_status_is_no_answer(core: Core) -> None:
    flow, state = await core.at_reset_pending()
    core.instead(200, {"status": "maybe", "continuation_token": "x"})
    step = await flow.poll(state)
    assert isinstance(step, Failed) and step.error == "bad_answer"


async def test_a_reset_of_an_unknown_or_code_account_is_refused(core: Core) -> None:
    unknown = await core.reset("nobody@contoso.example").start()
    assert isinstance(unknown, Failed) and unknown.error == "user_not_found"
    by_code_only = await core.reset(OTP_USER).start()
    assert isinstance(by_code_only, Failed) and by_code_only.codes == (500222,)


# -- Answers out of shape ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"continuation_token": "x"},
        {"continuation_token": "x", "methods": []},
        {"continuation_token": "x", "methods": [{}]},
        {"continuation_token": "x", "methods": [{"id": ""}]},
        {"continuation_token": "x", "methods": [{"id": "a\x1b"}]},
        {"continuation_token": "x", "methods": [{"id": "a" * 129}]},
        {"continuation_token": "x", "methods": [{"id": "a"}] * 33},
        {"continuation_token": 7, "methods": [{"id": "a"}]},
        b"<html>",
        b"[]",
        b'{"continuation_token":"a","continuation_token":"b","methods":[{"id":"a"}]}',
    ],
)
async def test_methods_out_of_shape_end_the_flow(body: object, core: Core) -> None:
    flow, state = await core.at_password(MFA_USER)
    core.instead(400, entra_error("invalid_grant", 50076, suberror="mfa_required", continuation_token="x"))
    core.instead(200, body)
    step = await flow.submit_password(state, RIGHT)
    assert isinstance(step, Failed)
    assert step.again is None and step.detail


NEWER_METHODS = [
    {"id": "1", "challenge_type": "passkey", "challenge_channel": "device"},
    {"id": "2", "challenge_type": "oob", "challenge_channel": "sms", "login_hint": "+1****0"},
    {"id": "3", "challenge_channel": "email"},
]


@pytest.mark.parametrize(
    ("username", "suberror", "code"),
    [(MFA_USER, "mfa_required", 50076), (REGISTER_USER, "registration_required", 50079)],
)
async def test_methods_of_a_kind_that_is_not_known_are_left_out(
    username: str, suberror: str, code: int, core: Core
) -> None:
    flow, state = await core.at_password(username)
    core.instead(400, entra_error("invalid_grant", code, suberror=suberror, continuation_token="x"))
    core.instead(200, {"continuation_token": "y", "methods": NEWER_METHODS})
    step = await flow.submit_password(state, RIGHT)
    assert isinstance(step, MfaRequired | RegistrationRequired)
    assert [method.id for method in step.methods] == ["2", "3"]


async def test_methods_that_are_all_of_unknown_kinds_end_the_flow(core: Core) -> None:
    flow, state = await core.at_password(MFA_USER)
    core.instead(400, entra_error("invalid_grant", 50076, suberror="mfa_required", continuation_token="x"))
    core.instead(200, {"continuation_token": "y", "methods": NEWER_METHODS[:1]})
    step = await flow.submit_password(state, RIGHT)
    assert isinstance(step, Failed) and step.error == "bad_answer"
    assert "kind that is not known" in step.detail


async def test_a_next_step_without_its_token_ends_the_flow(core: Core) -> None:
    flow, state = await core.at_password(PASSWORD_USER)
    core.instead(400, entra_error("invalid_grant", 50076, suberror="mfa_required"))
    step = await flow.submit_password(state, RIGHT)
    assert isinstance(step, Failed) and step.error == "bad_answer"


async def test_labels_of_methods_cannot_write_to_the_terminal(core: Core) -> None:
    flow, state = await core.at_password(MFA_USER)
    core.instead(400, entra_error("invalid_grant", 50076, suberror="mfa_required", continuation_token="x"))
    method = {"id": "1", "challenge_channel": "\x07", "login_hint": "\x1b[2J" + "x" * 500}
    core.instead(200, {"continuation_token": "y", "methods": [method]})
    step = await flow.submit_password(state, RIGHT)
    assert isinstance(step, MfaRequired)
    assert step.methods[0].channel == "unknown"
    assert step.methods[0].label.isprintable() and len(step.methods[0].label) == 128


async def test_no_state_and_no_failure_shows_a_secret(core: Core) -> None:
    shown = []
    for at in CODE_STAGES.values():
        flow, state = await at(core)
        shown += [repr(flow), repr(state), repr(await flow.submit_code(state, Code("00000000")))]
        core.now += 3600  # sign-up: the same name may begin again
    for name in ("continuation_token", "oob", "password", "refresh_token", "access_token", "new_password"):
        for _, form in core.calls:
            if form.get(name):
                assert all(form[name] not in text for text in shown), name
