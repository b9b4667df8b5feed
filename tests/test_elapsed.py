"""Elapsed time: never negative, never from a clock that cannot be trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.ports import Now
from token_relay.protocol.errors import VaultError

SECONDS = st.floats(-1e12, 1e12)
BOOTS = st.sampled_from(["boot-a", "boot-b"])
STAMPS = st.builds(Stamp, BOOTS, SECONDS, SECONDS, st.booleans())
NOWS = st.builds(Now, BOOTS, SECONDS, SECONDS, st.booleans())


@pytest.mark.parametrize(
    ("since", "now", "expected"),
    [
        # same boot: boot time, whatever the wall clock says
        (Stamp("a", 10.0, 1000.0, True), Now("a", 70.0, 1060.0, True), 60.0),
        (Stamp("a", 10.0, 1000.0, True), Now("a", 70.0, 0.0, True), 60.0),
        (Stamp("a", 10.0, 1000.0, False), Now("a", 70.0, 9e9, True), 60.0),
        (Stamp("a", 10.0, 1000.0, True), Now("a", 9.0, 1060.0, True), 0.0),
        # another boot: wall time, if both were synced and now is not before then
        (Stamp("a", 10.0, 1000.0, True), Now("b", 5.0, 1060.0, True), 60.0),
        (Stamp("a", 10.0, 1000.0, True), Now("b", 5.0, 1000.0, True), 0.0),
        (Stamp("a", 10.0, 1000.0, True), Now("b", 5.0, 999.0, True), None),
        (Stamp("a", 10.0, 1000.0, False), Now("b", 5.0, 1060.0, True), None),
        (Stamp("a", 10.0, 1000.0, True), Now("b", 5.0, 1060.0, False), None),
    ],
)
def test_elapsed_time_comes_from_the_clock_that_can_be_trusted(since: Stamp, now: Now, expected: float | None) -> None:
    assert elapsed_s(since, now) == expected


@given(STAMPS, NOWS)
def test_elapsed_time_is_never_negative(since: Stamp, now: Now) -> None:
    found = elapsed_s(since, now)
    assert found is None or found >= 0


@given(STAMPS, NOWS, SECONDS, st.booleans())
def test_within_a_boot_the_wall_clock_has_no_influence(since: Stamp, now: Now, wall_s: float, is_synced: bool) -> None:
    same = Now(since.boot_id, now.boot_s, now.wall_s, now.is_synced)
    assert elapsed_s(since, same) == elapsed_s(since, Now(since.boot_id, now.boot_s, wall_s, is_synced))


@given(STAMPS, NOWS)
def test_across_boots_an_unsynced_reading_gives_nothing(since: Stamp, now: Now) -> None:
    if since.boot_id != now.boot_id and not (since.is_synced and now.is_synced):
        assert elapsed_s(since, now) is None


@given(STAMPS)
def test_a_stamp_survives_its_text(stamp: Stamp) -> None:
    assert Stamp.from_text(stamp.to_text()) == stamp


def test_the_text_is_one_readable_line() -> None:
    now = Now("3f0c1b9e-0000-4000-8000-000000000001", 12.5, 1.75e9, True)
    text = "3f0c1b9e-0000-4000-8000-000000000001 12.5 1750000000.0 s"
    assert Stamp.of(now).to_text() == text
    assert Stamp.from_text(text) == Stamp(now.boot_id, 12.5, 1.75e9, True)
    assert Stamp("a", 0.0, -1.0, False).to_text() == "a 0.0 -1.0 u"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a",
            "a 1 2",
            "a 1 2 x",
            "a 1 2 s\n",
            " a 1 2 s",
            "a 1 2 s" + " " * 200,
            "a\0 1 2 s",
            "a" * 81 + " 1 2 s",
        ),
        *("a nan 2 s", "a 1 inf s", "a 1e999 2 s", "a 1_0 2 s", "a . 2 s"),
    ],
)
def test_a_damaged_text_is_an_error(text: str) -> None:
    with pytest.raises(VaultError, match="damaged"):
        Stamp.from_text(text)


@given(st.text(max_size=60))
def test_any_text_is_a_stamp_or_an_error(text: str) -> None:
    try:
        stamp = Stamp.from_text(text)
    except VaultError:
        return
    assert Stamp.from_text(stamp.to_text()) == stamp


@pytest.mark.parametrize(
    "wrong", [("", 0.0, 0.0), ("a b", 0.0, 0.0), ("a", float("nan"), 0.0), ("a", 0.0, float("inf"))]
)
def test_a_stamp_without_boot_id_or_finite_times_cannot_be_made(wrong: tuple[str, float, float]) -> None:
    with pytest.raises(ValueError, match="stamp"):
        Stamp(*wrong, True)
