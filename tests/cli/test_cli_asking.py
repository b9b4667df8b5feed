"""Answers come from where the person said, only when asked, and never from an older code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.cli.cli_kit import Pipe, Terminal, context
from token_relay.cli.parsing import Context
from token_relay.cli.prompts import CODE_WAIT_S_MAX, POLL_S, Prompts, Sources
from token_relay.protocol.errors import LocalError, PersonNeededError

CODE = {"id": 1, "kind": "code", "text": "Code sent to o***@contoso.example"}
PASSWORD = {"id": 1, "kind": "password", "text": "Password"}


class Clock:
    """Virtual time: each sleep lets one planned thing happen."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.now = 0.0
        self.sleeps = 0
        self._steps = list(steps)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps += 1
        if self._steps:
            self._steps.pop(0)()


def answers(sources: Sources, clock: Clock | None = None, ctx: Context | None = None) -> Prompts:
    clock = clock or Clock()
    return Prompts(ctx or context(), sources, monotonic=clock.monotonic, sleep=clock.sleep)


def text_of(ctx: Context) -> str:
    assert isinstance(ctx.stderr, Pipe)
    return ctx.stderr.getvalue()


# -- Code --------------------------------------------------------------------------------------------------


def test_code_file_is_waited_for_until_it_exists(tmp_path: Path) -> None:
    path = tmp_path / "code"
    clock = Clock(lambda: None, lambda: path.write_text(""), lambda: path.write_text("12345678\n"))
    assert answers(Sources(otp_file=str(path)), clock).answer(CODE) == "12345678"


def test_code_that_was_there_before_is_never_taken(tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_text("11111111\n")
    os.utime(path, ns=(1, 1))
    clock = Clock(lambda: None, lambda: path.write_text("22222222\n"))
    assert answers(Sources(otp_file=str(path)), clock).answer(CODE) == "22222222"


def test_same_code_written_anew_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_text("11111111\n")
    os.utime(path, ns=(1, 1))
    answering = answers(Sources(otp_file=str(path)), Clock(lambda: path.write_text("11111111\n")))
    assert answering.answer(CODE) == "11111111"


def test_second_question_wants_a_file_that_was_written_again(tmp_path: Path) -> None:
    path = tmp_path / "code"

    def write(text: str, at_ns: int) -> None:
        path.write_text(text)
        os.utime(path, ns=(at_ns, at_ns))

    clock = Clock(lambda: write("11111111", 1), lambda: None, lambda: None, lambda: write("22222222", 2))
    answering = answers(Sources(otp_file=str(path)), clock)
    assert [answering.answer(CODE), answering.answer(CODE)] == ["11111111", "22222222"]


def test_code_file_is_read_only_when_it_has_stopped_changing(tmp_path: Path) -> None:
    path = tmp_path / "code"

    def write(text: str, at_ns: int) -> None:
        path.write_text(text)
        os.utime(path, ns=(at_ns, at_ns))

    clock = Clock(lambda: write("1234", 1), lambda: write("12345678", 2))
    assert answers(Sources(otp_file=str(path)), clock).answer(CODE) == "12345678"
    assert clock.sleeps == 3


def test_code_may_come_through_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writers: list[int] = []

    def write() -> None:
        writers.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        os.write(writers[0], b"12345678\n")

    try:
        assert answers(Sources(otp_file=str(path)), Clock(lambda: None, write)).answer(CODE) == "12345678"
    finally:
        for writer in writers:
            os.close(writer)


def test_waiting_for_a_code_ends_after_five_minutes(tmp_path: Path) -> None:
    clock = Clock()
    with pytest.raises(PersonNeededError, match="within 300 s"):
        answers(Sources(otp_file=str(tmp_path / "never")), clock).answer(CODE)
    assert clock.now == pytest.approx(CODE_WAIT_S_MAX, abs=2 * POLL_S)


def test_code_file_that_is_too_long_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "code"
    for content in (b"1" * 20_000, b"\xff\xfe", b"\n123"):
        path.unlink(missing_ok=True)
        clock = Clock(lambda content=content: path.write_bytes(content))  # type: ignore[misc]  # bound at definition
        with pytest.raises(LocalError, match="code file"):
            answers(Sources(otp_file=str(path)), clock).answer(CODE)


def test_code_command_is_run_without_a_shell_and_its_output_stripped(tmp_path: Path) -> None:
    script = tmp_path / "mail.py"
    script.write_text("import sys; print('\\n  ' + sys.argv[1] + '  ')")
    sources = Sources(otp_command=f"{sys.executable} {script} '$(touch {tmp_path}/x);1234'")
    assert answers(sources).answer(CODE) == f"$(touch {tmp_path}/x);1234"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/nonexistent/command", "cannot be run: No such file or directory"),
        ("false", "false failed with status 1"),
        ("true", "the code is empty"),
        ("cat /dev/zero", "printed too much"),
        ("'unclosed", "a quotation mark is not closed"),
        ("''", "cannot be run"),
        ("  ", "--otp-command is empty"),
    ],
)
def test_code_command_that_fails_says_so(command: str, reason: str) -> None:
    with pytest.raises(LocalError) as caught:
        answers(Sources(otp_command=command)).answer(CODE)
    assert reason in str(caught.value)


def test_code_and_password_that_were_not_accepted_are_not_sent_again(tmp_path: Path) -> None:
    answering = answers(Sources(otp_command="echo 12345678"))
    assert answering.answer(CODE) == "12345678"
    with pytest.raises(PersonNeededError, match="the code was not accepted"):
        answering.answer(CODE)
    path = tmp_path / "pw"
    path.write_text("wrong\n")
    answering = answers(Sources(password_file=str(path)))
    answering.answer(PASSWORD)
    with pytest.raises(PersonNeededError, match="the password was not accepted"):
        answering.answer(PASSWORD)


def test_code_command_is_not_run_before_the_question(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    answering = answers(Sources(otp_command=f"touch {mark}"))
    assert not mark.exists()
    with pytest.raises(LocalError):
        answering.answer(CODE)
    assert mark.exists()


def test_password_and_code_share_standard_input_line_by_line() -> None:
    answering = answers(Sources(password_file="-", otp_file="-"), ctx=context("hunter two\r\n12345678\n"))
    assert answering.answer(PASSWORD) == "hunter two"
    assert answering.answer(CODE) == "12345678"
    with pytest.raises(LocalError, match="no \\(further\\) line"):
        answering.answer(CODE)


# -- The others --------------------------------------------------------------------------------------------


def test_password_comes_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    path.write_text(" kept as it is \nnot this\n")
    assert answers(Sources(password_file=str(path))).answer(PASSWORD) == " kept as it is "


@pytest.mark.parametrize("name", ["absent", "."])
def test_password_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(LocalError, match=r"password file .* cannot be read"):
        answers(Sources(password_file=str(tmp_path / name))).answer(PASSWORD)


@pytest.mark.parametrize(
    ("ask", "hint"),
    [
        (PASSWORD, "use --password-file"),
        (CODE, "use --otp-file or --otp-command"),
        ({"kind": "confirm", "text": "The same number?"}, "--yes answers without asking"),
        ({"kind": "invitation"}, "- for standard input"),
        ({"kind": "device_name", "text": "'watch' can mean watch (6e6ljv) already; call it"}, "after --as"),
    ],
)
def test_without_a_terminal_nobody_is_asked_and_the_option_is_named(ask: dict[str, object], hint: str) -> None:
    with pytest.raises(PersonNeededError) as caught:
        answers(Sources(), ctx=context("y\n")).answer(ask)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("typed", "answer"), [("y\n", "yes"), ("YES\n", "yes"), ("n\n", None), ("\n", None), ("", None), ("yy\n", None)]
)
def test_confirmation_takes_only_a_yes(typed: str, answer: str | None) -> None:
    ctx = context(Terminal(typed))
    assert answers(Sources(), ctx=ctx).answer({"kind": "confirm", "text": "The same number?"}) == answer
    assert text_of(ctx) == "The same number? [y/N] "


@pytest.mark.parametrize(("typed", "answer"), [("car\n", "car"), (" second watch \n", "second watch"), ("\n", None)])
def test_a_device_is_called_what_is_typed(typed: str, answer: str | None) -> None:
    ctx = context(Terminal(typed))
    assert answers(Sources(), ctx=ctx).answer({"kind": "device_name", "text": "taken; call it"}) == answer
    assert text_of(ctx) == "taken; call it: "


def test_yes_confirms_without_asking() -> None:
    assert answers(Sources(is_confirmed=True)).answer({"kind": "confirm", "text": "?"}) == "yes"


def test_password_prompt_does_not_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fake_getpass(prompt: str, stream: object) -> str:
        asked.append(prompt)
        return "typed"

    monkeypatch.setattr("token_relay.cli.prompts.getpass.getpass", fake_getpass)
    assert answers(Sources(), ctx=context(Terminal())).answer(PASSWORD) == "typed"
    assert asked == ["Password: "]


def test_end_of_input_at_a_prompt_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(prompt: str, stream: object) -> str:
        raise EOFError

    monkeypatch.setattr("token_relay.cli.prompts.getpass.getpass", closed)
    with pytest.raises(PersonNeededError, match="no answer"):
        answers(Sources(), ctx=context(Terminal())).answer(PASSWORD)
    assert answers(Sources(), ctx=context(Terminal())).answer({"kind": "invitation"}) is None


def test_refresh_token_comes_from_its_file_only(tmp_path: Path) -> None:
    path = tmp_path / "rt"
    path.write_text("opaque\n")
    assert answers(Sources(refresh_token_file=str(path))).answer({"kind": "refresh_token"}) == "opaque"
    with pytest.raises(LocalError, match="--refresh-token-file is missing"):
        answers(Sources()).answer({"kind": "refresh_token"})


def test_browser_address_is_alone_on_its_line_and_opened_only_if_allowed() -> None:
    opened: list[str] = []

    def open_browser(url: str, env: Mapping[str, str]) -> bool:
        opened.append(url)
        return True

    ask = {"kind": "browser", "url": "https://idp.example/authorize?state=x"}
    for may_open in (True, False):
        ctx = context()
        answering = Prompts(ctx, Sources(may_open_browser=may_open), open_browser=open_browser)
        assert answering.answer(ask) == "shown"
        assert isinstance(ctx.stdout, Pipe)
        assert ctx.stdout.getvalue() == "https://idp.example/authorize?state=x\n"
    assert opened == ["https://idp.example/authorize?state=x"]


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "javascript:alert(1)", "https://x/\x1b", "--new-window"])
def test_address_that_is_no_web_address_is_not_opened(url: str) -> None:
    def open_browser(url: str, env: Mapping[str, str]) -> bool:
        raise AssertionError(url)

    with pytest.raises(LocalError, match="no browser should open"):
        Prompts(context(), Sources(), open_browser=open_browser).answer({"kind": "browser", "url": url})


def test_unknown_question_is_refused_and_questions_are_bounded() -> None:
    with pytest.raises(LocalError, match="something unknown: retina"):
        answers(Sources()).answer({"kind": "retina"})
    answering = answers(Sources(is_confirmed=True))
    for _ in range(64):
        answering.answer({"kind": "confirm"})
    with pytest.raises(LocalError, match="more than 64 questions"):
        answering.answer({"kind": "confirm"})


def test_text_of_a_question_cannot_move_the_cursor() -> None:
    ctx = context(Terminal("n\n"))
    answers(Sources(), ctx=ctx).answer({"kind": "confirm", "text": "ok?\x1b[2J"})
    assert text_of(ctx) == "ok?\\x1b[2J [y/N] "
