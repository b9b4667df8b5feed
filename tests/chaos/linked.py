"""A world whose agents reach broker and provider through links that can be cut; the direct ways stay for the tester."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.e2e.kit import Companion, Phone, World, pair
from token_relay.sandbox.links.network import Network


@asynccontextmanager
async def linked(world: World) -> AsyncIterator[tuple[Network, Phone, Companion]]:
    """Yield four links, and a signed-in phone, paired with one companion, that use them."""
    provider = urlsplit(world.sandbox.http)
    assert provider.port is not None
    broker_at, provider_at = ("127.0.0.1", world.broker_port), ("127.0.0.1", provider.port)
    async with Network.between(broker=broker_at, provider=provider_at) as network:

        def through(kind: str) -> tuple[str, ...]:
            broker, route = network[f"{kind}-broker"].address, network[f"{kind}-provider"].address
            return "--broker", f"mqtt://{broker}", "--http-route", route

        phone, watch = await asyncio.gather(
            world.phone("phone", *through("phone")), world.companion("watch", *through("companion"))
        )
        await phone.sign_in()
        await pair(phone, watch)
        try:
            yield network, phone, watch
        finally:
            for agent in (phone, watch):  # before the links end, so that no agent logs what only the tester did
                if agent.running.is_running:
                    await agent.stop()
