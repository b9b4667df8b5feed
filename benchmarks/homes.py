"""Homes of agents as they are after pairing and handoff, written straight into their vaults.

The rows hold what the protocol leaves there; how they come about is not measured here. Tokens are random
text that no provider knows, unless a benchmark brings one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from token_relay.agents.elapsed import Stamp
from token_relay.agents.ports import Now, Record, Transaction
from token_relay.agents.records import (
    RECORDS,
    CachedToken,
    Grant,
    Identity,
    Pairing,
    PhoneHandoff,
    Seen,
)
from token_relay.host.clock import SystemClock
from token_relay.host.config import Kind
from token_relay.host.home import KEY_FILE, VAULT_FILE, create_home
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.sandbox.provider.world.model import CLIENT_ID
from token_relay.vault.keys import KeyFile
from token_relay.vault.steps import STEPS
from token_relay.vault.store import SqliteVault

T = TypeVar("T")

SCOPE = "offline_access openid profile"
ISSUER = "http://127.0.0.1:9/"  # port 9 is discard (RFC 863): nothing is asked there
ACCESS_TOKEN_CHARS = 1500  # Entra's have 1200 to 2500
ACCESS_TOKEN_LIFETIME_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Homes:
    """A phone and a companion that are paired with each other."""

    phone: Path
    companion: Path
    companion_id: str
    pairing_id: str


def make_home(kind: Kind, home: Path, broker_url: str) -> bytes:
    """Make a home with configuration and vault; returns the public key of its identity."""
    home.mkdir(mode=0o700)
    text = f'name = "{kind}"\n'
    if kind == "phone":
        text += "allow_refresh_token_access = true\n"
        text += f'[provider]\nurl = "{ISSUER}"\nclient_id = "{CLIENT_ID}"\nprofile = "entra"\n'
    else:
        text += '[provider]\nhosts = ["127.0.0.1"]\n'
    text += f'[broker]\nurl = "{broker_url}"\n'
    (home / "config.toml").write_text(text)
    (home / "config.toml").chmod(0o600)
    create_home(kind, home, text)
    (identity,) = asyncio.run(_run(home, lambda tx: tx.select(Identity)))
    return identity.public_key


def write(home: Path, *records: Record) -> None:
    """Put records into a vault that no process has open, in one transaction."""

    def step(tx: Transaction) -> None:
        for record in records:
            tx.put(record)

    asyncio.run(_run(home, step))


async def _run(home: Path, step: Callable[[Transaction], T]) -> T:
    key = KeyFile(home / KEY_FILE).load()
    async with SqliteVault.open(home / VAULT_FILE, key, RECORDS, STEPS) as vault:
        return await vault.run(step)


def paired_homes(place: Path, broker_url: str) -> Homes:
    """Make two homes that are paired with each other."""
    phone = make_home("phone", place / "p", broker_url)
    companion = make_home("companion", place / "c", broker_url)
    pairing_id = os.urandom(16).hex()
    write(place / "p", pairing(pairing_id, companion, "companion"))
    write(place / "c", pairing(pairing_id, phone, "phone"))
    return Homes(place / "p", place / "c", device_id(companion), pairing_id)


def pairing(pairing_id: str, peer_key: bytes, name: str) -> Pairing:
    """Return an active pairing."""
    stamp = Stamp.of(SystemClock().now()).to_text()
    return Pairing(pairing_id, device_id(peer_key), peer_key, name, "active", bytes(32), stamp, heard=stamp)


def grant(
    now: Now,
    *,
    pairing_id: str = "",
    token_endpoint: str = ISSUER + "token",
    refresh_token: str = "",
    profile: str = "entra",
) -> Grant:
    """Return a held grant that has nothing due."""
    return Grant(
        grant_id=os.urandom(16).hex(),
        pairing_id=pairing_id,
        handoff_id=os.urandom(16).hex() if pairing_id else "",
        token_endpoint=token_endpoint,
        revocation_endpoint="",
        audience="",
        profile=profile,
        is_otp=False,
        stored_at=int(now.wall_s),
        refresh_token=RefreshToken(refresh_token or secrets.token_urlsafe(900)),
        refreshed=Stamp.of(now).to_text(),
        **_account(now),
    )


def companion_with_token(place: Path, broker_url: str) -> Homes:
    """Make two paired homes, the companion's with a grant and an access token that lasts longer than any benchmark."""
    homes = paired_homes(place, broker_url)
    now = SystemClock().now()
    held, stamp = grant(now, pairing_id=homes.pairing_id), Stamp.of(now).to_text()
    token = AccessToken(secrets.token_urlsafe(ACCESS_TOKEN_CHARS * 3 // 4))
    cached = CachedToken(held.grant_id, "", SCOPE, "Bearer", stamp, ACCESS_TOKEN_LIFETIME_S, held.generation, token)
    write(homes.companion, held, cached)
    return homes


def write_companions(home: Path, count: int, *, seen: int) -> None:
    """Pair a phone with ``count`` more companions, each with one finished handoff and ``seen`` remembered messages."""
    now = SystemClock().now()
    records: list[Record] = []
    for number in range(count):
        row = pairing(os.urandom(16).hex(), KeyPair.from_random(os.urandom(32)).public_key, f"companion {number}")
        handoff = PhoneHandoff(
            handoff_id=os.urandom(16).hex(),
            pairing_id=row.pairing_id,
            grant_id="",
            state="done",
            reason="",
            strategy="branch",
            lease_days=90,
            created=Stamp.of(now).to_text(),
            created_at=int(now.wall_s),
            expires_at=int(now.wall_s) + 86_400,
            offer_hash=os.urandom(32),
            one_time_key=os.urandom(32),
            accept_hash=os.urandom(32),
            done_at=int(now.wall_s),
            device_state="held",
            generation=1,
            profile="entra",
            **_account(now),
        )
        records += [row, handoff, *(Seen(row.pairing_id, seq, os.urandom(32)) for seq in range(1, seen + 1))]
    write(home, *records)


def _account(now: Now) -> dict[str, Any]:
    """Return who has signed in, where and for what."""
    return {
        "issuer": ISSUER,
        "client_id": CLIENT_ID,
        "scope": SCOPE,
        "subject": os.urandom(16).hex(),
        "account": "ada@contoso.example",
        "signed_in_at": int(now.wall_s),
    }
