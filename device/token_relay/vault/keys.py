"""Where the vault key comes from, and what a stolen disk gives away in each case.

There are three providers, each a small class with ``load() -> PrivateKey`` and ``describe() -> str``; ``status`` prints
the sentence of ``describe``. None of them remembers the key. None protects against a program that can read the memory
of the running agent, or that is root on the running device.

Source: RFC 9106 (Argon2), NaCl/libsodium crypto_pwhash, systemd.exec(5) LoadCredentialEncrypted=.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Protocol

import nacl.exceptions
import nacl.pwhash.argon2id
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import Password, PrivateKey
from token_relay.vault.errors import WrongVaultKeyError
from token_relay.vault.files import check_directory, create_private, read_file
from token_relay.vault.sealing import KEY_BYTES

SALT_BYTES = 16  # crypto_pwhash_SALTBYTES
MIB = 1_048_576

# The floor is RFC 9106's second recommended option: 64 MiB and 3 passes, with libsodium's one lane for its four. It
# holds on reading too: a program that can write the file must not be able to make guessing cheap at the next change.
MEMORY_BYTES_MIN = 64 * MIB
PASSES_MIN = 3
# The ceiling keeps a changed file from using up a small device's memory or hours of its time.
MEMORY_BYTES_MAX = 1024 * MIB
PASSES_MAX = 16
MEMORY_BYTES_DEFAULT = 256 * MIB  # about a second on a Raspberry Pi 4; choose 64 MiB on a device with 512 MiB
PASSES_DEFAULT = 3

PASSPHRASE_CHARS_MIN = 12  # a thief guesses offline, without limit: four random words, never a PIN
PARAMETERS_BYTES_MAX = 1024
CREDENTIAL_BYTES_MAX = 2 * KEY_BYTES + 1  # 64 hex digits and a line feed

# What a stolen disk gives away, by the way to the key; `status` and `doctor` print these.
STOLEN_KEY_FILE = "a stolen disk gives away everything: the vault key lies on it in clear"
STOLEN_KDF = (
    "a stolen disk gives away states, names and times, and the chance to guess the passphrase "
    "at the price of one Argon2id run per guess"
)
STOLEN_CREDENTIAL = (
    "a stolen disk gives away states, names and times if the credential was sealed with the TPM, "
    "and everything if it was sealed with the host key, which lies on the same disk"
)

MAKE_CREDENTIAL = (
    "put it back, or for a new vault: head -c 32 /dev/urandom | systemd-creds encrypt - /etc/credstore.encrypted/{name}"
)

_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_HEX_KEY = re.compile(rb"[0-9A-Fa-f]{64}\n?", re.ASCII)


class KeySource(Protocol):
    """A way to the vault key."""

    def load(self) -> PrivateKey:
        """Return the vault key. Blocks.

        Raises:
            VaultError: it is not there or not safe; the hint says what to do.
        """
        ...

    def describe(self) -> str:
        """Return one sentence: what a stolen disk gives away."""
        ...


class KeyFile:
    """32 random bytes in a file 0600 beside the vault: for development."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Make a new key; durable when this returns. Raises VaultError if the file exists."""
        check_directory(self._path.parent)
        create_private(self._path, os.urandom(KEY_BYTES))

    def load(self) -> PrivateKey:
        """Return the key. Raises VaultError for a wrong owner, mode or size, a symbolic link, a missing file."""
        check_directory(self._path.parent)
        content = read_file(self._path, bytes_max=KEY_BYTES)
        if len(content) != KEY_BYTES:  # a power loss cut it while it was made: no vault is sealed with it
            raise VaultError(
                f"{self._path} has {len(content)} bytes instead of {KEY_BYTES}", hint="restore it from a backup"
            )
        return PrivateKey(content)

    def describe(self) -> str:
        """Return what a stolen disk gives away."""
        return STOLEN_KEY_FILE


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    version: Literal[1]
    kdf: Literal["argon2id"]
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    passes: Annotated[int, Field(ge=PASSES_MIN, le=PASSES_MAX)]
    memory_bytes: Annotated[int, Field(ge=MEMORY_BYTES_MIN, le=MEMORY_BYTES_MAX)]
    verifier: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PassphraseKey:
    """A key derived from a passphrase with Argon2id; salt and parameters lie in a JSON file 0600 beside the vault.

    The file also holds a verifier, which tells a wrong passphrase from a damaged vault; it helps a thief no more than
    the vault itself does. Key and verifier come from one root: each is BLAKE2b of it with its own personalisation.
    """

    def __init__(self, path: Path, passphrase: Password) -> None:
        self._path = path
        self._passphrase = passphrase

    def with_parameters(self, path: Path) -> PassphraseKey:
        """Return the same passphrase with the salt and parameters of another file."""
        return PassphraseKey(path, self._passphrase)

    def create(self, *, passes: int = PASSES_DEFAULT, memory_bytes: int = MEMORY_BYTES_DEFAULT) -> None:
        """Choose a salt and write the file; durable when this returns. Takes as long as :meth:`load`.

        Raises:
            VaultError: the passphrase is too short, the parameters are out of bounds, or the file exists.
        """
        if len(_normalised(self._passphrase)) < PASSPHRASE_CHARS_MIN:
            raise VaultError(
                f"the passphrase is shorter than {PASSPHRASE_CHARS_MIN} characters", hint="four random words are good"
            )
        if not PASSES_MIN <= passes <= PASSES_MAX or not MEMORY_BYTES_MIN <= memory_bytes <= MEMORY_BYTES_MAX:
            raise VaultError(
                f"Argon2id takes {PASSES_MIN} to {PASSES_MAX} passes and "
                f"{MEMORY_BYTES_MIN // MIB} to {MEMORY_BYTES_MAX // MIB} MiB here"
            )
        check_directory(self._path.parent)
        salt = os.urandom(SALT_BYTES)
        root = _stretch(self._passphrase, salt=salt, passes=passes, memory_bytes=memory_bytes)
        parameters = _Parameters(
            version=1,
            kdf="argon2id",
            salt=salt.hex(),
            passes=passes,
            memory_bytes=memory_bytes,
            verifier=_derive(root, b"rtr1-vver").hex(),
        )
        create_private(self._path, parameters.model_dump_json().encode() + b"\n")

    def load(self) -> PrivateKey:
        """Return the key; takes seconds and the memory that the file names.

        Raises:
            WrongVaultKeyError: another passphrase. VaultError: the file is missing, unsafe, damaged or too weak.
        """
        check_directory(self._path.parent)
        parameters = self._read()
        salt = bytes.fromhex(parameters.salt)
        root = _stretch(self._passphrase, salt=salt, passes=parameters.passes, memory_bytes=parameters.memory_bytes)
        if not hmac.compare_digest(_derive(root, b"rtr1-vver"), bytes.fromhex(parameters.verifier)):
            raise WrongVaultKeyError("wrong passphrase", hint="give the one that the vault was made with")
        return PrivateKey(_derive(root, b"rtr1-vkey"))

    def describe(self) -> str:
        """Return what a stolen disk gives away."""
        return STOLEN_KDF

    def _read(self) -> _Parameters:
        content = read_file(self._path, bytes_max=PARAMETERS_BYTES_MAX)
        try:
            return _Parameters.model_validate_json(content)
        except ValidationError as exc:
            where = ".".join(str(part) for part in exc.errors(include_input=False)[0]["loc"]) or "JSON"
            raise VaultError(
                f"{self._path} is damaged or weaker than allowed ({where})", hint="restore it from a backup"
            ) from None


class SystemdCredential:
    """A credential that the service manager decrypts into memory for this service alone: 32 bytes, raw or in hex."""

    def __init__(self, directory: Path, name: str) -> None:
        if not _CREDENTIAL_NAME.fullmatch(name):
            raise VaultError("a credential's name is made of letters, digits, dot, dash and underscore")
        self._path = directory / name

    @classmethod
    def from_environment(cls, name: str, environment: Mapping[str, str]) -> SystemdCredential:
        """Find the directory in ``$CREDENTIALS_DIRECTORY``. Raises VaultError when the service has none."""
        directory = environment.get("CREDENTIALS_DIRECTORY", "")
        if not directory.startswith("/"):
            raise VaultError(
                f"credential {name} is missing: no systemd credentials here",
                hint=f"run as a service with LoadCredentialEncrypted={name}; {MAKE_CREDENTIAL.format(name=name)}",
            )
        return cls(Path(directory), name)

    def load(self) -> PrivateKey:
        """Return the key. The service manager sets owner and mode, so nothing checks them here."""
        if not self._path.exists():
            name = self._path.name
            raise VaultError(f"credential {name} is missing", hint=MAKE_CREDENTIAL.format(name=name))
        content = read_file(self._path, bytes_max=CREDENTIAL_BYTES_MAX, is_private=False)
        return key_from(content, f"credential {self._path.name}")

    def describe(self) -> str:
        """Return what a stolen disk gives away."""
        return STOLEN_CREDENTIAL


def key_from(content: bytes, what: str) -> PrivateKey:
    """Read a key of 32 bytes, raw or in hex. Raises VaultError for anything else."""
    if len(content) == KEY_BYTES:
        return PrivateKey(content)
    if _HEX_KEY.fullmatch(content):
        return PrivateKey(bytes.fromhex(content.decode("ascii")))
    raise VaultError(f"{what} is not a key", hint=f"it needs {KEY_BYTES} random bytes, raw or in hex")


def _normalised(passphrase: Password) -> str:
    """Return the passphrase as every keyboard spells it (NFC, as RFC 8265 §4.2.2 asks of passwords)."""
    return unicodedata.normalize("NFC", passphrase.reveal())


def _stretch(passphrase: Password, *, salt: bytes, passes: int, memory_bytes: int) -> bytes:
    try:
        return nacl.pwhash.argon2id.kdf(
            KEY_BYTES, _normalised(passphrase).encode(), salt, opslimit=passes, memlimit=memory_bytes
        )
    except (nacl.exceptions.RuntimeError, MemoryError) as exc:  # libsodium could not get the memory
        raise VaultError(
            f"not enough memory for Argon2id ({memory_bytes // MIB} MiB)", hint="free some, or make a lighter vault"
        ) from exc


def _derive(root: bytes, person: bytes) -> bytes:
    return hashlib.blake2b(b"", digest_size=KEY_BYTES, key=root, person=person).digest()
