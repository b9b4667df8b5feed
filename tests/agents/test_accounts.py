"""Right account: nobody's grant is handed off, signed out or answered with that the person did not mean."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from tests.agents.test_browser_sign_in import Browser, Provider, put_in, sign_in
from tests.agents.world_kit import Nobody, World, running
from token_relay.agents.phone.agent import HandoffWish
from token_relay.agents.phone.person import SignInOptions
from token_relay.agents.records import AuditEvent, Grant, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.protocol.errors import ConfigError, LocalError, PersonNeededError
from token_relay.provider.http import HttpRequest
from token_relay.sandbox.provider.world.model import PASSWORD

pytestmark = pytest.mark.asyncio
FIRST, SECOND = "password@contoso.example", "reset@contoso.example"


class Chooser:
    """A person who knows the password, and chooses by what is shown."""

    def __init__(self, chooses: str) -> None:
        self.chooses = chooses
        self.offered: list[str] = []
        self.asked: list[str] = []

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        self.asked.append(str(kind))
        if kind == "password":
            return PASSWORD
        if kind != "choice":
            return None
        assert extra["hint"] == "--account ACCOUNT"
        self.offered = [one["text"] for one in extra["choices"]]
        return next((str(one["value"]) for one in extra["choices"] if one["text"] == self.chooses), None)

    async def progress(self, step: dict[str, Any]) -> None:
        return None


async def hand_off(world: World, person: Any = None, **wish: Any) -> PhoneHandoff:
    person = person or Nobody(password=PASSWORD)
    return await world.within(world.phone.agent.hand_off("watch", HandoffWish(**wish), person))


@pytest.mark.parametrize("newest", [FIRST, SECOND])
@pytest.mark.parametrize("strategy", ["branch", "move"])
async def test_the_account_that_is_named_or_chosen_is_handed_off_whoever_signed_in_last(
    strategy: str, newest: str
) -> None:
    async with running() as world:
        await world.phone.sign_in(SECOND)
        await world.phone.sign_in(newest)
        with pytest.raises(PersonNeededError, match="no account was chosen"):
            await hand_off(world, strategy=strategy)
        assert await world.phone.rows(PhoneHandoff) == [], "nothing was offered"
        for word in ("ann@contoso.example", "password", ""):
            with pytest.raises((LocalError, PersonNeededError)):
                await hand_off(world, strategy=strategy, account=word)
        person = Chooser(FIRST)
        row = await hand_off(world, person, strategy=strategy)
        assert (row.state, row.account, sorted(person.offered)) == ("done", FIRST, [FIRST, SECOND])
        assert (await world.watch.grant()).account == FIRST
        row = await hand_off(world, strategy="branch", account=SECOND.upper())
        assert (row.state, row.account) == ("done", SECOND)


async def test_two_accounts_of_one_name_are_shown_apart() -> None:
    async with running() as world:
        first = await world.phone.one(Grant)
        other = replace(first, grant_id="f" * 32, subject="another person")
        await world.phone.vault.run(lambda tx: tx.put(other))
        texts = [f"{FIRST} ({subject} at {first.issuer})" for subject in (first.subject, "another person")]
        person = Chooser(texts[0])
        assert (await hand_off(world, person)).subject == first.subject
        assert sorted(person.offered) == sorted(texts)
        with pytest.raises(PersonNeededError):  # the name alone says too little
            await hand_off(world, account=FIRST)


async def test_an_account_that_looks_like_another_is_shown_with_its_subject() -> None:
    async with running() as world:
        first = await world.phone.one(Grant)
        other = replace(first, grant_id="f" * 32, subject="another person", account=FIRST.replace("a", "\u0430"))
        await world.phone.vault.run(lambda tx: tx.put(other))
        at = f"at {first.issuer})"
        person = Chooser(f"{FIRST} ({first.subject} {at}")
        assert (await hand_off(world, person)).subject == first.subject
        assert set(person.offered) == {f"{FIRST} ({first.subject} {at}", f"{other.account} (another person {at}"}


@pytest.mark.parametrize("strategy", [None, "branch", "move"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sign_in": SignInOptions(username=FIRST)}, "--username"),
        ({"sign_in_options": ("--browser", "--no-open")}, "--browser and --no-open"),
        ({"sign_in_options": ("--password-file",)}, "--password-file"),
    ],
)
async def test_the_options_of_a_sign_in_are_refused_where_nobody_signs_in(
    strategy: Any, given: dict[str, Any], said: str
) -> None:
    async with running() as world:
        with pytest.raises(ConfigError, match=f"does not sign in, so {said} would not be heeded") as refused:
            await hand_off(world, strategy=strategy, **given)
        assert "--account" in refused.value.hint and await world.phone.rows(PhoneHandoff) == []


async def test_an_open_handoff_is_joined_only_by_who_means_it() -> None:
    async with running() as world:
        await world.phone.sign_in(SECOND)
        await world.watch.crash()
        row = await hand_off(world, account=FIRST, wait_s=0)
        for wish in ({}, {"account": FIRST}, {"strategy": "branch"}):
            assert (await hand_off(world, wait_s=0, **wish)).handoff_id == row.handoff_id, "nobody is asked again"
        with pytest.raises(LocalError, match=f"a handoff of {FIRST} to watch is open"):
            await hand_off(world, account=SECOND)
        with pytest.raises(LocalError, match="with strategy branch to watch is open"):
            await hand_off(world, strategy="move")
        with pytest.raises(ConfigError):
            await hand_off(world, sign_in=SignInOptions(username=FIRST))
        assert len(await world.phone.rows(PhoneHandoff)) == 1


async def test_who_signs_in_for_a_mint_is_named_or_chosen() -> None:
    async with running() as world:
        await world.phone.sign_in(SECOND)
        with pytest.raises(PersonNeededError, match="no account was chosen"):
            await hand_off(world, strategy="mint")
        person = Chooser(FIRST)
        row = await hand_off(world, person, strategy="mint")
        assert (row.state, row.account, person.asked) == ("done", FIRST, ["choice", "password"])
        row = await hand_off(world, strategy="mint", account=SECOND)
        assert (row.state, row.account) == ("done", SECOND)
        with pytest.raises(ConfigError, match="name two people"):
            await hand_off(world, strategy="mint", account=FIRST, sign_in=SignInOptions(username=SECOND))


async def test_a_mint_in_the_browser_goes_to_the_account_that_was_named_and_to_no_other() -> None:
    async with running("strict", paired=False) as world:
        await world.pair()
        provider = Provider(Browser())
        provider.claims = {"preferred_username": "ann@contoso.example", "sub": "ann"}
        assert (await sign_in(world, provider)).account == "ann@contoso.example"
        wish = HandoffWish(strategy="mint", account="ann@contoso.example")
        stranger = Provider(Browser())
        stranger.claims = {"preferred_username": "bob@contoso.example", "sub": "bob"}
        put_in(world, stranger, stranger.browser, "openid offline_access")
        with pytest.raises(LocalError, match=r"bob@contoso.example signed in, not ann@contoso.example") as refused:
            await world.within(world.phone.agent.hand_off("watch", wish, stranger.browser), seconds=3_600)
        assert "private browser window" in refused.value.hint
        assert "login_hint=ann%40contoso.example" in stranger.browser.url
        row = await world.phone.handoff()
        assert (row.state, row.reason, row.is_obtaining, row.orphans) == ("offered", "accepted", False, 1)
        assert await world.watch.rows(Grant) == []
        again = Provider(Browser())  # the provider calls her otherwise now; her subject is the same
        again.claims = {"preferred_username": "ann.new@contoso.example", "sub": "ann"}
        put_in(world, again, again.browser, "openid offline_access")
        row = await world.within(world.phone.agent.hand_off("watch", wish, again.browser), seconds=3_600)
        assert (row.state, row.subject) == ("done", "ann")
        bobs = replace(wish, account="bob@contoso.example")  # who has never signed in here
        stranger.browser = Browser()
        put_in(world, stranger, stranger.browser, "openid offline_access")
        row = await world.within(world.phone.agent.hand_off("watch", bobs, stranger.browser), seconds=3_600)
        assert (row.state, row.subject) == ("done", "bob")


async def test_a_mint_in_the_browser_that_names_nobody_asks_for_nobody() -> None:
    async with running("strict", paired=False) as world:
        await world.pair()
        for name in ("ann", "bob"):
            provider = Provider(Browser())
            provider.claims = {"preferred_username": f"{name}@contoso.example", "sub": name}
            await sign_in(world, provider)
        assert len(await world.phone.rows(Grant)) == 2
        provider.browser = Browser()
        put_in(world, provider, provider.browser, "openid offline_access")
        wish = HandoffWish(strategy="mint")
        row = await world.within(world.phone.agent.hand_off("watch", wish, provider.browser), seconds=3_600)
        assert (row.state, row.subject) == ("done", "bob") and "login_hint" not in provider.browser.url


async def test_a_subject_of_another_provider_names_nobody_here() -> None:
    async with running("strict", paired=False) as world:
        await world.pair()
        provider = Provider(Browser())
        provider.claims = {"preferred_username": "bob@contoso.example", "sub": "7"}
        own = await sign_in(world, provider)
        ann = replace(own, grant_id="f" * 32, issuer="https://other.example", account="ann@contoso.example")
        await world.phone.vault.run(lambda tx: tx.put(ann))
        provider.browser = Browser()
        put_in(world, provider, provider.browser, "openid offline_access")
        wish = HandoffWish(strategy="mint", account="ann@contoso.example")
        with pytest.raises(LocalError, match=r"bob@contoso\.example signed in, not ann@contoso\.example"):
            await world.within(world.phone.agent.hand_off("watch", wish, provider.browser), seconds=3_600)


async def test_sign_out_ends_the_account_that_is_meant() -> None:
    async with running() as world:
        accounts = world.phone.agent.accounts
        await world.phone.sign_in(SECOND)
        with pytest.raises(PersonNeededError):
            await accounts.sign_out("", Nobody())
        with pytest.raises(LocalError, match=f"'ann' is not signed in on this phone; signed in: {FIRST}, {SECOND}"):
            await accounts.sign_out("ann", Nobody())
        assert len(await world.phone.rows(Grant)) == 2
        assert [one["account"] for one in await accounts.sign_out(SECOND, Nobody())] == [SECOND]
        assert [row.account for row in await world.phone.rows(Grant)] == [FIRST]
        await world.phone.sign_in(SECOND)
        person = Chooser("all of them")
        assert {one["account"] for one in await accounts.sign_out("", person)} == {FIRST, SECOND}
        assert person.offered == [FIRST, SECOND, "all of them"] and await world.phone.rows(Grant) == []
        assert await accounts.sign_out("", Nobody()) == []


async def test_what_was_moved_comes_back_to_nobody_who_signed_out_and_to_those_who_did_not() -> None:
    async with running() as world:
        await world.phone.sign_in(SECOND)
        accounts = world.phone.agent.accounts
        for name in (FIRST, SECOND):
            assert (await hand_off(world, strategy="move", account=name)).state == "done"
        assert await accounts.sign_out(SECOND, Nobody()) == [], "its token is the companion's"
        assert "signed_out" not in {row.name for row in await world.phone.rows(AuditEvent)}
        assert [row.account for row in await world.phone.rows(Grant)] == [FIRST]


async def test_who_moved_a_grant_and_signed_in_again_is_one_account_and_signs_out_of_both() -> None:
    async with running() as world:
        accounts = world.phone.agent.accounts
        assert (await hand_off(world, strategy="move")).state == "done"
        for name in (FIRST, SECOND):
            await world.clock.advance(5)
            await world.phone.sign_in(name)
        person = Chooser(FIRST)
        assert [one["account"] for one in await accounts.sign_out("", person)] == [FIRST]
        assert person.offered == [FIRST, SECOND, "all of them"]
        assert [row.account for row in await world.phone.rows(Grant)] == [SECOND]


async def test_all_grants_of_one_account_are_signed_out_together() -> None:
    async with running() as world:
        first = await world.phone.one(Grant)
        other = replace(first, grant_id="f" * 32, client_id="an earlier one")
        await world.phone.vault.run(lambda tx: tx.put(other))
        await world.phone.sign_in(SECOND)
        await world.phone.agent.accounts.sign_out(FIRST, Nobody())
        assert [row.account for row in await world.phone.rows(Grant)] == [SECOND]


async def test_what_was_moved_is_gone_before_the_provider_is_asked_about_anything() -> None:
    async with running("strict") as world:
        await world.phone.sign_in(SECOND)
        await world.clock.advance(5)
        assert (await hand_off(world, strategy="move", account=FIRST)).state == "done"
        (moved,) = await world.phone.rows(Grant, reason="moved")
        await world.phone.edit(moved, stored_at=moved.stored_at + 100)
        left: list[list[str]] = []

        class Watching:
            async def request(self, request: HttpRequest) -> Any:
                left.append([row.reason for row in await world.phone.rows(Grant)])
                return await world.phone.http.request(request)

        world.phone.agent.accounts._http = Watching()
        person = Chooser("all of them")
        assert len(await world.phone.agent.accounts.sign_out("", person)) == 1
        assert left == [[]]


async def test_who_is_signed_out_is_not_asked_about_and_a_name_that_nobody_has_is_refused_even_then() -> None:
    async with running() as world:
        accounts = world.phone.agent.accounts
        dead = replace(await world.phone.one(Grant), grant_id="d" * 32, state="dead", reason="denied", subject="x")
        await world.phone.vault.run(lambda tx: tx.put(replace(dead, account=SECOND, refresh_token=None)))
        assert [one["account"] for one in await accounts.sign_out("", Nobody())] == [FIRST]
        assert [row.account for row in await world.phone.rows(Grant)] == [SECOND]
        with pytest.raises(LocalError, match="signed in: nobody") as refused:
            await accounts.sign_out(FIRST, Nobody())
        assert "sign-in" in refused.value.hint


async def test_one_subject_at_two_providers_is_two_people() -> None:
    async with running() as world:
        first = await world.phone.one(Grant)
        other = replace(first, grant_id="f" * 32, issuer="https://other.example")
        await world.phone.vault.run(lambda tx: tx.put(other))
        person = Chooser(f"{FIRST} ({first.subject} at https://other.example)")
        await world.phone.agent.accounts.sign_out("", person)
        assert [row.issuer for row in await world.phone.rows(Grant)] == [first.issuer]


async def test_a_grant_that_cannot_be_handed_off_is_nobody_elses_turn() -> None:
    async with running() as world:
        await world.phone.sign_in(SECOND)
        (first,) = await world.phone.rows(Grant, account=FIRST)
        await world.phone.edit(first, state="locked", reason="configuration")
        with pytest.raises(PersonNeededError, match="no account was chosen"):
            await hand_off(world, strategy="branch")
        with pytest.raises(PersonNeededError) as refused:
            await hand_off(world, Chooser(FIRST), strategy="branch")
        assert "no account was chosen" not in str(refused.value) and await world.phone.rows(PhoneHandoff) == []
        assert (await hand_off(world, Chooser(SECOND), strategy="branch")).account == SECOND


@pytest.mark.parametrize("earlier", [{"client_id": "an earlier one"}, {"profile": "strict"}])
async def test_a_grant_of_an_earlier_configuration_is_not_handed_off(earlier: dict[str, str]) -> None:
    async with running() as world:
        await world.phone.edit(await world.phone.one(Grant), **earlier)
        with pytest.raises(PersonNeededError, match="nobody is signed in on this phone"):
            await hand_off(world, account=FIRST)
        assert await world.phone.rows(PhoneHandoff) == []


async def test_the_options_of_a_sign_in_are_heeded_by_an_open_mint_that_is_joined() -> None:
    async with running() as world:
        await world.watch.crash()
        row = await hand_off(world, strategy="mint", wait_s=0)
        joined = await hand_off(world, sign_in=SignInOptions(username=FIRST), wait_s=0)
        assert joined.handoff_id == row.handoff_id


async def test_an_access_token_of_the_phone_is_of_the_account_that_is_named() -> None:
    async with running() as world:
        await world.phone.sign_in(SECOND)
        for name in (FIRST, SECOND):
            (own,) = await world.phone.rows(Grant, account=name)
            got = await world.phone.agent.accounts.get_access_token(account=name, return_refresh_token=True)
            assert got.refresh_token == own.refresh_token
        with pytest.raises(PersonNeededError):
            await world.phone.agent.accounts.get_access_token()


# -- The companion's default -------------------------------------------------------------------------------


async def both(world: World) -> None:
    await world.phone.sign_in(SECOND)
    for name in (FIRST, SECOND):
        assert (await hand_off(world, account=name)).state == "done"
        await world.clock.advance(5)


async def answered(world: World, **query: Any) -> str:
    """Who a token speaks for, or why there is none."""
    answer = await world.watch.token(**query)
    if isinstance(answer, TokenRefused):
        return answer.error
    assert isinstance(answer, TokenGranted)
    (row,) = await world.watch.rows(Grant, grant_id=answer.grant_id)
    return row.account


async def test_what_to_do_about_several_accounts_is_a_command_that_works() -> None:
    async with running() as world:
        await both(world)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused)
        words = shlex.split(refused.action)
        assert words[-5:-1] == ["token-relay", "companion", "token", "--account"]
        assert await answered(world, account=words[-1]) == words[-1]


@pytest.mark.parametrize("how", ["denied", "damaged", "needs_handoff", "lease", "configuration"])
async def test_a_program_that_names_nobody_never_speaks_for_another_person_because_one_is_hindered(how: str) -> None:
    async with running() as world:
        await both(world)
        assert await answered(world) == "ambiguous"
        (row,) = await world.watch.rows(Grant, account=FIRST)
        hindered: dict[str, dict[str, Any]] = {
            "denied": {"state": "dead", "reason": "denied", "refresh_token": None},
            "damaged": {"state": "dead", "reason": "damaged", "refresh_token": None},
            "needs_handoff": {"state": "needs_handoff", "reason": "uncertain"},
            "lease": {"lease_days": 1, "lease_used_s": 9e9},
            "configuration": {"state": "locked", "reason": "configuration"},
        }
        await world.watch.edit(row, **hindered[how])
        assert await answered(world) == "ambiguous"
        assert await answered(world, account=SECOND) == SECOND
        assert await answered(world, account=FIRST) in ("reauth_required", "locked", FIRST)
        assert (await hand_off(world, account=FIRST)).state == "done"  # the way out
        await world.clock.advance(5)
        assert {await answered(world, account=name) for name in (FIRST, SECOND)} == {FIRST, SECOND}


async def test_another_person_of_the_same_name_does_not_take_the_place_of_one_whose_grant_ended() -> None:
    async with running() as world:
        assert (await hand_off(world)).state == "done"
        await world.clock.advance(5)
        row = await world.watch.grant()
        await world.watch.edit(row, state="dead", reason="denied", refresh_token=None, subject="the first of this name")
        assert await answered(world) == "reauth_required"
        assert (await hand_off(world)).state == "done"
        await world.clock.advance(5)
        assert await answered(world) == "ambiguous"
        assert await answered(world, account=(await world.phone.one(Grant)).subject) == FIRST


async def test_whom_the_phone_took_away_is_meant_no_more() -> None:
    async with running() as world:
        await both(world)
        await world.within(world.phone.agent.revoke("watch", wait_s=10))
        assert await answered(world) == "reauth_required"
        assert (await hand_off(world, account=SECOND)).state == "done"
        await world.clock.advance(5)
        assert await answered(world) == SECOND


async def test_a_new_client_of_the_same_person_takes_the_place_of_one_that_is_refused() -> None:
    async with running() as world:
        assert (await hand_off(world)).state == "done"
        row = await world.watch.grant()
        old = replace(
            row, grant_id="e" * 32, client_id="an earlier one", subject="x", state="locked", reason="configuration"
        )
        await world.watch.vault.run(lambda tx: tx.put(old))
        assert await answered(world) == FIRST
