"""Lines of whole seconds get the order of the broker's clock: a table of what may have happened in one second."""

from __future__ import annotations

from token_relay.pages.columns import Column, Happening, ordered
from token_relay.sandbox.lab.true_order import Way, placed

OVER: Way = ("phone", "companion")
BACK: Way = ("companion", "phone")
T = 1_000.0


def event(key: str, column: Column, rank: int, trace_id: str = "", at: float = T) -> Happening:
    return Happening(key, at, column, key, rank=rank, trace_id=trace_id)


def sent(key: str, column: Column, rank: int, state: str = "sent", at: float = T) -> Happening:
    other: Column = "companion" if column == "phone" else "phone"
    return Happening(key, at, column, key, to=other, bytes=512, state=state, rank=rank)


def come(key: str, column: Column, rank: int, at: float = T) -> Happening:
    return Happening(key, at, column, key, bytes=512, state="accepted", rank=rank)


def keys(ends: list[Happening], carried: list[tuple[Way, float]], traces: dict[str, float] | None = None) -> list[str]:
    """The lines with the broker's own between them, in order."""
    broker = [Happening(f"b{n}", at, "broker", "") for n, (_, at) in enumerate(carried)]
    return [one.key for one in ordered([*placed(ends, carried, traces or {}), *broker])]


def test_a_message_stands_before_the_broker_s_moment_at_its_sender_and_after_it_at_its_recipient() -> None:
    ends = [
        come("offer here", "companion", 5),
        sent("offer", "phone", 3),
        sent("accept", "companion", 9),
        come("accept here", "phone", 11),
    ]
    assert keys(ends, [(OVER, T + 0.2), (BACK, T + 0.3)]) == [
        "offer",
        "b0",
        "offer here",
        "accept",
        "b1",
        "accept here",
    ]


def test_messages_of_one_way_keep_their_order_and_are_paired_from_the_newest_on() -> None:
    ends = [sent("second", "phone", 3), sent("third", "phone", 0)]
    carried: list[tuple[Way, float]] = [(OVER, T - 300), (OVER, T + 0.5), (OVER, T + 0.6)]
    assert keys(ends, carried) == ["b0", "second", "b1", "third", "b2"], "the journal has forgotten the first"


def test_what_an_end_did_stands_at_its_messages_by_its_place_in_a_handoff() -> None:
    ends = [
        event("offered", "phone", 0),
        sent("offer", "phone", 3),
        come("offer here", "companion", 5),
        event("ready", "companion", 6),
        sent("accept", "companion", 9),
    ]
    wanted = ["offered", "offer", "b0", "offer here", "ready", "accept", "b1"]
    assert keys(ends, [(OVER, T + 0.2), (BACK, T + 0.3)]) == wanted


def test_what_has_a_trace_id_stands_where_the_provider_has_it() -> None:
    ends = [sent("offer", "phone", 3), event("refused", "companion", 90, "t-1")]
    assert keys(ends, [(OVER, T + 0.5)], {"t-1": T + 0.1}) == ["refused", "offer", "b0"]


def test_without_a_message_in_its_second_a_line_stands_at_the_end_of_it() -> None:
    (only,) = placed([event("signed in", "phone", 15)], [], {})
    assert only.at == T + 0.999


def test_a_message_that_never_reached_the_broker_is_paired_with_none() -> None:
    ends = [sent("waits", "phone", 3, state="waits for a connection"), sent("old", "phone", 0, at=T - 60)]
    assert keys(ends, [(OVER, T + 0.5)]) == ["old", "b0", "waits"], "nor is one of another minute"


def test_one_that_was_sent_twice_is_one_line_at_its_last_time() -> None:
    ends = [sent("again", "phone", 3, state="sent 2 times")]
    assert keys(ends, [(OVER, T + 0.1), (OVER, T + 0.9)]) == ["b0", "again", "b1"]


def test_what_waited_for_the_provider_stands_after_the_provider_s_lines() -> None:
    ends = [
        come("accept here", "phone", 12),
        event("accepted", "phone", 16),
        event("refreshed", "phone", 24),
        event("given away", "phone", 28),
        sent("token", "phone", 32),
    ]
    found = placed(ends, [(BACK, T + 0.1), (OVER, T + 0.3)], {})
    at = {one.key: one.at for one in found}
    assert at["accept here"] < at["accepted"] < T + 0.2 < at["refreshed"] < at["token"] < T + 0.3
    assert [one.key for one in ordered(found)] == ["accept here", "accepted", "refreshed", "given away", "token"]
