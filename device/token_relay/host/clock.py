"""The clocks and the randomness of a real Linux device, behind :class:`token_relay.agents.ports.Clock` and ``Random``.

Boot time is CLOCK_BOOTTIME. It goes on in suspend, unlike the monotonic clock that asyncio sleeps on, so
:meth:`SystemClock.sleep` wakes often and looks at it. The kernel knows from an NTP daemon whether the wall clock is
right (adjtimex); a clock that a person sets by hand counts as not synced.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import random
import re
import secrets
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from token_relay.agents.ports import Now, Signal

BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")  # systemd-timesyncd.service(8)

PIECE_S_MAX = 60.0  # how late a sleeper may be after a resume; a wake-up a minute costs nothing measurable
TIME_ERROR = 5  # adjtimex's return value for a clock that is not synchronised
STA_UNSYNC = 0x0040

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_PLAIN = re.compile(r"[0-9a-f]{32}", re.ASCII)


class _Timex(ctypes.Structure):
    """The head of ``struct timex`` (208 bytes); padding replaces the rest, which differs between platforms."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


class SystemClock:
    """The device's clocks. Reads the boot id once: it cannot change under a running process."""

    def __init__(
        self,
        *,
        boot_id_path: Path = BOOT_ID_PATH,
        boot_id: str = "",
        is_synced: Callable[[], bool] | None = None,
    ) -> None:
        """``boot_id`` is the service manager's name of this boot, used where the kernel's file cannot be read."""
        self._boot_id = read_boot_id(boot_id_path, boot_id)
        self._is_synced = is_synced or is_kernel_synced

    def now(self) -> Now:
        """Read all clocks, within microseconds of each other."""
        return Now(self._boot_id, time.clock_gettime(time.CLOCK_BOOTTIME), time.time(), self._is_synced())

    async def sleep(self, seconds: float) -> None:
        """Sleep by boot time, in pieces; if it ends in a suspend, return within ``PIECE_S_MAX`` of the resume."""
        ends_at = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
        left_s = seconds
        while left_s > PIECE_S_MAX:
            await asyncio.sleep(PIECE_S_MAX)
            left_s = ends_at - time.clock_gettime(time.CLOCK_BOOTTIME)
        await asyncio.sleep(max(left_s, 0.0))

    async def wait(self, event: Signal, seconds: float) -> bool:
        """Wait for an event at most ``seconds``, in the same pieces; return whether it is set."""
        ends_at = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
        left_s = seconds
        while not event.is_set() and left_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, PIECE_S_MAX)):
                    await event.wait()
            left_s = ends_at - time.clock_gettime(time.CLOCK_BOOTTIME)
        return event.is_set()


class SystemRandom:
    """The kernel's random generator."""

    def bytes(self, count: int) -> bytes:
        """Return ``count`` random bytes fit for keys."""
        return os.urandom(count)

    def uniform(self, low: float, high: float) -> float:
        """Return a number from ``low`` to ``high``, for jitter only."""
        return random.SystemRandom().uniform(low, high)


def read_boot_id(path: Path = BOOT_ID_PATH, given: str = "") -> str:
    """Return the kernel's random name of this boot.

    Where it cannot be read (systemd's ``ProcSubset=pid``), this is the service manager's name of it: the same number
    without dashes (``%b``, systemd.unit(5)). Without either, it is a name that no other process has: elapsed time
    across a restart is then known only with a synced wall clock.
    """
    try:
        with path.open("rb") as file:
            text = file.read(64).decode("ascii", "replace").strip()
    except OSError:
        text = ""
    if not _UUID.fullmatch(text) and _PLAIN.fullmatch(given):
        text = str(uuid.UUID(given))
    return text if _UUID.fullmatch(text) else f"process-{secrets.token_hex(16)}"


def is_kernel_synced() -> bool:
    """Whether the kernel says that the wall clock is synchronised. adjtimex(2).

    Where the process may not ask the kernel (systemd's ``ProtectClock=``, a filter without ``adjtimex``), the mark of
    systemd-timesyncd decides; other daemons leave none, and the answer is False.
    """
    timex = _Timex(modes=0)  # only read
    adjtimex = _adjtimex()
    state = adjtimex(ctypes.byref(timex)) if adjtimex is not None else -1
    if state < 0:
        return TIMESYNCD_MARK.exists()
    return state != TIME_ERROR and not timex.status & STA_UNSYNC


@functools.cache
def _adjtimex() -> Callable[[object], int] | None:
    try:
        function = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    return function
