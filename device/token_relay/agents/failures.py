"""What an agent does with a failure: it logs the place, ends only the task, and writes again what must not be lost.

No task of an agent's group may raise: it would cancel every refresh in flight.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

import structlog

from token_relay.agents.ports import Clock
from token_relay.protocol.errors import RelayError, VaultError

log = structlog.get_logger()

FRAMES_MAX = 8  # innermost places of a traceback
STORE_RETRY_S = 1.0

T = TypeVar("T")


def where(trace: TracebackType | None) -> str:
    """Name the places of a traceback, innermost first, without any value."""
    frames = traceback.extract_tb(trace)[-FRAMES_MAX:]
    return " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames))


async def guarded(work: Coroutine[Any, Any, object], *, event: str) -> None:
    """Run ``work`` to its end; what it raises becomes the log line ``event``, never an exception."""
    try:
        await work
    except RelayError as exc:
        log.error(event, error=type(exc).__name__, detail=str(exc))
    except Exception as exc:
        log.error(event, error=type(exc).__name__, where=where(exc.__traceback__))


async def until_stored(write: Callable[[], Awaitable[T]], clock: Clock, *, event: str) -> T:
    """Write what may be the only copy of a token, again and again; durable when this returns."""
    while True:
        try:
            return await write()
        except VaultError as exc:
            log.error(event, detail=str(exc))
            await clock.sleep(STORE_RETRY_S)
