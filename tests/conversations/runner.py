"""Plays one conversation against one end, and compares.

The runner is everything around the end: it turns each step of a file into a request (:meth:`Play._request`), asks the
end, reads what the end did in its order, and compares messages, refusals and state with the file. Beside the file it
holds what holds in every conversation (tests/conversations/laws.py). It stops at the first step that is wrong, because
the two have gone different ways from there on.

An end is anything with ``ask``: a program behind a pipe, or our own devices in this process.
"""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import dataclass
from typing import Any, Protocol

from tests.conversations import laws
from tests.conversations.acts import Act, acts_of
from tests.conversations.fits import faults_of_message
from tests.conversations.laws import Failure, Law, Outcome, Told
from tests.conversations.mailboxes import TOPIC, Mailbox
from tests.conversations.matching import Came, Matcher, reduced
from tests.conversations.peer import Peer, Sent, UnreadableError
from tests.conversations.pipe import ProgramError
from tests.conversations.states import state_differences
from tests.conversations.values import NAME, Known, UnboundError, differences, filled
from tests.vectors.vector_kit import SENT_AT

NAMES = {"phone": "ada's phone", "companion": "kitchen"}
OF_A_STEP = ("out", "refused", "field", "state", "answer", "note")  # what a step expects; all else is its input
NO_COMMIT = ("again", "spoil", "mailbox")  # such a message is dropped, or brings nothing that was not there
JUMP = 2048  # of an end that was restored
OFFER_S = 86_400
SLACK_S = 5  # for a program whose clock runs beside that of the conversation
NONCE = slice(36, 60)  # of an envelope
SHOWN_MAX = 300


class End(Protocol):
    """One end under test."""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of docs/spec/adapter.md."""


class UnplayedError(Exception):
    """The program does not know what this conversation needs."""


class BrokenError(Exception):
    """The step is wrong; what was found so far is in the play."""


@dataclass(frozen=True)
class Delivered:
    """A message that reached the end: the request that brought it, and what it said."""

    request: dict[str, Any]
    message: dict[str, Any]


def play(conversation: dict[str, Any], end: End, *, level: str, told: Told) -> Outcome:
    """Play one file. What an end does not tell is judged by :meth:`Told.settle` when all files are played."""
    return Play(conversation, end, level=level, told=told).run()


def paired(end: str) -> list[dict[str, Any]]:
    """The four steps that stand for ``"begin": "paired"``."""
    message = {"type": "PAIR4" if end == "phone" else "PAIR3", "seq": 1, "body": {"transcript_hash": "$t1"}}
    pair3 = {"type": "PAIR3", "body": {"transcript_hash": "$t1"}}
    hello = {"challenge": "*", "seq_sent": "=seq", "seq_accepted": 1, "handoffs": [], "speaks": 2, "strategies": "*"}
    if end == "phone":
        message["in_reply_to"] = 1
    out: dict[str, Any] = (
        {"type": "HELLO", "v": 2, "body": hello}
        if end == "phone"
        else {"type": "PAIR4", "in_reply_to": 1, "body": {"transcript_hash": "$t1"}}
    )
    return [
        {"do": "start", "out": []},
        {"do": "connect", "out": []},
        {"do": "pair", "pairing_id": "$p1", "transcript": "$t1", "out": [pair3] if end == "phone" else []},
        {"do": "receive", "message": message, "out": [out]},
    ]


class Play:
    """One conversation with one end."""

    def __init__(self, conversation: dict[str, Any], end: End, *, level: str, told: Told) -> None:
        self._file = conversation
        self._end = end
        self._level = level
        self._told = told
        self._speaks = 1
        self._known = Known(SENT_AT)
        self._peer = Peer(conversation["end"], level, conversation["name"])
        self._delivered: dict[int, Delivered] = {}
        self._used: dict[str, dict[int, str]] = {}  # pairing id: number: bytes
        self._floors: dict[str, int] = {}  # pairing id: what a restored end has jumped to
        self._wires: set[str] = set()
        self._nonces: set[bytes] = set()
        self._images: dict[str, tuple[dict[str, dict[int, str]], dict[tuple[str, str, str], str]]] = {}
        self._last: dict[tuple[str, str, str], str] = {}  # pairing id, type, handoff id: bytes
        self._mailboxes: list[Mailbox] = []
        self._expected_state: dict[str, Any] | None = None
        self._outcome = Outcome(conversation["name"], conversation["end"], conversation["about"])
        self._at = 0
        self._step: dict[str, Any] = {}

    def run(self) -> Outcome:
        """Play all steps, or as far as they are right."""
        if self._file["level"] == "envelope" and self._level == "plain":
            self._outcome.not_played = "it is played at level envelope only"
            return self._outcome
        steps = list(self._file["steps"])
        before = paired(self._file["end"]) if self._file["begin"] == "paired" else []
        try:
            for number, step in enumerate([*before, *steps], start=-len(before)):
                self._at, self._step = number, step
                self._play_step(step)
                self._outcome.steps += 1
        except ProgramError as error:
            self._outcome.is_broken = True
            self._fail([f"the program broke: {error}"], laws.ADAPTER)
        except UnplayedError as error:
            self._outcome.not_played = str(error)
        except BrokenError:
            pass
        except UnboundError as error:
            self._fail([f"the file is wrong: {error}"], Law("one file per conversation, made by a script", "README.md"))
        return self._outcome

    # -- one step

    def _play_step(self, step: dict[str, Any]) -> None:
        request = self._request(step)
        answer = self._ask(request)
        if step["do"] == "start":
            self._meet(answer)
        acts = acts_of(answer, self._complain)
        self._told.seen.update(act.kind for act in acts)
        came = self._read(acts, step)
        self._compare_order(acts, came, step)
        self._compare_refusal(acts, step)
        self._stop_if_wrong()  # a law that is broken says more than what the file would say
        self._compare_out(came, step)
        self._compare_answer(answer, step)
        self._compare_state(step)
        self._stop_if_wrong()

    def _stop_if_wrong(self) -> None:
        if any(not failure.unless_untold for failure in self._outcome.failures):
            raise BrokenError

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._end.ask(request)
        if answer.get("unknown") is True:
            kind = self._delivered[self._at].message["type"] if request["do"] == "receive" else ""
            raise UnplayedError(f"the program does not know `{request['do']}`{f' of {kind}' if kind else ''}")
        if "error" in answer:
            self._fail([f"the program answered an error: {answer['error']}"], laws.ADAPTER)
            raise BrokenError
        return answer

    def _meet(self, answer: dict[str, Any]) -> None:
        """Read what the program says of itself when it starts."""
        self._speaks = answer.get("speaks", 1)
        self._peer.hashed_by = answer.get("hash", "blake2b") if self._level == "plain" else "blake2b"
        if self._file["speaks"] > self._speaks:
            raise UnplayedError(f"it needs message version {self._file['speaks']}, the program knows {self._speaks}")

    # -- what goes in

    def _request(self, step: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in step.items() if key not in OF_A_STEP}
        peer = self._peer
        match step["do"]:
            case "start":
                return {
                    "end": self._file["end"],
                    "level": self._level,
                    "private_key": peer.device.private.hex(),
                    "public_key": peer.device.public.hex(),
                    "device_id": peer.device.device_id,
                    "name": NAMES[self._file["end"]],
                    "now": self._known.now,
                    **given,
                }
            case "pair":
                name = NAMES["companion" if self._file["end"] == "phone" else "phone"]
                keys = {"peer_key": peer.own.public.hex(), "peer_id": peer.own.device_id, "peer_name": name}
                return {**keys, **self._filled(given)}
            case "receive":
                self._delivered[self._at] = delivered = self._delivery(given)
                if not any(name in step for name in ("again", "spoil", "refused", "mailbox")):
                    self._tell_loss(delivered.message)
                return delivered.request
            case "wait":
                self._known.now += step["seconds"]
            case "keep":
                self._images[step["image"]] = copy.deepcopy(self._used), dict(self._last)
                self._known.kept[step["image"]] = dict(self._known.heard)
            case "restore":
                used, last = self._images[step["image"]]
                self._used = copy.deepcopy(used)
                self._last.clear()  # the matcher has it too
                self._last.update(last)
                self._floors.clear()
            case "scan":
                self._mailboxes.append(Mailbox.shown_by(peer, len(self._mailboxes) + 1))
                return {**given, "invitation": self._mailboxes[-1].text}
        request: dict[str, Any] = self._filled(given)
        return request

    def _tell_loss(self, message: dict[str, Any]) -> None:
        """Note from which number on an end goes on that hears that it was restored."""
        if message["type"] not in ("HELLO", "ROLLBACK"):
            return
        accepted = message["body"].get("seq_accepted", 0)
        last = max(self._used.get(message["pairing_id"], [0]))
        if accepted > last or message["type"] == "ROLLBACK":
            self._floors[message["pairing_id"]] = max(accepted, last) + JUMP

    def _filled(self, value: Any, pairing: str = "") -> Any:
        return filled(value, self._known, self._peer.value, pairing)

    def _delivery(self, step: dict[str, Any]) -> Delivered:
        if "again" in step:
            return self._delivered[step["again"]]
        if "mailbox" in step:
            return self._published(step)
        spoil = step.get("spoil", {}).get("kind", "")
        message = self._message(step["message"])
        part, text = self._peer.wrapped(message, spoil)
        if not spoil:
            handoff = str(_handoff(message))
            self._known.said(message["type"], handoff, self._peer.hash_of(text))
        return Delivered({"do": "receive", **part}, message)

    def _message(self, given: dict[str, Any]) -> dict[str, Any]:
        pairing = self._filled(given.get("pairing", "$p1"))
        return {
            "v": given.get("v", 1),
            "type": given["type"],
            "pairing_id": pairing,
            "from": self._peer.own.device_id,
            "to": self._peer.device.device_id,
            "seq": self._filled(given["seq"], pairing),
            "sent_at": self._filled(given.get("sent_at", self._known.now), pairing),
            "in_reply_to": self._filled(given.get("in_reply_to"), pairing),
            "body": self._body(given.get("body"), pairing),
            **given.get("head", {}),  # a head that breaks a rule
        }

    def _body(self, body: Any, pairing: str) -> Any:
        if isinstance(body, dict) and isinstance(body.get("sealed"), dict):
            seal = body["sealed"]
            grant, key = self._filled(seal["grant"], pairing), self._filled(seal["to"], pairing)
            body = {**body, "sealed": self._peer.sealed(grant, key, self._filled(seal.get("spoil"), pairing))}
        return self._filled(body, pairing)

    def _published(self, step: dict[str, Any]) -> Delivered:
        """What the peer puts into the mailbox of the exchange that was begun last."""
        box, kind = self._mailboxes[-1], step["mailbox"]
        pairing = self._filled(step.get("pairing", "$p1")) if kind == "PAIR2" else ""
        name = NAMES["phone" if kind == "PAIR1" else "companion"]
        spoil = step.get("spoil", {}).get("kind", "")
        part = box.made(kind, reason=step.get("reason", 1), name=name, spoil=spoil, pairing_id=pairing)
        if kind == "PAIR2" and not spoil:
            named = step.get("pairing", "$p1")
            self._known.names[step.get("transcript", f"$t{named[2:]}")] = box.transcript
        return Delivered({"do": "receive", **part}, {"type": kind, "body": None})

    # -- what came out

    def _read(self, acts: list[Act], step: dict[str, Any]) -> list[Came]:
        """Open all that was sent, and hold it to what holds always."""
        came: list[Came] = []
        for place, act in enumerate(acts):
            if act.kind == "obtain":
                came.append(Came(place, {"obtain": act.value}, None))
            if act.kind != "send":
                continue
            try:
                sent = self._opened(act.value)
            except UnreadableError as error:
                law = laws.UNREADABLE.get(error.page, laws.ADAPTER)
                self._fail([f"a message of the end cannot be read: {error}"], law)
                raise BrokenError from None
            is_new = sent.wire not in self._wires
            self._wires.add(sent.wire)
            if is_new and self._level == "envelope":
                self._hold_nonce(sent)
            if "mailbox" not in sent.message:
                self._hold(sent, is_new)
            came.append(Came(place, sent.message, sent, is_new))
        return came

    def _opened(self, send: dict[str, Any]) -> Sent:
        if self._level == "envelope" and str(send.get("topic", "")).startswith(TOPIC):
            box = next((box for box in reversed(self._mailboxes) if box.topic == send["topic"]), None)
            if box is None:
                raise UnreadableError("it went to a mailbox of no invitation", "pairing.md")
            return box.read(send)
        return self._peer.read(send)

    def _hold_nonce(self, sent: Sent) -> None:
        nonce = base64.b64decode(sent.wire)[NONCE]
        if len(nonce) < NONCE.stop - NONCE.start:  # ENDED and DECLINED have none
            return
        if nonce in self._nonces:
            self._fail([f"sent {self._shown(sent.message)}", "its nonce was used before"], laws.NONCE)
        self._nonces.add(nonce)

    def _hold_times(self, message: dict[str, Any]) -> None:
        """The clock of the end is set by `start`, and is synced."""
        sent_at, now = message["sent_at"], self._known.now
        since = now - (self._step["seconds"] if self._step["do"] == "wait" else 0)
        if sent_at and not since - SLACK_S <= sent_at <= now + SLACK_S:
            self._fail([f"sent {self._shown(message)}", f"sent_at is {sent_at}, and it is {now} now"], laws.SENT_AT)
        expires_at = message["body"].get("expires_at", 0) if message["type"] == "OFFER" else 0
        if expires_at and not since - SLACK_S <= expires_at - OFFER_S <= now + SLACK_S:
            line = f"expires_at is {expires_at}, and the OFFER is over at {now + OFFER_S}"
            self._fail([f"sent {self._shown(message)}", line], laws.EXPIRES_AT)

    def _hold(self, sent: Sent, is_new: bool) -> None:
        message = sent.message
        shown = self._shown(message)
        if faults := faults_of_message(message, sender=self._file["end"]):
            self._fail([f"sent {shown}", *faults], laws.FIELDS)
            return
        ids = {"from": self._peer.device.device_id, "to": self._peer.own.device_id}
        if wrong := [
            f"{name} is {message[name]}, not {value}" for name, value in ids.items() if message[name] != value
        ]:
            self._fail([f"sent {shown}", *wrong], laws.DEVICES)
        pairing, seq = message["pairing_id"], message["seq"]
        if pairing not in self._known.names.values():
            self._fail([f"sent {shown}", f"there is no pairing {pairing}"], laws.PAIRING)
        used = self._used.setdefault(pairing, {})
        if is_new and seq in used:
            self._fail([f"sent {shown}", f"the number {seq} was used before, for another envelope"], laws.NUMBER)
        elif is_new and used and seq < max(used) and self._known.named(_key(message)) not in self._open():
            self._fail([f"sent {shown}", f"the number {seq} is below {max(used)}, which was used before"], laws.NUMBER)
        if is_new and seq <= self._floors.get(pairing, 0):
            floor = self._floors[pairing]
            self._fail(
                [f"sent {shown}", f"the number {seq} is not above {floor}, and the disk was restored"], laws.JUMP
            )
        used[seq] = sent.wire
        if message["type"] in ("HELLO", "ROLLBACK") and is_new and message["body"]["seq_sent"] != seq:
            told = message["body"]["seq_sent"]
            self._fail([f"sent {shown}", f"seq_sent is {told}, and its own number is {seq}"], laws.SEQ_SENT)
        handoff = _handoff(message)
        if is_new and self._known.named(_key(message)) not in self._open():
            self._hold_times(message)
        if is_new:
            known = self._known
            known.said(message["type"], handoff, self._peer.hash_of(sent.text))
            known.numbers[message["type"], handoff] = known.numbers[message["type"], ""] = seq
            known.heard[pairing] = max(known.heard.get(pairing, 0), seq)

    # -- comparing

    def _compare_order(self, acts: list[Act], came: list[Came], step: dict[str, Any]) -> None:
        """A save before the first sending of each message, and before the acknowledgement of what was not refused."""
        kinds = [act.kind for act in acts]
        saved = kinds.index("save") if "save" in kinds else len(kinds)
        is_open = self._open()
        for item in came:
            key = self._known.named(_key(item.message))
            if item.sent is None or not item.is_new or "mailbox" in item.message or key in is_open:
                continue  # a request that was open before this step has been saved before
            self._told.wanted.add("save")
            if saved > item.place:
                line = f"{self._shown(item.message)} was sent before anything was saved"
                self._fail([line], laws.SAVE, unless_untold="save")
        if step["do"] != "receive":
            return
        self._told.wanted.add("ack")
        if "ack" not in kinds:
            self._fail(["the message was not acknowledged"], laws.ACK, unless_untold="ack")
        elif "refused" not in step and not any(name in step for name in NO_COMMIT) and saved > kinds.index("ack"):
            line = "the message was acknowledged before anything was saved"
            self._fail([line], laws.ACK, unless_untold="save")

    def _compare_out(self, came: list[Came], step: dict[str, Any]) -> None:
        expected = [reduced(item, self._speaks) for item in step.get("out", [])]
        self._fail_on_names(came, expected)
        matcher = Matcher(self._known, self._peer, self._last)
        lines, law = matcher.match(expected, came, greetings_pass=step["do"] == "wait" and step["seconds"] >= 3600)
        if lines:
            self._fail(lines, law or self._law)

    def _fail_on_names(self, came: list[Came], expected: list[dict[str, Any]]) -> None:
        """PAIR2 brings the pairing and the transcript that the rest of the file is about."""
        for item in came:
            if item.message.get("mailbox") == "PAIR2" and item.is_new:
                box = self._mailboxes[-1]
                wanted = next((one for one in expected if one.get("mailbox") == "PAIR2"), {})
                self._known.names[wanted.get("pairing", "$p1")] = box.pairing_id
                self._known.names[wanted.get("transcript", "$t1")] = box.transcript

    def _compare_refusal(self, acts: list[Act], step: dict[str, Any]) -> None:
        wanted = step.get("refused")
        reasons = [wanted] if isinstance(wanted, str) else list(wanted or [])
        refused = next((act for act in acts if act.kind == "refuse"), None)
        if reasons:
            self._told.wanted.add("refuse")
        if refused is None and reasons and reasons != ["duplicate"]:
            self._fail([f"the message should be refused: {' or '.join(reasons)}"], self._law, unless_untold="refuse")
        if refused is not None and refused.value not in reasons:
            if not reasons and refused.value == "duplicate" and "again" in step:
                return
            should = f"with {' or '.join(reasons)}" if reasons else "not at all"
            self._fail([f"the message was refused with {refused.value}, should be {should}"], self._law)
        if "field" in step:
            self._told.wanted.add("field")
            if refused is not None and refused.field not in (None, step["field"]):
                self._fail([f"the refusal names {refused.field}, should be {step['field']}"], self._law)
            elif refused is not None and refused.field is None:
                self._fail([f"the refusal does not name {step['field']}"], self._law, unless_untold="field")
        if refused is not None and refused.field is not None:
            self._told.seen.add("field")

    def _compare_answer(self, answer: dict[str, Any], step: dict[str, Any]) -> None:
        if step["do"] == "invite":
            try:
                box = Mailbox.read_from(self._peer, str(answer.get("invitation")), len(self._mailboxes) + 1)
            except UnreadableError as error:
                self._fail([str(error)], laws.UNREADABLE.get(error.page, laws.ADAPTER))
                raise BrokenError from None
            self._mailboxes.append(box)
        for name, value in step.get("answer", {}).items():
            if isinstance(value, str) and NAME.fullmatch(value):
                continue  # the invitation, which was read above
            if name not in answer:
                self._fail([f"the answer has no `{name}`"], self._law)
            elif found := differences(value, answer[name], self._known, name):
                self._fail(found, self._law)

    def _compare_state(self, step: dict[str, Any]) -> None:
        if "state" in step:
            self._expected_state = step["state"]
        if self._expected_state is None:
            return
        self._told.wanted.add("state")
        if "no state" in self._told.seen:
            return
        answer = self._end.ask({"do": "state"})
        if answer.get("unknown") is True or "state" not in answer:
            self._told.seen.add("no state")
            return
        self._told.seen.add("state")
        if lines := state_differences(self._expected_state, answer["state"], self._known, self._told):
            self._fail(lines, self._law)

    # -- saying it

    @property
    def _law(self) -> Law:
        return Law.of_file(self._file["about"])

    def _open(self) -> set[str]:
        """The requests that were open before this step, so their envelopes were made and saved then."""
        pairings = (self._expected_state or {}).get("pairings", {}).values()
        return {str(item) for pairing in pairings for item in pairing.get("open", [])}

    def _complain(self, line: str) -> None:
        self._fail([line], laws.ADAPTER)

    def _fail(self, lines: list[str], law: Law, *, unless_untold: str = "") -> None:
        if unless_untold in self._told.seen:
            unless_untold = ""
        elif unless_untold and any(one.unless_untold == unless_untold for one in self._outcome.failures):
            return  # the first of its kind says enough
        named = tuple(self._known.named(line) for line in lines)
        came_in = {key: value for key, value in self._step.items() if key not in OF_A_STEP}
        shown = json.dumps(came_in, ensure_ascii=False)
        shown = shown if len(shown) <= SHOWN_MAX else f"{shown[:SHOWN_MAX]}…"
        self._outcome.failures.append(Failure(self._at, shown, named, law, unless_untold))

    def _shown(self, message: dict[str, Any]) -> str:
        return self._known.named(_short(message))


def _handoff(message: dict[str, Any]) -> str:
    body = message.get("body")
    return str(body.get("handoff_id") or "") if isinstance(body, dict) else ""


def _key(message: dict[str, Any]) -> str:
    """The message as `open` of the state names a request."""
    handoff = _handoff(message)
    return f"{message.get('type')} {handoff}" if handoff else str(message.get("type"))


def _short(message: dict[str, Any]) -> str:
    if "mailbox" in message:
        return str(message["mailbox"])
    body = json.dumps(message["body"], ensure_ascii=False)
    body = body if len(body) <= SHOWN_MAX else f"{body[:SHOWN_MAX]}…"
    return f"{message['type']} (version {message['v']}, number {message['seq']}) {body}"
