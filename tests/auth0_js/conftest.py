"""The SDKs, installed once, and a person at a browser. One popup is for every run, the rest for `make test-world`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.auth0_js.single_page import Bench, bench
from tests.browser.chromium import chromium
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Start one browser for a file; each test has a window without cookies."""
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def spa(browser: Browser, packages: Path, signer: RsaSigner) -> AsyncIterator[Bench]:
    """Serve the application, and the sandbox as ``token-relay sandbox --profile auth0`` starts it."""
    async with bench(browser, packages, signer) as one:
        yield one
