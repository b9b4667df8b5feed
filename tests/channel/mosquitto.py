"""A real mosquitto in its own process and directory, for tests; no pytest in here, so that benchmarks may use it."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from pathlib import Path

from tests import needs
from tests.watchdog import HANG_S

# as in our mosquitto.conf: without the last two a kill -9 loses acknowledged messages, without the first
# small packets wait for the peer's delayed acknowledgement (44 ms)
DURABLE = ("set_tcp_nodelay true", "persistence true", "autosave_on_changes true", "autosave_interval 1")


class MosquittoMissingError(Exception):
    """The Debian package is not installed."""


def program(name: str) -> str:
    """Return the path of ``mosquitto``, ``mosquitto_pub`` or ``mosquitto_sub``."""
    found = needs.find(name)
    if found is None:
        package = "mosquitto" if name == "mosquitto" else "mosquitto-clients"
        raise MosquittoMissingError(f"{name} is not installed: apt-get install {package}")
    return found


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """One broker process. ``lines`` are added to its configuration; ``restart`` keeps port and database."""

    def __init__(
        self, directory: Path, *lines: str, anonymous: bool = True, logged: tuple[str, ...] = ("all",)
    ) -> None:
        self.port = free_port()
        self.directory = directory
        self.log: deque[str] = deque(maxlen=2000)
        self._arrived = asyncio.Condition()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.config = directory / "mosquitto.conf"
        settings = [
            "user root",  # started as root it would change to a user who cannot write here; else it is ignored
            f"persistence_location {directory}/",
            "log_dest stderr",
            *(f"log_type {kind}" for kind in logged),
            f"allow_anonymous {str(anonymous).lower()}",
            *DURABLE,
            f"listener {self.port} 127.0.0.1",
            *lines,
        ]
        self.config.write_text("\n".join(settings) + "\n")

    async def start(self) -> None:
        """Start and wait until it listens."""
        self.log.clear()
        self._process = await asyncio.create_subprocess_exec(
            program("mosquitto"), "-c", str(self.config), stderr=asyncio.subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._read())
        await self.wait_for_log(" running")

    async def _read(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        while line := await self._process.stderr.readline():
            async with self._arrived:
                self.log.append(line.decode(errors="replace").rstrip())
                self._arrived.notify_all()
        async with self._arrived:
            self.log.append("end of log")
            self._arrived.notify_all()

    async def wait_for_log(self, text: str, *, count: int = 1) -> None:
        """Wait until the log holds ``text`` in at least ``count`` lines."""
        async with asyncio.timeout(HANG_S), self._arrived:
            await self._arrived.wait_for(lambda: self.count(text) >= count or "end of log" in self.log)
        assert self.count(text) >= count, "\n".join(self.log)

    def count(self, text: str) -> int:
        """Return how many log lines hold ``text``."""
        return sum(text in line for line in self.log)

    async def stop(self) -> None:
        """End it as systemd would, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
        await self._ended()

    async def kill(self) -> None:
        """kill -9: what a power cut leaves behind."""
        assert self._process is not None
        self._process.kill()
        await self._ended()

    async def _ended(self) -> None:
        if self._process is not None and self._reader is not None:
            async with asyncio.timeout(HANG_S):
                await self._process.wait()
                await self._reader
            self._process = self._reader = None

    async def restart(self) -> None:
        """Stop and start again."""
        await self.stop()
        await self.start()

    async def __aenter__(self) -> Mosquitto:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
