"""The phone's table, row by row: how each state is reached, and what each event does in it.

The rows come from ``docs/spec/protocol.json``, so a row that is added there gets its conversations by itself, or fails
here until somebody says how its state is reached. GONE(forgotten) is reached, but no message comes to it any more: with
the device its pairings are forgotten.
"""

from __future__ import annotations

from typing import Literal

from tests.conversations.scenarios.kit import (
    Scenario,
    Step,
    accept,
    do,
    handed_off,
    hello,
    obtained,
    offer,
    receive,
    reject,
    says,
)
from tests.conversations.table import Table

END: Literal["phone"] = "phone"
UNKNOWN = "$h9"  # a handoff that only the companion knows of

OFFERED: tuple[Step, ...] = (offer(),)
ACCEPTED = (*OFFERED, accept())
RELEASED = (*ACCEPTED, obtained())
DONE = (*RELEASED, says("STORED"))

HELD = ("$h1", "held", 1)
# Steps that begin a conversation with a second pairing of the same two devices: $p2 is active, $p1 retired.
PAIRED_AGAIN: tuple[Step, ...] = (
    do("pair", pairing_id="$p2", transcript="$t2"),
    receive("PAIR4", {"transcript_hash": "$t2"}, pairing="$p2"),
)

REACHED: dict[str, tuple[Step, ...]] = {
    "NEW": (),
    "OFFERED": OFFERED,
    "ACCEPTED": ACCEPTED,
    "RELEASED": RELEASED,
    "DONE": DONE,
    "CANCELLING": (*RELEASED, do("cancel")),
    "CANCELLED": (*OFFERED, do("cancel"), says("CANCELLED")),
    "REVOKING": (*DONE, do("revoke")),
    "GONE(revoked)": (*DONE, do("revoke"), says("REVOKED")),
    "GONE(lost)": (*RELEASED, says("LOST")),
    "GONE(superseded)": (*DONE, *handed_off("$h2", "$k2")),
    "GONE(rollback)": (hello((UNKNOWN, "held", 3)),),
}
HANDOFF = {"NEW": UNKNOWN, "GONE(rollback)": UNKNOWN}  # else the end's first
OWN: dict[str, tuple[Step, ...]] = {
    "offer": (offer(),),
    "sealed": (obtained(),),
    "cancel": (do("cancel"),),
    "revoke": (do("revoke"),),
    "forget": (do("forget"),),
    "superseded": handed_off("$h2", "$k2"),
}
UNREACHED = "GONE(forgotten)"


def _message(event: str, h: str) -> Step:
    match event:
        case "accept":
            return accept(h, "$k8") if h != UNKNOWN else accept(h, "$k8", offer_hash="#wrong")
        case "reject":
            return reject(h)
        case _:
            return says(event.upper(), h)


def _name(state: str) -> str:
    return state.lower().replace("(", "-").rstrip(")")


def rows(table: Table) -> list[Scenario]:
    """One conversation for each state and event that share a row."""
    found = []
    part = table.content[END]
    for row in part["rows"]:
        for state in table.states_of(END, row["states"]):
            for event in row["events"]:
                if state == UNREACHED or (state, event) == ("NEW", "forget"):
                    continue  # no message of a forgotten device is taken; a device without a handoff has no state
                steps = OWN[event] if event in part["own_events"] else (_message(event, HANDOFF.get(state, "$h1")),)
                about = f"handoff.md, the phone's table: {event} in {state}"
                of = (f"phone {state} {event}",)
                found.append(Scenario(f"phone-{_name(state)}-{event}", END, about, (*REACHED[state], *steps), of))
    return found


def silent(table: Table) -> list[Scenario]:
    """One conversation for each state with every message that changes nothing in it."""
    found = []
    for state, steps in REACHED.items():
        events = [event for event in table.content[END]["peer_events"] if table.row(END, state, event) is None]
        h = HANDOFF.get(state, "$h1")
        if events:
            of = tuple(f"phone {state} {event}" for event in events)
            about = f"handoff.md, the phone's table: what changes nothing in {state}"
            said = tuple(_message(event, h) for event in events)
            found.append(Scenario(f"phone-{_name(state)}-silent", END, about, (*steps, *said, hello()), of))
    return found


TABLE = Table()
SCENARIOS = [*rows(TABLE), *silent(TABLE)]
