"""Answers to what a native flow asks: a new password, another code, a choice, an address, an attribute."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_kit import Agent, Pipe, Shell, Terminal, context
from token_relay.cli.parsing import Context
from token_relay.cli.prompts import ATTRIBUTES_CHARS_MAX, Prompts, Sources, read_attributes
from token_relay.protocol.errors import LocalError, PersonNeededError

CODE = {"kind": "code", "text": "code sent by email to o***@contoso.example", "code_length": 8, "can_resend": True}
CHOICE = {
    "kind": "choice",
    "text": "second factor by",
    "choices": [{"value": "m1", "text": "email m***"}, {"value": "m2", "text": "sms +1***\x1b[2J"}],
}
CONTACT = {"kind": "contact", "text": "e-mail address", "channel": "email", "proposal": "a@b.example"}
ATTRIBUTE = {"kind": "attribute", "text": "age", "name": "age", "type": "Int64", "pattern": "^[0-9]+$"}
NEW_PASSWORD = {"kind": "new_password", "text": "new password of U"}


def answers(sources: Sources | None = None, ctx: Context | None = None) -> Prompts:
    return Prompts(ctx or context(), sources or Sources())


def errors_of(ctx: Context) -> str:
    assert isinstance(ctx.stderr, Pipe)
    return ctx.stderr.getvalue()


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person types where nothing is echoed, in order; the prompts are put behind."""
    lines: list[str] = []
    prompts: list[str] = []

    def typed(prompt: str, stream: object) -> str:
        prompts.append(prompt)
        return lines.pop(0)

    monkeypatch.setattr("token_relay.cli.prompts.getpass.getpass", typed)
    return lines


@pytest.mark.parametrize(
    ("typed", "sent"), [("12345678", "12345678"), (" 1234 ", "1234"), ("", ""), ("r", ""), ("R ", "")]
)
def test_an_empty_answer_or_r_asks_for_a_new_code(typed: str, sent: str, typing: list[str]) -> None:
    typing.append(typed)
    assert answers(ctx=context(Terminal())).answer(CODE) == sent


def test_a_code_that_cannot_be_sent_again_is_not_left_out(typing: list[str]) -> None:
    typing.append("")
    with pytest.raises(LocalError, match="empty"):
        answers(ctx=context(Terminal())).answer({**CODE, "can_resend": False})


def test_a_new_password_is_typed_twice(typing: list[str]) -> None:
    typing += ["one", "two", "three", "three"]
    ctx = context(Terminal())
    assert answers(ctx=ctx).answer(NEW_PASSWORD) == "three"
    assert errors_of(ctx) == "the two are not the same\n"


def test_a_new_password_that_is_never_the_same_twice_ends_it(typing: list[str]) -> None:
    typing += ["one", "two"] * 3
    with pytest.raises(PersonNeededError, match="3 times"):
        answers(ctx=context(Terminal())).answer(NEW_PASSWORD)


def test_a_new_password_from_a_file_is_offered_once(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    path.write_text("Wrong-Horse-8\n")
    answering = answers(Sources(new_password_file=str(path)))
    assert answering.answer(NEW_PASSWORD) == "Wrong-Horse-8"
    with pytest.raises(PersonNeededError, match="not accepted"):
        answering.answer(NEW_PASSWORD)


def test_a_choice_is_a_number_of_the_list() -> None:
    ctx = context(Terminal("7\nx\n2\n"))
    assert answers(ctx=ctx).answer(CHOICE) == "m2"
    said = errors_of(ctx)
    assert said.startswith("second factor by:\n  1  email m***\n  2  sms +1***")
    assert "\x1b" not in said


@pytest.mark.parametrize("typed", ["", "\n", "0\n0\n0\n", "3\n-1\n²\n"])
def test_no_choice_is_declined(typed: str) -> None:
    assert answers(ctx=context(Terminal(typed))).answer(CHOICE) is None


@pytest.mark.parametrize("choices", [None, [], "ab", [1, 2], [{"value": "x"}] * 33])
def test_a_list_that_is_none_is_the_agent_s_mistake(choices: object) -> None:
    with pytest.raises(LocalError, match="no choice"):
        answers(ctx=context(Terminal("1\n"))).answer({**CHOICE, "choices": choices})


def test_a_contact_may_be_left_as_proposed() -> None:
    ctx = context(Terminal("\n"))
    assert answers(ctx=ctx).answer(CONTACT) == ""
    assert errors_of(ctx) == "e-mail address [a@b.example]: "


def test_an_attribute_is_asked_for_with_its_rules() -> None:
    ctx = context(Terminal("42\n"))
    assert answers(ctx=ctx).answer(ATTRIBUTE) == "42"
    assert errors_of(ctx) == "age (Int64, ^[0-9]+$): "


@pytest.mark.parametrize(
    ("ask", "hint"),
    [
        (NEW_PASSWORD, "--new-password-file"),
        (CODE, "--otp-file"),
        (CHOICE, "--mfa-method"),
        (CONTACT, "--register"),
        (ATTRIBUTE, "--attributes-file"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_without_a_terminal_the_option_that_would_help_is_named(ask: dict[str, object], hint: str) -> None:
    with pytest.raises(PersonNeededError) as caught:
        answers(ctx=context("1\n")).answer(ask)
    assert hint in caught.value.hint


# -- The file with attributes ------------------------------------------------------------------------------


def test_attributes_are_texts_numbers_and_yes_or_no(tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    path.write_text('{"displayName": "Änn", "age": 42, "news": false, "old": true}')
    assert read_attributes(context(), str(path)) == {
        "displayName": "Änn", "age": "42", "news": "false", "old": "true",
    }  # fmt: skip
    assert read_attributes(context('{"a": "b"}'), "-") == {"a": "b"}


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b'"a"', b"{", b'{"a": null}', b'{"a": []}', b'{"a": {}}', b'{"a": 1.5}', b'{"a": ""}',
     b"\xff", b"[" * 100_000, b'{"a": "' + b"x" * ATTRIBUTES_CHARS_MAX + b'"}'],
    ids=lambda content: f"{content[:12]!r}",
)  # fmt: skip
def test_an_attributes_file_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    path.write_bytes(content)
    with pytest.raises(LocalError, match="attributes file"):
        read_attributes(context(), str(path))


def test_an_attributes_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="cannot be read: No such file"):
        read_attributes(context(), str(tmp_path / "absent"))


def test_sign_up_sends_the_attributes_and_answers_with_the_new_password(
    shell: Shell, agent: Agent, tmp_path: Path
) -> None:
    (tmp_path / "pw").write_text("Wrong-Horse-8\n")
    (tmp_path / "me.json").write_text('{"displayName": "Ann"}')
    agent.asks("sign_up", "new_password", "new password", {"signed_in": True})
    with agent.running():
        ran = shell(
            *("phone", "sign-up", "--username", "U", "--home", str(agent.directory)),
            *("--password-file", str(tmp_path / "pw"), "--attributes-file", str(tmp_path / "me.json")),
        )
    assert (ran.code, agent.answers) == (0, ["Wrong-Horse-8"])
    assert agent.calls == [("sign_up", {"username": "U", "with_password": True, "attributes": {"displayName": "Ann"}})]
    assert "Wrong" not in ran.out + ran.err


def test_reset_password_answers_with_the_new_password(shell: Shell, agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("Wrong-Horse-8\n")
    agent.asks("reset_password", "new_password", "new password", {"signed_in": False, "message": "changed"})
    with agent.running():
        ran = shell(
            *("phone", "reset-password", "--username", "U", "--home", str(agent.directory)),
            *("--new-password-file", str(tmp_path / "pw"), "--json"),
        )
    assert (ran.code, agent.answers) == (0, ["Wrong-Horse-8"])
    assert '"signed_in": false' in ran.out
