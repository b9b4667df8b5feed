"""The Raspberry Pi page: its commands are taken by the program, and what it says of the units stands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.booted import upkeep
from token_relay.cli import main as cli

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "raspberry-pi.md").read_text(encoding="utf-8")
UNIT = (ROOT / "systemd" / "token-relay-companion.service").read_text(encoding="utf-8")
# In a wrapper such as sudo or systemd-run the program is the last word that is no option of the wrapper's own.
PROGRAM = re.compile(r"(?:^|\s)(?:/opt/token-relay/bin/)?token-relay (?=[a-z])")


def shown() -> list[str]:
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in upkeep.commands(block)]
    running = re.findall(r"`((?:sudo )?token-relay [^`]+)`", PAGE)
    return [*lines, *running]


def test_every_command_of_the_page_is_taken_by_the_parser() -> None:
    found = [PROGRAM.split(line, maxsplit=1)[1] for line in shown() if PROGRAM.search(line)]
    for line in found:
        cli.parse(shlex.split(line))
    assert {"service install", "companion pair", "companion doctor", "companion adopt"} <= set(found)
    assert len([line for line in found if line.startswith("vault rekey --to ")]) == 2


def test_rekey_runs_as_the_unit_does() -> None:
    lines = UNIT.splitlines()
    commands = [line for line in shown() if "systemd-run" in line]
    assert len(commands) == 2
    for command in commands:
        properties = re.findall(r"-p (\S+)", command)
        assert {"DynamicUser=yes", "UMask=0077", "StateDirectoryMode=0700"} < set(properties)
        assert [name for name in properties if name not in lines] == []


def test_the_booted_story_finds_its_commands_on_the_page() -> None:
    assert len(upkeep.blocks("Another key for the vault")) == 3
    assert [upkeep.commands(block) for block in upkeep.blocks("A copied card")] == [
        ["sudo token-relay companion adopt"]
    ]
