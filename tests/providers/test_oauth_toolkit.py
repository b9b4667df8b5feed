"""django-oauth-toolkit, with and without a grace period; both with its reuse protection."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.providers.identity_providers import OAuthToolkit, Provider
from tests.providers.stories import Known, Stories

pytestmark = pytest.mark.asyncio
ACCESS_TOKEN_S = 4


class TestWithGrace(Stories):
    """A grace of 30 seconds is what the profile `hydra` counts on."""

    known = Known("lives", "unknown", lost_answer="forgiven")
    init_options: ClassVar[tuple[str, ...]] = ("--scope", "openid profile", "--profile", "hydra")

    @staticmethod
    def make() -> Provider:
        return OAuthToolkit("django-oauth-toolkit, grace", grace_s=30, access_token_s=ACCESS_TOKEN_S)


class TestWithoutGrace(Stories):
    known = Known("lives", "unknown", lost_answer="over")
    init_options: ClassVar[tuple[str, ...]] = ("--scope", "openid profile")

    @staticmethod
    def make() -> Provider:
        return OAuthToolkit("django-oauth-toolkit", grace_s=0, access_token_s=ACCESS_TOKEN_S)
