"""What one end must do, from the pages and protocol.json alone: the expectation of every conversation.

`Interpreter.step` takes the input part of a step and tells what the end says on the wire, what it refuses, and what
then stands in `state`. It is a complete model of one end, without cryptography: ids, keys and hashes stay symbols. What
the end makes by itself gets the next free symbol of its letter (`$h1`, `$k1`, `$c1`). It imports nothing of the program
that it judges, and takes states, rules, times and limits from the table.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.conversations.interpreter_companion import CompanionEnd
from tests.conversations.interpreter_phone import PhoneEnd
from tests.conversations.interpreter_state import Impossible, Message, Refused
from tests.conversations.table import Json, Table

__all__ = ["Expected", "Impossible", "Interpreter"]

HOUR_S = 3600
# Dates do not matter, except that a lease and an expiry count from it: 2026-01-01T00:00:00Z.
NOW = 1_767_225_600

# What happens at an end; the other end has no such method.
OWN = (
    *("pair", "offer", "obtained", "not_obtained", "cancel", "revoke", "forget", "refresh", "provider", "erase", "ask"),
    *("invite", "scan", "confirm", "decline"),
)
NAMES = {"phone": "ada's phone", "companion": "kitchen"}


@dataclass
class Expected:
    """What one step must bring."""

    out: list[Json]
    refused: str | None
    field: str | None
    state: Json
    answer: Json | None = None


@dataclass
class Seen:
    """A message that a step brought, to be brought again."""

    message: Json
    digest: str
    sent: list[int] = field(default_factory=list)


class Interpreter:
    """One end, from its start on."""

    def __init__(self, end: str, table: Table | None = None) -> None:
        if end not in ("phone", "companion"):
            raise ValueError(end)
        self.table = table or Table()
        self.model: PhoneEnd | CompanionEnd = PhoneEnd(self.table) if end == "phone" else CompanionEnd(self.table)
        self.steps = 0
        self.brought: dict[int, Seen] = {}
        self.numbers: dict[str, int] = {}  # the highest number that the peer has used, by pairing

    # --- the beginning --------------------------------------------------------------------------------------

    def begin(self, kind: str) -> list[tuple[Json, Expected]]:
        """Play the steps that `begin` stands for. They are not counted among the steps of the file."""
        if kind == "new":
            return []
        proof, reply = ("PAIR4", {"in_reply_to": 1}) if self.model.end == "phone" else ("PAIR3", {})
        played: list[Json] = [
            {"do": "start"},
            {"do": "connect"},
            {"do": "pair", "pairing_id": "$p1", "transcript": "$t1"},
            {"do": "receive", "message": {"type": proof, "body": {"transcript_hash": "$t1"}, **reply}},
        ]
        result = [(step, self.step(step)) for step in map(self.filled, played)]
        self.steps = 0
        self.brought.clear()
        return result

    def filled(self, step: Json) -> Json:
        """The step with what a scenario may leave out: version, number, pairing and so on of a message."""
        if step["do"] != "receive" or "message" not in step:
            return step
        message = {"v": 1, "in_reply_to": None, "pairing": "$p1", **step["message"]}
        if "seq" not in message:
            message["seq"] = self.numbers.get(message["pairing"], 0) + 1
        return {**step, "message": message}

    def _brought(self, number: int) -> Seen:
        if number not in self.brought:
            raise Impossible(f"step {number} brought no message")
        return self.brought[number]

    # --- a step ---------------------------------------------------------------------------------------------

    def step(self, step: Json) -> Expected:
        """Play a step and tell what it must bring.

        Raises:
            Impossible: the step makes no sense now. Nothing has changed.
        """
        do = step["do"]
        ours: Callable[[Json], Any] | None = getattr(self, f"_do_{do}", None)
        if do in OWN:
            ours = getattr(self.model, do, None)
        if ours is None:
            raise Impossible(f"this end has no {do}")
        step = self.filled(step)
        model = self.model
        model.out, model.step, model.is_quiet = [], model.step + 1, False
        before = copy.deepcopy(model.disk) if do not in ("receive", "wait") else None
        refused, wrong, answer = None, None, None
        model.counted = ("", "")
        try:
            answer = ours(step)
            if model.counted[0]:
                refused, wrong = model.counted
        except Refused as error:
            refused, wrong = error.reason, error.field
            if before is not None:
                model.disk, model.out = before, []
        except Impossible:
            if before is not None:
                model.disk = before
            raise
        self.steps += 1
        return Expected(
            copy.deepcopy(model.out), refused, wrong, model.state(), answer if isinstance(answer, dict) else None
        )

    # --- what the runner does -------------------------------------------------------------------------------

    def _do_start(self, step: Json) -> None:
        self.model.name = step.get("name", NAMES[self.model.end])
        self.model.wall = step.get("now", NOW)

    def _do_state(self, step: Json) -> None:
        pass

    def _do_connect(self, step: Json) -> None:
        self.model.connect()

    def _do_restart(self, step: Json) -> None:
        self.model.power_cut()

    def _do_keep(self, step: Json) -> None:
        self.model.kept[step["image"]] = (copy.deepcopy(self.model.disk), dict(self.model.heard))

    def _do_restore(self, step: Json) -> None:
        if step["image"] not in self.model.kept:
            raise Impossible("no such image")
        self.model.disk = copy.deepcopy(self.model.kept[step["image"]][0])
        self.model.power_cut()

    def _do_wait(self, step: Json) -> None:
        self.model.is_quiet = step["seconds"] >= HOUR_S
        self.model.pass_time(step["seconds"])

    def _do_allow(self, step: Json) -> None:
        if not isinstance(self.model, PhoneEnd):
            raise Impossible("a companion hands nothing out")
        self.model.may_hand_out = step["is_open"]

    # --- receive --------------------------------------------------------------------------------------------

    def _do_receive(self, step: Json) -> None:
        model = self.model
        if not model.memory.is_connected:
            raise Impossible("there is no connection")
        if "mailbox" in step:
            seen = Seen(step, f"step {model.step}")
        elif "again" in step:
            seen = self._brought(step["again"])
        else:
            message = step["message"]
            sent = self._resolved(message)
            seen = Seen(self._counted(message, sent[0]), f"step {model.step}", sent)
        self.brought[self.steps] = seen
        if "mailbox" in seen.message:
            model.mailbox(seen.message["mailbox"], seen.digest, seen.message)
            return
        message, (seq, reply, sent_at) = seen.message, seen.sent
        pairing = message["pairing"]
        self.numbers[pairing] = max(self.numbers.get(pairing, 0), seq)
        body = message.get("body")
        handoff = body.get("handoff_id") if isinstance(body, dict) else None
        label = " ".join([message["type"], *([handoff] if handoff else [])])
        if "again" not in step and "spoil" not in step:
            model.last_digest[pairing, label] = seen.digest
        head = {
            "v": message["v"],
            "type": message["type"],
            "pairing_id": pairing,
            "from": "a" * 26,
            "to": "b" * 26,
            "seq": seq,
            "sent_at": sent_at,
            "in_reply_to": None if message["in_reply_to"] is None else reply,
            **message.get("head", {}),
        }
        m = Message(
            message["type"],
            head["v"],
            seq,
            head["in_reply_to"],
            pairing,
            body if isinstance(body, dict) else {},
            sent_at,
            seen.digest,
        )
        spoil = step.get("spoil", {}).get("kind")
        model.receive(m, head, body, spoil)

    def _counted(self, message: Json, seq: int) -> Json:
        """The message with what a HELLO or ROLLBACK claims, as it is when the message is made."""
        body = message.get("body")
        if not isinstance(body, dict) or message["type"] not in ("HELLO", "ROLLBACK"):
            return message
        claims = {name: body[name] for name in ("seq_sent", "seq_accepted") if isinstance(body.get(name), str)}
        numbers = {name: self.model.number(message["pairing"], value, seq) for name, value in claims.items()}
        return {**message, "body": {**body, **numbers}}

    def _resolved(self, message: Json) -> list[int]:
        """Number, number of the message that it answers, time: what these symbols stand for when it is made."""
        number = self.model.number
        reply = message["in_reply_to"]
        sent_at = message.get("sent_at", "+0")
        wall = int(self.model.wall_now())
        return [
            number(message["pairing"], message["seq"]),
            0 if reply is None else number(message["pairing"], reply),
            wall + int(sent_at) if isinstance(sent_at, str) else sent_at,
        ]
