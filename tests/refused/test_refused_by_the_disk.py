"""Refusals whose cause is a disk, a memory or a file that is not as it must be: each met with the real cause."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.vault.rekey_kit import make_home, opened
from token_relay.agents.records import RECORDS, Identity
from token_relay.ca import store as ca
from token_relay.cli.commands.open_web import put_cookie
from token_relay.host import install as installing
from token_relay.host import systemd
from token_relay.host.atomic_files import make_directory, unlink
from token_relay.host.config import CompanionConfig, Home, VaultConfig
from token_relay.host.config_file import check_config, read_own_text
from token_relay.host.home import create_home
from token_relay.protocol.errors import ConfigError, LocalError, RelayError, VaultError
from token_relay.protocol.secret import Password, PrivateKey
from token_relay.service.checks import local
from token_relay.service.runtime import open_runtime
from token_relay.vault import rekey as copies
from token_relay.vault.database import open_database, sqlite_errors_mapped
from token_relay.vault.files import Lock, create_private, read_file, set_aside
from token_relay.vault.keys import MIB, PassphraseKey
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

MEMORY = Path("/proc/self/mem")  # a regular file; nothing is mapped at its beginning
KEY = PrivateKey(bytes(32))

Refuses = Callable[[Path], object]


def refused(error: type[RelayError], message: str, refuses: Refuses, place: Path) -> None:
    """Assert the error, and that its message names what was asked for."""
    with pytest.raises(error) as caught:
        refuses(place)
    assert message in str(caught.value)


# Below a file nothing can be read, made or removed: ENOTDIR, for root too.
BELOW_A_FILE: dict[str, tuple[type[RelayError], Refuses]] = {
    "cannot use": (VaultError, Lock),
    "cannot create": (VaultError, lambda path: create_private(path, b"")),
    "cannot read": (VaultError, lambda path: read_file(path, bytes_max=1)),
    "cannot remove": (LocalError, unlink),
    "cannot make the directory": (LocalError, lambda path: make_directory(path, mode=0o700)),
    "configuration cannot be read: Not a directory": (
        ConfigError,
        lambda path: read_own_text(path, 1, what="configuration", forbidden=0),
    ),
    "cannot write": (LocalError, lambda path: put_cookie(path, domain="d", token="t", expires_at=1)),
    "is no directory": (LocalError, lambda path: ca._checked_out(path)),
}


@pytest.mark.parametrize(("message", "told"), BELOW_A_FILE.items(), ids=list(BELOW_A_FILE))
def test_what_lies_below_a_file_is_refused_with_its_path(
    tmp_path: Path, message: str, told: tuple[type[RelayError], Refuses]
) -> None:
    (tmp_path / "file").touch()
    refused(told[0], message.strip(), told[1], tmp_path / "file" / "x")


def test_a_file_that_opens_and_cannot_be_read_is_an_error_of_the_vault() -> None:
    refused(VaultError, "cannot read", lambda path: read_file(path, bytes_max=1, is_private=False), MEMORY)


def test_a_directory_where_the_new_vault_would_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "vault.db.new").mkdir()
    refused(
        VaultError, "cannot create", lambda path: open_database(path, KEY, [], [], create=True), tmp_path / "vault.db"
    )


def test_a_vault_whose_name_has_no_room_for_the_moment_is_not_set_aside(tmp_path: Path) -> None:
    vault = tmp_path / ("v" * 240 + ".db")
    vault.touch()
    refused(VaultError, "aside: File name too long", lambda path: set_aside(path, "2030-01-02T03:04:05Z"), vault)


def test_a_vault_that_another_program_has_locked_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    with closing(sqlite3.connect(path)) as other, closing(sqlite3.connect(path, timeout=0)) as ours:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(VaultError, match="another program holds"), sqlite_errors_mapped(path):
            ours.execute("BEGIN EXCLUSIVE")


def test_an_sqlite_without_strict_tables_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    refused(
        VaultError, "3.37 is needed", lambda path: open_database(path, KEY, [], [], create=True), tmp_path / "vault.db"
    )


def test_a_passphrase_for_which_there_is_no_memory_says_how_much_it_wants(tmp_path: Path) -> None:
    source = PassphraseKey(tmp_path / "vault.kdf", Password("four random words here"))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * MIB, hard))
    try:
        with pytest.raises(VaultError, match=r"not enough memory for Argon2id \(512 MiB\)"):
            source.create(memory_bytes=512 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# -- A change of the vault's key ---------------------------------------------------------------------------


def test_a_copy_of_the_vault_without_all_records_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    make_home(home)
    write = copies._write_all
    with opened(home) as held:
        monkeypatch.setattr(copies, "_write_all", lambda tx, records: write(tx, records[:1]))
        with pytest.raises(VaultError, match="the copy of the vault differs"):
            asyncio.run(copies.copy_under(held.vault, home, KEY))


def test_a_vault_without_an_identity_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()

    async def copy() -> None:
        async with SqliteVault.open(tmp_path / "home" / "vault.db", KEY, RECORDS, STEPS) as vault:
            await copies.copy_under(vault, tmp_path / "home", KEY)

    with pytest.raises(VaultError, match="holds no identity"):
        asyncio.run(copy())


def test_a_directory_in_the_place_of_the_copy_stops_the_change_of_the_key(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home)
    with opened(home) as held:
        (home / copies.COPY / "x").mkdir(parents=True)
        with pytest.raises(VaultError, match="cannot make"):
            asyncio.run(copies.copy_under(held.vault, home, KEY))
    refused(VaultError, "cannot remove", copies.discard, home)


def test_a_copy_does_not_replace_what_was_written_to_since_or_is_no_file(tmp_path: Path) -> None:
    vault = tmp_path / "vault.db"
    (tmp_path / copies.COPY).touch()
    (vault / "x").mkdir(parents=True)
    refused(VaultError, "cannot put the copy in the place", lambda home: copies.take_over(home, vault), tmp_path)
    (tmp_path / "vault.db-journal").touch()
    refused(VaultError, "was written to after its copy", lambda home: copies.take_over(home, vault), tmp_path)


def test_an_old_key_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / copies.PARAMETERS).mkdir()
    refused(VaultError, "cannot remove", lambda home: copies.forget_keys(home, KEY, keep_parameters=False), tmp_path)


# -- Homes, the CA and services ----------------------------------------------------------------------------


def test_a_home_is_not_made_of_a_configuration_that_is_wrong(tmp_path: Path) -> None:
    refused(ConfigError, "config.toml:1: nmae", lambda home: create_home("companion", home, "nmae = 1\n"), tmp_path)


def test_root_is_told_of_a_services_key_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    make_home(home)
    (home / "vault.key").chmod(0o644)
    if os.geteuid() == 0:
        os.chown(home / "vault.key", 1, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = local.vault_key(home, VaultConfig(), ())
    assert "is open to others (mode 644)" in found.detail


def test_the_lock_of_a_ca_is_never_followed_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "index.json").touch()
    (tmp_path / ca.LOCK).symlink_to(tmp_path / "index.json")
    refused(LocalError, "cannot open", lambda place: ca.renew(place), tmp_path)


def test_a_ca_takes_no_more_certificates_than_it_can_remember(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca.init(tmp_path / "ca", hosts=("broker.example",))
    monkeypatch.setattr(ca, "ENTRIES_MAX", 1)
    refused(LocalError, "remembers 1 certificates", lambda place: ca.issue(place, "broker.example"), tmp_path / "ca")


def test_a_ca_that_cannot_be_set_aside_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca.init(tmp_path / "ca", hosts=())
    (tmp_path / "ca" / "replaced-00000000" / ca.INDEX / "x").mkdir(parents=True)
    monkeypatch.setattr("secrets.token_hex", lambda number: "0" * 2 * number)
    refused(LocalError, "cannot move", lambda place: ca.init(place, hosts=(), force=True), tmp_path / "ca")


def test_units_that_are_missing_are_looked_for_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "SERVICES", ("no-such.service",))
    with pytest.raises(ConfigError, match="the units are missing in"):
        installing.sources()


@pytest.mark.parametrize(
    ("program", "message"), [("/opt/a'b", "a unit cannot name"), ("/home/ann/.venv", "homes are hidden from them")]
)
def test_a_program_that_services_cannot_run_is_refused(program: str, message: str) -> None:
    refused(ConfigError, message, installing.check_program, Path(program))


def test_directories_in_the_places_of_files_stop_an_installation_and_its_end(tmp_path: Path) -> None:
    places = installing.Places(root=tmp_path)
    units = installing.sources()
    link = places.under_prefix("bin", installing.COMMAND)
    (link / "x").mkdir(parents=True)
    refused(LocalError, f"cannot make {link}", lambda _: installing.install(places, units), tmp_path)
    unit = places.under_prefix("lib", "systemd", "system", installing.SERVICES[0])
    unit.unlink()
    unit.mkdir()
    refused(LocalError, f"cannot remove {unit}", lambda _: installing.uninstall(places, units), tmp_path)


def test_a_passed_socket_that_is_not_open_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.dup(0)
    os.close(free)
    monkeypatch.setattr(systemd, "LISTEN_FDS_START", free)
    environment = {"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "control.sock"}
    with pytest.raises(ConfigError, match=r"'control.sock' \(descriptor \d+\) is not open"):
        systemd.listen_fds(environment, pid=7)


def test_units_of_a_user_that_cannot_be_removed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = installing.sources()
    for file in installing.user_files(tmp_path, Path("/opt/token-relay"), units):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.touch()

    def unlink_nothing(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", unlink_nothing)
    program = Path("/opt/token-relay")
    refused(LocalError, "Permission denied", lambda place: installing.uninstall_user(place, program, units), tmp_path)


def test_an_agent_does_not_run_on_a_vault_without_an_identity(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home)
    with opened(home) as held:
        held.do(lambda tx: tx.delete(Identity, "self"))
    config = check_config(CompanionConfig, (home / "config.toml").read_text(), home)
    assert isinstance(config, CompanionConfig)

    async def run() -> None:
        async with open_runtime("companion", Home(home, home, {}), config, provider_ca=None):
            pass

    with pytest.raises(VaultError, match="the vault holds no identity"):
        asyncio.run(run())
