"""The SDK's packages, installed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node_packages import installed


@pytest.fixture(scope="session")
def packages() -> Path:
    """Return where ``node_modules`` is."""
    return installed(Path(__file__).parent, "the JavaScript SDK was")
