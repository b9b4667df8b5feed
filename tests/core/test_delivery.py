"""The replay window against a memory without end; the numbers of resending; who was restored from a backup."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from token_relay.protocol.delivery import (
    OUTBOX_ROWS_MAX,
    WINDOW,
    PeerNumbers,
    forgotten,
    judge,
    peer_is_rolled_back,
    resend_delay_s,
    we_are_rolled_back,
)

A, B = b"a" * 16, b"b" * 16


class Window:
    """A receiver as the agents run it: what it keeps is only what ``forgotten`` leaves."""

    def __init__(self) -> None:
        self.high = 0
        self.kept: dict[int, bytes] = {}

    def take(self, seq: int, digest: bytes) -> str:
        verdict = judge(seq=seq, high=self.high, seen_digest=self.kept.get(seq), digest=digest)
        if verdict == "new":
            new_high = max(self.high, seq)
            for old in forgotten(old_high=self.high, new_high=new_high):
                self.kept.pop(old, None)
            self.kept[seq] = digest
            self.high = new_high
        return verdict


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(1, 6000) | st.sampled_from([1, 2, 1023, 1024, 1025, 2048, 2049, 4096]), st.sampled_from([A, B])
        ),
        max_size=60,
    )
)
def test_the_window_agrees_with_a_memory_without_end(arrivals: list[tuple[int, bytes]]) -> None:
    window = Window()
    ever: dict[int, bytes] = {}
    for seq, digest in arrivals:
        high = max(ever, default=0)
        if seq <= high - 1024:
            expected = "too_old"
        elif seq in ever:
            expected = "duplicate" if ever[seq] == digest else "conflict"
        else:
            expected = "new"
        assert window.take(seq, digest) == expected
        if expected == "new":
            ever[seq] = digest
        high = max(ever, default=0)
        assert window.kept == {n: d for n, d in ever.items() if n > high - 1024}
        assert len(window.kept) <= 1024


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 3000), max_size=60))
def test_a_number_is_accepted_at_most_once(arrivals: list[int]) -> None:
    window = Window()
    accepted = [seq for seq in arrivals if window.take(seq, A) == "new"]
    assert len(accepted) == len(set(accepted))


@pytest.mark.parametrize(
    ("seq", "high", "seen", "verdict"),
    [
        (1, 0, None, "new"),
        (1, 1, A, "duplicate"),
        (1, 1, B, "conflict"),
        (1, 1023, None, "new"),
        (1, 1024, None, "new"),  # the window holds 1 to 1024
        (1, 1024, A, "duplicate"),
        (1, 1025, None, "too_old"),
        (1, 1025, A, "too_old"),
        (1, 1025, B, "too_old"),
        (2, 1025, None, "new"),
        (1025, 1024, None, "new"),
        (2**53 - 1, 1, None, "new"),
        (2**53 - 1 - 1024, 2**53 - 1, None, "too_old"),
        (2**53 - 1 - 1023, 2**53 - 1, None, "new"),
    ],
)
def test_the_edges_of_the_window(seq: int, high: int, seen: bytes | None, verdict: str) -> None:
    assert judge(seq=seq, high=high, seen_digest=seen, digest=A) == verdict


@pytest.mark.parametrize(
    ("old_high", "new_high", "leaving"),
    [
        (0, 0, []),
        (0, 1, []),
        (0, 1024, []),
        (0, 5000, []),  # nothing was in it
        (1, 1024, []),
        (1, 1025, [1]),
        (3, 1026, [1, 2]),
        (1024, 1025, [1]),
        (1025, 1026, [2]),
        (1025, 1025, []),
        (2000, 2002, [977, 978]),
        (3, 10_000, [1, 2, 3]),
        (2000, 2000 + 1024, list(range(977, 2001))),
        (2000, 2**53, list(range(977, 2001))),  # a jump forgets all of the window, not all numbers
    ],
)
def test_what_leaves_the_window(old_high: int, new_high: int, leaving: list[int]) -> None:
    assert list(forgotten(old_high=old_high, new_high=new_high)) == leaving


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 5000), st.integers(0, 5000))
def test_exactly_what_was_in_and_is_out_leaves(old_high: int, more: int) -> None:
    new_high = old_high + more
    was_in = {n for n in range(1, old_high + 1) if n > old_high - 1024}
    is_in = {n for n in range(1, new_high + 1) if n > new_high - 1024}
    assert set(forgotten(old_high=old_high, new_high=new_high)) == was_in - is_in


def test_a_peers_open_requests_stay_in_the_window() -> None:
    # Each of them may still come again; the rest of the window is for answers and greetings between them.
    assert WINDOW == 1024
    assert OUTBOX_ROWS_MAX * 4 <= WINDOW


# -- Resending ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempts", "age_s", "delay_s"),
    [
        (0, 0.0, 2.0),
        (1, 0.0, 2.0),
        (2, 2.0, 4.0),
        (3, 6.0, 8.0),
        (4, 14.0, 16.0),
        (5, 30.0, 32.0),
        (6, 62.0, 64.0),
        (7, 126.0, 128.0),
        (8, 254.0, 256.0),
        (9, 510.0, 300.0),
        (10, 810.0, 300.0),
        (1000, 3599.9, 300.0),
        (1000, 3600.0, 21_600.0),
        (1, 3600.0, 21_600.0),
        (10**9, 1e9, 21_600.0),
    ],
)
def test_the_pause_doubles_to_five_minutes_and_after_an_hour_is_six(
    attempts: int, age_s: float, delay_s: float
) -> None:
    assert resend_delay_s(attempts=attempts, age_s=age_s) == delay_s


def test_an_unanswered_request_is_sent_some_twenty_times_in_its_first_hour() -> None:
    age_s, attempts = 0.0, 0
    while age_s < 3600.0:
        attempts += 1
        age_s += resend_delay_s(attempts=attempts, age_s=age_s)
    assert attempts == 19  # 2 + 4 + ... + 256 = 510 s for the first eight, then (3600 - 510) / 300 rounded up: 11


# -- Rollback ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "high", "peer_accepted", "is_rolled_back"),
    [
        # HELLO 11 after we accepted 10: it has sent 11, and knows our 5
        (PeerNumbers(seq=11, seq_sent=11, seq_accepted=5), 10, 5, False),
        (PeerNumbers(seq=11, seq_sent=11, seq_accepted=6), 10, 5, False),
        (PeerNumbers(seq=11, seq_sent=11, seq_accepted=4), 10, 5, True),  # it has forgotten our 5
        (PeerNumbers(seq=11, seq_sent=9, seq_accepted=5), 10, 5, True),  # it has forgotten its own 10
        (PeerNumbers(seq=11, seq_sent=10, seq_accepted=5), 10, 5, False),
        (PeerNumbers(seq=10, seq_sent=3, seq_accepted=0), 10, 5, False),  # came late: proves nothing
        (PeerNumbers(seq=3, seq_sent=3, seq_accepted=0), 10, 5, False),
        (PeerNumbers(seq=1, seq_sent=1, seq_accepted=0), 0, 0, False),  # the first of all
    ],
)
def test_a_peer_that_claims_less_than_our_disk_knows_was_restored(
    claim: PeerNumbers, high: int, peer_accepted: int, is_rolled_back: bool
) -> None:
    assert peer_is_rolled_back(claim, high=high, peer_accepted=peer_accepted) is is_rolled_back


@pytest.mark.parametrize(
    ("seq_accepted", "seq_sent", "are_rolled_back"), [(0, 0, False), (5, 5, False), (4, 5, False), (6, 5, True)]
)
def test_we_were_restored_if_the_peer_knows_a_number_that_we_never_sent(
    seq_accepted: int, seq_sent: int, are_rolled_back: bool
) -> None:
    claim = PeerNumbers(seq=1, seq_sent=1, seq_accepted=seq_accepted)
    assert we_are_rolled_back(claim, seq_sent=seq_sent) is are_rolled_back


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_honest_ends_never_accuse_each_other_however_late_a_greeting_comes(data: st.DataObject) -> None:
    """One end says what is true when it speaks; the other judges when it hears it, in any order, with losses."""
    sent_by_peer = peer_heard = our_sent = high = peer_accepted = 0
    under_way: list[PeerNumbers] = []
    for action in data.draw(st.lists(st.sampled_from(["greet", "talk", "we send", "it hears", "hear"]), max_size=40)):
        match action:
            case "greet":
                sent_by_peer += 1
                under_way.append(PeerNumbers(sent_by_peer, sent_by_peer, peer_heard))
            case "talk":
                sent_by_peer += 1
            case "we send":
                our_sent += 1
            case "it hears":
                peer_heard = data.draw(st.integers(peer_heard, our_sent))
            case _ if under_way:
                claim = under_way[data.draw(st.integers(0, len(under_way) - 1))]  # stays: it may come again
                assert not we_are_rolled_back(claim, seq_sent=our_sent)
                assert not peer_is_rolled_back(claim, high=high, peer_accepted=peer_accepted)
                high, peer_accepted = max(high, claim.seq), max(peer_accepted, claim.seq_accepted)
