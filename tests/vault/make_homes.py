"""Makes the homes that ``test_old_homes.py`` opens: ``python -m tests.vault.make_homes DIRECTORY``, once per version.

It is run by the program of the version that it is to show, and what it made is never made again. The homes come into
``DIRECTORY/vN``, N being the vault's schema, beside ``rows.json`` with what was put into them. Randomness is drawn from
a seed.

Every state that a row can rest in is there once, each handoff under a pairing of its own, as one pairing has one open
handoff at most. Secrets are plain words.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from token_relay.agents import records as kinds
from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import (
    AuditEvent,
    CachedToken,
    CompanionHandoff,
    Counter,
    Grant,
    Outgoing,
    Pairing,
    PhoneHandoff,
    Seen,
)
from token_relay.host.config import CompanionConfig, Kind, PhoneConfig
from token_relay.host.config_file import check_config
from token_relay.host.home import create_home, key_source
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.secret import AccessToken, Password, PrivateKey, RefreshToken, Secret
from token_relay.vault.keys import MIB, PassphraseKey
from token_relay.vault.rekey import open_in_force

WALL_S = 1_780_000_000  # May 2026
STAMP = f"boot-1 100.0 {WALL_S}.0 s"
NONE = "boot-1 0.0 0.0 u"
# Any: a column of state is text in one version and one of some texts in another
PHONE_STATES: tuple[Any, ...] = (
    "offered",
    "accepted",
    "released",
    "cancelling",
    "done",
    "revoking",
    "cancelled",
    "gone",
)
OPEN_REQUEST: dict[str, Any] = {"offered": "OFFER", "released": "TOKEN", "cancelling": "CANCEL", "revoking": "REVOKE"}
COMPANION_STATES: tuple[Any, ...] = ("ready", "stored", "dead")
GRANTS: tuple[tuple[Any, Any], ...] = (
    ("held", ""),
    ("refreshing", ""),
    ("uncertain", ""),
    ("needs_handoff", "uncertain"),
    ("locked", "rollback"),
    ("dead", "denied"),
)
KEYS = ("file", "passphrase", "credential")
CREDENTIAL = "token-relay-vault"
PASSPHRASE = "four random words here"
BROKER = "mqtt://127.0.0.1:9"  # the discard port: nobody answers
ISSUER = "http://127.0.0.1:9/contoso/v2.0"


def name_of(*words: str) -> str:
    """Return an id of 16 bytes that a reader of the file recognises."""
    return "-".join(words).encode().hex().ljust(32, "0")[:32]


def pairing(number: int, name: str) -> Pairing:
    """Return a pairing with a peer that exists nowhere."""
    key = KeyPair.from_random(bytes([number]) * 32).public_key
    state: Any = "retired" if name == "cancelled" else "active"
    return Pairing(name_of(name), device_id(key), key, name, state, bytes([number]) * 32, STAMP, paired_at=WALL_S)


def phone_rows() -> list[Record]:
    """Return the rows of a phone with a handoff in each state."""
    rows: list[Record] = [grant("own", "held", "", pairing_id="")]
    for number, state in enumerate(PHONE_STATES, 1):
        row, handoff_id = pairing(number, state), name_of("h", state)
        reason: Any = {"accepted": "accepted", "gone": "revoked"}.get(state, "")
        rows += [row, Seen(row.pairing_id, 1, bytes([number]) * 32)]
        rows.append(
            PhoneHandoff(
                handoff_id=handoff_id,
                pairing_id=row.pairing_id,
                grant_id=name_of("g", "own"),
                state="offered" if state == "accepted" else state,
                reason=reason,
                strategy="move" if state in ("released", "cancelling") else "branch",
                scope="openid offline_access",
                lease_days=90,
                created=STAMP,
                created_at=WALL_S,
                expires_at=WALL_S + 86_400,
                offer_hash=bytes([number]) * 32,
                held_token=RefreshToken(f"held by {state}") if state in ("released", "cancelling") else None,
                issuer=ISSUER,
                client_id="client",
                subject="subject",
                account="person@contoso.example",
                profile="entra",
            )
        )
        if state in OPEN_REQUEST:
            rows.append(
                Outgoing(row.pairing_id, 1, OPEN_REQUEST[state], handoff_id, b"RTR1" + state.encode() * 20, STAMP)
            )
    return rows


def companion_rows() -> list[Record]:
    """Return the rows of a companion with a handoff and a grant in each state."""
    rows: list[Record] = []
    for number, state in enumerate(COMPANION_STATES, 1):
        row = pairing(number, state)
        rows += [row, Seen(row.pairing_id, 1, bytes([number]) * 32)]
        rows.append(
            CompanionHandoff(
                name_of("h", state),
                row.pairing_id,
                state,
                reason="cancelled" if state == "dead" else "",
                was_stored=state == "stored",
                created_at=WALL_S,
                offer_hash=bytes([number]) * 32,
                one_time_public=bytes([number]) * 32 if state == "ready" else b"",
                one_time_key=PrivateKey(bytes([number]) * 32) if state == "ready" else None,
                issuer=ISSUER,
                client_id="client",
                scope="openid offline_access",
                lease_days=90,
            )
        )
    stored = name_of("stored")
    rows.append(Outgoing(stored, 1, "STORED", name_of("h", "stored"), b"RTR1" + b"stored" * 20, STAMP))
    for state, reason in GRANTS:
        rows.append(grant(state, state, reason, pairing_id=stored))
    token = AccessToken("access token of held")
    rows.append(CachedToken(name_of("g", "held"), "", "openid", "Bearer", STAMP, 3600.0, 1, token))
    return rows


def grant(name: str, state: Any, reason: Any, *, pairing_id: str) -> Grant:
    """Return a grant in this state."""
    intent = STAMP if state in ("refreshing", "uncertain") else ""
    return Grant(
        grant_id=name_of("g", name),
        pairing_id=pairing_id,
        handoff_id=name_of("h", "stored") if pairing_id else "",
        issuer=ISSUER,
        client_id="client",
        token_endpoint="http://127.0.0.1:9/contoso/oauth2/v2.0/token",
        revocation_endpoint="",
        scope="openid offline_access",
        audience="",
        subject=f"subject of {name}",
        account="person@contoso.example",
        profile="entra",
        signed_in_at=WALL_S,
        is_otp=False,
        stored_at=WALL_S,
        refresh_token=None if state == "dead" else RefreshToken(f"refresh token of {name}"),
        state=state,
        reason=reason,
        intent=intent,
        intent_attempts=1 if intent else 0,
        intent_sent=intent,
        intent_came="page" if state == "uncertain" else "",
        refused_times=2 if reason in ("person", "configuration") else 0,
        refreshed_at=WALL_S,
        refreshed=STAMP,
        lease_days=0,
    )


def both_rows() -> list[Record]:
    """Return the rows that either end has."""
    return [AuditEvent(1, WALL_S, "paired", "device", "", "", 0, "", "", ""), Counter("events", 1)]


def config_of(kind: Kind, key: str) -> str:
    """Return the configuration of a home whose vault key comes from there."""
    text = f'name = "{kind}"\n'
    if kind == "phone":
        text += f'[provider]\nurl = "{ISSUER}"\nclient_id = "client"\nprofile = "entra"\n'
    text += f'[broker]\nurl = "{BROKER}"\n'
    vault = {
        "file": "",
        "passphrase": 'passphrase_file = "passphrase"\n',
        "credential": f'credential = "{CREDENTIAL}"\n',
    }
    return f"{text}[vault]\n{vault[key]}"


def make(kind: Kind, key: str, home: Path) -> dict[str, list[dict[str, object]]]:
    """Make one home; return its rows as JSON can hold them."""
    home.mkdir(mode=0o700)
    text = config_of(kind, key)
    private = {"config.toml": text}
    if key == "passphrase":
        private["passphrase"] = f"{PASSPHRASE}\n"
    for name, content in private.items():
        (home / name).write_text(content)
        (home / name).chmod(0o600)
    if key == "passphrase":  # the least that is allowed
        PassphraseKey(home / "vault.kdf", Password(PASSPHRASE)).create(memory_bytes=64 * MIB)
    if key == "credential":
        (home / "credentials").mkdir()
        (home / "credentials" / CREDENTIAL).write_bytes(os.urandom(32))
    environment = {"CREDENTIALS_DIRECTORY": str(home.absolute() / "credentials")}
    create_home(kind, home, text, environment)
    config = check_config(PhoneConfig if kind == "phone" else CompanionConfig, text, home)
    assert not isinstance(config, tuple), config
    vault = open_in_force(home / "vault.db", key_source(home, config.vault, environment))
    rows = [*(phone_rows() if kind == "phone" else companion_rows()), *both_rows()]
    if board := getattr(kinds, "Board", None):
        rows.append(board("self", "{}", WALL_S))
    if own_name := getattr(kinds, "OwnName", None):
        rows.append(own_name("self", f"{kind} by command", kind))
    if kind == "companion" and (primary := getattr(kinds, "PrimaryPhone", None)):
        rows.append(primary("self", pairing(2, "stored").peer_id, WALL_S))

    def put(tx: Transaction) -> list[Record]:
        for row in rows:
            tx.put(row)
        return [row for record in kinds.RECORDS for row in tx.select(record)]

    found = asyncio.run(vault.run(put))
    vault.close_now()
    (home / "vault.lock").unlink()
    told: dict[str, list[dict[str, object]]] = {}
    for row in found:
        told.setdefault(row.table, []).append(plain(row))
    return told


def plain(row: Record) -> dict[str, object]:
    """Return a record as JSON can hold it: bytes in hex, secrets in clear."""
    values = {field.name: getattr(row, field.name) for field in fields(cast(Any, row))}
    values = {name: value.reveal() if isinstance(value, Secret) else value for name, value in values.items()}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def main(directory: Path) -> None:
    """Make all homes of this program's version."""
    os.urandom = random.Random(1).randbytes
    draft = directory / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    kinds_of_end: tuple[Kind, ...] = ("phone", "companion")
    rows = {f"{kind}-{key}": make(kind, key, draft / f"{kind}-{key}") for kind in kinds_of_end for key in KEYS}
    (draft / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
    connection = sqlite3.connect(draft / "phone-file" / "vault.db")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    draft.rename(directory / f"v{version}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
