"""The two agents as victims of kill -9: how one asks them for a token, reads what is on their disk, and heals them.

The disk of a dead agent is read from a copy with its journal beside it, by SQLite alone: state names and generations
are in clear, and the copy keeps the harness from repairing what the agent has to repair. A live one is asked through
SQLite's own locks.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.plan import Victim
from tests.e2e.kit import Agent, Companion, Phone, eventually
from tests.watchdog import HANG_S
from token_relay.cli.client import ClientError, get_token

ASK_S = 5.0
TOO_MANY = 429  # a harness without a pause of its own asks faster than any app should
OVER = ("needs_handoff", "dead", "locked")


class OnDisk(NamedTuple):
    """The one grant that is in use."""

    state: str
    generation: int


@dataclass
class Target:
    """One agent with a grant of its own, and the other end that heals it."""

    agent: Agent
    phone: Phone

    @property
    def victim(self) -> Victim:
        return self.agent.kind

    async def ask(self, *, force: bool = False) -> str:
        """Ask as an app does, again when told that it asks too often; "" when there is no token now, or no agent."""
        query = {"timeout_s": f"{ASK_S:g}"} | ({"force_refresh": "true"} if force else {})
        while True:
            try:
                status, body = await asyncio.to_thread(
                    get_token, self.agent.home / "token.sock", query, timeout_s=3 * ASK_S
                )
            except ClientError:
                return ""
            if status != TOO_MANY:
                return str(body["access_token"]) if status == 200 else ""
            wait_s = body["retry_after_s"]
            assert isinstance(wait_s, int | float)
            await asyncio.sleep(wait_s)

    async def keep_asking(self) -> None:
        """An app that always wants a token that works; ends when it is cancelled or the agent is gone."""
        while self.agent.running.is_running:
            await self.ask()
            await asyncio.sleep(0.05)

    async def newest(self) -> dict[str, Any]:
        """The newest grant as the status shows it."""
        status = await self.agent.status()
        rows = status["grants" if self.victim == "companion" else "accounts"]
        return dict(rows[-1]) if rows else {}

    def on_disk(self) -> OnDisk:
        """Read the grant of a dead agent."""
        assert not self.agent.running.is_running
        (grant,) = grants_left_on_disk(self.agent.home)
        return grant

    async def works(self, *, beyond: int) -> bool:
        """Whether a refresh later than generation ``beyond`` gave a token that the protected resource accepts."""
        token = await self.ask(force=True)
        if not token or (await self.newest())["generation"] <= beyond:
            return False
        return (await self.agent.world.sandbox.resource(token))[0] == 200

    async def comes_back(self, *, beyond: int) -> bool:
        """Wait until it has a working token again (True), or has said that it will not (False)."""

        async def look() -> str:
            if (await self.newest())["state"] in OVER:
                return "over"
            return "works" if await self.works(beyond=beyond) else ""

        return await eventually(f"{self.agent.name} is back", look, within_s=HANG_S) == "works"

    async def says_plainly(self) -> bool:
        """Whether the status command, as a person sees it, tells the one thing that helps."""
        wanted = "phone handoff" if self.victim == "companion" else "phone sign-in"
        ran = await self.agent("status")
        return wanted in ran.out and ran.code in (0, 4) and "Traceback" not in ran.err

    async def heal(self) -> None:
        """Do what the status says, once."""
        if isinstance(self.agent, Companion):
            await self.phone.hand_off(self.agent)
            await self.agent.until_generation(2)
        else:
            await self.phone.sign_in()


_GRANTS_SQL = "SELECT state, generation FROM grants WHERE refresh_token IS NOT NULL ORDER BY stored_at"


def grants_left_on_disk(home: Path) -> list[OnDisk]:
    """Return the grants of a dead agent that have a refresh token; SQLite rolls a cut transaction back, in the copy."""
    with tempfile.TemporaryDirectory(prefix="tr-copy-") as directory:
        for path in home.glob("vault.db*"):
            if path.suffix != ".lock":
                shutil.copy(path, directory)
        with closing(sqlite3.connect(Path(directory) / "vault.db")) as database:
            return [OnDisk(*row) for row in database.execute(_GRANTS_SQL)]


def grants_on_disk(home: Path) -> list[OnDisk]:
    """Return the grants of a live agent that have a refresh token, oldest first."""
    with closing(sqlite3.connect(f"file:{home}/vault.db?mode=ro", uri=True)) as database:
        return [OnDisk(*row) for row in database.execute(_GRANTS_SQL)]
