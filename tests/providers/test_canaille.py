"""Canaille: it always rotates, compares redirect URIs literally, and a public client cannot revoke there."""

from __future__ import annotations

import pytest

from tests.providers.stories import Stories
from tests.providers.variants import VARIANTS

pytestmark = pytest.mark.asyncio


class TestCanaille(Stories):
    variant = VARIANTS["canaille"]
