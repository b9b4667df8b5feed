"""A grant is taken away during its refresh: the tokens in the answer are revoked, and no device keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.agents.guard_kit import between
from tests.agents.world_kit import SimulatedCompanion, SimulatedPhone, World, form_value, running
from token_relay.agents.records import AuditEvent, CachedToken, Grant
from token_relay.protocol import messages as m
from token_relay.simulation.ports.http import HttpFault, SimulatedHttp

pytestmark = pytest.mark.asyncio


def revoked(http: SimulatedHttp) -> list[str]:
    """Return the token values that this device has asked the provider to revoke."""
    return [form_value(request, "token") for request in http.requests if request.url.endswith("/revoke")]


def living(world: World) -> list[str]:
    return [name for name, family in world.provider.state.families.items() if not family.is_dead]


def details(events: Iterable[AuditEvent], name: str) -> list[str]:
    return [event.detail for event in events if event.name == name]


async def answered_late(world: World, end: SimulatedPhone | SimulatedCompanion, grant: Grant) -> None:
    """Begin a refresh that the provider carries out in two seconds and answers in four; two and a half have passed."""
    end.http.delay_s = (2.0, 2.0)
    end.agent.turns.spawn(end.agent.keeper.refresh(grant.grant_id))
    await world.clock.advance(2.5)
    assert world.provider.kinds()[-1] == "refresh_committed"


async def test_a_token_that_comes_after_revoke_is_revoked_at_the_provider_too() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(10)
        before = await world.watch.grant()
        await answered_late(world, world.watch, before)
        world.watch.http.plan(HttpFault("not_sent", path="/revoke"))  # the old value's own request fails
        await world.within(world.phone.agent.revoke("watch", wait_s=0))
        await world.clock.advance(30)
        old, new = revoked(world.watch.http)
        assert before.refresh_token is not None and old == before.refresh_token.reveal() and new != old
        assert len(living(world)) == 1  # the phone's own
        assert (await world.watch.grant()).refresh_token is None
        assert await world.watch.rows(CachedToken) == []
        said = [
            body.provider for x in between(world, world.watch, world.phone) if isinstance(body := x.body, m.Revoked)
        ]
        assert said[-1] == "accepted"
        assert (await world.phone.handoff()).provider_said == "accepted"
        assert details(await world.watch.rows(AuditEvent), "revoked_at_provider") == ["unreachable", "accepted"]


async def test_a_token_that_comes_after_the_sign_out_is_revoked_at_the_provider_too() -> None:
    async with running("strict") as world:
        (own,) = await world.phone.rows(Grant)
        await answered_late(world, world.phone, own)
        world.phone.http.plan(HttpFault("not_sent", path="/revoke"))
        (result,) = await world.phone.sign_out()
        assert result["provider"] == "unreachable"
        await world.clock.advance(30)
        old, new = revoked(world.phone.http)
        assert own.refresh_token is not None and old == own.refresh_token.reveal() and new != old
        assert living(world) == []
        assert await world.phone.rows(Grant) == []
        assert details(await world.phone.rows(AuditEvent), "revoked_at_provider") == ["accepted"]


@pytest.mark.parametrize(
    ("profile", "changes"),
    [
        ("auth0", {"state": "locked", "reason": "rollback"}),  # the chain may be another device's by now
        ("auth0", {"generation": 9}),
        ("auth0", {"state": "dead", "reason": "moved", "refresh_token": None}),  # it is the companion's
        ("strict", {"revocation_endpoint": "", "state": "dead", "reason": "revoked", "refresh_token": None}),
        ("strict", {"profile": "entra", "state": "dead", "reason": "revoked", "refresh_token": None}),
        ("strict", {"profile": "keycloak", "state": "dead", "reason": "signed_out", "refresh_token": None}),
    ],
    ids=["locked", "another generation", "moved", "no endpoint", "no revocation", "siblings"],
)
async def test_a_late_token_is_not_revoked_where_that_could_hit_another(profile: Any, changes: dict[str, Any]) -> None:
    async with running(profile) as world:
        (own,) = await world.phone.rows(Grant)
        await answered_late(world, world.phone, own)
        (begun,) = await world.phone.rows(Grant)
        await world.phone.edit(begun, **changes)
        await world.clock.advance(30)
        assert revoked(world.phone.http) == []
        assert "late_answer_dropped" in [event.name for event in await world.phone.rows(AuditEvent)]


async def test_a_phones_revoke_reaches_a_late_token_also_where_it_ends_the_siblings() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(10)
        await world.watch.edit(await world.watch.grant(), profile="keycloak-rotating")
        await answered_late(world, world.watch, await world.watch.grant())
        await world.within(world.phone.agent.revoke("watch", wait_s=0))
        await world.clock.advance(30)
        assert len(revoked(world.watch.http)) == 2


@pytest.mark.parametrize(("profile", "revocations"), [("auth0", 2), ("strict", 0)])
async def test_a_superseded_grants_late_token_is_revoked_where_that_ends_its_family_alone(
    profile: Any, revocations: int
) -> None:
    async with running(profile) as world:
        await world.phone.hand_off()
        await world.clock.advance(10)
        older = await world.watch.grant()
        await answered_late(world, world.watch, older)
        world.watch.http.delay_s = (0.0, 0.0)
        await world.watch.agent.turns.run(lambda turn: world.watch.agent.steps.end_grant(turn, older, "superseded"))
        await world.clock.advance(30)
        assert len(revoked(world.watch.http)) == len(set(revoked(world.watch.http))) == revocations
