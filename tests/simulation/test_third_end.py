"""Promise 15 is broken on purpose, by hand and by agents with the old mistakes, and the third end finds each.

The histories made by hand have their innocent twins, as in :mod:`tests.simulation.test_promises`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.simulation.test_promises import NOW, STAMP, Hand, breaks, given, grant, handoff, pairing, taken
from token_relay.agents import pairings
from token_relay.agents.companion.endpoints import Endpoints
from token_relay.agents.companion.phones import Phones, phones_of
from token_relay.agents.grants import answers
from token_relay.agents.grants.choice import Candidate, Choice
from token_relay.agents.phone import pairing as phone_pairing
from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import (
    CachedToken,
    CompanionHandoff,
    Grant,
    Outgoing,
    Pairing,
    PhoneHandoff,
    PrimaryPhone,
    Seen,
)
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.http import HttpRequest
from token_relay.simulation.histories.plan import make_plan
from token_relay.simulation.histories.runner import quiet
from token_relay.simulation.histories.schedule import run_schedule
from token_relay.simulation.lies import HANDOFF_TYPES, is_endpoint_of
from token_relay.simulation.ports import memory_vault
from token_relay.simulation.promises import coverage

ISSUER = "https://provider.example"
HONEST = pairing(pairing_id="p", peer_id="honest", peer_name="phone", paired_at=1)
STRANGE = pairing(pairing_id="s", peer_id="strange", peer_name="third", paired_at=2)
MINE = replace(given(RefreshToken("mine")), token_endpoint=f"{ISSUER}/token", account="ann")
THEIRS = replace(MINE, grant_id="t", pairing_id="s", handoff_id="x", refresh_token=RefreshToken("theirs"))
CACHED = CachedToken("c", "", "openid", "Bearer", STAMP, 3600.0, 1, AccessToken("access"))


class Two(Hand):
    """A device with an honest and a hostile peer."""

    def __init__(self, end: str = "watch", *put: Record) -> None:
        super().__init__()
        self.end = end
        self.clock = NOW
        self.promises.ledger.strangers = frozenset({"strange"})
        self.seq = 0
        self.commit(end, HONEST, STRANGE, PrimaryPhone("self", "honest", 1), *put)

    def hears(self, by: str, *put: Record, delete: tuple[Record, ...] = ()) -> None:
        """Commit what a message of this pairing brings about."""
        self.seq += 1
        self.commit(self.end, Seen(by, self.seq, bytes(16)), *put, delete=delete)


# -- by hand: what a message changes -----------------------------------------------------------------------

LOCKED = replace(MINE, state="locked", reason="rollback")
OUTBOX = Outgoing("p", 1, "STORED", "h", b"", STAMP)


@pytest.mark.parametrize(
    "changed",
    [
        replace(MINE, refresh_token=None),  # its data key was erased
        replace(MINE, lease_used_s=9.0),
        LOCKED,
        replace(taken(), state="dead", reason="revoked"),
        replace(HONEST, seq_high=7),
        replace(HONEST, state="retired"),
        replace(OUTBOX, seq=2),
        replace(CACHED, access_token=AccessToken("other")),
    ],
    ids=lambda row: type(row).__name__,
)
def test_a_message_that_changes_a_row_of_another_pairing_is_reported(changed: Record) -> None:
    hand = Two("watch", MINE, taken(), OUTBOX, CACHED)
    hand.hears("p", changed) if not isinstance(changed, Grant) or changed.refresh_token else None  # its own
    hand = Two("watch", MINE, taken(), OUTBOX, CACHED)
    hand.hears("s", THEIRS, taken(pairing_id="s", handoff_id="h"))  # the same id in another pairing is another handoff
    with breaks(15, "watch"):
        hand.hears("s", changed)


@pytest.mark.parametrize("row", [MINE, taken(), OUTBOX, HONEST, CACHED], ids=lambda row: type(row).__name__)
def test_a_message_that_deletes_a_row_of_another_pairing_is_reported(row: Record) -> None:
    hand = Two("watch", MINE, taken(), OUTBOX, CACHED)
    with breaks(15, "watch"):
        hand.hears("s", delete=(row,))


def test_honest_pairings_are_judged_like_hostile_ones() -> None:
    hand = Two("watch", MINE, THEIRS)
    with breaks(15, "watch"):
        hand.hears("p", replace(THEIRS, state="locked", reason="rollback"), replace(LOCKED, lease_used_s=1.0))
        hand.hears("p", replace(THEIRS, refresh_token=None, state="dead", reason="superseded"))


def test_the_rollback_of_the_primary_phone_locks_all_and_erases_nothing() -> None:
    hand = Two("watch", MINE, THEIRS, taken("ready"), taken("ready", pairing_id="s", handoff_id="x"))
    over = taken("dead", pairing_id="s", handoff_id="x", reason="replaced")
    hand.hears("p", replace(THEIRS, state="locked", reason="rollback"), over)
    with breaks(15, "watch"):
        hand.hears("s", LOCKED)
    hand = Two("watch", MINE, THEIRS)
    with breaks(15, "watch"):
        hand.hears("p", replace(THEIRS, state="locked", reason="rollback", refresh_token=RefreshToken("other")))


def test_a_disk_that_was_put_back_may_lock_all_and_nothing_else() -> None:
    hand = Two("watch", MINE, THEIRS)
    hand.promises.restored("watch", hand.tables["watch"])
    hand.hears("s", LOCKED)
    with breaks(15, "watch"):
        hand.hears("s", replace(LOCKED, refresh_token=None))


def test_a_pairing_of_the_same_device_may_be_retired() -> None:
    again = replace(STRANGE, pairing_id="s2")
    hand = Two("watch", MINE, again, replace(THEIRS, pairing_id="s2"))
    hand.hears("s", replace(again, state="retired"), replace(THEIRS, pairing_id="s2", state="locked", reason="lease"))
    assert hand.promises.ledger.checks[15]


def test_the_phones_own_grant_goes_only_where_the_person_moves_it() -> None:
    own = grant(RefreshToken("own"))
    moved = grant(None, state="dead", reason="moved")
    hand = Two("phone", own, handoff("offered", pairing_id="s", strategy="move"))
    hand.hears("s", moved)
    hand = Two("phone", own, handoff("offered", pairing_id="p", strategy="move"))
    with breaks(15, "phone"):
        hand.hears("s", moved)
    hand = Two("phone", own)
    hand.hears("s", replace(own, state="locked", reason="rollback"))  # any peer may claim it: the person signs in anew
    with breaks(15, "phone"):
        hand.hears("s", own)


# -- by hand: what is hidden, and where requests go --------------------------------------------------------


def _served(text: str) -> TokenGranted:
    return TokenGranted(AccessToken(text), "Bearer", None, "openid", ISSUER)  # type: ignore[arg-type]  # nobody looks


def test_an_app_that_gets_a_strangers_token_unasked_is_reported() -> None:
    theirs = replace(CACHED, grant_id="t", access_token=AccessToken("theirs"))
    hand = Two("watch", MINE, THEIRS, CACHED, theirs)
    hand.promises.served("watch", TokenQuery(), _served("access"))
    hand.promises.served("watch", TokenQuery(phones=frozenset({"strange"})), _served("theirs"))  # named
    with breaks(15, "watch"):
        hand.promises.served("watch", TokenQuery(phones=frozenset({"strange"})), _served("access"))
    with breaks(15, "watch"):
        hand.promises.served("watch", TokenQuery(account="ann"), _served("theirs"))


def test_a_refusal_while_the_primary_phones_token_lives_is_reported() -> None:
    hand = Two("watch", MINE, THEIRS, CACHED)
    hand.promises.served("watch", TokenQuery(account="bob"), TokenRefused("not_found", ""))
    hand.promises.served("watch", TokenQuery(), TokenRefused("denied", ""))  # the policy's business
    with breaks(15, "watch"):
        hand.promises.served("watch", TokenQuery(account="ann"), TokenRefused("offline", ""))
    hand = Two("watch", MINE, replace(MINE, grant_id="d", subject="other"), CACHED)
    hand.promises.served("watch", TokenQuery(), TokenRefused("not_found", ""))  # two people of one phone: which?


@pytest.mark.parametrize(
    ("url", "is_right"),
    [
        (f"{ISSUER}/token", True),
        (f"{ISSUER}/.well-known/openid-configuration", True),
        ("http://provider.example/token", False),
        ("https://127.0.0.1/token", False),
        ("https://evil.provider.example/token", False),
    ],
)
def test_a_request_that_the_rule_for_endpoints_forbids_is_reported(url: str, is_right: bool) -> None:
    hand = Two("watch", replace(THEIRS, issuer=ISSUER, token_endpoint=url))
    request = HttpRequest("GET" if url.endswith("configuration") else "POST", url, form=None)
    if is_right:
        hand.promises.others.requested("watch", request)
    else:
        with breaks(15, "watch"):
            hand.promises.others.requested("watch", request)


def test_a_name_reaches_its_device_or_nobody_and_an_id_always_does() -> None:
    named = Two().promises.others.named
    named("phone", "watch", "abcdef", "abcdef", "")
    named("phone", "watch", "abcdef", "", "means two")
    with breaks(15, "phone"):
        named("phone", "watch", "abcdef", "strange", "")
    with breaks(15, "phone"):
        named("phone", "abcdef", "abcdef", "", "means two")


def test_the_rule_for_endpoints_is_the_hosts() -> None:
    assert is_endpoint_of(f"{ISSUER}:8443/token", ISSUER)
    assert not is_endpoint_of("https:///token", "https:///")


# -- the old mistakes, put back ----------------------------------------------------------------------------


def keys_in_one_name_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grant's data key is named by its id, a handoff's by the id that the peer has chosen."""
    monkeypatch.setattr(memory_vault, "_SHAPES", {})
    for record in (Grant, CachedToken):
        monkeypatch.setattr(record, "sealed_under", "{grant_id}")
    for handoffs in (PhoneHandoff, CompanionHandoff):
        monkeypatch.setattr(handoffs, "sealed_under", "{handoff_id}")


def the_newest_grant_of_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever phone brought it, the newest grant whose texts fit answers."""

    def among(self: Phones, tx: Transaction, phones: frozenset[str]) -> Any:
        known = phones_of(tx.select(Pairing), None)
        return {row.pairing_id: known[row.peer_id] for row in tx.select(Pairing) if row.peer_id in known} or None

    def choose(found: Iterable[Candidate]) -> Choice | None:
        best = max(found, key=lambda one: one.rank, default=None)
        return None if best is None else Choice(best, best if best.token is not None else None)

    monkeypatch.setattr(Phones, "among", among)
    monkeypatch.setattr(answers, "choose", choose)


def names_before_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id or a name that is whole is preferred to the beginning of an id, and a device may be called anything."""

    def resolve(word: str, known: Sequence[tuple[str, str]], **_: Any) -> str:
        exact = [device_id for device_id, name in known if word in (device_id, name)]
        found = exact or [device_id for device_id, name in known if device_id.startswith(word) or name.startswith(word)]
        if len(found) != 1:
            raise LocalError(f"{word!r} means {len(found)} devices")
        return found[0]

    monkeypatch.setattr(pairings, "resolve_device", resolve)
    monkeypatch.setattr(phone_pairing, "name_problem", lambda *_: "")


def endpoints_unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A companion sends wherever the grant says."""

    async def judge(self: Endpoints, grant: Grant) -> str:
        return ""

    monkeypatch.setattr(Endpoints, "judge", judge)


@pytest.mark.parametrize(
    ("put_back", "role", "seen"),
    [
        (keys_in_one_name_space, "phone", "changed grants"),
        (keys_in_one_name_space, "companion", "changed grants"),
        (the_newest_grant_of_an_account, "phone", "another phone's grant"),
        (names_before_ids, "companion", "and reached"),
        (endpoints_unjudged, "phone", "a request went to"),
    ],
)
def test_an_old_mistake_that_is_put_back_is_found(
    put_back: Callable[[pytest.MonkeyPatch], None], role: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back(monkeypatch)
    plans = (plan for plan in map(make_plan, range(4000)) if plan.third is not None and plan.third.role == role)
    with quiet():
        problems = (run_schedule(plan.seed, plan=plan).problem for plan in plans)
        found = next(problem for problem in problems if seen in problem)
    assert found.startswith("promise 15 ")


# -- plans -------------------------------------------------------------------------------------------------


def test_some_plans_have_a_third_end_and_the_others_are_as_they_were() -> None:
    plans = [make_plan(seed) for seed in range(4000)]
    thirds = [plan for plan in plans if plan.third]
    assert {plan.third.role for plan in thirds if plan.third} == {"phone", "companion"}
    assert 0.06 < len(thirds) / len(plans) < 0.16
    said = {
        (plan.third.role, step.args[0], step.args[1])
        for plan in thirds
        for step in plan.steps
        if plan.third and "say" in step.act
    }
    whose = ("own", "other", "grant", "unknown")
    assert said >= {(role, kind, each) for role, kinds in HANDOFF_TYPES.items() for kind in kinds for each in whose}
    assert not any(step.act.startswith("third") for plan in plans if not plan.third for step in plan.steps)


def test_what_a_third_end_never_said_is_missing() -> None:
    pair = ("third_phone", "grant:live", "CANCEL")
    reached = dict.fromkeys(coverage.every_pair(), 1)
    del reached[pair]
    assert pair in coverage.missing(reached)  # type: ignore[arg-type]  # a mapping will do
