"""Each animal of the zoo meets a grant: what becomes of the grant, what the app and ``status`` say, who tries again."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from random import Random

import pytest

from tests.zoo.zoo_kit import ANIMALS, HOUR_S, LATE_S, Met, arm, grant_without_token, those
from token_relay.agents.token_source import TokenGranted
from token_relay.provider.http import HttpResponse
from token_relay.provider.profile import PROFILES
from token_relay.sandbox.provider.world.animal import Animal
from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.ports.http import read_answer

pytestmark = pytest.mark.asyncio
UNDECIDED = [name for name, one in ANIMALS.items() if one.then.grant == "uncertain" and one.times == 0]
PAGES = [name for name in UNDECIDED if isinstance(read_answer(ANIMALS[name].answer.response(None).raw), HttpResponse)]
PACE_S = [60.0 * 2**n for n in range(6)] + [HOUR_S] * 30  # between tries of a value that may be spent, at the least


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_event_loop_policy(), "new_event_loop", VirtualLoop)


# -- one by one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "profile"), those("refresh"))
async def test_an_answer_to_a_refresh(name: str, profile: str) -> None:
    animal = ANIMALS[name]
    async with grant_without_token(profile) as met:
        arm(met.world, animal)
        told = await met.ask(animal.asked.scope)
        await met.world.settle()
        assert (told.error if not isinstance(told, TokenGranted) else "granted") == animal.then.caller, told
        grant = await met.grant()
        assert (grant.state, grant.reason) == (animal.then.grant, animal.then.reason)
        assert (grant.refresh_token is not None) == animal.then.kept
        if grant.refresh_token is not None and not animal.asked.scope:
            assert (grant.refresh_token.reveal() != met.sent) == ("{refresh_token}" in animal.answer.body)
        assert animal.then.status in await met.shown()
        await check_next_try(met, animal)
        met.heal()
        await check_afterwards(met, animal)
        assert met.world.provider.kinds().count("reuse_detected") <= (animal.then.afterwards != "granted")


async def check_next_try(met: Met, animal: Animal) -> None:
    then = animal.then
    match then.next_try:
        case "none":
            assert await met.next_try_s(7 * HOUR_S) is None
        case "backoff" if animal.asked.scope:
            before = len(met.tries)
            for _ in range(3):
                told = await met.ask(animal.asked.scope)
                assert not isinstance(told, TokenGranted) and told.error == then.caller
                await met.world.clock.advance(then.seconds / 4)
            assert len(met.tries) == before
        case "backoff":
            gap_s = await met.next_try_s(8 * HOUR_S)
            assert gap_s is not None and gap_s >= then.seconds
        case "keep_alive":
            before = len(met.tries)
            await met.world.clock.advance(then.seconds / 2)
            assert len(met.tries) == before
            await met.world.clock.advance(then.seconds / 2)
            assert len(met.tries) == before + 1
        case "late":
            if not met.profile.invalidates_on_use:
                least_s, most_s = then.seconds, 8 * HOUR_S
            elif met.profile.has_leeway:
                assert len(met.tries) > 1 and met.tries[1] - met.tries[0] < (met.profile.old_token_s or 0.0)
                return
            else:
                least_s, most_s = max(then.seconds, LATE_S), 2 * HOUR_S
            gap_s = await met.next_try_s(8 * HOUR_S) if animal.times != 1 or len(met.tries) == 1 else None
            assert gap_s is not None and least_s <= gap_s <= most_s
        case _:
            pass


async def check_afterwards(met: Met, animal: Animal) -> None:
    if animal.then.afterwards == "granted" and animal.then.caller == "granted":
        await met.world.clock.advance(61)
        before = len(met.tries)
        assert isinstance(await met.ask(force_refresh=True), TokenGranted) and len(met.tries) == before + 1
    elif animal.then.afterwards == "granted":
        told = await met.granted_within(8 * HOUR_S)
        assert isinstance(told, TokenGranted), told
        assert (await met.grant()).state == "held"
    elif animal.then.afterwards == "reauth_required":
        told = await met.granted_within(8 * HOUR_S)
        assert not isinstance(told, TokenGranted) and told.error == "reauth_required"


# -- again and again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNDECIDED)
async def test_ten_pages_in_a_row_lose_no_grant_and_meet_no_storm(name: str) -> None:
    animal = ANIMALS[name]
    async with grant_without_token(animal.profiles[0]) as met:
        arm(met.world, animal, times=10)
        told = await met.granted_within(24 * HOUR_S)
        assert isinstance(told, TokenGranted), told
        assert (await met.grant()).state == "held"
        assert len(met.tries) == 11
        gaps = [later - sooner for sooner, later in pairwise(met.tries)]
        if met.profile.invalidates_on_use:
            outside = [gap for at, gap in zip(met.tries[1:], gaps, strict=True) if at - met.tries[0] > old_token_s(met)]
            assert len(met.tries) - len(outside) <= 8, "a leeway is no reason for a storm"
            assert all(gap >= pace for gap, pace in zip(outside, PACE_S, strict=False)), gaps
        assert "reuse_detected" not in met.world.provider.kinds()


def old_token_s(met: Met) -> float:
    return met.profile.old_token_s or 0.0


@pytest.mark.parametrize("profile", ["entra", "auth0", "hydra", "duende-one-time", "strict"])
@pytest.mark.parametrize("name", PAGES[::7])
async def test_a_page_after_the_commit_is_kept_until_the_verdict(name: str, profile: str) -> None:
    animal = ANIMALS[name]
    async with grant_without_token(profile) as met:
        arm(met.world, animal, times=1, committed=True)
        await met.ask()
        await met.world.settle()
        is_repaired = PROFILES[profile].old_token_s != 0
        if not is_repaired:
            grant = await met.grant()
            assert grant.state == "uncertain" and grant.refresh_token is not None
            assert len(met.tries) == 1
        told = await met.granted_within(8 * HOUR_S)
        assert isinstance(told, TokenGranted) == is_repaired, told
        assert (await met.grant()).state == ("held" if is_repaired else "dead")


# -- the zoo itself ----------------------------------------------------------------------------------------


def error_of(animal: Animal) -> str:
    try:
        found = json.loads(animal.answer.body)
    except ValueError:
        return ""
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, str) else type(error).__name__


def apart(order: int) -> int:
    """Count animals of which any two differ in two or more of status, media type, error member and profile."""
    kinds = [(one.answer.status, one.answer.media_type, error_of(one), one.profiles[0]) for one in ANIMALS.values()]
    Random(order).shuffle(kinds)
    found: list[tuple[object, ...]] = []
    for kind in kinds:
        if all(sum(a != b for a, b in zip(kind, other, strict=True)) >= 2 for other in found):
            found.append(kind)
    return len(found)


async def test_the_zoo_is_large_and_its_animals_differ() -> None:
    assert len(ANIMALS) >= 95
    assert max(apart(order) for order in range(200)) >= 70
    for animal in ANIMALS.values():
        assert set(animal.profiles) <= set(PROFILES)
