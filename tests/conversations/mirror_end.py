"""An end that does exactly what a file says: it reads the expectations and makes real messages of them.

With it the files and the runner are held to each other: each file can be passed, and nothing that it expects can be
left out unseen. It has the crypto of the runner's peer, seen from the other side, and draws what it makes from labels.
"""

from __future__ import annotations

from typing import Any

from tests.conversations.fits import fields_of, protocol
from tests.conversations.mailboxes import TOPIC, Mailbox
from tests.conversations.peer import Peer
from tests.conversations.runner import JUMP, paired
from tests.conversations.values import Known, differences, filled
from tests.vectors.vector_kit import SENT_AT, derive

Json = dict[str, Any]
FREE = {
    "hex16": "1" * 32,
    "hex32": "2" * 64,
    "slug": "a",
    "name": "a name",
    "boolean": True,
    "URL": "https://a.example",
}
SPEAKS = 255


class MirrorEnd:
    """One end for one file. ``leave_out`` is the number, over all steps, of an expected item that is not done."""

    def __init__(self, file: Json, *, leave_out: int = -1) -> None:
        self._file = file
        self._end = file["end"]
        self._before = paired(self._end) if file["begin"] == "paired" else []
        self._steps = [*self._before, *file["steps"]]
        self._at = -1
        self._known = Known(SENT_AT)
        self._seq: dict[str, int] = {}
        self._images: dict[str, dict[str, int]] = {}
        self._last: dict[tuple[str, str], list[Json]] = {}
        self._state: Json | None = None
        self._boxes: list[Mailbox] = []
        self._refused_pair1 = b""
        self._left_out = leave_out
        self.order: list[Json] = []  # the expected items as they were done

    def ask(self, request: Json) -> Json:
        """Answer as the next step says."""
        if request["do"] == "state":
            return {"state": self._resolved(self._state)}
        self._at += 1
        step = self._steps[self._at]
        if request["do"] == "start":
            self._crypto = Peer("companion" if self._end == "phone" else "phone", request["level"], "the mirror")
            self._device, self._peer = request["device_id"], self._crypto.device.device_id
        self._known.now += step.get("seconds", 0) if request["do"] == "wait" else 0
        self._learn(step, request)
        did: list[Json] = [{"save": True}]
        if "refused" in step:
            reasons = step["refused"]
            named = {"field": step["field"]} if "field" in step else {}
            did.append({"refuse": reasons if isinstance(reasons, str) else reasons[0], **named})
        did += [{"ack": True}] if request["do"] == "receive" else []
        for item in sorted(step.get("out", []), key=lambda item: "again" in item):
            sent_before = dict(self._last)
            made = self._made(item)
            if len(self.order) == self._left_out:
                made, self._last = [], sent_before  # so it cannot be sent again either
            did += made
            self.order.append(item)
        self._state = step.get("state", self._state)
        answer = {**step.get("answer", {}), "did": did, "speaks": SPEAKS}
        if request["do"] == "invite":
            self._boxes.append(Mailbox.shown_by(self._crypto, len(self._boxes) + 1))
            answer["invitation"] = self._boxes[-1].text
        return answer

    # -- what comes in

    def _learn(self, step: Json, request: Json) -> None:
        """Take the values of the names that an input brings."""
        match request["do"]:
            case "pair":
                self._known.names |= {
                    step["pairing_id"]: request["pairing_id"],
                    step["transcript"]: request["transcript"],
                }
            case "keep":
                self._images[step["image"]] = dict(self._seq)
            case "restore":
                self._seq = dict(self._images[step["image"]])
            case "scan":
                self._boxes.append(Mailbox.read_from(self._crypto, request["invitation"], len(self._boxes) + 1))
            case "receive" if request.get("topic", "").startswith(TOPIC):
                brought = self._file["steps"][step["again"]] if "again" in step else step
                if "mailbox" in brought:
                    self._learn_mailbox({**brought, **step}, request)
            case "receive" if "message" in step and "spoil" not in step:
                given = step["message"]
                sent = self._crypto.read(request)
                body, real = given.get("body"), sent.message.get("body")
                if "pairing" in given:
                    self._known.names.setdefault(given["pairing"], sent.message["pairing_id"])
                if isinstance(body, dict) and isinstance(real, dict):
                    for name, value in body.items():
                        if isinstance(value, str) and value.startswith("$") and value not in self._known.names:
                            if not value.startswith("$heard"):
                                self._known.names[value] = real[name]
                        elif isinstance(value, list):
                            differences(value, real[name], self._known)
                if sent.message["type"] in ("HELLO", "ROLLBACK") and "refused" not in step:
                    self._jump(sent.message)
                handoff = str(real.get("handoff_id") or "") if isinstance(real, dict) else ""
                self._known.said(sent.message["type"], handoff, self._crypto.hash_of(sent.text))

    def _jump(self, message: Json) -> None:
        """Go on above all that the peer may have seen, where it says that this disk was restored."""
        pairing, accepted = message["pairing_id"], message["body"]["seq_accepted"]
        last = self._seq.get(pairing, 0)
        if accepted > last or message["type"] == "ROLLBACK":
            self._seq[pairing] = max(last, accepted) + JUMP

    def _learn_mailbox(self, step: Json, request: Json) -> None:
        if "spoil" in step or step["mailbox"] not in ("PAIR1", "PAIR2"):
            return
        box = next((box for box in self._boxes if box.topic == request["topic"]), None)
        if box is None:
            return
        before = box.pair1
        box.read(request)
        if "refused" in step:
            self._refused_pair1, box.pair1 = box.pair1, before  # ENDED is about this one
            return
        if step["mailbox"] == "PAIR2":
            self._known.names |= {
                step.get("pairing", "$p1"): box.pairing_id,
                step.get("transcript", f"$t{step.get('pairing', '$p1')[2:]}"): box.transcript,
            }

    # -- what goes out

    def _made(self, item: Json) -> list[Json]:
        if "obtain" in item:
            return [{"obtain": self._resolved(item["obtain"])}]
        if "again" in item:
            kind, _, handoff = item["again"].partition(" ")
            where = self._names(item.get("pairing", "$p1")) if kind not in ("PAIR1", "PAIR2") else ""
            times: int = item.get("times", [1, 1])[0]
            return self._last.get((where, f"{kind} {self._names(handoff)}".strip()), []) * max(1, times)
        if "mailbox" in item:
            send = self._published(item)
            self._last["", item["mailbox"]] = [{"send": send}]
            return [{"send": send}]
        pairing = self._names(item.get("pairing", "$p1"))
        seq = self._seq[pairing] = self._seq.get(pairing, 0) + 1
        body = self._body(item["type"], item.get("v", 1), item["body"], seq)
        message = {
            "v": item.get("v", 1),
            "type": item["type"],
            "pairing_id": pairing,
            "from": self._device,
            "to": self._peer,
            "seq": seq,
            "sent_at": 0,
            "in_reply_to": self._resolved(item.get("in_reply_to")),
            "body": body,
        }
        part, text = self._crypto.wrapped(message)
        handoff = str(body.get("handoff_id") or "")
        self._known.said(item["type"], handoff, self._crypto.hash_of(text))
        self._known.numbers[item["type"], handoff] = seq
        self._last[pairing, f"{item['type']} {handoff}".strip()] = [{"send": part}]
        return [{"send": part}]

    def _body(self, kind: str, version: int, body: Json, seq: int) -> Json:
        row = protocol()["messages"][kind]
        fields = {field["name"]: field for field in fields_of(row["versions"], version)}
        made = {name: self._free(value, fields.get(name, {}), seq) for name, value in body.items()}
        if isinstance(made.get("sealed"), dict):
            grant = self._grant(made["sealed"]["grant"])
            made["sealed"] = self._crypto.sealed(grant, grant["one_time_key"])
        if "speaks" in made:
            made["speaks"] = SPEAKS
        filled_in: Json = self._resolved(made)
        return filled_in

    def _grant(self, grant: Json) -> Json:
        table = protocol()["grant"]
        fields = {field["name"]: field for field in fields_of(table["versions"], grant["v"])}
        if grant.get("behaviour") == "*":
            grant = {**grant, "behaviour": {field["name"]: self._least(field) for field in table["behaviour"]}}
        made: Json = self._resolved({name: self._free(value, fields.get(name, {}), 0) for name, value in grant.items()})
        return made

    def _free(self, value: Any, field: Json, seq: int) -> Any:
        if value == "=seq":
            return seq
        if value == "*":
            return self._least(field)
        if isinstance(value, list):
            return [self._free(item, {"type": "hex16"}, seq) for item in value]
        if isinstance(value, dict):
            return {name: item if item != "*" else 0 for name, item in value.items()}
        return value

    def _least(self, field: Json) -> Any:
        """Any value of a field."""
        if field.get("null"):
            return None
        if "one_of" in field:
            return field["one_of"][0]
        if "array_of" in field:
            return []
        return FREE.get(field["type"], field.get("min", 0) if field["type"] in ("integer", "sequence") else "a")

    def _published(self, item: Json) -> Json:
        box = self._boxes[-1]
        kind = item["mailbox"]
        if kind == "PAIR2":
            self._known.names[item.get("pairing", "$p1")] = derive(f"pairing {len(self._boxes)}", 16).hex()
        pairing = self._names(item.get("pairing", "$p1"))
        name = "a name" if item.get("name", "*") == "*" else item["name"]
        before = box.pair1
        if kind == "ENDED":
            box.pair1 = self._refused_pair1
        send = box.made(kind, reason=item.get("reason", 1), name=name, pairing_id=pairing)
        box.pair1 = before
        if kind == "PAIR2":
            self._known.names[item.get("transcript", "$t1")] = box.transcript
        assert send["topic"].startswith(TOPIC)
        return send

    # -- names

    def _names(self, name: str) -> str:
        return str(self._resolved(name)) if name.startswith("$") else name

    def _resolved(self, value: Any) -> Any:
        return filled(value, self._known, self._fresh)

    def _fresh(self, name: str) -> str:
        """What the end makes by itself."""
        if name[1] == "k":
            return self._crypto.value(name)
        size = 32 if name[1] == "t" else 16
        return derive(f"the mirror's {self._file['name']} {name}", size).hex()
