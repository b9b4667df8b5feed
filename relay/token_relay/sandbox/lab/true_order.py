"""Puts what two ends wrote down, in whole seconds, into the order in which it happened. Pure.

The broker is the clock that both ends share: it takes each message at a known moment. So a message stands just before
that moment at its sender and just after it at its recipient; messages of one way keep their order, which pairs them
from the newest on. What an end did in between stands at the messages of that end in the same second, at the one that
is nearer to its place in a handoff (``rank``); and what an end has a trace id of stands where the provider has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from token_relay.pages.columns import Column, Happening

SKEW_S = 5.0  # between an end's second and the broker's moment: more, and they are not the same message
MESSAGE_S, EVENT_S = 2e-4, 5e-5  # how far from the broker's moment, and from the message, things are put
Way = tuple[Column, Column]


def placed(
    ends: Sequence[Happening], carried: Sequence[tuple[Way, float]], traces: Mapping[str, float]
) -> list[Happening]:
    """Return what the ends saw with moments of the broker's clock.

    ``carried``: from whom to whom and when, oldest first. ``traces``: when the provider had what, by trace id.
    """
    ways: set[Way] = {("phone", "companion"), ("companion", "phone")}
    messages: list[Happening] = []
    for way in ways:
        moments = [at for one, at in carried if one == way]
        sent = [row for row in ends if (row.column, row.to) == way and row.state.startswith("sent")]
        come = [row for row in ends if row.column == way[1] and _has_come(row)]
        messages += _aligned([row for row in sent for _ in range(_times(row))], moments, -MESSAGE_S)
        messages += _aligned(come, moments, MESSAGE_S)
    known = {row.key for row in messages}
    events = [_among(row, messages, traces) for row in ends if row.key not in known]
    return [*{row.key: row for row in messages}.values(), *events]  # of one that was sent twice the last time


def _has_come(row: Happening) -> bool:
    return row.bytes is not None and row.to is None


def _times(row: Happening) -> int:
    return int("".join(filter(str.isdigit, row.state)) or 1)


def _aligned(rows: Sequence[Happening], moments: Sequence[float], shift_s: float) -> list[Happening]:
    pairs = zip(reversed(rows), reversed(moments), strict=False)
    return [replace(row, at=at + shift_s) for row, at in pairs if abs(row.at - at) <= SKEW_S][::-1]


def _among(row: Happening, messages: Sequence[Happening], traces: Mapping[str, float]) -> Happening:
    """Return an event, or a message that the broker has not seen, at its place in its second."""
    if row.trace_id in traces:
        return replace(row, at=traces[row.trace_id] + MESSAGE_S)
    near = [one for one in messages if one.column == row.column and int(one.at) == int(row.at)]
    before = [one for one in near if one.rank <= row.rank]
    after = [one for one in near if one.rank > row.rank]
    early = max((one.at for one in before), default=0.0) + EVENT_S
    late = min((one.at for one in after), default=0.0) - EVENT_S
    # What prepares the next message stands at that one: it may have waited for the provider.
    is_nearer_to_the_next = (
        after
        and row.rank - max((one.rank for one in before), default=row.rank) > min(one.rank for one in after) - row.rank
    )
    if before and not (is_nearer_to_the_next and late > early):
        return replace(row, at=early)
    if near:
        return replace(row, at=late)
    return replace(row, at=int(row.at) + 0.999)  # whatever the others have of this second came first
