"""npm's oidc-provider, with each of its three rules of rotation."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.kit import pair
from tests.providers.identity_providers import Provider
from tests.providers.provider_world import ProviderWorld
from tests.providers.stories import Stories
from tests.providers.variants import VARIANTS

pytestmark = pytest.mark.asyncio


class TestAlwaysRotates(Stories):
    variant = VARIANTS["oidc-provider-always"]


class TestItsDefault(Stories):
    variant = VARIANTS["oidc-provider-default"]


class TestNeverRotates(Stories):
    variant = VARIANTS["oidc-provider-never"]

    async def test_branch_gives_nothing_away_though_a_wrong_profile_allows_it(self, provider: Provider) -> None:
        """A refresh gives the phone's own value once more; in two hands, one revocation would end both."""
        options = ("--profile", "keycloak")
        async with ProviderWorld(provider=provider, user=next(provider.unused), init_options=options) as world:
            phone, watch = await asyncio.gather(world.phone(), world.companion())
            await phone.sign_in()
            await pair(phone, watch)
            said = (await phone("handoff", "watch", "--strategy", "branch", "--wait", "60", "--json")).expect(1).json
            assert "branch cannot work" in str(said)
            assert not (await watch.status())["grants"]
            await world.gets_in(phone)
