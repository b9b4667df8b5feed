"""Where an agent lives, as a table of what was typed and what the environment says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sockets.sockets_kit import as_uid
from token_relay.host import paths
from token_relay.protocol.errors import ConfigError

FULL = {
    "TOKEN_RELAY_HOME": "/chosen",
    "TOKEN_RELAY_HOMES": "/homes",
    "STATE_DIRECTORY": "/var/lib/token-relay/phone:/var/lib/other",
    "RUNTIME_DIRECTORY": "/run/token-relay/phone:/run/other",
    "XDG_STATE_HOME": "/xdg",
    "HOME": "/home/ann",
}


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in FULL.items() if name not in names}


@pytest.mark.parametrize(
    ("environment", "home", "expected"),
    [
        (FULL, "/typed", "/typed"),
        (FULL, None, "/chosen"),
        (without("TOKEN_RELAY_HOME"), None, "/homes/phone"),
        (without("TOKEN_RELAY_HOME", "TOKEN_RELAY_HOMES"), None, "/var/lib/token-relay/phone"),
        (without("TOKEN_RELAY_HOME", "TOKEN_RELAY_HOMES", "STATE_DIRECTORY"), None, "/xdg/token-relay/phone"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/ann"}, None, "/home/ann/.local/state/token-relay/phone"),
        ({"XDG_STATE_HOME": "", "HOME": "/home/ann"}, None, "/home/ann/.local/state/token-relay/phone"),
        ({"TOKEN_RELAY_HOME": "", "HOME": "/home/ann"}, None, "/home/ann/.local/state/token-relay/phone"),
    ],
)
def test_home_is_what_was_typed_then_chosen_then_the_managers_then_the_users(
    environment: dict[str, str], home: str | None, expected: str
) -> None:
    assert paths.agent_home("phone", environment, home=home) == Path(expected)


def test_no_home_at_all_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="HOME is not set") as caught:
        paths.agent_home("companion", {})
    assert "--home" in caught.value.hint


def test_sockets_are_where_the_option_says_then_the_manager_then_at_home() -> None:
    assert paths.socket_directory("phone", FULL, home="/h", socket="/s") == Path("/s")
    assert paths.socket_directory("phone", FULL, home="/h") == Path("/run/token-relay/phone")
    assert paths.socket_directory("phone", without("RUNTIME_DIRECTORY"), home="/h") == Path("/h")


@pytest.mark.parametrize(
    ("environment", "home", "socket", "expected"),
    [
        (FULL, "/h", "/s", ["/s"]),
        (FULL, "/h", None, ["/h"]),
        (FULL, None, None, ["/chosen"]),
        (without("TOKEN_RELAY_HOME"), None, None, ["/homes/phone"]),
        ({"HOME": "/home/ann"}, None, None, ["/home/ann/.local/state/token-relay/phone", "/run/token-relay/phone"]),
        ({}, None, None, ["/run/token-relay/phone"]),
        (
            without("TOKEN_RELAY_HOME", "TOKEN_RELAY_HOMES"),
            None,
            None,
            ["/run/token-relay/phone", "/var/lib/token-relay/phone"],
        ),
    ],
)
def test_who_names_a_place_means_that_agent_and_no_other(
    environment: dict[str, str], home: str | None, socket: str | None, expected: list[str]
) -> None:
    found = paths.search_directories("phone", environment, home=home, socket=socket)
    assert found == tuple(Path(directory) for directory in expected)


def test_config_file_is_the_named_one_then_the_homes_then_the_machines(tmp_path: Path) -> None:
    home, etc = tmp_path / "home", tmp_path / "etc"
    home.mkdir()
    etc.mkdir()

    def found(config: Path | None = None) -> Path | None:
        return paths.config_file("phone", {}, home=home, config=config, system_directory=etc)

    assert found() is None
    (etc / "phone.toml").touch()
    assert found() == etc / "phone.toml"
    (home / "config.toml").touch()
    assert found() == home / "config.toml"
    (tmp_path / "mine.toml").touch()
    assert found(tmp_path / "mine.toml") == tmp_path / "mine.toml"
    with pytest.raises(ConfigError, match="no configuration file"):
        found(tmp_path / "absent.toml")
    (home / "config.toml").unlink()
    (home / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="not a regular file"):
        found()


@pytest.mark.asyncio
async def test_home_that_may_not_be_read_does_not_fall_through_to_another_configuration(
    place: Path, other_uid: int
) -> None:
    (place / "home").mkdir(mode=0o700)
    (place / "phone.toml").touch()

    def look() -> bytes:
        return str(paths.config_file("phone", {}, home=place / "home", system_directory=place)).encode()

    assert b"ConfigError('cannot look at" in await as_uid(other_uid, look)


def test_socket_path_has_at_most_107_bytes() -> None:
    assert paths.check_socket_path(Path("/" + "a" * 106)) == Path("/" + "a" * 106)
    with pytest.raises(ConfigError, match="108 bytes, the limit is 107"):
        paths.check_socket_path(Path("/" + "a" * 107))
    with pytest.raises(ConfigError, match="109 bytes"):
        paths.check_socket_path(Path("/" + "é" * 54))
