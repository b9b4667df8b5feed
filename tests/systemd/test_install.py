"""Installation: once, twice, and away again."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.cli.cli_kit import run_process
from tests.systemd.test_units import verified
from token_relay.host import install as do
from token_relay.host.config import CompanionConfig, PhoneConfig
from token_relay.host.config_file import load_config
from token_relay.protocol.errors import ConfigError

UNITS = Path(__file__).parents[2] / "systemd"


@pytest.fixture
def places(tmp_path: Path) -> do.Places:
    return do.Places(root=tmp_path / "root")


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return all that a second run must not change: names, modes, times, contents, targets."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def test_a_checkout_has_its_units_beside_it() -> None:
    assert do.sources() == UNITS


def test_second_run_changes_nothing(places: do.Places) -> None:
    assert len(do.install(places, UNITS)) > 10
    before = tree(places.root)
    assert do.install(places, UNITS) == []
    assert tree(places.root) == before


def test_changed_unit_is_brought_back_and_changed_configuration_stays(places: do.Places) -> None:
    do.install(places, UNITS)
    unit = places.under_prefix("lib", "systemd", "system", do.SERVICES[0])
    config = places.root / "etc/token-relay/companion.toml"
    unit.write_text("[Unit]\n")
    config.write_text('name = "mine"\n')
    assert do.install(places, UNITS) == [unit]
    assert config.read_text() == 'name = "mine"\n'
    unit.chmod(0o666)
    assert do.install(places, UNITS) == [unit] and unit.stat().st_mode & 0o777 == 0o644


def test_uninstall_removes_all_but_data_and_what_a_person_wrote(places: do.Places) -> None:
    do.install(places, UNITS)
    vault = places.root / "var/lib/token-relay/companion/vault.db"
    vault.parent.mkdir(parents=True)
    vault.write_bytes(b"data")
    credential = places.root / "etc/credstore.encrypted/token-relay-companion"
    credential.parent.mkdir()
    credential.write_bytes(b"sealed")
    config = places.root / "etc/token-relay/phone.toml"
    config.write_text('name = "mine"\n')
    removed, stays = do.uninstall(places, UNITS)
    assert stays == [config] and len(removed) > 10
    left = [path for path in places.root.rglob("*") if not path.is_dir()]
    assert sorted(left) == sorted([vault, credential, config])
    assert do.uninstall(places, UNITS) == ([], [config])


def test_link_of_somebody_else_is_not_removed(places: do.Places) -> None:
    do.install(places, UNITS)
    link = places.under_prefix("bin", "token-relay")
    link.unlink()
    link.symlink_to("/home/somebody/token-relay")
    do.uninstall(places, UNITS)
    assert link.is_symlink()


def test_units_run_the_program_where_it_lies(tmp_path: Path) -> None:
    places = do.Places(tmp_path, Path("/usr"), Path("/srv/relay"))
    do.install(places, UNITS)
    text = (tmp_path / "usr/lib/systemd/system" / do.SERVICES[0]).read_text()
    assert "ExecStart=/srv/relay/bin/token-relay companion run" in text and do.PROGRAM not in text
    assert (tmp_path / "usr/bin/token-relay").readlink() == Path("/srv/relay/bin/token-relay")
    assert "/srv/relay" in (tmp_path / "usr/lib/systemd/system/token-relay-phone.service").read_text()


@pytest.mark.asks_systemd
@pytest.mark.parametrize("name", ["pre fix/venv", "a%3Ab/50%", "a  b/ü%n", "x#y@z,{w}"])
def test_units_of_a_program_with_an_odd_name_are_sound_by_systemds_judgement(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    (program / "bin").mkdir(parents=True)
    (program / "bin/token-relay").write_text("#!/bin/sh\n")
    (program / "bin/token-relay").chmod(0o755)
    places = do.Places(tmp_path / "root", program=program)
    do.install(places, UNITS)
    assert verified(places.under_prefix("lib", "systemd", "system")) == ""
    (program / "bin/token-relay").chmod(0o644)
    assert f"Command {program}/bin/token-relay is not executable" in verified(places.under_prefix("lib/systemd/system"))
    assert do.install(places, UNITS) == []
    assert places.under_prefix("bin", "token-relay").readlink() == program / "bin/token-relay"


def test_odd_name_of_the_program_is_written_as_units_are(tmp_path: Path) -> None:
    do.install(do.Places(tmp_path, program=Path("/opt/a b/50%")), UNITS)
    unit = (tmp_path / "usr/local/lib/systemd/system/token-relay-phone.service").read_text()
    assert '\nExecStart="/opt/a b/50%%/bin/token-relay" phone run --config' in unit
    assert '/usr/bin:/bin "/opt/a b/50%%" /etc\n' in unit


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b", "a$b", "a:b", "a\nb", "a;b", "a\tb"])
def test_program_whose_name_means_something_in_a_unit_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="a unit cannot name"):
        do.install(do.Places(tmp_path, program=Path("/opt") / name), UNITS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["/home/pi/token-relay", "/root/venv"])
def test_program_in_a_home_is_refused_because_the_services_cannot_see_it(tmp_path: Path, program: str) -> None:
    with pytest.raises(ConfigError, match="homes are hidden"):
        do.install(do.Places(tmp_path, program=Path(program)), UNITS)
    assert list(tmp_path.iterdir()) == []


def test_configuration_of_a_service_is_complete_but_for_the_names(places: do.Places) -> None:
    do.install(places, UNITS)
    companion = load_config(CompanionConfig, places.root / "etc/token-relay/companion.toml")
    assert companion.vault.credential == "token-relay-companion"
    assert str(companion.broker.cert) == "/var/lib/token-relay/companion/device.pem"
    assert str(companion.token_api.policy_file) == "/etc/token-relay/policy.toml"
    phone = load_config(PhoneConfig, places.root / "etc/token-relay/phone.toml")
    assert phone.vault.credential == "token-relay-phone" and phone.allow_refresh_token_access is False


def test_command_names_the_next_step_and_says_when_nothing_was_to_do(tmp_path: Path) -> None:
    def service(command: str) -> subprocess.CompletedProcess[str]:
        return run_process(
            "service", command, "--root", str(tmp_path / "root"), "--program", "/opt/token-relay", env={}, cwd=tmp_path
        )

    first = service("install")
    assert first.returncode == 0 and "installed " in first.stdout
    assert "systemctl enable --now token-relay-companion" in first.stderr
    assert "everything is in place" in service("install").stdout
    gone = service("uninstall")
    assert gone.returncode == 0 and "/var/lib/token-relay" in gone.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("package", ["relay", "device"])
def test_wheel_says_that_its_packages_are_typed(package: str) -> None:
    """PEP 561; without the mark a type checker takes all of it for Any. The booted test sees the installed ones."""
    root = UNITS.parent
    assert (root / package / "token_relay" / "py.typed").read_bytes() == b""
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert f"{package}/token_relay" in wheel["packages"] and not {"only-include", "include"} & wheel.keys()
    left_out = [path for path in wheel["exclude"] if "token_relay" in path]
    assert left_out == ["/device/token_relay/py.typed"]  # one is enough, and two would be one file twice
