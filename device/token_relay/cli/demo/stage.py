"""The stage of the demo: the sandbox, the two agents, and what the story remembers from step to step."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass, field

from token_relay.cli.demo.agents import Agent
from token_relay.cli.demo.checks import expect, expect_equal
from token_relay.cli.demo.programs import Programs, Ran
from token_relay.cli.demo.sandbox import Sandbox
from token_relay.cli.demo.views import BrokerMessage, ProviderEvent, SandboxFacts
from token_relay.protocol.secret import AccessToken

# What the sandbox says of a token it commits; how a person would put it.
SPOKEN = {
    "request_held": "holds the request, as it was told",
    "request_lost": "client gone: nothing committed",
    "answer_lost": "client gone: the answer never left",
    "reuse_detected": "a spent token comes back: reuse",
    "family_killed": "ends the whole family of tokens",
    "token_revoked": "takes the revocation (RFC 7009)",
    "refresh_denied": "refuses: invalid_grant",
}


@dataclass(slots=True)
class Stage:
    """One demo's world."""

    programs: Programs
    profile: str
    lifetime_s: int  # of access tokens, seconds
    _sandbox: Sandbox | None = None
    phone: Agent = field(init=False)
    companion: Agent = field(init=False)
    restart_s: float = 1.0  # how long the companion takes to come up here, measured after the first power cut
    token_here_at: float = 0.0  # monotonic; the newest access token is older than this
    handoff_messages: list[BrokerMessage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.phone = Agent(self.programs, "phone", "phone")
        self.companion = Agent(self.programs, "companion", "watch")

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox, once started."""
        assert self._sandbox is not None, "step 1 starts it"
        return self._sandbox

    @property
    def strategy(self) -> str:
        """How the companion's token comes about under this profile."""
        return "branch" if self.profile == "entra" else "mint"

    def start_sandbox(self) -> int:
        """Start provider and broker on free ports; returns the process id. Raises StepFailedError."""
        words = ("sandbox", "--json", "--http-port", "0", "--mqtt-port", "0", "--profile", self.profile)
        program = self.programs.start(*words, "--access-token-lifetime", str(self.lifetime_s), log="sandbox.log")
        line = program.find(r"^\{.*\}$")[0]
        self._sandbox = Sandbox(SandboxFacts.model_validate_json(line))
        return program.pid

    def init_agents(self) -> None:
        """Make both homes, side by side. Raises StepFailedError."""
        facts = self.sandbox.facts
        provider = facts.http if self.profile == "entra" else facts.issuer
        words = ["--provider", provider, "--client-id", facts.client_id, "--profile", self.profile]
        if self.profile == "entra":
            words += ["--tenant", facts.tenant]
        begun = [
            (self.phone, self.phone.begin("init", "--broker", facts.mqtt, "--name", self.phone.name, *words)),
            (self.companion, self.companion.begin("init", "--broker", facts.mqtt, "--name", self.companion.name)),
        ]
        for agent, program in begun:
            agent.device_id = program.finish().expect(0).last_line

    # -- people and apps -----------------------------------------------------------------------------------

    def sign_in(self, *words: str) -> Ran:
        """Run a command of the phone at which the person signs in, and be that person. Raises StepFailedError."""
        if self.profile == "entra":
            user = self.sandbox.otp_user.username
            script = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
            mailbox = f"{self.sandbox.facts.http}/sandbox/mailbox/{user}?wait_s=10"
            command = shlex.join((sys.executable, "-c", script, mailbox))
            return self.phone(*words, "--username", user, "--otp-command", command).expect(0)
        program = self.phone.begin(*words, "--browser", "--no-open")
        self.sandbox.fill_in_form(program.find(r"^https?://\S+$")[0])
        return program.finish().expect(0)

    def hand_off(self) -> Ran:
        """Hand off to the companion with the profile's usual strategy. Raises StepFailedError."""
        words = ("handoff", self.companion.name, "--wait", "20")
        return self.phone(*words).expect(0) if self.strategy == "branch" else self.sign_in(*words)

    def get_token(self, *, force_refresh: bool = False) -> AccessToken:
        """Get an access token as an app on the companion does. Raises StepFailedError."""
        status, reply = self.companion.ask_for_token(force_refresh=force_refresh)
        said = f"{status} {reply.error} {reply.detail}"
        expect(status == 200, "the app gets an access token from the Unix socket", said)
        assert reply.access_token is not None, "200 holds one"
        self.token_is_here()
        return reply.access_token

    def prove(self, token: AccessToken) -> None:
        """Show a token to the protected resource. Raises StepFailedError."""
        expect_equal(self.sandbox.show_to_resource(token), 200, "GET /sandbox/resource with the token answers")

    def token_is_here(self) -> None:
        """The newest access token is on the companion's disk now."""
        self.token_here_at = time.monotonic()

    def wait_for_token_end(self) -> None:
        """Wait in real time until the newest access token has certainly ended."""
        time.sleep(max(0.0, self.token_here_at + self.lifetime_s - time.monotonic()))

    def generation(self) -> int:
        """Return the generation of the companion's newest grant."""
        return self.companion.status().grant.generation

    def tell_events(self, events: list[ProviderEvent]) -> tuple[tuple[str, ...], ...]:
        """Spell the provider's events as rows of one column."""
        rows: list[tuple[str, ...]] = []
        for event in events:
            if event.kind == "refresh_committed":
                rows.append((f"takes token {event.used_generation}, issues token {event.generation}",))
            elif event.kind in SPOKEN:
                rows.append((SPOKEN[event.kind],))
        return tuple(rows)
