"""Native sign-in against a scripted tenant: the sequences of the API reference, and what goes wrong in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.provider.provider_kit import (
    CODE,
    CORRELATION_ID,
    GOOD,
    MARK,
    PASSWORD,
    TRACE_ID,
    ScriptedProvider,
    assert_no_secret,
    entra_error,
)
from token_relay.host.http import AioHttp
from token_relay.protocol.errors import ConfigError
from token_relay.protocol.secret import Code, RefreshToken
from token_relay.provider.discovery import DiscoveryFailed, ProviderMetadata
from token_relay.provider.native_auth.endpoints import (
    discover_entra,
    entra_discovery_url,
    entra_token_endpoint,
    native_base,
)
from token_relay.provider.native_auth.service import Service
from token_relay.provider.native_auth.sign_in import SignInFlow
from token_relay.provider.native_auth.states import CodeRequired, Completed, Failed, PasswordRequired, Redirect
from token_relay.provider.profile import ENTRA

pytestmark = pytest.mark.asyncio

T = "/contoso.onmicrosoft.com"
INITIATE = f"{T}/oauth2/v2.0/initiate"
CHALLENGE = f"{T}/oauth2/v2.0/challenge"
TOKEN = f"{T}/oauth2/v2.0/token"


def continuation(number: int, **more: object) -> dict[str, object]:
    return {"continuation_token": f"{MARK}-ct-{number}"} | more


def oob(number: int, **more: object) -> dict[str, object]:
    body: dict[str, object] = {
        "challenge_type": "oob",
        "binding_method": "prompt",
        "challenge_channel": "email",
        "challenge_target_label": "c***r@co**o**o.com",
        "code_length": 8,
    }
    return continuation(number) | body | more


@pytest_asyncio.fixture
async def tenant() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as provider:
        yield provider


@pytest_asyncio.fixture
async def flow(tenant: ScriptedProvider) -> AsyncIterator[SignInFlow]:
    http = AioHttp()
    yield SignInFlow(Service(http, ENTRA, native_base(tenant.base, "contoso"), "app"), "ann@example.com")
    await http.close()


async def at_password(tenant: ScriptedProvider, flow: SignInFlow) -> PasswordRequired:
    tenant.script(INITIATE, 200, continuation(1)).script(CHALLENGE, 200, continuation(2, challenge_type="password"))
    state = await flow.start()
    assert isinstance(state, PasswordRequired)
    return state


async def at_code(tenant: ScriptedProvider, flow: SignInFlow) -> CodeRequired:
    tenant.script(INITIATE, 200, continuation(1)).script(CHALLENGE, 200, oob(2))
    state = await flow.start()
    assert isinstance(state, CodeRequired)
    return state


async def test_password_sign_in_makes_the_three_documented_calls(tenant: ScriptedProvider, flow: SignInFlow) -> None:
    state = await at_password(tenant, flow)
    tenant.script(TOKEN, 200, GOOD)
    step = await flow.submit_password(state, PASSWORD)
    assert isinstance(step, Completed)
    assert step.tokens.refresh_token == RefreshToken(f"{MARK}-rt-1")
    assert [(seen.method, seen.path) for seen in tenant.seen] == [
        ("POST", INITIATE),
        ("POST", CHALLENGE),
        ("POST", TOKEN),
    ]
    assert [seen.form for seen in tenant.seen] == [
        {"client_id": "app", "username": "ann@example.com", "challenge_type": "password oob redirect"},
        {"client_id": "app", "continuation_token": f"{MARK}-ct-1", "challenge_type": "password oob redirect"},
        {
            "client_id": "app",
            "grant_type": "password",
            "continuation_token": f"{MARK}-ct-2",
            "scope": "openid profile offline_access",
            "client_info": "1",
            "password": f"{MARK}-password",
        },
    ]
    assert_no_secret(state, step, flow)


async def test_code_sign_in_says_where_the_code_went(tenant: ScriptedProvider, flow: SignInFlow) -> None:
    state = await at_code(tenant, flow)
    assert (state.target_label, state.code_length, state.channel) == ("c***r@co**o**o.com", 8, "email")
    tenant.script(TOKEN, 200, GOOD)
    assert isinstance(await flow.submit_code(state, CODE), Completed)
    form = tenant.forms(TOKEN)[0]
    assert (form["grant_type"], form["oob"], form["continuation_token"]) == ("oob", f"{MARK}-code", f"{MARK}-ct-2")


async def test_capabilities_are_declared_only_when_there_are_some(tenant: ScriptedProvider, flow: SignInFlow) -> None:
    flow.service = replace(flow.service, capabilities=("mfa_required", "registration_required"))
    await at_password(tenant, flow)
    assert tenant.forms(INITIATE)[0]["capabilities"] == "mfa_required registration_required"


async def test_a_wrong_password_may_be_tried_again_with_the_same_token(
    tenant: ScriptedProvider, flow: SignInFlow
) -> None:
    state = await at_password(tenant, flow)
    tenant.script(TOKEN, 400, entra_error("invalid_grant", 50126)).script(TOKEN, 200, GOOD)
    step = await flow.submit_password(state, PASSWORD)
    assert step == Failed(
        retryable=True,
        error="invalid_grant",
        codes=(50126,),
        trace_id=TRACE_ID,
        correlation_id=CORRELATION_ID,
        detail="wrong password",
        again=state,
    )
    assert_no_secret(step)
    assert isinstance(await flow.submit_password(state, PASSWORD), Completed)
    first, second = tenant.forms(TOKEN)
    assert first["continuation_token"] == second["continuation_token"]


async def test_a_newer_token_in_an_error_replaces_the_older(tenant: ScriptedProvider, flow: SignInFlow) -> None:
    state = await at_password(tenant, flow)
    tenant.script(TOKEN, 400, entra_error("invalid_grant", 50126) | continuation(9))
    step = await flow.submit_password(state, PASSWORD)
    assert isinstance(step, Failed)
    assert step.again == PasswordRequired(Code(f"{MARK}-ct-9"))


async def test_a_code_gets_three_tries_and_a_resend_gives_three_more(
    tenant: ScriptedProvider, flow: SignInFlow
) -> None:
    state = await at_code(tenant, flow)
    left: list[int] = []
    for _ in range(3):
        tenant.script(TOKEN, 400, entra_error("invalid_grant", suberror="invalid_oob_value"))
        step = await flow.submit_code(state, CODE)
        assert isinstance(step, Failed)
        assert isinstance(step.again, CodeRequired)
        state = step.again
        left.append(state.tries_left)
    assert left == [2, 1, 0]
    step = await flow.submit_code(state, CODE)
    assert isinstance(step, Failed)
    assert step.error == "too_many_tries"
    assert len(tenant.forms(TOKEN)) == 3  # the fourth try never reached the provider

    tenant.script(CHALLENGE, 200, oob(3, interval=30))
    again = await flow.resend(state)
    assert again == CodeRequired(
        "c***r@co**o**o.com", 8, "email", Code(f"{MARK}-ct-3"), resend_after_s=30.0, tries_left=3
    )
    assert tenant.forms(CHALLENGE)[1]["continuation_token"] == f"{MARK}-ct-2"


async def test_an_expired_flow_begins_anew_once_and_sends_the_password_again(
    tenant: ScriptedProvider, flow: SignInFlow
) -> None:
    state = await at_password(tenant, flow)
    tenant.script(TOKEN, 400, entra_error("expired_token", 552003))
    tenant.script(INITIATE, 200, continuation(3)).script(CHALLENGE, 200, continuation(4, challenge_type="password"))
    tenant.script(TOKEN, 400, entra_error("expired_token", 552003))
    step = await flow.submit_password(state, PASSWORD)
    assert isinstance(step, Failed)
    assert (step.error, step.retryable, step.again) == ("expired_token", True, None)
    assert [form["continuation_token"] for form in tenant.forms(TOKEN)] == [f"{MARK}-ct-2", f"{MARK}-ct-4"]
    assert len(tenant.forms(INITIATE)) == 2
    tenant.script(TOKEN, 400, entra_error("expired_token", 552003))
    await flow.submit_password(state, PASSWORD)
    assert len(tenant.forms(INITIATE)) == 2  # once per sign-in, not once per step


async def test_an_expired_code_flow_asks_for_the_new_code(tenant: ScriptedProvider, flow: SignInFlow) -> None:
    state = await at_code(tenant, flow)
    tenant.script(TOKEN, 400, entra_error("expired_token", 552003))
    tenant.script(INITIATE, 200, continuation(3)).script(CHALLENGE, 200, oob(4))
    step = await flow.submit_code(state, CODE)
    assert isinstance(step, CodeRequired)
    assert step.continuation_token == Code(f"{MARK}-ct-4")


@pytest.mark.parametrize("stage", [INITIATE, CHALLENGE, TOKEN])
async def test_every_step_may_send_the_person_to_a_browser(
    stage: str, tenant: ScriptedProvider, flow: SignInFlow
) -> None:
    redirect = {"challenge_type": "redirect", "redirect_reason": f"{MARK} lacks registration_required \x1b[0m"}
    if stage != TOKEN:
        if stage == CHALLENGE:
            tenant.script(INITIATE, 200, continuation(1))
        tenant.script(stage, 200, redirect)
        step = await flow.start()
    else:
        state = await at_password(tenant, flow)
        tenant.script(TOKEN, 200, redirect)
        step = await flow.submit_password(state, PASSWORD)
    assert step == Redirect("the provider wants a browser for this account (registration_required)")


@pytest.mark.parametrize("suberror", ["mfa_required", "registration_required"])
async def test_a_second_factor_leads_to_the_browser(suberror: str, tenant: ScriptedProvider, flow: SignInFlow) -> None:
    state = await at_password(tenant, flow)
    tenant.script(TOKEN, 400, entra_error("invalid_grant", 50076, suberror=suberror) | continuation(5))
    step = await flow.submit_password(state, PASSWORD)
    assert isinstance(step, Redirect)
    assert suberror in step.reason


@pytest.mark.parametrize(
    ("error", "code", "suberror", "says"),
    [
        ("user_not_found", 50034, "", "knows no account"),
        ("invalid_client", 7000218, "nativeauthapi_disabled", "not switched on"),
        ("unauthorized_client", 700016, "", "does not know this client_id"),
        ("invalid_request", 90100, "", "empty or invalid"),
        ("unsupported_challenge_type", 901007, "", "ways of signing in"),
        ("made_up_by_the_provider", 1, "", "refused this step"),
    ],
)
async def test_a_refused_start_is_final_and_said_in_our_words(
    error: str, code: int, suberror: str, says: str, tenant: ScriptedProvider, flow: SignInFlow
) -> None:
    tenant.script(INITIATE, 400, entra_error(error, code, suberror=suberror))
    step = await flow.start()
    assert isinstance(step, Failed)
    assert not step.retryable
    assert (step.error, step.codes, step.again) == (error, (code,), None)
    assert says in step.detail
    assert_no_secret(step)


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [("invalid_request", 50142, False), ("invalid_grant", 50053, True), ("invalid_grant", 55200, True)],
)
async def test_other_refusals_of_a_password(
    error: str, code: int, retryable: bool, tenant: ScriptedProvider, flow: SignInFlow
) -> None:
    state = await at_password(tenant, flow)
    tenant.script(TOKEN, 400, entra_error(error, code))
    step = await flow.submit_password(state, PASSWORD)
    assert isinstance(step, Failed)
    assert step.retryable == retryable
    assert step.detail
    assert (step.again is not None) == (code == 50053)  # locked for a while: the same state serves later


async def test_a_throttled_step_keeps_its_state_and_an_unknown_one_begins_anew(
    tenant: ScriptedProvider, flow: SignInFlow
) -> None:
    state = await at_password(tenant, flow)
    tenant.script(TOKEN, 429, b"", {"Retry-After": "12"}).script(TOKEN, 500, b"<html>")
    throttled = await flow.submit_password(state, PASSWORD)
    assert isinstance(throttled, Failed)
    assert (throttled.error, throttled.retry_after_s, throttled.again) == ("unavailable", 12.0, state)
    unknown = await flow.submit_password(state, PASSWORD)
    assert isinstance(unknown, Failed)
    assert (unknown.error, unknown.retryable, unknown.again) == ("outcome_unknown", True, None)


@pytest.mark.parametrize(
    ("initiate", "challenge"),
    [
        ({}, {}),
        ({"continuation_token": 7}, {}),
        (b"<html>", {}),
        (continuation(1), {"challenge_type": "password"}),
        (continuation(1), continuation(2, challenge_type="preverified")),
        (continuation(1), continuation(2, challenge_type=["password"])),
    ],
)
async def test_an_answer_out_of_shape_ends_the_sign_in_with_a_sentence(
    initiate: object, challenge: object, tenant: ScriptedProvider, flow: SignInFlow
) -> None:
    tenant.script(INITIATE, 200, initiate).script(CHALLENGE, 200, challenge)
    step = await flow.start()
    assert isinstance(step, Failed)
    assert step.detail


@pytest.mark.parametrize("length", [0, -1, "8", 10**9, None, True, [8]])
async def test_a_code_whose_length_is_not_told_is_asked_for_all_the_same(
    length: object, tenant: ScriptedProvider, flow: SignInFlow
) -> None:
    tenant.script(INITIATE, 200, continuation(1)).script(CHALLENGE, 200, oob(2, code_length=length))
    step = await flow.start()
    assert isinstance(step, CodeRequired)
    assert step.code_length == 0


async def test_a_label_cannot_write_to_the_terminal(tenant: ScriptedProvider, flow: SignInFlow) -> None:
    label = "\x1b[2J\u202eevil" + "x" * 500
    tenant.script(INITIATE, 200, continuation(1)).script(
        CHALLENGE, 200, oob(2, challenge_target_label=label, challenge_channel="\x07", interval=10**9)
    )
    step = await flow.start()
    assert isinstance(step, CodeRequired)
    assert step.target_label.isprintable()
    assert len(step.target_label) == 128
    assert step.channel == "unknown"
    assert step.resend_after_s == 600.0


@pytest.mark.parametrize("username", ["", "x" * 321, "a\nb"])
async def test_an_unusable_user_name_is_not_sent(username: str, tenant: ScriptedProvider, flow: SignInFlow) -> None:
    flow.username = username
    step = await flow.start()
    assert isinstance(step, Failed)
    assert not step.retryable
    assert tenant.seen == []


# -- Where it happens --------------------------------------------------------------------------------------

GUID = "0f6a1b2c-1111-4222-8333-444455556666"


@pytest.mark.parametrize(
    ("url", "tenant", "base"),
    [
        ("https://contoso.ciamlogin.com", "contoso", "https://contoso.ciamlogin.com/contoso.onmicrosoft.com"),
        ("https://contoso.ciamlogin.com/", None, "https://contoso.ciamlogin.com/contoso.onmicrosoft.com"),
        ("https://contoso.ciamlogin.com", GUID, f"https://contoso.ciamlogin.com/{GUID}"),
        ("https://login.contoso.com", "contoso.onmicrosoft.com", "https://login.contoso.com/contoso.onmicrosoft.com"),
        (f"https://login.contoso.com/{GUID}/", None, f"https://login.contoso.com/{GUID}"),
        # An issuer, which ends in /v2.0, given as the provider's URL.
        (f"https://login.contoso.com/{GUID}/v2.0", None, f"https://login.contoso.com/{GUID}"),
        (f"https://{GUID}.ciamlogin.com/{GUID}/v2.0/", GUID, f"https://{GUID}.ciamlogin.com/{GUID}"),
        ("https://contoso.ciamlogin.com/v2.0", None, "https://contoso.ciamlogin.com/contoso.onmicrosoft.com"),
        ("http://127.0.0.1:8400", "contoso", "http://127.0.0.1:8400/contoso.onmicrosoft.com"),
        ("http://127.0.0.1:8400/contoso.onmicrosoft.com", "contoso", "http://127.0.0.1:8400/contoso.onmicrosoft.com"),
    ],
)
async def test_the_base_of_the_endpoints(url: str, tenant: str | None, base: str) -> None:
    assert native_base(url, tenant) == base
    assert entra_token_endpoint(base) == f"{base}/oauth2/v2.0/token"
    assert entra_discovery_url(base) == f"{base}/v2.0/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("url", "tenant"),
    [
        ("http://contoso.ciamlogin.com", "contoso"),
        ("https://login.contoso.com", None),
        ("https://login.contoso.com", "../other"),
        ("https://login.contoso.com", "a..b"),
        ("https://login.contoso.com", "a/b"),
        ("https://login.contoso.com/other", "contoso"),
        ("https://login.contoso.com?x=1", "contoso"),
        ("contoso", "contoso"),
    ],
)
async def test_a_base_that_cannot_be_built_is_a_configuration_error(url: str, tenant: str | None) -> None:
    with pytest.raises(ConfigError):
        native_base(url, tenant)


async def test_a_tenants_document_names_its_issuer_by_guid(tenant: ScriptedProvider) -> None:
    base = native_base(tenant.base, "contoso")
    issuer = f"https://{GUID}.ciamlogin.com/{GUID}/v2.0"
    document = {
        "issuer": issuer,
        "token_endpoint": f"{tenant.base}/{GUID}/oauth2/v2.0/token",
        "jwks_uri": f"{tenant.base}/{GUID}/discovery/v2.0/keys",
    }
    tenant.script(f"{T}/v2.0/.well-known/openid-configuration", 200, document)
    http = AioHttp()
    found = await discover_entra(http, base)
    missing = await discover_entra(http, f"{tenant.base}/nobody")
    await http.close()
    assert found == ProviderMetadata(
        issuer, f"{base}/oauth2/v2.0/token", jwks_uri=f"{tenant.base}/{GUID}/discovery/v2.0/keys"
    )
    assert isinstance(missing, DiscoveryFailed)
