"""Tokens in words, the difference of two, and the text that comes on request only."""

from __future__ import annotations

import pytest

from tests.lab.visitor import visiting
from token_relay.sandbox.marked_tokens import find_marked

pytestmark = pytest.mark.asyncio


async def test_a_renewal_changes_times_and_nothing_else_of_the_person() -> None:
    async with visiting() as visitor:
        await visitor.walk("sign-in")
        visitor.sandbox.provider.state.clock_offset_s += 600
        await visitor.walk("renewal")
        page = await visitor.get("tokens/difference?before=1&after=2")
        for said in ("iat changed", "exp changed", "oid same", "aud same", "sub same"):
            assert f" {said} " in page.words
        assert page.words.index("exp changed") < page.words.index("oid same")


async def test_two_people_differ_in_who_they_are() -> None:
    async with visiting() as visitor:
        await visitor.walk("sign-in")
        await visitor.walk("sign-in", username="reset@contoso.example")
        page = await visitor.get("tokens/difference?before=1&after=2&kind=id_token")
        assert "preferred_username changed password@contoso.example reset@contoso.example" in page.words
        assert "selected>id_token" in page.text


async def test_a_text_comes_without_its_signature_and_whole_when_asked_again() -> None:
    async with visiting() as visitor:
        await visitor.walk("sign-in")
        token = visitor.lab.room.memory.tokens[0].access_token
        assert token is not None
        head, _, signature = token.reveal().rpartition(".")
        page = await visitor.get("tokens/1?raw=access_token&signature=yes")
        assert head not in page.text
        page = await visitor.post("tokens/1", raw="access_token")
        assert head in page.text and signature not in page.text
        page = await visitor.post("tokens/1", raw="access_token", signature="yes")
        assert token.reveal() in page.text and page.headers["Cache-Control"] == "no-store"
        refresh_token = visitor.lab.room.memory.tokens[0].refresh_token
        assert refresh_token is not None
        page = await visitor.post("tokens/1", raw="refresh_token", signature="yes")
        assert refresh_token.reveal() not in page.text


async def test_an_opaque_token_is_said_to_be_one() -> None:
    async with visiting("auth0") as visitor:
        await visitor.sign_in_in_browser("redirect")
        page = await visitor.get("tokens/1")
        assert "Opaque: only its issuer can read it" in page.words and "preferred_username" not in page.words
        await visitor.sign_in_in_browser("redirect")
        assert "no such token that can be read" in (await visitor.get("tokens/difference")).words
        assert "sub" in (await visitor.get("tokens/difference?kind=id_token&before=1&after=2")).words


@pytest.mark.parametrize("place", ["tokens/7", "tokens/x", "tokens/difference?before=7&after=8"])
async def test_tokens_that_are_not_kept_are_refused_with_a_sentence(place: str) -> None:
    async with visiting() as visitor:
        page = await visitor.get(place)
        assert page.status == 400 and "keeps the newest" in page.words
        assert "Two answers with tokens are needed" in (await visitor.get("tokens/difference")).words


async def test_a_person_reads_who_they_are_and_until_when() -> None:
    async with visiting() as visitor:
        await visitor.walk("sign-in")
        await visitor.post("mode", mode="person", back="")
        page = await visitor.get("tokens/1")
        assert "the person's name: Pat Password" in page.words and "ends: in " in page.words
        assert not {word for word in ("uti", "RS256", "aud", "access_token", "signature") if word in page.words.split()}


async def test_no_page_of_tokens_shows_a_marked_one() -> None:
    async with visiting() as visitor:
        await visitor.walk("sign-in")
        await visitor.walk("renewal")
        for place in ("tokens", "tokens/1", "tokens/2", "tokens/difference", "flows/renewal"):
            assert not find_marked((await visitor.get(place)).text.encode()), place
        assert find_marked((await visitor.post("tokens/1", raw="access_token")).text.encode())
