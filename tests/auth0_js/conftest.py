"""The SDKs, installed once, and a person at a browser. One popup is for every run, the rest for `make test-world`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.auth0_js.single_page import Bench, bench
from tests.node_packages import installed
from token_relay.sandbox.provider.memory.signing import RsaSigner

EVERYWHERE = ("test_auth0_popup.py",)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the battery out where nobody has asked for it."""
    is_left_out = collection_path.name.startswith("test_") and collection_path.name not in EVERYWHERE
    return True if is_left_out and not config.getoption("--world") else None


@pytest.fixture(scope="session")
def packages() -> Path:
    """Return where ``node_modules`` is."""
    return installed(Path(__file__).parent, "Auth0's SDKs for browsers were")


@pytest.fixture(scope="session")
def signer() -> RsaSigner:
    """One RSA key for all tests."""
    return RsaSigner()


@pytest_asyncio.fixture
async def spa(packages: Path, tmp_path: Path, signer: RsaSigner) -> AsyncIterator[Bench]:
    """Serve the application, and the sandbox as ``token-relay sandbox --profile auth0`` starts it."""
    async with bench(packages, tmp_path, signer) as one:
        yield one
