"""Canaille: it always rotates, compares redirect URIs literally, and has no revocation for public clients."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.providers.identity_providers import REDIRECT_PORT, Canaille, Provider
from tests.providers.stories import Known, Stories

pytestmark = pytest.mark.asyncio


class TestCanaille(Stories):
    known = Known("lives", "not confirmed", lost_answer="over")
    init_options: ClassVar[tuple[str, ...]] = ("--scope", "openid profile", "--redirect-port", str(REDIRECT_PORT))

    @staticmethod
    def make() -> Provider:
        return Canaille("canaille")
