"""A real ``token.sock`` in front of a device of the virtual world, for apps that speak HTTP and do not know the kit.

The server is the agents' own (:class:`.apps.server.TokenApi`), on its own event loop in its own thread: a request runs
in the world like any other call, and between two of them the world's time stands still. The limit per second does not
apply, since it is for real time. While the device is off, the socket is closed.

Limit: a request that comes while the world is busy waits for it in real time; one that the world itself waits for,
inside ``world.run()``, is answered ``offline`` when its time is over.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from token_relay.agents.ports import Now, Signal
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.apps.policy import Policy
from token_relay.apps.server import TokenApi
from token_relay.host.paths import SOCKET_PATH_BYTES_MAX, TOKEN_SOCKET

Ask = Callable[[TokenQuery], TokenGranted | TokenRefused]

PREFIX = "trw-"
RANDOM_CHARS = 8  # that tempfile adds


class _Unhurried:
    """A clock that is a second later at each reading, so that no caller asks too often."""

    def __init__(self) -> None:
        self._boot_s = 0.0

    def now(self) -> Now:
        self._boot_s += 1.0
        return Now("kit", self._boot_s, self._boot_s, is_synced=True)

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    async def wait(self, event: Signal, seconds: float) -> bool:
        raise NotImplementedError


class TokenSocket:
    """See the module. ``ask`` answers a query, from any thread."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        base = tempfile.gettempdir()
        if len(os.fsencode(Path(base, f"{PREFIX}{'x' * RANDOM_CHARS}", TOKEN_SOCKET))) > SOCKET_PATH_BYTES_MAX:
            base = "/tmp"  # noqa: S108  # a private directory is made in it
        self._directory = tempfile.TemporaryDirectory(prefix=PREFIX, dir=base)
        self.path = Path(self._directory.name, TOKEN_SOCKET)
        self._api = TokenApi(self, Policy(os.geteuid()), clock=_Unhurried())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay-token-socket", daemon=True)
        self._thread.start()
        self._is_open = False

    async def get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        """Implements :class:`token_relay.agents.token_source.TokenSource`."""
        return await asyncio.get_running_loop().run_in_executor(None, self._ask, query)

    def follow(self, *, is_on: bool) -> None:
        """Listen while the device is on. Open requests end without an answer when it goes off."""
        if is_on != self._is_open:
            self._is_open = is_on
            self._run(self._api.start(self.path) if is_on else self._api.stop())

    def close(self) -> None:
        """End the server and its thread, and remove the socket."""
        self.follow(is_on=False)
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._directory.cleanup()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()
