"""The two agents as the demo drives them: by command line, control socket, token socket and signals, as anybody can.

What a person would type is run as a command; what a person would look at again and again is asked over the
control socket, as the command does it. Of an access token the demo is one more app on the device.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from token_relay.agents.records import CachedToken, CompanionHandoff, Event, Grant, Outgoing, PhoneHandoff
from token_relay.cli.client import ClientError, JsonObject, control_call, get_token
from token_relay.cli.demo.checks import Json, StepFailedError, expect, expect_equal
from token_relay.cli.demo.programs import WITHIN_S, Program, Programs, Ran
from token_relay.cli.demo.views import AgentStatus, AuditRow, AuditRows, TokenReply
from token_relay.host.paths import CONTROL_SOCKET, TOKEN_SOCKET

POLL_S = 0.03  # between two looks at a status
TABLES = tuple(kind.table for kind in (Grant, CachedToken, CompanionHandoff, PhoneHandoff, Outgoing, Event))


class Agent:
    """One agent with its home; started and ended as often as the story wants."""

    def __init__(self, programs: Programs, kind: Literal["phone", "companion"], name: str) -> None:
        self._programs = programs
        self.kind = kind
        self.name = name
        self.home: Path = programs.directory / name
        self.device_id = ""
        self.program: Program | None = None

    # -- its process ---------------------------------------------------------------------------------------

    def begin(self, *words: str, stdin: str = "") -> Program:
        """Start one of its commands."""
        return self._programs.start(self.kind, *words, "--home", str(self.home), stdin=stdin)

    def __call__(self, *words: str, stdin: str = "") -> Ran:
        """Run one of its commands to the end."""
        return self.begin(*words, stdin=stdin).finish()

    def start(self) -> float:
        """Start the agent and wait until it is connected; returns the seconds that took. Raises StepFailedError."""
        began_at = time.monotonic()
        self.spawn()
        self.until_connected()
        return time.monotonic() - began_at

    def spawn(self) -> None:
        """Start the agent."""
        words = (self.kind, "run", "--home", str(self.home))
        self.program = self._programs.start(*words, log=f"{self.name}.log")

    def until_connected(self) -> None:
        """Wait until it has reached the broker. Raises StepFailedError."""
        self.until(f"the {self.kind} is connected to the broker", lambda status: status.broker.connected)

    @property
    def running(self) -> Program:
        """Its process."""
        assert self.program is not None, "start it first"
        return self.program

    def stop(self) -> None:
        """End it properly. Raises StepFailedError."""
        expect_equal(self.running.end(signal.SIGTERM), 0, f"exit code of the {self.kind} after SIGTERM")

    def kill(self) -> None:
        """End it as a power cut does. Raises StepFailedError."""
        expect_equal(self.running.end(signal.SIGKILL), -signal.SIGKILL, f"end of the {self.kind} by SIGKILL")

    def edit_config(self, old: str, new: str) -> None:
        """Change its configuration; that counts from its next start. Raises StepFailedError."""
        path = self.home / "config.toml"
        text = path.read_text()
        expect(old in text, f"{old!r} stands in {path.name}", "it does not")
        path.write_text(text.replace(old, new))

    # -- looking at it -------------------------------------------------------------------------------------

    def raw_status(self) -> JsonObject:
        """Return what ``status --json`` prints. Raises ClientError."""
        return control_call(self.home / CONTROL_SOCKET, "status", silence_s=WITHIN_S)

    def status(self) -> AgentStatus:
        """Return of its status what the story needs. Raises ClientError."""
        return AgentStatus.model_validate(self.raw_status())

    def until(self, what: str, holds: Callable[[AgentStatus], bool]) -> AgentStatus:
        """Look at its status until the condition holds, and return it. Raises StepFailedError."""
        ends_at = time.monotonic() + WITHIN_S
        got = "no answer"
        while time.monotonic() < ends_at:
            try:
                status = self.status()
            except ClientError as exc:
                got = str(exc)
                if self.program is not None and self.program.popen.poll() is not None:
                    raise StepFailedError(what, f"the {self.kind} has ended: {got}") from exc
            else:
                if holds(status):
                    return status
                got = status.model_dump_json(exclude={"device_id"})
            time.sleep(POLL_S)
        raise StepFailedError(what, got)

    def events(self, after: int = 0) -> list[AuditRow]:
        """Return its audit table after that row."""
        rows = control_call(self.home / CONTROL_SOCKET, "events", {"limit": 1000, "after": after}, silence_s=WITHIN_S)
        return list(AuditRows.model_validate(rows).events)

    def event_mark(self) -> int:
        """Return the number of the last row of its audit table."""
        rows = self.events()
        return rows[-1].number if rows else 0

    def vault_rows(self) -> Json:
        """Return the rows of its vault that make a difference, sealed columns as they lie on the disk."""
        path = self.home / "vault.db"
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            return {table: _rows(connection, table) for table in TABLES}
        finally:
            connection.close()

    # -- as an app -----------------------------------------------------------------------------------------

    def ask_for_token(self, *, force_refresh: bool = False) -> tuple[int, TokenReply]:
        """Ask for an access token on the Unix socket, as an app does; returns the HTTP status and the answer."""
        query = {"force_refresh": "true"} if force_refresh else {}
        status, body = get_token(self.home / TOKEN_SOCKET, query, timeout_s=WITHIN_S)
        return status, TokenReply.model_validate_json(json.dumps(body))


def _rows(connection: sqlite3.Connection, table: str) -> list[Json]:
    found: list[Json] = []
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone():
        for row in connection.execute(f'SELECT * FROM "{table}" ORDER BY 1, 2'):  # noqa: S608  # names from our records
            found.append([cell.hex() if isinstance(cell, bytes) else cell for cell in row])
    return found
