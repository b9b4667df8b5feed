"""Brokers for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.channel.certificates import Authority
from tests.channel.channel_kit import PACKET_BYTES_MAX
from tests.channel.library import PROTOCOLS
from tests.channel.mosquitto import Mosquitto
from token_relay.sandbox.mqtt.broker import Broker


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def level(protocol: str) -> int:
    return 5 if protocol == "5" else 4


@pytest_asyncio.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path / "broker", f"max_packet_size {PACKET_BYTES_MAX}") as running:
        yield running


@pytest_asyncio.fixture
async def embedded() -> AsyncIterator[Broker]:
    async with Broker(packet_bytes_max=PACKET_BYTES_MAX, record=True) as running:
        yield running


@pytest_asyncio.fixture(params=["mosquitto", "embedded"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mosquitto | Broker]:
    """Each broker in turn; mosquitto with the same restrictions as the embedded one."""
    if request.param == "embedded":
        async with Broker(packet_bytes_max=PACKET_BYTES_MAX, record=True) as running:
            yield running
    else:
        # max_qos belongs to the listener, the others to the whole broker; all are accepted after the listener
        lines = (f"max_packet_size {PACKET_BYTES_MAX}", "max_qos 1", "retain_available false")
        async with Mosquitto(tmp_path / "broker", *lines) as running:
            yield running


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")
