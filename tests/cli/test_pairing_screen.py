"""What ``companion pair`` shows: the QR code as a camera sees it, the time that is left, and what happened."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import needs
from tests.cli.cli_kit import Agent
from token_relay.protocol.errors import PersonNeededError
from token_relay.service.control import JSON, Exchange

INVITATION = "RTR1:AFRI7B6WPXBI7BGO4VRKKDQFL7WVJFB3WXNYQKSPL6C6CI4I6ALSUAJQ4IAJVN7FXRTEYJSXHT5N36QAFB4U6OI"
MODULE_DOTS = 4
ZBAR = needs.missing("zbarimg")
reads = pytest.mark.skipif(bool(ZBAR), reason=ZBAR)
Colour = tuple[int, int, int]
DARK_THEME: tuple[Colour, Colour] = ((0xD0, 0xD0, 0xD0), (0x1E, 0x1E, 0x1E))  # text, ground
LIGHT_THEME: tuple[Colour, Colour] = ((0x38, 0x3A, 0x42), (0xFA, 0xFA, 0xFA))


@dataclass
class Answering:
    """An agent's ``pair``: these steps, and this end."""

    steps: list[dict[str, JSON]]
    end: dict[str, JSON] | None = None
    asked: list[dict[str, JSON]] = field(default_factory=list)

    async def pair(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        self.asked.append(args)
        for step in self.steps:
            await exchange.progress(step)
        if self.end is None:
            raise PersonNeededError("the invitation is expired", hint="show a new one: token-relay companion pair")
        return self.end


SHOWN: dict[str, JSON] = {"state": "shown", "invitation": INVITATION, "expires_in_s": 600.0}
PAIRED: dict[str, JSON] = {"state": "paired", "device_name": "pocket", "message": "paired with pocket"}


def on_a_terminal(agent: Agent, *words: str, columns: int = 80, env: dict[str, str] | None = None) -> tuple[str, int]:
    """Run ``companion pair`` on a terminal of its own; returns all that it wrote, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    command = [sys.executable, "-m", "token_relay.cli", "companion", "pair", *words, "--home", str(agent.directory)]
    environment = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm-256color", **(env or {})}
    said: list[bytes] = []

    def read() -> None:
        while True:
            try:
                octets = os.read(ours, 65536)
            except OSError:  # the end, as a terminal says it
                return
            if not octets:
                return
            said.append(octets)

    reader = threading.Thread(target=read)
    program = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    reader.start()
    try:
        code = program.wait(timeout=120)
        reader.join(timeout=120)
    finally:
        program.kill()
        os.close(ours)
    return b"".join(said).decode(), code


# -- A terminal's pixels -----------------------------------------------------------------------------------


def colour(number: int) -> Colour:
    """One of the cube of 256 colours, as xterm has it."""
    number -= 16
    assert 0 <= number < 216, "a theme may change the first 16, and the greys are not used"
    steps = (0, 95, 135, 175, 215, 255)
    return steps[number // 36], steps[number // 6 % 6], steps[number % 6]


def photograph(said: str, theme: tuple[Colour, Colour], path: Path) -> None:
    """Write the screen as a picture (PPM): a half of a character is one module."""
    text, ground = theme
    rows: list[list[Colour]] = []
    lines = [line for line in said.splitlines() if re.search("[█▀▄]", line)]
    width = max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines)
    for line in lines:
        front, back = text, ground
        upper: list[Colour] = []
        lower: list[Colour] = []
        for style, character in re.findall(r"\x1b\[([0-9;]*)m|([^\x1b])", line):
            if character:
                upper.append(front if character in "█▀" else back)
                lower.append(front if character in "█▄" else back)
            elif style == "0":
                front, back = text, ground
            else:
                front = colour(int(re.search(r"38;5;(\d+)", style)[1]))  # type: ignore[index]  # it must be there
                back = colour(int(re.search(r"48;5;(\d+)", style)[1]))  # type: ignore[index]
        blank = [ground] * (width - len(upper))
        rows += [upper + blank, lower + blank]
    around = [[ground] * (width + 8)] * 4
    rows = [*around, *([ground] * 4 + row + [ground] * 4 for row in rows), *around]
    dots = bytearray()
    for row in rows:
        one = b"".join(bytes(dot) * MODULE_DOTS for dot in row)
        dots += one * MODULE_DOTS
    size = f"{len(rows[0]) * MODULE_DOTS} {len(rows) * MODULE_DOTS}"
    path.write_bytes(f"P6\n{size}\n255\n".encode() + dots)


def scan(said: str, theme: tuple[Colour, Colour], tmp_path: Path) -> str:
    """Return what a reader of QR codes reads from the screen, or an empty string."""
    photograph(said, theme, tmp_path / "screen.ppm")
    command = ["zbarimg", "--quiet", "--raw", "--nodbus", "-Sdisable", "-Sqrcode.enable", str(tmp_path / "screen.ppm")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout.strip()


@reads
@pytest.mark.parametrize("theme", [DARK_THEME, LIGHT_THEME], ids=["dark", "light"])
def test_a_reader_reads_the_code_on_a_terminal_of_any_theme(
    agent: Agent, tmp_path: Path, theme: tuple[Colour, Colour]
) -> None:
    agent.handlers["pair"] = Answering([SHOWN], PAIRED).pair
    with agent.running():
        said, code = on_a_terminal(agent)
    assert code == 0
    assert scan(said, theme, tmp_path) == INVITATION


@reads
@pytest.mark.parametrize(
    ("words", "env", "theme"),
    [
        ([], {"NO_COLOR": "1"}, DARK_THEME),
        (["--invert"], {"NO_COLOR": "1"}, LIGHT_THEME),
        ([], {"TERM": "dumb"}, DARK_THEME),
    ],
    ids=["NO_COLOR, dark", "NO_COLOR and --invert, light", "dumb, dark"],
)
def test_without_colours_it_is_read_on_the_ground_that_is_said(
    agent: Agent, tmp_path: Path, words: list[str], env: dict[str, str], theme: tuple[Colour, Colour]
) -> None:
    agent.handlers["pair"] = Answering([SHOWN], PAIRED).pair
    with agent.running():
        said, _ = on_a_terminal(agent, *words, env=env)
    assert not re.search(r"\x1b\[[0-9;]*m", said)
    assert scan(said, theme, tmp_path) == INVITATION
    ground = "light text on a dark ground" if theme is DARK_THEME else "dark text on a light ground"
    assert f"drawn without colours, for {ground}" in said and "--invert" in said
    other = DARK_THEME if theme is LIGHT_THEME else LIGHT_THEME
    assert scan(said, other, tmp_path) == ""  # that reader wants the other one: the scan can fail


@reads
def test_inverted_is_light_on_dark_for_readers_that_need_it(agent: Agent, tmp_path: Path) -> None:
    agent.handlers["pair"] = Answering([SHOWN], PAIRED).pair
    with agent.running():
        said, _ = on_a_terminal(agent, "--invert")
    assert scan(said, DARK_THEME, tmp_path) == ""
    photograph(said, DARK_THEME, tmp_path / "screen.ppm")
    picture = (tmp_path / "screen.ppm").read_bytes()
    head, dots = picture[: picture.index(b"255\n") + 4], picture[picture.index(b"255\n") + 4 :]
    (tmp_path / "negative.ppm").write_bytes(head + bytes(255 - dot for dot in dots))
    command = ["zbarimg", "--quiet", "--raw", "--nodbus", str(tmp_path / "negative.ppm")]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == INVITATION


def test_a_code_that_does_not_fit_is_not_drawn_broken(agent: Agent) -> None:
    agent.handlers["pair"] = Answering([SHOWN], PAIRED).pair
    with agent.running():
        said, code = on_a_terminal(agent, columns=40)
        fits, _ = on_a_terminal(agent, columns=41)
    assert code == 0 and INVITATION in said.replace("\r\n", "")
    assert not re.search("[█▀▄]", said)
    assert "the QR code needs 41 columns, this terminal has 40: widen it, or paste the text" in said
    assert re.search("[█▀▄]", fits) and "columns" not in fits


def test_the_screen_follows_what_becomes_of_the_invitation(agent: Agent) -> None:
    fresh = {**SHOWN, "invitation": INVITATION[:-1] + "J"}
    answering = Answering(
        [
            SHOWN,
            {"state": "open", "expires_in_s": 595.0},
            {"state": "open", "expires_in_s": 590.0},
            {"state": "ended", "reason": "declined", "message": "the phone declined: it gave the pairing up"},
            fresh,
            {"state": "answered", "check_number": "042137", "device_name": "pocket"},
        ],
        PAIRED,
    )
    agent.handlers["pair"] = answering.pair
    with agent.running():
        said, code = on_a_terminal(agent, "--no-qr")
    assert answering.asked == [{"wait": True, "fresh": 3, "tick_s": 5.0}]
    assert code == 0
    lines = [line for line in said.replace("\r\n", "\n").split("\n") if line]
    shown = "valid for 10 min and one phone: scan it, or type it there"
    back = "\r\x1b[K"
    assert lines == [
        shown,
        INVITATION,
        f"{back}valid for 9 min 55 s{back}valid for 9 min 50 s{back}the phone declined: it gave the pairing up",
        shown,
        str(fresh["invitation"]),
        "a phone answered: check number 042 137 (pocket)",
        "compare it with the phone's before you confirm there",
        "paired with pocket",
    ]


@pytest.mark.parametrize("words", [["--json"], ["--no-wait"]])
def test_a_program_gets_one_invitation_and_no_line_that_is_drawn_anew(agent: Agent, words: list[str]) -> None:
    answering = Answering([], {**SHOWN, "pending": True})
    agent.handlers["pair"] = answering.pair
    with agent.running():
        on_a_terminal(agent, "--no-qr", *words)
    assert answering.asked == [{"wait": "--no-wait" not in words}]


def test_in_the_end_a_person_is_told_what_to_do(agent: Agent) -> None:
    agent.handlers["pair"] = Answering([SHOWN, {"state": "open", "expires_in_s": 1.0}]).pair
    with agent.running():
        said, code = on_a_terminal(agent, "--no-qr")
    assert code == 4
    assert "\r\x1b[K" + "token-relay: the invitation is expired" in said
    assert "token-relay companion pair" in said
