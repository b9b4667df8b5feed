"""Where the vault key comes from: only from safe places, told apart when wrong, never weaker than the floor."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import nacl.pwhash.argon2id
import pytest

from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import Password, PrivateKey
from token_relay.vault import files
from token_relay.vault.errors import WrongVaultKeyError
from token_relay.vault.keys import MIB, KeyFile, KeySource, PassphraseKey, SystemdCredential

PASSPHRASE = Password("correct horse battery")
FLOOR = {"passes": 3, "memory_bytes": 64 * MIB}


def test_every_source_says_in_one_sentence_what_a_stolen_disk_gives_away(tmp_path: Path) -> None:
    sources: list[KeySource] = [
        KeyFile(tmp_path / "vault.key"),
        PassphraseKey(tmp_path / "vault.json", PASSPHRASE),
        SystemdCredential(tmp_path, "vault"),
    ]
    for source in sources:
        assert source.describe().startswith("a stolen disk gives away ")
        assert "\n" not in source.describe()


# -- key file ----------------------------------------------------------------------------------------------


def test_a_new_key_file_is_0600_has_32_bytes_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "vault.key"
    old = os.umask(0)
    try:
        KeyFile(path).create()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert KeyFile(path).load() == PrivateKey(path.read_bytes())


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "vault.key"
    KeyFile(path).create()
    before = path.read_bytes()
    with pytest.raises(VaultError, match="exists already"):
        KeyFile(path).create()
    assert path.read_bytes() == before


def test_a_key_file_is_on_disk_with_its_name_before_create_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        synced.append("directory" if stat.S_ISDIR(found.st_mode) else found.st_size)

    monkeypatch.setattr("os.fsync", fsync)
    KeyFile(tmp_path / "vault.key").create()
    assert synced == [32, "directory"]


def test_a_key_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(VaultError, match="No space left"):
        KeyFile(tmp_path / "vault.key").create()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o602, 0o700])
def test_a_key_file_open_to_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "vault.key"
    KeyFile(path).create()
    path.chmod(mode)
    with pytest.raises(VaultError, match="open to others") as caught:
        KeyFile(path).load()
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("size", [0, 31, 33, 100_000])
def test_a_key_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "vault.key"
    path.write_bytes(b"k" * size)
    path.chmod(0o600)
    with pytest.raises(VaultError, match="bytes"):
        KeyFile(path).load()


def test_a_link_a_directory_a_fifo_and_nothing_are_refused(tmp_path: Path) -> None:
    KeyFile(tmp_path / "real").create()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "directory", "fifo", "absent"):
        with pytest.raises(VaultError):
            KeyFile(tmp_path / name).load()


def test_somebody_elses_key_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    KeyFile(tmp_path / "vault.key").create()
    me = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: me + 1)
    with pytest.raises(VaultError, match="belongs to another user") as caught:
        files.read_file(tmp_path / "vault.key", bytes_max=32)
    assert caught.value.hint == f"chown {me + 1} {tmp_path}/vault.key"


def test_a_key_file_in_a_directory_others_may_write_to_is_refused(tmp_path: Path) -> None:
    KeyFile(tmp_path / "vault.key").create()
    tmp_path.chmod(0o777)
    with pytest.raises(VaultError, match="others may write"):
        KeyFile(tmp_path / "vault.key").load()


# -- passphrase --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], PrivateKey]:
    """The parameters of one passphrase and its key; each Argon2id run takes a noticeable time."""
    path = tmp_path_factory.mktemp("keys") / "vault.json"
    source = PassphraseKey(path, PASSPHRASE)
    source.create(**FLOOR)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return json.loads(path.read_bytes()), source.load()


def write(path: Path, parameters: object) -> Path:
    path.write_text(parameters if isinstance(parameters, str) else json.dumps(parameters))
    path.chmod(0o600)
    return path


def test_the_key_is_the_same_each_time_and_not_what_the_file_shows(
    tmp_path: Path, made: tuple[dict[str, object], PrivateKey]
) -> None:
    parameters, key = made
    assert PassphraseKey(write(tmp_path / "v", parameters), PASSPHRASE).load() == key
    assert parameters["verifier"] != key.reveal().hex()
    root = nacl.pwhash.argon2id.kdf(
        32, PASSPHRASE.reveal().encode(), bytes.fromhex(str(parameters["salt"])), opslimit=3, memlimit=64 * MIB
    )
    assert root.hex() not in (parameters["verifier"], key.reveal().hex())
    assert PASSPHRASE.reveal() not in json.dumps(parameters)


def test_a_wrong_passphrase_is_called_that(tmp_path: Path, made: tuple[dict[str, object], PrivateKey]) -> None:
    with pytest.raises(WrongVaultKeyError, match="wrong passphrase"):
        PassphraseKey(write(tmp_path / "v", made[0]), Password("another passphrase")).load()


def test_the_same_letters_of_another_keyboard_open_too(tmp_path: Path) -> None:
    path = tmp_path / "v"
    PassphraseKey(path, Password("caf\u00e9 au lait, twice")).create(**FLOOR)
    assert PassphraseKey(path, Password("cafe\u0301 au lait, twice")).load()


@pytest.mark.parametrize(
    "change",
    [
        {"passes": 2},
        {"passes": 17},
        {"memory_bytes": 64 * MIB - 1},
        {"memory_bytes": 1024 * MIB + 1},
        {"memory_bytes": "67108864"},
        {"kdf": "argon2i"},
        {"version": 2},
        {"salt": "00"},
        {"salt": "zz" * 16},
        {"verifier": ""},
        {"extra": 1},
    ],
    ids=str,
)
def test_parameters_below_the_floor_or_unknown_are_refused(
    tmp_path: Path, made: tuple[dict[str, object], PrivateKey], change: dict[str, object]
) -> None:
    path = write(tmp_path / "v", made[0] | change)
    with pytest.raises(VaultError, match=f"weaker than allowed \\({next(iter(change))}\\)"):
        PassphraseKey(path, PASSPHRASE).load()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version": 1}', " " * 2000, "\ud800".encode("utf-8", "replace")]
)
def test_a_damaged_parameter_file_is_an_error_not_a_traceback(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "v"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    with pytest.raises(VaultError):
        PassphraseKey(path, PASSPHRASE).load()


def test_a_weak_choice_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with pytest.raises(VaultError, match="shorter than 12"):
        PassphraseKey(path, Password("elevenchars")).create(**FLOOR)
    for weak in ({"passes": 2}, {"memory_bytes": 32 * MIB}, {"memory_bytes": 2048 * MIB}):
        with pytest.raises(VaultError, match="Argon2id takes"):
            PassphraseKey(path, PASSPHRASE).create(**(FLOOR | weak))
    assert not path.exists()


# -- systemd credential ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [bytes(range(32)), bytes(range(32)).hex().encode(), b"000102" + b"0" * 58 + b"\n"])
def test_a_credential_is_32_bytes_raw_or_in_hex(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vault-key").write_bytes(content)
    (tmp_path / "vault-key").chmod(0o440)  # as systemd makes them
    key = SystemdCredential.from_environment("vault-key", {"CREDENTIALS_DIRECTORY": str(tmp_path)}).load()
    assert key.reveal()[:3] == b"\0\1\2"


@pytest.mark.parametrize("content", [b"", b"k" * 31, b"k" * 33, b"z" * 64, b"0" * 66, b"0" * 1000])
def test_another_credential_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vault-key").write_bytes(content)
    with pytest.raises(VaultError):
        SystemdCredential(tmp_path, "vault-key").load()


def test_no_credentials_a_missing_one_and_odd_names_are_errors(tmp_path: Path) -> None:
    for environment in ({}, {"CREDENTIALS_DIRECTORY": ""}, {"CREDENTIALS_DIRECTORY": "relative"}):
        with pytest.raises(VaultError, match="no systemd credentials") as caught:
            SystemdCredential.from_environment("vault-key", environment)
        assert "LoadCredentialEncrypted=vault-key" in caught.value.hint
    with pytest.raises(VaultError, match="credential absent is missing"):
        SystemdCredential(tmp_path, "absent").load()
    for name in ("", "../x", "a/b", ".hidden", "a\nb"):
        with pytest.raises(VaultError, match="name"):
            SystemdCredential(tmp_path, name)
