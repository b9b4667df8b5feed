"""The token policy: taking something away never widens what anybody may have, and it agrees with a plain reading."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from token_relay.agents.token_source import Peer, TokenQuery
from token_relay.apps.policy import Allowed, DeniedBecause, Policy, Rule, decide, parse_policy

IDS = st.sampled_from([1001, 1002, 1003])
WORDS = ("a", "b", "c")
LISTS = st.none() | st.frozensets(st.sampled_from(WORDS), min_size=1)
RULES = st.builds(
    lambda uid, gid, *lists: Rule(uid if uid or gid else 1001, gid, *lists),
    st.none() | IDS,
    st.none() | IDS,
    LISTS,
    LISTS,
    LISTS,
)
POLICIES = st.lists(RULES, max_size=4).map(lambda rules: Policy(1000, tuple(rules)))
PEERS = st.builds(Peer, IDS, IDS, st.just(7), st.lists(IDS, max_size=2).map(tuple))
QUERIES = st.builds(
    TokenQuery,
    scope=st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join),
    account=st.sampled_from(("", *WORDS)),
    audience=st.sampled_from(("", *WORDS)),
)


def _smaller(policy: Policy) -> list[Policy]:
    """Every policy with one rule, one entry of a list, or one openness less."""
    smaller = []
    for at, rule in enumerate(policy.rules):
        before, after = policy.rules[:at], policy.rules[at + 1 :]
        smaller.append(replace(policy, rules=before + after))
        narrower = [replace(rule, accounts=fewer) for fewer in _fewer(rule.accounts)]
        narrower += [replace(rule, audiences=fewer) for fewer in _fewer(rule.audiences)]
        narrower += [replace(rule, scopes=fewer) for fewer in _fewer(rule.scopes)]
        if rule.uid is None:
            narrower.append(replace(rule, uid=1001))
        smaller += [replace(policy, rules=(*before, other, *after)) for other in narrower]
    return smaller


def _fewer(entries: frozenset[str] | None) -> list[frozenset[str]]:
    return [frozenset({"a"})] if entries is None else [entries - {entry} for entry in entries]


@settings(max_examples=300, deadline=None)
@given(POLICIES, PEERS, QUERIES)
def test_taking_something_away_never_widens(policy: Policy, peer: Peer, query: TokenQuery) -> None:
    if isinstance(decide(policy, peer, query), DeniedBecause):
        for smaller in _smaller(policy):
            assert isinstance(decide(smaller, peer, query), DeniedBecause)


@settings(max_examples=300, deadline=None)
@given(POLICIES, PEERS, QUERIES)
def test_a_decision_is_that_of_a_plain_reading(policy: Policy, peer: Peer, query: TokenQuery) -> None:
    def covers(limit: frozenset[str] | None, asked: set[str]) -> bool:
        return limit is None or (bool(asked) and asked <= limit)

    expected = any(
        rule.uid in (None, peer.uid)
        and (rule.gid is None or rule.gid in {peer.gid, *peer.groups})
        and covers(rule.accounts, {query.account} - {""})
        and covers(rule.audiences, {query.audience} - {""})
        and covers(rule.scopes, set(query.scope.split()))
        for rule in policy.rules
    )
    assert isinstance(decide(policy, peer, query), Allowed) is expected


@settings(max_examples=200, deadline=None)
@given(POLICIES, PEERS, QUERIES)
def test_the_line_to_add_allows_exactly_what_was_asked(policy: Policy, peer: Peer, query: TokenQuery) -> None:
    said = decide(policy, peer, query)
    if isinstance(said, DeniedBecause):
        added = parse_policy(said.line_to_add, file="policy.toml", owner_uid=1000)
        assert isinstance(decide(replace(policy, rules=policy.rules + added.rules), peer, query), Allowed)
