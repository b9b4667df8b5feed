"""A device's own key for the broker and the request to have it certified: two files in the agent's home.

``device.key`` (P-256, mode 0600) is made here and never leaves the device; ``device.csr`` holds the device id
and the public half and goes to whoever runs the CA. The same request serves again for every renewal.

This key only authenticates the device to the broker. It has nothing to do with the X25519 key in the vault, which
seals envelopes and from which the device id is derived; a lost ``device.key`` costs a new request, not a pairing.

Invariant: a private key is overwritten only with ``force``, and its file is never half written or readable by others,
whatever the umask and wherever the power fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from token_relay.host.atomic_files import read_bytes, unlink, write_atomic
from token_relay.pki import certificates as pki
from token_relay.protocol.errors import LocalError

KEY_NAME = "device.key"
CSR_NAME = "device.csr"


@dataclass(frozen=True, slots=True)
class CsrFiles:
    """Where the private key and the signing request lie."""

    key: Path
    csr: Path


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
