"""The units for a person's own manager: installed without root, by systemd's judgement sound, and really run by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.cli.cli_kit import run_process
from tests.systemd.test_units import BASE
from tests.watchdog import HANG_S
from token_relay.cli import main as cli
from token_relay.host import install as do

UNITS = Path(__file__).parents[2] / "systemd" / "user"
# What a manager without rights can do of the system's set, without a namespace in which the callers' uids are lost.
POSSIBLE = {
    *("Type=notify", "WatchdogSec=60", "Restart=on-failure", "UMask=0077", "NoNewPrivileges=yes", "LimitCORE=0"),
    *("RestrictNamespaces=yes", "RestrictRealtime=yes", "RestrictSUIDSGID=yes", "LockPersonality=yes"),
    *("MemoryDenyWriteExecute=yes", "KeyringMode=private", "SystemCallArchitectures=native", "MemorySwapMax=0"),
    "SystemCallFilter=@system-service",
}


def lines_of(name: str) -> list[str]:
    return (UNITS / name).read_text().splitlines()


@pytest.mark.parametrize("kind", ["companion", "phone"])
def test_agents_have_what_a_users_manager_can_give_and_the_home_of_init(kind: str) -> None:
    lines = lines_of(f"token-relay-{kind}.service")
    assert set(BASE) >= POSSIBLE and [line for line in POSSIBLE if line not in lines] == []
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    program, *words = start.removeprefix("ExecStart=").split()
    assert program == f"{do.PROGRAM}/bin/token-relay"
    assert cli.parse(words).home == f"%h/.local/state/token-relay/{kind}"
    assert not [line for line in lines if line.startswith(("User=", "DynamicUser=", "Private", "Protect"))]


@pytest.mark.parametrize("name", do.SERVICES)
def test_units_start_at_login_and_give_up_where_a_person_must_act(name: str) -> None:
    lines = lines_of(name)
    assert "WantedBy=default.target" in lines and "RestartPreventExitStatus=2 4 5" in lines
    assert not [line for line in lines if line.startswith(("After=", "Requires="))]  # the system's are not known there


@pytest.mark.asks_systemd
def test_units_are_sound_by_systemds_judgement(tmp_path: Path) -> None:
    program = tmp_path / "a home" / "bin" / "token-relay"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    do.write(do.user_files(tmp_path / "units", program.parents[1], UNITS.parent))
    assert verified(tmp_path / "units") == (0, "")
    program.chmod(0o644)
    assert f"Command {program} is not executable" in verified(tmp_path / "units")[1]


def verified(directory: Path) -> tuple[int, str]:
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp") as runtime:
        ran = subprocess.run(
            ["systemd-analyze", "--user", "verify", "--man=no", *(directory / name for name in do.SERVICES)],
            env={**os.environ, "HOME": runtime, "XDG_RUNTIME_DIR": runtime},
            capture_output=True,
            text=True,
            check=False,
        )
    return ran.returncode, ran.stdout + ran.stderr


# -- The command -------------------------------------------------------------------------------------------


def test_install_brings_units_alone_says_two_commands_and_uninstall_removes_them(tmp_path: Path) -> None:
    def service(*words: str) -> subprocess.CompletedProcess[str]:
        ran = run_process("service", *words, "--user", env={"HOME": str(tmp_path / "home")}, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        return ran

    first = service("install")
    units = tmp_path / "home/.config/systemd/user"
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [units / name for name in do.SERVICES]
    assert f"ExecStart={sys.prefix}/bin/token-relay phone run" in (units / "token-relay-phone.service").read_text()
    assert "systemctl --user enable --now token-relay-companion" in first.stderr and "enable-linger" in first.stderr
    assert "everything is in place" in service("install").stdout
    wants = units / "default.target.wants" / do.SERVICES[0]  # as `systemctl --user enable` leaves it
    wants.parent.mkdir()
    wants.symlink_to(units / do.SERVICES[0])
    gone = json.loads(service("uninstall", "--json").stdout)
    assert gone == {"removed": [*(str(units / name) for name in do.SERVICES), str(wants)], "kept": []}
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()] == []


@pytest.mark.parametrize("config", ["", "/srv/mine"])
def test_units_go_below_the_root_and_where_the_person_keeps_configuration(tmp_path: Path, config: str) -> None:
    env = {"HOME": "/home/mara", "XDG_CONFIG_HOME": config}
    ran = run_process("service", "install", "--user", "--root", str(tmp_path / "root"), env=env, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    place = tmp_path / "root" / (config or "/home/mara/.config").lstrip("/") / "systemd/user"
    assert sorted(path.name for path in place.iterdir()) == sorted(do.SERVICES)


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (["--prefix", "/usr"], {"HOME": "/home/mara"}, "--prefix does not go with --user"),
        ([], {}, "HOME is not set"),
        (["--program", "/opt/a'b"], {"HOME": "/home/mara"}, "a unit cannot name"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, words: list[str], env: dict[str, str], said: str
) -> None:
    ran = run_process("service", "install", "--user", "--root", str(tmp_path), *words, env=env, cwd=tmp_path)
    assert ran.returncode == 2 and said in ran.stderr
    assert list(tmp_path.iterdir()) == []


# -- A manager that runs -----------------------------------------------------------------------------------

# A user's manager wants a machine that systemd has booted; for this process tree it looks like one.
MACHINE = """\
set -eu
mount -t tmpfs none /run
mkdir -p /run/systemd/system
systemd --user --log-target=console &
until systemctl --user daemon-reload 2>/dev/null; do kill -0 $! || exit 1; done
touch "$HOME/manager-runs"
"""
STORY = """\
token-relay service install --user
token-relay companion init --broker mqtt://127.0.0.1:1 --name watch
token-relay phone init --broker mqtt://127.0.0.1:1 --name phone \\
    --provider https://provider.invalid --client-id c --no-look
systemctl --user daemon-reload
mkdir "$HOME/.config/systemd/user/token-relay-sandbox.service.d"
printf '[Service]\\nEnvironment="SANDBOX_OPTIONS=--http-port 0 --mqtt-port 0"\\n' \
    > "$HOME/.config/systemd/user/token-relay-sandbox.service.d/ports.conf"
systemctl --user enable --now token-relay-companion token-relay-phone token-relay-sandbox
systemctl --user reload token-relay-companion token-relay-phone
for kind in companion phone; do
    token-relay $kind status --json >> "$HOME/said"
done
systemctl --user is-active token-relay-companion token-relay-phone token-relay-sandbox >> "$HOME/active"
systemctl --user show --property=StatusText token-relay-companion >> "$HOME/active"
token-relay service uninstall --user
systemctl --user is-active token-relay-companion token-relay-phone token-relay-sandbox >> "$HOME/active" || true
"""
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture
def machine() -> Iterator[Path]:
    """A home under a short name, with its runtime directory beside it."""
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/var/tmp") as directory:
        (Path(directory) / "run").mkdir(mode=0o700)
        (Path(directory) / "home").mkdir(mode=0o700)
        yield Path(directory)


@pytest.mark.asks_systemd
@pytest.mark.skipif(
    needs.missing("unshare") != "" or os.geteuid() != 0, reason="a manager of its own: unshare, as root"
)
def test_a_users_manager_starts_reloads_and_stops_all_three(machine: Path) -> None:
    environment = {
        "HOME": str(machine / "home"),
        "XDG_RUNTIME_DIR": str(machine / "run"),
        "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/lib/systemd:/lib/systemd:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    ran = subprocess.run(
        [*UNSHARE, "sh", "-c", MACHINE + STORY],
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    if not (machine / "home/manager-runs").exists():  # before anything of ours was asked
        pytest.skip(f"no service manager runs in a namespace here: {ran.stderr.strip().rpartition(chr(10))[2]}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = [json.loads(line) for line in (machine / "home/said").read_text().splitlines()]
    assert [Path(status["home"]) for status in said] == [
        machine / "home/.local/state/token-relay" / kind for kind in ("companion", "phone")
    ]
    active = (machine / "home/active").read_text().splitlines()
    assert active[:3] == ["active"] * 3 and active[3].startswith("StatusText=0 paired")
    assert active[4:] == ["inactive"] * 3
