"""Checks the machine under an agent: its clock, the disk that the vault lies on, the unit that runs it, swap.

Functions that judge take what other functions read. No check can tell whether a disk really flushes: a card that does
not, although it says so, answers as fast as a correct one with its own buffer. The check sees only a file system that
is mounted without flushing, and one that a reboot empties.

Source: proc(5); ext4(5), xfs(5), btrfs(5) on mount options; systemctl(1).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from token_relay.agents.ports import Now
from token_relay.host import mounts
from token_relay.host.config import Kind
from token_relay.host.mounts import Lasting, Mount
from token_relay.service.checks.finding import Finding

BUILT_AT = datetime(2026, 1, 1, tzinfo=UTC).timestamp()  # this version did not exist before: the clock is wrong
FREE_BYTES_MIN = 16 * 1_048_576  # a vault, its copy while the key changes, and the journal are a tenth of it
FREE_FILES_MIN = 16
SYNC_S_MAX = 2.0  # a commit has two or three flushes, and a caller of the token API waits ten seconds
SYNCS = 3
PROBE_BYTES = 4096  # a page of the database
# Options that tell a file system not to make the disk flush, so that a power cut may take what was committed.
CARELESS = frozenset({"nobarrier", "barrier=0", "volatile", "nolog"})
RESTARTS_MAX = 3
SWAPS, BLOCK, PROC, GROUPS = Path("/proc/swaps"), Path("/sys/block"), Path("/proc"), Path("/sys/fs/cgroup")
SYSTEMCTL_S_MAX = 10.0


# -- The clock ---------------------------------------------------------------------------------------------


def clock(now: Now) -> Finding:
    """Judge the wall clock, on which certificates, leases across a reboot and id tokens depend."""
    shown = datetime.fromtimestamp(now.wall_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if now.wall_s < BUILT_AT:
        return Finding(
            "clock", False, f"it is {shown} here: the clock was never set", "connect to a network with NTP, or set it"
        )
    if not now.is_synced:
        return Finding("clock", False, f"{shown}, not synchronised", "timedatectl set-ntp true")
    return Finding("clock", True, f"{shown}, synchronised")


# -- The disk ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Room:
    """The free space of a file system. ``files`` is None where it does not count them."""

    free_bytes: int
    files: int | None


def disk(
    home: Path,
    mount: Mount | None,
    room: Room,
    sync_s: float | None,
    *,
    trouble: str = "",
    lasting: Lasting = "disk",
) -> Finding:
    """Judge the file system of the home. ``sync_s`` is the time of one flush, None when it was not measured."""
    kind = mount.fs_type if mount is not None else "unknown file system"
    measured = "flush not measured: no right to write here" if sync_s is None else f"flush {sync_s * 1000:.1f} ms"
    detail = f"{kind}, {room.free_bytes // 1_048_576} MiB free, {measured}"
    if mount is not None and "ro" in mount.options:
        return Finding(
            "disk", False, f"{detail}; mounted read-only", "look at dmesg, then: mount -o remount,rw " + mount.point
        )
    if trouble:
        return Finding("disk", False, f"{detail}; {trouble}", "look at dmesg: the disk may be at its end")
    if lasting == "memory":
        return Finding(
            "disk", False, f"{detail}; a reboot empties it", f"move the home to a disk ({home} lies in memory)"
        )
    careless = sorted(mount.options & CARELESS) if mount is not None else []
    if careless:
        hint = f"mount {mount.point if mount else home} without it: a power cut may take the newest refresh token"
        return Finding("disk", False, f"{detail}; mounted with {careless[0]}, so nothing is flushed", hint)
    if room.free_bytes < FREE_BYTES_MIN or (room.files is not None and room.files < FREE_FILES_MIN):
        return Finding("disk", False, f"{detail}; too full for the vault", f"make room on the disk of {home}")
    if sync_s is not None and sync_s > SYNC_S_MAX:
        return Finding("disk", False, f"{detail}; too slow", "look at dmesg: the disk may be at its end")
    if lasting == "unseen":
        hint = "if it is memory (raspi-config's overlay is), move the home to a disk of its own"
        return Finding("disk", True, f"{detail}; the overlay's upper layer cannot be seen", hint)
    return Finding("disk", True, detail)


def look_at_disk(home: Path) -> Finding:
    """Look at the file system of ``home`` and measure a flush, with a file that is removed again."""
    try:
        found = os.statvfs(home)
        text = mounts.MOUNTINFO.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        return Finding("disk", False, f"{home}: {exc.strerror}", "look at dmesg")
    room = Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)
    mount, lasting = mounts.find_mount(text, home.resolve()), mounts.lasting(text, home.resolve())
    sync_s, trouble = None, ""
    if os.access(home, os.W_OK):
        try:
            sync_s = statistics.median(_syncs(home))
        except OSError as exc:
            trouble = f"cannot write: {exc.strerror}"
    return disk(home, mount, room, sync_s, trouble=trouble, lasting=lasting)


def _syncs(directory: Path) -> Iterator[float]:
    """Write and flush a page a few times, as a commit does; yield the seconds of each flush."""
    path = directory / f".doctor-{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(SYNCS):
            os.pwrite(descriptor, os.urandom(PROBE_BYTES), 0)
            began_s = time.monotonic()
            os.fsync(descriptor)
            yield time.monotonic() - began_s
    finally:
        os.close(descriptor)
        path.unlink()


# -- The unit ----------------------------------------------------------------------------------------------

PROPERTIES = (
    *("LoadState", "ActiveState", "SubState", "Result", "UnitFileState", "NRestarts"),
    *("MainPID", "ControlGroup", "MemorySwapMax"),
)


def unit(name: str, shown: Mapping[str, str] | None) -> Finding:
    """Judge the unit by the output of ``systemctl show``; None when there is no service manager."""
    if shown is None:
        return Finding("unit", True, "no service manager here")
    if shown.get("LoadState", "not-found") == "not-found":
        return Finding("unit", True, f"{name} is not installed")
    journal = f"journalctl -u {name} -n 20"
    state = f"{shown.get('ActiveState', '?')} ({shown.get('SubState', '?')})"
    if shown["LoadState"] != "loaded":
        return Finding("unit", False, f"{name} is {shown['LoadState']}", f"systemctl status {name}")
    if shown.get("ActiveState") == "failed":
        return Finding(
            "unit", False, f"{name} failed: {shown.get('Result', '')}", f"{journal}; then systemctl restart {name}"
        )
    restarts = shown.get("NRestarts", "0")
    if restarts.isdigit() and int(restarts) > RESTARTS_MAX:
        return Finding("unit", False, f"{name} is {state}, restarted {restarts} times", journal)
    if shown.get("ActiveState") != "active" and shown.get("UnitFileState") == "enabled":
        return Finding("unit", False, f"{name} is enabled but {state}", f"systemctl start {name}")
    return Finding("unit", True, f"{name} is {state}")


def look_at_unit(kind: Kind, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Ask the service manager for the agent's unit; judge that and what keeps its memory out of swap."""
    name = f"token-relay-{kind}.service"
    program = shutil.which("systemctl", path=environment.get("PATH", os.defpath))
    if program is None:
        yield from (unit(name, None), look_at_swap(name, {}))
        return
    command = [program, "show", name, "--no-pager", *(f"--property={key}" for key in PROPERTIES)]
    try:
        ran = subprocess.run(  # noqa: S603  # a fixed program and a name of ours
            command, capture_output=True, text=True, timeout=SYSTEMCTL_S_MAX, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        yield Finding("unit", False, "systemctl does not answer", "look at the journal")
        return
    shown = {key: value for key, _, value in (line.partition("=") for line in ran.stdout.splitlines())}
    # not booted with systemd, or no bus: a container, a chroot
    yield unit(name, shown if ran.returncode == 0 else None)
    yield look_at_swap(name, shown)


# -- Swap --------------------------------------------------------------------------------------------------


def swap(name: str, on_disk: Sequence[str], *, is_kept_out: bool) -> Finding:
    """Judge the swap areas that are disks: there, tokens and keys would lie in clear, long after the agent's end."""
    if not on_disk:
        return Finding("swap", True, "none on a disk")
    if is_kept_out:
        return Finding("swap", True, f"{', '.join(on_disk)}: the agent's memory stays out of it")
    hint = f"swapoff -a, or as a service: systemctl edit {name}, MemorySwapMax=0 and LimitMEMLOCK=infinity; restart it"
    return Finding("swap", True, f"{', '.join(on_disk)}: tokens and keys of the agent may get there in clear", hint)


def look_at_swap(name: str, shown: Mapping[str, str]) -> Finding:
    """Look for swap on a disk, and at the agent's process; ``shown`` is what systemctl said of its unit."""
    areas = [line.split()[0] for line in _text(SWAPS).splitlines()[1:] if line.strip()]
    pid, group = shown.get("MainPID", "0"), shown.get("ControlGroup", "")
    locked_kb = re.search(r"^VmLck:\s*(\d+)", _text(PROC / pid / "status") if pid != "0" else "", re.MULTILINE)
    if locked_kb is not None and int(locked_kb[1]) > 0:
        is_kept_out = True
    elif pid != "0":  # a kernel without memory groups, as Raspberry Pi OS starts it, does not heed the unit
        is_kept_out = _text(GROUPS / group.strip("/") / "memory.swap.max").strip() == "0"
    else:
        is_kept_out = shown.get("MemorySwapMax") == "0"
    return swap(name, [area for area in areas if not _is_in_memory(area)], is_kept_out=is_kept_out)


def _is_in_memory(area: str) -> bool:
    """Whether a swap area is compressed memory that never goes on to a disk. zram in the kernel's documentation"""
    name = Path(area).name
    return name.startswith("zram") and _text(BLOCK / name / "backing_dev").strip() in ("", "none")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
