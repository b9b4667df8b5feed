"""How much time has certainly passed between a remembered moment and now, across reboots and clock jumps.

Pure. There are two clocks, never subtracted from one another. Boot time counts suspend too, but starts anew at each
boot. Wall time survives a boot but may be wrong, and on a device without a battery clock it usually is at first. So the
answer is a number only when one clock can be trusted, and None otherwise: the caller decides which side is safe.

Invariants: never negative; within one boot the wall clock has no influence; across boots an unsynced reading
of either moment gives None.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from token_relay.agents.ports import Now
from token_relay.protocol.errors import VaultError

STAMP_CHARS_MAX = 160

_BOOT_ID = re.compile(r"[0-9A-Za-z_.-]{1,80}", re.ASCII)
_TEXT = re.compile(rf"({_BOOT_ID.pattern}) (-?[0-9.e+-]{{1,30}}) (-?[0-9.e+-]{{1,30}}) ([su])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Stamp:
    """One remembered moment: the fields of :class:`.agents.ports.Now`, all finite; it fits one text column."""

    boot_id: str
    boot_s: float
    wall_s: float
    is_synced: bool

    def __post_init__(self) -> None:
        if not _BOOT_ID.fullmatch(self.boot_id) or not math.isfinite(self.boot_s) or not math.isfinite(self.wall_s):
            raise ValueError("a stamp has a boot id and finite times")

    @classmethod
    def of(cls, now: Now) -> Stamp:
        """Remember this reading."""
        return cls(now.boot_id, now.boot_s, now.wall_s, now.is_synced)

    def to_text(self) -> str:
        """Spell it as ``BOOT_ID BOOT_S WALL_S s|u`` (synced or unsynced); floats keep every bit."""
        return f"{self.boot_id} {float(self.boot_s)!r} {float(self.wall_s)!r} {'s' if self.is_synced else 'u'}"

    @classmethod
    @lru_cache(maxsize=1024)  # rows are read far more often than written
    def from_text(cls, text: str) -> Stamp:
        """Read what :meth:`to_text` wrote. Raises VaultError for anything else."""
        found = _TEXT.fullmatch(text) if len(text) <= STAMP_CHARS_MAX else None
        if found is None:
            raise VaultError("a stored moment is damaged")
        try:
            return cls(found[1], float(found[2]), float(found[3]), found[4] == "s")
        except ValueError:
            raise VaultError("a stored moment is damaged") from None


def elapsed_s(since: Stamp, now: Now) -> float | None:
    """Return the seconds that have passed since then, or None when no clock can say.

    Same boot: the difference of boot times. Another boot: the difference of wall times, if both readings were
    synced and now is not before then.
    """
    if since.boot_id == now.boot_id:
        return max(0.0, now.boot_s - since.boot_s)
    if since.is_synced and now.is_synced and now.wall_s >= since.wall_s:
        return now.wall_s - since.wall_s
    return None
