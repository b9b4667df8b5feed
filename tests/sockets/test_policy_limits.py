"""Each limit of a rule, compared with what is asked: inside, outside, and not said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.sockets.sockets_kit import GRANTED, Source, StillClock
from token_relay.agents.token_source import FittingGrant, NamedPhone, Peer, TokenQuery, TokenRefused, TransferQuery
from token_relay.apps.policy import Allowed, DeniedBecause, Policy, Rule, decide, parse_policy
from token_relay.apps.server import TokenApi
from token_relay.protocol.errors import ConfigError

APP = Peer(uid=1001, gid=1001, pid=7)


@pytest.mark.parametrize("limit", ["accounts", "audiences", "issuers", "scopes"])
@pytest.mark.parametrize(("asked", "is_allowed"), [("inside", True), ("outside", False), ("", False)])
def test_a_rule_gives_no_more_than_it_lists(limit: str, asked: str, is_allowed: bool) -> None:
    listed = frozenset({"inside", "too"})
    rule, query = {
        "accounts": (Rule(uid=APP.uid, accounts=listed), TokenQuery(account=asked)),
        "audiences": (Rule(uid=APP.uid, audiences=listed), TokenQuery(audience=asked)),
        "issuers": (Rule(uid=APP.uid, issuers=listed), TokenQuery(issuer=asked)),
        "scopes": (Rule(uid=APP.uid, scopes=listed), TokenQuery(scope=asked)),
    }[limit]
    decision = decide(Policy(owner_uid=1000, rules=(rule,)), APP, query)
    if is_allowed:
        assert decision == Allowed("rule 1")
    else:
        assert (
            isinstance(decision, DeniedBecause) and f"limits {limit.removesuffix('s')} for uid 1001" in decision.detail
        )


def test_what_several_rules_limit_is_named() -> None:
    rules = (Rule(uid=APP.uid, accounts=frozenset({"a"})), Rule(gid=APP.gid, scopes=frozenset({"s"})))
    decision = decide(Policy(owner_uid=1000, rules=rules), APP, TokenQuery())
    assert isinstance(decision, DeniedBecause)
    assert "account" in decision.detail and "scope" in decision.detail


@pytest.mark.asyncio
@pytest.mark.parametrize(("uid", "status"), [(1000, 200), (0, 200), (1001, 403)])
async def test_only_the_owner_and_root_force_a_refresh(uid: int, status: int) -> None:
    source = Source()
    api = TokenApi(source, Policy(owner_uid=1000, rules=(Rule(uid=1001),)), clock=StillClock())
    peer = Peer(uid=uid, gid=uid, pid=7)
    assert (await api.answer(peer, "GET", "/v1/token")).status == 200
    for spelled in ("true", "1"):
        assert (await api.answer(peer, "GET", f"/v1/token?force_refresh={spelled}")).status == status


ANN, BOB = (NamedPhone(letter * 26, name, is_primary=name == "anns") for letter, name in (("a", "anns"), ("b", "bobs")))
PLAIN, BOBS = Rule(uid=APP.uid, per_minute=6), Rule(uid=APP.uid, phones=frozenset({BOB.device_id}), per_minute=60)
BOTH = Rule(gid=APP.gid, phones=frozenset({ANN.device_id, BOB.device_id}))


@pytest.mark.parametrize(
    ("rules", "phone", "phones"),
    [
        ((PLAIN,), None, {""}),
        ((PLAIN,), ANN, {ANN.device_id}),
        ((PLAIN,), BOB, None),  # a rule without phones is for the primary phone alone
        ((BOBS,), None, {BOB.device_id}),
        ((BOBS,), BOB, {BOB.device_id}),
        ((BOBS,), ANN, None),  # nor for the primary when it names another
        ((PLAIN, BOBS), None, {"", BOB.device_id}),
        ((PLAIN, BOBS), BOB, {BOB.device_id}),
        ((BOTH,), ANN, {ANN.device_id}),
        ((BOTH,), None, {ANN.device_id, BOB.device_id}),
        ((Rule(uid=APP.uid, phones=frozenset()),), None, set()),
    ],
)
def test_a_rule_covers_the_primary_phone_or_those_that_it_names(
    rules: tuple[Rule, ...], phone: NamedPhone | None, phones: set[str] | None
) -> None:
    for query in (TokenQuery(), TransferQuery()):
        named = tuple(replace(rule, session_transfer=True) for rule in rules)
        decision = decide(Policy(1000, named), APP, query, phone)
        if phones is None:
            assert isinstance(decision, DeniedBecause) and "limits phone for uid 1001" in decision.detail
        else:
            assert isinstance(decision, Allowed) and decision.phones == phones


@pytest.mark.parametrize("uid", [1000, 0])
def test_owner_and_root_are_bound_to_the_primary_phone_too_and_may_name_any(uid: int) -> None:
    for phone, phones in ((None, {""}), (ANN, {ANN.device_id}), (BOB, {BOB.device_id})):
        decision = decide(Policy(1000), Peer(uid, uid, 1), TokenQuery(), phone)
        assert isinstance(decision, Allowed) and decision.phones == phones


def test_where_rules_of_several_phones_cover_a_query_the_strictest_rate_counts() -> None:
    """The token may be of either phone; a rate must not be got round by naming none."""
    for rules in ((PLAIN, BOBS), (BOBS, PLAIN), (PLAIN, BOBS, Rule(uid=APP.uid, per_minute=2))):
        decision = decide(Policy(1000, rules), APP, TokenQuery())
        assert isinstance(decision, Allowed) and decision.per_minute == 6
    decision = decide(Policy(1000, (PLAIN, BOBS)), APP, TokenQuery(), BOB)
    assert isinstance(decision, Allowed) and decision.per_minute == 60


def test_the_lines_of_a_denial_name_the_phone_by_its_id_and_the_issuer() -> None:
    query = TokenQuery(issuer="https://idp.example")
    denied = decide(Policy(1000, (PLAIN,)), APP, query, BOB)
    assert isinstance(denied, DeniedBecause)
    repaired = parse_policy(denied.line_to_add, file="policy.toml", owner_uid=1000)
    assert repaired.rules == (
        Rule(uid=1001, issuers=frozenset({"https://idp.example"}), phones=frozenset({BOB.device_id})),
    )
    assert isinstance(decide(repaired, APP, query, BOB), Allowed)


@pytest.mark.parametrize("phone", ["bobs", "b" * 25, "b" * 27, "B" * 26, ""])
def test_a_policy_names_phones_by_their_whole_ids(phone: str) -> None:
    """A name is the phone's own choice: another phone may take it once this one is forgotten."""
    with pytest.raises(ConfigError, match=r"allow\[1\].phones"):
        parse_policy(f'[[allow]]\nuid = 1\nphones = ["{phone}"]\n', file="policy.toml", owner_uid=1000)


# -- The phone in a question -------------------------------------------------------------------------------


class Finder:
    """The phones that a companion knows."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def find_phone(self, word: str) -> NamedPhone | TokenRefused:
        self.asked.append(word)
        known = {"anns": ANN, "bobs": BOB, BOB.device_id: BOB}
        return known.get(word) or TokenRefused("not_found", f"no phone is called {word!r}")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("rules", "parameter", "status", "phones"),
    [
        ((PLAIN,), "", 200, {""}),
        ((PLAIN,), "phone=anns", 200, {ANN.device_id}),
        ((PLAIN,), "phone=bobs", 403, None),
        ((BOBS,), "phone=bobs", 200, {BOB.device_id}),
        ((BOBS,), f"phone={BOB.device_id}", 200, {BOB.device_id}),
        ((BOBS,), "", 200, {BOB.device_id}),
        ((PLAIN,), "phone=nobody", 404, None),
        ((), "phone=nobody", 403, None),  # who may have nothing does not learn what phones there are
    ],
)
async def test_the_phone_of_a_question_is_found_before_the_policy_is_asked(
    rules: tuple[Rule, ...], parameter: str, status: int, phones: set[str] | None
) -> None:
    source = Source()
    api = TokenApi(source, Policy(1000, rules), clock=StillClock(), phones=Finder())
    assert (await api.answer(APP, "GET", f"/v1/token?{parameter}")).status == status
    assert [query.phones for query in source.queries if isinstance(query, TokenQuery)] == (
        [] if phones is None else [phones]
    )


@pytest.mark.asyncio
async def test_where_no_phone_can_be_named_a_question_that_names_one_is_refused() -> None:
    source = Source()
    api = TokenApi(source, Policy(1000), clock=StillClock())
    reply = await api.answer(Peer(1000, 1000, 1), "GET", "/v1/token?phone=anns")
    assert (reply.status, reply.body["error"], source.queries) == (404, "not_found", [])


@pytest.mark.asyncio
async def test_a_token_is_judged_by_the_phone_that_it_came_from() -> None:
    """Two rules cover the question, for two phones; the token's own scopes are within one of them alone."""
    source = Source()
    scopes = Rule(uid=APP.uid, phones=frozenset({BOB.device_id}), scopes=frozenset({"a", "b"}))
    narrow = Rule(uid=APP.uid, scopes=frozenset({"a"}))
    api = TokenApi(source, Policy(1000, (scopes, narrow)), clock=StillClock(), phones=Finder())
    for phone, status in ((BOB, 200), (ANN, 403)):
        source.answer = replace(GRANTED, scope="a b", phone=phone)
        assert (await api.answer(APP, "GET", "/v1/token?scope=a")).status == status


@pytest.mark.asyncio
async def test_what_is_ambiguous_is_listed_without_a_secret() -> None:
    source = Source()
    listed = FittingGrant("https://idp.example", "ann@contoso.example", ANN.device_id)
    source.answer = TokenRefused("ambiguous", "several", "say which", grants=(listed,))
    api = TokenApi(source, Policy(1000), clock=StillClock())
    reply = await api.answer(Peer(1000, 1000, 1), "GET", "/v1/token")
    assert reply.status == 409
    assert json.loads(reply.octets()) == {
        "error": "ambiguous",
        "detail": "several",
        "action": "say which",
        "retry_after_s": None,
        "grants": [{"issuer": "https://idp.example", "account": "ann@contoso.example", "phone": ANN.device_id}],
    }
