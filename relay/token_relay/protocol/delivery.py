"""Sequence numbers, the replay window and resend times: pure arithmetic for an unreliable channel.

The MQTT broker may lose, repeat, reorder or replay messages. Each end numbers what it sends per pairing (gaps are
fine, reuse is not) and remembers the last 1024 numbers it accepted together with a digest of the bytes. A number seen
again with the same bytes is a duplicate: no effect, but requests are answered anew. The same number with *other* bytes
means that the sender was restored from an older disk image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WINDOW = 1024  # a peer never has more than 256 open requests; four times that leaves room for answers and HELLOs
OUTBOX_ROWS_MAX = 256  # per pairing; a peer that never answers must not fill the disk

RESEND_FIRST_S = 2.0  # well above a round trip over a mobile network
RESEND_S_MAX = 300.0
RESEND_EAGER_S = 3600.0  # after an hour a connection or a HELLO of the peer is the better trigger
RESEND_IDLE_S = 6 * 3600.0
# Each pause is so many times as long: devices that lost one broker do not come at once.
RESEND_DRAWN = (0.75, 1.25)
RETIRED_S_MAX = 30 * 86_400.0  # as long as a broker keeps a session; see `is_given_up`
ANSWER_PAUSE_S = 2.0  # one answer per handoff in this time, whatever the broker replays

Verdict = Literal["new", "duplicate", "too_old", "conflict"]


def judge(*, seq: int, high: int, seen_digest: bytes | None, digest: bytes) -> Verdict:
    """Judge a message by its number: ``high`` is the highest accepted, ``seen_digest`` what is stored under ``seq``."""
    if seq <= high - WINDOW:
        return "too_old"
    if seen_digest is None:
        return "new"
    return "duplicate" if seen_digest == digest else "conflict"


def forgotten(*, old_high: int, new_high: int) -> range:
    """Return the numbers that leave the window when the highest accepted moves; at most ``WINDOW`` were in it."""
    return range(max(1, old_high - WINDOW + 1), min(new_high - WINDOW, old_high) + 1)


def resend_delay_s(*, attempts: int, age_s: float) -> float:
    """Return the pause before the next resend of a request that was sent ``attempts`` times.

    ``age_s`` is the time since it was first queued. The caller adds the jitter.
    """
    if age_s >= RESEND_EAGER_S:
        return RESEND_IDLE_S
    return min(RESEND_FIRST_S * 2.0 ** min(max(attempts - 1, 0), 16), RESEND_S_MAX)


def is_given_up(*, kind: str, age_s: float | None) -> bool:
    """Say whether a request of this type is dropped unanswered in a retired pairing.

    ``age_s`` is None when no clock can tell it. The phone may have deleted that pairing, and then nobody answers.
    STORED and RENEW only tell the phone what it also learns by asking, and a waiting phone asks for ever: its TOKEN and
    CANCEL are answered with STORED, its REVOKE ends the handoff.
    """
    return kind in ("STORED", "RENEW") and age_s is not None and age_s >= RETIRED_S_MAX


@dataclass(frozen=True, slots=True)
class PeerNumbers:
    """What a HELLO claims about its sender: the highest number it sent, and the highest of ours it accepted."""

    seq: int  # of the HELLO itself
    seq_sent: int
    seq_accepted: int


def peer_is_rolled_back(claim: PeerNumbers, *, high: int, peer_accepted: int) -> bool:
    """Say whether a peer claims less than we have on disk.

    ``high`` is the highest number that we had accepted from it before this HELLO, ``peer_accepted`` the highest of
    ours that it was ever known to have accepted. A HELLO older than ``high`` came late and proves nothing.
    """
    if claim.seq <= high:
        return False
    return claim.seq_sent < high or claim.seq_accepted < peer_accepted


def we_are_rolled_back(claim: PeerNumbers, *, seq_sent: int) -> bool:
    """Say whether the peer has accepted a number that, by our own disk, we never sent."""
    return claim.seq_accepted > seq_sent
