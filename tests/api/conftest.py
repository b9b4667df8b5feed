"""Tests of what docs/api ships. Those by programs of others are collected where somebody asks for the world."""

from __future__ import annotations

from pathlib import Path

import pytest

OF_THE_WORLD = ("test_newman.py", "test_schemathesis.py")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what needs programs that are not here."""
    return True if collection_path.name in OF_THE_WORLD and not config.getoption("--world") else None
