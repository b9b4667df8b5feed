"""The vault's format stays what it is: fixed vectors, made with libsodium and hashlib alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from token_relay.protocol.secret import Password, PrivateKey, Secret
from token_relay.vault import sealing
from token_relay.vault.keys import PassphraseKey

CASES: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/vault.json").read_text())
KEYS = {name: bytes.fromhex(value) for name, value in CASES["keys"].items()}
KEK, MAC_KEY = PrivateKey(KEYS["kek"]), PrivateKey(KEYS["mac_key"])


def each(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", CASES[kind], ids=[case["name"] for case in CASES[kind]])


def test_keys_are_derived_from_the_vault_key() -> None:
    assert sealing.kek_of(PrivateKey(KEYS["vault_key"]), KEYS["salt"]) == KEK
    assert sealing.mac_key_of(KEK) == MAC_KEY


@each("wrapped")
def test_data_key_is_wrapped_for_its_name(case: dict[str, str]) -> None:
    data_key, octets = PrivateKey(bytes.fromhex(case["data_key"])), bytes.fromhex(case["wrapped"])
    assert sealing.wrap(data_key, kek=KEK, name=case["name"], nonce=bytes.fromhex(case["nonce"])) == octets
    assert sealing.unwrap(octets, kek=KEK, name=case["name"]) == data_key
    others = [other["name"] for other in CASES["wrapped"] if other != case]
    assert [name for name in others if sealing.unwrap(octets, kek=KEK, name=name) is not None] == []


@each("cells")
def test_cell_is_sealed_for_its_place(case: dict[str, Any]) -> None:
    place = sealing.cell_label(case["table"], tuple(case["key"]), case["column"])
    assert place.hex() == case["place"]
    data_key, secret = PrivateKey(bytes.fromhex(case["data_key"])), bytes.fromhex(case["secret"])
    octets, nonce = bytes.fromhex(case["sealed"]), bytes.fromhex(case["nonce"])
    assert sealing.seal_cell(Secret(secret), data_key=data_key, place=place, nonce=nonce) == octets
    assert sealing.open_cell(octets, data_key=data_key, place=place) == secret


@each("rows")
def test_mac_of_a_row_covers_its_table_and_every_column(case: dict[str, Any]) -> None:
    row = [bytes.fromhex(value[0]) if isinstance(value, list) else value for value in case["row"]]
    assert sealing.mac_of(case["table"], row, mac_key=MAC_KEY).hex() == case["mac"]


def test_no_two_rows_have_one_mac() -> None:
    assert len({case["mac"] for case in CASES["rows"]}) == len(CASES["rows"])


@each("checks")
def test_check_of_the_file(case: dict[str, Any]) -> None:
    wrapped = bytes.fromhex(case["wrapped"])
    found = sealing.check_of(schema_version=case["schema_version"], salt=KEYS["salt"], wrapped=wrapped)
    assert found.hex() == case["check"]


def test_key_of_a_passphrase(tmp_path: Path) -> None:
    case = CASES["passphrase"]
    path = tmp_path / "vault.kdf"
    path.write_text(
        json.dumps(
            {
                **{"version": 1, "kdf": "argon2id", "salt": case["salt"], "passes": case["passes"]},
                **{"memory_bytes": case["memory_bytes"], "verifier": case["verifier"]},
            }
        )
    )
    path.chmod(0o600)
    assert PassphraseKey(path, Password(case["passphrase"])).load() == PrivateKey(bytes.fromhex(case["vault_key"]))
