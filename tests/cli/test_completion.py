"""Completion in the real shells: what a person gets at a press of the tabulator key."""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.cli.cli_kit import Agent, run_process
from tests.watchdog import HANG_S
from token_relay.cli import main as cli
from token_relay.cli.commands.completion import SHELLS, script
from token_relay.cli.parsing import Parser

ROOT = Path(__file__).parents[2]
BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"
bash = pytest.mark.skipif(needs.missing(BASH_COMPLETION) != "", reason=needs.missing(BASH_COMPLETION))
zsh = pytest.mark.skipif(needs.missing("zsh") != "", reason=needs.missing("zsh"))


@pytest.fixture
def environment(short_path: Path) -> dict[str, str]:
    """``token-relay`` on the path, and the files where an installation puts them."""
    program = short_path / "bin" / "token-relay"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m token_relay.cli "$@"\n')
    program.chmod(0o755)
    share = short_path / "share"
    for place, name in (("bash-completion/completions", "token-relay"), ("zsh/site-functions", "_token-relay")):
        (share / place).mkdir(parents=True)
        shutil.copy(ROOT / "docs" / "completion" / name, share / place)
    return {
        "HOME": str(short_path),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TERM": "dumb",
        "XDG_DATA_DIRS": str(share),
    }


BASH = f"""\
. {BASH_COMPLETION}
_completion_loader token-relay
while IFS='|' read -ra COMP_WORDS; do
    COMP_LINE="${{COMP_WORDS[*]}}"
    [[ ${{COMP_WORDS[-1]}} != END ]] || COMP_WORDS[-1]=""
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    _shtab_token_relay
    (IFS='|'; echo "${{COMPREPLY[*]}}")
done
"""


def in_bash(environment: dict[str, str], *lines: str) -> list[list[str]]:
    """Return what bash offers at the end of each line. Words are passed as they are typed, so | stands between them."""
    ran = subprocess.run(
        ["bash", "--norc", "-c", BASH],
        input="".join(re.sub(r"(?<!\\) ", "|", f"{line}END" if line.endswith(" ") else line) + "\n" for line in lines),
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert ran.stderr == ""
    return [line.split("|") if line else [] for line in ran.stdout.splitlines()]


def in_zsh(environment: dict[str, str], *lines: str) -> list[str]:
    """Return each line as it stands after the key, in a terminal of its own."""
    place = f"{environment['XDG_DATA_DIRS']}/zsh/site-functions"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment)
    try:
        _type(
            terminal,
            f"PS1='% '; unsetopt zle_bracketed_paste; fpath=({place} $fpath); autoload -Uz compinit; compinit -u -D; "
            "print -r -- '<''<' '>''>'\n",
        )
        # After the key, the line becomes the argument of a command that prints it.
        return [_type(terminal, f"{line}\t\x01print -r -- '<''<' \x05 '>''>'\n") for line in lines]
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def _type(terminal: int, keys: str) -> str:
    os.write(terminal, keys.encode())
    shown = b""
    while b">>" not in shown:
        assert select.select([terminal], [], [], HANG_S)[0], shown
        shown += os.read(terminal, 65_536)
    return shown.partition(b">>")[0].rpartition(b"<<")[2].decode().strip()


# -- The scripts -------------------------------------------------------------------------------------------


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command of the tables, with its own options and those of its group."""
    for group in (*cli.GROUPS, "sandbox ctl"):
        for name, command in cli.commands_of(group).items():
            if name != group and group in cli.commands_of(group):
                continue  # demo and sandbox have one table
            parser = Parser(prog="token-relay")
            command.options(parser)
            yield group if name == group else f"{group} {name}", parser


def test_every_command_and_option_of_the_tables_is_in_both_scripts() -> None:
    scripts = {shell: script(shell) for shell in SHELLS}
    count = 0
    for words, parser in parsers():
        prefix = re.sub(r"\W", "_", f"_shtab_token_relay_{words}")
        options = {name for action in parser._actions for name in action.option_strings}
        in_bash = re.search(rf"^{prefix}_option_strings=\((.*)\)$", scripts["bash"], re.MULTILINE)
        assert in_bash is not None and set(shlex.split(in_bash[1])) == options, words
        in_zsh = re.search(rf"^{prefix}_options=\(\n(.*?)^\)$", scripts["zsh"], re.MULTILINE | re.DOTALL)
        assert in_zsh is not None, words
        for name in options:
            assert re.search(rf"[{{,\"*]{re.escape(name)}[,}}\[]", in_zsh[1]), (words, name)
        count += len(options)
    assert count > 250


def test_bash_takes_the_script() -> None:
    ran = subprocess.run(["bash", "-n"], input=script("bash"), capture_output=True, text=True, check=True)
    assert ran.stderr == ""


# -- In bash -----------------------------------------------------------------------------------------------


@bash
def test_bash_completes_commands_options_choices_and_files(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "key file.pem").touch()
    (tmp_path / "keys").mkdir()
    offered = in_bash(
        environment,
        "token-relay comp",
        "token-relay sandbox ctl cl",
        "token-relay companion token --force",
        "token-relay sandbox --profile str",
        f"token-relay phone init --client-key-file {tmp_path}/k",
        f"token-relay phone --home {tmp_path}/k",
        "token-relay completion ",
    )
    assert [sorted(words) for words in offered] == [
        ["companion", "completion"],
        ["clock"],
        ["--force-refresh"],
        ["strict"],
        [f"{tmp_path}/key file.pem", f"{tmp_path}/keys"],
        [f"{tmp_path}/keys"],
        ["bash", "devices", "zsh"],
    ]


EVIL = "$(touch {mark})`touch {mark}`;touch {mark}"


@bash
def test_bash_completes_devices_and_runs_nothing_that_a_name_says(
    environment: dict[str, str], agent: Agent, short_path: Path
) -> None:
    mark = short_path / "mark"
    evil = EVIL.format(mark=mark)
    agent.replies("devices", {"devices": [{"name": "car 13"}, {"name": "watch"}, {"name": evil}, {"device_id": "x"}]})
    line = f"token-relay phone --socket {agent.directory} revoke "
    with agent.running():
        offered = in_bash(environment, line, f"{line}ca", f"{line}car\\ 1")
    assert offered[0][1:] == ["car\\ 13", "watch"] and shlex.split(offered[0][0]) == [evil]
    assert offered[1] == ["car\\ 13"] == offered[2]
    assert not mark.exists()


# -- In zsh ------------------------------------------------------------------------------------------------


@zsh
def test_zsh_completes_commands_options_choices_files_and_devices(
    environment: dict[str, str], agent: Agent, short_path: Path
) -> None:
    (short_path / "key file.pem").touch()
    evil = EVIL.format(mark=short_path / "mark")
    agent.replies("devices", {"devices": [{"name": "car 13"}, {"name": evil}]})
    phone = f"token-relay phone --socket {agent.directory}"
    typed = {
        "token-relay comple": "token-relay completion",
        "token-relay sandbox ctl cl": "token-relay sandbox ctl clock",
        "token-relay companion token --force": "token-relay companion token --force-refresh",
        "token-relay sandbox --profile str": "token-relay sandbox --profile strict",
        f"token-relay phone init --client-key-file {short_path}/ke": f"token-relay phone init --client-key-file "
        f"{short_path}/key file.pem",
        f"{phone} revoke c": f"{phone} revoke car 13",
        f"{phone} revoke \\$": f"{phone} revoke {evil}",
    }
    with agent.running():
        assert in_zsh(environment, *typed) == list(typed.values())
    assert not (short_path / "mark").exists()


# -- The names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["token-relay phone revoke ", "token-relay phone --home", "token-relay phone revoke 'c", ""]
)
def test_names_are_none_where_no_agent_runs_or_the_line_is_not_complete(line: str, tmp_path: Path) -> None:
    ran = run_process("completion", "devices", env={"HOME": str(tmp_path), "COMP_LINE": line}, cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_names_are_those_of_the_agent_that_the_line_means(agent: Agent, tmp_path: Path) -> None:
    agent.replies("devices", {"devices": [{"name": "watch"}, {"name": "car 13"}]})
    where = {"HOME": str(agent.directory.parent), "COMP_LINE": "token-relay phone revoke --home ~/agent ca"}
    with agent.running():
        ran = run_process("completion", "devices", env=where, cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "car 13\nwatch\n", "")
