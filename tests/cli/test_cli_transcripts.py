"""Transcripts: what a person types and sees, kept as text in ``transcripts/`` and run as processes of their own.

A line ``$ token-relay …`` is a command, lines ``< …`` its standard input, ``! …`` its standard error, ``? N`` its exit
code (0 when absent), everything else its standard output; ``#`` begins a comment. ``{home}`` is the home of the agent
that runs beside the transcript (its answers are in :func:`playing`), ``{tmp}`` an empty directory, which is also the
working directory, and ``{any}`` stands for any text within a line.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.cli_kit import Agent, run_process
from tests.watchdog import HANG_S
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.protocol.errors import PersonNeededError, PolicyError
from token_relay.protocol.secret import AccessToken
from token_relay.service.control import JSON, Exchange

DIRECTORY = Path(__file__).parent / "transcripts"
FILES = sorted(DIRECTORY.glob("*.txt"))


@dataclass
class Step:
    line: str
    stdin: list[str] = field(default_factory=list)
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    code: int = 0


def parse(text: str) -> list[Step]:
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("$ token-relay"):
            steps.append(Step(line.removeprefix("$ token-relay").strip()))
        elif line.startswith("< "):
            steps[-1].stdin.append(line[2:])
        elif line.startswith("!"):
            steps[-1].err.append(line[2:])
        elif line.startswith("? "):
            steps[-1].code = int(line[2:])
        elif steps:
            steps[-1].out.append(line)
    for step in steps:  # blank lines before the next command are for the reader
        while step.out and not step.out[-1]:
            step.out.pop()
    return steps


def assert_same(wanted: list[str], found: str, what: str) -> None:
    lines = found.splitlines()
    patterns = [".*".join(re.escape(part) for part in line.split("{any}")) for line in wanted]
    is_same = len(lines) == len(patterns) and all(map(re.fullmatch, patterns, lines))
    assert is_same, f"{what} differs\n--- wanted\n" + "\n".join(wanted) + f"\n--- found\n{found}"


class Playing:
    """The agent of the transcripts: one small world, the same for each."""

    @staticmethod
    def prepare(agent: Agent) -> None:
        agent.replies("sign_out", {"message": "signed out"})
        agent.replies(
            "status",
            {
                "device_id": "a" * 26,
                "broker": {"url": "mqtts://broker.example", "connected": True},
                "action": {"slug": "sign_in", "sentence": "sign in: token-relay phone sign-in"},
            },
        )
        shown: JSON = {
            "name": "kitchen",
            "state": "online",
            "account": "otp@contoso.example",
            "heard_at": 1_799_999_996,
            "lease_left_s": 7_689_600,
        }
        counts: JSON = {"devices": 1, "fine": 1}
        agent.replies("devices", {"devices": [shown], "summary": counts, "next": None, "now": 1_800_000_000})
        agent.replies("events", {"events": []})
        agent.replies("revoke", {"pending": True, "provider": "unknown", "device": "not confirmed"})
        agent.raises(
            "cancel", PersonNeededError("kitchen has it on disk already", hint="token-relay phone revoke kitchen")
        )

        async def handoff(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            if args["device"] != "kitchen":
                raise PolicyError(
                    "refresh tokens may not leave the account", hint="set allow_refresh_token_access = true"
                )
            await exchange.progress({"message": "offered"})
            await exchange.progress({"message": "released"})
            return {"message": "kitchen has its own grant", "generation": 1, "lease_left_s": 7_776_000}

        async def sign_in(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            if args["method"] == "browser":
                await exchange.ask("browser", "sign in", url="https://idp.example/authorize?state=s")
            else:
                assert await exchange.ask("password", "password of otp") == "hunter two"
                assert await exchange.ask("code", "code sent by e-mail") == "12345678"
            return {"message": "signed in"}

        async def pair(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            if "invitation" not in args and "yes" not in args:
                await exchange.progress({"invitation": "RTR1:ABCDEFGH", "expires_in_s": 600})
            if args.get("wait") is False:
                return {"pending": True}
            await exchange.progress({"check_number": "042137", "device_name": "kitchen"})
            if "yes" in args and not args["yes"] and await exchange.ask("confirm", "the same number?") != "yes":
                raise PersonNeededError("not paired")
            return {"message": "paired with kitchen"}

        agent.handlers |= {"handoff": handoff, "sign_in": sign_in, "pair": pair}
        agent.get_token = Playing.token  # type: ignore[method-assign]  # this transcript's answers

    @staticmethod
    async def token(query: TokenQuery) -> TokenGranted | TokenRefused:
        if query.scope == "wrong":
            return TokenRefused("not_found", "no grant covers scope wrong", action="ask for a subset of: openid")
        if query.audience:
            return TokenRefused("locked", "the lease has ended", action="run phone handoff on the phone")
        moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
        header_claims_signature = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJvdHAifQ.c2lnbmF0dXJl"
        return TokenGranted(AccessToken(header_claims_signature), "Bearer", moment, "openid", "https://idp.example")


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_transcript_is_what_happens(path: Path, agent: Agent, short_path: Path) -> None:
    work = short_path / "work"
    work.mkdir()
    Playing.prepare(agent)
    places = {"{home}": str(agent.directory), "{tmp}": str(work)}

    def placed(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    steps = parse(path.read_text())
    assert steps
    with agent.running():
        for step in steps:
            ran = run_process(
                *shlex.split(placed(step.line)),
                env={"HOME": str(work)},
                cwd=work,
                stdin="".join(line + "\n" for line in step.stdin),
            )
            what = f"{path.name}: $ token-relay {step.line}\n"
            assert_same([placed(line) for line in step.out], ran.stdout, what + "standard output")
            assert_same([placed(line) for line in step.err], ran.stderr, what + "standard error")
            assert ran.returncode == step.code, what + f"exit code {ran.returncode}"


def test_transcripts_cover_every_group() -> None:
    lines = [step.line.split()[0] for path in FILES for step in parse(path.read_text()) if step.line]
    assert {"phone", "companion", "certs", "demo", "sandbox"} <= set(lines)


def test_sandbox_announces_itself_and_stops_at_sigterm(tmp_path: Path) -> None:
    import json

    command = [sys.executable, "-m", "token_relay.cli", "sandbox", "--http-port", "0", "--mqtt-port", "0", "--json"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            announced = json.loads(process.stdout.readline())
            assert announced["profile"] == "entra"
            assert announced["mqtt"].startswith("mqtt://127.0.0.1:")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=HANG_S) == 0
        finally:
            process.kill()


def test_output_into_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ran = subprocess.run(
            [sys.executable, "-m", "token_relay.cli", "--help"],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=HANG_S,
            check=False,
        )
    assert "Traceback" not in ran.stderr
    assert ran.returncode == 1


def test_the_package_runs_where_nothing_put_the_command_on_the_path(tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-m", "token_relay.cli", "certs", "nonsense"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("usage: token-relay certs")
