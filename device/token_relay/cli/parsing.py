"""The parts of every table of commands: the parser, its shared options, and the handlers' context.

Each call of ``token-relay`` imports this, also a shell script that wants a token ten times a minute on slow hardware.
So nothing here imports more than :mod:`argparse` does (no dataclasses, no typing).

Invariant: no option carries a secret. Secrets come from a prompt, a file, standard input or a command, because
everybody on a machine can read the argv of every process.
"""

from __future__ import annotations

import argparse
import os
import sys

from token_relay.protocol.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence
    from typing import NoReturn, TextIO

DONE, FAILED, USAGE, NOT_RUNNING, PERSON, REFUSED, PENDING = range(7)
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
HTTP_PORT = 8400  # of the sandbox's provider
LAB_PORT = 8409  # of its lab; the four links lie between
MQTT_PORT = 1884  # of its broker; not 1883: a real broker may run beside the sandbox

EXIT_CODES = """\
exit codes:
  0  done
  1  failed
  2  wrong usage or configuration
  3  the agent is not running
  4  a person must act
  5  refused by policy
  6  accepted and still pending; goes on in the background"""

HELP_COLUMNS = 78  # as argparse wraps the rest on a terminal of 80
SECONDS_MAX = 86_400.0  # no wait or validity on the command line is longer than a day
NAME_CHARS_MAX = 64  # as a device's own name in PAIR1, PAIR2 and HELLO
TEXT_CHARS_MAX = 2_048  # an argument is a name, a scope, a path or an invitation; all are shorter


class UsageError(LocalError):
    """The command line is wrong (exit code 2); ``usage`` is the line that would be right."""

    def __init__(self, message: str, *, usage: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.usage = usage


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows optional commands in brackets, as argparse shows everything else that is optional."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        shown = super()._format_args(action, default_metavar)
        return f"[{shown}]" if action.nargs == argparse.PARSER and not action.required else shown


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations (they would break with the next option) and raises."""

    def __init__(self, *, examples: str = "", **options: object) -> None:
        epilog = "\n\n".join(part for part in ("examples:\n" + examples if examples else "", EXIT_CODES) if part)
        options.setdefault("formatter_class", Formatter)
        super().__init__(allow_abbrev=False, epilog=epilog, **options)  # type: ignore[arg-type]  # passed through

    def format_help(self) -> str:
        """Wrap the description's paragraphs; lines that begin with a space stay as they are."""
        import textwrap

        paragraphs = (self.description or "").split("\n\n")
        self.description = "\n\n".join(
            text if "\n " in text else textwrap.fill(" ".join(text.split()), HELP_COLUMNS) for text in paragraphs
        )
        return super().format_help()

    def parse_known_args(  # type: ignore[override]  # argparse's overloads, as it calls this itself
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse what a command does not know in the command's own name: argparse would in the whole program's.

        An argument of several words may stand behind an option too, where argparse has taken it for absent.
        """
        found, rest = super().parse_known_args(args, namespace)
        if rest and self.get_default("run") is not None:
            many = next((action.dest for action in self._get_positional_actions() if action.nargs == "*"), None)
            if many is None or any(word.startswith("-") and word != "-" for word in rest):
                self.error(f"unrecognized arguments: {' '.join(rest)}")
            setattr(found, many, [*getattr(found, many), *rest])
            rest = []
        return found, rest

    def _check_value(self, action: argparse.Action, value: object) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError:
            from difflib import get_close_matches

            if not (near := get_close_matches(str(value), map(str, action.choices or ()), n=1)):
                raise
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; did you mean {near[0]}?") from None

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting, so that ``--json`` can answer with an object here too."""
        raise UsageError(message, usage=self.format_usage().strip(), hint=f"{self.prog} --help")


def no_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


class Command:
    """One subcommand: its help, its handler as ``module:function`` of the package, the function for its options."""

    __slots__ = ("description", "examples", "help", "options", "run")

    def __init__(
        self,
        help: str,
        run: str,
        options: Callable[[argparse.ArgumentParser], None] = no_options,
        *,
        description: str = "",
        examples: str = "",
    ) -> None:
        self.help = help
        self.options = options
        self.run = run
        self.description = description or help[:1].upper() + help[1:] + "."
        self.examples = examples


class Context:
    """The process as handlers see it: environment and streams. Nothing else reads ``os.environ``."""

    __slots__ = ("as_json", "env", "stderr", "stdin", "stdout")

    def __init__(self, env: Mapping[str, str], stdin: TextIO, stdout: TextIO, stderr: TextIO, *, as_json: bool) -> None:
        self.env = env
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.as_json = as_json

    @classmethod
    def of_process(cls, *, as_json: bool) -> Context:
        """Take the environment and streams of this process."""
        return cls(os.environ, sys.stdin, sys.stdout, sys.stderr, as_json=as_json)

    def out(self, text: str) -> None:
        """Print one line of result and flush: a program may be waiting for it at the other end of a pipe."""
        print(text, file=self.stdout, flush=True)

    def note(self, text: str) -> None:
        """Print one line for the person: progress, warnings, questions. Never part of the result."""
        print(text, file=self.stderr, flush=True)

    def hint(self, text: str) -> None:
        """Note what a person can do; lines to copy stay lines, and what could move the cursor is escaped."""
        first, *more = text.split("\n")
        self.note(f"  hint: {printable(first)}")
        for line in more:
            self.note(f"    {printable(line)}")


def printable(text: str) -> str:
    """Escape what could move the cursor, in text that came from elsewhere."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def with_common(
    common: Callable[[argparse.ArgumentParser], None], commands: Mapping[str, Command]
) -> Mapping[str, Command]:
    """Return the commands of a group, each with its own options followed by those that all of them take."""

    def with_both(command: Command) -> Command:
        def options(parser: argparse.ArgumentParser) -> None:
            command.options(parser)
            common(parser)

        words = {"description": command.description, "examples": command.examples}
        return Command(command.help, command.run, options, **words)

    return {name: with_both(command) for name, command in commands.items()}


def add_commands(parser: argparse.ArgumentParser, commands: Mapping[str, Command], named: Container[str]) -> None:
    """Add the subcommands; the options of a leaf are built only where the command line names it."""
    group = parser.add_subparsers(metavar="COMMAND", dest="command", required=True, parser_class=Parser)
    for name, command in commands.items():
        if name not in named:
            group.add_parser(name, help=command.help, add_help=False)
            continue
        leaf = group.add_parser(name, help=command.help, description=command.description, examples=command.examples)
        command.options(leaf)
        leaf.set_defaults(run=command.run, prog=leaf.prog)


def agent_options(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add the options of every agent command. Their default is SUPPRESS, since group and leaf both have them."""
    group = parser.add_argument_group("agent")
    group.add_argument(
        "--home",
        metavar="DIR",
        type=text,
        default=argparse.SUPPRESS,
        help=f"home of the agent; else $TOKEN_RELAY_HOME, $TOKEN_RELAY_HOMES/{kind}, $STATE_DIRECTORY, "
        f"$XDG_STATE_HOME/token-relay/{kind} (~/.local/state/token-relay/{kind})",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        type=text,
        default=argparse.SUPPRESS,
        help=f"configuration; else config.toml in the home, else /etc/token-relay/{kind}.toml",
    )
    group.add_argument(
        "--socket",
        metavar="DIR",
        type=text,
        default=argparse.SUPPRESS,
        help="directory of control.sock and token.sock; else $RUNTIME_DIRECTORY, else the home, "
        f"else /run/token-relay/{kind}",
    )
    json_option(group)


def json_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print one JSON object on standard output, everything else on standard error",
    )


# -- Types of arguments ------------------------------------------------------------------------------------


def text(value: str) -> str:
    """Take an argument of at least one and at most ``TEXT_CHARS_MAX`` printable characters."""
    if not 0 < len(value) <= TEXT_CHARS_MAX or not value.isprintable():
        raise argparse.ArgumentTypeError(f"must have 1 to {TEXT_CHARS_MAX} printable characters")
    return value


def name_and_value(value: str) -> tuple[str, str]:
    """Take NAME=VALUE."""
    name, equals, rest = text(value).partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("must be NAME=VALUE")
    return name, rest


def device_name(value: str) -> str:
    """Take what a device is to be called here."""
    is_clean = value.isprintable() and value == value.strip() and not value.startswith("-")
    if not 0 < len(value) <= NAME_CHARS_MAX or not is_clean:
        raise argparse.ArgumentTypeError(
            f"must have 1 to {NAME_CHARS_MAX} printable characters, no blanks around and no - in front"
        )
    return value


def seconds(value: str) -> float:
    """Take a number of seconds from 0 to a day."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= SECONDS_MAX:  # also false for nan
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 to {SECONDS_MAX:.0f}")
    return number


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a type for whole numbers from ``low`` to ``high``, written in ASCII digits."""

    def convert(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 12 and low <= int(value) <= high):
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}")
        return int(value)

    return convert
