"""A file that an editor began with a byte order mark is read as if it had none, whoever reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.cli_kit import Agent, Pipe, context, run_process
from token_relay.cli.prompts import Prompts, Sources, read_argument_from_stdin, read_attributes
from token_relay.host.config import CompanionConfig
from token_relay.host.config_file import load_config, read_secret_file

BOM = b"\xef\xbb\xbf"


def written(directory: Path, content: str) -> Path:
    path = directory / "file"
    path.write_bytes(BOM + content.encode())
    path.chmod(0o600)
    return path


def asked(sources: Sources, kind: str) -> str | None:
    return Prompts(context(), sources, sleep=lambda seconds: None).answer({"kind": kind})


def code_from_file(path: Path) -> str | None:
    prompts = Prompts(context(), Sources(otp_file=str(path)), sleep=lambda seconds: os.utime(path, ns=(2, 2)))
    return prompts.answer({"kind": "code"})


READERS: dict[str, Callable[[Path], str | None]] = {
    "broker password, passphrase": lambda path: read_secret_file(path, "password").reveal(),
    "--password-file": lambda path: asked(Sources(password_file=str(path)), "password"),
    "--new-password-file": lambda path: asked(Sources(new_password_file=str(path)), "new_password"),
    "--refresh-token-file": lambda path: asked(Sources(refresh_token_file=str(path)), "refresh_token"),
    "--otp-file": code_from_file,
    "--otp-command": lambda path: asked(Sources(otp_command=f"cat {path}"), "code"),
    "invitation on standard input": lambda path: read_argument_from_stdin(context(path.read_text("utf-8")), "it"),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_line_of_a_file_with_a_mark_is_the_line(tmp_path: Path, reader: str) -> None:
    assert READERS[reader](written(tmp_path, "value-ä\n")) == "value-ä"


def test_a_code_through_a_pipe_has_no_mark(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writers: list[int] = []

    def write(seconds: float) -> None:
        if not writers:
            writers.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            os.write(writers[0], BOM + b"12345678\n")

    prompts = Prompts(context(), Sources(otp_file=str(path)), sleep=write)
    assert prompts.answer({"kind": "code"}) == "12345678"
    os.close(writers[0])


def test_attributes_with_a_mark_are_an_object(tmp_path: Path) -> None:
    path = written(tmp_path, '{"displayName": "Ann"}')
    assert read_attributes(context(), str(path)) == {"displayName": "Ann"}
    assert read_attributes(context(Pipe(path.read_text("utf-8"))), "-") == {"displayName": "Ann"}


def test_a_configuration_with_a_mark_runs_and_its_lines_are_counted_as_before(agent: Agent) -> None:
    path = agent.directory / "config.toml"
    path.write_bytes(BOM + b'name = "watch"\n[broker]\nurl = "mqtt://127.0.0.1"\n')
    assert load_config(CompanionConfig, path).name == "watch"
    path.write_bytes(BOM + b'name = "watch"\n[broker]\nurl = 7\n')
    ran = run_process("companion", "run", "--home", str(agent.directory), env={}, cwd=agent.directory)
    assert (ran.returncode, "config.toml:3: broker.url" in ran.stderr) == (2, True)
