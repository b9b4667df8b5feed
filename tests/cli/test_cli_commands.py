"""What each command asks a running agent, what it prints, and its exit code, over real sockets."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.cli_kit import Agent, Shell, Terminal
from token_relay.agents.token_source import RefusalCode, TokenGranted, TokenRefused
from token_relay.cli.client import ClientError
from token_relay.cli.commands.token import inspect
from token_relay.protocol.errors import ConfigError, LocalError, PersonNeededError, PolicyError
from token_relay.protocol.secret import AccessToken
from token_relay.service.control import JSON, Exchange

INVITATION = "RTR1:AE" + "A" * 120


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


JWT = f"{part({'alg': 'RS256', 'kid': '1'})}.{part({'sub': 'otp', 'scp': 'openid'})}.c2lnbmF0dXJl"


def granted(token: str = JWT) -> TokenGranted:
    return TokenGranted(
        AccessToken(token), "Bearer", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), "openid", "https://idp"
    )


@pytest.mark.parametrize(
    ("line", "command", "sent"),
    [
        ("phone status", "status", {}),
        ("phone devices", "devices", {"limit": 100, "wait_s": 2.0}),
        (
            "phone devices --only needs-me --limit 5 --after 1.abc --wait 0",
            "devices",
            {"limit": 5, "wait_s": 0.0, "only": "needs-me", "after": "1.abc"},
        ),
        ("phone devices kitchen", "devices", {"device": "kitchen", "wait_s": 2.0}),
        ("phone events --limit 3 --after 9", "events", {"limit": 3, "after": 9}),
        ("phone events", "events", {"limit": 50, "after": 0}),
        ("phone sign-out", "sign_out", {}),
        ("phone sign-in --username U", "sign_in", {"method": "native", "username": "U"}),
        (
            "phone sign-in --username U --mfa-method sms --register +1425",
            "sign_in",
            {"method": "native", "username": "U", "mfa_method": "sms", "contact": "+1425"},
        ),
        ("phone sign-up --username U", "sign_up", {"username": "U", "with_password": True}),
        (
            "phone sign-up --username U --no-password --register a@b.example",
            "sign_up",
            {"username": "U", "with_password": False, "contact": "a@b.example"},
        ),
        ("phone reset-password --username U", "reset_password", {"username": "U"}),
        (
            "phone reset-password --username U --mfa-method email",
            "reset_password",
            {"username": "U", "mfa_method": "email"},
        ),
        ("phone sign-in --browser", "sign_in", {"method": "browser", "open": True}),
        ("phone sign-in --browser --no-open", "sign_in", {"method": "browser", "open": False}),
        ("phone import --refresh-token-file F", "import", {}),
        ("phone pair", "pair", {"yes": False}),
        ("phone pair RTR1:ABC --yes", "pair", {"yes": True, "invitation": "RTR1:ABC"}),
        ("phone pair RTR1:ABC --as car", "pair", {"yes": False, "invitation": "RTR1:ABC", "as": "car"}),
        ("phone pair -", "pair", {"yes": False, "invitation": "RTR1:FROM-STDIN"}),
        ("phone handoff kitchen", "handoff", {"device": "kitchen", "wait_s": 60.0}),
        (
            "phone handoff kitchen --strategy mint --scope openid --lease-days 0 --wait 0 --username U",
            "handoff",
            {
                "device": "kitchen",
                "wait_s": 0.0,
                "strategy": "mint",
                "scope": "openid",
                "lease_days": 0,
                "sign_in": {"method": "native", "username": "U"},
                "sign_in_options": ["--username"],
            },
        ),
        ("phone handoff kitchen --account A", "handoff", {"device": "kitchen", "wait_s": 60.0, "account": "A"}),
        ("phone sign-out --account A", "sign_out", {"account": "A"}),
        ("phone cancel kitchen", "cancel", {"device": "kitchen"}),
        ("phone revoke kitchen --yes", "revoke", {"device": "kitchen", "lost": False, "wait_s": 10.0, "yes": True}),
        (
            "phone revoke kitchen --lost --wait 2",
            "revoke",
            {"device": "kitchen", "lost": True, "wait_s": 2.0, "yes": False},
        ),
        ("phone unpair kitchen", "unpair", {"device": "kitchen", "yes": False}),
        ("phone forget kitchen --yes", "forget", {"device": "kitchen", "yes": True}),
        ("companion status", "status", {}),
        ("companion events --limit 1", "events", {"limit": 1, "after": 0}),
        ("companion forget --yes", "forget", {"pairing": False, "yes": True}),
        ("companion forget --pairing", "forget", {"pairing": True, "yes": False}),
        ("companion forget --phone anns", "forget_phone", {"phone": "anns", "yes": False}),
        ("companion primary anns", "primary", {"phone": "anns"}),
        ("companion pair --no-qr", "pair", {"wait": True}),
        ("companion pair --no-wait", "pair", {"wait": False}),
    ],
)
def test_command_line_becomes_this_question(
    shell: Shell, agent: Agent, line: str, command: str, sent: dict[str, JSON]
) -> None:
    agent.replies(command, {"state": "well"})
    with agent.running():
        ran = shell(*line.split(), "--home", str(agent.directory), stdin="RTR1:FROM-STDIN\n")
    assert agent.calls == [(command, sent)]
    assert (ran.code, "Traceback" in ran.err) == (0, False)


@pytest.mark.parametrize("where", ["--home", "--socket"])
def test_agent_is_found_by_option_or_environment(shell: Shell, agent: Agent, where: str) -> None:
    agent.replies("status", {"state": "well"})
    with agent.running():
        assert shell("phone", "status", where, str(agent.directory)).out == "state  well\n"
        shell.env["TOKEN_RELAY_HOME"] = str(agent.directory)
        assert shell("phone", "status", "--json").out == '{"state": "well"}\n'


@pytest.mark.parametrize(
    "line", ["phone status", "companion token", "phone handoff d", "companion pair", "phone token"]
)
def test_agent_that_does_not_run_is_exit_3_with_how_to_start_it(shell: Shell, short_path: Path, line: str) -> None:
    ran = shell(*line.split(), "--home", str(short_path))
    kind = line.split(maxsplit=1)[0]
    assert (ran.code, ran.out) == (3, "")
    assert f"the {kind} agent is not running" in ran.err
    assert f"hint: start it: token-relay {kind} run" in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LocalError("no such device", hint="see devices"), 1),
        (ConfigError("broker.url is wrong", hint="see devices"), 2),
        (PersonNeededError("sign in first", hint="see devices"), 4),
        (PolicyError("allow_refresh_token_access is false", hint="see devices"), 5),
    ],
)
def test_error_of_the_agent_keeps_its_exit_code_and_hint(
    shell: Shell, agent: Agent, error: Exception, code: int
) -> None:
    agent.raises("handoff", error)
    with agent.running():
        ran = shell("phone", "handoff", "d", "--home", str(agent.directory))
        as_json = shell("phone", "handoff", "d", "--home", str(agent.directory), "--json")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == f"token-relay: {error}\n  hint: see devices\n"
    shown = json.loads(as_json.out)["error"]
    assert (as_json.code, shown["exit"], shown["message"], shown["hint"]) == (code, code, str(error), "see devices")


def test_pending_result_is_exit_6(shell: Shell, agent: Agent) -> None:
    agent.replies("handoff", {"pending": True, "state": "offered"})
    with agent.running():
        ran = shell("phone", "handoff", "d", "--home", str(agent.directory))
        as_json = shell("phone", "handoff", "d", "--home", str(agent.directory), "--json")
    assert (ran.code, ran.out) == (6, "state  offered\n")
    assert "goes on with it in the background" in ran.err
    assert (as_json.code, json.loads(as_json.out)) == (6, {"pending": True, "state": "offered"})


def test_status_shows_its_action_and_exits_0(shell: Shell, agent: Agent) -> None:
    agent.replies("status", {"state": "locked", "action": {"slug": "ask_handoff", "sentence": "run phone handoff"}})
    with agent.running():
        ran = shell("companion", "status", "--home", str(agent.directory))
    assert (ran.code, ran.out) == (0, "state  locked\nnext: run phone handoff [ask_handoff]\n")


def test_questions_of_the_agent_are_answered_from_files(shell: Shell, agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter two\n")
    agent.asks("sign_in", "password", "Password", {"signed_in": True})
    with agent.running():
        ran = shell(
            "phone",
            "sign-in",
            "--username",
            "U",
            "--password-file",
            str(tmp_path / "pw"),
            "--home",
            str(agent.directory),
        )
    assert (ran.code, agent.answers) == (0, ["hunter two"])
    assert "hunter" not in ran.out + ran.err


def test_missing_answer_is_exit_4_and_the_agent_learns_that_nobody_is_there(shell: Shell, agent: Agent) -> None:
    agent.asks("sign_in", "password", "Password", {})
    with agent.running():
        ran = shell("phone", "sign-in", "--username", "U", "--home", str(agent.directory))
    assert (ran.code, ran.out) == (4, "")
    assert "hint: use --password-file" in ran.err


@pytest.mark.parametrize(("typed", "answer"), [("y\n", "yes"), ("n\n", None)])
def test_check_number_is_shown_before_the_question(shell: Shell, agent: Agent, typed: str, answer: str | None) -> None:
    async def pair(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        await exchange.progress({"check_number": "042137", "device_name": "kitchen"})
        agent.answers.append(await exchange.ask("confirm", "Does kitchen show the same number?"))
        return {"paired": agent.answers[-1] is not None}

    agent.handlers["pair"] = pair
    with agent.running():
        ran = shell("phone", "pair", "RTR1:A", "--home", str(agent.directory), stdin=Terminal(typed))
    assert agent.answers == [answer]
    assert ran.err.index("check number: 042 137  (kitchen)") < ran.err.index("same number? [y/N]")


def test_option_that_means_nothing_here_is_usage_error(shell: Shell, agent: Agent) -> None:
    with agent.running():
        assert shell("phone", "sign-in", "--username", "U", "--no-open", "--home", str(agent.directory)).code == 2
        assert shell("phone", "sign-in", "--browser", "--otp-file", "F", "--home", str(agent.directory)).code == 2
        assert shell("phone", "sign-in", "--browser", "--mfa-method", "M", "--home", str(agent.directory)).code == 2
        assert shell("phone", "sign-in", "--browser", "--register", "C", "--home", str(agent.directory)).code == 2
        assert shell("phone", "handoff", "d", "--mfa-method", "M", "--home", str(agent.directory)).code == 2
    assert agent.calls == []


# -- companion pair ----------------------------------------------------------------------------------------


def inviting(agent: Agent) -> None:
    async def pair(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        await exchange.progress({"invitation": INVITATION, "expires_in_s": 600})
        if args["wait"] is False:
            return {"pending": True}
        await exchange.progress({"check_number": "042137", "device_name": "pocket"})
        return {"paired": True, "device_name": "pocket"}

    agent.handlers["pair"] = pair


def test_invitation_is_alone_on_the_last_line_with_qr_above(shell: Shell, agent: Agent) -> None:
    inviting(agent)
    with agent.running():
        ran = shell("companion", "pair", "--home", str(agent.directory))
    assert (ran.code, ran.last_line) == (0, INVITATION)
    assert "▄▄▄▄▄" in ran.out
    assert "\x1b" not in ran.out
    assert "valid for 10 min" in ran.err
    assert "a phone answered: check number 042 137 (pocket)" in ran.err


def test_invitation_without_qr_is_the_only_line(shell: Shell, agent: Agent) -> None:
    inviting(agent)
    with agent.running():
        waited = shell("companion", "pair", "--no-qr", "--home", str(agent.directory))
        at_once = shell("companion", "pair", "--no-qr", "--no-wait", "--home", str(agent.directory))
    assert waited.out == at_once.out == INVITATION + "\n"
    assert (waited.code, at_once.code) == (0, 0)
    assert "check number" not in at_once.err


def test_pairing_as_json_is_one_object_and_the_invitation_is_still_shown_in_time(shell: Shell, agent: Agent) -> None:
    inviting(agent)
    with agent.running():
        ran = shell("companion", "pair", "--json", "--home", str(agent.directory))
    result = json.loads(ran.out)
    assert result["invitation"] == INVITATION
    assert (result["check_number"], result["paired"]) == ("042137", True)
    assert ran.err.index(INVITATION) < ran.err.index("042 137")


# -- token -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["phone", "companion"])
def test_token_stands_alone_on_one_line(shell: Shell, agent: Agent, kind: str) -> None:
    agent.token = granted("opaque-token")
    with agent.running():
        ran = shell(kind, "token", "--home", str(agent.directory))
    assert (ran.code, ran.out, ran.err) == (0, "opaque-token\n", "")


def test_token_as_json_is_the_agents_answer(shell: Shell, agent: Agent) -> None:
    agent.token = granted("opaque-token")
    with agent.running():
        ran = shell("companion", "token", "--json", "--home", str(agent.directory))
    assert json.loads(ran.out) == {
        "access_token": "opaque-token",
        "token_type": "Bearer",
        "expires_at": "2030-01-02T03:04:05Z",
        "scope": "openid",
        "issuer": "https://idp",
    }


def test_token_options_reach_the_agent(shell: Shell, agent: Agent) -> None:
    agent.token = granted()
    options = "--scope openid --account a@b --audience https://api --min-valid 300 --force-refresh"
    with agent.running():
        assert shell("companion", "token", *options.split(), "--home", str(agent.directory)).code == 0
    (query,) = agent.queries
    assert (query.scope, query.account, query.audience) == ("openid", "a@b", "https://api")
    assert (query.min_valid_s, query.force_refresh) == (300.0, True)


def test_inspect_prints_header_and_claims_and_never_the_signature(shell: Shell, agent: Agent) -> None:
    agent.token = granted()
    with agent.running():
        for more in ([], ["--json"]):
            ran = shell("companion", "token", "--inspect", *more, "--home", str(agent.directory))
            assert json.loads(ran.out) == {
                "header": {"alg": "RS256", "kid": "1"},
                "claims": {"sub": "otp", "scp": "openid"},
                "is_verified": False,
            }
            assert JWT.rpartition(".")[2] not in ran.out + ran.err


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        "a.b",
        "a.b.c.d",
        "..",
        "e30.e30",
        "Zm9v.Zm9v.c2ln",
        "W10.W10.c2ln",
        "\u00e9.e30.x",
        "e.e30.x",
        "at.SANDBOXMARK.7b7d",
    ],
)
def test_opaque_token_is_not_inspected_nor_shown(token: str) -> None:
    with pytest.raises(ClientError, match="not a JWT") as caught:
        inspect(token)
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "code"),
    [("reauth_required", 4), ("locked", 4), ("denied", 5), ("offline", 1), ("not_found", 1), ("busy", 1)],
)
def test_refusal_has_its_exit_code_reason_and_action(shell: Shell, agent: Agent, error: RefusalCode, code: int) -> None:
    agent.token = TokenRefused(error, "because of this", action="do that")
    with agent.running():
        ran = shell("companion", "token", "--home", str(agent.directory))
        as_json = shell("companion", "token", "--json", "--home", str(agent.directory))
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == f"token-relay: {error}: because of this\n  hint: do that\n"
    shown = json.loads(as_json.out)
    assert (as_json.code, shown["error"], shown["action"]) == (code, error, "do that")
