"""These tests run in virtual time: pytest-asyncio's runner asks the policy for a loop and gets one that never waits."""

from __future__ import annotations

import asyncio

import pytest

from token_relay.simulation.loop import VirtualLoop


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_event_loop_policy(), "new_event_loop", VirtualLoop)
