"""``token-relay completion``: the script that completes command lines, made by shtab from the parsers of ``--help``.

The files where bash-completion and zsh look (``docs/completion``) ask this command when a shell needs them first, so
that what is completed is always what the installed program takes.

A device's name comes from its owner, perhaps a stranger. It is never a word that a shell expands: not a word list of
``compgen -W``, and quoted before it stands on the command line.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator

from token_relay.cli.client import control_call, locate
from token_relay.cli.parsing import DONE, Command, Context, Parser, agent_options
from token_relay.protocol.errors import RelayError

SHELLS = ("bash", "zsh")
NAMES = "devices"
SILENCE_S = 2.0  # a person has pressed a key and waits
FILES = frozenset({"F", "F|-", "FILE"})  # the words for a file in all tables; DIR is a directory
FUNCTIONS = {
    "bash": """\
_token_relay_devices() {
  local name
  while IFS= read -r name; do
    printf -v name %q "$name"
    [[ $name == "$1"* ]] && printf '%s\\n' "$name"
  done < <(COMP_LINE="$COMP_LINE" token-relay completion devices 2>/dev/null)
}""",
    "zsh": """\
_token_relay_devices() {
  local -a names
  names=("${(@f)$(COMP_LINE=$BUFFER token-relay completion devices 2>/dev/null)}")
  compadd -a names
}""",
}


class _Every:
    """The commands of which the whole parser is built: all."""

    def __contains__(self, name: object) -> bool:
        return True


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell",
        metavar="SHELL",
        choices=(*SHELLS, NAMES),
        help="bash or zsh; devices: the names of the phone's devices, one a line, as the scripts ask for them",
    )


COMMANDS = {
    "completion": Command(
        "print what completes commands in bash or zsh",
        "completion:run",
        _options,
        description="Print the script with which bash or zsh completes commands, options, files and names of devices. "
        "Installed programs whose share directory the shell searches have it already.",
        examples='  eval "$(token-relay completion bash)"    in ~/.bashrc\n'
        '  eval "$(token-relay completion zsh)"     in ~/.zshrc, after compinit',
    )
}


def run(args: argparse.Namespace, context: Context) -> int:
    """``completion``."""
    if args.shell == NAMES:
        for name in _names(context):
            context.out(name)
    else:
        context.out(script(args.shell))
    return DONE


def script(shell: str) -> str:
    """Return the script for ``bash`` or ``zsh``."""
    import shtab

    from token_relay.cli.main import parser_of

    parser = parser_of(_Every())
    for action in _actions(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar == "DEVICE":
            action.complete = dict.fromkeys(SHELLS, "_token_relay_devices")  # type: ignore[attr-defined]
    return shtab.complete(parser, shell, preamble=FUNCTIONS[shell])


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)


def _names(context: Context) -> list[str]:
    """Ask the agent that the line means (``COMP_LINE``, bash(1)); nothing, and no word, where it does not answer."""
    try:
        words = [os.path.expanduser(word) for word in shlex.split(context.env.get("COMP_LINE", ""))]  # noqa: PTH111  # words
        line = Parser(add_help=False)
        agent_options(line, "phone")
        meant, _ = line.parse_known_args(words, argparse.Namespace(home=None, socket=None))
        path = locate("phone", context.env, home=meant.home, socket_directory=meant.socket)
        devices = control_call(path, "devices", silence_s=SILENCE_S).get("devices")
    except (RelayError, ValueError):
        return []
    named = devices if isinstance(devices, list) else []
    return sorted(str(device["name"]) for device in named if isinstance(device, dict) and device.get("name"))
