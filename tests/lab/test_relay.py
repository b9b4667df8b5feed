"""The relay's page: a whole story with two real agents, through forms alone, and what each column says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lab.relay_kit import Story, story
from tests.lab.visitor import Shown, visiting
from token_relay.sandbox.marked_tokens import MARK, find_marked

TOKEN_NUMBER = re.compile(rf"{MARK}-at[\w.-]+")
OTP_USER = "otp@contoso.example"

pytestmark = pytest.mark.asyncio


def column(page: Shown, name: str) -> list[str]:
    """What stands in a column, a line each."""
    found = re.findall(rf'<li id="h-[^"]*" class="at-{name}[^"]*">(.*?)</li>', page.text, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", one).split()) for one in found]


def has(lines: list[str], *words: str) -> bool:
    return any(all(word in line for word in words) for line in lines)


async def sign_in(visitor: Story) -> Shown:
    """Sign in on the phone with a code, which is read from the mailbox by a press."""
    asking = await visitor.over(await visitor.post("relay/sign-in", username=OTP_USER, method="native"))
    assert "codes for otp@contoso.example are in the mailbox" in asking.words.lower()
    assert f'href="{visitor.lab.server.root}users/otp%40contoso.example"' in asking.text
    mail = await visitor.post(f"users/{OTP_USER}/mail", address=OTP_USER)
    code = re.search(r'class="number">(\d+)<', mail.text)
    assert code
    return await visitor.answer(asking, code[1])


async def test_pair_hand_off_cut_lose_an_answer_heal_revoke() -> None:
    pages: list[Shown] = []
    async with story() as visitor:
        first = await visitor.get("relay")
        assert "No phone and no companion run here yet." in first.words
        early = await visitor.post("relay/pair", how="itself")
        assert early.status == 400 and "phone and companion do not run" in early.words.lower()
        early = await visitor.post("relay/token")
        assert "no phone and no companion run here" in early.words.lower()
        page = await visitor.post("relay/start")
        assert page.place == "relay" and "nobody is signed in" in page.words
        unpaired = await visitor.over(await visitor.post("relay/hand-off", strategy="branch"))
        assert "phone and companion are not paired" in unpaired.words.lower()

        pages.append(await sign_in(visitor))
        assert "signed in as otp@contoso.example (works)" in (await visitor.get("relay")).words

        asking = await visitor.over(await visitor.post("relay/pair", how="itself"))
        assert (
            "the companion's invitation went over to the phone" in asking.words.lower() and "RTR1:" not in asking.text
        )
        paired = await visitor.answer(asking, "yes")
        pages.append(paired)
        await visitor.until("relay", lambda words: "paired with the phone" in words)

        pages.append(await visitor.over(await visitor.post("relay/hand-off", strategy="branch")))
        assert "the companion has the grant on its disk" in pages[-1].words.lower()
        page = await visitor.until("relay", lambda words: "Its grant works" in words and "2 refresh tokens" in words)
        phone, broker, companion, provider = (
            column(page, name) for name in ("phone", "broker", "companion", "provider")
        )
        assert has(phone, "OFFER", "→ companion", "sent") and has(phone, "The handoff was offered")
        assert has(companion, "OFFER has come", "accepted") and has(companion, "STORED", "→ phone")
        assert has(broker, "A sealed message from the phone", "→ companion", "B") and has(broker, "pairing mailbox")
        assert has(provider, "Signs a person in", OTP_USER, "trace ") and has(provider, "Takes a refresh token")
        pages.append(page)

        page = await visitor.post("relay/token")
        assert "an access token, for" in page.words.lower() and "What the token says" in page.words
        page = await visitor.post("relay/token", fresh="yes")
        assert "Difference between two tokens" in page.text
        pages.append(page)

        page = await visitor.post("orders/link", link="companion-provider", order="refuse", back="relay")
        assert page.place == "relay" and "companion-provider is cut" in page.words
        page = await visitor.post("relay/token", fresh="yes")
        assert "the same access token as before, which still serves" in page.words.lower()
        assert "The provider cannot be reached" in page.words
        page = await visitor.post("orders/link", link="all", order="heal", back="relay")
        assert "all whole" in page.words
        assert has(column(page, "provider"), "A link was changed", "companion-provider")

        await visitor.post("relay/anew")
        assert not column(await visitor.get("relay"), "broker")
        page = await visitor.post(
            "orders/fault", back="relay", name="drop_after_commit", endpoint="token", grant_type="refresh_token"
        )
        assert "drop after commit is armed" in page.words
        page = await visitor.presses_until("relay/token", lambda words: "its answer got lost" in words, fresh="yes")
        trace = next(one for one in page.traces)
        pages.append(await visitor.get(f"trouble?trace={trace}"))
        await visitor.until("relay", lambda words: "Its grant works" in words)
        await visitor.post("orders/gateway", back="relay")
        page = await visitor.presses_until("relay/token", lambda words: "fault answer" in words, fresh="yes")
        assert "none is armed" in page.words

        asking = await visitor.over(await visitor.post("relay/revoke"))
        pages.append(await visitor.answer(asking, "yes"))
        page = await visitor.until("relay", lambda words: "over: revoked" in words)
        assert has(column(page, "companion"), "REVOKE has come", "accepted")
        assert has(column(page, "companion"), "REVOKED", "→ phone")
        page = await visitor.post("relay/token")
        assert "reauth_required: " in page.words.lower()
        pages += [page, await visitor.get("trouble"), await visitor.get("log")]
        home = visitor.lab.room.ends._home("phone").parent  # type: ignore[union-attr]
    for page in pages:
        text = TOKEN_NUMBER.sub("", page.text)  # what its claim says: it names the token, and opens nothing
        assert page.status == 200 and not find_marked(text.encode()) and "eyJ" not in text, page.place
    assert not home.exists(), "the agents and their homes end with the sandbox"


async def test_a_refusal_is_followed_by_its_trace_id_from_the_companion_to_the_provider() -> None:
    async with story() as visitor:
        await visitor.post("relay/start")
        await sign_in(visitor)
        await visitor.answer(await visitor.post("relay/pair", how="itself"), "yes")
        await visitor.over(await visitor.post("relay/hand-off", strategy="branch"))
        await visitor.until("relay", lambda words: "2 refresh tokens" in words)
        asking = await visitor.post(f"users/{OTP_USER}/revoke")
        await visitor.answer(asking, "yes")
        page = await visitor.post("relay/token", fresh="yes")
        assert "reauth_required: " in page.words.lower()
        denied = next(event for event in await visitor.events() if event["kind"] == "refresh_denied")
        page = await visitor.get(f"trouble?trace={denied['trace_id']}")
        assert "Companion : The provider refused to refresh" in page.words
        assert "Provider : Refuses to refresh" in page.words
        assert "50173 all tokens of this person were revoked" in page.words


async def test_for_a_person_the_lines_of_all_four_are_behind_a_press() -> None:
    async with visiting() as visitor:
        assert "<details open><summary>The lines of all four" in (await visitor.get("relay")).text
        visitor.lab.room.memory.mode = "person"
        assert "<details><summary>The lines of all four" in (await visitor.get("relay")).text


async def test_an_invitation_is_pasted_and_a_pairing_declined() -> None:
    async with story() as visitor:
        await visitor.post("relay/start")
        asking = await visitor.over(await visitor.post("relay/pair", how="pasted"))
        invitation = re.search(r"RTR1:\S+?(?=<)", asking.text)
        assert invitation and "<textarea" in asking.text
        asking = await visitor.answer(asking, invitation[0])
        assert 'class="number"' in asking.text
        page = await visitor.answer(asking, "no")
        assert 'class="bad"' in page.text
        assert "not paired" in (await visitor.get("relay")).words


async def test_a_minted_grant_has_the_person_sign_in_once_more_in_a_browser() -> None:
    async with story("auth0") as visitor:
        page = await visitor.post("relay/start")
        assert "In a browser, at the provider&#39;s own page." in page.text or "own page" in page.words
        assert '"branch"' not in page.text
        asking = await visitor.over(await visitor.post("relay/sign-in", method="browser"))
        link = re.search(r'href="([^"]+)" target="_blank"[^>]*>Open the sign-in page', asking.text)
        assert link and link[1].startswith(visitor.sandbox.base_url)


async def test_agents_that_a_person_named_are_not_started_here(tmp_path: Path) -> None:
    async with story(environment={"TOKEN_RELAY_HOMES": str(tmp_path)}) as visitor:
        page = await visitor.post("relay/start")
        assert page.status == 400
        assert f"he agents of {tmp_path} do not run" in page.words and "token-relay phone run" in page.words
        assert not list(tmp_path.iterdir())


async def test_a_lab_without_ends_says_so_and_shows_the_provider_s_column() -> None:
    async with visiting() as visitor:
        page = await visitor.get("relay")
        assert page.status == 200 and "No phone and no companion run here yet." in page.words
        refused = await visitor.post("relay/start")
        assert refused.status == 400 and "this lab has no phone and no companion" in refused.words.lower()
        assert (await visitor.get("relay/pair")).place == "relay"
        assert (await visitor.post("relay/nothing")).status == 404
        assert (await visitor.get("relay/start")).place == (await visitor.get("relay/token")).place == "relay"
