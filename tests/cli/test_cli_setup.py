"""``init`` writes what was chosen, explains the rest, and takes nothing away; ``run`` starts what was configured."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.cli_kit import Shell
from token_relay.cli.commands.serve import until_stopped
from token_relay.host.config import CompanionConfig, Home, PhoneConfig
from token_relay.host.config_file import load_config
from token_relay.protocol.errors import VaultError
from token_relay.vault.files import Lock

DEVICE_ID = "abcdefghijklmnopqrstuvwxyz"
PHONE_INIT = (
    "phone init --no-look --provider https://contoso.ciamlogin.com --client-id app --broker mqtts://broker.example"
)
COMPANION_INIT = "companion init --broker mqtt://127.0.0.1:1884"


@dataclass
class Created:
    device_id: str


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path, str]]:
    """Stand in for the making of vault and identity; remembers each call."""
    calls: list[tuple[str, Path, str]] = []

    def create_home(kind: str, home: Path, config_text: str, environment: Mapping[str, str]) -> Created:
        calls.append((kind, home, config_text))
        (home / "vault.db").touch(mode=0o600)
        return Created(DEVICE_ID)

    monkeypatch.setattr("token_relay.host.home.create_home", create_home)
    return calls


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_phone_init_makes_a_private_home_with_what_was_chosen(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    ran = shell(
        *PHONE_INIT.split(),
        "--name",
        "pocket",
        "--tenant",
        "contoso",
        "--allow-refresh-token-access",
        "--home",
        str(home),
    )
    assert (ran.code, ran.out) == (0, DEVICE_ID + "\n")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    path = home / "config.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert created == [("phone", home, path.read_text())]
    config = load_config(PhoneConfig, path)
    assert (config.name, config.provider.tenant, config.allow_refresh_token_access) == ("pocket", "contoso", True)
    assert config.provider.resolved_profile.name == "entra"
    assert (home / "device.csr").exists()
    assert stat.S_IMODE((home / "device.key").stat().st_mode) == 0o600


def test_mqtts_without_user_name_means_the_devices_own_certificate(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    ran = shell(*PHONE_INIT.split(), "--home", str(home))
    broker = load_config(PhoneConfig, home / "config.toml").broker
    assert (broker.cert, broker.key, broker.ca) == (home / "device.pem", home / "device.key", home / "ca.pem")
    assert f"sign {home}/device.csr with `token-relay certs sign`" in ran.err
    assert [line for line in ran.err.splitlines() if line.startswith("  ")] == [
        f"  {home}/device.pem",
        f"  {home}/ca.pem",
    ]


def test_broker_with_user_name_gets_no_certificate_settings(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]], tmp_path: Path
) -> None:
    options = f"--broker-username u --broker-password-file {tmp_path}/pw --home {home}"
    assert shell(*PHONE_INIT.split(), *options.split()).code == 0
    broker = load_config(PhoneConfig, home / "config.toml").broker
    assert (broker.username, broker.password_file, broker.cert) == ("u", tmp_path / "pw", None)


def test_a_scope_without_offline_access_is_taken_with_a_warning(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    line = [*PHONE_INIT.split(), "--home", str(home), "--scope"]
    ran = shell(*line, "openid api://orders/read")
    assert ran.code == 0
    assert "warning: provider.scope is without offline_access" in ran.err
    assert load_config(PhoneConfig, home / "config.toml").provider.scope == "openid api://orders/read"


OPTIONS_AT_THE_PROVIDER = (
    *("--prompt", "login consent", "--resource", "https://api.example/v1", "--redirect-port", "43985"),
    *("--redirect-port", "8080", "--redirect-path", "/cb", "--authorization-parameter", "hint=\"a\\b'"),
    *("--authorization-parameter", "empty=", "--no-discovery", "--authorization-endpoint", "https://p.example/a"),
    *("--token-endpoint", "https://p.example/t", "--revocation-endpoint", "https://p.example/r"),
    *("--userinfo-endpoint", "https://p.example/u", "--jwks-uri", "https://p.example/k"),
    *("--device-authorization-endpoint", "https://p.example/d", "--token-endpoint-auth-method", "private_key_jwt"),
    *("--client-key-file", "key.pem", "--provider-ca", "/etc/ca.pem"),
)


def test_what_a_person_knows_of_a_provider_is_written_as_settings(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    assert shell(*PHONE_INIT.split(), "--home", str(home), *OPTIONS_AT_THE_PROVIDER).code == 0
    said = load_config(PhoneConfig, home / "config.toml").provider
    assert (said.prompt, said.resource, said.discovery) == ("login consent", "https://api.example/v1", False)
    assert (said.redirect_ports, said.redirect_path) == ([43985, 8080], "/cb")
    assert said.authorization_parameters == {"hint": "\"a\\b'", "empty": ""}
    ends = (said.authorization_endpoint, said.token_endpoint, said.revocation_endpoint, said.userinfo_endpoint)
    assert [str(url)[-1] for url in (*ends, said.jwks_uri, said.device_authorization_endpoint)] == list("atrukd")
    assert (said.token_endpoint_auth_method, said.client_secret_file) == ("private_key_jwt", None)
    assert (said.client_key_file, said.ca) == (Path("key.pem").absolute(), Path("/etc/ca.pem"))


def test_a_companion_is_told_its_own_client(shell: Shell, home: Path, created: list[tuple[str, Path, str]]) -> None:
    client = ("--client-issuer", "https://p.example/", "--client-id", "relay", "--client-secret-file", "/s")
    method = ("--token-endpoint-auth-method", "client_secret_basic")
    ran = shell(*COMPANION_INIT.split(), "--home", str(home), *client)
    assert ran.code == 2
    assert "client options: client_secret_file needs token_endpoint_auth_method" in ran.err
    assert shell(*COMPANION_INIT.split(), "--home", str(home), *client, *method).code == 0
    (said,) = load_config(CompanionConfig, home / "config.toml").client
    assert (said.issuer, said.client_id, said.client_secret_file) == ("https://p.example/", "relay", Path("/s"))


def test_init_looks_at_the_provider_and_makes_the_home_all_the_same(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    line = PHONE_INIT.replace("--no-look ", "").replace("https://contoso.ciamlogin.com", f"http://127.0.0.1:{port}")
    ran = shell(*line.split(), "--home", str(home), "--json")
    assert ran.code == 0
    (warning,) = json.loads(ran.out)["warnings"]
    assert "no connection to 127.0.0.1" in warning and "start the provider, or correct provider.url" in warning
    assert (home / "config.toml").exists()


def test_companion_init_prints_its_id_and_writes_the_request(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    ran = shell(*COMPANION_INIT.split(), "--home", str(home), "--json")
    assert ran.code == 0
    assert json.loads(ran.out) == {
        "device_id": DEVICE_ID,
        "home": str(home),
        "config": f"{home}/config.toml",
        "csr": f"{home}/device.csr",
        "warnings": [],
    }
    assert load_config(CompanionConfig, home / "config.toml").broker.port == 1884
    assert (home / "device.csr").exists()


def test_home_from_the_environment_is_made_with_its_parents(shell: Shell, created: list[tuple[str, Path, str]]) -> None:
    assert shell(*COMPANION_INIT.split()).code == 0
    assert (Path(shell.env["HOME"]) / ".local/state/token-relay/companion/config.toml").exists()


def test_hosts_that_a_grant_may_name_are_written_and_nothing_of_this_machine_is_implied(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    assert shell(*COMPANION_INIT.split(), "--home", str(home)).code == 0
    assert load_config(CompanionConfig, home / "config.toml").provider.hosts == [], "though the broker is on loopback"
    words = ["--provider-host", "127.0.0.1:8400", "--provider-host", "login.example"]
    assert shell(*COMPANION_INIT.split(), *words, "--force", "--home", str(home)).code == 0
    assert load_config(CompanionConfig, home / "config.toml").provider.hosts == ["127.0.0.1:8400", "login.example"]
    ran = shell(*COMPANION_INIT.split(), "--provider-host", "http://x", "--force", "--home", str(home))
    assert ran.code == 2 and "--provider-host: must hold hosts" in ran.err


def test_second_init_changes_nothing_without_force(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    shell(*COMPANION_INIT.split(), "--home", str(home))
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in home.iterdir()}
    ran = shell("companion", "init", "--broker", "mqtt://127.0.0.1:9", "--home", str(home))
    assert ran.code == 1
    assert "exists: nothing was changed" in ran.err
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in home.iterdir()} == before
    assert len(created) == 1


def test_force_writes_the_configuration_and_keeps_the_devices_key(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    shell(*COMPANION_INIT.split(), "--home", str(home))
    key = (home / "device.key").read_bytes()
    ran = shell("companion", "init", "--broker", "mqtt://127.0.0.1:9", "--force", "--home", str(home))
    assert (ran.code, ran.out) == (0, DEVICE_ID + "\n")
    assert load_config(CompanionConfig, home / "config.toml").broker.port == 9
    assert (home / "device.key").read_bytes() == key


def test_force_beside_an_agent_that_runs_changes_nothing(shell: Shell, home: Path) -> None:
    shell(*COMPANION_INIT.split(), "--home", str(home), "--provider-host", "127.0.0.1:8400")
    before = {name: (home / name).read_bytes() for name in ("config.toml", "device.key", "device.csr")}
    lock = Lock(home / "vault.lock")
    ran = shell("companion", "init", "--broker", "mqtt://x", "--force", "--new-key", "--home", str(home))
    lock.release()
    assert ran.code == 1 and "another process uses the vault" in ran.err
    assert {name: (home / name).read_bytes() for name in before} == before


def test_new_key_replaces_the_devices_key_and_request(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    shell(*COMPANION_INIT.split(), "--home", str(home))
    before = (home / "device.key").read_bytes(), (home / "device.csr").read_bytes()
    assert shell(*COMPANION_INIT.split(), "--force", "--new-key", "--home", str(home)).code == 0
    after = (home / "device.key").read_bytes(), (home / "device.csr").read_bytes()
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("companion init --broker http://h", "--broker: must begin with mqtts:// or mqtt://"),
        ("companion init --broker mqtts://h --broker-password-file F", "broker options: password_file needs username"),
        ("companion init --broker mqtt://h --cert F", "broker options: ca, cert and key need a url with mqtts://"),
        ("companion init --broker mqtts://h --key F", "broker options: cert and key belong together"),
        (
            "companion init --broker mqtt://h --broker-username u --broker-password-file F",
            "broker options: a password is not sent over mqtt:// to another machine",
        ),
        (
            "companion init --broker mqtts://h --vault-credential a --vault-passphrase-file b",
            "vault options: set only one of",
        ),
        ("companion init --broker mqtts://h --vault-credential a/b", "--vault-credential: "),
        (
            "phone init --provider http://idp.example --client-id i --broker mqtts://h",
            "--provider: plain http is refused except to this machine",
        ),
        ("phone init --provider https://i --client-id i --broker mqtts://h --tenant a/b", "--tenant: must be"),
    ],
)
def test_wrong_choice_names_the_option_and_writes_nothing(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]], line: str, message: str
) -> None:
    ran = shell(*line.split(), "--home", str(home))
    assert (ran.code, ran.out) == (2, "")
    assert f"token-relay: {message}" in ran.err
    assert not home.exists()


def test_failed_init_can_be_repeated_with_the_same_line(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(kind: str, home: Path, config_text: str) -> Created:
        raise VaultError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["token_relay.host.home"], "create_home", fail)
        assert shell(*COMPANION_INIT.split(), "--home", str(home)).code == 1
    assert shell(*COMPANION_INIT.split(), "--home", str(home)).code == 0


def test_plain_mqtt_elsewhere_is_warned_about_at_init(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]]
) -> None:
    ran = shell("companion", "init", "--broker", "mqtt://10.0.0.7", "--home", str(home))
    assert (ran.code, ran.out) == (0, DEVICE_ID + "\n")
    assert "warning: the broker is reached without TLS" in ran.err


def test_name_comes_from_the_host_when_none_is_given(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "kitchen.local")
    shell(*COMPANION_INIT.split(), "--home", str(home))
    assert load_config(CompanionConfig, home / "config.toml").name == "kitchen"


# -- run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["phone", "companion"])
def test_run_starts_the_agent_with_home_sockets_and_configuration(
    shell: Shell,
    home: Path,
    created: list[tuple[str, Path, str]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    started: list[tuple[Home, object]] = []

    async def run(home: Home, config: object) -> None:
        started.append((home, config))

    monkeypatch.setattr(f"token_relay.service.{kind}.run_{kind}", run)
    monkeypatch.setattr("token_relay.cli.commands.serve.harden_process", lambda: ())
    monkeypatch.setattr("token_relay.cli.commands.serve.configure_logs", lambda context: None)
    shell(*(PHONE_INIT if kind == "phone" else COMPANION_INIT).split(), "--home", str(home))
    shell.env["RUNTIME_DIRECTORY"] = "/run/token-relay/x"
    assert shell(kind, "run", "--home", str(home)).code == 0
    ((found, config),) = started
    assert (found.directory, found.sockets) == (home, Path("/run/token-relay/x"))
    assert isinstance(config, PhoneConfig if kind == "phone" else CompanionConfig)


def test_run_without_configuration_is_2_with_a_hint(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.cli.commands.serve.harden_process", lambda: ())
    ran = shell("companion", "run", "--home", str(tmp_path))
    assert (ran.code, ran.out) == (2, "")
    assert "hint: make one: token-relay companion init --help" in ran.err


def test_run_refuses_a_socket_path_that_the_kernel_cannot_bind(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.cli.commands.serve.harden_process", lambda: ())
    shell(*COMPANION_INIT.split(), "--home", str(home))
    ran = shell("companion", "run", "--home", str(home), "--socket", "/" + "x" * 120)
    assert ran.code == 2
    assert "the limit is 107" in ran.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_lets_the_agent_finish_and_a_second_one_does_not_hurry_it(number: signal.Signals) -> None:
    finished: list[str] = []

    async def agent() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            os.kill(os.getpid(), number)
            for _ in range(3):
                await asyncio.sleep(0)  # turns of the loop in which the second signal could do harm
            finished.append("on disk")
            raise

    asyncio.run(until_stopped(agent()))
    assert finished == ["on disk"]


def test_end_of_the_agent_is_the_end_of_the_command_and_its_error_is_shown() -> None:
    async def agent() -> None:
        raise VaultError("the disk is gone")

    with pytest.raises(VaultError):
        asyncio.run(until_stopped(agent()))


# -- certs -------------------------------------------------------------------------------------------------


def test_certs_take_a_device_from_request_to_revocation(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]], tmp_path: Path
) -> None:
    ca = ["--dir", str(tmp_path / "ca")]
    shell(*COMPANION_INIT.split(), "--home", str(home))
    assert shell("certs", "list", *ca).code == 1
    made = shell("certs", "init", "--host", "broker.example", "--json", *ca)
    assert (made.code, json.loads(made.out)["broker_certificate"]) == (0, f"{tmp_path}/ca/broker/broker.pem")
    signed = shell("certs", "sign", f"{home}/device.csr", *ca)
    assert signed.code == 0
    assert (home / "device.pem").exists()
    assert shell("certs", "renew", *ca).code == 0
    assert shell("certs", "issue", "broker.example", "10.0.0.7", *ca).code == 0
    revoked = json.loads(shell("certs", "revoke", DEVICE_ID, "--json", *ca).out)
    assert (revoked["name"], revoked["revoked"], revoked["newly_revoked"]) == (DEVICE_ID, 1, 1)
    listed = json.loads(shell("certs", "list", "--json", *ca).out)["certificates"]
    assert [(line["name"], line["kind"], line["revoked_at"] is None) for line in listed] == [
        ("broker.example", "broker", True),
        (DEVICE_ID, "device", False),
        ("broker.example", "broker", True),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["not_after"]) for line in listed)


def test_certs_sign_keeps_the_policys_exit_code(
    shell: Shell, home: Path, created: list[tuple[str, Path, str]], tmp_path: Path
) -> None:
    ca = ["--dir", str(tmp_path / "ca")]
    shell(*COMPANION_INIT.split(), "--home", str(home))
    shell("certs", "init", *ca)
    shell("certs", "sign", f"{home}/device.csr", *ca)
    shell("certs", "revoke", DEVICE_ID, *ca)
    assert shell("certs", "sign", f"{home}/device.csr", *ca).code == 5
    assert shell("certs", "renew", *ca).code == 4, "the broker has no certificate"
