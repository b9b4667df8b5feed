"""A vault moves to another key whole, and at every instant the configuration on disk opens it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.vault.rekey_kit import CONFIG, event, make_home, move, opened, passphrase, records
from token_relay.agents.ports import Record
from token_relay.agents.records import RECORDS, Grant, Identity
from token_relay.host.config import VaultConfig
from token_relay.host.home import key_source, open_vault
from token_relay.protocol.errors import ConfigError, VaultError
from token_relay.protocol.secret import Password
from token_relay.service import rekey as rekeying
from token_relay.service.rekey import ToCredential, ToFile, ToPassphrase, with_setting
from token_relay.vault import rekey as copies
from token_relay.vault.errors import WrongVaultKeyError
from token_relay.vault.files import erase_file
from token_relay.vault.keys import MIB, KeyFile
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault


def test_vault_moves_from_key_to_key_and_keeps_every_record(tmp_path: Path) -> None:
    home, key = tmp_path / "home", bytes(range(32))
    before = make_home(home)
    old_image = shutil.copytree(home, tmp_path / "image")
    assert any(isinstance(row, Grant) for row in before)

    done = move(home, passphrase(tmp_path))
    assert not done.is_pending and done.describes.startswith("a stolen disk gives away states")
    assert records(home) == before
    assert not (home / "vault.key").exists()
    with pytest.raises(WrongVaultKeyError):
        SqliteVault.open(home / "vault.db", KeyFile(old_image / "vault.key").load(), RECORDS, STEPS)

    move(home, passphrase(tmp_path, "another four words, longer"))
    assert records(home) == before

    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "vault-2").write_bytes(key)
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    move(home, ToCredential("vault-2"), environment)
    assert records(home, environment) == before
    assert not (home / "vault.kdf").exists()

    move(home, ToFile(), environment)
    assert records(home) == before
    move(home, ToFile())
    assert records(home) == before
    left = {path.name for path in home.iterdir()}
    assert left == {"config.toml", "vault.db", "vault.lock", "vault-2.key"}
    assert (home / "config.toml").read_text().startswith("# a comment of mine\n")


def test_credential_may_be_given_by_hand(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = make_home(home)
    move(home, ToCredential("vault", bytes(32).hex().encode()))
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "vault").write_bytes(bytes(32))
    assert records(home, {"CREDENTIALS_DIRECTORY": str(credentials)}) == before


def test_copy_waits_for_a_configuration_that_is_not_ours_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    before = make_home(home)
    monkeypatch.setattr(rekeying, "_is_ours", lambda _: False)
    done = move(home, passphrase(tmp_path))
    assert done.is_pending and done.old_key is None
    text = (home / "config.toml").read_text()
    assert text == CONFIG
    (home / "config.toml").write_text(f"{text}{done.line}\n")
    assert records(home) == before, "the first start with the new key ends the change"
    assert not copies.has_copy(home)
    assert not (home / "vault.key").exists()
    assert records(home) == before


def test_start_with_the_old_key_removes_the_copy_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    make_home(home)
    monkeypatch.setattr(rekeying, "_is_ours", lambda _: False)
    done = move(home, passphrase(tmp_path))
    with opened(home) as vault:  # an agent that goes on with the old key: the copy would be an old image
        vault.do(lambda tx: tx.put(event(2, "refreshed")))
    assert not copies.has_copy(home)
    (home / "config.toml").write_text(f"{CONFIG}{done.line}\n")
    with pytest.raises(VaultError):
        records(home)
    (home / "config.toml").write_text(CONFIG)
    assert event(2, "refreshed") in records(home)


def test_half_a_copy_never_takes_over(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = make_home(home)
    new_key = KeyFile(home / "vault-2.key")
    new_key.create()
    SqliteVault.open(home / copies.COPYING, new_key.load(), RECORDS, STEPS).close_now()
    (home / "config.toml").write_text(CONFIG + 'key_file = "vault-2.key"\n')
    with pytest.raises(WrongVaultKeyError):
        records(home)
    (home / "config.toml").write_text(CONFIG)
    assert records(home) == before


def test_running_agent_keeps_its_vault(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home)
    with opened(home), pytest.raises(VaultError, match="another process uses the vault"):
        move(home, ToFile())
    assert (home / "vault.key").exists()


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (ToCredential("vault"), "no systemd credentials here"),
        (ToCredential("vault", b"short"), "not a key"),
        (ToCredential("../x", bytes(32)), "a credential's name"),
        (ToPassphrase(Path("p"), Password("short"), 64 * MIB), "shorter than 12"),
        (ToPassphrase(Path("p"), Password("long enough for it"), 8 * MIB), "64 to 1024 MiB"),
        (ToFile(Path("/nonexistent/key")), "cannot use directory"),
    ],
)
def test_refused_target_leaves_everything_as_it_was(tmp_path: Path, target: rekeying.Target, error: str) -> None:
    home = tmp_path / "home"
    before = make_home(home)
    with pytest.raises(VaultError, match=error):
        move(home, target)
    assert records(home) == before
    assert (home / "config.toml").read_text() == CONFIG


def test_damaged_vault_is_not_copied(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home)
    path = home / "vault.db"
    octets = bytearray(path.read_bytes())
    at = octets.find(b"grant_stored")
    octets[:100] = bytes(100)
    assert at > 0
    path.write_bytes(octets)
    with pytest.raises(VaultError):
        move(home, ToFile())
    assert (home / "vault.key").exists() and not (home / copies.COPY).exists()


@pytest.mark.parametrize(
    ("text", "setting", "value", "expected"),
    [
        ("a = 1", "credential", "v", 'a = 1\n\n[vault]\ncredential = "v"\n'),
        ("a = 1", "key_file", None, "a = 1"),
        ("[vault]\n", "credential", "v", '[vault]\ncredential = "v"\n'),
        ("[vault] # x\n# credential =\n[x]\na = 1", "credential", "v", '[vault] # x\ncredential = "v"\n[x]\na = 1'),
        ('[vault]\nkey_file = "k"', "credential", "v", '[vault]\ncredential = "v"\n# key_file = "k"'),
        ('[vault]\nkey_file = "k"', "key_file", None, '[vault]\n# key_file = "k"'),
        ('[vault]\nkey_file = "k"\nx = 1', "key_file", "n", '[vault]\nkey_file = "n"\nx = 1'),
        ('[a]\nkey_file = "k"\n[vault]', "key_file", "n", '[a]\nkey_file = "k"\n[vault]\nkey_file = "n"'),
    ],
)  # fmt: skip
def test_only_the_key_of_the_configuration_changes(
    text: str, setting: rekeying.Setting, value: str | None, expected: str
) -> None:
    assert with_setting(text, setting, value) == expected


def test_unusual_configuration_is_refused_before_it_is_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = make_home(home)
    unusual = CONFIG.replace("[vault]\n# key_file =\n", 'vault = { key_file = "vault.key" }\n')
    unusual = unusual.replace("[broker]\n", "").replace('url = "mqtt://127.0.0.1:1884"\n', "")
    unusual = 'broker = { url = "mqtt://127.0.0.1:1884" }\n' + unusual
    (home / "config.toml").write_text(unusual)
    with pytest.raises(ConfigError, match="cannot edit"):
        move(home, passphrase(tmp_path))
    assert (home / "config.toml").read_text() == unusual
    assert records(home) == before


def test_next_start_erases_key_files_that_open_nothing_and_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = make_home(home)
    stale = [home / f"vault-{number}.key" for number in range(2, 100)]
    for number, path in enumerate(stale):
        path.write_bytes(bytes([number]) * (32 - number % 3))  # some cut off by a power cut
        path.chmod(0o600)
    (home / "vault-7.key").unlink()
    (home / "vault-7.key").symlink_to(tmp_path / "somewhere")
    (home / "vault-9.key").write_bytes((home / "vault.key").read_bytes())  # a copy of the key in force
    kept = {"vault-7.key", "vault-9.key", "vault-100.key", "vault.key.old"}
    for name in ("vault-100.key", "vault.key.old"):
        (home / name).write_bytes(bytes(32))
    with capture_logs() as logs:
        vault = asyncio.run(reopened(home))
    assert vault == before
    told = {entry["file"] for entry in logs if entry["event"] == "old_key_erased"}
    assert told == {str(path) for path in stale if path.name not in kept}
    assert {path.name for path in home.iterdir() if "key" in path.name} == {*kept, "vault.key"}


async def reopened(home: Path) -> list[Record]:
    """Return the records as the agent's start sees them."""
    source = key_source(home, VaultConfig(), {})
    vault = await open_vault(home, source, "companion", "2026-01-01T00:00:00Z")
    try:
        return await vault.run(lambda tx: [row for record in RECORDS for row in tx.select(record)])
    finally:
        await vault.close()


def test_change_after_an_interrupted_one_says_what_it_erased(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home)
    (home / "vault-2.key").write_bytes(bytes(32))
    (home / "vault-2.key").chmod(0o600)
    assert move(home, ToFile()).erased == (home / "vault-2.key",)


def test_names_that_are_all_taken_are_a_clear_error(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = make_home(home)
    for number in range(2, 100):
        (home / f"vault-{number}.key").mkdir()
    with pytest.raises(VaultError, match="99 files with names of key files"):
        move(home, ToFile())
    assert records(home) == before


def test_file_that_was_there_before_is_never_erased(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "others.key"
    before = make_home(home)
    other.write_bytes(bytes(32))
    other.chmod(0o600)
    with pytest.raises(VaultError, match="exists already"):
        move(home, ToFile(other))
    assert records(home) == before
    assert other.read_bytes() == bytes(32)


def test_old_key_is_overwritten_before_it_is_removed(tmp_path: Path) -> None:
    (tmp_path / "vault.key").write_bytes(b"k" * 32)
    (tmp_path / "second name").hardlink_to(tmp_path / "vault.key")
    erase_file(tmp_path / "vault.key")
    assert (tmp_path / "second name").read_bytes() == bytes(32)
    assert not (tmp_path / "vault.key").exists()


def test_old_key_file_outside_the_home_is_left_to_its_owner(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = make_home(home)
    assert move(home, ToFile(tmp_path / "elsewhere.key")).old_key is None
    done = move(home, ToFile())
    assert done.old_key == tmp_path / "elsewhere.key"
    assert done.old_key.exists()
    assert records(home) == before


def test_identity_stays_the_same(tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = make_home(home)
    move(home, ToFile(tmp_path / "elsewhere.key"))
    assert [row for row in records(home) if isinstance(row, Identity)] == [
        row for row in before if isinstance(row, Identity)
    ]
    assert (tmp_path / "elsewhere.key").stat().st_mode & 0o777 == 0o600
