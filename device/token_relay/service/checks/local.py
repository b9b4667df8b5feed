"""Checks the vault's key and the sockets."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from token_relay.host.config import VaultConfig
from token_relay.host.home import KEY_FILE, PASSPHRASE_PARAMETERS_FILE
from token_relay.host.paths import CONTROL_SOCKET, TOKEN_SOCKET
from token_relay.protocol.errors import VaultError
from token_relay.service.checks.finding import Finding
from token_relay.vault.files import check_directory, check_private
from token_relay.vault.keys import STOLEN_CREDENTIAL, STOLEN_KDF, STOLEN_KEY_FILE

MODES = {CONTROL_SOCKET: 0o600, TOKEN_SOCKET: 0o660}  # nobody may have more
# The first 16 bytes of a sealed credential tell the kind of its key; systemd: src/shared/creds-util.h
WITH_HOST_KEY = "5a1c6a86df9d4096b1d5a65e0862f19a"
WITH_TPM = frozenset({"0c7cc07b117645919c4b0bea08bc20fe", "93a894094874449090caf2fc93cab553"})
NAMES_ONLY = "states, names and times"
CREDENTIAL_BYTES_MAX = 65_536
CREDENTIAL_STORES = tuple(Path(f"/{place}/credstore{kind}") for place in ("etc", "run") for kind in (".encrypted", ""))


def vault_key(home: Path, config: VaultConfig, stores: Sequence[Path] = CREDENTIAL_STORES) -> Finding:
    """Say what kind of key opens the vault and what a thief of the disk gets; the key itself is not read."""
    name = "vault key"
    if config.credential is not None:
        return _credential(config.credential, stores)
    try:
        if config.passphrase_file is not None:
            _check_file(home, home / PASSPHRASE_PARAMETERS_FILE)
            if not config.passphrase_file.exists():
                return Finding(
                    name, False, f"{config.passphrase_file} is missing", "bring it back; without it nothing opens"
                )
            return Finding(name, True, f"passphrase: {STOLEN_KDF}")
        _check_file(home, config.key_file or home / KEY_FILE)
    except VaultError as exc:
        return Finding(name, False, str(exc), exc.hint or "restore it from a backup, or make the home anew")
    return Finding(
        name, True, f"key file: {STOLEN_KEY_FILE}", "for real hardware: token-relay vault rekey --to credential"
    )


def _credential(name: str, stores: Sequence[Path]) -> Finding:
    """Judge a credential by how its file is sealed. Only root can read the file, and a drop-in may move it."""
    for store in stores:
        try:
            with (store / name).open("rb") as file:
                content = file.read(CREDENTIAL_BYTES_MAX)
        except OSError:
            continue
        shown, hint = f"credential {name} in {store}", "seal it with a TPM where there is one: --with-key=tpm2"
        try:
            seal = base64.b64decode(content[:24])[:16].hex()
        except ValueError:
            seal = ""
        if seal in WITH_TPM:
            return Finding("vault key", True, f"{shown}, sealed with the TPM: a stolen disk gives away {NAMES_ONLY}")
        if seal == WITH_HOST_KEY:
            why = "a stolen disk gives away everything: the host key lies on it"
            return Finding("vault key", True, f"{shown}, sealed with the host key: {why}", hint)
        if not store.name.endswith(".encrypted"):
            why = "a stolen disk gives away everything: it lies there in clear"
            return Finding("vault key", True, f"{shown}: {why}", "systemd-creds encrypt, and LoadCredentialEncrypted=")
    return Finding("vault key", True, f"credential {name} (how it is sealed was not seen): {STOLEN_CREDENTIAL}")


def _check_file(home: Path, path: Path) -> None:
    found = path.lstat() if path.exists() else None
    if found is None or os.geteuid() != 0 or found.st_uid == 0:
        if path.parent != home:  # the home has its own line
            check_directory(path.parent)
        check_private(path, found)
    elif not stat.S_ISREG(found.st_mode) or found.st_mode & 0o177:  # root looks at a service's home
        raise VaultError(f"{path} is open to others (mode {found.st_mode & 0o777:o})", hint=f"chmod 600 {path}")


def sockets(home: Path, directories: Sequence[Path]) -> Finding:
    """Judge owner and mode of the sockets in the first directory that has one; the home has its own line."""
    name = "sockets"
    for directory in directories:
        paths = [directory / socket for socket in MODES if (directory / socket).exists()]
        if paths:
            break
    else:
        return Finding(name, True, "none: the agent does not run")
    if directory != home and directory.stat().st_mode & 0o022:
        return Finding(name, False, f"others may replace the sockets in {directory}", f"chmod go-w {directory}")
    for path in paths:
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode):
            return Finding(name, False, f"{path} is not a socket", "move it away and restart the agent")
        mode = stat.S_IMODE(found.st_mode)
        if mode & ~MODES[path.name]:
            hint = f"chmod {MODES[path.name]:o} {path}"
            return Finding(name, False, f"{path} is open to others (mode {mode:o})", hint)
    shown = ", ".join(f"{path.name} {stat.S_IMODE(path.lstat().st_mode):o}" for path in paths)
    return Finding(name, True, f"{directory}: {shown}")
