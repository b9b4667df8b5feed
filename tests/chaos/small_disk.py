"""A disk that fills up under a running agent, and has room again.

Where we may mount: a small tmpfs that holds the agent's home, and a file that takes all the room that is left.
Anywhere: the agent's limit on the size of files that it writes (setrlimit(2), RLIMIT_FSIZE) set to nothing, and back.
It is set between two transactions: a full disk lets a transaction that fails put back in place what it had written, and
this limit does not, so that nothing could be read until there is room.
"""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from types import TracebackType
from typing import Literal, Self

import pytest

from tests.e2e.kit import Agent
from tests.watchdog import HANG_S

DISK_BYTES = 4 * 2**20
Kind = Literal["tmpfs", "limit"]


def may_mount() -> bool:
    """Whether this user may mount a tmpfs here: root in a container often may not."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as directory:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], capture_output=True).returncode:
            return False
        subprocess.run(["umount", directory], check=True)
    return True


class SmallDisk:
    """The disk of one agent, which must not run at ``async with``; it is started, with its home moved, inside."""

    def __init__(self, agent: Agent, kind: Kind) -> None:
        self.agent = agent
        self.kind = kind
        self._mount = agent.world.directory / f"disk-{agent.name}"
        self._filler = self._mount / "filler"

    async def __aenter__(self) -> Self:
        await self.agent.stop()
        if self.kind == "tmpfs":
            self._mount.mkdir()
            options = f"size={DISK_BYTES},mode=0700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self._mount], check=True)
            home = self._mount / "home"
            shutil.copytree(self.agent.home, home)
            shutil.rmtree(self.agent.home)
            self.agent.home = home
        await self.agent.run()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.agent.world.check_for_leaks()  # later the disk is gone
        finally:
            await self.agent.kill()
            if self.kind == "tmpfs":
                subprocess.run(["umount", self._mount], check=True)

    def fill(self) -> None:
        """Leave no room."""
        if self.kind == "limit":
            uri = f"{(self.agent.home / 'vault.db').as_uri()}?mode=rw"
            with closing(sqlite3.connect(uri, uri=True, timeout=HANG_S, isolation_level=None)) as vault:
                vault.execute("BEGIN IMMEDIATE")  # the agent writes nothing now
                self._limit(0)
            return
        with self._filler.open("wb", buffering=0) as file:
            for size in (65_536, 4096, 1):
                try:
                    while file.write(b"\0" * size):
                        pass
                except OSError:
                    continue

    def make_room(self) -> None:
        """Have room again."""
        if self.kind == "limit":
            self._limit(resource.RLIM_INFINITY)
        else:
            self._filler.unlink()

    def _limit(self, size: int) -> None:
        _, hard = resource.prlimit(self.agent.running.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.agent.running.process.pid, resource.RLIMIT_FSIZE, (size, hard))


KINDS = (  # both are collected everywhere, so that the number of tests is no machine's own
    pytest.param("tmpfs", marks=pytest.mark.skipif(not may_mount(), reason="no tmpfs may be mounted here")),
    pytest.param("limit"),
)
