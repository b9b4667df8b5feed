"""The SDK's packages, installed once; the browser and its sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.chromium import Certificate, certificate, chromium
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(trusted: Certificate) -> AsyncIterator[Browser]:
    """One Chromium for a module; each test has a profile of its own."""
    async with chromium(trusted) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def spa(
    request: pytest.FixtureRequest, browser: Browser, packages: Path, trusted: Certificate, signer: RsaSigner
) -> AsyncIterator[SpaWorld]:
    """A world with the newest version of MSAL, or with the one that the test names as a parameter."""
    async with spa_world(browser, packages, trusted, signer, getattr(request, "param", "5")) as world:
        yield world
