"""The first start of a service makes its home; no later one ever makes it anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from token_relay.host import home as setup
from token_relay.host.config import CompanionConfig
from token_relay.host.home import FIRST_START_MARK, first_start
from token_relay.protocol.errors import VaultError

CONFIG = CompanionConfig.model_validate({"name": "watch", "broker": {"url": "mqtt://127.0.0.1:1"}})
SEALED = CompanionConfig.model_validate(
    {"name": "watch", "broker": {"url": "mqtt://127.0.0.1:1"}, "vault": {"credential": "vault"}}
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir(mode=0o700)
    return directory


def names(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


def test_empty_home_gets_vault_identity_and_request(home: Path) -> None:
    made = first_start(home, CONFIG, {})
    assert made is not None and len(made.device_id) == 26
    assert {"vault.db", "vault.key", "device.key", "device.csr"} <= names(home)
    assert FIRST_START_MARK not in names(home)


def test_certificates_that_were_brought_before_do_not_count(home: Path) -> None:
    (home / "ca.pem").write_text("ca")
    assert first_start(home, CONFIG, {}) is not None


@pytest.mark.parametrize(
    "left", ["vault.key", "vault.db-journal", "vault.db.damaged", "device.csr", "config.toml", "x"]
)
def test_home_in_which_anything_else_lies_is_never_begun_anew(home: Path, left: str) -> None:
    (home / left).write_bytes(b"")
    assert first_start(home, CONFIG, {}) is None
    assert names(home) == {left}


def test_second_start_keeps_the_identity(home: Path) -> None:
    first_start(home, CONFIG, {})
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    assert first_start(home, CONFIG, {}) is None
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


@pytest.mark.parametrize("step", ["_create_key", "_open_or_create", "csr"])
def test_power_cut_in_the_middle_is_taken_up_by_the_next_start(
    home: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class PowerCutError(Exception):
        pass

    def cut(*_: object, **__: object) -> None:
        raise PowerCutError

    with monkeypatch.context() as power:
        power.setattr(f"token_relay.host.{'device_key.write_csr' if step == 'csr' else 'home.' + step}", cut)
        with pytest.raises(PowerCutError):
            first_start(home, CONFIG, {})
    assert FIRST_START_MARK in names(home)
    assert first_start(home, CONFIG, {}) is not None
    assert {"vault.db", "vault.key", "device.key", "device.csr"} <= names(home)
    assert FIRST_START_MARK not in names(home)


def test_draft_of_the_mark_that_a_power_cut_left_is_no_reason_not_to_begin(home: Path) -> None:
    (home / f".{FIRST_START_MARK}.0123456789abcdef").write_bytes(b"")
    assert first_start(home, CONFIG, {}) is not None
    assert {"vault.db", "vault.key", "device.key", "device.csr", "vault.lock"} == names(home)


def test_missing_credential_leaves_nothing_and_says_how_to_make_one(home: Path, tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="credential vault is missing") as caught:
        first_start(home, SEALED, {})
    assert "systemd-creds encrypt - /etc/credstore.encrypted/vault" in caught.value.hint
    assert names(home) == set()
    with pytest.raises(VaultError, match="credential vault is missing"):
        first_start(home, SEALED, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert names(home) <= {FIRST_START_MARK}
    (tmp_path / "vault").write_bytes(bytes(range(32)))
    assert first_start(home, SEALED, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is not None
    assert setup.VAULT_FILE in names(home)
