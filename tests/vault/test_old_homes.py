"""Homes that older versions wrote (``homes/``, by ``make_homes.py``) open in this program, every row, and go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.vault.make_homes import CREDENTIAL, plain
from tests.vault.rekey_kit import passphrase
from tests.watchdog import HANG_S
from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import RECORDS, Counter
from token_relay.host.config import CompanionConfig, Kind, PhoneConfig
from token_relay.host.config_file import check_config
from token_relay.host.home import key_source, open_vault
from token_relay.service.rekey import rekey
from token_relay.vault.rekey import has_copy
from token_relay.vault.schema import version_of
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

pytestmark = pytest.mark.asyncio

HOMES = Path(__file__).with_name("homes")
VERSIONS = sorted(HOMES.glob("v*"))
ALL = [home for version in VERSIONS for home in sorted(version.iterdir()) if home.is_dir()]
# What a step has changed since: (table, column) whose values in rows.json are no longer the values of today.
CHANGED: frozenset[tuple[str, str]] = frozenset()


def ids(home: Path) -> str:
    return f"{home.parent.name} {home.name}"


def environment_of(home: Path) -> dict[str, str]:
    return {"CREDENTIALS_DIRECTORY": str(home / "credentials")}


def placed(home: Path, tmp_path: Path) -> Path:
    """Return a copy as it was on its device: git keeps no modes."""
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    copy.chmod(0o700)
    for file in copy.rglob("*"):
        file.chmod(0o700 if file.is_dir() else 0o600)
    return copy


async def opened(home: Path, kind: Kind) -> SqliteVault:
    config = check_config(PhoneConfig if kind == "phone" else CompanionConfig, (home / "config.toml").read_text(), home)
    assert not isinstance(config, tuple), config
    source = key_source(home, config.vault, environment_of(home))
    return await open_vault(home, source, kind, "2026-01-02T03:04:05Z")


def kind_of(home: Path) -> Kind:
    return "phone" if home.name.startswith("phone") else "companion"


def everything(tx: Transaction) -> list[Record]:
    return [row for record in RECORDS for row in tx.select(record)]


def told(home: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what was put into a home when it was made, by table."""
    rows: dict[str, list[dict[str, Any]]] = json.loads((home.parent / "rows.json").read_text())[home.name]
    return rows


def unchanged(table: str, row: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in names and (table, name) not in CHANGED}


async def test_there_is_a_home_of_each_version_end_and_kind_of_key() -> None:
    found = {(int(home.parent.name[1:]), home.name) for home in ALL}
    kinds = {f"{end}-{key}" for end in ("phone", "companion") for key in ("file", "passphrase", "credential")}
    assert found == {(version, kind) for version in range(1, version_of(STEPS) + 1) for kind in kinds}


@pytest.mark.parametrize("home", ALL, ids=ids)
async def test_an_old_home_opens_with_every_row_and_secret(home: Path, tmp_path: Path) -> None:
    copy, version = placed(home, tmp_path), int(home.parent.name[1:])
    for found_version in (version, version_of(STEPS)):
        with capture_logs() as logs:
            vault = await opened(copy, kind_of(home))
        lines = [line for line in logs if line["event"] == "vault_updated"]
        wanted = [(version, version_of(STEPS))] if found_version != version_of(STEPS) else []
        assert [(line["schema_before"], line["schema"]) for line in lines] == wanted
        async with vault:
            rows = await vault.run(everything)
            await vault.run(lambda tx: tx.put(Counter("events", 1)))  # and it can be written to
        expected = told(home)
        for table in expected:
            now = [plain(row) for row in rows if row.table == table]
            names = set(now[0])
            before = [unchanged(table, row, names) for row in expected[table]]
            assert [unchanged(table, row, set(before[0])) for row in now] == before
        assert len(rows) == sum(map(len, expected.values()))
        assert {file.name for file in copy.iterdir()} - {file.name for file in home.iterdir()} == {"vault.lock"}


async def test_the_homes_hold_every_state() -> None:
    found: dict[str, set[str]] = {}
    for home in ALL:
        for table, rows in told(home).items():
            found.setdefault(table, set()).update(f"{row.get('state')} {row.get('reason')}".strip() for row in rows)
    assert {text.split()[0] for text in found["grants"]} == {
        "held", "refreshing", "uncertain", "needs_handoff", "locked", "dead"
    }  # fmt: skip
    assert found["phone_handoffs"] == {
        "offered", "offered accepted", "released", "done", "cancelling", "cancelled", "revoking", "gone revoked"
    }  # fmt: skip
    assert {text.split()[0] for text in found["companion_handoffs"]} == {"ready", "stored", "dead"}


@pytest.mark.parametrize("home", [home for home in ALL if home.name.endswith("-file")], ids=ids)
async def test_an_agent_starts_on_an_old_home_and_shows_what_it_holds(home: Path, tmp_path: Path) -> None:
    kind, copy = kind_of(home), placed(home, tmp_path)
    command = [sys.executable, "-m", "token_relay.cli", kind]
    where = ["--home", str(copy)]
    with subprocess.Popen([*command, "run", *where], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as agent:
        assert agent.stdout is not None
        lines = []
        for line in agent.stdout:
            lines.append(line)
            if b"agent_started" in line:
                break
        try:
            asked = [*command, "status", "--json", *where]
            done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=HANG_S)
            assert done.returncode == 0, (lines, done.stderr)
            status = json.loads(done.stdout)
        finally:
            agent.terminate()
        output = b"".join([*lines, *agent.stdout])
        assert agent.wait(HANG_S) == 0, output
    assert (b"vault_updated" in output) is (int(home.parent.name[1:]) != version_of(STEPS)), output
    assert b"Traceback" not in output and b"[error" not in output, output
    expected = told(home)
    assert status["device_id"] and not status["broker"]["connected"]
    if kind == "phone":
        ids_shown = {row["handoff_id"] for device in status["devices"] for row in device["handoffs"]}
        gone = {row["pairing_id"] for row in expected["pairings"] if row["state"] == "retired"}
        shown = [row["handoff_id"] for row in expected["phone_handoffs"] if row["pairing_id"] not in gone]
        assert ids_shown == set(shown) and len(shown) == 7
    else:
        assert {row["grant_id"] for row in status["grants"]} == {row["grant_id"] for row in expected["grants"]}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: str(path.name))
async def test_an_old_home_moves_to_another_key(version: Path, tmp_path: Path) -> None:
    copy = placed(version / "companion-file", tmp_path)
    await rekey(copy, copy / "config.toml", passphrase(tmp_path), {})
    async with await opened(copy, "companion") as vault:
        rows = await vault.run(everything)
    assert len(rows) == sum(map(len, told(version / "companion-file").values()))


async def test_a_copy_that_waits_for_its_key_is_brought_up_to_date_with_its_vault(tmp_path: Path) -> None:
    """An older version made the copy, the program was updated, then the configuration named the new key."""
    new, old = placed(VERSIONS[0] / "companion-credential", tmp_path / "new"), placed(
        VERSIONS[0] / "companion-file", tmp_path / "old"
    )  # fmt: skip
    (new / "vault.db").rename(old / "vault-rekeyed.db")  # of the same rows, under another key
    (new / "credentials").rename(old / "credentials")
    (old / "config.toml").write_text((new / "config.toml").read_text())
    async with await opened(old, "companion") as vault:
        rows = await vault.run(everything)
    assert len(rows) == sum(map(len, told(VERSIONS[0] / "companion-credential").values()))
    assert not has_copy(old)
    assert (old / "credentials" / CREDENTIAL).exists()
