"""The companion's table, row by row, and what a TOKEN may have wrong; see :mod:`.phone` for how the rows are found."""

from __future__ import annotations

from typing import Literal

from tests.conversations.scenarios.kit import (
    Scenario,
    Step,
    again,
    do,
    hello,
    offered,
    receive,
    reject,
    says,
    stored,
    token,
    wait,
)
from tests.conversations.table import Table

END: Literal["companion"] = "companion"
H, K = "$h1", "$k1"

READY: tuple[Step, ...] = (offered(),)
STORED = (*READY, token())
OTHER = ("$h2", "$k2")

DONE = ("$h1", "done", 1)
PAIRED_AGAIN: tuple[Step, ...] = (
    do("pair", pairing_id="$p2", transcript="$t2"),
    receive("PAIR3", {"transcript_hash": "$t2"}, pairing="$p2"),
)
ASK = do("ask", handoff_id="$h1")

REACHED: dict[str, tuple[Step, ...]] = {
    "NONE": (),
    "READY": READY,
    "STORED": STORED,
    "DEAD(cancelled)": (says("CANCEL"),),
    "DEAD(lost)": (*READY, token(spoil="json")),
    "DEAD(rejected)": (*READY, reject(H, "gone")),
    "DEAD(replaced)": (*READY, offered("$h2")),
    "DEAD(revoked)": (says("REVOKE"),),
    "DEAD(revoked) stored": (*STORED, says("REVOKE")),
    "DEAD(ended) stored": (*STORED, do("erase")),
}
EVENTS: dict[str, tuple[Step, ...]] = {
    "offer": (offered(),),
    "token": (token(),),
    "bad_token": (token(spoil="json"),),
    "cancel": (says("CANCEL"),),
    "revoke": (says("REVOKE"),),
    "closed": (says("CLOSED"),),
    "reject": (reject(H, "gone"),),
    "replaced": (offered("$h2"),),
    "ended": (do("refresh", handoff_id=H, becomes="denied"),),
}
# A TOKEN is opened in READY alone; where no key was ever made, it cannot be sealed to one.
BARE = (receive("TOKEN", {"handoff_id": H, "sealed": "AAAA"}),)


def refresh(becomes: str, h: str = "$h1") -> Step:
    """A refresh of a grant ended."""
    return do("refresh", handoff_id=h, becomes=becomes)


def _name(state: str) -> str:
    return state.lower().replace("(", "-").replace(")", "").replace(" ", "-")


def _event(state: str, event: str) -> tuple[Step, ...]:
    has_key = state not in ("NONE", "DEAD(cancelled)", "DEAD(revoked)")
    return EVENTS[event] if has_key or event not in ("token", "bad_token") else BARE


def rows(table: Table) -> list[Scenario]:
    """One conversation for each state and event that share a row."""
    found = []
    for row in table.content[END]["rows"]:
        for state in table.states_of(END, row["states"]):
            for event in row["events"]:
                if event == "token" and state != "READY":
                    continue  # not opened there, so it is bad_token
                about = f"handoff.md, the companion's table: {event} in {state}"
                of = (f"companion {state} {event}",)
                steps = (*REACHED[state], *_event(state, event))
                found.append(Scenario(f"companion-{_name(state)}-{event.replace('_', '-')}", END, about, steps, of))
    return found


def silent(table: Table) -> list[Scenario]:
    """One conversation for each state with every message that changes nothing in it."""
    found = []
    for state, steps in REACHED.items():
        events = [event for event in table.content[END]["peer_events"] if table.row(END, state, event) is None]
        if events:
            of = tuple(f"companion {state} {event}" for event in events)
            about = f"handoff.md, the companion's table: what changes nothing in {state}"
            said = tuple(step for event in events for step in _event(state, event))
            found.append(Scenario(f"companion-{_name(state)}-silent", END, about, (*steps, *said, hello()), of))
    return found


WRONG_FIELDS = {
    "pairing_id": "$d1",
    "handoff_id": "$d1",
    "phone_key": "#wrong",
    "companion_key": "#wrong",
    "one_time_key": "#wrong",
    "offer_hash": "#wrong",
    "accept_hash": "#wrong",
    "issuer": "https://other.example/v2.0",
    "client_id": "another",
}
BAD_GRANTS = {
    "no-refresh-token": {"refresh_token": ""},
    "unknown-field": {"friend": 1},
    "a-float": {"signed_in_at": 1.5},
    "version-9": {"v": 9},
    "scope-with-a-line": {"scope": "openid\nprofile"},
    "profile-upper-case": {"profile": "Entra"},
}


def grants() -> list[Scenario]:
    """What a TOKEN may have wrong; each ends the handoff, and LOST is answered."""
    of = "messages.md, The sealed grant"
    found = [
        Scenario(
            f"companion-grant-mismatch-{field.replace('_', '-')}",
            END,
            f"{of}: {field} is another one",
            (*READY, token(**{field: value})),
            ("reason grant_mismatch",),
        )
        for field, value in WRONG_FIELDS.items()
    ]
    found += [
        Scenario(
            f"companion-grant-bad-{name}",
            END,
            f"{of}: the JSON is as above",
            (*READY, token(spoil=spoil)),
            ("reason bad_grant",),
        )
        for name, spoil in BAD_GRANTS.items()
    ]
    found += [
        Scenario(
            "companion-grant-spelling",
            END,
            f"{of}: base64url in its one spelling",
            (*READY, token(spoil="spelling")),
            ("reason bad_field",),
        ),
        Scenario(
            "companion-grant-box",
            END,
            f"{of}: it opens with the one-time key",
            (*READY, token(spoil="seal")),
            ("reason bad_sealed_box",),
            level="envelope",
        ),
        Scenario(
            "companion-grant-json", END, f"{of}: it is JSON", (*READY, token(spoil="json")), ("reason bad_grant",)
        ),
        Scenario(
            "companion-grant-older-accept",
            END,
            f"{of}: accept_hash is that of one of the ACCEPTs sent for the OFFER",
            (offered(), wait(3), again(0), token(accept_hash="#ACCEPT(1) $h1")),
            ("older ACCEPT",),
        ),
        Scenario(
            "companion-grant-unknown-profile",
            END,
            f"{of}: an unknown profile counts as strict",
            (offered(), token(profile="somebody-else")),
            ("profile unknown",),
        ),
        Scenario(
            "companion-token-never-overwrites",
            END,
            "handoff.md, law 3: a repeated TOKEN never overwrites a stored grant",
            (*STORED, do("refresh", handoff_id=H, becomes="rotated"), token(), says("CLOSED"), token()),
            ("law 3",),
        ),
        Scenario(
            "companion-superseded",
            END,
            "handoff.md, STORE_GRANT: the older grant of the same person ends with it",
            (*stored(), *stored("$h2", "$k2"), hello()),
            ("superseded",),
        ),
        Scenario(
            "companion-not-superseded",
            END,
            "handoff.md, STORE_GRANT: another person's grant stays",
            (
                *stored(),
                wait(1),
                offered("$h2", account="bob@login.example"),
                token("$h2", "$k2", subject="bob"),
                hello(),
            ),
            ("not superseded",),
        ),
        Scenario(
            "companion-empty-subject",
            END,
            "messages.md, subject: an empty one is nobody's, and replaces none",
            (
                offered(),
                token(subject=""),
                says("CLOSED"),
                offered("$h2", account="bob@login.example"),
                token("$h2", "$k2", subject="", account="bob@login.example"),
            ),
            ("empty subject",),
        ),
        Scenario(
            "companion-renews",
            END,
            "handoff.md, STORE_GRANT: the grant that the OFFER renews ends with it",
            (offered(), token(subject=""), says("CLOSED"), offered("$h2", renews=H), token("$h2", "$k2", subject="")),
            ("renews",),
        ),
        *(
            Scenario(
                f"companion-strategy-{name}",
                END,
                "messages.md, OFFER: for the companion the strategies make no difference",
                (offered(strategy=name), token(), says("CLOSED")),
                (f"strategy {name} there",),
            )
            for name in ("branch", "mint", "move")
        ),
    ]
    return found


LOST_WHY: dict[str, tuple[Step, ...]] = {
    "bad-field": (*READY, token(spoil="spelling")),
    "bad-sealed-box": (*READY, token(spoil="seal")),
    "bad-grant": (*READY, token(spoil={"refresh_token": ""})),
    "grant-mismatch": (*READY, token(issuer="https://other.example/v2.0", client_id="another")),
    "no-handoff": BARE,
    "repeated": (*READY, token(spoil={"scope": "openid\nprofile"}), wait(3), token()),
}


def lost() -> list[Scenario]:
    """LOST of version 4 says why, to a phone that knows of it."""
    return [
        Scenario(
            f"companion-lost-4-{name}",
            END,
            "messages.md, LOST: version 4, which goes only to a phone whose HELLO has said that it knows it",
            (hello(speaks=4, strategies=["mint"]), *steps),
            ("LOST 4",),
            speaks=4,
            level="envelope" if name == "bad-sealed-box" else "plain",  # in plain nothing is sealed
        )
        for name, steps in LOST_WHY.items()
    ]


TABLE = Table()
SCENARIOS = [*rows(TABLE), *silent(TABLE), *grants(), *lost()]
