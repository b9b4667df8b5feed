"""Makes the manual pages from the program: ``python docs/man/make.py`` writes them beside this script.

The commands come from the parsers behind ``--help``, the settings from the models that check a configuration, so a
page cannot say anything else than the program does. What they do not know (files, see also) stands here. The pages
are kept in the tree; a test makes them again and compares. Source: man(7), groff_man_style(7).
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from token_relay.apps.policy import ENTRIES_MAX, RULES_MAX  # noqa: E402
from token_relay.cli import main as cli  # noqa: E402
from token_relay.cli.parsing import EXIT_CODES, Parser  # noqa: E402
from token_relay.host.config import CompanionConfig, PhoneConfig, settings  # noqa: E402

FILES = {
    "/etc/token-relay/companion.toml, phone.toml": "configuration of the services; see token-relay-config(5)",
    "/etc/token-relay/policy.toml": "who may have access tokens; see token-relay-config(5)",
    "/var/lib/token-relay": "homes of the services",
    "/run/token-relay": "sockets of the services",
    "~/.local/state/token-relay": "homes of agents that a person runs",
}
POLICY = {
    "uid, gid": "whom the rule is about; one of them at least, and where both are given both hold",
    "accounts": "the accounts that it may name; without it, any",
    "audiences": "the audiences that it may name; without it, any",
    "scopes": "the scopes that it may ask for, and that the token may carry; without it, any",
    "per_minute": "tokens a minute for each uid, 1 to 600; without it, ten a second",
}


# -- Roff --------------------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Spell plain text for roff: no line of it is taken for a macro, a dash stays a dash."""
    text = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha").replace("`", "\\(ga")
    )
    text = text.replace("…", "...").replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def paragraph(text: str) -> Iterator[str]:
    """Yield a paragraph, one sentence of the source a line at most."""
    yield ".PP"
    yield escape(" ".join(text.split()))


def item(term: str, text: str) -> Iterator[str]:
    """Yield one entry of a list."""
    yield ".TP"
    yield f".B {escape(term)}"
    yield escape(" ".join(text.split()))


def head(name: str, section: int, summary: str) -> Iterator[str]:
    """Yield the title and the line that whatis(1) shows."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    yield '.\\" made by docs/man/make.py'
    yield f'.TH {name.upper()} {section} "" "token\\-relay {version}"'
    yield ".SH NAME"
    yield f"{escape(name)} \\- {escape(summary)}"


# -- token-relay(1) ----------------------------------------------------------------------------------------


def command_page() -> str:
    """Return token-relay(1)."""
    lines = [
        *head("token-relay", 1, "hands an OAuth grant from a phone to a companion device"),
        ".SH SYNOPSIS",
    ]
    for group in cli.GROUPS:
        lines += [
            f".B token\\-relay {escape(group)}",
            *([".I COMMAND"] if not is_leaf(group) else []),
            "[options]",
            ".br",
        ]
    lines += [".SH DESCRIPTION", escape(" ".join(cli.DESCRIPTION.split()))]
    lines += paragraph(
        "Options are not abbreviated, and none takes a secret: secrets come from a prompt, a file, standard input (-) "
        "or a command."
    )
    lines.append(".SH COMMANDS")
    for group in tables():
        for name, command in cli.commands_of(group).items():
            if is_leaf(group) and name != group:
                continue
            parser = Parser(prog="token-relay")
            command.options(parser)
            lines.append(f".SS {escape(group if name == group else f'{group} {name}')}")
            for text in command.description.split("\n\n"):
                lines += [escape(" ".join(text.split())), ".PP"]
            lines.pop()
            for action in actions_of(parser):
                lines += item(*option(action))
    lines.append(".SH OPTIONS OF EVERY COMMAND OF AN AGENT")
    shared = Parser(prog="token-relay")
    cli.agent_options(shared, "companion")
    for group_of_options in shared._action_groups:
        if group_of_options.title == "agent":
            for action in group_of_options._group_actions:
                lines += item(*option(action))
    lines.append(".SH EXIT STATUS")
    for line in EXIT_CODES.splitlines()[1:]:
        code, _, meaning = line.strip().partition("  ")
        lines += item(code, meaning)
    lines.append(".SH ENVIRONMENT")
    for line in cli.ENVIRONMENT.splitlines()[1:]:
        name, _, meaning = line.strip().partition(" ")
        lines += item(name, meaning)
    lines.append(".SH FILES")
    for name, meaning in FILES.items():
        lines += item(name, meaning)
    lines += [".SH SEE ALSO", ".BR token\\-relay\\-config (5),", ".BR mosquitto (8),", ".BR systemd\\-creds (1)"]
    return "\n".join(lines) + "\n"


def tables() -> Iterator[str]:
    """Yield the groups of commands, and those below another such as ``sandbox ctl``."""
    below = [name for name in getattr(cli, "TABLES", {}) if " " in name]
    for group in cli.GROUPS:
        yield group
        yield from (name for name in below if name.startswith(f"{group} "))


def is_leaf(group: str) -> bool:
    """Whether the group is a command itself, such as ``demo``."""
    return group in cli.commands_of(group)


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield a command's own options."""
    for group in parser._action_groups:
        for action in () if group.title == "agent" else group._group_actions:
            if not isinstance(action, argparse._HelpAction):
                yield action


def option(action: argparse.Action) -> tuple[str, str]:
    """Return an option as it is written, and its help."""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
    value = "" if action.nargs == 0 else str(action.metavar or choices)
    return " ".join(part for part in (", ".join(action.option_strings), value) if part), action.help or ""


# -- token-relay-config(5) ---------------------------------------------------------------------------------


def config_page() -> str:
    """Return token-relay-config(5)."""
    lines = [
        *head("token-relay-config", 5, "configuration of token-relay's agents"),
        ".SH DESCRIPTION",
        escape(
            "An agent reads one TOML file at its start: --config, else config.toml in its home, else "
            "/etc/token-relay/companion.toml or phone.toml. It belongs to the agent's user or root, and nobody else "
            "may write it. An unknown setting is an error. Relative paths start at the file's directory."
        ),
    ]
    both = {key for key, _ in settings(CompanionConfig)}
    for title, wanted in (("SETTINGS OF BOTH AGENTS", True), ("SETTINGS OF THE PHONE", False)):
        lines.append(f".SH {title}")
        for key, description in settings(PhoneConfig):
            if (key in both) is wanted:
                lines += item(key, description)
    lines += [
        ".SH THE TOKEN POLICY",
        escape(
            "token_api.policy_file names a TOML file of [[allow]] tables; the agent's own user and root always may. "
            "One rule alone must cover a request. It belongs to the agent's user or root, and nobody else may write "
            f"it. At most {RULES_MAX} rules, {ENTRIES_MAX} entries in a list. SIGHUP reads it again."
        ),
    ]
    for name, meaning in POLICY.items():
        lines += item(name, meaning)
    lines += [".SH SEE ALSO", ".BR token\\-relay (1)"]
    return "\n".join(lines) + "\n"


PAGES = {"token-relay.1": command_page, "token-relay-config.5": config_page}


def main() -> None:
    """Write the pages."""
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
