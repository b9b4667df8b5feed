"""What a page says: times, sizes, tokens and their difference, four columns, and that nothing in them is markup."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from token_relay.pages import token_words, words
from token_relay.pages.columns import HAPPENINGS_MAX, Happening, ordered
from token_relay.pages.page_hints import WayOn, way_on
from token_relay.pages.rendering import environment
from token_relay.service.actions import ACTIONS, action

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00Z
HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.9, "0 s"),
        (-5, "0 s"),
        (1, "1 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (119, "1 min"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (3_660, "1 h 1 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (86_400 + 59 * 60, "1 d"),
        (183_600, "2 d 3 h"),
        (float("nan"), "0 s"),
        (float("inf"), "11574074 d 1 h"),
        (10**400, "11574074 d 1 h"),
    ],
    ids=range(17),
)
def test_a_length_of_time(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "1970-01-01 00:00:00Z"),
        (NOW, "2027-01-15 08:00:00Z"),
        (NOW + 0.9, "2027-01-15 08:00:00Z"),
        (float("inf"), "at no time that a calendar has"),
        (float("nan"), "at no time that a calendar has"),
        (10**400, "at no time that a calendar has"),
        (-(10**400), "at no time that a calendar has"),
        (253_402_300_800, "at no time that a calendar has"),  # the year 10 000
    ],
    ids=range(8),
)
def test_a_moment(at: float, said: str) -> None:
    assert words.moment(at) == said


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (NOW + 420, "in 7 min"),
        (NOW, "0 s ago"),
        (NOW - 3, "3 s ago"),
        (10**400, "in 11553240 d 17 h"),
        (-(10**400), "11574074 d 1 h ago"),
        (float("nan"), "0 s ago"),
    ],
    ids=range(6),
)
def test_a_moment_as_it_is_seen_now(at: float, said: str) -> None:
    assert words.seen_from(at, NOW) == said


def test_ids_and_sizes() -> None:
    assert words.short("abcdefgh") == "abcdefgh" and words.short("abcdefghi") == "abcdefghi"
    assert words.short("abcdefghij") == "abcdefgh…" and words.short("") == ""
    assert [words.size(count) for count in (0, 1023, 1024, 1536, 10_240)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "10.0 KiB",
    ]


# -- tokens ----------------------------------------------------------------------------------------------------


def part(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def token(claims: object, header: object = {"alg": "RS256", "kid": "k"}) -> str:
    return f"{part(header)}.{part(claims)}.SIGNATURE"


def test_a_token_in_words_has_no_signature() -> None:
    found = token_words.read(
        token({"iss": "https://x", "exp": NOW + 420, "nbf": int(NOW) - 3, "n": {"a": ["ü"]}, "exp2": 5, "iat": True})
    )
    assert found is not None
    lines = [(one.part, one.name, one.value, one.meaning) for one in token_words.said(found, NOW)]
    assert lines == [
        ("header", "alg", "RS256", "how it is signed"),
        ("header", "kid", "k", "the key that signed it"),
        ("claims", "iss", "https://x", "who issued it"),
        ("claims", "exp", "in 7 min (2027-01-15 08:07:00Z)", "ends"),
        ("claims", "nbf", "3 s ago (2027-01-15 07:59:57Z)", "valid from"),
        ("claims", "n", '{"a": ["ü"]}', ""),
        ("claims", "exp2", "5", ""),
        ("claims", "iat", "true", "issued"),
    ]
    assert "SIGNATURE" not in repr(found)


NO_UTF_8 = base64.urlsafe_b64encode(b'{"a": "\xff\xfe"}').decode()


@pytest.mark.parametrize(
    "opaque",
    [
        "",
        "opaque",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        token({}, [1]),
        token([1]),
        token("null"),
        token("{"),
        token("[" * 20_000),
        token('{"exp": ' + "9" * 5000 + "}"),  # more digits than Python reads
        token({"a": "x" * 60_000}),
        token(r'{"half of a character": "\ud800"}'),
        token(r'{"\udfff": ["in a name"]}'),
        "e30.é.s",
        "e30.\ud800.s",
        "e30.AAAAA.s",
        f"e30.{NO_UTF_8}.s",
    ],
    ids=range(18),
)
def test_what_its_client_cannot_read_is_opaque(opaque: str) -> None:
    assert token_words.read(opaque) is None


def test_a_long_value_is_cut() -> None:
    found = token_words.read(token({"a": "x" * 400, "b": "x" * 401, "c": ["y" * 500]}))
    assert found is not None
    assert [one.value for one in token_words.said(found, NOW)][2:] == [
        "x" * 400,
        "x" * 400 + "…",
        '["' + "y" * 398 + "…",
    ]


@pytest.mark.parametrize(
    "at", ["1e999", "-1e999", "NaN", "9" * 400, "-" + "9" * 400, "1e308", "253402300800"], ids=range(7)
)
def test_a_moment_that_no_calendar_has_is_said(at: str) -> None:
    found = token_words.read(token('{"exp": ' + at + "}", {}))
    assert found is not None
    assert token_words.said(found, NOW)[0].value.endswith("(at no time that a calendar has)")


def test_a_token_of_any_depth_is_read_or_opaque() -> None:
    depths = []
    for depth in (1, 10, *range(300, 1100, 7), 5000, 20_000):
        found = token_words.read(token('{"a": ' + "[" * depth + "]" * depth + "}"))
        if found is not None:
            depths.append(depth)
            assert token_words.said(found, NOW) and token_words.difference(found, found, NOW)
    assert 10 in depths and 20_000 not in depths


def test_the_difference_of_two_tokens() -> None:
    before = token_words.read(token({"iss": "https://x", "uti": "1", "exp": NOW, "gone": 1, "same": {"a": 1}}))
    after = token_words.read(token({"exp": NOW + 60, "iss": "https://x", "uti": "2", "same": {"a": 1}, "new": None}))
    assert before is not None and after is not None
    lines = [(one.kind, one.name, one.before, one.after) for one in token_words.difference(before, after, NOW)]
    assert lines == [
        ("changed", "uti", "1", "2"),
        ("changed", "exp", "0 s ago (2027-01-15 08:00:00Z)", "in 1 min (2027-01-15 08:01:00Z)"),
        ("gone", "gone", "1", ""),
        ("added", "new", "", "null"),
        ("same", "iss", "https://x", "https://x"),
        ("same", "same", '{"a": 1}', '{"a": 1}'),
    ]
    assert token_words.difference(before, after, NOW)[0].meaning == "this token's own number"


# -- four columns ----------------------------------------------------------------------------------------------


def test_what_happened_is_told_in_order_and_the_newest_of_it() -> None:
    told = [
        Happening("c", 2.0, "provider", "third"),
        Happening("b", 1.0, "broker", "second", rank=1),
        Happening("z", 1.0, "phone", "first"),
        Happening("d", 2.0, "companion", "fourth"),
    ]
    assert [one.text for one in ordered(told)] == ["first", "second", "third", "fourth"]
    many = [Happening(str(at), float(at), "phone", "") for at in range(HAPPENINGS_MAX + 5)]
    found = ordered(reversed(many))
    assert len(found) == 400 and found[0].at == 5.0 and found[-1].at == HAPPENINGS_MAX + 4


def test_nothing_that_is_shown_is_markup() -> None:
    hostile = "\"'><script>alert(1)</script>&"
    made = environment([HERE / "templates"])
    bad = Happening("k", NOW, "phone", hostile, to="broker", bytes=2048, state=hostile, trace_id=hostile)
    text = made.get_template("happening.html").render(one=bad, root="/r/")
    text += made.get_template("page_of_tests.html").render(
        root="/r/", called=hostile, nav=[(hostile, hostile)], here="", now=NOW, value=hostile
    )
    text += made.get_template("refused.html").render(root="/r/", called=hostile, why=hostile, hint=hostile, is_in=True)
    assert text.count("alert(1)") > 9
    assert "<script>" not in text and "\"'>" not in text and "'>" not in text
    assert "2.0 KiB" in text and "2027-01-15 08:00:00Z" in text


PLACES = {"phone sign-in": "account", "phone handoff": "", "phone pair": "pair"}


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        ("token-relay phone sign-in --username U, or --browser", WayOn("", "Sign in", "account")),
        ("use: token-relay phone sign-in --browser", WayOn("use: ", "Sign in", "account")),
        (
            "pair the two devices: token-relay companion pair here, token-relay phone pair there",
            WayOn("pair the two devices: “Pair” here, ", "Pair", "pair", " there"),
        ),
        ("on the phone: token-relay phone handoff 'my watch'", WayOn("on the phone: ", "Hand off")),
        ("copy all of it: token-relay companion pair shows it", WayOn("copy all of it: “Pair” shows it")),
        ("correct it; new: token-relay phone sign-up --username 'a b'", WayOn("correct it; new: “Make an account”")),
        ("start it: token-relay companion run", WayOn("start it: token-relay companion run")),
        ("token-relay phone pairing", WayOn("token-relay phone pairing")),
        ("--yes goes on without the question", WayOn("")),
    ],
)
def test_what_to_do_is_a_button_of_a_page_and_no_command(hint: str, shown: WayOn) -> None:
    assert way_on(hint, PLACES) == shown


def test_every_thing_to_do_that_a_page_can_do_names_no_command() -> None:
    left = {slug for slug in ACTIONS if "token-relay" in way_on(action(slug, "my watch")["sentence"], {}).before}
    assert left == {"copied", "check_broker"}  # of the machine itself
