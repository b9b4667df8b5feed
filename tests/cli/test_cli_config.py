"""Promises of the configuration: what is refused, where the fault is shown, and that the template tells all."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_relay.host.config import MODELS, CompanionConfig, PhoneConfig, settings
from token_relay.host.config_file import CONFIG_BYTES_MAX, check_config, load_config, read_secret_file
from token_relay.host.config_template import template
from token_relay.protocol.errors import ConfigError
from token_relay.provider.http import is_loopback
from token_relay.provider.profile import AUTH0, ENTRA, STRICT

BASE = Path("/home/someone")
PROVIDERS: list[dict[str, str]] = tomllib.loads(
    (Path(__file__).parent / "cases/provider_settings.toml").read_text("utf-8")
)["case"]
PHONE = """\
name = "pocket"
[broker]
url = "mqtts://broker.example"
[provider]
url = "https://contoso.ciamlogin.com"
client_id = "app"
"""
COMPANION = """\
name = "kitchen"
[broker]
url = "mqtt://127.0.0.1:1884"
"""


def phone(text: str) -> PhoneConfig:
    config = check_config(PhoneConfig, text, BASE)
    assert isinstance(config, PhoneConfig), config
    return config


def problems(model: type[PhoneConfig] | type[CompanionConfig], text: str) -> list[str]:
    result = check_config(model, text, BASE)
    assert isinstance(result, tuple), "the configuration was accepted"
    return [problem.in_file("config.toml") for problem in result]


def test_defaults_are_the_documented_ones() -> None:
    config = phone(PHONE)
    assert (config.broker.host, config.broker.port, config.broker.use_tls) == ("broker.example", 8883, True)
    assert config.broker.protocol == "5"
    assert config.provider.scope == "openid profile offline_access"
    assert config.provider.resolved_profile is ENTRA
    assert config.allow_refresh_token_access is False
    assert (config.handoff.lease_days, config.handoff.strategy) == (90, None)
    assert (config.vault.key_file, config.vault.passphrase_file, config.vault.credential) == (None, None, None)
    assert config.token_api.policy_file is None
    assert config.warnings() == ()


def test_relative_paths_start_at_the_file_and_absolute_ones_stay() -> None:
    text = PHONE.replace('example"', 'example"\ncert = "device.pem"\nkey = "/etc/device.key"\nca = "sub/ca.pem"')
    broker = phone(text).broker
    assert broker.cert == BASE / "device.pem"
    assert broker.key == Path("/etc/device.key")
    assert broker.ca == BASE / "sub/ca.pem"


@pytest.mark.parametrize(
    ("url", "host", "port", "use_tls"),
    [
        ("mqtts://broker.example:18883", "broker.example", 18883, True),
        ("mqtts://[2001:db8::1]", "2001:db8::1", 8883, True),
        ("mqtts://[fe80::1%eth0]", "fe80::1%eth0", 8883, True),
        ("mqtts://[fe80::1%25eth0]:18883", "fe80::1%eth0", 18883, True),  # RFC 6874 §2
        ("mqtt://localhost", "localhost", 1883, False),
        ("mqtt://10.0.0.7:1883/", "10.0.0.7", 1883, False),
    ],
)
def test_broker_url_gives_host_port_and_tls(url: str, host: str, port: int, use_tls: bool) -> None:
    broker = phone(PHONE.replace("mqtts://broker.example", url)).broker
    assert (broker.host, broker.port, broker.use_tls) == (host, port, use_tls)


@pytest.mark.parametrize("days", [1, 45, 3650])
def test_the_idle_days_may_be_told_at_either_end(days: int) -> None:
    assert phone(PHONE + f"idle_days = {days}\n").provider.idle_days == days
    companion = f'name = "watch"\n[broker]\nurl = "mqtts://broker.example"\n[provider]\nidle_days = {days}\n'
    found = check_config(CompanionConfig, companion, BASE)
    assert isinstance(found, CompanionConfig)
    assert found.provider.idle_days == days


@pytest.mark.parametrize("days", ["0", "3651", '"7"', "7.5", "true"])
def test_idle_days_that_are_no_number_of_days_are_refused(days: str) -> None:
    (problem,) = problems(PhoneConfig, PHONE + f"idle_days = {days}\n")
    assert "provider.idle_days: " in problem


HOSTS = f"{COMPANION.partition('[')[0]}[broker]\nurl = 'mqtts://broker.example'\n[provider]\nhosts = "


@pytest.mark.parametrize(
    "hosts", [[], ["login.example"], ["127.0.0.1"], ["localhost:8400"], ["[::1]:8400", "[::1]"], ["a.example"] * 64]
)
def test_hosts_that_a_grant_may_name_are_hosts_with_or_without_a_port(hosts: list[str]) -> None:
    found = check_config(CompanionConfig, HOSTS + json.dumps(hosts), BASE)
    assert isinstance(found, CompanionConfig) and found.provider.hosts == hosts


@pytest.mark.parametrize(
    "entry",
    [
        "https://login.example", "login.example/token", "Login.example", "login.example:", "login.example:0", "",
        "login.example:99999", "user@login.example", "::1", "[::1", "*.example?", "login example", "lögin.example",
    ],
)  # fmt: skip
def test_anything_else_as_a_host_is_refused(entry: str) -> None:
    (problem,) = problems(CompanionConfig, HOSTS + json.dumps([entry]))
    assert "provider.hosts: " in problem and "HOST:PORT" in problem


def test_too_many_hosts_are_refused_and_a_phone_has_none() -> None:
    (problem,) = problems(CompanionConfig, HOSTS + json.dumps(["a.example"] * 65))
    assert "provider.hosts: " in problem
    (problem,) = problems(PhoneConfig, PHONE + 'hosts = ["a.example"]\n')
    assert "provider.hosts: no such setting" in problem


def test_a_companion_is_not_told_where_its_provider_is() -> None:
    (problem,) = problems(
        CompanionConfig,
        'name = "watch"\n[broker]\nurl = "mqtts://broker.example"\n[provider]\nurl = "https://p.example"\n',
    )
    assert "provider.url: no such setting" in problem


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://broker.example", "must begin with mqtts:// or mqtt://"),
        ("broker.example:8883", "no usable host or port"),
        ("mqtts://", "no usable host or port"),
        ("mqtts://broker.example:0", "no usable host or port"),
        ("mqtts://broker.example:99999", "not a valid URL"),
        ("mqtts://broker.example:port", "not a valid URL"),
        ("mqtts://[::1", "not a valid URL"),
        ("mqtts://user:pw@broker.example", "must not carry a user name or password"),
        ("mqtts://broker.example/topic", "must end after host and port"),
        ("mqtts://broker.example?x", "must end after host and port"),
        ("mqtts://bro ker", "without spaces"),
        ("mqtts://brökér", "printable ASCII"),
    ],
)
def test_broker_url_that_cannot_be_used_is_refused_with_the_reason(url: str, reason: str) -> None:
    (problem,) = problems(PhoneConfig, PHONE.replace("mqtts://broker.example", url))
    assert problem.startswith("config.toml:3: broker.url: ")
    assert reason in problem
    assert "pw" not in problem


@pytest.mark.parametrize("host", ["127.0.0.1:8400", "localhost:8400", "[::1]:8400", "127.8.9.1"])
def test_plain_http_is_allowed_to_this_machine(host: str) -> None:
    assert phone(PHONE.replace("https://contoso.ciamlogin.com", f"http://{host}")).provider.resolved_profile is STRICT


@pytest.mark.parametrize("host", ["idp.example", "10.0.0.1", "127.0.0.1.example", "localhost.example", "[::2]"])
def test_plain_http_elsewhere_is_refused_with_the_reason(host: str) -> None:
    (problem,) = problems(PhoneConfig, PHONE.replace("https://contoso.ciamlogin.com", f"http://{host}"))
    assert "provider.url: plain http is refused except to this machine" in problem


def test_plain_mqtt_elsewhere_is_allowed_with_a_warning_but_never_with_a_password() -> None:
    plain = PHONE.replace("mqtts://", "mqtt://")
    assert ["without TLS" in warning for warning in phone(plain).warnings()] == [True]
    with_password = plain.replace('example"\n[', 'example"\nusername = "u"\npassword_file = "pw"\n[')
    (problem,) = problems(PhoneConfig, with_password)
    assert "broker: a password is not sent over mqtt:// to another machine" in problem
    assert phone(with_password.replace("mqtt://broker.example", "mqtt://127.0.0.1")).broker.username == "u"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('cert = "a"', "cert and key belong together"),
        ('key = "a"', "cert and key belong together"),
        ('password_file = "a"', "password_file needs username"),
        ('protocol = "4"', "'5' or '3.1.1'"),
        ("protocol = 5", "'5' or '3.1.1'"),
        ('ca = "~/ca.pem"', "must not begin with ~"),
        ("ca = 7", "must be the path of a file"),
        ('ca = ""', "must be the path of a file"),
        ('username = " u"', "without spaces at its ends"),
        ('user = "u"', "no such setting (did you mean broker.username?)"),
    ],
)
def test_broker_settings_that_do_not_fit_are_refused(lines: str, reason: str) -> None:
    (problem,) = problems(PhoneConfig, PHONE.replace('example"\n[', f'example"\n{lines}\n['))
    assert reason in problem


def test_certificates_without_tls_are_refused() -> None:
    (problem,) = problems(CompanionConfig, COMPANION + 'ca = "ca.pem"\n')
    assert "ca, cert and key need a url with mqtts://" in problem


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        ("openid  offline_access", "separated by one space"),
        ('a\\"b offline_access', "printable ASCII"),
        ("", "separated by one space"),
    ],
)
def test_a_scope_of_another_shape_is_refused_with_the_reason(scope: str, reason: str) -> None:
    (problem,) = problems(PhoneConfig, PHONE + f'scope = "{scope}"\n')
    assert "provider.scope: " in problem
    assert reason in problem


@pytest.mark.parametrize(
    ("more", "is_warned"),
    [
        ('scope = "openid profile"\n', True),
        ('scope = "openid offline_accessX"\n', True),
        ('scope = "openid offline_access"\n', False),
        ('scope = "openid"\nprofile = "google"\n', False),  # its refresh tokens do not depend on that word
    ],
)
def test_a_scope_without_offline_access_is_taken_with_a_warning(more: str, is_warned: bool) -> None:
    assert ["without offline_access" in said for said in phone(PHONE + more).warnings()] == [True] * is_warned


@pytest.mark.parametrize("case", PROVIDERS, ids=[case["name"] for case in PROVIDERS])
def test_what_is_told_of_a_provider(case: dict[str, str]) -> None:
    text = PHONE + case["lines"]
    if case["refused"]:
        assert any(case["refused"] in problem for problem in problems(PhoneConfig, text))
    else:
        assert phone(text).provider.url


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('issuer = "https://p"\nclient_id = "a"\n', ""),
        ('issuer = "http://p"\nclient_id = "a"\n', "config.toml:5: client.issuer: plain http is refused"),
        ('client_id = "a"\n', "config.toml:4: client.issuer: is missing"),
        ('issuer = "https://p"\nclient_id = "a"\nsecret = "s"\n', "config.toml:7: client.secret: no such setting"),
        (
            'issuer = "https://p"\nclient_id = "a"\ntoken_endpoint_auth_method = "private_key_jwt"\n',
            "config.toml:4: client: token_endpoint_auth_method private_key_jwt needs client_key_file",
        ),
    ],
)
def test_a_client_of_a_companion_may_stand_several_times_and_a_fault_has_its_line(lines: str, words: str) -> None:
    text = f"{COMPANION}[[client]]\n{lines}"
    if words:
        (problem,) = problems(CompanionConfig, text)
        assert problem.startswith(words), problem
    else:
        config = check_config(CompanionConfig, f"{text}[[client]]\n{lines}", BASE)
        assert isinstance(config, CompanionConfig)
        assert [client.client_id for client in config.client] == ["a", "a"]


def test_unsafe_strategy_is_refused_with_the_reason() -> None:
    text = PHONE + 'profile = "auth0"\n[handoff]\nstrategy = "branch"\n'
    (problem,) = problems(PhoneConfig, text)
    assert "branch is not safe with profile auth0, which allows mint, move" in problem
    assert phone(text.replace("auth0", "entra")).handoff.strategy == "branch"


def test_unknown_provider_counts_as_strict_and_never_allows_branch() -> None:
    text = PHONE.replace("contoso.ciamlogin.com", "idp.example") + '[handoff]\nstrategy = "branch"\n'
    (problem,) = problems(PhoneConfig, text)
    assert "profile strict" in problem
    assert phone(PHONE.replace("contoso.ciamlogin.com", "x.eu.auth0.com")).provider.resolved_profile is AUTH0


@pytest.mark.parametrize("days", ["-1", "366", "true", "1.5", '"90"'])
def test_lease_outside_zero_to_a_year_is_refused(days: str) -> None:
    (problem,) = problems(PhoneConfig, PHONE + f"[handoff]\nlease_days = {days}\n")
    assert problem.startswith("config.toml:8: handoff.lease_days: ")


def test_at_most_one_source_of_the_vault_key() -> None:
    (problem,) = problems(CompanionConfig, COMPANION + '[vault]\nkey_file = "a"\ncredential = "b"\n')
    assert problem == "config.toml:4: vault: set only one of key_file, passphrase_file and credential"


@pytest.mark.parametrize("name", ["", "x" * 65, "a\\nb", " a", "a\\u202eb", "a\\u007f"])
def test_device_name_is_printable_and_short(name: str) -> None:
    (problem,) = problems(CompanionConfig, COMPANION.replace("kitchen", name))
    assert problem.startswith("config.toml:1: name: ")


@pytest.mark.parametrize(
    "route", ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:x", "a@127.0.0.1:1", "127.0.0.1:1/", ":1", ""]
)
def test_a_route_is_a_host_and_a_port(route: str) -> None:
    (problem,) = problems(CompanionConfig, f'http_route = "{route}"\n{COMPANION}')
    assert "http_route: must be HOST:PORT" in problem


def test_a_route_stays_on_this_machine() -> None:
    (problem,) = problems(CompanionConfig, f'http_route = "192.0.2.1:80"\n{COMPANION}')
    assert "http_route: must be on this machine" in problem
    config = check_config(CompanionConfig, f'http_route = "[::1]:80"\n{COMPANION}', Path("/etc"))
    assert isinstance(config, CompanionConfig) and config.http_address == ("::1", 80)


def test_broken_toml_names_the_line() -> None:
    (problem,) = problems(CompanionConfig, 'name = "kitchen"\n\n[broker\n')
    assert problem.startswith("config.toml:3: not TOML: ")


def test_every_fault_is_reported_at_once_with_its_place() -> None:
    found = problems(PhoneConfig, 'nam = "x"\n[broker]\nurl = "http://b"\nprotocol = "6"\n')
    assert [line.split(": ")[0] + ":" + line.split(": ")[1] for line in found] == [
        "config.toml:name",
        "config.toml:3:broker.url",
        "config.toml:4:broker.protocol",
        "config.toml:provider",
        "config.toml:1:nam",
    ]
    assert "no such setting (did you mean name?)" in found[-1]


def test_a_misplaced_setting_is_told_where_it_belongs() -> None:
    (problem,) = problems(PhoneConfig, "lease_days = 3\n" + PHONE)
    assert problem == "config.toml:1: lease_days: no such setting (did you mean handoff.lease_days?)"


@given(st.text(max_size=200))
def test_no_text_makes_the_check_fail_otherwise_than_by_problems(text: str) -> None:
    result = check_config(PhoneConfig, text, BASE)
    assert isinstance(result, tuple)
    assert result


@given(st.sampled_from([key for key, _ in settings(PhoneConfig)]), st.text(max_size=80))
def test_no_value_of_a_setting_is_quoted_in_its_fault(key: str, value: str) -> None:
    marked = f"SECRET{value}SECRET"
    table, _, name = key.rpartition(".")
    literal = "".join(f"\\U{ord(c):08x}" if not 0xD800 <= ord(c) <= 0xDFFF else "" for c in marked)
    text = (f"[{table}]\n" if table else "") + f'{name} = "{literal}"\n'
    result = check_config(PhoneConfig, text, BASE)
    assert isinstance(result, tuple)  # something required is always missing
    assert not any("SECRET" in problem.in_file("f") for problem in result)


# -- Template ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["phone", "companion"])
def test_template_explains_every_setting(kind: str) -> None:
    model = MODELS[kind]  # type: ignore[index]  # parametrised
    text = template(kind, {})  # type: ignore[arg-type]  # parametrised
    for key, description in settings(model):
        assert description.endswith("."), key
        name = key.rpartition(".")[2]
        assert re.search(rf"^# {name} =", text, re.MULTILINE), key
    assert all(len(line) <= 100 for line in text.splitlines())


def test_template_with_its_defaults_uncommented_means_the_same() -> None:
    values = {
        "name": "pocket",
        "broker.url": "mqtts://broker.example",
        "provider.url": "https://contoso.ciamlogin.com",
        "provider.client_id": "app",
    }
    text = template("phone", values)
    defaults = re.sub(r"^# (\w+ = .+)$", r"\1", text, flags=re.MULTILINE)
    assert defaults != text
    assert phone(text) == phone(PHONE) == phone(defaults)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60))
def test_template_writes_any_printable_value_as_it_is(value: str) -> None:
    assert tomllib.loads(template("companion", {"name": value}))["name"] == value


# -- Files -------------------------------------------------------------------------------------------------


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_file_is_read_whatever_its_readers(tmp_path: Path) -> None:
    assert load_config(CompanionConfig, write(tmp_path / "c.toml", COMPANION, 0o644)).name == "kitchen"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_configuration_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "c.toml", COMPANION, mode)
    with pytest.raises(ConfigError, match="may be written by other users") as caught:
        load_config(CompanionConfig, path)
    assert caught.value.hint == f"chmod go-w {path}"


def test_configuration_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.toml", COMPANION)
    if os.geteuid() == 0:
        os.chown(path, 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)  # the file is the other user's
    with pytest.raises(ConfigError, match=r"belongs to uid \d+, neither this user nor root"):
        load_config(CompanionConfig, path)


def test_what_is_no_configuration_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="configuration is missing"):
        load_config(CompanionConfig, tmp_path / "absent")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(CompanionConfig, tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(CompanionConfig, tmp_path / "fifo")
    with pytest.raises(ConfigError, match=f"larger than {CONFIG_BYTES_MAX} bytes"):
        load_config(CompanionConfig, write(tmp_path / "big", b"#" * (CONFIG_BYTES_MAX + 1)))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(CompanionConfig, write(tmp_path / "latin", b"# \xe9"))


def test_faults_in_a_file_name_file_line_and_key(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", COMPANION.replace("1884", "x"))
    with pytest.raises(ConfigError) as caught:
        load_config(CompanionConfig, path)
    assert str(caught.value) == f"{path}:3: broker.url: is not a valid URL: check host and port"


def test_secret_file_gives_its_first_line_only_when_others_cannot_read_it(tmp_path: Path) -> None:
    path = write(tmp_path / "pw", "hunter two\r\nsecond\n")
    assert read_secret_file(path, "password").reveal() == "hunter two"
    with pytest.raises(ConfigError, match="may be read or written by other users"):
        read_secret_file(write(path, "x", 0o604), "password")
    with pytest.raises(ConfigError, match="empty or longer"):
        read_secret_file(write(path, "\nx"), "password")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.1", "::1", "localhost", "LOCALHOST"])
def test_loopback_is_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "128.0.0.1", "example.com", "localhost.", "::ffff:10.0.0.1"])
def test_all_else_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
