"""What a refusal looks like on a terminal: lines to copy are lines, and a closed socket says whose it is."""

from __future__ import annotations

import errno
import io
import os
import pwd
from pathlib import Path

import pytest

from token_relay.cli.client import ClientError, _connect_error
from token_relay.cli.commands.token import refused
from token_relay.cli.main import _fail
from token_relay.cli.parsing import Context
from token_relay.host import paths
from token_relay.protocol.errors import LocalError

HINT = "to allow it, add this to /p.toml and reload the agent:\n[[allow]]\nuid = 7\x1b[2J"
SHOWN = "  hint: to allow it, add this to /p.toml and reload the agent:\n    [[allow]]\n    uid = 7\\x1b[2J\n"


def context() -> Context:
    return Context({}, io.StringIO(), io.StringIO(), io.StringIO(), as_json=False)


def test_a_hint_with_lines_to_copy_is_shown_in_lines_and_cannot_move_the_cursor() -> None:
    of_token, of_command = context(), context()
    refused(of_token, 403, {"error": "denied", "detail": "no rule\x07", "action": HINT})
    _fail(of_command, LocalError("no rule\x07", hint=HINT))
    for shown, begins in (
        (of_token, "token-relay: denied: no rule\\x07\n"),
        (of_command, "token-relay: no rule\\x07\n"),
    ):
        assert isinstance(shown.stderr, io.StringIO)
        assert shown.stderr.getvalue() == begins + SHOWN


def closed(path: Path) -> ClientError:
    return _connect_error(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


@pytest.mark.parametrize(
    ("name", "is_there", "what", "hint"),
    [
        ("control.sock", False, "the directory {home}", "run the command as {owner}, or with sudo"),
        ("token.sock", False, "the directory {home}", "let {owner} start the agent with --socket DIR"),
        ("control.sock", True, "the socket {home}/control.sock", "run the command as {owner}, or with sudo"),
        ("token.sock", True, "the socket {home}/token.sock", "run the command as {owner}, or with sudo"),
    ],
)
def test_a_closed_home_is_said_to_be_one(tmp_path: Path, name: str, is_there: bool, what: str, hint: str) -> None:
    if is_there:
        (tmp_path / name).touch()
    owner = pwd.getpwuid(os.geteuid()).pw_name
    error = closed(tmp_path / name)
    assert str(error) == f"{what.format(home=tmp_path)} is closed to this user: it belongs to {owner}"
    assert error.hint.startswith(hint.format(owner=owner))
    assert "service" not in str(error) and "group" not in error.hint


def test_a_closed_socket_of_a_service_is_said_to_be_one() -> None:
    error = closed(paths.SYSTEM_SOCKET_DIRECTORY / "companion" / "token.sock")
    assert "runs as a service" in str(error) and error.hint == "use sudo or join group token-relay"
