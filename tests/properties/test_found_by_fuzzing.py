"""What fuzzing found, each by its name."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from token_relay.apps.policy import parse_policy
from token_relay.host.config import CompanionConfig
from token_relay.host.config_file import check_config
from token_relay.protocol.errors import ConfigError
from token_relay.provider.id_token import parse_jwks
from token_relay.sandbox.provider.world.model import parse_world

TOO_LONG = f"a = {'9' * 5000}"  # Python refuses to convert it, with a ValueError that is no TOMLDecodeError


def test_a_number_of_5000_digits_in_a_configuration_is_a_problem_with_its_reason() -> None:
    found = check_config(CompanionConfig, TOO_LONG, Path("/nowhere"))
    assert isinstance(found, tuple)
    assert found[0].message == "not TOML: a number has too many digits"


def test_a_number_of_5000_digits_in_a_policy_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"policy\.toml: not TOML: a number has too many digits"):
        parse_policy(TOO_LONG, file="policy.toml", owner_uid=1000)


def test_a_number_of_5000_digits_in_a_world_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"world\.toml: not TOML: a number has too many digits"):
        parse_world(TOO_LONG, file="world.toml")


def test_a_published_key_that_is_too_short_is_passed_over_without_a_word() -> None:
    """The library warned about it on standard error, and raised the warning where warnings are errors."""
    modulus = base64.urlsafe_b64encode(bytes(200) + b"\xff" * 64).decode().rstrip("=")  # 512 bits behind zeros
    keys = {"keys": [{"kty": "RSA", "n": modulus, "e": "AQAB"}]}
    assert parse_jwks(json.dumps(keys).encode()) == ()
