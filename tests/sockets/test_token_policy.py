"""The policy as a table, and its law: taking something away never widens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_relay.agents.token_source import NamedPhone, Peer, TokenQuery
from token_relay.apps.policy import Allowed, DeniedBecause, Policy, Rule, decide, parse_policy
from token_relay.protocol.errors import ConfigError

OWNER = 1000
APP = Peer(uid=1001, gid=1001, pid=7)


def test_without_rules_only_owner_and_root_are_allowed() -> None:
    policy = Policy(OWNER)
    assert decide(policy, Peer(OWNER, OWNER, 1), TokenQuery()) == Allowed("owner")
    assert decide(policy, Peer(0, 0, 1), TokenQuery()) == Allowed("root")
    assert isinstance(decide(policy, APP, TokenQuery()), DeniedBecause)


def test_denial_names_the_uid_and_the_lines_that_would_allow_it() -> None:
    answer = decide(Policy(OWNER), APP, TokenQuery(scope="b a", account='o"neil', audience="https://api.example"))
    assert answer == DeniedBecause(
        "the policy has no rule for uid 1001",
        '[[allow]]\nuid = 1001\naccounts = ["o\\"neil"]\naudiences = ["https://api.example"]\nscopes = ["a", "b"]',
    )


LIMITED = Rule(
    uid=1001, accounts=frozenset({"ann"}), audiences=frozenset({"https://api.example"}), scopes=frozenset({"a", "b"})
)
FITTING = TokenQuery(scope="b", account="ann", audience="https://api.example")


@pytest.mark.parametrize(
    ("rules", "peer", "query", "is_allowed"),
    [
        ((Rule(uid=1001),), APP, TokenQuery(), True),
        ((Rule(uid=1001),), APP, TokenQuery(scope="anything", account="x", audience="y"), True),
        ((Rule(uid=1002),), APP, TokenQuery(), False),
        ((Rule(gid=1001),), APP, TokenQuery(), True),
        ((Rule(gid=44),), APP, TokenQuery(), False),
        ((Rule(gid=44),), Peer(1001, 1001, 7, (44,)), TokenQuery(), True),
        ((Rule(uid=1001, gid=44),), APP, TokenQuery(), False),
        ((Rule(uid=1001, gid=44),), Peer(1001, 44, 7), TokenQuery(), True),
        ((LIMITED,), APP, FITTING, True),
        ((LIMITED,), APP, TokenQuery(scope="a b", account="ann", audience="https://api.example"), True),
        ((LIMITED,), APP, TokenQuery(scope="a c", account="ann", audience="https://api.example"), False),
        ((LIMITED,), APP, TokenQuery(scope="", account="ann", audience="https://api.example"), False),
        ((LIMITED,), APP, TokenQuery(scope="a", account="", audience="https://api.example"), False),
        ((LIMITED,), APP, TokenQuery(scope="a", account="bob", audience="https://api.example"), False),
        ((LIMITED,), APP, TokenQuery(scope="a", account="ann", audience=""), False),
        # Two halves of a permission are none: one rule alone must cover the query.
        ((Rule(uid=1001, scopes=frozenset("a")), Rule(gid=1001, scopes=frozenset("b"))), APP, TokenQuery("a b"), False),
        ((Rule(uid=1001, scopes=frozenset()),), APP, TokenQuery(scope="a"), False),
    ],
)
def test_a_query_is_allowed_when_one_rule_covers_all_of_it(
    rules: tuple[Rule, ...], peer: Peer, query: TokenQuery, is_allowed: bool
) -> None:
    assert isinstance(decide(Policy(OWNER, rules), peer, query), Allowed) is is_allowed


@pytest.mark.parametrize(
    ("rates", "expected"),
    [((6,), 6), ((6, None), None), ((None, 6), None), ((6, 60), 60), ((60, 6), 60), ((None,), None)],
)
def test_of_several_rules_the_most_generous_rate_counts(rates: tuple[int | None, ...], expected: int | None) -> None:
    rules = tuple(Rule(uid=1001, per_minute=rate) for rate in rates)
    answer = decide(Policy(OWNER, rules), APP, TokenQuery())
    assert isinstance(answer, Allowed) and answer.per_minute == expected


def test_pid_is_never_part_of_the_decision() -> None:
    policy = Policy(OWNER, (LIMITED,))
    assert decide(policy, Peer(1001, 1001, 7), FITTING) == decide(policy, Peer(1001, 1001, 99_999), FITTING)
    assert decide(policy, Peer(1002, 1002, 7), FITTING) == decide(policy, Peer(1002, 1002, 1), FITTING)


def test_overflow_uid_gets_no_line_to_add_since_it_stands_for_everybody() -> None:
    answer = decide(Policy(OWNER), Peer(65_534, 65_534, 7), TokenQuery())
    assert isinstance(answer, DeniedBecause)
    assert answer.line_to_add == ""


# -- properties --------------------------------------------------------------------------------------------

words = st.sampled_from(["a", "b", "c"])
lists = st.none() | st.frozensets(words)
ids = st.sampled_from([0, 1, 2, OWNER])


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    uid, gid = draw(st.none() | ids), draw(st.none() | ids)
    uid = 1 if uid is None and gid is None else uid
    return Rule(uid, gid, draw(lists), draw(lists), draw(lists), issuers=draw(lists), phones=draw(lists))


peers = st.builds(Peer, ids, ids, st.just(1), st.lists(ids, max_size=2).map(tuple))
queries = st.builds(
    TokenQuery,
    st.lists(words, max_size=3).map(" ".join),
    st.sampled_from(["", "a", "b", "c"]),
    st.sampled_from(["", "a", "b", "c"]),
    issuer=st.sampled_from(["", "a", "b", "c"]),
)
phones = st.none() | st.builds(NamedPhone, words, words, st.booleans())
LIMITS = ("accounts", "audiences", "scopes", "issuers", "phones")


@given(st.lists(rules(), min_size=1, max_size=4), peers, queries, phones, st.data())
def test_removing_a_rule_or_an_entry_never_widens(
    given_rules: list[Rule], peer: Peer, query: TokenQuery, phone: NamedPhone | None, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(given_rules) - 1))
    rule = given_rules[index]
    fewer = [given_rules[:index] + given_rules[index + 1 :]]
    for name in LIMITS:
        entries: frozenset[str] | None = getattr(rule, name)
        for entry in entries or ():
            values = {n: getattr(rule, n) for n in ("uid", "gid", *LIMITS)}
            narrower = Rule(**{**values, name: entries - {entry}} if entries is not None else values)
            fewer.append([*given_rules[:index], narrower, *given_rules[index + 1 :]])
    before = decide(Policy(OWNER, tuple(given_rules)), peer, query, phone)
    for remaining in fewer:
        after = decide(Policy(OWNER, tuple(remaining)), peer, query, phone)
        if isinstance(after, Allowed):
            assert isinstance(before, Allowed) and after.phones <= before.phones


printable = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x85") | st.just("\x7f"), min_size=1, max_size=20
)


@given(
    st.integers(1, 60_000),
    st.lists(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"\\'), min_size=1)),
    st.just("") | printable,
    st.just("") | printable,
)
def test_adding_the_lines_of_a_denial_allows_the_query(
    uid: int, scopes: list[str], account: str, audience: str
) -> None:
    query = TokenQuery(" ".join(scopes), account, audience)
    peer = Peer(uid, uid, 1)
    denied = decide(Policy(70_000), peer, query)
    assert isinstance(denied, DeniedBecause)
    repaired = parse_policy(denied.line_to_add, file="policy.toml", owner_uid=70_000)
    assert decide(repaired, peer, query) == Allowed("rule 1")
    assert isinstance(decide(repaired, Peer(uid + 1, uid + 1, 1), query), DeniedBecause)


# -- TOML --------------------------------------------------------------------------------------------------


def test_policy_file_is_read() -> None:
    text = '[[allow]]\nuid = 1001\nscopes = ["a", "b"]\n[[allow]]\ngid = 44\naccounts = ["ann"]\n'
    assert parse_policy(text, file="p.toml", owner_uid=OWNER) == Policy(
        OWNER, (Rule(uid=1001, scopes=frozenset({"a", "b"})), Rule(gid=44, accounts=frozenset({"ann"})))
    )
    assert parse_policy("", file="p.toml", owner_uid=OWNER) == Policy(OWNER)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[allow]]\nuid = 1\nscope = ['a']\n", "allow[1].scope"),
        ("[[allow]]\nuid = 1\n[[allow]]\nuid = 'ann'\n", "allow[2].uid"),
        ("[[allow]]\nuid = true\n", "allow[1].uid"),
        ("[[allow]]\nuid = -1\n", "allow[1].uid"),
        ("[[allow]]\nuid = 4294967295\n", "allow[1].uid"),
        ("[[allow]]\nuid = 1\nscopes = []\n", "allow[1].scopes"),
        ("[[allow]]\nuid = 1\nscopes = 'a'\n", "allow[1].scopes"),
        ("[[allow]]\nscopes = ['a']\n", "give uid or gid"),
        ("[[allow]]\nuid = 65534\n", "65534"),
        ("[[allow]]\ngid = 65534\n", "65534"),
        ("[[allow]]\nuid = 1000\ngid = 65534\n", "65534"),
        ("[[allow]]\nuid = 65534\ngid = 1000\n", "65534"),
        ("[[deny]]\nuid = 1\n", "deny"),
        ("[[allow]\n", "not TOML"),
        ("a = " + "[" * 30_000, "nested too deeply"),
        ("#" * 65_537, "65536"),
    ],
)
def test_wrong_policy_file_is_refused_with_file_and_key(text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, file="p.toml", owner_uid=OWNER)
    assert str(caught.value).startswith("p.toml: ")
    assert named in str(caught.value)


def test_rule_for_nobody_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="uid or a gid"):
        Rule()
