"""What the lab says and remembers: mode, journey, reference, guide, downloads, and find your email."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess

import pytest

from tests.lab.visitor import NEXT, visiting
from tests.watchdog import HANG_S
from token_relay.sandbox.control.find_email import TRIES_MAX, WITHIN_S
from token_relay.sandbox.lab.live import HIDDEN
from token_relay.sandbox.lab.native_calls import curl, operations
from token_relay.sandbox.lab.room import content
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, ProfileName

pytestmark = pytest.mark.asyncio

MIA, PHONE = "mfa@contoso.example", "+14255550100"


async def test_the_mode_is_switched_on_each_page_and_remembered() -> None:
    async with visiting() as visitor:
        assert "Show it as a person sees it" in (await visitor.get("guide")).words
        page = await visitor.post("mode", mode="person", back="tokens")
        assert page.place == "tokens" and "Show it to a developer" in page.words
        assert (await visitor.post("mode", mode="person", back=f"users/{MIA}")).place == f"users/{MIA}"
        assert "reference" not in (await visitor.get("")).text  # no endpoints in the list of pages either
        await visitor.post("mode", mode="developer", back="")
        assert "reference" in (await visitor.get("")).text


@pytest.mark.parametrize(
    "back", ["//other.invalid/", "https://other.invalid/", "a\r\nSet-Cookie: x=y", "x" * 300, "../x", "a/../.."]
)
async def test_a_switch_leads_to_our_pages_only(back: str) -> None:
    async with visiting() as visitor:
        page = await visitor.post("mode", mode="person", back=back)
        assert (page.status, page.place) == (200, "") and "Show it to a developer" in page.words


async def test_the_journey_is_gated_softly() -> None:
    async with visiting() as visitor:
        page = await visitor.get("journey/redirect")
        assert "First comes Native authentication" in page.words
        await visitor.walk("sign-in")
        assert "First comes Browser popup" in (await visitor.get("journey/redirect")).words
        page = await visitor.post("journey/redirect")
        assert page.place == "browser"
        start = (await visitor.get("")).words
        assert "✓ done" in start and "skipped" in start
        await visitor.sign_in_in_browser("redirect")
        assert (await visitor.get("journey/popup")).place == "browser"
        assert (await visitor.get("journey/none")).status == 404


@pytest.mark.parametrize("profile", ["auth0", "strict"])
async def test_a_profile_without_native_endpoints_says_so_and_leads_on(profile: ProfileName) -> None:
    async with visiting(profile) as visitor:
        for place in ("flows", "flows/mfa", "reference", "reference/oauth2_token"):
            page = await visitor.get(place)
            assert page.status == 200 and "has no native authentication" in page.words
            assert 'browser">Sign in by popup' in page.text
        assert (await visitor.post("flows/mfa", username="x")).status == 200
        assert "Native authentication" not in (await visitor.get("journey/popup")).words
        assert not visitor.lab.room.live.calls


async def test_each_endpoint_has_its_parameters_answers_and_errors_and_a_form_that_calls_it() -> None:
    async with visiting() as visitor:
        assert len(operations()) == 15
        await visitor.post("reference/oauth2_initiate", client_id="none", username="a@b.example", challenge_type="oob")
        for name, operation in operations().items():
            page = await visitor.get(f"reference/{name}")
            for text in (*operation.answers, *(one.name for one in operation.params), operation.path):
                assert text in page.words, (name, text)
            assert not [code for code in operation.errors if code not in page.words], name
            fields = page.values(NEXT)
            assert set(fields) == {one.name for one in operation.params}
        assert (await visitor.get("reference/none")).status == 404


async def test_the_continuation_token_flows_on_inside_the_server() -> None:
    async with visiting() as visitor:
        refused = await visitor.post("reference/oauth2_challenge", client_id="x", challenge_type="redirect")
        assert refused.status == 400 and "begin with initiate" in refused.words
        for name in ("oauth2_initiate", "oauth2_challenge", "oauth2_token"):
            fields = (await visitor.get(f"reference/{name}")).values(NEXT)
            more = {"username": "password@contoso.example"} if name == "oauth2_initiate" else {}
            more |= {"grant_type": "password"} if name == "oauth2_token" else {}
            page = await visitor.post(f"reference/{name}", **(fields | more))
            assert page.status == 200 and page.traces and await visitor.is_logged(page.traces[0])
        call = visitor.lab.room.live.calls[0]
        assert call.status == 200 and '"access_token": "(hidden)"' in call.answer
        assert call.sent["password"] == HIDDEN and call.sent["continuation_token"].startswith("…")


async def test_a_form_has_again_what_was_sent_but_no_secret() -> None:
    async with visiting() as visitor:
        for name in ("oauth2_initiate", "oauth2_challenge"):
            values = (await visitor.get(f"reference/{name}")).values(NEXT)
            values |= {"username": "otp@contoso.example"} if "username" in values else {}
            await visitor.post(f"reference/{name}", **(values | {"challenge_type": "oob redirect"}))
        page = await visitor.get("reference/oauth2_token")
        assert "mailbox of otp@contoso.example" in page.words
        values = page.values(NEXT) | {"grant_type": "oob", "oob": "000", "scope": "openid"}
        values = (await visitor.post("reference/oauth2_token", **values)).values(NEXT)
        assert (values["grant_type"], values["oob"], values["scope"]) == ("oob", "", "openid")
        assert (await visitor.get("reference/oauth2_initiate")).values(NEXT)["challenge_type"] == "oob redirect"


async def test_the_curl_line_makes_the_same_call() -> None:
    async with visiting() as visitor:
        await visitor.post("flows/sign-in", username="password@contoso.example")
        line = curl(visitor.sandbox.base_url, visitor.lab.room.live.calls[0])
        assert shlex.split(line)[0] == "curl"
        done = await _shell(line)
        assert json.loads(done)["continuation_token"].startswith("ct.")
        await visitor.post("flows/sign-in", challenge_type="password oob redirect")
        line = curl(visitor.sandbox.base_url, visitor.lab.room.live.calls[0])
        token = json.loads(done)["continuation_token"]
        assert json.loads(await _shell(f"CONTINUATION_TOKEN={token}; {line}"))["challenge_type"] == "password"


async def _shell(line: str) -> str:
    process = await asyncio.create_subprocess_shell(line, stdout=subprocess.PIPE)
    async with asyncio.timeout(HANG_S):
        out, _ = await process.communicate()
    return out.decode()


async def test_the_guide_has_every_error_that_an_endpoint_can_answer() -> None:
    known = {row[0] for row in content("lessons")["guide"]["errors"]}
    assert {error for one in operations().values() for error in one.errors} <= known
    async with visiting() as visitor:
        page = await visitor.get("guide")
        for key in ("do", "dont", "hardening"):
            assert all(text in page.words for text in content("lessons")["guide"][key])


@pytest.mark.parametrize("name", ["openapi", "postman"])
async def test_a_description_is_downloaded_whole(name: str) -> None:
    async with visiting() as visitor:
        page = await visitor.get(f"download/{name}")
        assert "attachment" in page.headers["Content-Disposition"]
        assert json.loads(page.text)["info"]
        assert (await visitor.get("download/other")).status == 400


async def test_an_email_is_found_masked_by_who_has_opted_in_only_and_few_times() -> None:
    async with visiting() as visitor:
        page = await visitor.post("find-email", phone=PHONE)
        assert "Nobody who has allowed it" in page.words
        await visitor.post("find-email", phone="+14255550199")
        nobody, not_allowed = ({**json.loads(call.answer), "trace_id": ""} for call in visitor.lab.room.live.calls)
        assert nobody == not_allowed  # nobody learns that the number is somebody's
        await visitor.post("find-email", findable=MIA, may="yes")
        page = await visitor.post("find-email", phone="+1 (425) 555-0100")
        assert "m***a@co***.example" in page.words and MIA not in page.text.partition("Who may be found")[0]
        assert await visitor.is_logged(page.traces[0])
        assert "no phone number" in (await visitor.post("find-email", phone="12")).words
        await visitor.post("find-email", findable=MIA, may="no")
        assert "Nobody who has allowed it" in (await visitor.post("find-email", phone=PHONE)).words
        for _ in range(TRIES_MAX - 3):
            page = await visitor.post("find-email", phone=PHONE)
        assert "Too many tries" in page.words and visitor.lab.room.live.calls[0].status == 429
        visitor.sandbox.provider.state.clock_offset_s += WITHIN_S
        assert "Nobody who has allowed it" in (await visitor.post("find-email", phone=PHONE)).words


async def test_nobody_of_the_default_world_may_be_found() -> None:
    assert not [user.username for user in DEFAULT_WORLD.users if user.findable_by_phone]
