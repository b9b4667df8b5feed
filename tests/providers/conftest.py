"""Tests against identity providers that others wrote.

Of them the first files run everywhere: what they need is installed for them. The rest needs the environment of
``make test-world``, and is collected where somebody asks for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

EVERYWHERE = ("test_first_refresh.py",)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what needs programs that are not here."""
    is_left_out = collection_path.name.startswith("test_") and collection_path.name not in EVERYWHERE
    return True if is_left_out and not config.getoption("--world") else None
