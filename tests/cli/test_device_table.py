"""The list of devices on a screen: one line each, nothing wider than the terminal, and shown again when it changes."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from tests.cli.cli_kit import Agent, Pipe, Shell, Terminal
from token_relay.cli.commands import devices
from token_relay.cli.device_table import lines_of
from token_relay.cli.main import parse
from token_relay.cli.parsing import Context
from token_relay.cli.render import columns
from token_relay.console.device_words import summary_text
from token_relay.service.control import JSON, Exchange

NOW = 1_800_000_000


def row(name: str, state: str = "online", **more: Any) -> dict[str, Any]:
    shown = {"device_id": "a" * 26, "name": name, "state": state, "account": "otp@contoso.example"}
    return shown | {"heard_at": NOW - 4, "lease_left_s": 7_776_000, "next": "", "action": None} | more


def answer(*rows: dict[str, Any], place: str | None = None, **counts: int) -> dict[str, Any]:
    return {"devices": list(rows), "summary": {"devices": len(rows), **counts}, "next": place, "now": NOW}


def test_the_list_says_state_name_account_heard_lease_and_next() -> None:
    sentence = "bring car 13 online; what waits for it goes on by itself then"
    to_do = {"slug": "bring_device_online", "sentence": sentence}
    result = answer(
        row("car 13", "needs_me", next="bring online", heard_at=NOW - 93_600, action=to_do),
        row("hall", "silent", heard_at=0, lease_left_s=None),
        row("kitchen", account="ann@x", accounts=2),
        place="2." + "a" * 26,
        needs_me=1,
        silent=1,
        fine=1,
    )
    assert lines_of(result, width=None) == [
        "  state      name     account              heard  lease  next",
        "! needs you  car 13   otp@contoso.example  1 d    90 d   bring online",
        "○ silent     hall     otp@contoso.example  never",
        "● online     kitchen  ann@x +1             4 s    90 d",
        "3 devices: 1 needs you, 1 silent, 1 fine",
        "more: token-relay phone devices --after 2." + "a" * 26,
        f"next: {sentence} [bring_device_online]",
    ]
    assert lines_of(result, width=80)[-1] == "next: token-relay phone devices 'car 13'"  # one line, whatever it says
    assert lines_of(result, width=None, in_ascii=True)[2].startswith("- silent")


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"devices": 20, "needs_me": 1, "silent": 1, "fine": 18}, "20 devices: 1 needs you, 1 silent, 18 fine"),
        ({"devices": 1, "fine": 1}, "1 device: 1 fine"),
        (
            {"devices": 4, "needs_me": 2, "waiting": 1, "unknown": 1, "fine": 0},
            "4 devices: 2 need you, 1 waiting, 1 unknown",
        ),
        ({"devices": 0}, "no device is paired: token-relay phone pair"),
        (None, "no device is paired: token-relay phone pair"),
    ],
)
def test_counts_in_words(counts: object, text: str) -> None:
    assert summary_text(counts) == text


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("name", ["x" * 64, "厨房" * 32, "é" * 64, "a b " * 16])
def test_long_names_are_cut_to_the_width_and_wide_characters_count_twice(name: str, width: int) -> None:
    lines = lines_of(answer(row(name, account="y" * 64), row("hall", "silent")), width=width)
    assert all(columns(line) <= width for line in lines[:3]), lines
    assert "…" in lines[1] and name not in lines[1]
    assert len({columns(line[: line.rindex("4 s")]) for line in lines[1:3]}) == 1


def test_a_hostile_name_moves_no_cursor() -> None:
    (_, line, *_) = lines_of(answer(row("\x1b[2Jkitchen\u202e\n")), width=80)
    assert line.isprintable() and "\\x1b[2Jkitchen" in line


# -- Watching ----------------------------------------------------------------------------------------------


def watched(
    out: Terminal | Pipe, looks: list[dict[str, Any]], agent: Agent, *options: str, as_json: bool = False
) -> int:
    """Watch while the agent gives these answers one after the other; then the person presses Ctrl-C."""
    left = list(looks)

    async def handle(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        return left.pop(0)

    def pause(seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt

    agent.handlers["devices"] = handle
    args: argparse.Namespace = parse(["phone", "devices", "--watch", "--home", str(agent.directory)])
    with agent.running():
        return devices.watch(args, Context({"TERM": "xterm"}, Pipe(), out, Pipe(), as_json=as_json), pause=pause)


QUIET = answer(row("hall"), fine=1)
LATER = answer(row("hall", heard_at=NOW + 60, lease_left_s=7_000_000), fine=1) | {"now": NOW + 64}
SILENT = answer(row("hall", "silent"), silent=1)


def test_watch_redraws_a_terminal_when_a_line_differs(agent: Agent) -> None:
    out = Terminal()
    assert watched(out, [QUIET, QUIET, SILENT], agent) == 0
    assert out.getvalue().count("\x1b[2J") == 2
    assert out.getvalue().endswith("1 device: 1 silent\n")


def test_watch_in_a_pipe_adds_a_block_for_each_change(agent: Agent) -> None:
    out = Pipe()
    assert watched(out, [QUIET, LATER, SILENT, SILENT], agent) == 0  # that time passes is no news
    blocks = out.getvalue().split("\n\n")
    assert len(blocks) == 2 and "\x1b" not in out.getvalue()
    assert "○ silent" in blocks[1] and blocks[1].splitlines()[0].startswith("20")


def test_watch_prints_one_object_for_each_change(agent: Agent) -> None:
    out = Pipe()
    assert watched(out, [QUIET, LATER, SILENT], agent, as_json=True) == 0
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [QUIET, SILENT]


@pytest.mark.parametrize("option", ["--watch", "--only=needs-me", "--after=2.a"])
def test_one_device_is_no_list(shell: Shell, option: str) -> None:
    ran = shell("phone", "devices", "kitchen", option)
    assert ran.code == 2 and "for the list" in ran.err


# -- Status and events -------------------------------------------------------------------------------------


def test_status_says_how_many_devices_in_a_line_and_json_has_them_whole(shell: Shell, agent: Agent) -> None:
    whole: dict[str, JSON] = {
        "name": "phone",
        "summary": {"devices": 2, "fine": 2},
        "devices": [{"name": "a"}, {"name": "b"}],
    }
    agent.replies("status", {**whole, "action": None})
    with agent.running():
        home = ("--home", str(agent.directory))
        assert shell("phone", "status", *home).out == "2 devices: 2 fine\nname  phone\n"
        assert json.loads(shell("phone", "status", "--json", *home).out) == {**whole, "action": None}


@pytest.mark.parametrize("kind", ["phone", "companion"])
@pytest.mark.parametrize(("slug", "code"), [("", 0), ("sign_in", 4)])
def test_exit_code_tells_a_timer_whether_a_person_must_act(
    shell: Shell, agent: Agent, kind: str, slug: str, code: int
) -> None:
    agent.replies("status", {"name": "n", "action": {"slug": slug, "sentence": "s"} if slug else None})
    with agent.running():
        home = ("--home", str(agent.directory))
        assert shell(kind, "status", "--exit-code", *home).code == code
        assert shell(kind, "status", "--exit-code", "--json", *home).code == code
        assert shell(kind, "status", *home).code == 0


def test_events_name_a_device_for_people_and_have_both_in_json(shell: Shell, agent: Agent) -> None:
    event: JSON = {"number": 1, "name": "paired", "device": "a" * 26, "device_name": "kitchen", "generation": 0}
    agent.replies("events", {"events": [event]})
    with agent.running():
        home = ("--home", str(agent.directory))
        shown = shell("phone", "events", *home).out
        assert "kitchen" in shown and "a" * 26 not in shown
        assert json.loads(shell("phone", "events", "--json", *home).out) == {"events": [event]}


def test_the_next_page_is_asked_for_with_the_options_of_this_one(shell: Shell, agent: Agent) -> None:
    agent.replies("devices", answer(row("hall"), place="0." + "a" * 26))
    with agent.running():
        for options in ("", "--only needs-me ", "--limit 1 ", "--only needs-me --limit 1 "):
            line = shell("phone", "devices", *options.split(), "--home", str(agent.directory)).out.splitlines()[-1]
            assert line == f"more: token-relay phone devices {options}--after 0.{'a' * 26}"


def test_without_a_broker_that_is_what_to_do_and_no_device() -> None:
    sentence = "the broker cannot be reached; see why: token-relay phone doctor"
    device = {"slug": "hand_off", "sentence": "on the phone: token-relay phone handoff hall"}
    result = answer(row("hall", "needs_me", action=device), needs_me=1)
    assert lines_of(result, width=80)[-1] == "next: on the phone: token-relay phone handoff hall [hand_off]"
    result["action"] = {"slug": "check_broker", "sentence": sentence}
    assert lines_of(result, width=80)[-1] == f"next: {sentence} [check_broker]"
