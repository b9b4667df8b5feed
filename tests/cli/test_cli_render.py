"""Promises of what people read: plain text in a pipe, nothing that a terminal obeys, durations in words."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.cli_kit import Pipe, Terminal
from token_relay.cli.parsing import Context
from token_relay.cli.render import Pairs, Table, blocks, clean, duration, plain, show, value_text

STATUS = {
    "device_id": "a" * 26,
    "broker": {"url": "mqtts://b", "connected": True, "last_error": ""},
    "grants": [
        {"issuer": "https://idp", "state": "held", "lease_left_s": 7_776_000},
        {"issuer": "https://other", "state": "locked", "since_s": 3_725},
    ],
    "accounts": [],
    "action": {"slug": "pair_again", "sentence": "pair this device again"},
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def context(out: Pipe | Terminal, *, as_json: bool = False, **env: str) -> Context:
    return Context(env, Pipe(), out, Pipe(), as_json=as_json)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_601, "1 h"),
        (3_725, "1 h 2 min"),
        (86_400, "1 d"),
        (93_600, "1 d 2 h"),
        (7_776_000, "90 d"),
        (-61, "-1 min 1 s"),
        (float("nan"), "-"),
        (float("inf"), "-"),
    ],
)
def test_duration_in_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_status_is_laid_out_with_its_action_last() -> None:
    out = Pipe()
    show(context(out), STATUS)
    assert out.getvalue() == (
        "device id  " + "a" * 26 + "\n"
        "\n"
        "broker:\n"
        "  url        mqtts://b\n"
        "  connected  yes\n"
        "\n"
        "grants:\n"
        "  issuer         state   lease left  since\n"
        "  https://idp    held    90 d        -\n"
        "  https://other  locked  -           1 h 2 min\n"
        "next: pair this device again [pair_again]\n"
    )


def test_json_is_one_object_with_everything() -> None:
    out = Pipe()
    show(context(out, as_json=True), STATUS)
    assert json.loads(out.getvalue()) == STATUS
    assert out.getvalue().count("\n") == 1


def test_message_comes_first_and_internal_flags_are_not_fields() -> None:
    out = Pipe()
    show(context(out), {"pending": True, "message": "waiting for kitchen", "state": "offered"})
    assert out.getvalue() == "waiting for kitchen\nstate  offered\n"


def test_nothing_is_said_in_words() -> None:
    out = Pipe()
    show(context(out), {})
    assert out.getvalue() == "nothing to show\n"


def test_terminal_gets_colour_and_pipe_and_no_color_do_not() -> None:
    coloured, without, piped, dumb = Terminal(), Terminal(), Pipe(), Terminal()
    show(context(coloured, TERM="xterm"), STATUS)
    show(context(without, TERM="xterm", NO_COLOR="1"), STATUS)
    show(context(piped, TERM="xterm"), STATUS)
    show(context(dumb, TERM="dumb"), STATUS)
    assert "\x1b[36m" in coloured.getvalue()
    for code in range(30, 38):
        assert f"\x1b[{code}m" not in without.getvalue()
    assert "\x1b" not in piped.getvalue()
    assert "\x1b" not in dumb.getvalue()
    for shown in (coloured, without, piped, dumb):
        assert "lease left" in shown.getvalue()


def test_markup_in_values_is_shown_as_it_is() -> None:
    out = Terminal()
    show(context(out, TERM="xterm", NO_COLOR="1"), {"name": "[red]kitchen[/red] :smile:"})
    assert "[red]kitchen[/red] :smile:" in out.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb", "a\\x0ab"),
        ("a\u202eb", "a\\x202eb"),
        ("a\u0000", "a\\x00"),
        ("Küche 厨房", "Küche 厨房"),
        ("x" * 600, "x" * 512 + "…"),
    ],
)
def test_foreign_text_cannot_move_the_cursor(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=5))
def test_no_result_breaks_the_page_or_reaches_the_terminal_raw(result: dict[str, object]) -> None:
    for line in plain(list(blocks(result))):
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in line)
    out = Pipe()
    show(context(out), result)
    assert out.getvalue().endswith("\n")


@given(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=5))
def test_tables_are_rectangular(result: dict[str, object]) -> None:
    for block in blocks(result):
        match block:
            case Table(headers=headers, rows=rows):
                assert {len(row) for row in rows} == {len(headers)}
            case Pairs(rows=rows):
                assert rows


def test_wide_characters_keep_the_columns_straight() -> None:
    table = Table("", ("name", "state"), (("厨房", "held"), ("hall", "held")))
    assert list(plain([table])) == ["name  state", "厨房  held", "hall  held"]


def test_values_in_words() -> None:
    assert [value_text("", value) for value in (True, False, None, "", [], ["a", 1], 1.5)] == [
        "yes",
        "no",
        "-",
        "-",
        "-",
        "a, 1",
        "1.5",
    ]


ID, URL = (
    "abcdefghijklmnopqrstuvwxyz",
    "https://login.example/aaaabbbb-0000-cccc-1111-dddd2222eeee/v2.0/a/very/long/path",
)
LONG = "the provider has ended the grant: invalid_grant AADSTS700082 and so on, in many more words than fit in one line"
WIDE = {
    "device_id": ID,
    "issuer": URL,
    "problem": LONG,
    "home": "/home/somebody/.local/state/token-relay/phone",
    "said": "",
    "refreshed_at": 0,
    "lease_left_s": None,
    "counters": {},
    "events": [
        {"at": 1_800_000_000, "name": "handoff_done", "device": ID, "detail": URL, "handoff_id": 32 * "f", "trace": ""}
    ],
}


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_on_a_terminal_no_id_path_or_address_is_broken(width: int) -> None:
    out = Terminal()
    show(context(out, TERM="xterm", NO_COLOR="1", COLUMNS=str(width)), WIDE)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    for whole in (ID, URL, str(WIDE["home"]), 32 * "f"):
        assert re.search(rf"(^|\s){re.escape(whole)}($|\s)", text, re.MULTILINE), text
    for line in text.splitlines():
        assert len(line) <= width or len(line.split()) == 1, f"broken by the terminal: {line!r}"
    assert " ".join(text.split()).count(LONG) == 1, "a sentence is broken between words"


@pytest.mark.parametrize("stream", [Terminal, Pipe])
def test_what_is_not_there_is_left_out_for_people_and_stays_in_json(stream: type[Terminal] | type[Pipe]) -> None:
    out, raw = stream(), stream()
    show(context(out, TERM="xterm"), WIDE)
    show(context(raw, as_json=True), WIDE)
    for name in ("said", "refreshed at", "lease left", "counters", "trace"):
        assert name not in out.getvalue()
    assert json.loads(raw.getvalue()) == WIDE
