"""Private files: their owner and mode, how they are written, and the lock that lets one process use them.

The store and the key providers use it. Every refusal is a :class:`VaultError`; where a command corrects the cause, it
is the hint. The checks look at the file itself and at its directory; they do not notice a directory further up that
somebody else may write to.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from pathlib import Path

from token_relay.protocol.errors import VaultError

FILE_MODE = 0o600
_STAMP = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.:+-]{0,63}", re.ASCII)


def check_directory(directory: Path) -> None:
    """Refuse a directory in which somebody else could replace files.

    Others may read it: a service manager makes state directories 0755, and clients pass through to sockets.
    """
    try:
        link, found = directory.lstat(), directory.stat()
    except OSError as exc:
        raise VaultError(f"cannot use directory {directory}: {exc.strerror}", hint=f"mkdir -m 700 {directory}") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise VaultError(f"{directory} is not a directory")
    if not {link.st_uid, found.st_uid} <= {os.geteuid(), 0}:
        raise VaultError(f"directory {directory} belongs to another user", hint=f"chown {os.geteuid()} {directory}")
    if found.st_mode & 0o022:
        raise VaultError(f"others may write to directory {directory}", hint=f"chmod go-w {directory}")


def check_private(path: Path, found: os.stat_result | None = None) -> None:
    """Refuse a file that is not a regular one, is not ours, or is open to anybody else."""
    if found is None:
        try:
            found = path.lstat()
        except OSError as exc:
            raise VaultError(f"cannot use {path}: {exc.strerror}") from exc
    if not stat.S_ISREG(found.st_mode):
        raise VaultError(f"{path} is not a regular file")
    if found.st_uid != os.geteuid():
        raise VaultError(f"{path} belongs to another user", hint=f"chown {os.geteuid()} {path}")
    if found.st_mode & 0o177:
        raise VaultError(f"{path} is open to others (mode {found.st_mode & 0o777:o})", hint=f"chmod 600 {path}")


def read_file(path: Path, *, bytes_max: int, is_private: bool = True) -> bytes:
    """Read a small file whole, never through a symbolic link, never more than ``bytes_max`` bytes.

    Raises:
        VaultError: absent, too long, not a regular file, or (``is_private``) not ours alone.
    """
    try:
        # O_NONBLOCK: a FIFO put in its place must not hang the start
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise VaultError(f"cannot read {path}: {exc.strerror}") from exc
    try:
        found = os.fstat(descriptor)
        if is_private:
            check_private(path, found)
        elif not stat.S_ISREG(found.st_mode):
            raise VaultError(f"{path} is not a regular file")
        content = b""
        while len(content) <= bytes_max and (part := os.read(descriptor, bytes_max + 1 - len(content))):
            content += part
    except OSError as exc:
        raise VaultError(f"cannot read {path}: {exc.strerror}") from exc
    finally:
        os.close(descriptor)
    if len(content) > bytes_max:
        raise VaultError(f"{path} is longer than {bytes_max} bytes")
    return content


def create_private(path: Path, content: bytes) -> None:
    """Create a file 0600 that was not there; it is on disk when this returns.

    A power cut in between can leave a shorter file; the reader checks its size.

    Raises:
        VaultError: it exists already (nothing is overwritten), or the disk refuses (nothing is left).
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError as exc:
        raise VaultError(f"{path} exists already") from exc
    except OSError as exc:
        raise VaultError(f"cannot create {path}: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)  # a umask may have taken bits away: set exactly this mode
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        sync_directory(path.parent)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise VaultError(f"cannot write {path}: {exc.strerror}") from exc


def erase_file(path: Path) -> None:
    """Remove a small file, its content overwritten first where the file system writes in place. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(descriptor, bytes(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make names created, renamed or removed in ``directory`` durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """An exclusive lock on a file of its own; the kernel drops it with the process, however that ends.

    The file stays: removing it would let two processes hold locks on two files of one name. Source: flock(2).

    Raises:
        VaultError: another process has it.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, FILE_MODE)
        except OSError as exc:
            raise VaultError(f"cannot use {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._descriptor)
            raise VaultError(
                f"another process uses the vault ({path})", hint=f"see which one: fuser -v {path}"
            ) from exc

    def release(self) -> None:
        """Drop the lock. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def lock_path(vault: Path) -> Path:
    """Return the path of a vault's lock: ``vault.lock`` beside ``vault.db``."""
    return vault.with_suffix(".lock")


def side_files(vault: Path) -> tuple[Path, ...]:
    """Return the paths of files that SQLite may leave beside a database and would act upon."""
    return tuple(vault.with_name(vault.name + suffix) for suffix in ("-journal", "-wal", "-shm"))


def set_aside(vault: Path, now_text: str) -> Path:
    """Move a damaged vault out of the way and return its new name; the next open may create an empty one.

    ``now_text`` becomes part of the name (``vault.db.corrupt-2026-01-31T12:00:00Z``). The database goes first:
    a rollback journal without it is harmless, a database without its journal would look whole.
    Nothing is deleted; the vault key still opens its secrets, and nothing else does. Durable when this returns.

    Raises:
        VaultError: there is nothing to move, the target exists, or a process uses the vault.
    """
    if not _STAMP.fullmatch(now_text):
        raise ValueError("now_text is not fit for a file name")
    lock = Lock(lock_path(vault))
    try:
        aside = vault.with_name(f"{vault.name}.corrupt-{now_text}")
        pairs = [
            (old, new)
            for old, new in zip((vault, *side_files(vault)), (aside, *side_files(aside)), strict=True)
            if old.is_symlink() or old.exists()
        ]
        if not pairs:
            raise VaultError(f"there is no {vault} to set aside")
        if any(new.exists() for _, new in pairs):
            raise VaultError(f"{aside} exists already")
        for old, new in pairs:
            old.rename(new)
        sync_directory(vault.parent)
    except OSError as exc:
        raise VaultError(f"cannot set {vault} aside: {exc.strerror}") from exc
    finally:
        lock.release()
    return aside
