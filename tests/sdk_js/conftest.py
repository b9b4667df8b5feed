"""The SDK's packages, installed once; the browser and its sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.browser.chromium import Certificate, certificate
from tests.node_packages import installed
from tests.sdk_js.spa_kit import SpaWorld, spa_world
from token_relay.sandbox.provider.memory.signing import RsaSigner


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the whole battery of the single-page applications to `make test-world`; one popup runs everywhere."""
    return True if collection_path.name == "test_spa_world.py" and not config.getoption("--world") else None


@pytest.fixture(scope="session")
def packages() -> Path:
    """Return where ``node_modules`` is."""
    return installed(Path(__file__).parent, "the JavaScript SDK was")


@pytest.fixture(scope="session")
def signer() -> RsaSigner:
    """One RSA key for all tests."""
    return RsaSigner()


@pytest.fixture(scope="session")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of the project's own CA."""
    return certificate(tmp_path_factory.mktemp("ca") / "ca")


@pytest_asyncio.fixture
async def spa(
    request: pytest.FixtureRequest, packages: Path, tmp_path: Path, trusted: Certificate, signer: RsaSigner
) -> AsyncIterator[SpaWorld]:
    """A world with the newest version of MSAL, or with the one that the test names as a parameter."""
    async with spa_world(packages, tmp_path / "profile", trusted, signer, getattr(request, "param", "5")) as world:
        yield world
