"""One power-on of a device, as its ports see it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

from token_relay.simulation.ports.clocks import SimulatedClock


class PowerCutError(Exception):
    """The device in use has lost its power, or is off."""


class Power:
    """One power-on of a device: while it lasts, ports work and tasks may be started, in the device's ``context``.

    ``cut`` is what a power cut does to the device.
    """

    def __init__(self, clock: SimulatedClock, context: contextvars.Context, cut: Callable[[], None]) -> None:
        self._clock = clock
        self._context = context
        self._cut = cut
        self.is_on = True

    @property
    def is_suspended(self) -> bool:
        """Whether the device sleeps."""
        return self._clock.is_suspended

    def check(self) -> None:
        """End the task that still runs although the power is gone."""
        if not self.is_on:
            raise asyncio.CancelledError

    def cut(self) -> None:
        """Cut the power now."""
        if self.is_on:
            self._cut()

    def spawn(self, tasks: asyncio.TaskGroup, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task in the device's context, also for a caller outside of the device."""
        if self.is_on:
            tasks.create_task(work(), context=self._context)
