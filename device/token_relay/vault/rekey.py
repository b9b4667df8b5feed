"""Moving a vault to another key: a complete copy under the new key, and one moment at which it takes over.

A vault key is never changed in place. All records are copied into a new vault with new data keys, so nothing that the
old key could open is carried over; then the copy takes the vault's name. The configuration decides the moment: it names
the key, and two files cannot change at once. So a complete copy waits as ``vault-rekeyed.db`` until a start with the
new key finds it:

    vault.db opens                  the old key is in force: the copy is stale from now on, and removed
    only vault-rekeyed.db opens     the new key is in force: the copy becomes vault.db

Invariants: at every instant the configuration on disk opens one of the two; the copy bears its name only when it is
complete; nobody writes to ``vault.db`` while a copy waits, because a program that opens it removes the copy first; once
the vault is open, no key file of a change is left that does not hold the key in force.

Limits: a file system or a card may keep old blocks, and with them the old vault, which the old key opens: revoke what
must not be found. The old key still opens a copy of the disk that was made before.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import RECORDS, Identity
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import PrivateKey
from token_relay.vault.errors import WrongVaultKeyError
from token_relay.vault.files import create_private, erase_file, read_file, side_files, sync_directory
from token_relay.vault.keys import KeySource, PassphraseKey
from token_relay.vault.sealing import KEY_BYTES
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

COPYING, COPY = "vault-rekeying.db", "vault-rekeyed.db"
COPY_PARAMETERS = "vault-rekeyed.kdf"  # of a copy with a key from a passphrase
PARAMETERS = "vault.kdf"
UNDER_WAY = "vault-rekeying.json"  # the key files of a change that has not ended: the new one, and the old one at home
_KEY_NAME = re.compile(r"vault(-[0-9]{1,2})?\.key")  # what free_key_file has ever chosen
_NAMES_BYTES_MAX = 16_384
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
        raise VaultError("the copy of the vault differs from the vault", hint="look at the disk with dmesg")
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
    """Return whether a copy waits, complete or not, or but begun."""
    begun = ("vault-rekeying.", "vault-rekeyed.")
    return any(path.name.startswith(begun) and path.name != UNDER_WAY for path in home.iterdir())


def open_in_force(vault: Path, source: KeySource, on_erased: Callable[[Path], object] = lambda _: None) -> SqliteVault:
    """Open the vault with the key in force, and complete or discard a change of the key that was begun. Blocks.

    Key files that an interrupted change left are erased, and told to ``on_erased``.

    Raises:
        WrongVaultKeyError: the key opens neither vault nor copy. VaultError: as :meth:`SqliteVault.open`.
    """
    opened, key = _open(vault, source)
    try:
        for path in forget_keys(vault.parent, key, keep_parameters=isinstance(source, PassphraseKey)):
            on_erased(path)
    except BaseException:
        opened.close_now()
        raise
    return opened


def _open(vault: Path, source: KeySource) -> tuple[SqliteVault, PrivateKey]:
    home = vault.parent
    try:
        key: PrivateKey | None = source.load()
        assert key is not None
        opened = SqliteVault.open(vault, key, RECORDS, STEPS, create=False)
    except VaultError as exc:
        if not (home / COPY).exists() or not (isinstance(exc, WrongVaultKeyError) or _lacks_parameters(source, home)):
            raise
        key = _key_of_copy(home, source)
        if key is None:
            raise
        take_over(home, vault)
        return SqliteVault.open(vault, key, RECORDS, STEPS, create=False), key
    if has_copy(home):
        discard(home)
    return opened, key


def begin(home: Path, *key_files: Path) -> None:
    """Note, before any of them is made, the key files of a change; a start after a kill looks at them. Durable."""
    (home / UNDER_WAY).unlink(missing_ok=True)
    create_private(home / UNDER_WAY, json.dumps([str(path) for path in key_files]).encode())


def forget_keys(home: Path, key: PrivateKey, *, keep_parameters: bool) -> list[Path]:
    """Erase each key file of a change that does not hold ``key``, the one in force; return them. No copy may wait.

    Those are the noted ones, and in the home all whose names only a change of the key gives.

    Raises:
        VaultError: the disk refused.
    """
    note, erased = home / UNDER_WAY, []
    try:
        paths = {path for path in home.iterdir() if _KEY_NAME.fullmatch(path.name)} | _noted(note)
        for path in sorted(paths):
            try:
                content = read_file(path, bytes_max=KEY_BYTES)
            except VaultError:  # gone, or nothing that this program made
                continue
            if len(content) != KEY_BYTES or PrivateKey(content) != key:
                erase_file(path)
                erased.append(path)
        if not keep_parameters:
            (home / PARAMETERS).unlink(missing_ok=True)
        note.unlink(missing_ok=True)
    except OSError as exc:
        raise VaultError(f"cannot remove {exc.filename or 'an old key'}: {exc.strerror}", hint="remove it") from exc
    return erased


def _noted(note: Path) -> set[Path]:
    try:
        found = json.loads(read_file(note, bytes_max=_NAMES_BYTES_MAX))
    except (VaultError, ValueError):  # none, or cut off by a power cut: then nothing was made yet
        return set()
    return {Path(name) for name in found}


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
    """Return a name for a new key file: ``vault.key``, or the first of ``vault-2.key`` … that is free.

    Raises:
        VaultError: all are taken, by files that are no key files of ours.
    """
    names = ("vault.key", *(f"vault-{number}.key" for number in range(2, 100)))
    for name in names:
        if not os.path.lexists(home / name):
            return home / name
    raise VaultError(f"{home} has {len(names)} files with names of key files", hint="remove those that are not yours")
