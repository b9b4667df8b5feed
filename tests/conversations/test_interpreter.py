"""The interpreter gives what the pages say, takes it from the table, and knows nothing of the program."""

import ast
import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conversations.interpreter import Impossible, Interpreter
from tests.conversations.interpreter_play import OFFER, Play, handoffs, said
from tests.conversations.table import Json, Table

HERE = Path(__file__).parent


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


# --- RENEW and LEASE ------------------------------------------------------------------------------------------


def renew(play: Play, **more: Any) -> list[str]:
    return said(play.receive("RENEW", {"handoff_id": "$h1", "reason": "uncertain", "generation": 2, **more}))


def test_renew_is_answered_by_the_rules_of_the_table() -> None:
    play = Play("phone")
    assert renew(play) == ["REJECT gone"]
    play.handed_off()
    assert renew(play, reason="person") == ["REJECT person_needed"]
    play.do("allow", is_open=False)
    assert renew(play) == ["REJECT person_needed"]
    play.do("allow", is_open=True)
    offered = play.receive("RENEW", {"handoff_id": "$h1", "reason": "uncertain", "generation": 2})
    assert said(offered) == ["OFFER"]
    assert offered.out[0]["body"]["renews"] == "$h1"
    assert renew(play) == ["again OFFER $h2"]
    play.do("cancel")
    assert renew(play) == ["again CANCEL $h2"]
    play.receive("CANCELLED", {"handoff_id": "$h2"})
    assert renew(play) == ["REJECT later"]
    play.do("wait", seconds=700)
    assert renew(play) == ["OFFER"]
    play.do("revoke")
    assert renew(play) == ["again REVOKE $h3"]
    play.receive("REVOKED", {"handoff_id": "$h3", "provider": "unknown", "access_token_ends_at": 0})
    assert renew(play) == ["REJECT gone"]


def test_a_changed_rule_of_renew_changes_the_answer() -> None:
    content = copy.deepcopy(Table().content)
    content["renewal"]["rules"][4]["answer"] = ["REJECT", "later"]
    play = Play("phone", Table(content))
    play.handed_off()
    assert renew(play, reason="person") == ["REJECT later"]


def test_lease_is_given_by_the_conditions_of_the_table() -> None:
    play = Play("phone")
    assert said(play.hello()) == ["HELLO"]
    play.handed_off()
    greeted = play.hello()
    assert said(greeted) == ["HELLO", "LEASE"]
    assert greeted.out[1]["body"]["handoffs"] == [{"handoff_id": "$h1", "lease_days": 7}]
    assert said(play.hello(in_reply_to="@HELLO")) == []
    play.do("revoke")
    assert "LEASE" not in said(play.hello())
    content = copy.deepcopy(Table().content)
    content["lease"]["given"]["when"] = [[["done", ">=", 2]]]
    other = Play("phone", Table(content))
    other.handed_off()
    assert said(other.hello()) == ["HELLO"]


def test_lease_counts_from_its_challenge_and_uses_it_up() -> None:
    play = Play("companion")
    play.handed_off(lease_days=1)
    play.do("restart")
    play.do("connect")
    play.do("wait", seconds=50_000)
    play.do("restart")
    (hello,) = play.do("connect").out
    challenge = hello["body"]["challenge"]
    play.do("wait", seconds=3000)
    lease = {"challenge": challenge, "handoffs": [{"handoff_id": "$h1", "lease_days": 1}]}
    play.receive("LEASE", lease)
    assert play.receive("LEASE", lease).refused == "stale_challenge"
    grant = play.do("wait", seconds=83_000).state["pairings"]["$p1"]["grants"]["$h1"]
    assert grant["may_be_used"]
    grant = play.do("wait", seconds=600).state["pairings"]["$p1"]["grants"]["$h1"]
    assert not grant["may_be_used"]


def test_a_companion_asks_for_renewal_until_it_is_served() -> None:
    play = Play("companion")
    play.handed_off()
    asked = play.do("refresh", handoff_id="$h1", becomes="uncertain")
    assert said(asked) == ["RENEW uncertain"]
    play.receive("REJECT", {"handoff_id": None, "reason": "later"}, in_reply_to="@RENEW $h1")
    assert "RENEW uncertain" in said(play.hello())
    taken = play.offer("$h2", renews="$h1")
    assert taken.state["pairings"]["$p1"]["open"] == []
    assert said(play.receive("CANCEL", {"handoff_id": "$h2"})) == ["CANCELLED", "RENEW uncertain"]
    play.offer("$h3", renews="$h1")
    assert handoffs(play.token("$h3", "$k3", subject="other")) == {
        "$h1": "DEAD(ended) stored",
        "$h2": "DEAD(cancelled)",
        "$h3": "STORED",
    }


# --- what the peer knows ----------------------------------------------------------------------------------------


def test_versions_follow_what_the_peer_has_said() -> None:
    play = Play("companion")
    assert play.hello().out[0]["v"] == 1
    new: Json = {"speaks": 3, "strategies": ["branch"], "name": "phone"}
    answer = play.hello(**new).out[0]
    assert (answer["v"], answer["body"]["name"]) == (3, "kitchen")
    accept = play.offer("$h1").out[0]
    assert (accept["v"], accept["body"]["grant_version"]) == (2, 2)
    play.do("restart")
    assert play.do("connect").out[0]["v"] == 3
    unsupported = {"handoff_id": None, "reason": "unsupported"}
    assert [item["v"] for item in play.receive("REJECT", unsupported, in_reply_to="@HELLO").out] == [2]
    assert [item["v"] for item in play.receive("REJECT", unsupported, in_reply_to="@HELLO").out] == [1]
    assert play.receive("REJECT", unsupported, in_reply_to="@HELLO").out == []


def test_lost_says_why_to_a_peer_that_knows_it() -> None:
    if not Table().knows("LOST", 4):
        content = copy.deepcopy(Table().content)
        content["speaks"] = 4
        fields = [{"name": "reason", "type": "slug"}, {"name": "field", "type": "text"}]
        content["messages"]["LOST"]["versions"].append({"v": 4, "fields": fields})
        table = Table(content)
    else:
        table = Table()
    play = Play("companion", table)
    play.offer("$h1")
    play.hello([{"handoff_id": "$h1", "state": "offered", "generation": 0}], speaks=4, strategies=[], name="phone")
    lost = play.token("$h1", "$k1", spoil={"issuer": "https://other.example"}).out[0]
    assert lost["body"] == {"handoff_id": "$h1", "reason": "grant_mismatch", "field": "issuer"}
    assert play.token("$h9", "$k9").out[0]["body"]["reason"] == "no_handoff"
    play.do("restart")
    play.do("connect")
    assert play.token("$h1", "$k1").out[0]["body"]["reason"] == "grant_mismatch"


# --- numbers, the window, the allowances ------------------------------------------------------------------------


def test_the_window_and_its_reasons() -> None:
    play = Play("companion")
    play.offer("$h1")
    assert play.receive("OFFER", {"handoff_id": "$h1", **OFFER, "expires_at": 0, "renews": None}).refused == (
        "offer_changed"
    )
    conflict = play.receive("CANCEL", {"handoff_id": "$h1"}, seq=2)
    assert (conflict.refused, said(conflict)) == ("conflict", ["ROLLBACK"])
    play.receive("CANCEL", {"handoff_id": "$h1"}, seq=2000)
    old = play.receive("CANCEL", {"handoff_id": "$h5"}, seq=900)
    assert (old.refused, said(old)) == ("too_old", ["HELLO"])
    again = play.receive("CANCEL", {"handoff_id": "$h5"}, seq=901)
    assert (again.refused, said(again)) == ("too_old", [])
    assert play.receive("CANCEL", {"handoff_id": "$h5"}, seq=980).refused is None


def test_what_is_not_known_is_rejected_and_its_number_is_taken() -> None:
    play = Play("phone")
    new = play.receive("NEWS", {"anything": 1}, v=9)
    assert (new.refused, said(new)) == ("unsupported", ["REJECT unsupported"])
    assert play.do("receive", again=0).refused == "duplicate"
    assert play.receive("OFFER", {"handoff_id": "$h1", **OFFER, "expires_at": 0, "renews": None}).refused == (
        "wrong_direction"
    )
    wrong = play.receive("STORED", {"handoff_id": "nothing"})
    assert (wrong.refused, wrong.field) == ("bad_field", "handoff_id")
    assert play.receive("STORED", {"handoff_id": "$h1"}, pairing="$p9").refused == "wrong_pairing"


def test_too_often_is_dropped_without_a_trace_and_comes_again() -> None:
    play = Play("phone")
    most = Table().limit("others_at_once")
    for n in range(most - 1):  # PAIR4 took one; it answered an open request
        assert play.receive("LOST", {"handoff_id": f"$h{n + 10}"}).refused is None
    play.receive("LOST", {"handoff_id": "$h7"})
    assert play.hello().refused == "too_often"
    assert said(play.do("wait", seconds=2)) == ["HELLO"]
    assert play.receive("LOST", {"handoff_id": "$h7"}).refused == "too_often"
    assert play.do("wait", seconds=30).refused is None
    assert play.receive("LOST", {"handoff_id": "$h7"}).refused is None


def test_the_outbox_and_the_tombstones_have_an_end() -> None:
    content = copy.deepcopy(Table().content)
    content["limits"]["open_requests"] = 2
    content["limits"]["handoffs_remembered"] = 3
    play = Play("phone", Table(content))
    for n in (1, 2):
        assert said(play.receive("STORED", {"handoff_id": f"$h{n}"})) == ["CLOSED", "REVOKE"]
    full = play.receive("STORED", {"handoff_id": "$h3"})
    assert (full.refused, full.out, list(handoffs(full))) == ("outbox_full", [], ["$h1", "$h2"])
    other = Play("companion", Table(content))
    for n in (1, 2, 3):
        other.receive("CANCEL", {"handoff_id": f"$h{n}"})
    assert other.receive("REVOKE", {"handoff_id": "$h4"}).refused == "too_many_handoffs"
    assert other.token("$h4", "$k1").refused == "too_many_handoffs"


# --- restored disks -----------------------------------------------------------------------------------------------


def test_a_companion_that_was_restored_locks_and_forgets() -> None:
    play = Play("companion")
    play.handed_off()
    play.offer("$h2")
    play.do("keep", image="old")
    for n in range(5, 8):
        play.receive("CANCEL", {"handoff_id": f"$h{n}"})
    play.do("restore", image="old")
    play.do("connect")
    told = play.hello([{"handoff_id": "$h2", "state": "offered", "generation": 0}])
    assert sorted(said(told)) == ["HELLO", "HELLO"]
    assert handoffs(told) == {"$h1": "STORED", "$h2": "DEAD(replaced)"}
    assert told.state["pairings"]["$p1"]["grants"]["$h1"] == {
        "state": "locked",
        "generation": 1,
        "may_be_used": False,
    }
    assert play.do("ask", handoff_id="$h1").answer == {"token": False}


def test_a_phone_that_was_restored_makes_its_requests_anew() -> None:
    play = Play("phone")
    play.handed_off()
    play.do("offer", **OFFER)
    play.do("keep", image="old")
    told = play.receive("ROLLBACK", {"seq_sent": 9, "seq_accepted": "$heard+100"})
    assert said(told) == ["CANCEL", "HELLO"]
    assert told.state["own_grants"] == "locked"
    assert handoffs(told) == {"$h1": "DONE", "$h2": "CANCELLING"}


def test_a_peer_that_was_restored_is_told() -> None:
    play = Play("phone")
    play.handed_off()
    older = play.hello(seq=50, seq_sent=1, seq_accepted=0)
    assert sorted(said(older)) == ["HELLO", "LEASE", "ROLLBACK"]
    play.do("wait", seconds=3)
    lists = [{"handoff_id": "$h1", "state": "held", "generation": 3}]
    assert "ROLLBACK" not in said(play.hello(lists))
    lists[0]["generation"] = 2
    assert "ROLLBACK" in said(play.hello(lists))


def test_grants_that_a_phone_does_not_know() -> None:
    play = Play("phone")
    listed = [
        {"handoff_id": "$h8", "state": "held", "generation": 2},
        {"handoff_id": "$h9", "state": "ready", "generation": 0},
    ]
    seen = play.hello(listed)
    assert sorted(said(seen)) == ["HELLO", "REJECT gone"]
    assert handoffs(seen) == {"$h8": "GONE(rollback)"}
    assert said(play.do("revoke")) == ["REVOKE"]


# --- pairings ---------------------------------------------------------------------------------------------------


def test_a_newer_pairing_retires_the_older() -> None:
    play = Play("companion")
    play.offer("$h1")
    play.do("pair", pairing_id="$p2", transcript="$t2")
    early = play.receive("REVOKE", {"handoff_id": "$h1"}, pairing="$p2")
    assert early.refused == "not_active"
    wrong = play.receive("PAIR3", {"transcript_hash": "$t1"}, pairing="$p2")
    assert wrong.refused == "wrong_transcript"
    active = play.receive("PAIR3", {"transcript_hash": "$t2"}, pairing="$p2")
    assert {p: v["state"] for p, v in active.state["pairings"].items()} == {"$p1": "retired", "$p2": "active"}
    assert said(play.offer("$h2")) == ["REJECT not_active"]
    assert play.token("$h1", "$k1").state["pairings"]["$p1"]["handoffs"] == {"$h1": "STORED"}


def test_a_phone_cancels_what_is_open_in_an_older_pairing() -> None:
    play = Play("phone")
    play.do("offer", **OFFER)
    play.do("pair", pairing_id="$p2", transcript="$t2")
    active = play.receive("PAIR4", {"transcript_hash": "$t2"}, pairing="$p2")
    assert sorted(said(active)) == ["CANCEL", "HELLO"]
    assert [item.get("pairing") for item in active.out] == [None, "$p2"]
    assert active.state["pairings"]["$p1"]["state"] == "retired"


def test_a_pending_pairing_ends() -> None:
    for end, kind in (("phone", "PAIR4"), ("companion", "PAIR3")):
        play = Play(end)
        play.do("pair", pairing_id="$p2", transcript="$t2")
        play.do("wait", seconds=700)
        late = play.receive(kind, {"transcript_hash": "$t2"}, pairing="$p2")
        assert late.refused == ("wrong_pairing" if end == "phone" else "invitation_expired")


def test_the_mailbox_of_both_ends() -> None:
    phone = Interpreter("phone")
    for do in ("start", "connect", "scan"):
        out = phone.step({"do": do, "invitation": "*"}).out
    assert out == [{"mailbox": "PAIR1", "name": "ada's phone"}]
    (again,) = phone.step({"do": "wait", "seconds": 11}).out
    assert again == {"again": "PAIR1", "times": [4, 6]}
    assert phone.step({"do": "receive", "mailbox": "PAIR2", "spoil": {"kind": "mac"}}).refused == "bad_mac"
    phone.step({"do": "receive", "mailbox": "PAIR2"})
    assert [item["type"] for item in phone.step({"do": "confirm"}).out] == ["PAIR3"]

    companion = Interpreter("companion")
    for do in ("start", "connect", "invite"):
        companion.step({"do": do})
    good = companion.step({"do": "receive", "mailbox": "PAIR1"})
    assert good.out[0]["mailbox"] == "PAIR2"
    assert good.state["pairings"]["$p1"]["state"] == "pending"
    used = companion.step({"do": "receive", "mailbox": "PAIR1"})
    assert (used.refused, used.out) == ("invitation_used", [{"mailbox": "ENDED", "reason": 1}])
    assert companion.step({"do": "receive", "mailbox": "DECLINED"}).state["pairings"] == {}


# --- revocation -------------------------------------------------------------------------------------------------


def test_the_provider_is_asked_before_revoked_is_said() -> None:
    play = Play("companion")
    play.offer("$h1")
    play.token("$h1", "$k1", revocation_endpoint="https://login.example/revoke")
    assert play.receive("REVOKE", {"handoff_id": "$h1"}).out == []
    (revoked,) = play.do("provider", handoff_id="$h1", says="accepted").out
    assert (revoked["body"]["provider"], revoked["in_reply_to"]) == ("accepted", None)
    assert play.receive("REVOKE", {"handoff_id": "$h1"}).out[0]["body"]["provider"] == "accepted"
    assert play.receive("REVOKE", {"handoff_id": "$h2"}).out[0]["body"]["provider"] == "unknown"


def test_a_grant_that_does_not_fit_is_given_up() -> None:
    play = Play("phone")
    play.do("offer", **OFFER)
    play.receive("ACCEPT", {"handoff_id": "$h1", "one_time_key": "$k1", "offer_hash": "#OFFER $h1"})
    assert said(play.do("obtained", handoff_id="$h1", token={"refresh_token": "r" * 12_000})) == ["CANCEL"]


def test_a_retired_pairing_goes_when_nothing_is_live_in_it() -> None:
    play = Play("phone")
    play.handed_off()
    play.do("pair", pairing_id="$p2", transcript="$t2")
    active = play.receive("PAIR4", {"transcript_hash": "$t2"}, pairing="$p2")
    assert active.state["pairings"]["$p1"]["state"] == "retired"
    play.receive("REVOKED", {"handoff_id": "$h1", "provider": "unknown", "access_token_ends_at": 0})
    assert list(play.do("restart").state["pairings"]) == ["$p2"]


def test_a_repeated_stored_moves_nothing_and_gets_its_answer() -> None:
    play = Play("phone")
    play.handed_off()
    play.receive("REVOKED", {"handoff_id": "$h1", "provider": "unknown", "access_token_ends_at": 0})
    again = play.do("receive", again=3)
    assert (said(again), handoffs(again)) == (["CLOSED"], {"$h1": "GONE(revoked)"})


def test_a_list_that_was_overtaken_is_asked_for_again() -> None:
    play = Play("companion")
    play.offer("$h1")
    late = play.interpreter.numbers["$p1"] + 1
    play.receive("CANCEL", {"handoff_id": "$h7"}, seq=late + 3)
    overtaken = play.hello(seq=late)
    assert said(overtaken) == ["HELLO", "HELLO"]
    assert handoffs(overtaken)["$h1"] == "READY"
    assert said(play.hello(seq=late + 1, in_reply_to="@HELLO")) == []
    assert said(play.do("wait", seconds=599)) == []
    assert said(play.do("wait", seconds=2)) == ["HELLO"]
    assert handoffs(play.hello(seq=late + 9))["$h1"] == "DEAD(rejected)"


def test_a_lease_is_asked_for_by_a_companion_that_met_its_phone_shortly() -> None:
    play = Play("companion")
    play.handed_off()
    play.do("wait", seconds=100)
    assert said(play.hello([{"handoff_id": "$h1", "state": "done", "generation": 1}])) == ["HELLO", "HELLO"]
    assert said(play.hello([{"handoff_id": "$h1", "state": "done", "generation": 1}])) == ["HELLO"]
    assert said(play.do("wait", seconds=61)) == ["HELLO"]
