"""A device's own key for the broker and the request to have it certified: two files in the agent's home.

``device.key`` (P-256, mode 0600) is made here and never leaves the device; ``device.csr`` holds the device id
and the public half and goes to whoever runs the CA. The same request serves again for every renewal.

This key only opens the broker's door. It has nothing to do with the X25519 key in the vault, which seals envelopes
and from which the device id is derived; losing ``device.key`` costs a new request, not a pairing.

Invariant: a private key is never overwritten unless asked for by ``force``, and never stands in its place half
written or readable by others, whatever the umask and wherever the power fails.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from token_relay.pki import certificates as pki
from token_relay.protocol.errors import LocalError

KEY_NAME = "device.key"
CSR_NAME = "device.csr"


@dataclass(frozen=True, slots=True)
class CsrFiles:
    """Where the private key and the signing request lie."""

    key: Path
    csr: Path


@dataclass(frozen=True, slots=True)
class Owner:
    """The account a file is given to, by number; only root can give files away."""

    uid: int
    gid: int


def write_csr(home: Path, device_id: str, *, force: bool = False) -> CsrFiles:
    """Make ``device.key`` and ``device.csr`` in ``home`` (which exists) and return once both are on disk.

    Where a power cut left a key without its request, the request is made again from that key. With ``force`` both
    are replaced: the old certificate is useless from then on, and the CA wants it revoked before it signs the new key.

    Raises:
        LocalError: the files are there already, or the directory cannot be written. Nothing was overwritten.
        PolicyError: ``device_id`` is not a device id. Nothing was written.
    """
    pki.check_device_name(device_id)
    files = CsrFiles(home / KEY_NAME, home / CSR_NAME)
    if force:
        unlink(files.csr)  # first: a request must never outlive its key
    elif files.csr.exists():
        raise LocalError(f"{files.csr} exists", hint="it serves for renewals too; a new key needs --force")
    if files.key.exists() and not force:
        key = pki.parse_private_key(read_bytes(files.key, size_max=pki.PEM_BYTES_MAX))
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        write_atomic(files.key, pki.private_key_pem(key), mode=0o600, replace=force)
    write_atomic(files.csr, pki.make_csr(key, device_id), mode=0o644)
    return files


# -- Files -------------------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes, *, mode: int, owner: Owner | None = None, replace: bool = True) -> None:
    """Put ``data`` at ``path``: all of it or nothing, with exactly this mode, durable when this returns.

    The bytes go to a new file beside it that is created with O_EXCL and its final mode, are synced, and then take
    the name; the directory is synced last. With ``replace=False`` the name is taken by a hard link, which fails when
    it exists: no gap between looking and writing. (File systems without hard links, as FAT, have no modes either
    and are no place for a key.)

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


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable: a rename is not, before this. Linux fsync(2), notes."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
