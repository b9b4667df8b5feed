"""What holds in every conversation, in the words of the pages; and how a failure reads.

A test looks each sentence up on its page, so that what a person is shown can be found there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

PAGE = re.compile(r"[a-z-]+\.md")


@dataclass(frozen=True, slots=True)
class Law:
    """One sentence of docs/spec."""

    sentence: str
    page: str

    @classmethod
    def of_file(cls, about: str) -> Law:
        """What a conversation is about: its sentence, and the page that it names."""
        found = PAGE.search(about)
        return cls(re.sub(rf"^{PAGE.pattern}[,:] ", "", about), found[0] if found else "README.md")


NUMBER = Law("each envelope that is *made* takes the next number", "delivery.md")
SAME_BYTES = Law(
    "A request that is sent again is the same envelope, byte for byte: same number, same nonce.", "delivery.md"
)
NEW_ANSWER = Law("An answer that is given again is a new envelope with a new number.", "delivery.md")
JUMP = Law("plus 2048, so that no number is used twice", "delivery.md")
SAVE = Law("After the commit: acknowledge to the broker, then send.", "delivery.md")
ACK = Law(
    "A received message must be acknowledged (PUBACK) only after its effect is durable, or after it was refused.",
    "topics-and-broker.md",
)
FIELDS = Law(
    "Every field of a message is present, `null` only where the table says so, and no other field is.", "messages.md"
)
DEVICES = Law("`from` is the sender of the topic, `to` is the own id", "messages.md")
PAIRING = Law("`pairing_id` is that of a pairing with this peer", "messages.md")
NONCE = Law("nonce, random, never used twice", "envelope.md")
SENT_AT = Law("Unix seconds by the sender's clock, 0 when it is not synced", "messages.md")
EXPIRES_AT = Law("when the phone gives up, 0 when its clock is not synced", "messages.md")
SEQ_SENT = Law("the highest number that the sender has used, this message's included", "messages.md")
GRANT = Law("The same JSON rules; anything wrong with it is `bad_grant`.", "messages.md")
UNREADABLE = {
    law.page: law
    for law in (
        Law("It stops at the first thing that is wrong and counts the reason", "envelope.md"),
        Law("What is not described here is refused.", "messages.md"),
        Law("A topic must match as a whole, case and all.", "topics-and-broker.md"),
        Law("One scan of a QR code gives two devices each other's static key.", "pairing.md"),
    )
}
ADAPTER = Law("answers each with one line on standard output", "adapter.md")


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that was wrong at one step: what, and the sentence that it breaks.

    ``unless_untold`` names what a program may leave out of its answers: such a failure counts only if the program tells
    this kind of thing at all, in whatever conversation.
    """

    step: int
    came_in: str
    lines: tuple[str, ...]
    law: Law
    unless_untold: str = ""

    def shown(self) -> list[str]:
        """Return it as lines for a person."""
        where = f"step {self.step}" if self.step >= 0 else "before the first step, while pairing"
        return [
            f"{where}: {self.came_in}",
            *(f"    {line}" for line in self.lines),
            f"    breaks docs/spec/{self.law.page}: {self.law.sentence}",
        ]


@dataclass(slots=True)
class Outcome:
    """What became of one conversation: failed where it has failures, not played where it says why."""

    name: str
    end: str
    about: str
    failures: list[Failure] = field(default_factory=list)
    not_played: str = ""
    steps: int = 0
    is_broken: bool = False  # the program died, hung, or answered what is no answer

    @property
    def verdict(self) -> str:
        """``passed``, ``failed`` or ``not played``."""
        return "failed" if self.failures else "not played" if self.not_played else "passed"

    def described(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        failures = [
            {
                "step": failure.step,
                "came_in": failure.came_in,
                "what": list(failure.lines),
                "sentence": failure.law.sentence,
                "page": f"docs/spec/{failure.law.page}",
            }
            for failure in self.failures
        ]
        more = {"why": self.not_played} if self.verdict == "not played" else {}
        return {"name": self.name, "end": self.end, "verdict": self.verdict, **more, "failures": failures}


@dataclass(slots=True)
class Told:
    """What a program tells in its answers, over all conversations: the rest is never compared."""

    wanted: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    @property
    def never_compared(self) -> list[str]:
        """What the conversations would have compared, had the program told it."""
        return sorted(self.wanted - self.seen)

    def settle(self, outcome: Outcome) -> None:
        """Drop the failures about what the program never tells. Called when all conversations are over."""
        outcome.failures = [
            failure for failure in outcome.failures if not failure.unless_untold or failure.unless_untold in self.seen
        ]
