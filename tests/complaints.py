"""What asyncio says of a failure at which nobody has looked: it comes when the future is collected, and to a log."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def no_complaints() -> Iterator[None]:
    """Assert that the running loop has nothing to complain of, up to the end and of what is collected there."""
    loop = asyncio.get_running_loop()
    said: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: said.append(context))
    try:
        yield
        gc.collect()
        assert said == []
    finally:
        loop.set_exception_handler(before)
