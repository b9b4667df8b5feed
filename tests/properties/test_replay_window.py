"""The replay window against a set that remembers everything."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from token_relay.protocol.delivery import WINDOW, forgotten, judge

STEPS = st.sampled_from([0, 1, 1, 1, 2, 3, 17, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW])


class ReplayWindow(RuleBasedStateMachine):
    """What the link keeps of a peer's numbers, and an oracle that forgets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.high = 0
        self.kept: dict[int, bytes] = {}
        self.accepted: dict[int, bytes] = {}

    @rule(back=STEPS, digest=st.sampled_from([b"a", b"b"]))
    def comes_late(self, back: int, digest: bytes) -> None:
        self._arrives(max(1, self.high - back), digest)

    @rule(ahead=STEPS, digest=st.sampled_from([b"a", b"b"]))
    def comes_in_time(self, ahead: int, digest: bytes) -> None:
        self._arrives(self.high + ahead or 1, digest)

    def _arrives(self, seq: int, digest: bytes) -> None:
        verdict = judge(seq=seq, high=self.high, seen_digest=self.kept.get(seq), digest=digest)
        if seq <= self.high - WINDOW:
            assert verdict == "too_old"
        elif seq in self.accepted:
            assert verdict == ("duplicate" if self.accepted[seq] == digest else "conflict")
        else:
            assert verdict == "new"
        if verdict == "new":
            assert seq not in self.accepted
            self.accepted[seq] = digest
            high = max(self.high, seq)
            for old in forgotten(old_high=self.high, new_high=high):
                self.kept.pop(old, None)
            self.kept[seq] = digest
            self.high = high

    @invariant()
    def keeps_what_may_still_come_and_no_more(self) -> None:
        assert self.kept == {seq: digest for seq, digest in self.accepted.items() if seq > self.high - WINDOW}
        assert len(self.kept) <= WINDOW


ReplayWindow.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestReplayWindow = ReplayWindow.TestCase
