"""The command line is stable: every command parses as promised, and ``--help`` suffices."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from tests.cli.cli_kit import Shell
from token_relay.cli import main as cli
from token_relay.cli.parsing import EXIT_CODES, UsageError

PROMISED = """\
demo
demo --fast
demo --step --profile auth0
demo --profile strict
try
try --profile auth0 --home D --json
sandbox
sandbox --http-port 8400 --mqtt-port 1884 --profile entra --world F.toml --access-token-lifetime 60 --json
sandbox --tls-cert F --tls-key F --seed 7
sandbox --no-links
sandbox ctl links --json
sandbox ctl cut companion-provider
sandbox ctl cut all --how drop --direction up
sandbox ctl heal all
sandbox ctl slow phone-broker --latency 2 --rate 1000
sandbox ctl fault drop_after_commit --times 2 --endpoint token
sandbox ctl faults --clear
sandbox ctl lenient userinfo-openid
sandbox ctl clock +36h
sandbox ctl revoke password@contoso.example
sandbox ctl events --trace-id T --follow --url http://127.0.0.1:8401
phone init --provider https://idp --client-id ID --broker mqtts://h:1
phone init --provider https://idp --client-id ID --broker mqtt://h:1 --profile entra --tenant T \
 --allow-refresh-token-access --broker-username U --broker-password-file F --ca F --cert F --key F \
 --name N --force --new-key
phone run
phone status
phone devices
phone console
phone console --port 8500 --json
phone events --limit 5 --after 3
phone token
phone open-web https://shop.example/login
phone sign-out
phone metrics
phone adopt
phone doctor
phone sign-in --username U
phone sign-in --username U --password-file - --otp-file F
phone sign-in --username U --otp-command 'cat code'
phone sign-in --username U --mfa-method sms --register a@b.example
phone sign-in --browser --no-open
phone sign-up --username U
phone sign-up --username U --password-file F --attributes-file F --otp-command 'cat code' --register a@b.example
phone sign-up --username U --no-password --otp-file -
phone reset-password --username U
phone reset-password --username U --new-password-file F --otp-file F --mfa-method email
phone import --refresh-token-file -
phone pair
phone pair RTR1:ABC --yes
phone pair -
phone handoff DEVICE
phone handoff DEVICE --strategy mint --scope 'a b' --lease-days 0 --wait 5 --username U --password-file F --otp-file -
phone handoff DEVICE --browser --no-open
phone rename DEVICE 'a name'
phone replace DEVICE
phone replace DEVICE - --as 'a name' --yes --strategy mint --username U --password-file F --wait 5
phone cancel DEVICE
phone revoke DEVICE --lost --wait 3
phone unpair DEVICE
phone forget DEVICE
companion init --broker mqtts://h:1
companion init --broker mqtts://h:1 --name N --vault-credential C
companion init --broker mqtts://h:1 --vault-passphrase-file F
companion init --broker mqtt://h:1 --provider-host 127.0.0.1 --provider-host [::1]:8400
companion run
companion status
companion console --port 0
companion events
companion metrics
companion adopt
companion doctor
companion rename 'a name'
companion forget
companion forget --pairing
companion forget --phone PHONE
companion primary PHONE
companion pair
companion pair --no-qr --no-wait
companion token
companion token --issuer I --phone PHONE
companion token --scope S --account A --audience A --min-valid 60 --force-refresh --inspect
companion open-web https://shop.example/login
companion open-web https://shop.example/login --account A --audience A --browser
companion open-web https://shop.example/login --print
companion open-web https://shop.example/login --cookie-jar F --cookie-domain id.shop.example
provider show
provider show --home H --json
provider probe https://id.example --client-id ID
provider probe https://id.example --client-id ID --username U --password-file F --write F --yes --json
provider probe https://id.example --client-id ID --browser --no-open --quick --redirect-port 43985 --resource https://api
certs init
certs init --host broker.example --host 10.0.0.1 --port 8883 --force --dir D
certs sign device.csr --out device.pem
certs issue broker.example
certs renew
certs revoke NAME
certs list --json
service install
service install --root D --prefix /usr --program /opt/token-relay --json
service uninstall
service install --user
service uninstall --user --json
docs
docs zoo --path --json
completion bash
completion zsh
completion devices
vault rekey --home H --to passphrase --passphrase-file F --memory 64
vault rekey --home H --config C --to file --key-file F --json
vault rekey --home H --to credential --credential C --credential-from -
"""
COMMANDS = [(group, name) for group in (*cli.GROUPS, "sandbox ctl") for name in cli.commands_of(group)]
COMMANDS = [(group, name) for group, name in COMMANDS if group not in ("demo", "try", "sandbox") or group == name]


def words_of(group: str, name: str) -> list[str]:
    return [group] if group == name else [*group.split(), name]


def parser_of(group: str, name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    cli.commands_of(group)[name].options(parser)
    return parser


@pytest.mark.parametrize("line", PROMISED.splitlines())
def test_promised_command_line_parses(line: str) -> None:
    import shlex

    words = shlex.split(line)
    args = cli.parse(words)
    module, _, function = args.run.partition(":")
    assert find_spec(f"{cli.PACKAGE}.{module}") is not None
    assert function


def test_every_command_is_among_the_promised_ones() -> None:
    promised = [line.split() for line in PROMISED.splitlines()]
    for group, name in COMMANDS:
        words = words_of(group, name)
        assert words in [line[: len(words)] for line in promised], (group, name)


@pytest.mark.parametrize("option", ["--home", "--config", "--socket"])
def test_agent_options_stand_before_or_after_the_command(option: str) -> None:
    for words in (["phone", option, "X", "status"], ["phone", "status", option, "X"]):
        assert getattr(cli.parse(words), option[2:]) == "X"


def test_a_value_called_like_a_command_is_still_a_value() -> None:
    args = cli.parse(["phone", "--home", "companion", "handoff", "status", "--scope", "run"])
    assert (args.home, args.device, args.scope) == ("companion", "status", "run")
    assert args.run == "agent_calls:handoff"


def test_handoff_and_sandbox_have_the_promised_defaults() -> None:
    assert cli.parse(["phone", "handoff", "d"]).wait == 60
    args = cli.parse(["sandbox"])
    assert (args.http_port, args.mqtt_port, args.profile) == (8400, 1884, "entra")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "phone",
        "nonsense",
        "phone nonsense",
        "phone status extra",
        "phone status --jso",
        "phone sign-in",
        "phone sign-in --username U --browser",
        "phone sign-in --username U --otp-file F --otp-command C",
        "phone sign-in --username U --password hunter2",
        "phone sign-up",
        "phone sign-up --username U --password hunter2",
        "phone sign-up --username U --password-file F --no-password",
        "phone reset-password",
        "phone reset-password --username U --new-password hunter2",
        "phone handoff",
        "phone handoff d --lease-days 366",
        "phone handoff d --lease-days -1",
        "phone handoff d --wait -1",
        "phone handoff d --wait nan",
        "phone handoff d --strategy clone",
        "phone events --limit 0",
        "phone import",
        "phone init --provider https://idp --broker mqtts://h",
        "companion init",
        "companion token --min-valid 86401",
        "companion token --min-valid soon",
        "sandbox --http-port 65536",
        "sandbox --mqtt-port ١",
        "demo --profile okta",
        "certs issue",
    ],
)
def test_wrong_command_line_is_usage_error_2_with_a_hint(line: str, shell: Shell) -> None:
    ran = shell(*line.split())
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("usage: token-relay")
    assert re.search(r"hint: token-relay.* --help$", ran.err.rstrip())
    assert "Traceback" not in ran.err


def test_argument_with_control_characters_or_too_long_is_refused() -> None:
    for value in ("a\x1b[2J", "", "x" * 3000, "a\nb"):
        with pytest.raises(UsageError, match="1 to 2048 printable characters"):
            cli.parse(["phone", "handoff", value])


def test_usage_error_is_an_object_when_json_was_asked_for(shell: Shell) -> None:
    import json

    ran = shell("phone", "handoff", "--json")
    error = json.loads(ran.out)["error"]
    assert (ran.code, error["code"], error["exit"]) == (2, "usage", 2)
    assert "DEVICE" in error["message"]


# -- Help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_help_mentions_every_option_and_the_exit_codes(group: str, name: str, shell: Shell) -> None:
    ran = shell(*words_of(group, name), "--help")
    assert ran.code == 0
    assert ran.err == ""
    assert EXIT_CODES in ran.out
    for action in parser_of(group, name)._actions:
        for shown in action.option_strings or [str(action.metavar)]:
            assert shown in ran.out
        assert action.help, f"{action.dest} is not explained"


@pytest.mark.parametrize("group", ["phone", "companion", "certs", "sandbox ctl"])
def test_help_of_a_group_lists_its_commands(group: str, shell: Shell) -> None:
    ran = shell(*group.split(), "--help")
    assert ran.code == 0
    for name, command in cli.commands_of(group).items():
        assert name in ran.out
        assert command.help.split()[0] in ran.out


def test_help_lists_every_group(shell: Shell) -> None:
    ran = shell("--help")
    assert ran.code == 0
    for name, text in cli.GROUPS.items():
        assert re.search(rf"^    {name}\s", ran.out, re.MULTILINE)
        assert text in ran.out


def test_usage_shows_a_command_that_may_be_left_out_in_brackets(shell: Shell) -> None:
    usage = " ".join(shell("sandbox", "--help").out.partition("\n\n")[0].split())
    assert usage.endswith("[--json] [ctl ...]")
    assert (
        shell("sandbox", "ctl", "--help").out.partition("\n\n")[0].endswith("token-relay sandbox ctl [-h] COMMAND ...")
    )


def test_version_is_one_line(shell: Shell) -> None:
    ran = shell("--version")
    assert ran.code == 0
    assert re.fullmatch(r"token-relay \S.*\n", ran.out)


# -- Laws --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_no_option_takes_a_secret_itself(group: str, name: str) -> None:
    for action in parser_of(group, name)._actions:
        for option in action.option_strings:
            if re.search(r"password|otp|passphrase|refresh-token|secret|code", option) and action.nargs != 0:
                assert option.endswith(("-file", "-command")), option


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_every_command_names_a_module_of_its_own_room(group: str, name: str) -> None:
    module, _, function = cli.commands_of(group)[name].run.partition(":")
    assert re.fullmatch(r"[a-z_]+", module)
    assert callable(getattr(import_module(f"{cli.PACKAGE}.{module}"), function))


def test_token_command_imports_the_standard_library_only() -> None:
    code = (
        "import sys; from token_relay.cli.main import parse; import token_relay.cli.commands.token;"
        "parse(['companion', 'token', '--min-valid', '5']); print(*sorted(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    foreign = {"pydantic", "structlog", "aiohttp", "nacl", "rich", "segno", "cryptography", "asyncio", "dataclasses"}
    assert not loaded & foreign
    assert {name for name in loaded if name.split(".")[0] == "token_relay"} == {
        "token_relay",
        "token_relay.cli",
        "token_relay.host",
        "token_relay.protocol",
        "token_relay.cli.main",
        "token_relay.cli.client",
        "token_relay.cli.commands",
        "token_relay.cli.commands.companion",
        "token_relay.cli.parsing",
        "token_relay.cli.commands.token",
        "token_relay.host.paths",
        "token_relay.protocol.errors",
    }


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("handoff watch", "handoff is a command of the phone", "token-relay phone handoff --help"),
        (
            "status",
            "status is a command of the phone and the companion",
            "token-relay phone status --help, or token-relay companion status --help",
        ),
        ("phnoe status", "argument COMMAND: invalid choice: 'phnoe'; did you mean phone?", "token-relay --help"),
        (
            "phone hand-off watch",
            "argument COMMAND: invalid choice: 'hand-off'; did you mean handoff?",
            "token-relay phone --help",
        ),
        ("phone sign-out --yes", "unrecognized arguments: --yes", "token-relay phone sign-out --help"),
        ("phone revoke car 13", "unrecognized arguments: 13", "token-relay phone revoke --help"),
        ("sandbox ctl heal all --foo", "unrecognized arguments: --foo", "token-relay sandbox ctl heal --help"),
    ],
)
def test_a_wrong_line_is_refused_in_the_name_of_the_command_that_was_meant(line: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        cli.parse(line.split())
    assert (str(refused.value), refused.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("phone replace car --yes -", ["-"]),
        ("phone replace --yes car RTR1:A", ["RTR1:A"]),
        ("phone replace car RTR1:A --yes B", ["RTR1:A", "B"]),
        ("phone pair RTR1:A --as x B C", ["RTR1:A", "B", "C"]),
        ("phone pair --yes", []),
    ],
)
def test_an_invitation_may_stand_behind_options(line: str, words: list[str]) -> None:
    args = cli.parse(line.split())
    assert (args.invitation, getattr(args, "device", "car")) == (words, "car")


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_examples_in_help_parse(group: str, name: str) -> None:
    text = re.sub(r"\\\n *", "", cli.commands_of(group)[name].examples)  # a line that goes on
    found = re.findall(r"token-relay (.+?)(?= *[|)&;<>]|  |\"|$)", text, re.MULTILINE)
    assert found or "token-relay" not in text
    for line in found:  # of a pipe, both ends
        assert cli.parse(shlex.split(line)).run
