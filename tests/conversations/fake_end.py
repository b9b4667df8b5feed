"""A small end for the tests of the runner: right by default, and with one planted mistake wrong in one known way.

It knows just enough of both ends for the files in ``fixtures``. What it is told to forget, in ``untold``, it leaves out
of its answers, as a program may. ``python -m tests.conversations.fake_end [MISTAKE]`` is the same as a program.
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

from tests.conversations.peer import Peer

MISTAKES = (
    "new number for a resend",
    "sends before it saves",
    "acknowledges before it saves",
    "does not acknowledge",
    "wrong body",
    "no answer",
    "an answer too many",
    "wrong state",
    "open request forgotten",
    "number used again",
    "numbers fall",
    "wrong seq_sent",
    "a field too many",
    "wrong pairing",
    "wrong sender",
    "wrong grant",
    "wrong reason",
    "does not refuse",
    "refuses what is good",
    "same bytes for a new answer",
    "old id again",
    "error",
    "no json",
    "wrong topic",
    "wrong box",
    "wrong padding",
    "nonce again",
    "milliseconds",
    "wrong end of the OFFER",
)
Json = dict[str, Any]


class FakeEnd:
    """Both ends of a handoff, as far as the fixtures go."""

    def __init__(self, mistake: str = "", *, untold: tuple[str, ...] = (), speaks: int = 2) -> None:
        assert mistake in ("", *MISTAKES), mistake
        self._mistake = mistake
        self._untold = untold
        self._speaks = speaks

    def ask(self, request: Json) -> Json:
        """Answer one request of adapter.md."""
        do = request["do"]
        if do == "start":
            return self._start(request)
        if do == "state" and "state" not in self._untold:
            return {"state": self._state()}
        if do in self._untold or not hasattr(self, f"_do_{do}"):
            return {"unknown": True}
        if self._mistake == "error" and do == "receive":
            return {"error": "out of order"}
        self._did: list[Json] = []
        getattr(self, f"_do_{do}")(request)
        did = [item for item in self._did if not set(item) & set(self._untold)]
        return {"did": did}

    def _start(self, request: Json) -> Json:
        self._end = request["end"]
        # The crypto of the runner's peer, from the other side: its own device is this one.
        self._crypto = Peer("companion" if self._end == "phone" else "phone", request["level"], "fake end")
        self._id = request["device_id"]
        self._seq, self._high = 0, 0
        self._pairing: Json = {}
        self._handoffs: dict[str, str] = {}
        self._offers: dict[str, Json] = {}
        self._open: dict[str, Json] = {}  # as `open` of the state: what is sent
        self._seen: dict[str, Json] = {}
        self._generation: dict[str, int] = {}
        self._hashes: dict[str, str] = {}
        self._last: Json = {}
        return {"did": [], "speaks": self._speaks}

    # -- what happens

    def _do_connect(self, _: Json) -> None:
        if self._pairing.get("state") == "active":
            self._hello(None)
        for key, send in list(self._open.items()):
            if self._mistake == "new number for a resend":
                message = self._crypto_read(send)
                self._open[key] = self._post(message["type"], message["body"])
            else:
                self._did.append({"send": send})

    def _do_restart(self, _: Json) -> None:
        pass

    def _do_pair(self, request: Json) -> None:
        self._pairing = {"state": "pending", "id": request["pairing_id"], "peer": request["peer_id"]}
        if self._end == "phone":
            self._request("PAIR3", "PAIR3", {"transcript_hash": request["transcript"]})
        else:
            self._save()

    def _do_offer(self, request: Json) -> None:
        handoff = f"{len(self._offers) + 1:032x}"
        if self._mistake == "old id again":
            handoff = self._pairing["id"]
        body = {key: value for key, value in request.items() if key != "do"}
        body = {"handoff_id": handoff, **body, "expires_at": 24 * ("wrong end" in self._mistake), "renews": None}
        if self._mistake == "wrong body":
            body["lease_days"] += 1
        if self._mistake == "a field too many":
            body["provider"] = "entra"
        self._handoffs[handoff], self._offers[handoff] = "OFFERED", body
        self._request("OFFER", f"OFFER {handoff}", body)

    def _do_obtained(self, request: Json) -> None:
        handoff = request["handoff_id"]
        offer = self._offers[handoff]
        grant = {
            **{name: offer[name] for name in ("handoff_id", "issuer", "client_id")},
            **request["token"],
            "v": 1,
            "pairing_id": self._pairing["id"],
            "phone_key": self._crypto.own.public.hex(),
            "companion_key": self._crypto.device.public.hex(),
            "one_time_key": self._hashes["key"],
            "offer_hash": self._hashes["offer"],
            "accept_hash": self._hashes["accept"],
        }
        if self._mistake == "wrong grant":
            grant["accept_hash"] = grant["offer_hash"]
        self._handoffs[handoff] = "RELEASED"
        sealed = self._crypto.sealed(grant, self._hashes["key"])
        self._request("TOKEN", f"TOKEN {handoff}", {"handoff_id": handoff, "sealed": sealed})

    def _do_receive(self, request: Json) -> None:
        wire = json.dumps(request)
        message = self._crypto_read(request)
        if wire in self._seen:
            return self._repeated(message)
        kind, body = message["type"], message["body"]
        if kind == "STORED" and self._end == "companion" and self._mistake != "does not refuse":
            reason = "bad_field" if self._mistake == "wrong reason" else "wrong_direction"
            self._did += [{"refuse": reason}, {"ack": True}]
            return None
        self._seen[wire] = message
        self._high = max(self._high, message["seq"])
        if self._mistake == "acknowledges before it saves":
            self._did += [{"ack": True}]
            self._save()
        else:
            self._save()
            if self._mistake != "does not acknowledge":
                self._did += [{"ack": True}]
        if self._mistake == "refuses what is good" and kind == "OFFER":
            self._did += [{"refuse": "expired"}]
        handoff = body.get("handoff_id")
        match kind:
            case "PAIR4" | "PAIR3":
                self._pairing["state"] = "active"
                self._open.clear()
                self._hello(None) if kind == "PAIR4" else self._post("PAIR4", body, message["seq"])
            case "ACCEPT":
                self._handoffs[handoff] = "ACCEPTED"
                self._open.pop(f"OFFER {handoff}")
                text = self._text
                self._hashes |= {"key": body["one_time_key"], "offer": body["offer_hash"]}
                self._hashes["accept"] = self._crypto.hash_of(text)
                self._did += [{"obtain": handoff}]
            case "OFFER":
                self._handoffs[handoff], self._offers[handoff] = "READY", body
                self._hashes["offer"] = self._crypto.hash_of(self._text)
                self._accept(message)
            case "TOKEN":
                self._handoffs[handoff], self._generation[handoff] = "STORED", 1
                self._request("STORED", f"STORED {handoff}", {"handoff_id": handoff})
            case "STORED":
                self._handoffs[handoff] = "DONE"
                self._open.pop(f"TOKEN {handoff}", None)
                if self._mistake != "no answer":
                    self._last = self._post("CLOSED", {"handoff_id": handoff}, message["seq"])
                if self._mistake == "an answer too many":
                    self._post("CLOSED", {"handoff_id": handoff}, message["seq"])
            case "CLOSED":
                self._open.pop(f"STORED {handoff}", None)
        return None

    def _repeated(self, message: Json) -> None:
        self._did += [{"ack": True}]
        handoff = message["body"].get("handoff_id")
        if message["type"] == "STORED" and self._mistake == "same bytes for a new answer":
            self._did += [{"send": self._last}]
        elif message["type"] == "STORED":
            self._save()
            self._post("CLOSED", {"handoff_id": handoff}, message["seq"])
        elif message["type"] == "TOKEN":
            self._did += [{"send": self._open[f"STORED {handoff}"]}]

    def _accept(self, message: Json) -> None:
        body = {
            "handoff_id": message["body"]["handoff_id"],
            "one_time_key": "ab" * 32,
            "offer_hash": self._hashes["offer"],
        }
        self._post("ACCEPT", body, message["seq"])

    # -- what goes out

    def _save(self) -> None:
        if self._mistake != "sends before it saves":
            self._did += [{"save": True}]

    def _hello(self, reply: int | None) -> None:
        live = {"OFFERED", "ACCEPTED", "RELEASED", "DONE", "READY", "STORED"}
        said = {"ACCEPTED": "offered", "STORED": "held"}
        listed = [
            {"handoff_id": id_, "state": said.get(state, state.lower()), "generation": int(state in ("STORED", "DONE"))}
            for id_, state in self._handoffs.items()
            if state in live
        ]
        seq = self._seq + (2 if self._mistake == "wrong seq_sent" else 1)
        body = {"challenge": f"{self._seq + 1:032x}", "seq_sent": seq, "seq_accepted": self._high, "handoffs": listed}
        body |= {"speaks": self._speaks, "strategies": ["mint"]} if self._speaks > 1 else {}
        self._did += [{"save": True}]
        self._post("HELLO", body, reply, v=min(self._speaks, 2))

    def _request(self, kind: str, key: str, body: Json) -> None:
        self._save()
        self._open[key] = self._post(kind, body)
        if self._mistake == "sends before it saves":
            self._did += [{"save": True}]

    def _post(self, kind: str, body: Json, reply: int | None = None, *, v: int = 1) -> Json:
        self._seq += 1
        seq = self._seq
        if kind == "TOKEN" and self._mistake == "number used again":
            seq -= 1
        if kind == "PAIR3" and self._mistake == "numbers fall":
            seq = 1000
        message = {
            "v": v,
            "type": kind,
            "pairing_id": "0" * 32 if self._mistake == "wrong pairing" else self._pairing["id"],
            "from": "a" * 26 if self._mistake == "wrong sender" else self._id,
            "to": self._pairing["peer"],
            "seq": seq,
            "sent_at": 1_767_225_600_000 if self._mistake == "milliseconds" else 0,
            "in_reply_to": reply,
            "body": body,
        }
        spoil = {"no json": "json", "wrong topic": "topic", "wrong box": "box", "wrong padding": "padding"}
        if self._mistake == "nonce again":
            self._crypto._made = 0
        send, _ = self._crypto.wrapped(message, spoil.get(self._mistake, ""))
        self._did += [{"send": send}]
        return send

    def _crypto_read(self, request: Json) -> Json:
        sent = self._crypto.read(request)
        self._text = sent.text
        return sent.message

    def _state(self) -> Json:
        handoffs = copy.deepcopy(self._handoffs)
        if self._mistake == "wrong state":
            handoffs = {name: "DONE" for name in handoffs}
        state: Json = {
            "state": self._pairing["state"],
            "handoffs": handoffs,
            "open": [] if self._mistake == "open request forgotten" else list(self._open),
        }
        if self._end == "companion":
            state["grants"] = {id_: {"state": "held", "generation": number} for id_, number in self._generation.items()}
        return {"pairings": {self._pairing["id"]: state}}


def main(mistake: str = "") -> None:
    """Answer standard input line by line."""
    end = FakeEnd(mistake)
    for line in sys.stdin:
        print(json.dumps(end.ask(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
