"""The interpreter gives what the pages say, takes it from the table, and knows nothing of the program."""

import ast
import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conversations.interpreter import Expected, Impossible, Interpreter
from tests.conversations.table import Json, Table

HERE = Path(__file__).parent
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
        body = {"challenge": "$d1", "seq_sent": seq, "seq_accepted": "$heard", "handoffs": handoffs or [], **more}
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


def test_it_imports_nothing_of_the_program() -> None:
    for path in [HERE / "table.py", *HERE.glob("interpreter*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            foreign = [n for n in names if n.split(".")[0] not in {*sys.stdlib_module_names, "tests"}]
            assert not foreign, f"{path.name} imports {foreign}"
            assert all(n.startswith("tests.conversations.") for n in names if n.startswith("tests"))


def test_a_phone_hands_off() -> None:
    play = Play("phone")
    assert said(play.do("offer", **OFFER)) == ["OFFER"]
    accept = {"handoff_id": "$h1", "one_time_key": "$k1", "offer_hash": "#OFFER $h1"}
    assert said(play.receive("ACCEPT", accept)) == ["obtain $h1"]
    token = play.do("obtained", handoff_id="$h1", token={"refresh_token": "r1", "subject": "ada"})
    assert said(token) == ["TOKEN"]
    assert token.state["pairings"]["$p1"]["open"] == ["TOKEN $h1"]
    stored = play.receive("STORED", {"handoff_id": "$h1"})
    assert said(stored) == ["CLOSED"]
    assert handoffs(stored) == {"$h1": "DONE"}
    assert stored.state["pairings"]["$p1"]["open"] == []


def test_a_companion_takes_a_handoff() -> None:
    play = Play("companion")
    assert said(play.offer("$h1")) == ["ACCEPT"]
    stored = play.token("$h1", "$k1")
    assert said(stored) == ["STORED"]
    assert stored.state["pairings"]["$p1"]["grants"] == {"$h1": {"state": "held", "generation": 1, "may_be_used": True}}
    assert play.receive("CLOSED", {"handoff_id": "$h1"}).state["pairings"]["$p1"]["open"] == []


def test_a_repeated_request_is_answered_from_the_present_state_once_in_two_seconds() -> None:
    play = Play("companion")
    play.offer("$h1")
    assert said(play.do("receive", again=0)) == ["ACCEPT"]
    assert play.do("receive", again=0).refused == "duplicate"
    play.do("wait", seconds=3)
    play.receive("CANCEL", {"handoff_id": "$h1"})
    assert said(play.do("receive", again=0)) == ["CANCELLED"]


def test_a_request_is_sent_again_as_the_same_bytes() -> None:
    play = Play("phone")
    play.do("offer", **OFFER)
    assert play.do("wait", seconds=1).out == []
    (again,) = play.do("wait", seconds=60).out
    assert again["again"] == "OFFER $h1"
    low, high = again["times"]
    assert 3 <= low <= high <= 6
    assert "again OFFER $h1" in said(play.hello())
    play.do("restart")
    assert said(play.do("connect")) == ["HELLO", "again OFFER $h1"]


def test_a_changed_cell_changes_the_expectation() -> None:
    content = copy.deepcopy(Table().content)
    row = next(
        r for r in content["companion"]["rows"] if r["states"] == ["NONE", "READY"] and r["events"] == ["cancel"]
    )
    row["next"], row["effects"] = "DEAD(lost)", ["SEND_LOST"]
    right, changed = Play("companion"), Play("companion", Table(content))
    assert said(right.receive("CANCEL", {"handoff_id": "$h1"})) == ["CANCELLED"]
    other = changed.receive("CANCEL", {"handoff_id": "$h1"})
    assert said(other)[0].startswith("LOST")
    assert handoffs(other) == {"$h1": "DEAD(lost)"}


def test_an_own_event_that_makes_no_sense_is_impossible_and_changes_nothing() -> None:
    play = Play("phone")
    with pytest.raises(Impossible):
        play.do("cancel")
    with pytest.raises(Impossible):
        play.do("erase")
    assert play.do("state").state["pairings"]["$p1"]["handoffs"] == {}
