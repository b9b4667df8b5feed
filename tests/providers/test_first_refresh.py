"""A smoke run in every run of the tests: a provider that somebody else wrote, from sign-in to the first refresh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.providers.identity_providers import USERS, OidcProvider, Provider
from tests.providers.provider_world import ProviderWorld, companion_with_a_grant

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with OidcProvider("oidc-provider", rotation="always") as provider:
        yield provider


async def test_a_person_signs_in_as_documented_and_the_companion_refreshes(provider: Provider) -> None:
    async with (
        ProviderWorld(provider=provider, user=USERS[0]) as world,
        companion_with_a_grant(world) as (phone, watch),
    ):
        first = await watch.token()
        second = await watch.token("--force-refresh")
        assert first != second and await world.is_good(second)
        assert (await watch.grant())["generation"] == 3
        ends = {token.family for token in await world.live()}
        assert len(await world.live()) == len(ends) == 2, (
            "the phone's and the companion's, each of a sign-in of its own"
        )
        (await phone("revoke", "watch", "--yes")).expect()
        assert len(await world.live()) == 1
        world.check_uses()
