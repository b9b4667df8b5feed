"""axe-core, installed once; one Chromium for a module, and the consoles of two real agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.chromium import chromium
from tests.node_packages import installed
from tests.pages_world.consoles import REBOUND, Ends, ends_of_a_story

EVERYWHERE = "test_first_page.py"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave all pages to `make test-world`; the first one is looked at everywhere."""
    is_left_out = collection_path.name.startswith("test_") and collection_path.name != EVERYWHERE
    return True if is_left_out and not config.getoption("--world") else None


@pytest.fixture(scope="session")
def axe() -> str:
    """Return what looks for faults that keep people out."""
    packages = installed(Path(__file__).parent, "the pages were")
    return (packages / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for a module; each test has profiles of its own. One foreign name leads to this machine."""
    async with chromium(resolves=REBOUND) as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ends() -> AsyncIterator[Ends]:
    """Two agents after a handoff, and one companion that went silent, each of the two with its console."""
    async with ends_of_a_story() as ends:
        yield ends
