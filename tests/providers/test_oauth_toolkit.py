"""django-oauth-toolkit, with and without a grace period; both with its reuse protection."""

from __future__ import annotations

import pytest

from tests.providers.stories import Stories
from tests.providers.variants import VARIANTS

pytestmark = pytest.mark.asyncio


class TestWithGrace(Stories):
    variant = VARIANTS["oauth-toolkit-grace"]


class TestWithoutGrace(Stories):
    variant = VARIANTS["oauth-toolkit"]
