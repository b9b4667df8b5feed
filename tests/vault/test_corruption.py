"""The vault and its key, damaged octet by octet: told as a declared error or harmless, and never begun anew.

Harmless is an octet that nobody reads (unused room, counters that SQLite mends).
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter as Count
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.vault.samples import KEY, RECORDS, Counter, Grant, Identity, Mixed, Shared, open_vault, raw
from token_relay.agents.ports import Record, Transaction
from token_relay.host.home import open_vault as open_for_agent
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import Password, PrivateKey, RefreshToken
from token_relay.vault import keys
from token_relay.vault.errors import CorruptVaultError, WrongVaultKeyError
from token_relay.vault.keys import MIB, KeyFile, PassphraseKey
from token_relay.vault.store import SqliteVault

pytestmark = pytest.mark.asyncio

HEADER = 100  # octets of SQLite's header
RANDOM_OCTETS = 200
State = list[list[Record]]


def fill(tx: Transaction) -> None:
    for n in range(10):
        tx.put(Grant(f"g{n}", n, RefreshToken(f"token {n} " + "z" * 900)))
        tx.put(Mixed("péer", n, note="ñ" * 50, payload=bytes(50), token=RefreshToken(f"mixed {n}"), is_known=True))
        tx.put(Shared(f"s{n}", "k", RefreshToken(f"shared {n}")))
    tx.put(Identity("me", PrivateKey(b"i" * 32)))
    tx.put(Counter(1, 1))


def dump(tx: Transaction) -> State:
    return [tx.select(record) for record in RECORDS]


@pytest_asyncio.fixture
async def whole(tmp_path: Path) -> tuple[bytes, State]:
    """A vault's file, and what is in it."""
    async with open_vault(tmp_path) as vault:
        await vault.run(fill)
        state = await vault.run(dump)
    return (tmp_path / "vault.db").read_bytes(), state


async def outcome(directory: Path, content: bytes, expected: State) -> str:
    """Open a vault with this content: "told", or "harmless" when all that is read of it is as it was."""
    path = directory / "vault.db"
    path.write_bytes(content)
    try:
        async with open_vault(directory) as vault:
            found = await vault.run(dump)
    except CorruptVaultError as exc:
        assert exc.hint, "it says what to do"
        assert {file.name for file in directory.iterdir()} == {"vault.db", "vault.lock"}
        assert path.read_bytes() == content, "a refused vault was changed"
        return "told"
    assert list(map(len, found)) == list(map(len, expected)), "a row is missing or came out of nowhere"
    assert found == expected, "a value is another one"
    return "harmless"


# -- the file ---------------------------------------------------------------------------------------------


async def test_every_octet_of_the_header_changed_in_several_ways_is_told_or_harmless(
    tmp_path: Path, whole: tuple[bytes, State]
) -> None:
    content, expected = whole
    seen: dict[int, set[str]] = {}
    for at in range(HEADER):
        for value in {0, 1, 2, 0xFF, content[at] ^ 1, content[at] ^ 0x80} - {content[at]}:
            damaged = content[:at] + bytes([value]) + content[at + 1 :]
            seen.setdefault(at, set()).add(await outcome(tmp_path, damaged, expected))
    assert set().union(*seen.values()) == {"told", "harmless"}
    # sqlite.org/fileformat2.html §1.3: magic, page size, fractions, sizes and formats are judged, and our two numbers
    judged = {*range(18), *range(20, 24), *range(28, 40), *range(60, 64), *range(68, 72)}
    assert {at for at in judged if "told" not in seen[at]} == set()
    assert all(seen[at] == {"told"} for at in (*range(16), *range(60, 64), *range(68, 72)))


@pytest.mark.parametrize("seed", range(3))
async def test_random_octets_are_told_or_harmless_and_no_value_ever_changes(
    tmp_path: Path, whole: tuple[bytes, State], seed: int
) -> None:
    content, expected = whole
    chance = random.Random(seed)
    seen: Count[str] = Count()
    for _ in range(RANDOM_OCTETS):
        at = chance.randrange(len(content))
        damaged = content[:at] + bytes([content[at] ^ chance.randrange(1, 256)]) + content[at + 1 :]
        seen[await outcome(tmp_path, damaged, expected)] += 1
    assert seen["told"] > RANDOM_OCTETS / 10


async def test_a_vault_cut_anywhere_is_told_and_never_made_anew(tmp_path: Path, whole: tuple[bytes, State]) -> None:
    content, expected = whole
    page = 4096
    chance = random.Random(7)
    lengths = {*range(0, 200, 7), *range(0, len(content), page), *(chance.randrange(len(content)) for _ in range(100))}
    for length in sorted(lengths):
        assert await outcome(tmp_path, content[:length], expected) == "told", length


async def test_the_agent_sets_a_damaged_vault_aside_and_makes_no_other(
    tmp_path: Path, whole: tuple[bytes, State]
) -> None:
    content, _ = whole
    damaged = content[:2048] + bytes(512) + content[2560:]
    (tmp_path / "vault.db").write_bytes(b"not a vault" + damaged)
    key = KeyFile(tmp_path / "vault.key")
    key.create()
    with pytest.raises(VaultError, match="set aside as") as caught:
        await open_for_agent(tmp_path, key, "companion", "2026-01-31T12:00:00Z")
    assert "init --force" in caught.value.hint
    assert (tmp_path / "vault.db.corrupt-2026-01-31T12:00:00Z").read_bytes() == b"not a vault" + damaged
    with pytest.raises(VaultError, match="there is no vault"):
        await open_for_agent(tmp_path, key, "companion", "later")
    assert not (tmp_path / "vault.db").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE data_keys SET wrapped = zeroblob(72) WHERE name = 'k'",
        "DELETE FROM data_keys WHERE name = 'k'",
        "UPDATE shared SET token = zeroblob(72)",
        "UPDATE mixed SET state = 'third'",
    ],
)
async def test_damage_found_by_a_step_says_what_to_do_as_damage_found_at_the_start_does(
    tmp_path: Path, whole: tuple[bytes, State], statement: str
) -> None:
    with raw(tmp_path) as connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()
    async with open_vault(tmp_path) as vault:
        with pytest.raises(CorruptVaultError) as caught:
            await vault.run(dump)
    assert "pair this device again" in caught.value.hint


# -- its key ----------------------------------------------------------------------------------------------


def other_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give it to somebody else: really, where we may."""
    if os.geteuid() == 0:
        os.chown(path, 12_345, -1)
    else:
        me = os.geteuid()
        monkeypatch.setattr("os.geteuid", lambda: me + 1)


@pytest.mark.parametrize("name", ["vault.db", "vault.key"])
async def test_another_owner_of_the_vault_or_its_key_is_refused_and_nothing_changes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = KeyFile(tmp_path / "vault.key")
    key.create()
    await SqliteVault.open(tmp_path / "vault.db", key.load(), RECORDS).close()
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    other_owner(tmp_path / name, monkeypatch)
    with pytest.raises(VaultError, match="belongs to another user") as caught:
        SqliteVault.open(tmp_path / "vault.db", key.load(), RECORDS)
    assert caught.value.hint.startswith("chown ")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["vault.db", "vault.key"])
async def test_of_all_modes_only_0600_and_less_is_private(tmp_path: Path, name: str) -> None:
    key = KeyFile(tmp_path / "vault.key")
    key.create()
    await SqliteVault.open(tmp_path / "vault.db", key.load(), RECORDS).close()
    for bits in range(1, 0o200):
        (tmp_path / name).chmod(0o600 | bits)
        with pytest.raises(VaultError, match="open to others"):
            SqliteVault.open(tmp_path / "vault.db", key.load(), RECORDS)
    (tmp_path / name).chmod(0o600)
    await SqliteVault.open(tmp_path / "vault.db", key.load(), RECORDS).close()


async def test_a_vault_key_changed_in_any_bit_is_a_wrong_key_and_the_vault_stays(
    tmp_path: Path, whole: tuple[bytes, State]
) -> None:
    content, expected = whole
    path = tmp_path / "vault.key"
    right = KEY.reveal()
    for bit in range(len(right) * 8):
        wrong = bytearray(right)
        wrong[bit // 8] ^= 1 << bit % 8
        path.write_bytes(wrong)
        path.chmod(0o600)
        with pytest.raises(WrongVaultKeyError):
            open_vault(tmp_path, KeyFile(path).load())
    for length in (*range(32), *range(33, 40)):
        path.write_bytes(right.ljust(40, b"\0")[:length])
        with pytest.raises(VaultError, match="bytes"):
            open_vault(tmp_path, KeyFile(path).load())
    path.unlink()
    assert await outcome(tmp_path, content, expected) == "harmless"


@pytest.fixture
def quick_argon2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hundreds of wrong files are read: each costs a hash instead of 64 MiB. What is judged is the file."""

    def stretch(passphrase: Password, *, salt: bytes, passes: int, memory_bytes: int) -> bytes:
        return hashlib.blake2b(
            repr((passphrase.reveal(), salt, passes, memory_bytes)).encode(), digest_size=32
        ).digest()

    with monkeypatch.context() as patch:
        patch.setattr(keys, "_stretch", stretch)
        yield


async def test_a_passphrase_file_damaged_in_any_octet_is_told_and_never_opens_with_another_key(
    tmp_path: Path, quick_argon2: None
) -> None:
    path = tmp_path / "vault.json"
    source = PassphraseKey(path, Password("correct horse battery"))
    source.create(passes=3, memory_bytes=64 * MIB)
    content, right = path.read_bytes(), source.load()
    seen: Count[str] = Count()
    for at in range(len(content)):
        for value in {0, 0x20, 0x30, 0x7B, 0xFF, content[at] ^ 1, content[at] ^ 0x20} - {content[at]}:
            path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
            try:
                assert source.load() == right
                seen["harmless"] += 1
            except VaultError:
                seen["told"] += 1
    for length in range(len(content) - 1):  # the last one is a line feed
        path.write_bytes(content[:length])
        with pytest.raises(VaultError):
            source.load()
    assert seen["told"] > len(content)
    assert seen["harmless"] < 20  # white space for white space
