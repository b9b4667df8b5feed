"""README's lines under "By hand", typed line by line into two terminals, as fast as the prompt comes back.

Only what two runs on one machine would fight about is changed: the ports, and the directory of the logs.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.channel.mosquitto import free_port
from tests.demo.sessions import end_session
from tests.e2e.terminal import Terminal

ROOT = Path(__file__).parents[2]
PROMPT = "ready> "
PASSWORD = "correct-horse-7-battery"
BASH = ("bash", "--noprofile", "--norc", "-i")


def blocks(place: Path) -> list[str]:
    """The three blocks: the companion's terminal, the phone's, the companion's again."""
    page = (ROOT / "README.md").read_text("utf-8")
    part = page.partition("## By hand")[2].partition("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    assert len(found) == 3
    http, mqtt = str(free_port()), str(free_port())
    ours = f"token-relay sandbox --http-port {http} --mqtt-port {mqtt} "
    return [
        block.replace("token-relay sandbox ", ours).replace(":8400", f":{http}").replace(":1884", f":{mqtt}")
        .replace("/tmp/", f"{place}/").replace("\\\n", "")
        for block in found
    ]  # fmt: skip


class Typing:
    """A person at an interactive shell."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

    async def at_the_prompt(self) -> str:
        return (await self.terminal.sees(rf"(?s).*{PROMPT}"))[0]

    async def types(self, line: str) -> str:
        """Type a line and return what came before the next prompt."""
        await self.terminal.types(line)
        return await self.at_the_prompt()


def shell(place: Path) -> Terminal:
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "LANG": "C.UTF-8", "PS1": PROMPT, "PS2": ""}
    return Terminal(env=environment, cwd=ROOT, program=BASH)


@pytest.mark.asyncio
async def test_the_readmes_lines_by_hand_lead_to_a_handoff_without_a_pause(place: Path) -> None:
    assert (Path(sys.executable).parent / "token-relay").exists(), "the package is not installed in this environment"
    first, second, back = blocks(place)
    async with shell(place) as one, shell(place) as two:
        companion, phone = Typing(one), Typing(two)
        try:
            await companion.at_the_prompt()
            await phone.at_the_prompt()
            lines = [f'export PATH="{Path(sys.executable).parent}:$PATH"', *first.splitlines()[1:]]
            assert lines[-1].startswith("token-relay companion pair")
            for line in lines[:-1]:
                assert "not running" not in await companion.types(line)
            await one.types(lines[-1])
            invitation = (await one.sees(r"RTR1:[A-Z2-7]+"))[0]

            for line in [lines[0], *second.splitlines()[1:]]:
                await two.types(line)
                if "sign-in" in line:
                    await two.sees(r"password of [^\n]*: ")
                    await two.types(PASSWORD)
                elif "phone pair" in line:
                    await two.sees(r"(?i)invitation[^\n]*: ")
                    await two.types(invitation)
                    number = (await two.sees(r"\d{3} \d{3}"))[0]
                    await one.sees(number)
                    await two.sees(r"\[y/N\]")
                    await two.types("yes")
                said = await phone.at_the_prompt()
                assert "token-relay:" not in said, said
                if "handoff" in line:
                    assert "watch" in said, said
            await companion.at_the_prompt()

            inspected, status, answer = [await companion.types(line) for line in back.splitlines()]
            assert '"preferred_username"' in inspected or '"oid"' in inspected
            assert "held" in status
            assert "password@contoso.example" in answer
            for typing in (companion, phone):
                assert "agent_started" not in typing.terminal.text, "logs are in their files"
        finally:
            for terminal in (one, two):
                end_session(terminal.session)
    assert {"sandbox.txt", "watch.log", "phone.log", ".local"} <= {path.name for path in place.iterdir()}
