"""A place for sockets, and another uid: some promises need root, to become one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sockets.sockets_kit import short_directory


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for sockets."""
    with short_directory() as path:
        yield path


@pytest.fixture
def other_uid() -> int:
    """A uid that is neither ours nor root's; only root can become it."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another uid")
    return 4711
