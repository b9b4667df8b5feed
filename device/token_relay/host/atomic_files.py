"""Ordinary files that are whole or absent, wherever the power fails. The vault has its own module for its files.

What a kill leaves is a *draft*, ``.NAME`` and 16 hex digits: :func:`remove_drafts` is for the next command.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from token_relay.protocol.errors import LocalError
from token_relay.vault.files import sync_directory


@dataclass(frozen=True, slots=True)
class Owner:
    """The account a file is given to, by number; only root can give files away."""

    uid: int
    gid: int


def write_atomic(
    path: Path,
    data: bytes,
    *,
    mode: int,
    owner: Owner | None = None,
    replace: bool = True,
    draft_in: Path | None = None,
) -> None:
    """Put ``data`` at ``path``: all of it or nothing, with exactly this mode, durable when this returns.

    The bytes go to a new file beside it that is created with O_EXCL and its final mode, are synced, and then take
    the name; the directory is synced last. With ``replace=False`` the name is taken by a hard link, which fails when
    it exists: no gap between looking and writing. (File systems without hard links, such as FAT, have no modes
    either, so no key belongs there.) ``draft_in`` is another directory of the same mount for the new file.

    Raises:
        LocalError: the name is taken (``replace=False``) or the disk refused; ``path`` is as it was.
    """
    draft = (draft_in or path.parent) / f".{path.name}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if owner is not None:
                    os.fchown(file.fileno(), owner.uid, owner.gid)
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                path.hardlink_to(draft)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(path.parent)
    except FileExistsError as exc:
        raise LocalError(f"{path} exists and is not overwritten", hint="--force makes a new one") from exc
    except OSError as exc:
        raise LocalError(f"cannot write {path}: {exc.strerror}") from exc


def remove_drafts(directory: Path, *names: str) -> list[Path]:
    """Remove the drafts of these files that a killed command left; return them. Nobody else writes there meanwhile.

    Raises:
        LocalError: the disk refused.
    """
    draft = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{16}}")
    found = [path for path in directory.iterdir() if draft.fullmatch(path.name)] if directory.is_dir() else []
    for path in found:
        unlink(path)
    return found


def make_directory(path: Path, *, mode: int, owner: Owner | None = None) -> None:
    """Make a directory with exactly this mode, and its parents so that nobody else may write to them.

    One that exists keeps what it has.

    Raises:
        LocalError: the disk refused.
    """
    try:
        missing = [path, *path.parents]
        missing = missing[: next(at for at, place in enumerate(missing) if place.is_dir())]
        for place in reversed(missing):
            place.mkdir(0o755)  # less a umask's bits, never more
            sync_directory(place.parent)
        if missing:
            path.chmod(mode)
            if owner is not None:
                os.chown(path, owner.uid, owner.gid)
    except OSError as exc:
        hint = "use sudo, or name another place" if isinstance(exc, PermissionError) else ""
        raise LocalError(f"cannot make the directory {path}: {exc.strerror}", hint=hint) from exc


def read_bytes(path: Path, *, size_max: int) -> bytes:
    """Return the file's content.

    Raises:
        LocalError: it is missing, unreadable, not a regular file, or longer than ``size_max`` bytes.
    """
    try:
        # O_NONBLOCK: a FIFO, which has no end, must not hang the command
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise LocalError(f"cannot read {path}: not a regular file")
            data = file.read(size_max + 1)
    except OSError as exc:
        raise LocalError(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) > size_max:
        raise LocalError(f"{path} has more than {size_max} bytes")
    return data


def unlink(path: Path) -> None:
    """Remove the file if it is there, durably.

    Raises:
        LocalError: the disk refused.
    """
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as exc:
        raise LocalError(f"cannot remove {path}: {exc.strerror}") from exc
