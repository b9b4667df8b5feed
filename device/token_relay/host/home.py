"""Makes a home, which holds the vault with this device's identity, and finds the vault's key.

It never changes what is there: a vault keeps its identity, a key file its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from token_relay.agents.ports import Transaction
from token_relay.agents.records import RECORDS, Identity
from token_relay.host.atomic_files import remove_drafts, unlink, write_atomic
from token_relay.host.clock import SystemRandom
from token_relay.host.config import AgentConfig, CompanionConfig, Kind, PhoneConfig, VaultConfig
from token_relay.host.config_file import check_config, read_secret_file
from token_relay.protocol.errors import ConfigError, VaultError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.files import set_aside
from token_relay.vault.keys import KeyFile, KeySource, PassphraseKey, SystemdCredential
from token_relay.vault.rekey import open_in_force
from token_relay.vault.schema import version_of
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

log = structlog.get_logger()

VAULT_FILE = "vault.db"
KEY_FILE = "vault.key"
PASSPHRASE_PARAMETERS_FILE = "vault.kdf"  # noqa: S105  # a file name
FIRST_START_MARK = ".first-start"
HOME_FILES = (FIRST_START_MARK, "config.toml", "device.key", "device.csr")  # that commands write whole or not at all
BROUGHT = frozenset({"ca.pem", "device.pem"})  # what the CA's owner may have put there before the first start


@dataclass(frozen=True, slots=True)
class InitResult:
    """This device's identity."""

    device_id: str


def key_source(home: Path, config: VaultConfig, environment: Mapping[str, str]) -> KeySource:
    """Return where the vault's key comes from. Raises ConfigError or VaultError when it cannot be had."""
    if config.credential is not None:
        return SystemdCredential.from_environment(config.credential, environment)
    if config.passphrase_file is not None:
        passphrase = read_secret_file(config.passphrase_file, "passphrase", is_exact=True)
        return PassphraseKey(home / PASSPHRASE_PARAMETERS_FILE, passphrase)
    return KeyFile(config.key_file or home / KEY_FILE)


def create_home(kind: Kind, home: Path, config_text: str, environment: Mapping[str, str] | None = None) -> InitResult:
    """Make vault, vault key and identity where they are missing; they are durable when it returns.

    Raises:
        ConfigError, VaultError: nothing usable was made; the message says what to do.
    """
    parsed = (
        check_config(PhoneConfig, config_text, home)
        if kind == "phone"
        else check_config(CompanionConfig, config_text, home)
    )
    if isinstance(parsed, tuple):
        raise ConfigError("\n".join(problem.in_file("config.toml") for problem in parsed))
    return _make(home, parsed.vault, environment or {})


def first_start(home: Path, config: AgentConfig, environment: Mapping[str, str]) -> InitResult | None:
    """Make vault, identity and signing request in a service's empty home; None when it is not empty.

    A service's configuration lies in ``/etc``, and the service manager makes its home under a user that exists only
    while the service runs, so nobody can run ``init`` for it. Certificates may be in the home already; with any other
    file there, a missing vault is never replaced. A power cut in between leaves a mark, and the next start goes on.

    Raises:
        ConfigError, VaultError, LocalError: nothing usable was made; the message says what to do.
    """
    _remove_drafts(home)  # the mark's own, too
    mark = home / FIRST_START_MARK
    is_begun = mark.exists()
    if not is_begun and (not home.is_dir() or any(entry.name not in BROUGHT for entry in home.iterdir())):
        return None
    from token_relay.host.device_key import CSR_NAME, write_csr

    if not is_begun:
        key_source(home, config.vault, environment)  # refused before anything is written
        write_atomic(mark, b"", mode=0o600)
    made = _make(home, config.vault, environment)
    if not (home / CSR_NAME).exists():
        write_csr(home, made.device_id)
    unlink(mark)
    return made


def _make(home: Path, config: VaultConfig, environment: Mapping[str, str]) -> InitResult:
    source = key_source(home, config, environment)
    vault_path = home / VAULT_FILE
    if not vault_path.exists():
        _create_key(source, home, config)
    return asyncio.run(_open_or_create(vault_path, source))


def _create_key(source: KeySource, home: Path, config: VaultConfig) -> None:
    if isinstance(source, KeyFile) and not (config.key_file or home / KEY_FILE).exists():
        source.create()
    if isinstance(source, PassphraseKey) and not (home / PASSPHRASE_PARAMETERS_FILE).exists():
        source.create()


async def _open_or_create(path: Path, source: KeySource) -> InitResult:
    async with SqliteVault.open(path, source.load(), RECORDS, STEPS) as vault:
        random = SystemRandom()

        def step(tx: Transaction) -> Identity:
            identity = tx.get(Identity, "self")
            if identity is None:
                keys = KeyPair.from_random(random.bytes(32))
                identity = Identity("self", keys.public_key, keys.private_key, created_at=0)
                tx.put(identity)
            return identity

        identity = await vault.run(step)
        return InitResult(device_id(identity.public_key))


async def open_vault(home: Path, source: KeySource, kind: Kind, now_text: str) -> SqliteVault:
    """Open an agent's vault, an older one brought up to date, and read all of it once.

    Damaged rows are given up (:meth:`SqliteVault.examine`). A vault that is damaged beyond that is set aside, and said
    so; never reset silently.

    Raises:
        VaultError: it cannot be opened; the hint says what to do.
    """
    path = home / VAULT_FILE
    if not path.exists():
        raise VaultError(f"there is no vault in {home}", hint=f"make one: token-relay {kind} init --force …")
    _remove_drafts(home)
    try:
        vault = open_in_force(path, source, lambda file: log.warning("old_key_erased", file=str(file)))
        if vault.found_version != version_of(STEPS):
            log.info("vault_updated", schema_before=vault.found_version, schema=version_of(STEPS))
        try:
            given_up = await vault.examine(frozenset({Identity}))
            if given_up:
                log.error("rows_damaged", tables=sorted(set(given_up)), count=len(given_up))
        except BaseException:
            await vault.close()
            raise
    except CorruptVaultError as exc:
        aside = set_aside(path, now_text)
        raise VaultError(
            f"the vault is damaged ({exc}) and was set aside as {aside}: this device is a stranger now",
            hint=f"token-relay {kind} init --force …, then pair again; on the other device: forget this one",
        ) from exc
    return vault


def _remove_drafts(home: Path) -> None:
    for draft in remove_drafts(home, *HOME_FILES):
        log.warning("draft_removed", file=str(draft))
