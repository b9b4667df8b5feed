"""The page docs/clients.md: its code is run. The browser's part takes longer, and belongs to ``make test-world``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.page_kit import Sandbox, started
from tests.node_packages import installed


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the browser out where nobody has asked for the world."""
    return True if collection_path.name == "test_page_browser.py" and not config.getoption("--world") else None


@pytest.fixture(scope="session")
def packages() -> Path:
    """Return where ``node_modules`` is."""
    return installed(Path(__file__).parent, "the clients of docs/clients.md were")


@pytest.fixture(scope="module")
def entra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with started(tmp_path_factory.mktemp("entra"), "entra") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def auth0(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with started(tmp_path_factory.mktemp("auth0"), "auth0") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def plain_entra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with started(tmp_path_factory.mktemp("plain_entra"), "entra", is_plain=True) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def plain_auth0(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with started(tmp_path_factory.mktemp("plain_auth0"), "auth0", is_plain=True) as sandbox:
        yield sandbox
