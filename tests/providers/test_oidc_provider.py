"""npm's oidc-provider, with each of its three rules of rotation."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.providers.identity_providers import OidcProvider, Provider
from tests.providers.stories import Known, Stories

pytestmark = pytest.mark.asyncio
ACCESS_TOKEN_S = 4


class TestAlwaysRotates(Stories):
    known = Known("dead", "accepted by the provider", lost_answer="over")

    @staticmethod
    def make() -> Provider:
        return OidcProvider("oidc-provider, always", rotation="always", access_token_s=ACCESS_TOKEN_S)


class TestItsDefault(Stories):
    """It rotates for public clients."""

    known = Known("dead", "accepted by the provider", lost_answer="over")

    @staticmethod
    def make() -> Provider:
        return OidcProvider("oidc-provider, default", rotation="default", access_token_s=ACCESS_TOKEN_S)


class TestNeverRotates(Stories):
    """The profile `duende` is that of a refresh token whose value never changes."""

    known = Known("dead", "accepted by the provider", lost_answer="forgiven")
    init_options: ClassVar[tuple[str, ...]] = ("--profile", "duende")

    @staticmethod
    def make() -> Provider:
        return OidcProvider("oidc-provider, never", rotation="never", access_token_s=ACCESS_TOKEN_S)
