"""``doctor``: a sound device shows no red line, and each fault turns exactly its own line red."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.cli_kit import Agent, Ran, Shell, context
from token_relay.agents.ports import Now
from token_relay.ca import store as certs
from token_relay.cli.commands.doctor import home_of
from token_relay.host import mounts
from token_relay.host.clock import SystemClock
from token_relay.host.config import BrokerConfig, CompanionConfig, VaultConfig
from token_relay.host.config_file import check_config
from token_relay.host.device_key import write_csr
from token_relay.host.mounts import Mount, find_mount
from token_relay.service.checks import broker, local, machine, provider
from token_relay.service.checks.broker import trust_hint
from token_relay.service.checks.finding import Finding
from token_relay.service.control import JSON
from token_relay.service.round_trip import doctor as measure
from token_relay.service.round_trip import judged

NAME = "a" * 26
OTHER = "b" * 26
MOSQUITTO = "persistence true\nautosave_on_changes true\nautosave_interval 1\nset_tcp_nodelay true\n"
SWAP_HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
UNIT = "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nUnitFileState=enabled\nNRestarts=0\n"
NOW = Now("boot", 1000.0, datetime(2026, 5, 1, tzinfo=UTC).timestamp(), True)


# -- A device on a machine of its own ----------------------------------------------------------------------


@contextmanager
def tls_server(tls: ssl.SSLContext) -> Iterator[int]:
    """Accept TLS as a broker does, and hold each connection until the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                open_sockets.append(tls.wrap_socket(plain, server_side=True))
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for sock in open_sockets:
            sock.close()


class Provider(BaseHTTPRequestHandler):
    """Answers discovery; ``is_broken`` of the server makes it a web site that knows nothing."""

    def do_GET(self) -> None:
        assert isinstance(self.server, ThreadingHTTPServer)
        here = f"http://127.0.0.1:{self.server.server_port}"
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri", "revocation_endpoint")
        document = {"issuer": here} | {name: f"{here}/{name}" for name in names}
        body = json.dumps(document | getattr(self.server, "document", {})).encode()
        is_known = self.path == "/.well-known/openid-configuration" and not getattr(self.server, "is_broken", False)
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Device:
    """A phone whose every part is sound until a test spoils one."""

    shell: Shell
    agent: Agent
    ca_dir: Path
    home: Path
    conf: Path
    mountinfo: Path
    unit: Path
    provider: ThreadingHTTPServer
    clock: Now
    status: dict[str, JSON] = field(default_factory=dict)
    while_running: list[Callable[[], None]] = field(default_factory=list)

    def write_config(self, **changed: str) -> None:
        values = {"url": f"mqtts://127.0.0.1:{self.port}", "vault": "", "provider": self.issuer} | changed
        path = self.home / "config.toml"
        path.write_text(
            f'name = "phone"\n[broker]\nurl = "{values["url"]}"\nca = "ca.pem"\ncert = "device.pem"\n'
            f'key = "device.key"\n[provider]\nurl = "{values["provider"]}"\nclient_id = "c"\nprofile = "strict"\n'
            f"[vault]\n{values['vault']}\n"
        )
        path.chmod(0o600)

    port = 0

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.provider.server_address[1]}"

    def sign(self, *, days_ago: int, name: str = NAME) -> None:
        """Give the device a certificate that was signed so many days ago (they last 90)."""
        certs.sign(self.ca_dir, self.home / "device.csr", now=datetime.now(UTC) - timedelta(days=days_ago))

    def doctor(self, *options: str) -> Ran:
        self.agent.replies("status", self.status)
        with self.agent.running():
            for spoil in self.while_running:
                spoil()
            return self.shell("phone", "doctor", "--home", str(self.home), *options)

    def red(self) -> set[str]:
        ran = self.doctor("--json")
        checks = json.loads(ran.out)["checks"]
        assert ran.code == (0 if all(check["ok"] for check in checks) else 1)
        for check in checks:
            assert check["ok"] or check["hint"], check
        return {check["name"] for check in checks if not check["ok"]}


@pytest.fixture
def device(shell: Shell, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    bin_dir, ca_dir, home = tmp_path / "bin", tmp_path / "ca", agent.directory
    bin_dir.mkdir()
    unit = tmp_path / "unit.txt"
    unit.write_text(UNIT)
    systemctl = bin_dir / "systemctl"
    systemctl.write_text(f"#!/bin/sh\nexec cat {unit}\n")
    systemctl.chmod(0o755)
    shell.env["PATH"] = f"{bin_dir}:{os.environ['PATH']}"
    ca_dir.mkdir(mode=0o755)
    certs.init(ca_dir, hosts=("127.0.0.1",), now=datetime.now(UTC) - timedelta(days=1))
    write_csr(home, NAME)
    shutil.copy(ca_dir / "ca.pem", home)
    (home / "vault.key").write_bytes(bytes(32))
    (home / "vault.key").chmod(0o600)
    mountinfo, conf = tmp_path / "mountinfo", tmp_path / "mosquitto.conf"
    mountinfo.write_text("1 0 8:1 / / rw,relatime - ext4 /dev/mmcblk0p2 rw\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(ca_dir / "broker" / "broker.pem", ca_dir / "broker" / "broker.key")
    tls.load_verify_locations(ca_dir / "ca.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    try:
        with tls_server(tls) as port:
            found = Device(shell, agent, ca_dir, home, conf, mountinfo, unit, server, NOW)
            found.port = port
            found.clock = Now("boot", 1000.0, datetime.now(UTC).timestamp(), True)
            conf.write_text(f"listener {port}\n{MOSQUITTO}")
            monkeypatch.setattr(broker, "confs_here", lambda **_: [conf])
            monkeypatch.setattr(mounts, "MOUNTINFO", mountinfo)
            monkeypatch.setattr(SystemClock, "now", lambda _: found.clock)
            found.status = {"broker": {"connected": True, "url": f"mqtts://127.0.0.1:{port}"}, "action": None}
            agent.replies("doctor", {"checks": [{"name": "round trip", "ok": True, "detail": "1 ms", "hint": ""}]})
            found.sign(days_ago=1)
            found.write_config()
            yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# -- The promises ------------------------------------------------------------------------------------------


def test_a_sound_device_is_0_and_names_every_part_once(device: Device) -> None:
    ran = device.doctor()
    assert ran.code == 0, ran.out
    lines = [line for line in ran.out.splitlines() if not line.startswith("      ")]
    assert [line[6:].split("  ")[0] for line in lines] == [
        "home",
        "configuration",
        "clock",
        "disk",
        "vault key",
        "broker ca",
        "broker cert",
        "broker key",
        "broker",
        "broker settings",
        "sockets",
        "unit",
        "swap",
        "agent",
        "connection",
        "round trip",
        "provider",
    ]
    assert {line.split()[0] for line in lines} == {"ok", "note"}
    assert "note  vault key        key file: a stolen disk gives away everything" in ran.out


def spoil_config(device: Device) -> None:
    (device.home / "config.toml").write_text("name = 7\n")


def close_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def revoke_everybody(device: Device) -> None:
    """Let the broker trust another CA than the one that signed the device."""
    certs.init(device.ca_dir, hosts=("127.0.0.1",), force=True)
    certs.sign(device.ca_dir, device.home / "device.csr")  # the device has the new CA's certificate, the broker not


def to_be_connected(device: Device) -> None:
    device.status["broker"] = {"connected": False, "last_error": "not authorized"}


FAULTS: dict[str, tuple[str, Callable[[Device], object]]] = {
    "home is open to writers": ("home", lambda d: d.home.chmod(0o777)),
    "clock in 1970": ("clock", lambda d: setattr(d, "clock", Now("boot", 9.0, 9.0, False))),
    "clock not synchronised": ("clock", lambda d: setattr(d, "clock", Now("boot", 9.0, d.clock.wall_s, False))),
    "mounted read-only": ("disk", lambda d: d.mountinfo.write_text("1 0 8:1 / / ro - ext4 /dev/x ro\n")),
    "barriers off": ("disk", lambda d: d.mountinfo.write_text("1 0 8:1 / / rw - ext4 /dev/x rw,nobarrier\n")),
    "volatile overlay": ("disk", lambda d: d.mountinfo.write_text("1 0 8:1 / / rw - overlay o rw,volatile\n")),
    "home in memory": ("disk", lambda d: d.mountinfo.write_text("1 0 8:1 / / rw - tmpfs tmpfs rw\n")),
    "vault key open to others": ("vault key", lambda d: (d.home / "vault.key").chmod(0o644)),
    "vault key missing": ("vault key", lambda d: (d.home / "vault.key").unlink()),
    "no certificate": ("broker cert", lambda d: (d.home / "device.pem").unlink()),
    "certificate ends soon": ("broker cert", lambda d: d.sign(days_ago=80)),
    "key open to others": ("broker key", lambda d: (d.home / "device.key").chmod(0o644)),
    "broker is down": ("broker", lambda d: d.write_config(url=f"mqtts://127.0.0.1:{close_port()}")),
    "no such host": ("broker", lambda d: d.write_config(url="mqtts://broker.invalid")),
    "settings of the broker": (
        "broker settings",
        lambda d: d.conf.write_text(f"listener {d.port}\npersistence true\n"),
    ),
    "unit failed": ("unit", lambda d: d.unit.write_text(UNIT.replace("=active", "=failed"))),
    "unit restarts": ("unit", lambda d: d.unit.write_text(UNIT.replace("NRestarts=0", "NRestarts=9"))),
    "unit enabled, not running": ("unit", lambda d: d.unit.write_text(UNIT.replace("=active", "=inactive"))),
    "agent not connected": ("connection", to_be_connected),
    "provider knows nothing": ("provider", lambda d: setattr(d.provider, "is_broken", True)),
    "provider is down": ("provider", lambda d: d.write_config(provider=f"http://127.0.0.1:{close_port()}")),
    "control socket open to others": (
        "sockets",
        lambda d: d.while_running.append(lambda: (d.home / "control.sock").chmod(0o666)),
    ),
    "token socket open to others": (
        "sockets",
        lambda d: d.while_running.append(lambda: (d.home / "token.sock").chmod(0o666)),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_turns_exactly_its_own_line_red(device: Device, fault: str) -> None:
    line, spoil = FAULTS[fault]
    spoil(device)
    assert device.red() == {line}


def test_what_the_running_agent_says_of_the_provider_counts(device: Device) -> None:
    """Its environment may have a CA that this shell's has not."""
    row: dict[str, JSON] = {"name": "provider", "ok": True, "detail": "it answers the agent", "hint": ""}
    device.agent.replies("doctor", {"checks": [row]})
    setattr(device.provider, "is_broken", True)  # noqa: B010
    assert device.red() == set()


def test_tls_is_not_tried_without_the_ca_and_the_line_says_so(device: Device) -> None:
    (device.home / "ca.pem").unlink()
    lines = device.doctor().out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("FAIL  broker  ")]
    assert f"answers; not tried with TLS without {device.home / 'ca.pem'}" in lines[at]
    assert "try: bring ca.pem from the CA's directory" in lines[at + 1]


def test_a_broker_of_another_name_shows_its_names_and_the_whole_command(device: Device) -> None:
    device.write_config(url=f"mqtts://localhost:{device.port}")
    lines = device.doctor().out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("FAIL  broker  ")]
    assert "is for 127.0.0.1: `token-relay certs issue localhost`" in lines[at + 1]


def test_a_clock_that_was_never_set_is_the_cause_at_the_broker_too() -> None:
    certificates = trust_hint("certificate is not yet valid", BrokerConfig(url="mqtts://broker.invalid"), 9.0)
    assert certificates == "set the clock of this machine"


def test_what_the_metadata_says_cannot_work_is_a_note(device: Device) -> None:
    setattr(device.provider, "document", {"code_challenge_methods_supported": ["plain"], "jwks_uri": None})  # noqa: B010
    ran = device.doctor()
    lines = [line for line in ran.out.splitlines() if line.startswith("note  provider")]
    assert ["PKCE with S256" in line for line in lines] == [True, False]
    assert ["jwks_uri" in line for line in lines] == [False, True]
    assert ran.code == 0


def test_a_provider_without_revocation_is_a_note_that_says_how_long_tokens_live(device: Device) -> None:
    setattr(device.provider, "document", {"revocation_endpoint": None})  # noqa: B010
    ran = device.doctor()
    (line,) = [line for line in ran.out.splitlines() if line.startswith("note  revocation")]
    assert "lives on there until its own end" in line
    assert ran.code == 0


@pytest.mark.parametrize(
    ("more", "line", "words"),
    [
        ('ca = "ca.pem"', "provider ca", "until 20"),
        ('ca = "none.pem"', "provider ca", "No such file"),
        ('ca = "config.toml"', "provider ca", "certificate"),
        ('token_endpoint_auth_method = "client_secret_post"\nclient_secret_file = "none"', "client", "missing"),
        ('token_endpoint_auth_method = "client_secret_post"\nclient_secret_file = "open"', "client", "other users"),
        ('token_endpoint_auth_method = "client_secret_basic"\nclient_secret_file = "secret"', "client", "of its own"),
        (
            'token_endpoint_auth_method = "private_key_jwt"\nclient_key_file = "secret"',
            "client",
            "neither a JWK nor PEM",
        ),
    ],
)
def test_the_files_for_the_provider_are_judged(device: Device, more: str, line: str, words: str) -> None:
    for name, mode in (("secret", 0o600), ("open", 0o644)):
        (device.home / name).write_text("marked-client-secret\n")
        (device.home / name).chmod(mode)
    device.write_config(provider=f'{device.issuer}"\n{more}\n#"')
    ran = device.doctor()
    (said,) = [text for text in ran.out.splitlines() if text[6:].split("  ")[0] == line]
    assert words in said
    assert said.startswith("ok") == (words in ("until 20", "of its own"))
    assert "marked-client-secret" not in ran.out + ran.err


@pytest.mark.parametrize("calls_itself", ["{here}/", "http://localhost:{port}"])
def test_a_provider_url_that_is_nearly_right_is_told_with_the_right_one(device: Device, calls_itself: str) -> None:
    issuer = calls_itself.format(here=device.issuer, port=device.provider.server_port)
    setattr(device.provider, "document", {"issuer": issuer})  # noqa: B010
    ran = device.doctor()
    assert f'provider.url = "{issuer}"' in ran.out and "tenant" not in ran.out
    assert device.red() == {"provider"}


def test_expired_certificate_is_named_and_refused_by_the_broker_too(device: Device) -> None:
    device.sign(days_ago=100)
    ran = device.doctor()
    assert ran.code == 1
    assert "FAIL  broker cert" in ran.out and "expired on" in ran.out
    assert "refuses this device's certificate" in ran.out


def test_broker_of_another_ca_is_named(device: Device, tmp_path: Path) -> None:
    revoke_everybody(device)
    shutil.copy(device.ca_dir / "ca.pem", device.home)
    assert device.red() == {"broker"}
    assert "bring that CA's ca.pem" in device.doctor().out


def test_wrong_key_is_named(device: Device) -> None:
    write_csr(device.home, OTHER, force=True)
    assert device.red() == {"broker key"}, "the broker has judged nothing of ours"
    assert f"is not the key of the certificate, which is of {NAME}" in device.doctor().out


@pytest.mark.parametrize("broken", ["empty", "missing", "a request"])
def test_without_a_certificate_of_its_own_nobody_says_that_the_broker_refuses_it(device: Device, broken: str) -> None:
    own = device.home / "device.pem"
    text = {"empty": b"", "missing": b"", "a request": (device.home / "device.csr").read_bytes()}[broken]
    own.unlink() if broken == "missing" else own.write_bytes(text)
    said = device.doctor().out
    assert device.red() == {"broker cert"} and f"{own}" in said and "not tried with this device's certificate" in said


def test_a_certificate_of_another_ca_is_named(device: Device) -> None:
    revoke_everybody(device)
    assert device.red() == {"broker"}
    assert f"{device.home / 'device.pem'} is of another CA than {device.home / 'ca.pem'}" in device.doctor().out


def test_broken_configuration_stops_the_rest_and_the_agent_is_still_asked(device: Device) -> None:
    spoil_config(device)
    ran = device.doctor("--json")
    names = [check["name"] for check in json.loads(ran.out)["checks"]]
    assert ran.code == 1 and "agent" in names and "disk" not in names
    assert {check["name"] for check in json.loads(ran.out)["checks"] if not check["ok"]} == {"configuration"}


def test_agent_that_does_not_run_is_3_and_the_rest_is_still_checked(device: Device) -> None:
    ran = device.shell("phone", "doctor", "--json", "--home", str(device.home))
    checks = json.loads(ran.out)["checks"]
    assert ran.code == 3
    assert {check["name"] for check in checks if not check["ok"]} == {"agent"}


def test_without_home_it_is_3_and_says_how_to_make_one(shell: Shell, short_path: Path) -> None:
    ran = shell("companion", "doctor", "--home", str(short_path / "none"))
    assert ran.code == 3
    assert "FAIL  home" in ran.out
    assert "FAIL  configuration  none found" in ran.out
    assert "FAIL  agent" in ran.out


def test_an_issuer_that_a_phone_has_named_is_asked_only_where_the_agent_would_ask_it(device: Device) -> None:
    """The provider of these tests listens on this machine, and counts nothing as asked."""
    text = 'name = "watch"\n[broker]\nurl = "mqtts://broker.example"\n[provider]\nhosts = '
    host = device.issuer.removeprefix("http://")
    for hosts, is_ok in (([], False), ([host], True)):
        config = check_config(CompanionConfig, text + json.dumps(hosts), Path("/"))
        assert isinstance(config, CompanionConfig)
        (finding,) = provider.without_agent(config, {device.issuer})
        assert finding.is_ok is is_ok
        if not is_ok:
            assert f"not asked, {host} is not allowed here" in finding.detail and f'hosts = ["{host}"]' in finding.hint


def test_who_has_no_home_and_names_none_means_the_service(tmp_path: Path) -> None:
    services, user = tmp_path / "services", tmp_path / "user"
    args = argparse.Namespace(home=None)
    own = user / ".local" / "state" / "token-relay" / "phone"
    mine = context(env={"HOME": str(user)})
    assert home_of("phone", args, mine, services) == own
    (services / "phone").mkdir(parents=True)
    assert home_of("phone", args, mine, services) == services / "phone"
    assert home_of("phone", argparse.Namespace(home="/named"), mine, services) == Path("/named")
    named = context(env={"HOME": str(user), "TOKEN_RELAY_HOME": "/named"})
    assert home_of("phone", args, named, services) == Path("/named")
    own.mkdir(parents=True)
    assert home_of("phone", args, mine, services) == own


# -- Single judgements -------------------------------------------------------------------------------------


def mount(*options: str) -> Mount:
    return Mount("/", "ext4", frozenset(("rw", *options)))


@pytest.mark.parametrize(
    ("room", "sync_s", "trouble", "is_ok"),
    [
        (machine.Room(10**9, 1000), 0.02, "", True),
        (machine.Room(10**9, None), None, "", True),
        (machine.Room(10**6, 1000), 0.02, "", False),
        (machine.Room(10**9, 3), 0.02, "", False),
        (machine.Room(10**9, 1000), 2.5, "", False),
        (machine.Room(10**9, 1000), None, "cannot write: Input/output error", False),
    ],
)
def test_disk_is_judged_by_room_and_flushes(
    room: machine.Room, sync_s: float | None, trouble: str, is_ok: bool
) -> None:
    check = machine.disk(Path("/home"), mount(), room, sync_s, trouble=trouble)
    assert check.is_ok is is_ok
    assert is_ok or check.hint


def test_the_mount_is_the_deepest_that_holds_the_path_and_the_later_of_two() -> None:
    text = (
        "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /var\\040x rw - xfs /dev/b rw,nobarrier\n"
        "3 1 8:3 / /var\\040x rw - btrfs /dev/c rw\nnot a line\n"
    )
    found = find_mount(text, Path("/var x/home"))
    assert found == Mount("/var x", "btrfs", frozenset({"rw"}))
    root = find_mount(text, Path("/varx"))
    assert root is not None and root.fs_type == "ext4"


@pytest.mark.parametrize(
    ("swaps", "shown", "locked_kb", "group_max", "detail", "is_noted"),
    [
        ("", {}, 0, "", "none on a disk", False),
        ("/dev/zram0 partition 262140 0 100", {}, 0, "", "none on a disk", False),
        ("/dev/zram1 partition 262140 0 100", {}, 0, "", "/dev/zram1: tokens and keys", True),  # it writes to a disk
        ("/var/swap file 102396 0 -2", {}, 0, "", "/var/swap: tokens and keys", True),
        ("/var/swap file 102396 0 -2", {"MemorySwapMax": "infinity"}, 0, "", "/var/swap: tokens and keys", True),
        ("/var/swap file 102396 0 -2", {"MemorySwapMax": "0"}, 0, "", "stays out of it", False),
        ("/var/swap file 102396 0 -2", {"MemorySwapMax": "0", "MainPID": "7"}, 0, "", "tokens and keys", True),
        ("/var/swap file 102396 0 -2", {"MemorySwapMax": "0", "MainPID": "7"}, 0, "0", "stays out of it", False),
        ("/var/swap file 102396 0 -2", {"MemorySwapMax": "0", "MainPID": "7"}, 0, "max", "tokens and keys", True),
        ("/var/swap file 102396 0 -2", {"MainPID": "7"}, 290_000, "max", "stays out of it", False),
    ],
)
def test_swap_on_a_disk_is_noted_unless_the_agents_memory_stays_out_of_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    swaps: str,
    shown: dict[str, str],
    locked_kb: int,
    group_max: str,
    detail: str,
    is_noted: bool,
) -> None:
    files = {
        "swaps": SWAP_HEAD + swaps,
        "block/zram0/backing_dev": "none\n",
        "block/zram1/backing_dev": "/dev/mmcblk0p4\n",
        "proc/7/status": f"Name:\ttoken-relay\nVmLck:\t{locked_kb:8} kB\n",
        "groups/system.slice/x.service/memory.swap.max": group_max,
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for constant in ("swaps", "block", "proc", "groups"):
        monkeypatch.setattr(machine, constant.upper(), tmp_path / constant)
    found = machine.look_at_swap("x.service", {"ControlGroup": "/system.slice/x.service", **shown})
    assert found.is_ok and detail in found.detail and bool(found.hint) is is_noted


def test_probe_of_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    assert "flush" in machine.look_at_disk(tmp_path).detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "begin"),
    [
        (VaultConfig(), "key file: a stolen disk gives away everything"),
        (VaultConfig(credential="vault"), "credential vault (how it is sealed was not seen): a stolen disk"),
        (VaultConfig(passphrase_file=Path("/etc/hostname")), "passphrase: a stolen disk gives away states, names"),
    ],
)
def test_vault_key_line_says_what_a_stolen_disk_gives_away(tmp_path: Path, config: VaultConfig, begin: str) -> None:
    for name in ("vault.key", "vault.kdf"):
        (tmp_path / name).touch(mode=0o600)
    check = local.vault_key(tmp_path, config, [tmp_path])
    assert check.is_ok and check.detail.startswith(begin)


@pytest.mark.parametrize(
    ("store", "content", "expected", "mark"),
    [
        (
            "credstore.encrypted",
            "DHzAexF2RZGcSwvqCLwg/iAAAAA",
            "sealed with the TPM: a stolen disk gives away states",
            "ok",
        ),
        (
            "credstore.encrypted",
            "k6iUCUh0RJCQyvL8k8q1UyAAAAA",
            "sealed with the TPM: a stolen disk gives away states",
            "ok",
        ),
        ("credstore.encrypted", "Whxqht+dQJax1aZeCGLxmiAAAAA", "the host key lies on it", "note"),
        ("credstore.encrypted", "not sealed at all", "how it is sealed was not seen", "ok"),
        ("credstore", "x" * 32, "it lies there in clear", "note"),
    ],
)
def test_vault_key_line_says_how_a_credential_is_sealed(
    tmp_path: Path, store: str, content: str, expected: str, mark: str
) -> None:
    (tmp_path / store).mkdir()
    (tmp_path / store / "vault").write_text(content)
    check = local.vault_key(tmp_path, VaultConfig(credential="vault"), [tmp_path / store])
    assert expected in check.detail
    assert check.mark == mark


def test_a_broker_elsewhere_is_judged_by_its_speed_only() -> None:
    check = broker.settings(BrokerConfig(url="mqtts://broker.example"), [])
    assert check.is_ok and "round trip" in check.detail


def test_settings_of_included_files_count(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.conf").write_text(f"listener 1885 127.0.0.1\n{MOSQUITTO}")
    (tmp_path / "main.conf").write_text(f"# comment\nset_tcp_nodelay false\ninclude_dir {tmp_path / 'conf.d'}\n")
    config = BrokerConfig(url="mqtt://127.0.0.1:1885")
    assert broker.settings(config, [tmp_path / "none", tmp_path / "main.conf"]).detail.endswith("autosave are on")
    (tmp_path / "conf.d" / "a.conf").write_text("listener 1885\n")
    assert not broker.settings(config, [tmp_path / "main.conf"]).is_ok


def test_running_mosquitto_is_asked_for_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "cmdline").write_bytes(b"/usr/sbin/mosquitto\0-c\0/srv/m.conf\0")
    assert broker.confs_here(tmp_path, Path("/sys.conf")) == [Path("/srv/m.conf"), Path("/sys.conf")]


@pytest.mark.parametrize(("round_trip_s", "mark"), [(0.0013, "ok"), (0.044, "note")])
def test_slow_round_trip_is_a_note_that_names_the_setting(round_trip_s: float, mark: str) -> None:
    row = judged(round_trip_s)
    check = Finding(str(row["name"]), row["ok"] is True, str(row["detail"]), str(row["hint"]))
    assert check.mark == mark
    assert (mark == "note") == ("set_tcp_nodelay" in check.hint)


class Channel:
    def __init__(self, *, is_connected: bool, comes_back: bool) -> None:
        self.is_connected = is_connected
        self.comes_back = comes_back

    async def probe(self, timeout_s: float) -> bool:
        return self.comes_back


async def measured(channel: Channel) -> dict[str, JSON]:
    """The one line that there is."""
    (line,) = await measure(channel)
    assert isinstance(line, dict)
    return line


@pytest.mark.asyncio
async def test_agent_measures_only_what_it_is_connected_to() -> None:
    assert await measure(None) == []
    assert await measure(Channel(is_connected=False, comes_back=True)) == []
    lost = await measured(Channel(is_connected=True, comes_back=False))
    assert lost["ok"] is False
    fine = await measured(Channel(is_connected=True, comes_back=True))
    assert fine["ok"] is True
