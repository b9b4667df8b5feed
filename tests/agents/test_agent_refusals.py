"""What an agent refuses where no command line leads by itself: each refusal met, at its own words."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import pytest

from tests.agents.guard_kit import watching
from tests.agents.world_kit import Nobody, World, running, settle
from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import answers, keeper
from token_relay.agents.grants.choice import ambiguous
from token_relay.agents.grants.transfer import TransferExchange
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.handoff_rows import offer_body
from token_relay.agents.phone.native import Conversation, _password
from token_relay.agents.phone.person import CodeReceived, NewGrant, SignInOptions
from token_relay.agents.phone.sign_in import ProviderSignIn, _tokens
from token_relay.agents.ports import Transaction
from token_relay.agents.token_source import TokenQuery, TokenRefused, TransferQuery
from token_relay.protocol.errors import (
    ConfigError,
    LocalError,
    PersonNeededError,
    RelayError,
    TransientError,
    VaultError,
)
from token_relay.protocol.secret import AccessToken, Code, RefreshToken, SessionTransferToken
from token_relay.provider.discovery import ProviderMetadata
from token_relay.provider.http import HttpResponse
from token_relay.provider.native_auth.states import Attribute, AttributesRequired
from token_relay.provider.outcome import OutcomeUnknown, Refreshed, Unavailable
from token_relay.provider.profile import PROFILES
from token_relay.provider.session_transfer import Exchanged
from token_relay.service.device_list import DeviceList

pytestmark = pytest.mark.asyncio
METADATA = ProviderMetadata("https://p.example", "https://p.example/token")
GOOD = Refreshed(RefreshToken("rt"), AccessToken("at"), "Bearer", 600.0, "openid offline_access")


def disk_is_gone(tx: Transaction) -> None:
    raise VaultError("the disk is gone")


# -- Tokens ------------------------------------------------------------------------------------------------


async def test_more_programs_than_can_wait_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "WAITERS_MAX", 0)
    async with running() as world:
        token = await world.phone.agent.keeper.get_token(TokenQuery())
        transfer = await world.phone.agent.keeper.get_session_transfer(TransferQuery())
        for answer in (token, transfer):
            assert isinstance(answer, TokenRefused)
            assert (answer.error, answer.detail) == ("busy", "0 programs are waiting already")


async def test_a_vault_that_cannot_be_read_is_no_verdict_about_the_grant() -> None:
    async with running() as world:
        with watching(world.watch, disk_is_gone):
            transfer = await world.watch.agent.keeper.get_session_transfer(TransferQuery())
            phone = await world.watch.agent.keeper.find_phone("phone")
        for answer in (transfer, phone):
            assert isinstance(answer, TokenRefused)
            assert (answer.error, answer.detail) == ("offline", "the vault cannot be used: the disk is gone")


async def test_a_grant_whose_record_was_damaged_asks_for_a_new_pairing() -> None:
    async with running() as world:
        await world.phone.hand_off()
        grant = replace(await world.watch.grant(), state="locked", reason="damaged")
        answer = answers.refusal(grant, "hand off again")
        assert answer.detail.startswith("the record of this grant's phone was damaged")
        assert answer.action == "pair that phone again, then hand off again"


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Exchanged(None, SessionTransferToken("st")), "came too late to be used"),
        (Exchanged(None, None, problem="no token in it"), "no session transfer token: no token in it"),
    ],
)
async def test_an_exchange_without_a_token_of_use_says_why(outcome: Exchanged, said: str) -> None:
    async with running() as world:
        now = world.clock.now()
        exchange: Any = TransferExchange()
        exchange._outcome, exchange._sent, exchange._is_stored = outcome, Stamp.of(now), True
        answer = exchange.answer(now)
        assert isinstance(answer, TokenRefused) and said in answer.detail


# -- Sign-ins ----------------------------------------------------------------------------------------------


class Receiver:
    redirect_uri = "http://127.0.0.1:40000/callback"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def wait(self) -> CodeReceived:
        return CodeReceived(Code("c"))


class Metadata:
    """A provider that has a document and nothing else."""

    def __init__(self, *, has_page: bool) -> None:
        page = b', "authorization_endpoint": "https://p.example/authorize"' if has_page else b""
        self.document = b'{"issuer": "https://p.example", "token_endpoint": "https://p.example/token"%s}' % page

    async def request(self, request: Any) -> HttpResponse:
        return HttpResponse(200, {}, self.document)


def signing_in(world: World, profile: str = "strict", *, has_page: bool = True) -> ProviderSignIn:
    settings = AccountSettings("https://p.example", "app", None, "openid offline_access", PROFILES[profile], True)
    return ProviderSignIn(
        http=Metadata(has_page=has_page),
        clock=world.phone.clock,
        random=world.phone.random,
        settings=settings,
        new_receiver=lambda state: Receiver(),
    )


async def ignored(failure: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("profile", "options", "has_page", "kind", "said"),
    [
        ("auth0", {"method": "native", "username": "ann"}, True, ConfigError, "profile auth0 has no native sign-in"),
        ("entra", {"method": "native", "username": ""}, True, ConfigError, "needs a user name"),
        ("strict", {"method": "browser"}, True, PersonNeededError, "nobody is there to sign in with a browser"),
        ("strict", {"method": "browser"}, False, LocalError, "has no authorization endpoint"),
    ],
)
async def test_a_sign_in_that_cannot_begin_says_what_is_missing(
    profile: str, options: dict[str, Any], has_page: bool, kind: type[RelayError], said: str
) -> None:
    async with running(paired=False) as world:
        with pytest.raises(kind, match=said):
            sign_in = signing_in(world, profile, has_page=has_page)
            await sign_in.authenticate(Nobody(), SignInOptions(**options), ignored)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"refresh_token": None}, "gave no refresh token"),
        ({"problem": "token_type is missing"}, "the provider's answer cannot be used: token_type is missing"),
        ({}, "gave no id_token although scope has openid"),
    ],
)
async def test_tokens_that_a_sign_in_cannot_use_are_refused(changes: dict[str, Any], said: str) -> None:
    async with running(paired=False) as world:
        new = NewGrant(replace(GOOD, **changes), METADATA, Stamp.of(world.clock.now()), None, is_otp=False, username="")
        with pytest.raises(LocalError, match=said):
            await signing_in(world).check(new)


@pytest.mark.parametrize("outcome", [Unavailable("HTTP 503"), OutcomeUnknown("HTTP 503")])
async def test_a_code_without_an_answer_is_signed_in_with_again(outcome: Unavailable | OutcomeUnknown) -> None:
    with pytest.raises(TransientError, match="did not answer the sign-in: HTTP 503"):
        _tokens(outcome, "https://p.example/token")


async def test_what_a_tenant_asks_for_fits_into_its_form_and_a_password_is_not_empty() -> None:
    async with running(paired=False) as world:
        options, asked = SignInOptions(username="ann"), AttributesRequired((Attribute("city"),), Code("c"))
        service: Any = None
        conversation = Conversation(service, Nobody(attribute="x" * 5000), options, world.phone.clock)
        with pytest.raises(LocalError, match="city is longer than"):
            await conversation._ask_attributes(asked)
    with pytest.raises(PersonNeededError, match="the password is empty"):
        _password("")


# -- Handoffs ----------------------------------------------------------------------------------------------


async def test_a_device_that_is_being_unpaired_gets_nothing_more() -> None:
    async with running() as world:
        await world.phone.hand_off()
        await world.watch.crash()
        await world.within(world.phone.agent.unpair("watch"))
        with pytest.raises(LocalError, match="being unpaired"):
            await world.phone.hand_off()


async def test_a_handoff_whose_device_is_forgotten_meanwhile_ends() -> None:
    async with running() as world:
        await world.watch.crash()
        going_on = asyncio.ensure_future(world.phone.hand_off(wait_s=60.0))
        await settle()
        row = await world.phone.handoff()
        world.phone.disk.store.transact(lambda tx: tx.delete(type(row), *row.at), lambda: None)
        with pytest.raises(LocalError, match="the device was forgotten meanwhile"):
            await world.within(going_on)


async def test_a_handoff_whose_terms_an_older_disk_has_lost_is_not_offered() -> None:
    async with running() as world:
        await world.phone.hand_off()
        with pytest.raises(PersonNeededError, match="without a strategy"):
            offer_body(replace(await world.phone.handoff(), strategy=""))


async def test_grants_that_no_single_word_tells_apart_ask_for_two() -> None:
    def fitting(account: str, issuer: str) -> Any:
        grant = SimpleNamespace(account=account, subject="", issuer=issuer)
        return SimpleNamespace(grant=grant, phone=None)

    answer = ambiguous((fitting("ann", "a"), fitting("ann", "b"), fitting("bob", "a")))
    assert (answer.error, answer.action) == (
        "ambiguous",
        "say which, such as: token-relay phone token --account ann --issuer a",
    )


async def test_pairing_without_the_broker_is_refused_at_once() -> None:
    async with running(paired=False) as world:
        invitation = await world.watch.agent.invitations.show()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(world.phone.agent.pairing._channel), "is_connected", False)
            with pytest.raises(TransientError, match="the broker is not connected"):
                await world.phone.agent.pairing.pair(invitation, agreed)


async def agreed(number: str, name: str) -> bool:
    return True


async def test_a_companion_that_goes_away_before_its_last_word_completes_the_pairing_later() -> None:
    async with running(paired=False) as world:
        invitation = await world.watch.agent.invitations.show()

        async def agreed_too_late(number: str, name: str) -> bool:
            await world.watch.crash()
            return True

        with pytest.raises(TransientError, match="the companion did not confirm the pairing"):
            await world.within(world.phone.agent.pairing.pair(invitation, agreed_too_late))


async def test_an_exchange_waits_for_an_open_intent_and_not_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("auth0") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        stamp = Stamp.of(world.watch.clock.now()).to_text()
        await world.watch.edit(
            await world.watch.grant(), state="uncertain", intent=stamp, intent_sent=stamp, intent_attempts=1
        )

        async def nothing_comes(grant_id: str, errand: Any) -> None:
            return None

        monkeypatch.setattr(world.watch.agent.keeper.flights, "fly", nothing_comes)
        answer = await world.within(world.watch.agent.keeper.get_session_transfer(TransferQuery()))
        assert isinstance(answer, TokenRefused)
        assert answer.detail == "an earlier answer of the provider is still missing"


async def test_without_a_verdict_and_without_a_pause_the_answer_is_offline() -> None:
    async with running() as world:
        answer = world.watch.agent.keeper._offline("unknown", TokenQuery(timeout_s=3.0))
        assert answer.error == "offline" and answer.retry_after_s is not None


async def test_a_device_that_is_forgotten_while_it_is_looked_at_is_no_empty_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as world:
        looked_at = DeviceList(world.phone.agent)

        async def no_rows() -> list[Any]:
            return []

        monkeypatch.setattr(looked_at, "rows", no_rows)
        with pytest.raises(LocalError, match="the device was forgotten meanwhile"):
            await looked_at.answer({"device": "watch", "wait_s": 0})
