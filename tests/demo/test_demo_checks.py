"""The demo's own checks: a story that does not hold is told as one, with exit code 1, and cleaned up after."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import token_relay.cli.demo as demo
from token_relay.cli.demo import STORY, StoryStep, tell
from token_relay.cli.demo.checks import StepFailedError, expect, expect_equal, lasting
from token_relay.cli.demo.programs import Interrupts, Programs, log_line
from token_relay.cli.demo.screen import Drawing, Rows, Screen, Told
from token_relay.cli.demo.stage import Stage
from token_relay.cli.demo.steps import short_topic
from token_relay.protocol.errors import ConfigError

TOKEN = "rt.SANDBOXMARK.00"


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Programs]:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    with Programs(os.environ, Interrupts()) as found:
        yield found
    assert not found.directory.exists()


def told(programs: Programs, *steps: StoryStep) -> tuple[bool, str]:
    out = io.StringIO()
    screen = Screen(out, io.StringIO(), is_plain=True)
    return tell(steps, Stage(programs, "entra", 2), screen), out.getvalue()


def good(stage: Stage) -> Told:
    expect_equal(1 + 1, 2, "the sum")
    return Told("a sum is right")


def wrong(stage: Stage) -> Told:
    expect_equal(1 + 1, 3, "the sum")
    return Told("never shown")


def never(stage: Stage) -> Told:
    raise AssertionError("a step after the failed one was played")


def test_a_step_with_a_wrong_expectation_fails_the_story_and_says_what_was_expected(programs: Programs) -> None:
    (programs.directory / "watch.log").write_text(
        '{"event": "refreshed", "level": "info", "timestamp": "t", "generation": 2}\n'
        f'{{"event": "leaked", "level": "info", "token": "{TOKEN}"}}\n'
    )
    has_held, text = told(
        programs, StoryStep("one", "", good), StoryStep("two", "", wrong), StoryStep("three", "", never)
    )
    assert not has_held
    assert text.splitlines() == [
        "ok  1  a sum is right",
        "no  2  two",
        "       expected: the sum: 3",
        "       got:      2",
        "       last lines of the log of watch:",
        "         info refreshed generation=2",
        "         (withheld)",
    ]


def test_an_error_of_a_program_fails_the_story_too(programs: Programs) -> None:
    def broken(stage: Stage) -> Told:
        raise ConfigError("no such thing", hint="look again")

    has_held, text = told(programs, StoryStep("one", "", broken))
    assert not has_held and "no such thing look again" in text


def test_a_command_that_ends_otherwise_than_expected_fails_with_what_it_said(programs: Programs) -> None:
    ran = programs.start("companion", "status", "--home", str(programs.directory / "none"))
    assert ran.expect(3) is ran
    with pytest.raises(StepFailedError) as caught:
        ran.expect(0)
    assert caught.value.expected.startswith("exit code 0 of: token-relay companion status")
    assert "the companion agent is not running" in caught.value.got


def test_a_story_that_does_not_hold_ends_with_exit_code_1_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    homes = []

    def starts_then_fails(stage: Stage) -> Told:
        homes.append(stage.programs.directory)
        stage.start_sandbox()
        return wrong(stage)

    monkeypatch.setattr(demo, "STORY", (StoryStep("one", "", starts_then_fails),))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert demo.run_demo(fast=True) == 1
    shown = capsys.readouterr().out
    assert "expected: the sum: 3" in shown and "the story did not hold" in shown
    assert not homes[0].exists()


def test_a_token_in_anything_that_was_written_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leaks(stage: Stage) -> Told:
        (stage.programs.directory / "note.txt").write_text(TOKEN)
        return Told("looks well")

    monkeypatch.setattr(demo, "STORY", (StoryStep("one", "", leaks),))
    assert demo.run_demo(fast=True) == 1
    shown = capsys.readouterr().out
    assert "a token stands in clear" in shown and "note.txt" in shown and TOKEN not in shown


def test_there_are_ten_steps_and_each_says_why() -> None:
    assert len(STORY) == 10
    assert all(len(step.why.split()) > 15 for step in STORY)


# -- Pure --------------------------------------------------------------------------------------------------


def test_a_failed_check_shortens_what_came() -> None:
    expect(True, "anything", "")
    with pytest.raises(StepFailedError) as caught:
        expect(False, "few words", "x" * 1000)
    assert (caught.value.expected, len(caught.value.got)) == ("few words", 300)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["a.b[1]"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a[1]"]),
        ({"a": 1}, {}, ["a"]),
        ({"a": [{"b": None}]}, {"a": [{"b": ""}]}, ["a[0].b"]),
        (1, 2, [""]),
        ({"a": []}, {"a": {}}, ["a"]),
        ({"a": {}}, {}, ["a"]),
    ],
)
def test_differences_are_named_by_their_place(before: object, after: object, found: list[str]) -> None:
    assert sorted({place for place, _ in set(lasting(before)) ^ set(lasting(after))}) == found


def test_a_status_is_compared_without_what_changes_by_itself() -> None:
    status = {"clock": {"now": 5}, "counters": {"duplicate": 1}, "phones": [{"heard_at": 7, "state": "active"}]}
    assert set(lasting(status)) == set(lasting({"phones": [{"state": "active"}]}))


def test_only_device_ids_are_shortened_in_a_topic() -> None:
    ids = "abcd" + "2" * 22, "efgh" + "7" * 22
    assert short_topic(f"relay/v1/{ids[0]}/from/{ids[1]}") == "relay/v1/abcd../from/efgh.."
    assert short_topic("relay/v1/pair/x") == "relay/v1/pair/x"


@pytest.mark.parametrize("line", ["plain text", "[1, 2]", '"text"', "{"])
def test_a_log_line_that_is_no_event_stays_as_it_is(line: str) -> None:
    assert log_line(line) == line


# -- Screen ------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    encoding = "utf-8"  # a StringIO has none

    def isatty(self) -> bool:
        return True


PICTURES = (Drawing("█▀▄\n"), Rows(("what",), (("this",),)), Rows(("a", "b"), (("1", "2"), ("33", "44"))))


def test_plain_output_has_tables_as_lines_and_no_drawing() -> None:
    out = io.StringIO()
    Screen(out, io.StringIO(), is_plain=False).held(5, Told("it held", ("detail " * 30,), PICTURES))
    assert out.getvalue().splitlines() == [
        "ok  5  it held",
        "       " + "detail " * 30,
        "       what:",
        "         this",
        "       a   b",
        "       1   2",
        "       33  44",
    ]


def test_no_color_makes_a_terminal_plain() -> None:
    out = Terminal()
    Screen(out, io.StringIO(), is_plain=True, fast=True).held(5, Told("it held", (), PICTURES))
    assert out.getvalue().isascii() and "\x1b" not in out.getvalue()


def test_a_terminal_gets_marks_and_drawings() -> None:
    out = Terminal()
    Screen(out, io.StringIO(), is_plain=False, fast=True).held(5, Told("it held", (), PICTURES))
    assert "✓" in out.getvalue() and "█▀▄" in out.getvalue()


def test_what_a_program_said_cannot_move_the_cursor_and_is_no_markup() -> None:
    out = Terminal()
    told = Told("\x1b[2J[bold]x", ("\x1b]0;t\x07",), (Rows(("h",), (("\x9b2J",),)),))
    Screen(out, io.StringIO(), is_plain=True, fast=True).held(1, told)
    assert "\x1b" not in out.getvalue() and "\x9b" not in out.getvalue() and "[bold]x" in out.getvalue()


def test_step_explains_and_waits_for_the_return_key_and_the_end_of_input_does_not_stop_it() -> None:
    out, keys = io.StringIO(), io.StringIO("\nrest")
    screen = Screen(out, keys, is_plain=True, step=True)
    screen.explain(1, "first", "because\n   of this")
    assert "step 1: first" in out.getvalue() and "because of this" in out.getvalue()
    assert keys.read() == "rest"
    screen.explain(2, "second", "why")
    assert out.getvalue().endswith("\n")


def test_without_step_nothing_is_explained_and_no_key_is_read() -> None:
    out, keys = io.StringIO(), io.StringIO("\n")
    Screen(out, keys, is_plain=True).explain(1, "first", "why")
    assert out.getvalue() == "" and keys.read() == "\n"


# -- Interrupts --------------------------------------------------------------------------------------------


def test_a_signal_is_raised_at_once_or_after_the_critical_section() -> None:
    order = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit) as caught, interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            order.append("the process is known")
        assert caught.value.code == 128 + signal.SIGTERM
        with interrupts.held(are_dropped=True):
            signal.raise_signal(signal.SIGINT)
        with interrupts.held():
            pass
    assert order == ["the process is known"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
