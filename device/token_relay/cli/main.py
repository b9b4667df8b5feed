"""The command ``token-relay``.

``main`` finds out which command was given, builds the parser for that one only, imports its handler and turns its
exceptions into an exit code, a line on standard error and, with ``--json``, an object on standard output. Only this
module reads the environment; handlers get it in a :class:`~token_relay.cli.parsing.Context`.

A shell calls ``companion token`` often and on slow hardware, so this module and that command import only the standard
library; a test checks the list of their imports.

``--help`` lists the exit codes. An error has a message, perhaps a hint, and no traceback unless
``TOKEN_RELAY_TRACEBACK`` is set. The same holds for our own bugs, since a traceback may quote the data it failed on.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from token_relay.cli.parsing import (
    DONE,
    FAILED,
    INTERRUPTED,
    PERSON,
    REFUSED,
    USAGE,
    Context,
    Parser,
    UsageError,
    add_commands,
    agent_options,
    printable,
)
from token_relay.protocol.errors import ConfigError, PersonNeededError, PolicyError, RelayError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from token_relay.cli.parsing import Command

PACKAGE = "token_relay.cli.commands"  # of tables and handlers
AGENTS = ("phone", "companion")
GROUPS = {
    "demo": "show the whole story on this machine",
    "try": "run a sandbox and two agents with a first handoff, and say what to type next",
    "sandbox": "run an identity provider and a broker for development",
    "phone": "the phone's agent: sign in, pair, hand off, revoke",
    "companion": "the companion's agent: pair, get access tokens",
    "provider": "what an identity provider does with refresh tokens",
    "certs": "the broker's private CA",
    "vault": "an agent's vault and its key",
    "service": "the agents as services of this machine",
    "docs": "read the documents that came with this program",
    "completion": "print what completes commands in bash or zsh",
}
TABLES = {  # the module with a group's commands, where its name differs
    "demo": "sandbox_options",
    "try": "sandbox_options",
    "sandbox": "sandbox_options",
    "sandbox ctl": "sandbox_ctl_options",
}
CTL = "control a running sandbox: links, faults, clock, revocations, events"
DESCRIPTION = """\
A person signs in once, on the phone; a companion device then gets access tokens by itself, until the person,
the provider or the end of its lease says otherwise."""
EXAMPLES = """\
  token-relay demo --fast
  token-relay phone --help
  token-relay companion token --help"""
ENVIRONMENT = """\
environment:
  TOKEN_RELAY_HOME       home of the agent, as --home
  TOKEN_RELAY_HOMES      directory with the homes phone and companion
  NO_COLOR               no colours in a terminal
  TOKEN_RELAY_TRACEBACK  show where an internal error happened"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. It prints errors of a person or an agent, and never raises them."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.pop("SSLKEYLOGFILE", None)  # for contexts that libraries make; ours do not heed it: mqtt/tls
    _spell_what_the_terminal_cannot()
    # Before parsing: an error of the parser itself must be shown in the right form.
    context = Context.of_process(as_json="--json" in given)
    try:
        code = _run(context, given)
        context.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has closed it. Python would report that once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _spell_what_the_terminal_cannot() -> None:
    """Write a name's characters that a stream's encoding lacks as escapes, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:  # a test's stream has none
            reconfigure(errors="backslashreplace")


def _run(context: Context, given: Sequence[str]) -> int:
    prog = "token-relay"
    try:
        args = parse(given)
        prog = args.prog
        module, _, function = str(args.run).partition(":")
        code: int = getattr(importlib.import_module(f"{PACKAGE}.{module}"), function)(args, context)
    except SystemExit as exc:  # --help and --version end here
        return exc.code if isinstance(exc.code, int) else DONE
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        context.note("interrupted")
        return INTERRUPTED
    except RelayError as exc:
        return _fail(context, exc, prog)
    except Exception as exc:
        return _internal_error(context, exc)
    return code


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Raises:
        UsageError: it is wrong.
        SystemExit: it asked for help or the version, which was printed.
    """
    # Options are built only for the commands that the line names. A value that equals a command's name builds one
    # parser too many, which is harmless; taking only the first name could build the wrong one.
    defaults = argparse.Namespace(home=None, config=None, socket=None, json=False)
    return parser_of(frozenset(given)).parse_args(given, defaults)


def parser_of(named: Container[str]) -> argparse.ArgumentParser:
    """Return the parser with all commands, and with the options of those that are named."""
    parser = _Program(
        prog="token-relay",
        description=DESCRIPTION,
        examples=EXAMPLES + "\n\n" + ENVIRONMENT,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    groups = parser.add_subparsers(metavar="COMMAND", dest="group", required=True, parser_class=Parser)
    for name, help_text in GROUPS.items():
        if name not in named:
            groups.add_parser(name, help=help_text, add_help=False)
        elif name in AGENTS or name in ("certs", "provider", "service", "vault"):
            _add_group(groups.add_parser(name, help=help_text, description=_sentence(help_text)), name, named)
        else:
            command = commands_of(name)[name]
            leaf = groups.add_parser(name, help=help_text, description=command.description, examples=command.examples)
            command.options(leaf)
            leaf.set_defaults(run=command.run, prog=leaf.prog)
            if name == "sandbox":
                _add_ctl(leaf, named)
    return parser


def commands_of(group: str) -> Mapping[str, Command]:
    """Return the table of a group's commands; ``demo`` and ``sandbox`` share one."""
    module = importlib.import_module(f"{PACKAGE}.{TABLES.get(group, group)}")
    commands: Mapping[str, Command] = module.COMMANDS
    return commands


def _add_group(parser: argparse.ArgumentParser, name: str, named: Container[str]) -> None:
    if name in AGENTS:
        agent_options(parser, name)
    add_commands(parser, commands_of(name), named)


def _add_ctl(parser: argparse.ArgumentParser, named: Container[str]) -> None:
    """Add ``ctl`` below ``sandbox``, which runs the sandbox when nothing follows."""
    title = "a running sandbox"
    below = parser.add_subparsers(title=title, metavar="ctl", dest="ctl", required=False, parser_class=Parser)
    if "ctl" not in named:
        below.add_parser("ctl", help=CTL, add_help=False)
        return
    add_commands(below.add_parser("ctl", help=CTL, description=_sentence(CTL)), commands_of("sandbox ctl"), named)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


class _Program(Parser):
    """The parser of the whole line. It knows where a command belongs that stands without its group."""

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if value not in GROUPS and (homes := [name for name in AGENTS if value in commands_of(name)]):
            lines = ", or ".join(f"token-relay {name} {value} --help" for name in homes)
            raise UsageError(f"{value} is a command of the {' and the '.join(homes)}", hint=lines)
        super()._check_value(action, value)


class _Version(argparse.Action):
    """Print the version of the installed distribution; its metadata is read only now."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("token-relay")
        except PackageNotFoundError:
            number = "(not installed)"
        Context.of_process(as_json=False).out(f"token-relay {number}")
        parser.exit()


# -- Errors ------------------------------------------------------------------------------------------------


def _fail(context: Context, error: RelayError, prog: str = "token-relay") -> int:
    """Report the error and return its exit code."""
    from token_relay.cli.advice import advice

    match error:
        case UsageError():
            slug, code = "usage", USAGE
        case ConfigError():
            slug, code = "config", USAGE
        case PolicyError():
            slug, code = "refused", REFUSED
        case PersonNeededError():
            slug, code = "person_needed", PERSON
        case _:
            slug, code = "failed", FAILED
    # An error from a running agent has its own slug and code.
    slug, code = str(getattr(error, "code", slug)), int(getattr(error, "exit_code", code))
    if isinstance(error, UsageError) and error.usage:
        context.note(error.usage)
    _report(context, slug, str(error), advice(error, prog), code)
    return code


def _internal_error(context: Context, error: Exception) -> int:
    """Report a bug by its type and place only."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""  # noqa: PTH119  # pathlib is not imported on the fast path
    _report(
        context,
        "internal_error",
        f"internal error: {type(error).__name__}{place}",
        "this is a bug; TOKEN_RELAY_TRACEBACK=1 shows more (look for secrets in it before you pass it on)",
        FAILED,
    )
    if context.env.get("TOKEN_RELAY_TRACEBACK"):
        sys.excepthook(type(error), error, error.__traceback__)
    return FAILED


def _report(context: Context, slug: str, message: str, hint: str, code: int) -> None:
    if context.as_json:
        import json

        shown = {"code": slug, "message": message, "hint": hint, "exit": code}
        context.out(json.dumps({"error": shown}))
    for line in message.split("\n"):
        context.note(f"token-relay: {printable(line)}")
    if hint:
        context.hint(hint)
