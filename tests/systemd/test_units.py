"""The units by systemd's own judgement, and what they say about the program by ours."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from token_relay.cli import main as cli
from token_relay.host.install import PROGRAM, SERVICES, SOCKETS
from token_relay.host.paths import CONTROL_SOCKET, SYSTEM_CONFIG_DIRECTORY, SYSTEM_SOCKET_DIRECTORY, TOKEN_SOCKET

UNITS = Path(__file__).parents[2] / "systemd"
# The set that every agent has; what each gives is told in docs/raspberry-pi.md.
BASE = (
    "Type=notify",
    "WatchdogSec=60",
    "Restart=on-failure",
    "DynamicUser=yes",
    "StateDirectoryMode=0700",
    "UMask=0077",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "DevicePolicy=closed",
    "PrivateMounts=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RemoveIPC=yes",
    "KeyringMode=private",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "LimitCORE=0",
    "MemorySwapMax=0",
    "LimitMEMLOCK=infinity",
)


def lines_of(unit: str) -> list[str]:
    return [line for line in (UNITS / unit).read_text().splitlines() if line and not line.startswith("#")]


def value_of(unit: str, key: str) -> str:
    (line,) = [line for line in lines_of(unit) if line.startswith(f"{key}=")]
    return line.removeprefix(f"{key}=")


@pytest.mark.asks_systemd
@pytest.mark.parametrize(
    ("unit", "most"), [("token-relay-companion", 1.2), ("token-relay-phone", 0.9), ("token-relay-sandbox", 1.0)]
)
def test_exposure_stays_below_its_limit(unit: str, most: float) -> None:
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / f"{unit}.service")],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", ran.stdout)
    assert found and 0 < float(found[1]) <= most, ran.stdout


def verified(directory: Path) -> str:
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(directory / name) for name in (*SERVICES, *SOCKETS))],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return ran.stdout + ran.stderr


@pytest.mark.asks_systemd
def test_systemd_finds_nothing_to_complain_about_and_would(tmp_path: Path) -> None:
    for name in (*SERVICES, *SOCKETS):  # the program is not installed where the tests run
        text = (UNITS / name).read_text().replace(f"{PROGRAM}/bin/token-relay", "/bin/true")
        (tmp_path / name).write_text(text)
    assert verified(tmp_path) == ""
    planted = tmp_path / SERVICES[0]
    planted.write_text(planted.read_text().replace("[Service]", "[Service]\nProtectClocks=yes"))
    assert "ProtectClocks" in verified(tmp_path)


@pytest.mark.parametrize("kind", ["companion", "phone"])
def test_agents_units_have_the_whole_base_set(kind: str) -> None:
    lines = lines_of(f"token-relay-{kind}.service")
    assert [line for line in BASE if line not in lines] == []
    assert "SystemCallFilter=~@privileged @resources" in lines
    assert f"LoadCredentialEncrypted=token-relay-{kind}" in lines
    assert f"StateDirectory=token-relay/{kind}" in lines
    assert 0 < int(value_of(f"token-relay-{kind}.service", "StartLimitBurst")) <= 10


def test_companion_sees_the_uids_of_its_callers() -> None:
    assert not [line for line in lines_of("token-relay-companion.service") if line.startswith("PrivateUsers")]
    assert "PrivateUsers=yes" in lines_of("token-relay-phone.service")


def test_nothing_waits_for_the_network_or_the_clock() -> None:
    for name in (*SERVICES, *SOCKETS):
        for line in lines_of(name):
            assert "network-online.target" not in line and "time-sync.target" not in line, name


@pytest.mark.parametrize("kind", ["companion", "phone", "sandbox"])
def test_command_line_of_a_unit_is_taken_by_the_parser(kind: str) -> None:
    program, *arguments = value_of(f"token-relay-{kind}.service", "ExecStart").split()
    assert program == f"{PROGRAM}/bin/token-relay"
    args = cli.parse([word for word in arguments if word != "$SANDBOX_OPTIONS"])
    if kind != "sandbox":
        assert args.config == str(SYSTEM_CONFIG_DIRECTORY / f"{kind}.toml")


def test_passed_sockets_lie_where_clients_look_and_have_the_names_that_the_agent_knows() -> None:
    for name, socket, mode in (
        ("token-relay-companion.socket", TOKEN_SOCKET, "0660"),
        ("token-relay-companion-control.socket", CONTROL_SOCKET, "0600"),
    ):
        assert value_of(name, "ListenStream") == str(SYSTEM_SOCKET_DIRECTORY / "companion" / socket)
        assert value_of(name, "FileDescriptorName") == socket
        assert value_of(name, "SocketMode") == mode
        assert name in value_of("token-relay-companion.service", "Requires").split()
    assert value_of("token-relay-companion.socket", "SocketGroup") == "token-relay"
    assert "g token-relay - -" in lines_of("token-relay.sysusers")
    assert value_of("token-relay-phone.service", "RuntimeDirectory").split()[0] == "token-relay/phone"


def test_exit_codes_that_a_person_must_mend_are_not_tried_again() -> None:
    for kind in ("companion", "phone"):
        assert value_of(f"token-relay-{kind}.service", "RestartPreventExitStatus") == "2 4 5"
