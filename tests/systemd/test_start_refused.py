"""What is found wrong while an agent starts is said in its own words, with its own exit code: the unit goes by that."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.watchdog import HANG_S

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def companion(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "token_relay.cli", "companion", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env=ENVIRONMENT,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = companion("init", "--home", str(tmp_path / "c"), "--broker", "mqtt://127.0.0.1:1", "--name", "watch")
    assert made.returncode == 0, made.stderr
    return tmp_path / "c"


def open_to_all(policy: Path) -> None:
    policy.write_text("")
    policy.chmod(0o666)


def no_rules(policy: Path) -> None:
    policy.write_text("allow = 3\n")


def fifo(policy: Path) -> None:
    os.mkfifo(policy)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (open_to_all, "policy may be written by other users"),
        (no_rules, "allow"),
        (fifo, "policy is not a regular file"),
        (lambda policy: None, "policy is missing"),
    ],
)
def test_wrong_policy_at_the_start_is_named_and_not_an_internal_error(
    home: Path, make: Callable[[Path], None], said: str
) -> None:
    policy = home / "policy.toml"
    make(policy)
    config = home / "config.toml"
    config.write_text(config.read_text().replace("# policy_file =", 'policy_file = "policy.toml"'))
    ran = companion("run", "--home", str(home))
    assert ran.returncode == 2, ran
    assert f"token-relay: {policy}: {said}" in ran.stderr
    assert "internal error" not in ran.stderr


def test_socket_of_another_agent_is_named_and_not_an_internal_error(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(home / "token.sock"))
        other.listen()
        ran = companion("run", "--home", str(home))
    assert ran.returncode == 2, ran
    assert "already running: another agent listens at" in ran.stderr
