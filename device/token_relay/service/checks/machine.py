"""Checks the machine under an agent: its clock, the disk that the vault lies on, the unit that runs it.

Functions that judge take what other functions read. No check can tell whether a disk really flushes: a card that does
not, although it says so, answers as fast as a correct one with its own buffer. The check sees only a file system that
is mounted without flushing, and one that a reboot empties.

Source: proc(5) on mountinfo; ext4(5), xfs(5), btrfs(5), overlayfs on mount options; systemctl(1).
"""

from __future__ import annotations

import os
import secrets
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from token_relay.agents.ports import Now
from token_relay.host.config import Kind
from token_relay.service.checks.finding import Finding

BUILT_AT = datetime(2026, 1, 1, tzinfo=UTC).timestamp()  # this version did not exist before: the clock is wrong
MOUNTINFO = Path("/proc/self/mountinfo")
FREE_BYTES_MIN = 16 * 1_048_576  # a vault, its copy while the key changes, and the journal are a tenth of it
FREE_FILES_MIN = 16
SYNC_S_MAX = 2.0  # a commit has two or three flushes, and a caller of the token API waits ten seconds
SYNCS = 3
PROBE_BYTES = 4096  # a page of the database
FORGETS = frozenset({"tmpfs", "ramfs", "devtmpfs"})
# Options that tell a file system not to make the disk flush, so that a power cut may take what was committed.
CARELESS = frozenset({"nobarrier", "barrier=0", "volatile", "nolog"})
RESTARTS_MAX = 3
SYSTEMCTL_S_MAX = 10.0
_OCTAL = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}


# -- The clock ---------------------------------------------------------------------------------------------


def clock(now: Now) -> Finding:
    """Judge the wall clock, on which certificates, leases across a reboot and id tokens depend."""
    shown = datetime.fromtimestamp(now.wall_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if now.wall_s < BUILT_AT:
        return Finding(
            "clock", False, f"it is {shown} here: the clock was never set", "connect to a network with NTP, or set it"
        )
    if not now.is_synced:
        return Finding("clock", False, f"{shown}, not synchronised", "start systemd-timesyncd or chrony")
    return Finding("clock", True, f"{shown}, synchronised")


# -- The disk ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    """The line of mountinfo that a path belongs to."""

    point: str
    fs_type: str
    options: frozenset[str]


@dataclass(frozen=True, slots=True)
class Room:
    """The free space of a file system. ``files`` is None where it does not count them."""

    free_bytes: int
    files: int | None


def find_mount(mountinfo: str, path: Path) -> Mount | None:
    """Return the mount that ``path`` (absolute, resolved) lies on; of two at one place, the later one."""
    best: Mount | None = None
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 3:
            continue
        point = fields[4]
        for written, meant in _OCTAL.items():
            point = point.replace(written, meant)
        if path.is_relative_to(point) and (best is None or len(point) >= len(best.point)):
            best = Mount(point, tail[0], frozenset(fields[5].split(",")) | frozenset(tail[2].split(",")))
    return best


def disk(home: Path, mount: Mount | None, room: Room, sync_s: float | None, trouble: str = "") -> Finding:
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
    if mount is not None and mount.fs_type in FORGETS:
        return Finding(
            "disk", False, f"{detail}; a reboot empties it", f"move the home to a disk ({home} lies in memory)"
        )
    careless = sorted(mount.options & CARELESS) if mount is not None else []
    if careless:
        hint = f"mount {mount.point if mount else home} without it: a power cut may take the newest refresh token"
        return Finding("disk", False, f"{detail}; mounted with {careless[0]}, so nothing is flushed", hint)
    if room.free_bytes < FREE_BYTES_MIN or (room.files is not None and room.files < FREE_FILES_MIN):
        return Finding("disk", False, f"{detail}; too full for the vault", "make room")
    if sync_s is not None and sync_s > SYNC_S_MAX:
        return Finding("disk", False, f"{detail}; too slow", "look at dmesg: the disk may be at its end")
    return Finding("disk", True, detail)


def look_at_disk(home: Path, *, mountinfo: Path = MOUNTINFO) -> Finding:
    """Look at the file system of ``home`` and measure a flush, with a file that is removed again."""
    try:
        found = os.statvfs(home)
        text = mountinfo.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        return Finding("disk", False, f"{home}: {exc.strerror}", "look at dmesg")
    room = Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)
    mount = find_mount(text, home.resolve())
    if not os.access(home, os.W_OK):
        return disk(home, mount, room, None)
    try:
        return disk(home, mount, room, statistics.median(_syncs(home)))
    except OSError as exc:
        return disk(home, mount, room, None, trouble=f"cannot write: {exc.strerror}")


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

PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "UnitFileState", "NRestarts")


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


def look_at_unit(kind: Kind, environment: Mapping[str, str]) -> Finding:
    """Ask the service manager for the agent's unit."""
    name = f"token-relay-{kind}.service"
    program = shutil.which("systemctl", path=environment.get("PATH", os.defpath))
    if program is None:
        return unit(name, None)
    command = [program, "show", name, "--no-pager", *(f"--property={key}" for key in PROPERTIES)]
    try:
        ran = subprocess.run(  # noqa: S603  # a fixed program and a name of ours
            command, capture_output=True, text=True, timeout=SYSTEMCTL_S_MAX, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return Finding("unit", False, "systemctl does not answer", "look at the journal")
    if ran.returncode != 0:  # not booted with systemd, or no bus: a container, a chroot
        return unit(name, None)
    pairs = (line.partition("=") for line in ran.stdout.splitlines())
    return unit(name, {key: value for key, _, value in pairs})
