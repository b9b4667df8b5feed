"""What a directory lies on: a disk, or memory that a reboot empties.

An overlay is as lasting as its upper layer: raspi-config's protection of the card is an overlay in memory, in which
each boot brings back an older refresh token, one that is spent where the provider rotates.

Limit: where the system mounted the overlay before its root was in place, or outside of this container, the upper layer
cannot be seen.

Source: proc(5) on mountinfo; overlayfs in the kernel's documentation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MOUNTINFO = Path("/proc/self/mountinfo")
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
LAYERS_MAX = 8  # of overlays upon each other; the kernel allows two
_OCTAL = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}

Lasting = Literal["disk", "memory", "unseen"]


@dataclass(frozen=True, slots=True)
class Mount:
    """The line of mountinfo that a path belongs to."""

    point: str
    fs_type: str
    options: frozenset[str]


def find_mount(mountinfo: str, path: Path) -> Mount | None:
    """Return the mount that ``path`` (absolute, resolved) lies on; of two at one place, the later one."""
    best: Mount | None = None
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 3:
            continue
        point = _unescaped(fields[4])
        if path.is_relative_to(point) and (best is None or len(point) >= len(best.point)):
            best = Mount(point, tail[0], frozenset(fields[5].split(",")) | frozenset(tail[2].split(",")))
    return best


def lasting(mountinfo: str, path: Path, is_there: Callable[[str], bool] = os.path.lexists) -> Lasting:
    """Say whether what is written to ``path`` (absolute, resolved) outlasts a reboot."""
    for _ in range(LAYERS_MAX):
        mount = find_mount(mountinfo, path)
        if mount is None or mount.fs_type != "overlay":
            return "memory" if mount is not None and mount.fs_type in IN_MEMORY else "disk"
        upper = next((word[9:] for word in mount.options if word.startswith("upperdir=")), "")
        path = Path(_unescaped(upper))
        # A path of the time before this root was in place, or of the world outside, means nothing here.
        if not path.is_absolute() or not is_there(str(path)):
            return "unseen"
    return "unseen"  # it lies on itself


def warning(home: Path) -> str:
    """Return a sentence if what this home keeps may not outlast a reboot, else nothing."""
    try:
        found = lasting(MOUNTINFO.read_text(encoding="utf-8", errors="replace"), home.resolve())
    except OSError:
        return ""
    match found:
        case "memory":
            return f"{home} lies in memory: a reboot takes the grants and pairings away, or brings spent ones back"
        case "unseen":
            return f"{home} lies on an overlay whose upper layer cannot be seen: if that is memory, a reboot empties it"
        case "disk":
            return ""


def _unescaped(text: str) -> str:
    for written, meant in _OCTAL.items():
        text = text.replace(written, meant)
    return text
