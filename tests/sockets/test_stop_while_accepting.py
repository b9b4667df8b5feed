"""A connection that is accepted in the very moment of the stop is closed like the others: no socket is left open."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import warnings
from pathlib import Path
from typing import Protocol

import pytest

from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.apps.policy import Policy
from token_relay.apps.server import TokenApi
from token_relay.host.clock import SystemClock
from token_relay.service.control import ControlServer


class Server(Protocol):
    async def start(self, at: Path) -> None: ...

    async def stop(self) -> None: ...


class NoTokens:
    async def get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        return TokenRefused("not_found", "nothing is here")


def control() -> Server:
    return ControlServer({}, owner_uid=os.geteuid(), kind="phone")


def tokens() -> Server:
    return TokenApi(NoTokens(), Policy(os.geteuid()), clock=SystemClock())


@pytest.mark.parametrize("make", [control, tokens])
@pytest.mark.parametrize("turns", range(6))
def test_nothing_is_left_open_however_far_an_accept_had_come(make: type[Server], turns: int, tmp_path: Path) -> None:
    async def stop_under_a_client() -> None:
        server = make()
        await server.start(tmp_path / "x.sock")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "x.sock"))
            for _ in range(turns):  # of the loop: nothing, the accept, its task, the transport, the first callback
                await asyncio.sleep(0)
            await server.stop()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(stop_under_a_client())
        gc.collect()
    assert [str(one.message) for one in caught if one.category is ResourceWarning] == []
