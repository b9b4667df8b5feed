"""Each limit of a rule, compared with what is asked: inside, outside, and not said."""

from __future__ import annotations

import pytest

from tests.sockets.sockets_kit import Source, StillClock
from token_relay.agents.token_source import Peer, TokenQuery
from token_relay.apps.policy import Allowed, DeniedBecause, Policy, Rule, decide
from token_relay.apps.server import TokenApi

APP = Peer(uid=1001, gid=1001, pid=7)


@pytest.mark.parametrize("limit", ["accounts", "audiences", "scopes"])
@pytest.mark.parametrize(("asked", "is_allowed"), [("inside", True), ("outside", False), ("", False)])
def test_a_rule_gives_no_more_than_it_lists(limit: str, asked: str, is_allowed: bool) -> None:
    listed = frozenset({"inside", "too"})
    rule, query = {
        "accounts": (Rule(uid=APP.uid, accounts=listed), TokenQuery(account=asked)),
        "audiences": (Rule(uid=APP.uid, audiences=listed), TokenQuery(audience=asked)),
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
