"""kill -9 at any moment: nothing that was acknowledged is missing, and the vault opens.

What this shows is atomicity, and that nothing is acknowledged before COMMIT. It does not show what a power cut does
to the disk's own cache: the kernel survives a killed process. That rests on ``synchronous=EXTRA``, which another
test reads back, and on SQLite's own crash tests.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vault.samples import Counter, Grant, open_vault
from tests.watchdog import HANG_S

pytestmark = pytest.mark.asyncio

KILLS = 40  # a third of them find a journal to play back


@pytest.fixture
def nursery() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("crash_child.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(HANG_S) == 0


def spin(seconds: float) -> None:
    """Choose the moment of the kill: burns the time, so that it may be any fraction of a commit."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def start(nursery: subprocess.Popen[str], directory: Path) -> int:
    assert nursery.stdin is not None and nursery.stdout is not None
    nursery.stdin.write(f"{directory}\n")
    nursery.stdin.flush()
    word, pid = nursery.stdout.readline().split()
    assert word == "pid"
    return int(pid)


def kill(nursery: subprocess.Popen[str], pid: int) -> list[int]:
    """Kill it and return the numbers that it had told and nobody had read."""
    assert nursery.stdout is not None
    os.kill(pid, signal.SIGKILL)
    rest = []
    while (line := nursery.stdout.readline()) != "end\n":
        rest.append(int(line))
    return rest


async def test_nothing_acknowledged_is_missing_after_kill_9(tmp_path: Path, nursery: subprocess.Popen[str]) -> None:
    assert nursery.stdout is not None
    chance = random.Random(20)
    told = 0
    for _ in range(KILLS):
        pid = start(nursery, tmp_path)
        for _ in range(chance.randrange(1, 12)):
            told = int(nursery.stdout.readline())
        spin(chance.uniform(0, 0.003))  # about two commits long
        told = max([told, *kill(nursery, pid)])
        async with open_vault(tmp_path, create=False) as vault:
            counter, grant = await vault.run(lambda tx: (tx.get(Counter, 1), tx.get(Grant, "g1")))
        assert counter and grant and grant.refresh_token
        assert counter.value in (told, told + 1)  # the last commit may not have been told any more
        assert grant.generation == counter.value
        assert grant.refresh_token.reveal().startswith(f"token {counter.value}")
    assert told > KILLS


async def test_kill_9_while_the_vault_is_made_or_opened_leaves_one_that_opens(
    tmp_path: Path, nursery: subprocess.Popen[str]
) -> None:
    chance = random.Random(21)
    for number in range(KILLS):
        directory = tmp_path / str(number)
        directory.mkdir(mode=0o700)
        pid = start(nursery, directory)
        spin(chance.uniform(0, 0.012))
        told = max([0, *kill(nursery, pid)])
        async with open_vault(directory) as vault:
            counter = await vault.run(lambda tx: tx.get(Counter, 1))
        assert (counter.value if counter else 0) in (told, told + 1)
