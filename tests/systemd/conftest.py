"""What a machine without systemd's tools cannot run."""

from __future__ import annotations

import shutil

import pytest

WHY = "systemd-analyze is not installed: apt-get install systemd"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what asks systemd for its judgement where there is none."""
    if shutil.which("systemd-analyze") is not None:
        return
    for item in items:
        if item.get_closest_marker("asks_systemd"):
            item.add_marker(pytest.mark.skip(reason=WHY))
