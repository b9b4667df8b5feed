"""The native flows of the lab, done by forms: each ends as it should, and each call is in the tenant log."""

from __future__ import annotations

import json
import re

import pytest

from tests.lab.visitor import CODE, NEXT, visiting
from token_relay.sandbox.lab.flows import WRONG_CODES_MAX, flows
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, PASSWORD, AttributeModel, PolicyModel

pytestmark = pytest.mark.asyncio

NEW_PASSWORD = "Wrong-Horse-8"
CALLS = {  # what each flow has called at its end, in order
    "sign-in": "initiate challenge token",
    "mfa": "initiate challenge token introspect challenge token",
    "register": "initiate challenge token register/introspect register/challenge register/continue token",
    "add-phone": "initiate challenge token register/introspect register/challenge register/continue token",
    "sign-up": "signup/start signup/challenge signup/continue signup/challenge signup/continue token",
    "reset": "resetpassword/start resetpassword/challenge resetpassword/continue resetpassword/submit "
    "resetpassword/poll_completion token",
}


def short(path: str) -> str:
    return path.removeprefix("/contoso.onmicrosoft.com").removeprefix("/oauth2/v2.0/").replace("/v1.0", "").strip("/")


@pytest.mark.parametrize("name", CALLS)
async def test_a_flow_ends_with_tokens_and_each_call_is_in_the_tenant_log(name: str) -> None:
    async with visiting() as visitor:
        page = await visitor.walk(name, new_password=NEW_PASSWORD, password=NEW_PASSWORD if name == "sign-up" else "")
        calls = visitor.lab.room.live.calls
        assert [short(call.path) for call in reversed(calls)] == CALLS[name].split()
        assert "Tokens came" in page.words
        assert page.traces[: len(calls)] == [call.trace_id for call in calls]
        logged = {event.get("trace_id") for event in await visitor.events()}
        assert {call.trace_id for call in calls} <= logged
        assert "native" in visitor.lab.room.memory.done


async def test_an_account_that_wants_more_goes_on_in_the_flow_that_has_it() -> None:
    async with visiting() as visitor:
        page = await visitor.walk("sign-in", username="mfa@contoso.example")
        assert page.place == "flows/mfa" and "Tokens came" in page.words
        page = await visitor.walk("sign-in", username="register@contoso.example")
        assert page.place == "flows/register" and "Tokens came" in page.words


async def test_an_account_without_a_password_is_asked_for_a_code() -> None:
    async with visiting() as visitor:
        assert "Tokens came" in (await visitor.walk("sign-in", username="otp@contoso.example")).words
        assert visitor.lab.room.live.calls[0].sent["grant_type"] == "oob"


async def test_an_address_that_was_proven_is_registered_without_a_code() -> None:
    async with visiting() as visitor:
        user = "preverified@contoso.example"
        page = await visitor.walk("register", username=user, challenge_channel="email", challenge_target=user)
        assert "Tokens came" in page.words
        assert [call.sent.get("grant_type") for call in visitor.lab.room.live.calls][:2] == ["continuation_token"] * 2


async def test_a_person_is_told_what_was_wrong_and_where_the_journey_goes_on() -> None:
    async with visiting() as visitor:
        await visitor.post("mode", mode="person", back="flows/sign-in")
        asked = await visitor.post("flows/sign-in", username="password@contoso.example")
        assert "the sandbox knows it" in asked.words and " required" not in asked.text
        assert "Wrong password. Please try again." in (await visitor.post("flows/sign-in", password="nope")).words
        done = await visitor.post("flows/sign-in", password=PASSWORD)
        assert "You are signed in" in done.words and "Next in the journey: Browser popup" in done.words
        page = await visitor.post("flows/sign-up", username="new@contoso.example")
        found = CODE.search(page.text)
        assert found is not None and "formnovalidate" in page.text
        page = await visitor.post("flows/sign-up", oob=found[1])
        assert "Choose a password" in page.words and "the sandbox knows it" not in page.words
        assert re.search(r'<input[^>]*name="password"[^>]* required>', page.text)
        page = await visitor.post("flows/sign-up", password="abc")
        assert "The password is too short. Please try again." in page.words
        log = (await visitor.get("log?endpoint=signup_continue")).words
        assert "Has answered: status 400, error invalid_grant, suberror password_too_short" in log


async def test_renewal_needs_a_sign_in_first_and_then_renews() -> None:
    async with visiting() as visitor:
        refused = await visitor.post("flows/renewal", client_id=next(iter(visitor.sandbox.provider.state.clients)))
        assert refused.status == 400 and "sign in first" in refused.words
        await visitor.walk("sign-in")
        assert "Tokens came" in (await visitor.walk("renewal")).words
        newest, before = visitor.lab.room.memory.tokens
        assert (newest.how, before.how, newest.username) == ("renewed", "native", before.username)


async def test_a_redirect_is_a_way_on_and_no_failure() -> None:
    async with visiting() as visitor:
        page = await visitor.walk("redirect")
        assert visitor.lab.room.live.calls[0].status == 200
        assert "goes on in the browser" in page.words and "Three wrong" not in page.words


async def test_wrong_codes_end_a_run_after_three_and_a_new_code_may_be_asked_for() -> None:
    async with visiting() as visitor:
        for _ in range(2):
            page = await visitor.post("flows/sign-in", username="otp@contoso.example")
        first = CODE.search(page.text)
        page = await visitor.post("flows/sign-in", resend="yes")
        second = CODE.search(page.text)
        assert first and second and first[1] != second[1]
        for left in reversed(range(WRONG_CODES_MAX)):
            page = await visitor.post("flows/sign-in", oob="00000000" if second[1] != "00000000" else "1")
            assert (NEXT in page.text) == (left > 0)
        assert "Three wrong codes" in page.words
        assert NEXT in (await visitor.post("flows/sign-in", again="yes")).text


async def test_what_a_tenant_asks_of_newcomers_is_asked_for() -> None:
    world = DEFAULT_WORLD.model_copy(update={"policy": PolicyModel(required_attributes=[AttributeModel(name="city")])})
    async with visiting(world=world) as visitor:
        page = await visitor.walk("sign-up", password=NEW_PASSWORD, attributes='{"city": "Oslo"}')
        assert "Tokens came" in page.words
        assert visitor.sandbox.provider.state.users["newcomer-1@contoso.example"].attributes == {"city": "Oslo"}


async def test_a_reset_that_takes_a_while_is_asked_for_again() -> None:
    world = DEFAULT_WORLD.model_copy(update={"policy": PolicyModel(reset_duration_s=3600)})
    async with visiting(world=world) as visitor:
        for fields in ({}, {}, {"oob": "code"}, {"new_password": NEW_PASSWORD}, {}):
            page = await visitor.get("flows/reset")
            found = CODE.search(page.text)
            page = await visitor.post("flows/reset", **(fields | ({"oob": found[1]} if found else {})))
        assert "not yet" in page.words and "poll_completion" in visitor.lab.room.live.calls[0].path
        visitor.sandbox.provider.state.clock_offset_s += 3601
        assert "Tokens came" in (await visitor.walk("reset")).words


async def test_a_person_sees_words_and_only_what_they_are_asked() -> None:
    async with visiting() as visitor:
        await visitor.post("mode", mode="person", back="flows/mfa")
        page = await visitor.get("flows/mfa")
        seen = [page]
        for fields in ({"username": "mfa@contoso.example"}, {"password": PASSWORD}, {}, {}):
            values = page.values(NEXT)
            assert set(values) <= {"username", "password", "id", "oob"}, values
            found = CODE.search(page.text)
            page = await visitor.post("flows/mfa", **(values | fields | ({"oob": found[1]} if found else {})))
            seen.append(page)
        assert "You are signed in" in page.words
        for one in seen:
            assert not {
                word
                for word in ("oauth2", "initiate", "continuation_token", "{", "grant_type", "trace")
                if word in one.words
            }
        assert len(visitor.lab.room.live.calls) == 6


async def test_no_page_of_a_flow_holds_a_password_or_a_token() -> None:
    async with visiting() as visitor:
        pages = [await visitor.walk(name, new_password=NEW_PASSWORD) for name in ("sign-in", "mfa", "reset", "renewal")]
        pages += [await visitor.get(place) for place in ("", "flows", "tokens", "tokens/1", "tokens/difference")]
        kept = visitor.lab.room.memory.tokens
        secrets = [PASSWORD, NEW_PASSWORD]
        for one in kept:
            secrets += [token.reveal() for token in (one.access_token, one.id_token, one.refresh_token) if token]
        for page in pages:
            assert not [secret for secret in secrets if secret in page.text], page.place


async def test_each_flow_has_a_page_and_an_unknown_one_is_refused() -> None:
    async with visiting() as visitor:
        for name, flow in flows().items():
            assert flow.title in (await visitor.get(f"flows/{name}")).words
        assert (await visitor.get("flows/none")).status == 404


async def test_without_an_answer_the_page_says_so() -> None:
    async with visiting() as visitor:
        await visitor.order("faults", name="down")
        page = await visitor.post("flows/sign-in", username="password@contoso.example")
        assert page.status == 200 and "no answer to POST" in page.words
        assert "Tokens came" in (await visitor.walk("sign-in")).words


ORDERS = [
    {"name": "html"},
    {"name": "redirect"},
    {"name": "cut_json"},
    {"name": "huge", "size": 1_048_576},
    {"name": "error_503"},
    {"name": "throttle_429"},
    {"name": "answer", "answer": {"status": 200, "headers": [["Content-Type", "application/json"]], "body": "[1]"}},
    {"name": "answer", "answer": {"status": 200, "body": json.dumps({"continuation_token": "x" * 20_000})}},
    {"name": "answer", "answer": {"status": 200, "body": json.dumps({"access_token": 7, "methods": [1, {"id": []}]})}},
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: str(order)[:40])
async def test_what_a_gateway_or_a_fault_answers_is_shown_and_is_no_success(order: dict[str, object]) -> None:
    async with visiting() as visitor:
        await visitor.order("faults", **order)
        page = await visitor.post("flows/sign-in", username="password@contoso.example")
        assert page.status == 200 and page.traces and "Tokens came" not in page.words
        is_step = "continuation_token" in str(order) or "access_token" in str(order)
        assert ("username" in page.values(NEXT)) != is_step, "what is no answer moves nothing on"
        await visitor.post("flows/sign-in", again="yes")
        assert "Tokens came" in (await visitor.walk("sign-in")).words
