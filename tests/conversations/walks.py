"""``python -m tests.conversations.walks --end phone|companion [--from N] [--count N]``: walks that nobody wrote.

A walk is a conversation of random steps: messages in any order, doubled, late, under numbers that were left out or
used; power cuts, new connections, time. What each must bring comes from the table, as for the files, and our own end
must agree. A walk that shows a fault is kept as a scenario.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from typing import Any

from tests.conversations.interpreter import Impossible, Interpreter
from tests.conversations.laws import Outcome, Told
from tests.conversations.make import content
from tests.conversations.our_ends import OurEnd
from tests.conversations.runner import play
from tests.conversations.scenarios import kit
from tests.conversations.scenarios.kit import Scenario, Step
from tests.conversations.table import Table

STEPS = 24
# In short ones no greeting falls due, and of a long one greetings are not listed: 25.5 hours lie between two of them.
WAITS = (1, 3, 30, 30, 91_800)
PEOPLE = ((kit.ACCOUNT, kit.SUBJECT), ("bob@login.example", "bob"))


class Walk:
    """Draws the steps of one conversation; the interpreter says which of them make sense where they stand."""

    def __init__(self, end: str, seed: int, table: Table) -> None:
        self.end = end
        self._random = random.Random(f"{end} {seed}")
        self._model = Interpreter(end, table)
        self._model.begin("paired")
        self.steps: list[Step] = []
        self._owed: list[str] = []  # tokens that the provider is asked for
        self._offered: set[str] = set()  # the peer has got these OFFERs

    def draw(self) -> tuple[Step, ...]:
        """Return the steps of the walk."""
        while len(self.steps) < STEPS:
            try:
                step = self._another()
                came = self._model.step(step).out
            except Impossible:
                continue
            self.steps.append(step)
            self._owed = [
                h for h in self._owed if step["do"] not in ("restart", "restore") and step.get("handoff_id") != h
            ]
            self._owed += [item["obtain"] for item in came if "obtain" in item]
            self._offered |= {item["body"]["handoff_id"] for item in came if item.get("type") == "OFFER"}
        return tuple(self.steps)

    # -- what may happen

    def _another(self) -> Step:
        if self._owed and (self._is_stale(self._owed[0]) or self._random.random() < 0.3):
            handoff = self._handoffs().get(self._owed[0])
            account, subject = PEOPLE[handoff is not None and handoff.offer["account"] == PEOPLE[1][0]]
            return kit.obtained(self._owed[0], account=account, subject=subject)
        kinds: dict[Callable[[], Step], int] = {
            self._message: 12,
            self._own: 5,
            self._hello: 3,
            self._again: 3,
            self._time: 3,
            self._power: 2,
        }
        (kind,) = self._random.choices(list(kinds), list(kinds.values()))
        return self._numbered(kind())

    def _is_stale(self, h: str) -> bool:
        """Whether this handoff was given up while its token is obtained: nothing begins before the answer is there."""
        handoffs = self._handoffs()
        return h not in handoffs or handoffs[h].state != "ACCEPTED"

    def _numbered(self, step: Step) -> Step:
        """Leave numbers out, now and then, or come late with one that was left out."""
        if "message" not in step or self._random.random() > 0.15:
            return step
        last = self._model.numbers.get("$p1", 1)
        return {
            **step,
            "message": {**step["message"], "seq": self._random.choice((last + 2, last + 5, max(2, last - 1)))},
        }

    def _handoffs(self) -> dict[str, Any]:
        pairing = self._model.model.disk.pairings.get("$p1")
        if pairing is None:
            raise Impossible("no pairing")
        return pairing.handoffs

    def _one(self) -> str:
        return self._random.choice([*self._handoffs(), "$h9"])

    def _message(self) -> Step:
        return self._of_companion() if self.end == "phone" else self._of_phone()

    def _of_companion(self) -> Step:
        pick, h = self._random.choice, self._one()
        kind = pick(("ACCEPT", "ACCEPT", "STORED", "STORED", "CANCELLED", "REVOKED", "LOST", "REJECT", "RENEW"))
        match kind:
            case "ACCEPT":
                hash_ = f"#OFFER {h}" if h in self._offered and self._random.random() < 0.9 else "#wrong"
                return kit.accept(h, pick(("$k1", "$k2")), offer_hash=hash_)
            case "REJECT":
                return kit.reject(h, pick(("expired", "gone")))
            case "RENEW":
                return kit.renew(h, pick(("uncertain", "uncertain", "denied")), pick((1, 2, 3)))
            case "STORED" if h in self._handoffs() and not self._handoffs()[h].token:
                raise Impossible("only a phone that has obtained the token knows whose it is")
            case _:
                return kit.says(kind, h)

    def _of_phone(self) -> Step:
        pick, h = self._random.choice, self._one()
        kind = pick(("OFFER", "OFFER", "TOKEN", "TOKEN", "CLOSED", "CANCEL", "REVOKE", "REJECT", "LEASE"))
        match kind:
            case "OFFER":
                account, _ = pick(PEOPLE)
                fresh = f"$h{len(self._handoffs()) + 1}"
                return kit.offered(pick((fresh, h)), lease_days=pick((0, 1)), account=account)
            case "TOKEN":
                handoff = self._handoffs().get(h)
                if handoff is None or handoff.key is None:
                    return kit.receive("TOKEN", {"handoff_id": h, "sealed": "AAAA"})
                account, subject = PEOPLE[handoff.offer["account"] == PEOPLE[1][0]]
                more: Step = {"issuer": "https://other.example"} if self._random.random() < 0.1 else {}
                return kit.token(h, handoff.key, account=account, subject=subject, profile="strict", **more)
            case "REJECT":
                return kit.reject(h, "gone")
            case "LEASE":
                newest = self._model.model.names.last.get("c", 0)
                if not newest:
                    raise Impossible("no greeting yet")
                terms = [{"handoff_id": h, "lease_days": 1}]
                return kit.receive("LEASE", {"challenge": f"$c{newest}", "handoffs": terms})
            case _:
                return kit.says(kind, h)

    def _own(self) -> Step:
        if self._model.model.disk.is_locked:
            raise Impossible("the person has to sign in anew")
        pick, h = self._random.choice, self._one()
        if self.end == "companion":
            becomes = pick(("rotated", "rotated", "denied", "uncertain"))  # of `person` an agent asks again by itself
            return pick(
                (kit.do("refresh", handoff_id=h, becomes=becomes), kit.do("ask", handoff_id=h), kit.do("erase"))
            )
        account, _ = pick(PEOPLE)
        mine: tuple[Step, ...] = (
            kit.offer(account=account, lease_days=pick((0, 1))),
            kit.offer(account=account),
            kit.do("cancel"),
            kit.do("revoke"),
        )
        return pick(mine)

    def _hello(self) -> Step:
        held: tuple[tuple[str, int], ...] = (("held", 1), ("held", 2), ("dead", 2), ("ready", 0))
        mine: tuple[tuple[str, int], ...] = (("offered", 0), ("released", 0), ("done", 1))
        listed = [(h, *self._random.choice(held if self.end == "phone" else mine)) for h in self._handoffs()]
        listed = [one for one in listed if self._random.random() < 0.7]
        if self._random.random() < 0.3:
            return kit.hello(*listed, speaks=self._random.choice((2, 4)), strategies=["mint"])
        return kit.hello(*listed)

    def _again(self) -> Step:
        brought = [number for number, step in enumerate(self.steps) if "message" in step]
        if not brought:
            raise Impossible("nothing was brought")
        return kit.again(self._random.choice(brought))

    def _time(self) -> Step:
        # A restored end that greets in vain for a day has caught up with its numbers: then nobody can tell.
        is_restored = any(step["do"] == "restore" for step in self.steps)
        return kit.wait(self._random.choice(WAITS[:3] if self._owed or is_restored else WAITS))

    def _power(self) -> Step:
        model = self._model.model
        if not model.memory.is_connected:
            return kit.do("connect")
        what = self._random.choice(("restart", "connect", "connect", "keep", "restore"))
        if what not in ("keep", "restore"):
            return kit.do(what)
        if self._owed or (what == "restore") != bool(model.kept):
            raise Impossible("one image is kept, and put back later")
        return kit.do(what, image="a")


def walk(end: str, seed: int, table: Table) -> tuple[Step, Outcome]:
    """Draw a walk, and play it against our own end."""
    steps = Walk(end, seed, table).draw()
    scenario = Scenario(f"{end}-walk-{seed}", "phone" if end == "phone" else "companion", "handoff.md: a walk", steps)
    file = content(scenario, table)
    ours = OurEnd()
    try:
        return file, play(file, ours, level="envelope", told=Told())
    finally:
        ours.close()


def main(words: list[str]) -> int:
    """Walk, and print what the two do not agree on."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conversations.walks", description="Play random conversations against our own end."
    )
    parser.add_argument("--end", choices=("phone", "companion"), required=True)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="N")
    parser.add_argument("--count", type=int, default=1000, metavar="N")
    chosen = parser.parse_args(words)
    table, failed = Table(), 0
    for seed in range(chosen.first, chosen.first + chosen.count):
        file, outcome = walk(chosen.end, seed, table)
        if outcome.failures:
            failed += 1
            print(f"FAILED {file['name']}")
            for failure in outcome.failures:
                print("".join(f"    {line}\n" for line in failure.shown()), end="")
    print(f"walked {chosen.count}, failed {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
