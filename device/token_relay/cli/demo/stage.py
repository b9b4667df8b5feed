"""The stage of the demo and of ``try``: the two agents, the sandbox, and the state that steps share.

The demo controls the agents by command line, control socket, token socket and signals, as anybody can. What a person
would type runs as a command; what a person would look at again and again is asked over the control socket, as the
command does it. For access tokens, the demo is one more app on the device.
"""

from __future__ import annotations

import json
import shlex
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Literal

from token_relay.agents.records import AuditEvent, CachedToken, CompanionHandoff, Grant, Outgoing, PhoneHandoff
from token_relay.cli.client import ClientError, JsonObject, control_call, get_token
from token_relay.cli.demo.checks import Answer, StepFailedError, expect, expect_equal
from token_relay.cli.demo.programs import WITHIN_S, Program, Programs
from token_relay.cli.demo.sandbox import Sandbox
from token_relay.host.paths import CONTROL_SOCKET, TOKEN_SOCKET
from token_relay.protocol.secret import AccessToken

GATE_OPTION = "--allow-refresh-token-access"
POLL_S = 0.03  # between two looks at a status
TABLES = tuple(kind.table for kind in (Grant, CachedToken, CompanionHandoff, PhoneHandoff, Outgoing, AuditEvent))
TOLD = ("grants", "accounts", "devices", "phones", "action")  # the parts of a status to show when a wait fails
# The sandbox's events, in words for a person.
SPOKEN = {
    "refresh_committed": "takes token {used_generation}, issues token {generation}",
    "request_held": "holds the request, as the demo asked",
    "request_lost": "client gone: nothing committed",
    "answer_lost": "client gone: the answer never left",
    "reuse_detected": "a spent token comes back: reuse",
    "family_killed": "ends the whole family of tokens",
    "token_revoked": "takes the revocation (RFC 7009)",
    "refresh_denied": "refuses: invalid_grant",
}


class DemoAgent:
    """One agent with its home; the steps start and end it as often as they need."""

    def __init__(self, programs: Programs, kind: Literal["phone", "companion"], name: str) -> None:
        self._programs = programs
        self.kind = kind
        self.name = name
        self.home: Path = programs.directory / kind
        self.device_id = ""
        self.program: Program | None = None

    # -- its process ---------------------------------------------------------------------------------------

    def __call__(self, *words: str, stdin: str = "", log: str = "") -> Program:
        """Start one of its commands."""
        return self._programs.start(self.kind, *words, "--home", str(self.home), stdin=stdin, log=log)

    def start(self) -> None:
        """Start the agent and wait until it is connected. Raises StepFailedError."""
        self.spawn()
        self.until_connected()

    def spawn(self) -> None:
        """Start the agent."""
        self.program = self("run", log=f"{self.name}.log")

    def until_connected(self) -> None:
        """Wait until it has reached the broker. Raises StepFailedError."""
        self.until(f"the {self.kind} is connected to the broker", lambda status: bool(status["broker"]["connected"]))

    @property
    def running(self) -> Program:
        """Return its process."""
        assert self.program is not None, "start it first"
        return self.program

    def stop(self) -> None:
        """Stop it cleanly. Raises StepFailedError."""
        self.running.end(signal.SIGTERM, 0)

    def kill(self) -> None:
        """End it as a power cut does. Raises StepFailedError."""
        self.running.end(signal.SIGKILL, -signal.SIGKILL)

    # -- looking at it -------------------------------------------------------------------------------------

    def ask(self, command: str, args: JsonObject | None = None) -> Answer:
        """Ask it on its control socket. Raises ClientError."""
        return control_call(self.home / CONTROL_SOCKET, command, args, silence_s=WITHIN_S)

    def status(self) -> Answer:
        """Return what ``status --json`` prints. Raises ClientError."""
        return self.ask("status")

    def until(self, what: str, holds: Callable[[Answer], bool]) -> Answer:
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
                got = json.dumps({key: status[key] for key in TOLD if status.get(key)})
            time.sleep(POLL_S)
        raise StepFailedError(what, got)

    def events(self) -> list[Answer]:
        """Return its audit table."""
        return list(self.ask("events", {"limit": 1000})["events"])

    def vault_rows(self) -> dict[str, list[tuple[object, ...]]]:
        """Return the rows of its vault that matter here, with sealed columns as they are on disk."""
        path = self.home / "vault.db"
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            everything = 'SELECT * FROM "{}" ORDER BY 1, 2'  # names from our records
            return {table: connection.execute(everything.format(table)).fetchall() for table in TABLES}

    # -- as an app -----------------------------------------------------------------------------------------

    def ask_for_token(self, *, force_refresh: bool = False) -> tuple[int, Answer]:
        """Ask for an access token on the Unix socket, as an app does; return the HTTP status and the answer."""
        query = {"force_refresh": "true"} if force_refresh else {}
        return get_token(self.home / TOKEN_SOCKET, query, timeout_s=WITHIN_S)


# -- Of a status -------------------------------------------------------------------------------------------


def grant_of(status: Answer) -> tuple[str, str, int]:
    """Return state, reason and generation of a companion's newest grant."""
    if not status["grants"]:
        return "none", "", 0
    newest: Answer = status["grants"][-1]
    return newest["state"], newest["reason"], newest["generation"]


def slug_of(status: Answer) -> str:
    """Return the slug of the action for a person, or an empty string."""
    return str((status["action"] or {"slug": ""})["slug"])


def is_settled(status: Answer) -> bool:
    """Whether every request to the other end has its answer."""
    return not any(peer["unanswered"] for peer in (*status.get("devices", ()), *status.get("phones", ())))


# -- All of it ------------------------------------------------------------------------------------------


class Stage:
    """The agents, the sandbox and the shared state of one demo."""

    sandbox: Sandbox  # step 1 starts it

    def __init__(self, programs: Programs, profile: str, lifetime_s: int = 0) -> None:
        self.programs = programs
        self.profile = profile
        self.strategy = "branch" if profile == "entra" else "mint"  # how the companion's token comes about
        self.lifetime_s = lifetime_s  # of access tokens, seconds; the steps that wait for their end need it
        self.phone = DemoAgent(programs, "phone", "phone")
        self.companion = DemoAgent(programs, "companion", "watch")
        self.agents = (self.phone, self.companion)
        self.restart_s = 1.0  # how long the companion takes to come up here, measured after the first power cut
        self.token_here_at = 0.0  # monotonic; the newest access token is older than this
        self.handoff_messages: list[Answer] = []

    def start_sandbox(
        self, *options: str, http_port: int = 0, mqtt_port: int = 0, keeps_stdin: bool = False
    ) -> Program:
        """Start provider and broker, on free ports if none are given. Raises StepFailedError: with what it says."""
        words: tuple[str, ...] = ("sandbox", "--json", "--http-port", str(http_port), "--mqtt-port", str(mqtt_port))
        words += "--profile", self.profile, *options
        program = self.programs.start(*words, log="sandbox.log", keeps_stdin=keeps_stdin)
        said = program.find(r"^\{.*\}$")[0]
        if problem := json.loads(said).get("error"):
            program.expect(problem["exit"])
            raise StepFailedError("the sandbox starts", problem["message"])
        self.sandbox = Sandbox(said)
        return program

    def init_agents(self, *, without: Collection[str] = ()) -> None:
        """Make both homes with the sandbox's settings, but without these options. Raises StepFailedError."""
        lines = [shlex.split(self.sandbox.facts["init"][agent.kind]) for agent in self.agents]
        begun = [
            agent(*(word for word in words if word not in without))
            for agent, (_program, _kind, *words) in zip(self.agents, lines, strict=True)
        ]
        for agent, program in zip(self.agents, begun, strict=True):
            agent.device_id = program.expect(0).out.splitlines()[-1]

    def start_agents(self) -> None:
        """Start both at the same time and wait until they are connected. Raises StepFailedError."""
        for agent in self.agents:
            agent.spawn()
        for agent in self.agents:
            agent.until_connected()

    # -- people and apps -----------------------------------------------------------------------------------

    @property
    def username(self) -> str:
        """Return who signs in here."""
        sandbox = self.sandbox
        return sandbox.otp_username if self.profile == "entra" else str(sandbox.password_user["username"])

    def sign_in(self, *words: str) -> None:
        """Run a command of the phone that needs a sign-in, and sign in as the person. Raises StepFailedError."""
        if self.profile == "entra":
            user = self.username
            script = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
            mailbox = f"{self.sandbox.facts['http']}/sandbox/mailbox/{user}?wait_s=10"
            command = shlex.join((sys.executable, "-c", script, mailbox))
            self.phone(*words, "--username", user, "--otp-command", command).expect(0)
        else:
            program = self.phone(*words, "--browser", "--no-open")
            self.sandbox.fill_in_form(program.find(r"^https?://\S+$")[0])
            program.expect(0)

    def hand_off(self) -> None:
        """Hand off to the companion with the profile's usual strategy. Raises StepFailedError."""
        words = ("handoff", self.companion.name, "--wait", "20")
        if self.strategy == "branch":
            self.phone(*words).expect(0)
        else:
            self.sign_in(*words)

    def get_token(self, *, force_refresh: bool = False) -> AccessToken:
        """Get an access token as an app on the companion does. Raises StepFailedError."""
        status, reply = self.companion.ask_for_token(force_refresh=force_refresh)
        said = f"{status} {reply.get('error')} {reply.get('detail')}"
        expect(status == 200, "the app gets an access token from the Unix socket", said)
        self.token_is_here()
        return AccessToken(reply["access_token"])

    def prove(self, token: AccessToken) -> None:
        """Show a token to the protected resource. Raises StepFailedError."""
        expect_equal(self.sandbox.show_to_resource(token), 200, "GET /sandbox/resource with the token answers")

    def token_is_here(self) -> None:
        """Note that the newest access token is on the companion's disk now."""
        self.token_here_at = time.monotonic()

    def wait_for_token_end(self) -> None:
        """Wait in real time until the newest access token has certainly ended."""
        time.sleep(max(0.0, self.token_here_at + self.lifetime_s - time.monotonic()))

    def generation(self) -> int:
        """Return the generation of the companion's newest grant."""
        return grant_of(self.companion.status())[2]

    def happened(self, mark: int) -> tuple[tuple[str, ...], ...]:
        """Return the provider's events since ``mark`` in words, as rows of one column."""
        spoken = (event for event in self.sandbox.events(mark) if event["kind"] in SPOKEN)
        return tuple((SPOKEN[event["kind"]].format_map(event),) for event in spoken)
