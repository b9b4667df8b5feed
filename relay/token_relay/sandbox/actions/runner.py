"""Runs Actions in a few processes of their own, with a time limit for each answer; a slower process is ended.

Processes, not threads: a thread that hangs cannot be ended, and would hold its lock and its processor for ever. An
Action that raises, hangs, eats memory, prints, forks or exits costs its own login and its own process; the provider
goes on, and other logins with it. Processes that an Action starts are ended with it as long as they stay in its process
group.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.provider.memory.verdicts import ANSWER_BYTES_MAX, Question, Verdict

WORKER = Path(__file__).with_name("worker.py")
WORKERS_MAX = 4  # Actions that run at the same time
START_S = 10.0  # for a process to load the file
ANSWER_S = 3.0  # for one answer; the real service gives 20 s, a test does not want to wait that long
QUEUE_S = 15.0  # for a free process
DRAIN_S = 1.0  # for what a process had written before it was ended


class ActionRunner:
    """The Actions of one file."""

    def __init__(self, path: Path, *, answer_s: float = ANSWER_S) -> None:
        self._path, self._answer_s = path, answer_s
        self._free = asyncio.Semaphore(WORKERS_MAX)
        self._idle: list[asyncio.subprocess.Process] = []
        self._all: set[asyncio.subprocess.Process] = set()

    async def start(self) -> None:
        """Load the file once.

        Raises:
            ConfigError: it cannot be read, raises, or defines no Action.
        """
        if not self._path.is_file():
            raise ConfigError(f"cannot read {self._path}: no such file")
        process, failure = await self._worker()
        if failure:
            await self._end(process)
            raise ConfigError(f"{self._path}: {failure}", hint="def on_execute_post_login(event, api): ...")
        self._idle.append(process)

    async def stop(self) -> None:
        """End all processes."""
        for process in list(self._all):
            await self._end(process)

    async def ask(self, question: Question) -> Verdict:
        """Return what the Actions say; whatever goes wrong is a verdict too, with ``failure`` set."""
        try:
            async with asyncio.timeout(QUEUE_S):
                await self._free.acquire()
        except TimeoutError:
            return question.failed("no process was free in time")
        process: asyncio.subprocess.Process | None = None
        is_good = False
        try:
            failure = ""
            process = self._idle.pop() if self._idle else None
            if process is None:
                process, failure = await self._worker()
            if failure:
                return question.failed(failure)
            verdict = await self._answer(process, question)
            is_good = not verdict.failure
            return verdict
        finally:
            self._free.release()
            if process is not None:
                if is_good and process.returncode is None:
                    self._idle.append(process)
                else:
                    await self._end(process)

    async def _answer(self, process: asyncio.subprocess.Process, question: Question) -> Verdict:
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        try:
            async with asyncio.timeout(self._answer_s):
                process.stdin.write(json.dumps(question.event).encode() + b"\n")
                await process.stdin.drain()
                return question.answered(await process.stdout.readuntil(b"\n"))
        except TimeoutError:
            return question.failed(f"no answer within {self._answer_s:g} s")
        except asyncio.LimitOverrunError:
            return question.failed(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
        except (asyncio.IncompleteReadError, ConnectionError):
            return question.failed("the process ended")

    async def _worker(self) -> tuple[asyncio.subprocess.Process, str]:
        """Start a process; return it with what went wrong, or an empty string."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(WORKER),
            str(self._path.absolute()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"LANG": "C.UTF-8"},
            start_new_session=True,
            limit=ANSWER_BYTES_MAX,
        )
        self._all.add(process)
        assert process.stdout is not None, "a pipe"
        try:
            async with asyncio.timeout(START_S):
                ready = json.loads(await process.stdout.readuntil(b"\n"))
        except TimeoutError:
            return process, f"the file was not loaded within {START_S:g} s"
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            return process, "the process ended while it loaded the file"
        return process, str(ready.get("failure", "")) if isinstance(ready, dict) else "the process answered nonsense"

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._all.discard(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        process.stdin.close()
        with contextlib.suppress(TimeoutError, ConnectionError):  # a process that left the group may hold the pipe
            async with asyncio.timeout(DRAIN_S):
                while await process.stdout.read(ANSWER_BYTES_MAX):
                    pass
        await asyncio.shield(process.wait())
