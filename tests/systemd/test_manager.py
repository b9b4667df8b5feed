"""What a running agent tells the service manager, and what it does at SIGHUP and SIGTERM: a real process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.watchdog import HANG_S
from token_relay.agents.ports import Transaction
from token_relay.protocol.errors import VaultError
from token_relay.service.runtime import Runtime

ROOT = Path(__file__).parents[2]


@dataclass
class Agent:
    """A companion with a policy, and the manager's end of its notifications."""

    home: Path
    process: subprocess.Popen[str]
    manager: socket.socket

    def told(self) -> str:
        return self.manager.recv(4096).decode()

    def until(self, wanted: str) -> str:
        while wanted not in (text := self.told()):
            pass
        return text


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    home = tmp_path / "c"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "token_relay.cli", "companion"]
    subprocess.run(
        [*command, "init", "--home", str(home), "--broker", "mqtt://127.0.0.1:1", "--name", "watch"],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
    )
    (home / "policy.toml").write_text("")
    config = home / "config.toml"
    config.write_text(config.read_text().replace("# policy_file =", 'policy_file = "policy.toml"'))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(HANG_S)
        process = subprocess.Popen(
            [*command, "run", "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"},
        )
        try:
            yield Agent(home, process, manager)
        finally:
            process.kill()
            process.communicate()


def test_manager_hears_ready_then_counts_then_stopping_and_ends(agent: Agent) -> None:
    assert agent.told() == "READY=1"  # after the vault is open and both sockets are served
    for name in ("control.sock", "token.sock"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(agent.home / name))
    assert agent.until("WATCHDOG=1") == "WATCHDOG=1\nSTATUS=0 paired, grants: none, broker not connected"
    agent.process.send_signal(signal.SIGTERM)
    agent.until("STOPPING=1")
    assert agent.process.wait(HANG_S) == 0


def test_reload_takes_a_new_policy_and_keeps_the_former_one_when_it_is_wrong(agent: Agent) -> None:
    agent.until("READY=1")
    policy = agent.home / "policy.toml"
    for text, mode, event in (
        ("[[allow]]\nuid = 4242\n", 0o644, '"rules": 1, "file"'),
        ("[[allow]]\nuid = 65534\n", 0o644, "reload_refused"),
        ("", 0o666, "reload_refused"),
        ("", 0o644, '"rules": 0, "file"'),
    ):
        policy.write_text(text)
        policy.chmod(mode)
        agent.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in agent.until("RELOADING=1")
        agent.until("READY=1")
        assert agent.process.stderr is not None
        while event not in (line := agent.process.stderr.readline()):
            assert line, f"ended without {event}"
            assert "policy_reloaded" not in line and "reload_refused" not in line, line
    assert agent.process.poll() is None


def test_reload_takes_up_another_policy_file_and_says_what_only_a_restart_takes_up(agent: Agent) -> None:
    agent.until("READY=1")
    (agent.home / "second.toml").write_text("[[allow]]\nuid = 1\n[[allow]]\nuid = 2\n")
    config = agent.home / "config.toml"
    config.write_text(config.read_text().replace('"policy.toml"', '"second.toml"').replace('"watch"', '"car"'))
    agent.process.send_signal(signal.SIGHUP)
    agent.until("RELOADING=1")
    lines = iter(agent.process.stderr or ())
    reloaded = next(json.loads(line) for line in lines if "policy_reloaded" in line)
    assert (reloaded["rules"], reloaded["file"]) == (2, str(agent.home / "second.toml"))
    restart = json.loads(next(lines))
    assert (restart["event"], restart["changed"], restart["hint"]) == ("restart_needed", "name", "restart the agent")


# -- the watchdog ------------------------------------------------------------------------------------------


class Vault:
    """Answers, refuses, or never answers."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer
        self.asked = 0

    async def run(self, _step: Callable[[Transaction], Any]) -> Any:
        self.asked += 1
        answer = self._answer()
        return await answer if asyncio.iscoroutine(answer) else answer


class OneRoundError(Exception):
    """Ends the loop where it sleeps."""


async def one_round(answer: Callable[[], Any], address: Path) -> int:
    """Run one round of the watchdog's loop; return how often the vault was asked."""

    async def sleep(_seconds: float) -> None:
        raise OneRoundError

    vault = Vault(answer)
    environment = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "60000000"}
    runtime = SimpleNamespace(
        vault=vault,
        channel=SimpleNamespace(is_connected=False),
        home=SimpleNamespace(environment=environment),
        clock=SimpleNamespace(sleep=sleep),
    )
    with pytest.raises((OneRoundError, TimeoutError)):
        async with asyncio.timeout(0.2):
            await Runtime.feed_watchdog(cast(Runtime, runtime))
    return vault.asked


def refuse() -> None:
    raise VaultError("the vault cannot be read")


@pytest.mark.parametrize(
    ("answer", "is_fed"),
    [(lambda: (2, "grants: 1 held"), True), (refuse, False), (lambda: asyncio.Event().wait(), False)],
    ids=["answers", "refuses", "hangs"],
)
@pytest.mark.asyncio
async def test_watchdog_is_fed_only_after_the_vault_has_answered(
    answer: Callable[[], Any], is_fed: bool, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(tmp_path / "notify"))
        assert await one_round(answer, tmp_path / "notify") == 1
        try:
            told = manager.recv(4096)
        except BlockingIOError:
            told = b""
    assert told == (b"WATCHDOG=1\nSTATUS=2 paired, grants: 1 held, broker not connected" if is_fed else b"")
