"""npm's oidc-provider, with each of its three rules of rotation."""

from __future__ import annotations

import pytest

from tests.providers.stories import Stories
from tests.providers.variants import VARIANTS

pytestmark = pytest.mark.asyncio


class TestAlwaysRotates(Stories):
    variant = VARIANTS["oidc-provider-always"]


class TestItsDefault(Stories):
    variant = VARIANTS["oidc-provider-default"]


class TestNeverRotates(Stories):
    variant = VARIANTS["oidc-provider-never"]
