"""Each animal that answers a step of a sign-in, or a revocation, meets the agents."""

from __future__ import annotations

import asyncio

import pytest

from tests.agents.world_kit import running
from tests.zoo.browser_kit import BrowsingWorld
from tests.zoo.zoo_kit import ANIMALS, KINDS, arm, those
from token_relay.agents.phone.person import SignInOptions
from token_relay.agents.records import Grant
from token_relay.protocol.errors import RelayError
from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.ports.provider import USERNAMES

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_event_loop_policy(), "new_event_loop", VirtualLoop)


async def sign_in(world: BrowsingWorld) -> Grant:
    phone = world.browsing
    work = phone.agent.accounts.sign_in(phone.browser, SignInOptions(username=USERNAMES[0]))
    return await world.within(phone.call(work))


@pytest.mark.parametrize(
    ("name", "profile"), [*those("code"), *those("initiate"), *those("challenge"), *those("password")]
)
async def test_an_answer_to_a_step_of_a_sign_in(name: str, profile: str) -> None:
    animal = ANIMALS[name]
    world = BrowsingWorld(KINDS[profile], tier="memory", companions=0)
    phone = world.browsing
    await phone.start()
    try:
        arm(world, animal)
        said = ""
        try:
            await sign_in(world)
        except RelayError as exc:
            said = f"{exc}; {exc.hint}"
        assert (said == "") == (animal.then.caller == "granted"), said
        assert animal.then.status in said
        grants = [grant for grant in await phone.rows(Grant) if grant.state != "dead"]
        assert [grant.state for grant in grants] == (["held"] if animal.then.grant == "held" else [])
        assert [grant.refresh_token is not None for grant in grants] == ([True] if animal.then.kept else [])
        asked = phone.browser.questions
        assert len(asked) == len(set(asked)), "a refusal for a while is no wrong password"
        world.provider.faults.clear()
        if animal.then.grant != "held":
            await world.clock.advance(61)
            assert (await sign_in(world)).state == "held"
    finally:
        await phone.crash()


@pytest.mark.parametrize(("name", "profile"), those("revocation"))
async def test_an_answer_to_a_revocation(name: str, profile: str) -> None:
    animal = ANIMALS[name]
    async with running(KINDS[profile]) as world:
        await world.phone.hand_off()
        await world.clock.advance(10)
        arm(world, animal)
        await world.phone.revoke()
        await world.clock.advance(30)
        grant = await world.watch.grant()
        assert (grant.state, grant.reason, grant.refresh_token) == (animal.then.grant, animal.then.reason, None)
        assert (await world.phone.handoff()).provider_said == animal.then.caller
        assert world.provider.kinds().count("fault_met") == 1
