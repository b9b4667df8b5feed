"""Sign-in by popup and redirect, from the lab's link to the tokens, at each profile; and what must not work."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.lab.visitor import visiting
from token_relay.sandbox.provider.world.model import ProfileName

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("way", ["popup", "redirect"])
@pytest.mark.parametrize("profile", ["entra", "auth0", "strict"])
async def test_a_sign_in_ends_with_tokens_and_its_exchange_is_in_the_tenant_log(profile: ProfileName, way: str) -> None:
    async with visiting(profile) as visitor:
        page = await visitor.sign_in_in_browser(way)
        assert "changed for tokens" in page.words and page.place.startswith("browser/attempts/")
        (call,) = visitor.lab.room.live.calls
        assert (call.status, call.sent["grant_type"], call.sent["code_verifier"]) == (
            200,
            "authorization_code",
            "(hidden)",
        )
        assert page.traces == [call.trace_id] and await visitor.is_logged(call.trace_id)
        assert way in visitor.lab.room.memory.done
        kept = visitor.lab.room.memory.tokens[0]
        assert kept.how == way and kept.id_token is not None
        assert "aud" in (await visitor.get(f"tokens/{kept.number}")).words


async def test_the_request_has_state_nonce_and_pkce_of_its_own() -> None:
    async with visiting() as visitor:
        first, second = [parse_qs(urlsplit(await visitor.leave("browser/begin?way=redirect")).query) for _ in range(2)]
        assert first["code_challenge_method"] == ["S256"] and first["response_type"] == ["code"]
        assert not [name for name in ("state", "nonce", "code_challenge") if first[name] == second[name]]
        assert first["redirect_uri"][0].startswith(visitor.lab.server.origin)


async def test_a_state_works_once_and_an_unknown_one_not_at_all() -> None:
    async with visiting() as visitor:
        url = await visitor.fill_in(await visitor.leave("browser/begin?way=redirect"), "password@contoso.example")
        state = parse_qs(urlsplit(url).query)["state"][0]
        assert (await visitor.come_back(url.replace(state, "x" * len(state)))).status == 400
        assert "changed for tokens" in (await visitor.come_back(url)).words
        again = await visitor.come_back(url)
        assert again.status == 400 and "is over" in again.words
        assert len(visitor.lab.room.memory.tokens) == 1


async def test_a_refusal_of_the_provider_is_told() -> None:
    async with visiting() as visitor:
        state = parse_qs(urlsplit(await visitor.leave("browser/begin?way=popup")).query)["state"][0]
        back = f"{visitor.lab.server.origin}{visitor.lab.server.root}browser/callback"
        page = await visitor.come_back(f"{back}?state={state}&error=access_denied&error_description=%3Cb%3Eno%3C/b%3E")
        assert "access_denied: <b>no</b>" in page.words and "<b>no" not in page.text
        assert not visitor.lab.room.memory.tokens


async def test_a_code_of_nobody_and_an_id_token_for_another_request_are_refused() -> None:
    async with visiting() as visitor:
        back = f"{visitor.lab.server.origin}{visitor.lab.server.root}browser/callback"
        state = parse_qs(urlsplit(await visitor.leave("browser/begin?way=popup")).query)["state"][0]
        page = await visitor.come_back(f"{back}?state={state}&code=ac.none")
        assert "invalid_grant" in page.words and page.traces
        url = await visitor.leave("browser/begin?way=redirect")
        other = re.sub(r"nonce=[^&]+", "nonce=another", url)
        page = await visitor.come_back(await visitor.fill_in(other, "password@contoso.example"))
        assert "nonce is another one" in page.words
        assert not visitor.lab.room.memory.tokens and not visitor.lab.room.memory.done


async def test_a_window_that_was_closed_leaves_a_page_that_says_so() -> None:
    async with visiting() as visitor:
        page = await visitor.get("browser")
        link = re.search(r"browser/begin\?way=popup&amp;id=([0-9a-f]+)", page.text)
        assert link
        assert (await visitor.get(f"browser/attempts/{link[1]}")).status == 400
        await visitor.leave(f"browser/begin?way=popup&id={link[1]}")
        page = await visitor.get(f"browser/attempts/{link[1]}")
        assert page.status == 200 and "closed before the sign-in ended" in page.words


async def test_no_page_holds_a_code_or_a_token() -> None:
    async with visiting() as visitor:
        url = await visitor.fill_in(await visitor.leave("browser/begin?way=redirect"), "password@contoso.example")
        code = parse_qs(urlsplit(url).query)["code"][0]
        pages = [await visitor.come_back(url), await visitor.get("tokens"), await visitor.get("tokens/1")]
        (kept,) = visitor.lab.room.memory.tokens
        secrets = [code, *(one.reveal() for one in (kept.access_token, kept.id_token, kept.refresh_token) if one)]
        assert len(secrets) == 4
        assert not [page.place for page in pages for secret in secrets if secret in page.text]
