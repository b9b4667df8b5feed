"""One running sandbox per profile, under a wall clock that stands still unless a test moves it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from tests.sandbox.sandbox_client import NOON, SandboxClient, Start
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, ProfileName, WorldModel
from token_relay.sandbox.server import SandboxServer


@pytest.fixture(scope="session")
def signer() -> RsaSigner:
    """One RSA key for all tests: making one takes up to a second."""
    return RsaSigner()


@pytest.fixture
def start(signer: RsaSigner) -> Start:
    """Start a sandbox of a given profile and world."""

    @contextlib.asynccontextmanager
    async def started(
        profile: ProfileName, world: WorldModel = DEFAULT_WORLD, **more: float
    ) -> AsyncIterator[SandboxClient]:
        server = SandboxServer(world, profile, rng=random.Random(7), signer=signer, wall=lambda: NOON)
        async with server, ClientSession() as session:
            yield SandboxClient(server, session)

    return started


@pytest_asyncio.fixture
async def entra(start: Start) -> AsyncIterator[SandboxClient]:
    async with start("entra") as client:
        yield client


@pytest_asyncio.fixture
async def auth0(start: Start) -> AsyncIterator[SandboxClient]:
    async with start("auth0") as client:
        yield client


@pytest_asyncio.fixture
async def strict(start: Start) -> AsyncIterator[SandboxClient]:
    async with start("strict") as client:
        yield client


@pytest_asyncio.fixture(params=["entra", "auth0", "strict"])
async def each(request: pytest.FixtureRequest, start: Start) -> AsyncIterator[SandboxClient]:
    """Every profile in turn."""
    async with start(request.param) as client:
        yield client
