"""Which grant answers a question: the table in choice.toml, and what holds whatever other phones bring."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_serving import GRANT, INTENT, NOW, token
from tests.properties.one_end import PAIRING, Tx
from token_relay.agents.companion.phones import Phones
from token_relay.agents.grants.answers import ToRefresh, decide
from token_relay.agents.grants.choice import Candidate, ambiguous
from token_relay.agents.grants.serving import said_of
from token_relay.agents.records import Grant, Pairing, PrimaryPhone
from token_relay.agents.token_source import PRIMARY, FittingGrant, NamedPhone, TokenGranted, TokenQuery, TokenRefused

TABLE = tomllib.loads((Path(__file__).parent / "choice.toml").read_text(encoding="utf-8"))["case"]
PAIRINGS = [
    replace(PAIRING, pairing_id=name, peer_id=name.split("-")[0], peer_name=name.split("-")[0], state=state)  # type: ignore[arg-type]
    for name, state in (("ann", "active"), ("ann-before", "retired"), ("bob", "active"))
]
REAUTH = "hand off"


def disk(case: dict[str, Any]) -> Tx:
    """What lies in the vault of a companion in this case."""
    tx = Tx(*PAIRINGS, PrimaryPhone("self", case.get("primary", "ann"), 1))
    for row in case["grants"]:
        add(tx, row)
    return tx


def add(tx: Tx, row: dict[str, Any]) -> None:
    state, reason = row.get("state", "held"), row.get("reason", "")
    barred: dict[str, Any] = {"said": said_of(row["barred"])} if "barred" in row else {}
    if barred:
        state, reason = "locked", "configuration"
    grant = replace(
        GRANT,
        grant_id=row["id"],
        pairing_id=row.get("pairing", row.get("phone", "ann")),
        handoff_id="h",
        issuer=row.get("issuer", "https://login.example"),
        client_id=row.get("client", "client-1"),
        subject=row.get("subject", "sub-1"),
        account=row.get("account", "person@contoso.example"),
        scope="openid read write",
        stored_at=row.get("stored_at", 100),
        state=state,
        reason=reason,
        intent=INTENT.started.to_text() if state in ("refreshing", "uncertain") else "",
        **barred,
    )
    tx.put(grant)
    if row.get("token"):
        tx.put(replace(token(left_s=600.0), grant_id=grant.grant_id))


def query_of(case: dict[str, Any]) -> TokenQuery:
    asked = dict(case.get("query", {}))
    return TokenQuery(**{**asked, "phones": frozenset(asked.get("phones", PRIMARY))})


def outcome(tx: Tx, query: TokenQuery) -> tuple[str | list[FittingGrant], str]:
    """The grant that answers, or the error, or what the list of ambiguous ones says; and the one that stands by."""
    grant, answer = decide(tx, query, NOW, REAUTH, Phones())
    if grant is None:
        assert isinstance(answer, TokenRefused) and (answer.error == "ambiguous") == bool(answer.grants)
        return listed(answer.grants) if answer.grants else answer.error, ""
    if isinstance(answer, ToRefresh):
        return grant.grant_id, answer.fallback.grant.grant_id if answer.fallback else ""
    return grant.grant_id, answer.grant_id if isinstance(answer, TokenGranted) else ""


def listed(grants: Iterable[FittingGrant]) -> list[FittingGrant]:
    return sorted(grants, key=lambda one: (one.issuer, one.account, one.phone))


@pytest.mark.parametrize("case", TABLE, ids=[case["what"] for case in TABLE])
def test_a_question_is_answered_as_the_table_says(case: dict[str, Any]) -> None:
    tx = disk(case)
    error, _, ids = case["answer"].partition(": ")
    rows = [row for row in tx.select(Grant) if row.grant_id in ids.split()]
    called = case.get("called") or [row.account for row in rows]
    several = listed(FittingGrant(row.issuer, name, row.pairing_id) for row, name in zip(rows, called, strict=True))
    assert outcome(tx, query_of(case)) == (several or error, case.get("fallback", ""))


def test_the_table_meets_every_kind_of_answer() -> None:
    kinds = {case["answer"].partition(":")[0] for case in TABLE}
    assert {"not_found", "ambiguous"} <= kinds and any("fallback" in case for case in TABLE)


rows = st.fixed_dictionaries(
    {"id": st.sampled_from([f"b{number}" for number in range(9)])},
    optional={
        "issuer": st.sampled_from(["https://login.example", "https://evil.example"]),
        "client": st.sampled_from(["client-1", "client-2"]),
        "subject": st.sampled_from(["", "sub-1", "sub-2"]),
        "account": st.sampled_from(["person@contoso.example", "sub-1", "other", ""]),
        "stored_at": st.integers(0, 1000),
        "state": st.sampled_from(["held", "uncertain", "dead"]),
        "token": st.booleans(),
    },
)


@given(st.sampled_from(TABLE), st.lists(rows, min_size=1, max_size=3), st.sampled_from(["ann", "bob"]))
def test_no_grant_of_another_phone_changes_the_answer_to_a_question_that_names_none(
    case: dict[str, Any], others: list[dict[str, Any]], primary: str
) -> None:
    case, query = {**case, "primary": primary}, replace(query_of(case), phones=PRIMARY)
    tx = disk(case)
    before = outcome(tx, query)
    for row in others:
        add(tx, {**row, "id": f"other-{row['id']}", "phone": "bob" if primary == "ann" else "ann"})
    assert outcome(tx, query) == before


def test_without_a_phone_at_all_what_is_left_says_that_it_is_over() -> None:
    tx = disk({"grants": [{"id": "a1", "state": "dead", "reason": "forgotten"}]})
    for row in PAIRINGS:
        tx.delete(Pairing, row.pairing_id)
    _, answer = decide(tx, TokenQuery(), NOW, REAUTH, Phones())
    assert isinstance(answer, TokenRefused) and answer.error == "reauth_required"


def test_a_phone_s_own_grants_are_chosen_alike_and_belong_to_no_phone() -> None:
    tx = Tx(replace(GRANT, grant_id="one", subject="1", account="one"), replace(GRANT, grant_id="two"))
    grant, answer = decide(tx, TokenQuery(), NOW, REAUTH, None)
    assert grant is None and isinstance(answer, TokenRefused) and answer.error == "ambiguous"
    assert {one.phone for one in answer.grants} == {""}
    grant, _ = decide(tx, TokenQuery(account="one"), NOW, REAUTH, None)
    assert grant is not None and grant.grant_id == "one"


def test_a_list_of_ambiguous_grants_is_bounded_and_holds_no_secret() -> None:
    phone = NamedPhone("a" * 26, "anns", is_primary=True)
    many = tuple(Candidate(replace(GRANT, account=f"person {number}"), None, phone) for number in range(40))
    answer = ambiguous(many)
    assert len(answer.grants) == 16 and "and 24 more" in answer.detail
    assert "person 3 at https://login.example from anns" in answer.detail and "rt" not in str(answer.grants)


@pytest.mark.parametrize(
    ("two", "which"),
    [
        ([("ann", "i1", "p1"), ("bob", "i2", "p2")], "--account ann"),
        ([("ann", "i1", "p1"), ("ann", "i2", "p2")], "--issuer i1"),
        ([("ann", "i1", "p1"), ("ann", "i1", "p2")], "--phone p1"),
        ([("ann", "i1", "p1"), ("ann", "i1", "p2"), ("bob", "i2", "p1")], "--account ann --issuer i1 --phone p1"),
    ],
)
def test_who_asks_is_told_the_one_thing_that_tells_all_of_them_apart(
    two: list[tuple[str, str, str]], which: str
) -> None:
    many = [
        Candidate(replace(GRANT, account=account, issuer=issuer), None, NamedPhone(phone, phone, is_primary=True))
        for account, issuer, phone in two
    ]
    assert ambiguous(tuple(many)).action == f"say which, such as: token-relay companion token {which}"
