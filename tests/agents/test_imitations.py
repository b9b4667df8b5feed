"""The agents against every provider that the sandbox can play: a grant travels, lives alone, survives a lost answer.

What the client's row of a provider promises is what happens: where the old token still works for a known time or for
ever, a lost answer costs nothing; elsewhere it costs the grant, and the device says what to do.
"""

from __future__ import annotations

import pytest

from tests.agents.world_kit import World, running
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.provider.profile import PROFILES
from token_relay.sandbox.provider.world.model import FaultModel
from token_relay.sandbox.provider.world.provider_kinds import IMITATIONS
from token_relay.sandbox.provider.world.rules import KINDS, KindOfProvider

pytestmark = pytest.mark.asyncio
EVERY = pytest.mark.parametrize("name", list(IMITATIONS))


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds know the simulations' kinds of provider; here each row of the table is one."""
    for name, imitation in IMITATIONS.items():
        kind = KindOfProvider(imitation.rules, name)  # type: ignore[arg-type]  # more names than the three
        monkeypatch.setitem(KINDS, name, kind)  # type: ignore[misc]  # likewise


async def handed_over(world: World, name: str) -> None:
    row = await world.phone.hand_off()
    assert (row.state, row.strategy) == ("done", PROFILES[name].strategies[0])
    await world.phone.stop()
    await world.clock.advance(2)


@EVERY
async def test_a_grant_travels_and_lives_without_the_phone(name: str) -> None:
    async with running(name) as world:
        await handed_over(world, name)
        tokens = set()
        for _ in range(4):
            await world.clock.advance(90_000)
            answer = await world.watch.token()
            assert isinstance(answer, TokenGranted)
            tokens.add(answer.access_token.reveal())
        assert len(tokens) == 4
        assert "reuse_detected" not in world.provider.kinds()
        assert (await world.watch.grant()).state == "held"


@EVERY
async def test_a_lost_answer_costs_what_the_row_says(name: str) -> None:
    async with running(name) as world:
        await handed_over(world, name)
        fault = FaultModel(name="drop_after_commit", grant_type="refresh_token", times=1)
        world.provider.faults.arm(fault, world.provider.true_wall_s())
        await world.clock.advance(90_000)
        await world.watch.token()
        await world.clock.advance(7_200)
        answer = await world.watch.token()
        profile = PROFILES[name]
        if profile.old_token_s is None or profile.has_leeway:
            assert isinstance(answer, TokenGranted)
            assert "reuse_detected" not in world.provider.kinds()
        else:
            assert isinstance(answer, TokenRefused) and answer.error == "reauth_required"


@EVERY
async def test_the_person_takes_it_back(name: str) -> None:
    async with running(name) as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        await world.phone.agent.revoke("watch", wait_s=5)
        await world.clock.advance(5)
        answer = await world.watch.token()
        assert isinstance(answer, TokenRefused) and answer.error == "reauth_required"
        assert (await world.watch.grant()).refresh_token is None
        row = await world.phone.handoff()
        assert row.state == "gone"
        assert ("token_revoked" in world.provider.kinds()) is PROFILES[name].can_revoke_token
