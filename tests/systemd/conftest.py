"""What a machine without systemd's tools cannot run."""

from __future__ import annotations

import pytest

from tests import needs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what asks systemd for its judgement where there is none."""
    why = needs.missing("systemd-analyze")
    if not why:
        return
    for item in items:
        if item.get_closest_marker("asks_systemd"):
            item.add_marker(pytest.mark.skip(reason=why))
