"""The clocks and the randomness of a simulated device: its own boot time and a wall clock that may be wrong.

The world's time (:class:`token_relay.simulation.loop.VirtualLoop`) is the true time. Boot time follows it from each
power-on and goes on in suspend. The wall clock follows it too, until a test makes it jump, stop or begin in 1970.
Whether it claims to be synchronised is independent of whether it is right.
"""

from __future__ import annotations

import asyncio
import contextlib
from random import Random as SeededRandom

from token_relay.agents.ports import Now, Signal
from token_relay.simulation.loop import VirtualLoop

WALL_AT_START_S = 1_800_000_000.0
BOOT_S_AT_POWER_ON = 100.0


class SimulatedClock:
    """The :class:`token_relay.agents.ports.Clock` of one device, and its faults."""

    def __init__(self, loop: VirtualLoop, name: str, *, wall_s: float = WALL_AT_START_S) -> None:
        self._loop = loop
        self._name = name
        self._wall_s = wall_s  # the wall clock's time at the world's beginning, jumps included
        self._stopped_at: float | None = None
        self._booted_at = loop.time()
        self._boots = 1
        self.boot_id = f"{name}-boot-1"
        self.is_synced = True
        self.has_battery = True
        """Without a battery, a new boot begins in 1970 and unsynced until :meth:`sync`."""
        self._awake = asyncio.Event()
        self._awake.set()

    # -- the port --------------------------------------------------------------------------------------

    def now(self) -> Now:
        """Read all clocks."""
        time = self._loop.time()
        wall_s = self._wall_s + time if self._stopped_at is None else self._stopped_at
        return Now(self.boot_id, BOOT_S_AT_POWER_ON + time - self._booted_at, wall_s, self.is_synced)

    async def sleep(self, seconds: float) -> None:
        """Sleep by boot time, with one timer however long; after a suspend, late by at most a minute."""
        self._loop.mark_sleep()
        await asyncio.sleep(max(seconds, 1e-9))

    async def wait(self, event: Signal, seconds: float) -> bool:
        """Wait for an event at most ``seconds``, counted as :meth:`sleep` does."""
        if not event.is_set() and seconds > 0:
            self._loop.mark_sleep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
        return event.is_set()

    # -- what may happen to it -------------------------------------------------------------------------

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self._wall_s += seconds
        if self._stopped_at is not None:
            self._stopped_at += seconds

    def stop(self) -> None:
        """Stop the wall clock; boot time goes on."""
        self._stopped_at = self.now().wall_s

    def go(self) -> None:
        """Start a stopped wall clock again from its present time."""
        if self._stopped_at is not None:
            self._wall_s, self._stopped_at = self._stopped_at - self._loop.time(), None

    def begin_in_1970(self) -> None:
        """Set the wall clock to 1970, unsynced, as on a board without a battery."""
        self._stopped_at = None
        self._wall_s = -self._loop.time()
        self.is_synced = False

    def sync(self) -> None:
        """Set the wall clock right, as NTP does."""
        self._stopped_at = None
        self._wall_s = WALL_AT_START_S
        self.is_synced = True

    def reboot(self) -> None:
        """Begin a new boot: another boot id, boot time from its start."""
        self._boots += 1
        self.boot_id = f"{self._name}-boot-{self._boots}"
        self._booted_at = self._loop.time()
        if not self.has_battery:
            self.begin_in_1970()

    # -- suspend ---------------------------------------------------------------------------------------

    @property
    def is_suspended(self) -> bool:
        """Whether the device sleeps as a whole."""
        return not self._awake.is_set()

    def suspend(self, seconds: float) -> None:
        """Postpone the device's timers; see :meth:`token_relay.simulation.loop.VirtualLoop.postpone`."""
        self._awake.clear()
        self._loop.postpone(self._name, seconds)

    def resume(self) -> None:
        """Wake up."""
        self._awake.set()

    async def awake(self) -> None:
        """Wait until the device is not suspended."""
        await self._awake.wait()


def seeded(seed: int, name: str) -> SeededRandom:
    """Return a generator for one purpose, from a world's seed."""
    return SeededRandom(f"{seed}-{name}")  # noqa: S311  # reproducible histories are the point


class SeededPort:
    """The Random port over a seed."""

    def __init__(self, seed: int | str) -> None:
        self._random = SeededRandom(seed)  # noqa: S311  # reproducible histories are the point

    def bytes(self, count: int) -> bytes:
        """Return reproducible bytes."""
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        """Return a reproducible number."""
        return self._random.uniform(low, high)
