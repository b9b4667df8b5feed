"""Pairing before there is a pairing: invitation, PAIR1, PAIR2, ENDED and DECLINED, and what a mailbox refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from tests.conversations.scenarios.kit import Scenario, Step, do, receive, told, wait

End = Literal["phone", "companion"]
INVITE: tuple[Step, ...] = (do("start"), do("connect"), do("invite"))
SCAN: tuple[Step, ...] = (do("start"), do("connect"), do("scan"))
PAIR3 = receive("PAIR3", {"transcript_hash": "$t1"})
PAIR4 = receive("PAIR4", {"transcript_hash": "$t1"}, in_reply_to="@PAIR3")
# What is spoilt, and the reason; the number of the check at the companion and at the phone.
SPOILT = {
    "length": ("bad_length", 6, 3),
    "magic": ("bad_magic", 7, 4),
    "box": ("bad_box", 10, 7),
    "padding": ("bad_padding", 11, 8),
    "mac": ("bad_mac", 12, 9),
    "json": ("bad_json", 13, 10),
    "duplicate_key": ("duplicate_key", 13, 10),
    "field": ("bad_field", 14, 11),
}
OWN_KEYS = {
    "fresh_key": ("own_key", 8, 5),
    "fresh_point": ("bad_point", 9, 6),
    "static_key": ("own_key", 15, 0),
    "static_point": ("bad_point", 16, 0),
    "another_key": ("wrong_sender", 0, 12),
}


def said(kind: str, spoil: str = "", **more: Any) -> Step:
    """A message of the peer in the mailbox."""
    of: Step = {"spoil": {"kind": spoil}} if spoil else {}
    return do("receive", mailbox=kind, **more, **of)


def _of(end: End, name: str, about: str, covers: tuple[str, ...], *steps: Step) -> Scenario:
    return told(end, name, f"pairing.md, {about}", covers, *steps, begin="new", level="envelope")


def faults() -> Iterator[Scenario]:
    """What is wrong with PAIR1 and with PAIR2; each is refused, and the right one is taken after it."""
    for spoil, (reason, there, here) in {**SPOILT, **OWN_KEYS}.items():
        told, name = (f"reason {reason}",), spoil.replace("_", "-")
        if there:
            about = f"the companion's check {there}: {reason}"
            proof = () if spoil == "static_point" else (PAIR3,)  # that one uses the invitation up
            yield _of("companion", f"pair1-{name}", about, told, *INVITE, said("PAIR1", spoil), said("PAIR1"), *proof)
        if here:
            about = f"the phone's check {here}: {reason}"
            steps = (*SCAN, said("PAIR2", spoil), said("PAIR2"), do("confirm"), PAIR4)
            yield _of("phone", f"pair2-{name}", about, told, *steps)


COMPANION = [
    _of(
        "companion",
        "invitation",
        "from the invitation to PAIR4",
        ("pairing",),
        *INVITE,
        said("PAIR1"),
        do("receive", again=3),
        PAIR3,
        do("receive", again=3),
        said("PAIR1"),
    ),
    _of(
        "companion",
        "invitation-none",
        "the companion's check 1: no invitation was shown",
        ("reason wrong_mailbox",),
        do("start"),
        do("pair", pairing_id="$p1", transcript="$t1"),
        do("connect"),
        PAIR3,
        {**receive("REVOKE", {"handoff_id": "$h9"}), "spoil": {"kind": "mailbox"}},
    ),
    _of(
        "companion",
        "invitation-used",
        "the companion's check 5: another PAIR1 after the first",
        ("reason invitation_used", "ENDED used"),
        *INVITE,
        said("PAIR1"),
        said("PAIR1"),
        PAIR3,
        said("PAIR1"),
    ),
    _of(
        "companion",
        "invitation-expired",
        "the companion's check 3: it is older than 600 s",
        ("reason invitation_expired", "ENDED expired"),
        *INVITE,
        wait(601),
        said("PAIR1"),
        said("PAIR1"),
    ),
    _of(
        "companion",
        "invitation-bad-tries",
        "three bad tries end an invitation",
        ("ENDED bad tries",),
        *INVITE,
        said("PAIR1", "mac"),
        said("PAIR1", "box"),
        said("PAIR1", "mac"),
        said("PAIR1"),
    ),
    _of(
        "companion",
        "invitation-declined",
        "DECLINED deletes the pending pairing",
        ("DECLINED",),
        *INVITE,
        said("PAIR1"),
        said("DECLINED", "mac", reason=1),
        said("DECLINED", reason=1),
        said("PAIR1"),
        PAIR3,
    ),
    _of(
        "companion",
        "invitation-restart",
        "an invitation lives in memory; a pending pairing on the disk",
        ("invitation lost",),
        *INVITE,
        said("PAIR1"),
        do("restart"),
        do("connect"),
        PAIR3,
    ),
]
PHONE = [
    _of(
        "phone",
        "scan",
        "from the scan to PAIR4",
        ("pairing",),
        *SCAN,
        wait(11),
        said("PAIR2"),
        do("confirm"),
        PAIR4,
    ),
    _of(
        "phone",
        "scan-declined",
        "the person says that the numbers differ",
        ("DECLINED",),
        *SCAN,
        said("PAIR2"),
        do("decline"),
    ),
    _of(
        "phone",
        "scan-late",
        "the phone's check 1: nobody waits for this PAIR2",
        ("reason wrong_mailbox",),
        *SCAN,
        said("PAIR2"),
        do("confirm"),
        PAIR4,
        said("PAIR2"),
    ),
    *(
        _of(
            "phone",
            f"scan-ended-{reason}",
            "the phone's check 3: ENDED ends the attempt",
            ("ENDED",),
            *SCAN,
            said("ENDED", "mac", reason=reason),
            said("ENDED", reason=reason),
            said("PAIR2"),
        )
        for reason in range(1, 6)
    ),
    _of(
        "phone",
        "scan-pairing-id-reused",
        "the phone's check 13: a pairing here has this id",
        ("reason pairing_id_reused",),
        *SCAN,
        said("PAIR2"),
        do("confirm"),
        PAIR4,
        do("scan"),
        said("PAIR2"),
        do("confirm"),
    ),
]

SCENARIOS = [*faults(), *COMPANION, *PHONE]
