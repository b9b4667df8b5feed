"""The checks of an envelope, one conversation for each fault and end, and the order of two faults at once.

A message that is refused leaves no trace: the same number comes again, right this time, and is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from tests.conversations.scenarios.kit import Scenario, Step, accept, hello, offered, receive, reject, renew, says, wait
from tests.conversations.table import Table

End = Literal["phone", "companion"]
ENDS: tuple[End, End] = ("phone", "companion")

# What is spoilt, and the reason and the number of the check that sees it.
SPOILT = {
    "topic": (1, "wrong_topic"),
    "length": (2, "bad_length"),
    "magic": (3, "bad_magic"),
    "sender": (4, "wrong_sender"),
    "unknown_sender": (5, "unknown_sender"),
    "recipient": (6, "wrong_recipient"),
    "box": (7, "bad_box"),
    "padding": (8, "bad_padding"),
    "json": (9, "bad_json"),
    "duplicate_key": (9, "duplicate_key"),
    "id_mismatch": (13, "id_mismatch"),
}
HEADS: dict[str, Step] = {
    "seq-0": {"seq": 0},
    "seq-above-the-limit": {"seq": 2**52 + 1},
    "v-0": {"v": 0},
    "v-256": {"v": 256},
    "type-lower-case": {"type": "hello"},
    "to-is-no-id": {"to": "everybody"},
    "sent-at-null": {"sent_at": None},
    "in-reply-to-text": {"in_reply_to": "2"},
    "unknown-field": {"via": "home"},
}


SAMPLES: dict[str, Step] = {
    "HELLO": hello(),
    "ROLLBACK": receive("ROLLBACK", {"seq_sent": "=seq", "seq_accepted": 1}),
    "OFFER": offered(),
    "ACCEPT": accept(offer_hash="ab" * 32),
    "TOKEN": receive("TOKEN", {"handoff_id": "$h1", "sealed": "AAAA"}),
    "REVOKED": says("REVOKED"),
    "RENEW": renew(),
    "REJECT": reject(),
    "LEASE": receive("LEASE", {"challenge": "$c1", "handoffs": []}),
    "PAIR3": receive("PAIR3", {"transcript_hash": "$t1"}),
    "PAIR4": receive("PAIR4", {"transcript_hash": "$t1"}),
    **{kind: says(kind) for kind in ("STORED", "CLOSED", "CANCEL", "CANCELLED", "REVOKE", "LOST")},
}


def _sent(end: End) -> Step:
    """A message that has an effect at this end, and needs nothing before it."""
    return receive("REVOKE", {"handoff_id": "$h9"}) if end == "companion" else hello()


def _numbered(step: Step, seq: int | str, **more: Any) -> Step:
    return {**step, "message": {**step["message"], "seq": seq, **more}}


def faults() -> Iterator[Scenario]:
    """One fault for each check from 1 to 14; behind each, the same number comes right."""
    for end in ENDS:
        good = _numbered(_sent(end), 2)
        for kind, (number, reason) in SPOILT.items():
            name = f"{end}-check-{number}-{reason.replace('_', '-')}"
            about = f"{'envelope' if number < 9 else 'messages'}.md, check {number}: {reason}"
            steps = ({**good, "spoil": {"kind": kind}}, good)
            yield Scenario(name, end, about, steps, (f"reason {reason}", f"check {number}"))
        for name, head in HEADS.items():
            steps = (_numbered(_sent(end), 2, head=head), good)
            yield Scenario(
                f"{end}-check-10-{name}",
                end,
                "messages.md, check 10: the head without `body`",
                steps,
                ("reason bad_field", "check 10"),
            )


def bodies(table: Table) -> Iterator[Scenario]:
    """For each message that an end takes: a field that is missing, and one that nobody knows."""
    for kind in table.content["messages"]:
        for end in ENDS:
            if not table.travels_from(kind, "companion" if end == "phone" else "phone"):
                continue
            good = SAMPLES[kind]
            body = good["message"]["body"]
            steps = (
                _numbered(good, 2, body={name: body[name] for name in list(body)[1:]}),
                wait(601),
                _numbered(good, 2, body={**body, "friend": 1}),
                wait(601),
                _numbered(good, 2, body=[]),
                wait(601),
                _numbered(_sent(end), 2),
            )
            yield Scenario(
                f"{end}-check-12-{kind.lower()}",
                end,
                "messages.md, check 12: the body has its fields and no other",
                steps,
                ("reason bad_field", "check 12", f"body {kind}"),
            )


def orders() -> Iterator[Scenario]:
    """Two faults at once: the earlier check names the reason."""
    for end in ENDS:
        good, other = _sent(end), "ACCEPT" if end == "companion" else "OFFER"
        bad_type = _numbered(receive("FUTURE", {"x": 1}), 2, pairing="$p9")
        both: dict[str, tuple[int, Step]] = {
            "head-before-body": (10, _numbered(receive("REVOKED", {}), 2, head={"seq": 0})),
            "unknown-type-before-pairing": (14, bad_type),
            "ids-before-pairing": (13, {**_numbered(good, 2, pairing="$p9"), "spoil": {"kind": "id_mismatch"}}),
            "body-before-ids": (12, {**_numbered(receive("CLOSED", {}), 2), "spoil": {"kind": "id_mismatch"}}),
            "body-before-direction": (12, _numbered(receive(other, {}), 2)),
            "pairing-before-number": (14, _numbered(good, 1, pairing="$p9")),
            "number-before-type": (16, _numbered(receive("FUTURE", {"x": 1}), 1)),
        }
        for name, (number, step) in both.items():
            yield Scenario(
                f"{end}-order-{name}",
                end,
                f"delivery.md, the order of checks: of two faults, check {number} comes first",
                (step, _numbered(good, 2)),
                (f"check {number} first",),
            )


def wear() -> Iterator[Scenario]:
    """A pairing that costs too many commits is not heard any more, until time has passed."""
    for end in ENDS:
        of = says("CLOSED", "$h9") if end == "companion" else says("REVOKED", "$h9")
        yield Scenario(
            f"{end}-too-often",
            end,
            "delivery.md, Wear: so many messages at once, then one each 10 s",
            (*[of] * 61, wait(10), of, of),
            ("reason too_often",),
        )
        yield Scenario(
            f"{end}-hello-flood",
            end,
            "delivery.md, Wear: of a flood of HELLOs the newest is judged once more",
            (*[hello()] * 62, wait(2)),
            ("reason too_often", "late hello"),
        )


# A state machine alone, at level plain, need not know any of it.
SCENARIOS = [replace(one, level="envelope") for one in (*faults(), *bodies(Table()), *orders(), *wear())]
