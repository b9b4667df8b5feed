"""Homes whose vault moves to another key, for the tests of ``vault rekey``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import RECORDS, AuditEvent, Grant
from token_relay.host.config import CompanionConfig
from token_relay.host.config_file import check_config
from token_relay.host.home import create_home, key_source
from token_relay.protocol.secret import Password, RefreshToken
from token_relay.service import rekey as rekeying
from token_relay.service.rekey import Rekeyed, ToPassphrase, rekey
from token_relay.vault import rekey as copies
from token_relay.vault.keys import MIB

T = TypeVar("T")

CONFIG = '# a comment of mine\nname = "watch"\n[broker]\nurl = "mqtt://127.0.0.1:1884"\n\n[vault]\n# key_file =\n'


def make_home(home: Path) -> list[Record]:
    """Make a companion's home with a grant in its vault; return all records."""
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(CONFIG)
    (home / "config.toml").chmod(0o600)
    create_home("companion", home, CONFIG)
    grant = Grant(
        "g",
        "p",
        "h",
        issuer="https://i",
        client_id="c",
        token_endpoint="https://i/token",
        revocation_endpoint="",
        scope="s",
        audience="",
        subject="sub",
        account="a",
        profile="strict",
        signed_in_at=1,
        is_otp=False,
        stored_at=1,
        refresh_token=RefreshToken("rt-1"),
    )

    def fill(tx: Transaction) -> None:
        tx.put(grant)
        tx.put(event(1, "grant_stored"))

    with opened(home) as vault:
        vault.do(fill)
    return records(home)


def event(number: int, name: str) -> AuditEvent:
    return AuditEvent(number, 0, name, "", "", "", 0, "", "", "")


class opened:
    """The vault of a home, with the key that its configuration names."""

    def __init__(self, home: Path, environment: dict[str, str] | None = None) -> None:
        self.home, self.environment = home, environment or {}

    def __enter__(self) -> opened:
        config = check_config(CompanionConfig, (self.home / "config.toml").read_text(), self.home)
        assert isinstance(config, CompanionConfig), config
        source = key_source(self.home, config.vault, self.environment)
        self.vault = copies.open_in_force(self.home / "vault.db", source)
        return self

    def __exit__(self, *_: object) -> None:
        self.vault.close_now()

    def do(self, step: Callable[[Transaction], T]) -> T:
        return asyncio.run(self.vault.run(step))


def records(home: Path, environment: dict[str, str] | None = None) -> list[Record]:
    with opened(home, environment) as vault:
        return vault.do(lambda tx: [row for record in RECORDS for row in tx.select(record)])


def passphrase(directory: Path, text: str = "four random words here") -> ToPassphrase:
    path = directory / f"passphrase-{len(text)}"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return ToPassphrase(path, Password(text), 64 * MIB)


def move(home: Path, target: rekeying.Target, environment: dict[str, str] | None = None) -> Rekeyed:
    return asyncio.run(rekey(home, home / "config.toml", target, environment or {}))
