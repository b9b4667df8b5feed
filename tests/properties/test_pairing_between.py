"""Pairing with a person in between, who may know the invitation or not, and who may swap, repeat and spoil messages."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from token_relay.protocol.envelope import NONCE_BYTES
from token_relay.protocol.errors import PeerError
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.pairing import (
    Ended,
    Invitation,
    Pair1Fields,
    Pair2Fields,
    PairingSecret,
    check_number,
    open_declined,
    open_ended,
    open_pair1,
    open_pair2,
    seal_declined,
    seal_ended,
    seal_pair1,
    seal_pair2,
    transcript_hash,
)

PHONE, COMPANION, FRESH, FRESH_2, EVE, EVE_FRESH = (KeyPair.from_random(bytes([n]) * 32) for n in range(1, 7))
PICKS = st.integers(0, 1000)
PAIRING_ID = "22" * 16


def _pair1(static: KeyPair) -> Pair1Fields:
    return Pair1Fields(type="PAIR1", v=1, static_key=static.public_key.hex(), name="phone", nonce="00" * 16)


def _pair2(static: KeyPair) -> Pair2Fields:
    return Pair2Fields(
        type="PAIR2", v=1, static_key=static.public_key.hex(), name="watch", nonce="11" * 16, pairing_id=PAIRING_ID
    )


class Between(RuleBasedStateMachine):
    """The companion takes the first PAIR1 that opens; the phone the first PAIR2 that opens."""

    @initialize(knows=st.booleans())
    def shows(self, knows: bool) -> None:
        self.knows = knows
        self.invitation = Invitation(COMPANION.public_key, PairingSecret(b"s" * 16))
        guessed = self.invitation if knows else Invitation(COMPANION.public_key, PairingSecret(b"x" * 16))
        self.eves = guessed
        self.pair1 = seal_pair1(self.invitation, fresh=FRESH, nonce=bytes(NONCE_BYTES), fields=_pair1(PHONE))
        self.wires = [self.pair1]
        self.taken: bytes | None = None  # the PAIR1 that the companion took
        self.companion_trusts = b""
        self.companion_transcript = b""
        self.phone_transcript = b""

    @rule(pick=PICKS, at=st.integers(0, 4171), bit=st.integers(0, 7))
    def spoils(self, pick: int, at: int, bit: int) -> None:
        wire = bytearray(self.wires[pick % len(self.wires)])
        wire[at % len(wire)] ^= 1 << bit
        self.wires.append(bytes(wire))

    @rule()
    def begins_herself(self) -> None:
        self.wires.append(seal_pair1(self.eves, fresh=EVE_FRESH, nonce=b"e" * NONCE_BYTES, fields=_pair1(EVE)))

    @rule(pick=PICKS, claims=st.booleans())
    def answers_herself(self, pick: int, claims: bool) -> None:
        fields = _pair2(COMPANION if claims else EVE)
        pair1 = self.wires[pick % len(self.wires)]
        try:
            self.wires.append(seal_pair2(self.eves, pair1, fresh=EVE_FRESH, nonce=b"e" * NONCE_BYTES, fields=fields))
        except PeerError:
            return

    @rule(pick=PICKS, another=PICKS)
    def says_that_it_is_over(self, pick: int, another: int) -> None:
        wires = [self.wires[n % len(self.wires)] for n in (pick, another)]
        self.wires.append(seal_ended(self.eves, wires[0], Ended("expired", 90)))
        transcript = transcript_hash(self.eves, *wires)
        self.wires.append(seal_declined(self.eves, transcript, "not_confirmed"))

    @rule(pick=PICKS)
    def hears_that_it_is_over(self, pick: int) -> None:
        """Who has not seen the invitation cannot say so to either end."""
        wire = self.wires[pick % len(self.wires)]
        for read in (
            lambda: open_ended(self.invitation, self.pair1, wire),
            lambda: open_declined(self.invitation, self.companion_transcript, wire),
        ):
            try:
                read()
            except PeerError:
                continue
            assert self.knows

    @precondition(lambda self: self.taken is None)
    @rule(pick=PICKS)
    def companion_receives(self, pick: int) -> None:
        wire = self.wires[pick % len(self.wires)]
        try:
            fields = open_pair1(self.invitation, wire, static=COMPANION)
        except PeerError:
            return
        self.taken, self.companion_trusts = wire, bytes.fromhex(fields.static_key)
        pair2 = seal_pair2(self.invitation, wire, fresh=FRESH_2, nonce=b"c" * NONCE_BYTES, fields=_pair2(COMPANION))
        self.companion_transcript = transcript_hash(self.invitation, wire, pair2)
        self.wires.append(pair2)

    @precondition(lambda self: not self.phone_transcript)
    @rule(pick=PICKS)
    def phone_receives(self, pick: int) -> None:
        wire = self.wires[pick % len(self.wires)]
        try:
            fields = open_pair2(self.invitation, self.pair1, wire, fresh=FRESH)
        except PeerError:
            return
        assert bytes.fromhex(fields.static_key) == COMPANION.public_key
        self.phone_transcript = transcript_hash(self.invitation, self.pair1, wire)

    @invariant()
    def who_has_not_seen_the_invitation_gets_nowhere(self) -> None:
        if not self.knows:
            assert self.companion_trusts in (b"", PHONE.public_key)
            assert not self.phone_transcript or self.phone_transcript == self.companion_transcript

    @invariant()
    def one_transcript_means_the_right_keys(self) -> None:
        """PAIR3 and PAIR4 compare the transcripts; nothing is active before."""
        if self.phone_transcript and self.phone_transcript == self.companion_transcript:
            assert self.companion_trusts == PHONE.public_key
            assert check_number(self.phone_transcript) == check_number(self.companion_transcript)

    @invariant()
    def the_faster_thief_shows_a_transcript_of_his_own(self) -> None:
        if self.companion_trusts == EVE.public_key:
            assert self.phone_transcript != self.companion_transcript


Between.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestBetween = Between.TestCase
