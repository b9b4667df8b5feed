"""Conversations in short words, for tests of the interpreter: what the peer says, and what came of it."""

from typing import Any

from tests.conversations.interpreter import Expected, Interpreter
from tests.conversations.table import Json, Table

OFFER: Json = {
    "strategy": "branch",
    "issuer": "https://login.example",
    "client_id": "app",
    "scope": "openid mail",
    "account": "ada@example.com",
    "lease_days": 7,
}
GRANT: Json = {
    "v": 1,
    "pairing_id": "$p1",
    "phone_key": "$phone_key",
    "companion_key": "$companion_key",
    "refresh_token": "r1",
    "issuer": "https://login.example",
    "client_id": "app",
    "token_endpoint": "https://login.example/token",
    "revocation_endpoint": None,
    "scope": "openid mail",
    "audience": "",
    "subject": "ada",
    "account": "",
    "profile": "strict",
    "signed_in_at": 0,
    "is_otp": False,
}


class Play:
    """A conversation in short words."""

    def __init__(self, end: str, table: Table | None = None) -> None:
        self.interpreter = Interpreter(end, table)
        self.interpreter.begin("paired")

    def do(self, op: str, **rest: Any) -> Expected:
        return self.interpreter.step({"do": op, **rest})

    def receive(self, kind: str, body: Json, **head: Any) -> Expected:
        return self.do("receive", message={"type": kind, "body": body, **head})

    def offer(self, handoff: str, **more: Any) -> Expected:
        body = {"handoff_id": handoff, **OFFER, "expires_at": "+86400", "renews": None, **more}
        return self.receive("OFFER", body)

    def token(self, handoff: str, key: str, spoil: Any = None, **more: Any) -> Expected:
        bound = {"one_time_key": key, "offer_hash": f"#OFFER {handoff}", "accept_hash": f"#ACCEPT {handoff}"}
        sealed: Json = {"to": key, "grant": {**GRANT, "handoff_id": handoff, **bound, **more}}
        if spoil is not None:
            sealed["spoil"] = spoil
        return self.receive("TOKEN", {"handoff_id": handoff, "sealed": sealed})

    def hello(self, handoffs: list[Json] | None = None, **more: Any) -> Expected:
        reply = more.pop("in_reply_to", None)
        seq = more.pop("seq", self.interpreter.numbers["$p1"] + 1)
        body = {"challenge": "*", "seq_sent": seq, "seq_accepted": "$heard", "handoffs": handoffs or [], **more}
        v = 3 if "name" in body else 2 if "speaks" in body else 1
        return self.receive("HELLO", body, v=v, in_reply_to=reply, seq=seq)

    def handed_off(self, handoff: str = "$h1", key: str = "$k1", **more: Any) -> Expected:
        """A whole handoff, as seen from either end."""
        if self.interpreter.model.end == "phone":
            self.do("offer", **OFFER, **more)
            accept = {"handoff_id": handoff, "one_time_key": key, "offer_hash": f"#OFFER {handoff}"}
            self.receive("ACCEPT", accept)
            self.do("obtained", handoff_id=handoff, token={"refresh_token": "r1", "subject": handoff})
            return self.receive("STORED", {"handoff_id": handoff})
        self.offer(handoff, **more)
        self.token(handoff, key, subject=handoff)
        return self.receive("CLOSED", {"handoff_id": handoff})


def said(expected: Expected) -> list[str]:
    """What was sent, in short."""
    return [
        f"again {item['again']}"
        if "again" in item
        else f"obtain {item['obtain']}"
        if "obtain" in item
        else item["type"] + (" " + item["body"]["reason"] if "reason" in item["body"] else "")
        for item in expected.out
    ]


def handoffs(expected: Expected) -> Json:
    found: Json = expected.state["pairings"]["$p1"]["handoffs"]
    return found
