"""``token-relay demo`` as a person starts it: a real process, every profile, nothing left behind.

Each run has a directory of its own for temporary files and home, and a session of its own, so that whatever it leaves
is found. The three whole stories take some ten seconds each; the only waiting in them is for access tokens to end.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.sessions import check_that_nothing_is_left, end_session
from tests.watchdog import HANG_S
from token_relay.sandbox.marked_tokens import find_marked

PASSWORD = "correct-horse-7-battery"
TITLE_LINE = re.compile(r"^ok +(\d+)  ", re.MULTILINE)


@contextlib.contextmanager
def demo(place: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the demo in a session of its own; whatever happens, that session is over at the end."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "TMPDIR": str(place), "LANG": "C.UTF-8"}
    words = [sys.executable, "-W", "error", "-m", "token_relay.cli", "demo", *options]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=place, start_new_session=True
    )
    try:
        yield process
    finally:
        end_session(process.pid)
        process.communicate()


@pytest.mark.parametrize(
    ("profile", "strategy", "shown", "not_shown"),
    [
        ("entra", "branch", ["takes token 6, issues token 8"], ["reuse", "RFC 7009", "told to act"]),
        ("auth0", "mint", ["takes token 5, issues token 7", "RFC 7009"], ["comes back: reuse", "told to act"]),
        (
            "strict",
            "mint",
            ["(b) inside one", "told to act", "RFC 7009"],
            ["goes on alone after", "comes back: reuse"],
        ),
    ],
)
def test_the_whole_story_holds_shows_no_secret_and_leaves_nothing(
    place: Path, profile: str, strategy: str, shown: list[str], not_shown: list[str]
) -> None:
    with demo(place, "--fast", "--profile", profile) as process:
        out, err = process.communicate(timeout=HANG_S)
        text = out.decode()
        assert (process.returncode, err) == (0, b""), text + err.decode()
        check_that_nothing_is_left(process.pid, place)
    assert TITLE_LINE.findall(text) == [str(number) for number in range(1, 11)]
    assert re.search(r"^all 10 steps held in \d+\.\d s$", text, re.MULTILINE)
    assert f"handoff ({strategy})" in text
    story = text if profile != "entra" else text.replace("strict would call that reuse", "")
    assert all(words in story for words in shown), text
    assert not any(words in story for words in not_shown), text
    for mark in ("SANDBOXMARK", PASSWORD):
        assert find_marked(out, mark) == []
    assert "RTR1:" not in text  # an invitation holds a one-time secret
    assert text.isascii() and text.replace("\n", "").isprintable()


def test_what_the_broker_saw_is_topics_and_lengths(place: Path) -> None:
    """Five envelopes of one length: HANDOFF messages cannot be told apart. 4 + 2 * 16 + 24 + 16 + 4096 bytes."""
    with demo(place, "--fast") as process:
        assert process.stdout is not None
        lines = []
        for raw in process.stdout:
            lines.append(raw.decode().strip())
            if lines[-1].startswith("ok  6"):
                break
        process.terminate()
        process.communicate(timeout=HANG_S)
        check_that_nothing_is_left(process.pid, place)
    begin = next(number for number, line in enumerate(lines) if line.startswith("what the broker saw"))
    seen = lines[begin + 1 : -1]
    assert len(seen) >= 5
    assert all(re.fullmatch(r"relay/v1/[a-z2-7]{4}\.\./from/[a-z2-7]{4}\.\. +4172", line) for line in seen), seen


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["int", "term", "hup"]
)
def test_interrupted_it_leaves_no_process_and_no_file(place: Path, number: signal.Signals, code: int) -> None:
    with demo(place, "--fast") as process:
        assert process.stdout is not None
        assert b"demo" in process.stdout.readline()
        assert process.stdout.readline().startswith(b"ok  1")  # three processes run now
        os.killpg(process.pid, number)  # as a terminal does: to all of them
        process.communicate(timeout=HANG_S)
        assert process.returncode == code
        check_that_nothing_is_left(process.pid, place)
