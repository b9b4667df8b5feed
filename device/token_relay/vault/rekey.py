"""Moving a vault to another key: a complete copy under the new key, and one moment at which it takes over.

A vault key is never changed in place. All records are copied into a new vault with new data keys, so nothing that the
old key could open is carried over; then the copy takes the vault's name. The configuration decides the moment: it names
the key, and two files cannot change at once. So a complete copy waits as ``vault-rekeyed.db`` until a start with the
new key finds it:

    vault.db opens                  the old key is in force: the copy is stale from now on, and removed
    only vault-rekeyed.db opens     the new key is in force: the copy becomes vault.db

Invariants: at every instant the configuration on disk opens one of the two; the copy bears its name only when it is
complete; nobody writes to ``vault.db`` while a copy waits, because a program that opens it removes the copy first.

Limits: a file system or a card may keep old blocks, and with them the old vault, which the old key opens: revoke what
must not be found. The old key still opens a copy of the disk that was made before.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import RECORDS, Identity
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import PrivateKey
from token_relay.vault.errors import WrongVaultKeyError
from token_relay.vault.files import side_files, sync_directory
from token_relay.vault.keys import KeySource, PassphraseKey
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

COPYING, COPY = "vault-rekeying.db", "vault-rekeyed.db"
COPY_PARAMETERS = "vault-rekeyed.kdf"  # of a copy with a key from a passphrase
PARAMETERS = "vault.kdf"
_LOCKS = ("vault-rekeying.lock", "vault-rekeyed.lock")


async def copy_under(vault: SqliteVault, home: Path, key: PrivateKey) -> None:
    """Copy all records into a vault under ``key``, which waits in ``home``; durable when this returns.

    The caller keeps ``vault`` open, and with it the lock, until the copy has taken over or the caller gives up.

    Raises:
        VaultError: the disk refused, or something in the vault is damaged; the vault is as it was.
    """
    records = await vault.run(_read_all)
    copying = home / COPYING
    async with SqliteVault.open(copying, key, RECORDS, STEPS) as copy:
        await copy.run(lambda tx: _write_all(tx, records))
        copied = await copy.run(_read_all)
    if copied != records:
        raise VaultError("the copy of the vault differs from the vault", hint="check the disk")
    try:
        copying.rename(home / COPY)
        sync_directory(home)
    except OSError as exc:
        raise VaultError(f"cannot make {home / COPY}: {exc.strerror}") from exc


def take_over(home: Path, vault: Path) -> None:
    """Let the waiting copy become the vault; durable when this returns. May be done again after a crash in between."""
    if any(side.exists() for side in side_files(vault)):  # SQLite would play it back into the copy
        raise VaultError(f"{vault} was written to after its copy was made", hint="start the agent with the former key")
    try:
        with suppress(FileNotFoundError):
            (home / COPY_PARAMETERS).rename(home / PARAMETERS)
            sync_directory(home)  # in order: with the parameters in place the copy opens, wherever we stop
        (home / COPY).rename(vault)
        for name in _LOCKS:
            (home / name).unlink(missing_ok=True)
        sync_directory(home)
    except OSError as exc:
        raise VaultError(f"cannot put the copy in the place of {vault}: {exc.strerror}") from exc


def discard(home: Path) -> None:
    """Remove a waiting copy, complete or not, for good: the copy first, since it never opens without its parameters."""
    try:
        for name in (COPY, COPYING, f"{COPYING}.new"):
            path = home / name
            for file in (path, *side_files(path)):
                file.unlink(missing_ok=True)
        for name in (COPY_PARAMETERS, *_LOCKS):
            (home / name).unlink(missing_ok=True)
        sync_directory(home)
    except OSError as exc:
        raise VaultError(f"cannot remove {home / COPY}: {exc.strerror}") from exc


def has_copy(home: Path) -> bool:
    """Return whether a copy waits, complete or not."""
    return any((home / name).exists() for name in (COPY, COPYING, COPY_PARAMETERS))


def open_in_force(vault: Path, source: KeySource) -> SqliteVault:
    """Open the vault with the key in force, and complete or discard a change of the key that was begun. Blocks.

    Raises:
        WrongVaultKeyError: the key opens neither vault nor copy. VaultError: as :meth:`SqliteVault.open`.
    """
    home = vault.parent
    if not has_copy(home):
        return SqliteVault.open(vault, source.load(), RECORDS, STEPS, create=False)
    try:
        opened = SqliteVault.open(vault, source.load(), RECORDS, STEPS, create=False)
    except VaultError as exc:
        if not (home / COPY).exists() or not (isinstance(exc, WrongVaultKeyError) or _lacks_parameters(source, home)):
            raise
        key = _key_of_copy(home, source)
        if key is None:
            raise
        take_over(home, vault)
        return SqliteVault.open(vault, key, RECORDS, STEPS, create=False)
    discard(home)
    return opened


def _lacks_parameters(source: KeySource, home: Path) -> bool:
    return isinstance(source, PassphraseKey) and not (home / PARAMETERS).exists()


def _key_of_copy(home: Path, source: KeySource) -> PrivateKey | None:
    """Return the key that opens the copy, None when what is configured does not."""
    candidates = [source]
    if isinstance(source, PassphraseKey) and (home / COPY_PARAMETERS).exists():
        candidates.insert(0, source.with_parameters(home / COPY_PARAMETERS))
    for candidate in candidates:
        try:
            key = candidate.load()
            opened = SqliteVault.open(home / COPY, key, RECORDS, STEPS, create=False)
        except VaultError:
            continue
        opened.close_now()
        return key
    return None


def _read_all(tx: Transaction) -> list[Record]:
    records = [row for record in RECORDS for row in tx.select(record)]
    if not any(isinstance(row, Identity) for row in records):
        raise VaultError("the vault holds no identity")
    return records


def _write_all(tx: Transaction, records: list[Record]) -> None:
    for row in records:
        tx.put(row)


def free_key_file(home: Path) -> Path:
    """Return a name for a new key file: ``vault.key``, or the first of ``vault-2.key`` … that is free."""
    names = ("vault.key", *(f"vault-{number}.key" for number in range(2, 100)))
    return next(home / name for name in names if not os.path.lexists(home / name))
