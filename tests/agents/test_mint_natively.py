"""The person signs in for the companion's token, at accounts that want more than a password."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.world_kit import World, running
from token_relay.agents.phone.agent import HandoffWish
from token_relay.agents.phone.person import SignInOptions
from token_relay.agents.records import Grant
from token_relay.agents.token_source import TokenGranted
from token_relay.protocol.errors import PersonNeededError
from token_relay.sandbox.provider.world.model import PASSWORD

pytestmark = pytest.mark.asyncio
MFA_USER, REGISTER_USER, OTP_USER = "mfa@contoso.example", "register@contoso.example", "otp@contoso.example"


class Reader:
    """A person who knows the password and reads the mailbox."""

    def __init__(self, world: World, address: str) -> None:
        self.world, self.address = world, address
        self.kinds: list[str] = []

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        self.kinds.append(str(kind))
        if kind == "password":
            return PASSWORD
        if kind == "code":
            return self.world.provider.state.mailboxes[self.address].code.reveal()
        return None

    async def progress(self, step: dict[str, Any]) -> None:
        return None


@pytest.mark.parametrize(
    ("options", "address", "asked"),
    [
        (SignInOptions(username=MFA_USER, mfa_method="email"), MFA_USER, ["password", "code"]),
        (SignInOptions(username=MFA_USER, mfa_method="sms"), "+14255550100", ["password", "code"]),
        (
            SignInOptions(username=REGISTER_USER, contact="other@contoso.example"),
            "other@contoso.example",
            ["password", "code"],
        ),
        (SignInOptions(username=OTP_USER), OTP_USER, ["code"]),
    ],
)
async def test_mint_asks_for_what_the_account_wants(options: SignInOptions, address: str, asked: list[str]) -> None:
    async with running() as world:
        person = Reader(world, address)
        wish = HandoffWish(strategy="mint", sign_in=options)
        row = await world.within(world.phone.agent.hand_off("watch", wish, person))
        assert (row.state, person.kinds) == ("done", asked)
        await world.clock.advance(2)
        assert isinstance(await world.watch.token(), TokenGranted)
        assert (await world.watch.grant()).account == options.username
        own = await world.phone.rows(Grant)
        assert [grant.account for grant in own] == ["password@contoso.example"]  # what was minted is not kept here


async def test_a_code_that_nobody_gives_leaves_the_handoff_open() -> None:
    async with running() as world:
        person = Reader(world, "")
        wish = HandoffWish(strategy="mint", sign_in=SignInOptions(username=MFA_USER))
        with pytest.raises(PersonNeededError, match="second factor by one of"):
            await world.within(world.phone.agent.hand_off("watch", wish, person))
        row = await world.phone.handoff()
        assert (row.state, row.reason, row.is_obtaining, row.orphans) == ("offered", "accepted", False, 0)
        person = Reader(world, MFA_USER)
        wish = HandoffWish(sign_in=SignInOptions(username=MFA_USER, mfa_method="email"))
        assert (await world.within(world.phone.agent.hand_off("watch", wish, person))).state == "done"
