"""Runs an agent locked while its vault belongs to another board; ``adopt`` unlocks it.

A locked agent does not connect to the broker (two devices of one name would disconnect each other), does not refresh
and gives no token. Its sockets answer: ``status`` says why, ``adopt`` makes this device the vault's own, an app gets
``locked``. The agent reports itself ready to the service manager, since a restart would change nothing.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import structlog

from token_relay.agents.pulse import Pulse
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.agents.traffic import Traffic
from token_relay.apps.server import TokenApi
from token_relay.host.paths import CONTROL_SOCKET, TOKEN_SOCKET
from token_relay.host.systemd import listen_fds, notify
from token_relay.service import board_check
from token_relay.service.actions import action
from token_relay.service.control import JSON, ControlServer, Exchange
from token_relay.service.journals import Journals
from token_relay.service.runtime import Runtime
from token_relay.service.status import common

log = structlog.get_logger()

ANSWER_S_MAX = 2.0
WHY = "this vault was copied from another device"


async def until_at_home(runtime: Runtime, tasks: asyncio.TaskGroup) -> None:
    """Return at once when the vault is this device's own, else once a person has adopted it here.

    Raises:
        VaultError, ConfigError: as at a normal start.
    """
    here, now_s = runtime.home.board, int(runtime.clock.now().wall_s)
    if not await runtime.vault.run(partial(board_check.check_board, here=here, now_s=now_s)):
        return
    hint = _sentence(runtime)
    log.error("vault_copied", detail=WHY, hint=hint)
    locked = _Locked(runtime)
    control = ControlServer(
        {"status": locked.status, "events": Journals(runtime, Traffic(), Pulse()).events, "adopt": locked.adopt},
        owner_uid=os.geteuid(),
        kind=runtime.kind,
    )
    token_api = TokenApi(locked, runtime.policy(runtime.config), clock=runtime.clock, phones=locked)
    await control.start(_place(runtime, CONTROL_SOCKET))
    try:
        await token_api.start(_place(runtime, TOKEN_SOCKET))
        watchdog = tasks.create_task(runtime.feed_watchdog(f"locked: {WHY}"))
        notify(runtime.home.environment.get("NOTIFY_SOCKET"), READY=1, STATUS=f"locked: {WHY}; {hint}")
        try:
            await locked.adopted.wait()
            await control.drain(ANSWER_S_MAX)  # so that `adopt` gets its answer
        finally:
            watchdog.cancel()
            await token_api.stop()
    finally:
        await control.stop()


def _place(runtime: Runtime, name: str) -> Path | int:
    """Return where to listen: for a passed socket a duplicate, since the normal start needs it again."""
    passed = listen_fds(runtime.home.environment, pid=os.getpid())
    return os.dup(passed[name]) if name in passed else runtime.home.sockets / name


def _sentence(runtime: Runtime) -> str:
    return str(action("copied")["sentence"]).replace("AGENT", runtime.kind)


class _Locked:
    """The token source and the commands of a locked agent."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.adopted = asyncio.Event()

    async def get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        return TokenRefused("locked", WHY, _sentence(self._runtime))

    async def find_phone(self, word: str) -> TokenRefused:
        return TokenRefused("locked", WHY, _sentence(self._runtime))

    async def status(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Say that the agent is locked, and why."""
        runtime = self._runtime
        return {
            **common(runtime.surroundings({}), runtime.clock.now()),
            "action": {"slug": "copied", "sentence": _sentence(runtime)},
        }

    async def adopt(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Make this device the vault's own; the agent goes on with its normal start."""
        runtime = self._runtime
        here, now_s = runtime.home.board, int(runtime.clock.now().wall_s)
        await runtime.vault.run(partial(board_check.adopt, here=here, now_s=now_s))
        log.warning("vault_adopted")
        self.adopted.set()
        return {"message": "this device is the vault's own now; the agent starts"}


async def nothing_to_adopt(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
    """Answer the command ``adopt`` for an agent that is not locked."""
    return {"message": "this vault belongs to this device already: nothing to do"}
