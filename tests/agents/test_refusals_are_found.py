"""What the provider refused is found at the end that met it: by its trace or correlation id, and by the handoff."""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.agents.provider_orders import order
from tests.agents.test_browser_sign_in import Browser, Provider, sign_in
from tests.agents.world_kit import Nobody, World, running
from token_relay.agents.phone.agent import HandoffWish
from token_relay.agents.phone.person import SignInOptions, SignInRefused
from token_relay.agents.records import AuditEvent
from token_relay.agents.token_source import TransferQuery
from token_relay.protocol.errors import LocalError, PersonNeededError

pytestmark = pytest.mark.asyncio
TRACE, CORRELATION = "0f9fbb5f-1f37-4ba4-8ee8-9c0a3a1f0200", "5c1f6b50-2f0a-4d39-9d5c-3a7f5a0f1b11"


def ids_of(event: AuditEvent) -> tuple[str, str]:
    return event.trace_id, event.correlation_id


async def found(world: World, name: str) -> AuditEvent:
    """The phone's one event of this name; the provider knows its ids."""
    (event,) = [row for row in await world.phone.rows(AuditEvent) if row.name == name]
    told = [one.as_json() for one in world.provider.state.events]
    assert all(ids_of(event)) and event.trace_id in [one.get("trace_id") for one in told]
    return event


@pytest.mark.parametrize(
    ("refusal", "name"),
    [
        ({"error": "invalid_grant", "suberror": "basic_action", "code": 50076}, "refresh_denied"),
        ({"error": "temporarily_unavailable"}, "provider_unavailable"),
    ],
)
async def test_a_branch_that_the_provider_refuses(refusal: dict[str, str | int], name: str) -> None:
    async with running("entra") as world:
        order(world, "faults", name="refuse", endpoint="token", **refusal)
        with suppress(LocalError):  # it came to nothing, or goes on
            await world.within(world.phone.hand_off(wait_s=1))
        event = await found(world, name)
        assert event.handoff_id == (await world.phone.handoff()).handoff_id


async def test_a_sign_in_for_a_companion_that_the_provider_refuses() -> None:
    async with running("entra") as world:
        wish = HandoffWish(strategy="mint", sign_in=SignInOptions(username="password@contoso.example"))
        with pytest.raises(PersonNeededError):
            await world.within(world.phone.agent.hand_off("watch", wish, Nobody(password="wrong")))
        event = await found(world, "sign_in_refused")
        assert event.handoff_id == (await world.phone.handoff()).handoff_id


async def test_a_refused_session_transfer() -> None:
    async with running("entra") as world:
        await world.phone.agent.keeper.get_session_transfer(TransferQuery())
        event = await found(world, "session_transfer_refused")
        assert event.handoff_id == ""


async def test_a_refused_browser_sign_in_says_what_the_redirect_and_the_token_endpoint_said() -> None:
    async with running("strict", paired=False) as world:
        sent_back = Provider(Browser(SignInRefused("access_denied", "", (65004,), TRACE, CORRELATION)))
        at_tokens = Provider(Browser())
        at_tokens.refusal = {
            "error": "invalid_client",
            "error_codes": [700016],
            "trace_id": CORRELATION,
            "correlation_id": TRACE,
        }
        for provider in (sent_back, at_tokens):
            with pytest.raises(PersonNeededError):
                await sign_in(world, provider)
        rows = [row for row in await world.phone.rows(AuditEvent) if row.name == "sign_in_refused"]
        assert [(row.detail, *ids_of(row)) for row in rows] == [
            ("access_denied 65004", TRACE, CORRELATION),
            ("invalid_client 700016", CORRELATION, TRACE),
        ]
