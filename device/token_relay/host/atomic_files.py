"""Ordinary files that are whole or absent, wherever the power fails. The vault has its own module for its files."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from token_relay.protocol.errors import LocalError
from token_relay.vault.files import sync_directory


@dataclass(frozen=True, slots=True)
class Owner:
    """The account a file is given to, by number; only root can give files away."""

    uid: int
    gid: int


def write_atomic(path: Path, data: bytes, *, mode: int, owner: Owner | None = None, replace: bool = True) -> None:
    """Put ``data`` at ``path``: all of it or nothing, with exactly this mode, durable when this returns.

    The bytes go to a new file beside it that is created with O_EXCL and its final mode, are synced, and then take
    the name; the directory is synced last. With ``replace=False`` the name is taken by a hard link, which fails when
    it exists: no gap between looking and writing. (File systems without hard links, such as FAT, have no modes
    either, so no key belongs there.)

    Raises:
        LocalError: the name is taken (``replace=False``) or the disk refused; ``path`` is as it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
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


def read_bytes(path: Path, *, size_max: int) -> bytes:
    """Return the file's content.

    Raises:
        LocalError: it is missing, unreadable, not a file, or longer than ``size_max`` bytes.
    """
    try:
        with path.open("rb") as file:
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
