"""Promise 16 is broken on purpose: a grant loses its refresh token by anything but a verdict, a person or a successor.

As in :mod:`tests.simulation.test_promises`, each history is made by hand and has its innocent twin.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.simulation.test_promises import DENIED, Hand, _key, breaks, deny, given, grant, handoff, taken, use
from token_relay.agents.ports import Record
from token_relay.agents.records import Grant, PhoneHandoff
from token_relay.protocol.handoff import PhoneStateName
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse

ERASED = given(None, state="dead", reason="denied")
SIGNED_OUT = grant(None, state="dead", reason="signed_out")


@pytest.mark.parametrize(
    "answer",
    [
        HttpResponse(503, {}, b"<h1>unavailable</h1>"),
        HttpResponse(403, {}, b"<h1>invalid_grant</h1>"),
        HttpResponse(500, {}, DENIED.body),
        HttpResponse(200, {}, b"<h1>welcome</h1>"),
        HttpResponse(401, {}, b'{"error": "invalid_client"}'),
        HttpResponse(400, {}, b'["invalid_grant"]'),
        AnswerLost("reset"),
    ],
    ids=str,
)
def test_a_grant_that_is_erased_after_no_verdict_is_reported(answer: HttpResponse | AnswerLost) -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    deny(hand, "watch", token, answer)  # type: ignore[arg-type]  # nor any other answer
    with breaks(16, "watch"):
        hand.commit("watch", ERASED)


def test_the_verdict_on_that_very_token_is_a_cause() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    deny(hand, "watch", token, DENIED)
    hand.commit("watch", ERASED)
    assert hand.promises.ledger.checks[16] == 1


def test_a_verdict_on_another_token_or_told_to_another_end_is_no_cause() -> None:
    hand = Hand()
    mine, other = hand.token("mine"), hand.token("other")
    hand.commit("watch", given(mine), replace(given(other), grant_id="d", handoff_id="i"))
    deny(hand, "watch", other, DENIED)
    with breaks(16, "watch"):
        hand.commit("watch", ERASED)
    hand.promises.answered("watch2", HttpRequest("POST", "", form=(("refresh_token", mine),)), DENIED)
    hand.tables["watch"][Grant][("c",)] = given(mine)
    with breaks(16, "watch"):
        hand.commit("watch", ERASED)


@pytest.mark.parametrize(
    ("said", "is_final"),
    [
        ({"error_codes": [50076], "suberror": "basic_action"}, False),
        ({"error_codes": [53003], "suberror": "message_only"}, False),
        ({}, False),
        ({"error_codes": [700082]}, True),
        ({"error_codes": [50173]}, True),
        ({"suberror": "bad_token"}, True),
    ],
)
def test_entra_ends_a_token_by_its_codes_alone(said: dict[str, Any], is_final: bool) -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token, profile="entra"))
    deny(hand, "watch", token, HttpResponse(400, {}, json.dumps({"error": "invalid_grant", **said}).encode()))
    if is_final:
        hand.commit("watch", ERASED)
        return
    with breaks(16, "watch"):
        hand.commit("watch", ERASED)


def test_a_count_of_tries_that_ends_is_no_cause() -> None:
    """The needs_handoff of old: the row stays, its refresh token does not."""
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    hand.promises.answered("watch", use(hand, token), AnswerLost("reset"))
    hand.commit("watch", given(token, state="needs_handoff", reason="uncertain"))
    with breaks(16, "watch"):
        hand.commit("watch", given(None, state="needs_handoff", reason="uncertain"))


@pytest.mark.parametrize("state", ["revoking", "cancelling", "gone", "cancelled"])
def test_revoke_of_its_own_pairing_is_a_cause(state: PhoneStateName) -> None:
    hand = Hand()
    hand.commit("watch", given(hand.token()), taken())
    hand.commit("phone", handoff(state))
    hand.commit("watch", given(None, state="dead", reason="revoked"), taken("dead", reason="revoked"))
    assert hand.promises.ledger.checks[16] == 1


@pytest.mark.parametrize(
    "asked", [handoff("revoking", pairing_id="q"), handoff("revoking", handoff_id="i"), handoff("done")]
)
def test_revoke_by_another_pairing_or_of_another_handoff_is_no_cause(asked: PhoneHandoff) -> None:
    hand = Hand()
    hand.commit("watch", given(hand.token()), taken())
    hand.commit("phone", asked)
    with breaks(16, "watch"):
        hand.commit("watch", given(None, state="dead", reason="revoked"), taken("dead", reason="revoked"))


@pytest.mark.parametrize(
    ("change", "is_cause"),
    [({}, True), ({"pairing_id": "q"}, False), ({"subject": "sam"}, False), ({"handoff_id": "h"}, False)],
)
def test_only_the_handoff_that_replaces_it_is_a_cause(change: dict[str, Any], is_cause: bool) -> None:
    hand = Hand()
    old = given(hand.token())
    hand.commit("watch", old)
    new = replace(given(hand.token("new")), **{"grant_id": "d", "handoff_id": "i", **change})
    if is_cause:
        hand.commit("watch", new, delete=(old,))
        return
    with breaks(16, "watch"):
        hand.commit("watch", new, delete=(old,))


def test_a_grant_that_was_there_already_replaces_nothing() -> None:
    hand = Hand()
    old, other = given(hand.token()), replace(given(hand.token("new")), grant_id="d", handoff_id="i")
    hand.commit("watch", old, other)
    with breaks(16, "watch"):
        hand.commit("watch", delete=(old,))


@pytest.mark.parametrize(
    ("end", "row", "act", "other_act"),
    [("watch", given, "forget", "sign_out"), ("phone", grant, "sign_out", "forget")],
)
def test_a_persons_command_is_a_cause_while_it_runs(end: str, row: Any, act: str, other_act: str) -> None:
    hand = Hand()
    token = hand.token()
    hand.commit(end, row(token))
    hand.promises.commanded(end, act, is_over=False)
    hand.commit(end, row(None, state="dead", reason="forgotten"))
    hand.commit(end, row(token))
    hand.promises.commanded(end, act, is_over=True)
    hand.promises.commanded(end, other_act, is_over=False)
    hand.promises.commanded("another", act, is_over=False)
    with breaks(16, end):
        hand.commit(end, row(None, state="dead", reason="forgotten", scope="again"))


@pytest.mark.parametrize(
    ("subject", "is_over", "is_cause"), [("pat", False, True), ("pat", True, False), ("sam", False, False)]
)
def test_a_sign_in_replaces_the_older_one_of_the_same_person(subject: str, is_over: bool, is_cause: bool) -> None:
    hand = Hand()
    old = grant(hand.token())
    hand.commit("phone", old)
    hand.promises.commanded("phone", "sign_in", is_over=False)
    new = replace(grant(hand.token("new")), grant_id="n", subject=subject)
    hand.commit("phone", replace(new, state="locked", reason="unverified"))
    if is_over:
        hand.promises.commanded("phone", "sign_in", is_over=True)
    if is_cause:
        hand.commit("phone", new, delete=(old,))
        return
    with breaks(16, "phone"):
        hand.commit("phone", new, delete=(old,))


def test_a_sign_in_that_was_never_judged_may_go() -> None:
    hand = Hand()
    fresh = grant(hand.token(), state="locked", reason="unverified")
    hand.commit("phone", fresh)
    image = dict(hand.tables["phone"])
    hand.commit("phone", replace(fresh, state="held", reason=""))
    hand.tables["phone"] = image
    hand.promises.restored("phone", image)  # to before it was judged
    hand.commit("phone", delete=(fresh,))
    hand.commit("phone", fresh)
    hand.commit("phone", delete=(fresh,))
    hand.commit("phone", grant(hand.token("good")))
    with breaks(16, "phone"):  # but not one that was good before
        hand.commit("phone", delete=(grant(None),))


def test_a_moved_token_is_sealed_on_its_way_or_on_another_disk() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("phone", grant(token))
    sent = handoff(strategy="move", held_token=token)
    hand.commit("phone", grant(None, state="dead", reason="moved"), sent)
    old: dict[type[Record], dict[tuple[str | int, ...], Record]] = {Grant: {("g",): grant(token)}}
    hand.commit("watch", given(token))
    hand.tables["phone"] = old
    hand.promises.restored("phone", old)
    hand.commit("phone", grant(None, state="dead", reason="moved"))
    hand.commit("phone2", grant(hand.token("other")))
    with breaks(16, "phone2"):
        hand.commit("phone2", grant(None, state="dead", reason="moved"))


def test_only_the_providers_next_token_takes_the_place_of_one() -> None:
    hand = Hand()
    first = hand.token()
    hand.commit("watch", given(first))
    second = hand.token(generation=2, used=1)
    hand.commit("watch", given(second))
    for wrong in (first, hand.token("other")):
        with breaks(16, "watch"):
            hand.commit("watch", given(wrong))
        hand.tables["watch"][Grant][_key(given(second))] = given(second)
