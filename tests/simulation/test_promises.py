"""Each promise is broken on purpose, and the check that owns it says so: a check that cannot fail checks nothing.

The histories here are made by hand, event by event; no world runs. Each test first shows the innocent twin of the
history, which passes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from token_relay.agents.elapsed import Stamp
from token_relay.agents.ports import Now, Record
from token_relay.agents.records import (
    AuditEvent,
    CachedToken,
    CompanionHandoff,
    Grant,
    Outgoing,
    Pairing,
    PhoneHandoff,
    Seen,
)
from token_relay.agents.token_source import Peer, TokenGranted, TokenQuery, TokenRefused
from token_relay.apps.policy import Policy, Rule
from token_relay.protocol.envelope import ENVELOPE_BYTES
from token_relay.protocol.handoff import CompanionStateName, PhoneStateName
from token_relay.protocol.messages import envelope_digest
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse
from token_relay.sandbox.marked_tokens import MARK
from token_relay.sandbox.provider.memory.state import Family, RefreshEntry, State
from token_relay.sandbox.provider.tokens.issued import refresh_value
from token_relay.sandbox.provider.world.rules import RULES
from token_relay.simulation.promises.ledger import ViolationError
from token_relay.simulation.promises.promises import Promises
from token_relay.simulation.promises.settlement import JudgedDevice, judge

NOW = Now("boot-1", 1000.0, 1_800_000_000.0, True)
KEY = bytes(32)
STAMP = Stamp.of(NOW).to_text()
DENIED = HttpResponse(400, {}, b'{"error": "invalid_grant"}')
GOOD = HttpResponse(200, {}, b'{"access_token": "x", "refresh_token": "y"}')
PEER_TOPIC = "relay/v1/aaaaaaaaaaaaaaaaaaaaaaaaaa/from/bbbbbbbbbbbbbbbbbbbbbbbbbb"


class Hand:
    """Feeds a set of checks event by event, and keeps the tables of each end."""

    def __init__(self, **options: Any) -> None:
        read = SimpleNamespace(
            token_key=KEY,
            families={},
            users={"pat": SimpleNamespace(revoked_at_seq=lambda method: -1)},
            clock_offset_s=0.0,
            rules=RULES["strict"],
        )
        self.state = cast("State", read)  # as much of it as the promises read
        self.refusals: dict[str, int] = {}
        self.clock: Now | None = None
        self.promises = Promises(
            self.state, refusals_of=lambda end: self.refusals, clock_of=lambda end: self.clock, **options
        )
        self.tables: dict[str, dict[type[Record], dict[tuple[str | int, ...], Record]]] = {}

    def token(self, family: str = "f", generation: int = 1, used: int = 0) -> RefreshToken:
        """Have the provider issue a link."""
        value = RefreshToken(refresh_value(KEY, RefreshEntry(family, generation, None)))
        if family not in self.state.families:
            self.state.families[family] = Family(family, "client", "pat", (), "", "password", 0, 0.0, None)
        if used:
            self.say("refresh_committed", family=family, generation=generation, used_generation=used)
        else:
            self.say("signed_in", family=family)
        return value

    def say(self, kind: str, **fields: object) -> None:
        self.promises.provider_said({"kind": kind, **fields})

    def commit(self, end: str, *put: Record, delete: tuple[Record, ...] = ()) -> None:
        """Commit rows at an end."""
        before = self.tables.get(end, {})
        after = {record: dict(held) for record, held in before.items()}
        for row in put:
            after.setdefault(type(row), {})[_key(row)] = row
        for row in delete:
            del after[type(row)][_key(row)]
        self.tables[end] = after
        self.promises.committed(end, before, after)

    def send(self, end: str, token: RefreshToken, *, field: str = "refresh_token") -> HttpRequest:
        form: tuple[tuple[str, Any], ...] = (("grant_type", "refresh_token"), (field, token))
        request = HttpRequest("POST", "https://provider.example/token", form=form)
        self.promises.requested(end, request)
        return request

    def judge(self, *, told: int = 0) -> None:
        views = [
            JudgedDevice(end, end, "phone" if end.startswith("phone") else "companion", tables, NOW)
            for end, tables in self.tables.items()
        ]
        judge(self.promises, views, told=told)


def _key(row: Record) -> tuple[str | int, ...]:
    return tuple(getattr(row, name) for name in row.key)


def grant(token: RefreshToken | None, **more: Any) -> Grant:
    like = Grant(
        grant_id="g",
        pairing_id="",
        handoff_id="",
        issuer="https://provider.example",
        client_id="client",
        token_endpoint="",
        revocation_endpoint="",
        scope="openid",
        audience="",
        subject="pat",
        account="pat",
        profile="strict",
        signed_in_at=1,
        is_otp=False,
        stored_at=1,
        refresh_token=token,
    )
    return replace(like, **more)


def given(token: RefreshToken | None, **more: Any) -> Grant:
    """A companion's grant."""
    return grant(token, grant_id="c", pairing_id="p", handoff_id="h", **more)


def handoff(state: PhoneStateName = "released", **more: Any) -> PhoneHandoff:
    like = PhoneHandoff(
        handoff_id="h",
        pairing_id="p",
        grant_id="g",
        state=state,
        reason="",
        strategy="mint",
        scope="",
        lease_days=0,
        created=STAMP,
        created_at=1,
        expires_at=0,
    )
    return replace(like, **more)


def taken(state: CompanionStateName = "stored", **more: Any) -> CompanionHandoff:
    return replace(CompanionHandoff("h", "p", state, was_stored=state == "stored"), **more)


def pairing(**more: Any) -> Pairing:
    like = Pairing("p", "watch", b"k", "watch", "active", b"t", STAMP, paired_at=1, heard_at=1)
    return replace(like, **more)


def breaks(promise: int, end: str | None = None) -> Any:
    """Expect this promise to be reported, and no other."""

    class Expectation:
        def __enter__(self) -> None:
            self.raises = pytest.raises(ViolationError, match=f"promise {promise} ")
            self.caught = self.raises.__enter__()

        def __exit__(self, *what: Any) -> Any:
            result = self.raises.__exit__(*what)
            assert self.caught.value.promise == promise
            assert end is None or self.caught.value.end == end
            return result

    return Expectation()


# -- 1 -----------------------------------------------------------------------------------------------------


def test_1_a_token_taken_back_because_time_passed_is_two_holders() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("phone", grant(token))
    hand.commit("phone", grant(None, state="dead", reason="moved"), handoff(strategy="move", held_token=token))
    hand.commit("watch", given(token), taken())
    with breaks(1, "phone"):
        hand.commit("phone", grant(token))


def test_1_the_successor_on_one_end_and_its_parent_on_the_other_are_one_chain() -> None:
    hand = Hand()
    first = hand.token()
    hand.commit("watch", given(first))
    second = hand.token(generation=2, used=1)
    hand.commit("watch", given(second))
    with breaks(1, "phone"):
        hand.commit("phone", grant(first))


def test_1_branch_begins_a_chain_of_its_own() -> None:
    hand = Hand()
    first = hand.token()
    obtaining = handoff("offered", reason="accepted", strategy="branch", is_obtaining=True)
    hand.commit("phone", grant(first, state="refreshing", intent=STAMP), obtaining)
    request = hand.send("phone", first)
    second = hand.token(generation=2, used=1)
    hand.promises.answered("phone", request, GOOD)
    hand.commit("phone", handoff("released", strategy="branch"))
    hand.commit("watch", given(second))
    assert hand.promises.ledger.checks[1] > 0


def test_1_a_restored_phone_is_in_doubt_until_it_has_noticed() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("phone", grant(token), pairing())
    old = hand.tables["phone"]
    moved = handoff(strategy="move", held_token=token)
    hand.commit("phone", grant(None, state="dead", reason="moved"), moved)
    hand.commit("watch", given(token))
    hand.tables["phone"] = old
    hand.promises.restored("phone", old)  # offline a rollback of the whole disk cannot be noticed
    with breaks(1, "phone"):
        hand.commit("phone", pairing(rollback="self"))  # noticed, and the grant is still usable


# -- 2 -----------------------------------------------------------------------------------------------------


def use(hand: Hand, token: RefreshToken, **more: Any) -> HttpRequest:
    hand.commit("watch", given(token, state="refreshing", intent=STAMP, intent_attempts=1, **more))
    return hand.send("watch", token)


def deny(hand: Hand, end: str, token: RefreshToken, answer: HttpResponse) -> None:
    """An end sends its token, with its intent on disk, and gets this answer."""
    (row,) = (row for row in hand.tables[end][Grant].values() if isinstance(row, Grant) and row.refresh_token == token)
    hand.commit(end, replace(row, state="refreshing", intent=STAMP, intent_attempts=1))
    hand.promises.answered(end, hand.send(end, token), answer)


def test_2_reuse_without_a_loss_is_reported() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    hand.promises.answered("watch", use(hand, token), GOOD)
    with breaks(2, "watch"):
        hand.say("reuse_detected", family="f", generation=1)


@pytest.mark.parametrize("cause", ["lost answer", "cut answer", "server error", "page", "crash", "rollback"])
def test_2_reuse_after_a_loss_is_no_fault_of_ours(cause: str) -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    request = use(hand, token, is_sole=True)
    match cause:
        case "lost answer":
            hand.promises.answered("watch", request, AnswerLost("reset"))
        case "cut answer":
            hand.promises.answered("watch", request, HttpResponse(200, {}, GOOD.body[:20]))
        case "server error":
            hand.promises.answered("watch", request, HttpResponse(502, {}, b"bad gateway"))
        case "page":
            hand.promises.answered("watch", request, HttpResponse(403, {}, b"<h1>no</h1>"))
        case "crash":
            hand.promises.stopped("watch", crashed=True)
        case _:
            hand.promises.answered("watch", request, GOOD)
            hand.promises.restored("watch", hand.tables["watch"])
    hand.say("reuse_detected", family="f", generation=1)
    assert hand.promises.ledger.checks[2] >= 1


def test_2_an_answer_that_says_not_processed_is_no_excuse() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    hand.promises.answered("watch", use(hand, token), HttpResponse(429, {}, b"<h1>later</h1>"))
    with breaks(2, "watch"):
        hand.say("reuse_detected", family="f", generation=1)


@pytest.mark.parametrize("loss", ["lost answer", "crash"])
@pytest.mark.parametrize(
    ("row", "may_be"),
    [
        ({"is_sole": True}, True),
        ({"is_sole": False}, False),
        ({"profile": "auth0"}, True),
        ({"profile": "duende-one-time"}, True),
        ({"profile": "oidc-provider", "is_sole": True}, False),
    ],
)
def test_2_after_a_lost_answer_no_reuse_that_could_end_what_others_hold(
    row: dict[str, Any], may_be: bool, loss: str
) -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token, **row))
    request = use(hand, token, **row)
    if loss == "crash":
        hand.promises.stopped("watch", crashed=True)
    else:
        hand.promises.answered("watch", request, AnswerLost("reset"))
    if may_be:
        hand.say("reuse_detected", family="f", generation=1)
        return
    with breaks(2, "watch"):
        hand.say("reuse_detected", family="f", generation=1)


def test_2_a_crash_outside_the_intent_excuses_nothing() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    hand.promises.answered("watch", use(hand, token), GOOD)
    hand.commit("watch", given(hand.token(generation=2, used=1)))
    hand.promises.stopped("watch", crashed=True)
    with breaks(2):
        hand.say("reuse_detected", family="f", generation=1)


# -- 3 -----------------------------------------------------------------------------------------------------


def test_3_a_revoked_handoff_that_is_stored_again_is_reported() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token), taken())
    hand.commit("phone", handoff("revoking"))
    hand.commit("watch", given(None, state="dead", reason="revoked"), taken("dead", reason="revoked"))
    hand.commit("phone", handoff("gone", reason="revoked"))
    with breaks(3, "watch"):
        hand.commit("watch", given(token))  # a repeated TOKEN finds no tombstone


def test_3_a_companion_that_says_revoked_and_keeps_the_grant_is_reported() -> None:
    hand = Hand()
    hand.commit("watch", given(hand.token()), taken())
    with breaks(3, "watch"):
        hand.commit("phone", handoff("gone", reason="revoked"))


def test_3_a_restored_image_is_judged_at_the_settlement() -> None:
    hand = Hand()
    hand.commit("watch", given(hand.token()), taken(), pairing(peer_id="phone"))
    old = hand.tables["watch"]
    hand.commit("phone", handoff("revoking"), pairing())
    hand.commit("watch", given(None, state="dead", reason="revoked"))
    hand.commit("phone", handoff("gone", reason="revoked"), pairing())
    hand.tables["watch"] = old
    hand.promises.restored("watch", old)
    with breaks(3, "watch"):
        hand.judge()


# -- 4 -----------------------------------------------------------------------------------------------------


def test_4_a_receipt_that_leaves_before_the_commit_is_reported() -> None:
    hand = Hand()
    hand.commit("watch", taken("ready"))
    hand.commit("phone", handoff("released"))
    with breaks(4, "phone"):
        hand.commit("phone", handoff("done"))


def test_4_a_successor_state_is_as_good_as_the_grant() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", taken(), given(token))
    deny(hand, "watch", token, DENIED)
    hand.commit("watch", taken("dead", reason="ended", was_stored=True), given(None, state="dead", reason="denied"))
    hand.commit("phone", handoff("done"))
    assert hand.promises.ledger.checks[4] > 0


def test_4_a_stored_row_without_its_grant_is_reported() -> None:
    hand = Hand()
    hand.commit("watch", taken())
    with breaks(4, "phone"):
        hand.commit("phone", handoff("done"))


# -- 5 -----------------------------------------------------------------------------------------------------


def test_5_a_handoff_that_waits_for_ever_is_reported() -> None:
    hand = Hand()
    hand.commit("phone", grant(hand.token()), pairing(), handoff("released"))
    hand.commit("watch", pairing(peer_id="phone"), taken("ready"))
    with breaks(5, "phone"):
        hand.judge()


def test_5_a_lost_device_is_named_with_the_one_action() -> None:
    hand = Hand()
    hand.commit("phone", grant(hand.token()), pairing(), handoff("revoking"))
    hand.judge()
    assert hand.promises.ledger.checks[5] > 0


def test_5_a_grant_that_is_over_and_thought_alive_is_reported() -> None:
    hand = Hand()
    done = handoff("done", device_state="held", generation=2)
    hand.commit("watch", pairing(peer_id="phone"), taken(), given(None, state="needs_handoff", reason="uncertain"))
    hand.commit("phone", grant(hand.token()), pairing())
    hand.commit("phone", replace(done, device_state="needs_handoff"))
    hand.judge()
    hand.commit("phone", done)
    with breaks(5, "phone"):
        hand.judge()


# -- 6 -----------------------------------------------------------------------------------------------------


def test_6_a_living_chain_that_nobody_has_and_nobody_names_is_reported() -> None:
    hand = Hand()
    hand.token("orphan")
    hand.commit("watch", pairing(peer_id="phone"), given(hand.token("theirs")), taken())
    hand.commit("phone", grant(hand.token("own")), pairing(), handoff("done", device_state="held"))
    with breaks(6):
        hand.judge()
    hand.commit("phone", handoff("done", device_state="held", orphans=1))
    hand.judge()


def test_6_a_grant_that_vanishes_without_a_record_is_reported() -> None:
    hand = Hand()
    hand.commit("phone", grant(hand.token()))
    hand.promises.ledger.committed("phone", hand.tables["phone"], {})  # gone, and nothing says what became of it
    hand.tables["phone"] = {}
    with breaks(6):
        hand.judge()


def test_6_a_signed_out_grant_has_its_record() -> None:
    hand = Hand()
    hand.commit("phone", grant(hand.token()))
    hand.promises.commanded("phone", "sign_out", is_over=False)
    hand.commit("phone", delete=(grant(None),))
    hand.promises.commanded("phone", "sign_out", is_over=True)
    hand.judge()
    assert hand.promises.ledger.checks[6] == 1


# -- 7 -----------------------------------------------------------------------------------------------------


def test_7_a_token_that_leaves_before_its_intent_is_on_disk_is_reported() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    with breaks(7, "watch"):
        hand.send("watch", token)


def test_7_each_attempt_needs_an_intent_of_its_own() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    hand.promises.answered("watch", use(hand, token), AnswerLost("reset"))
    with breaks(7, "watch"):
        hand.send("watch", token)


def test_7_an_intent_does_not_outlive_its_process() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    hand.commit("watch", given(token, state="refreshing", intent=STAMP, intent_attempts=1))
    hand.promises.stopped("watch", crashed=True)
    with breaks(7, "watch"):
        hand.send("watch", token)


def test_7_a_revoked_token_was_on_disk_too() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    hand.send("watch", token, field="token")
    with breaks(7, "watch"):
        hand.send("watch", hand.token("other"), field="token")


def test_7_a_late_token_is_revoked_only_after_the_disk_says_that_it_was_dropped() -> None:
    hand = Hand()
    late = hand.token()
    hand.commit("watch", AuditEvent(1, 1, "late_answer_dropped", "", "", "g", 0, "", "", ""))
    hand.send("watch", late, field="token")
    with breaks(7, "watch"):  # one answer brings one token
        hand.send("watch", late, field="token")


# -- 8 -----------------------------------------------------------------------------------------------------


def test_8_puback_before_the_commit_is_reported() -> None:
    hand = Hand()
    hand.promises.delivered("watch", PEER_TOPIC, b"m")
    hand.commit("watch", Seen("p", 1, envelope_digest(b"m")))
    hand.promises.acknowledged("watch", PEER_TOPIC, b"m")
    hand.promises.delivered("watch", PEER_TOPIC, b"n")
    with breaks(8, "watch"):
        hand.promises.acknowledged("watch", PEER_TOPIC, b"n")


def test_8_a_refused_message_may_be_acknowledged_but_not_one_that_met_a_bug() -> None:
    hand = Hand()
    hand.promises.delivered("watch", PEER_TOPIC, b"m")
    hand.refusals["wrong_pairing"] = 1
    hand.promises.acknowledged("watch", PEER_TOPIC, b"m")
    hand.promises.delivered("watch", PEER_TOPIC, b"n")
    hand.refusals["internal_error"] = 1
    with breaks(8, "watch"):
        hand.promises.acknowledged("watch", PEER_TOPIC, b"n")


# -- 9 -----------------------------------------------------------------------------------------------------


def leak_in_message(hand: Hand) -> None:
    hand.promises.published("phone", PEER_TOPIC, MARK.encode().ljust(ENVELOPE_BYTES[0], b"."))


def leak_in_topic(hand: Hand) -> None:
    hand.promises.published("phone", f"relay/{MARK}", bytes(ENVELOPE_BYTES[0]))


def leak_without_envelope(hand: Hand) -> None:
    hand.promises.published("phone", PEER_TOPIC, b"hello")


def leak_in_log(hand: Hand) -> None:
    hand.promises.logged(f"failed: {MARK.encode().hex()}")


def leak_in_event(hand: Hand) -> None:
    hand.commit("phone", AuditEvent(1, 1, "signed_in", "", "", "", 1, f"rt.{MARK}.x", "", ""))


def leak_in_row(hand: Hand) -> None:
    hand.commit("phone", handoff("offered", problem=f"refused rt.{MARK}.x"))


def leak_in_refusal(hand: Hand) -> None:
    hand.promises.served("watch", TokenQuery(), TokenRefused("offline", f"no answer for rt.{MARK}"))


def leak_to_app(hand: Hand) -> None:
    token = AccessToken(hand.token().reveal())
    hand.promises.served("watch", TokenQuery(), TokenGranted(token, "Bearer", datetime.now(UTC), "", ""))


@pytest.mark.parametrize(
    "leak",
    [
        leak_in_message,
        leak_in_topic,
        leak_without_envelope,
        leak_in_log,
        leak_in_event,
        leak_in_row,
        leak_in_refusal,
        leak_to_app,
    ],
)
def test_9_a_leak_is_reported(leak: Any) -> None:
    with breaks(9):
        leak(Hand(is_sealed=True))


# -- 10 ----------------------------------------------------------------------------------------------------


def test_10_a_number_that_is_accepted_again_after_a_crash_is_reported() -> None:
    hand = Hand()
    hand.commit("watch", Seen("p", 7, b"a"), pairing(seq_high=7))
    hand.promises.stopped("watch", crashed=True)
    hand.commit("watch", delete=(Seen("p", 7, b"a"),))
    with breaks(10, "watch"):
        hand.commit("watch", Seen("p", 7, b"a"))


def test_10_other_bytes_under_an_accepted_number_are_reported() -> None:
    hand = Hand()
    hand.commit("watch", Seen("p", 7, b"a"))
    with breaks(10, "watch"):
        hand.commit("watch", Seen("p", 7, b"b"))


def test_10_a_restored_window_may_take_what_it_lost() -> None:
    hand = Hand()
    hand.commit("watch", Seen("p", 7, b"a"), pairing(seq_high=7))
    old = hand.tables["watch"]
    hand.commit("watch", Seen("p", 8, b"b"), pairing(seq_high=8))
    hand.tables["watch"] = old
    hand.promises.restored("watch", old)
    hand.commit("watch", Seen("p", 8, b"b"), pairing(seq_high=8))
    with breaks(10, "watch"):
        hand.commit("watch", Seen("p", 7, b"c"))


# -- 11 ----------------------------------------------------------------------------------------------------

POLICY = Policy(500, (Rule(uid=1000, scopes=frozenset({"openid"})),))


def test_11_a_token_for_a_uid_without_a_rule_is_reported() -> None:
    hand = Hand()
    asked = hand.promises.policy.asked
    asked("watch", Peer(500, 500, 1), POLICY, TokenQuery(), "openid mail")
    asked("watch", Peer(1000, 1000, 1), POLICY, TokenQuery(scope="openid"), "openid")
    asked("watch", Peer(1001, 1001, 1), POLICY, TokenQuery(scope="openid"), None)
    with breaks(11, "watch"):
        asked("watch", Peer(1001, 1001, 1), POLICY, TokenQuery(scope="openid"), "openid")


def test_11_a_token_that_is_wider_than_the_rule_is_reported() -> None:
    hand = Hand()
    with breaks(11, "watch"):
        hand.promises.policy.asked("watch", Peer(1000, 1000, 1), POLICY, TokenQuery(scope="openid"), "openid mail")


# -- 12 ----------------------------------------------------------------------------------------------------


def leased(hand: Hand) -> AccessToken:
    hand.clock = NOW
    lease = {"lease_days": 1, "lease_marked": STAMP, "lease_wall": NOW.wall_s}
    access = AccessToken("at")
    hand.commit("watch", given(hand.token(), **lease), pairing())
    hand.commit("watch", CachedToken("c", "", "", "Bearer", STAMP, 3600.0, 1, access))
    return access


def serve(hand: Hand, access: AccessToken) -> None:
    hand.promises.served("watch", TokenQuery(), TokenGranted(access, "Bearer", datetime.now(UTC), "", ""))


def later(seconds: float, **more: Any) -> Now:
    return replace(NOW, boot_s=NOW.boot_s + seconds, wall_s=NOW.wall_s + seconds, **more)


def test_12_a_token_after_the_end_of_the_lease_is_reported() -> None:
    hand = Hand()
    access = leased(hand)
    hand.clock = later(86_000.0)
    serve(hand, access)
    hand.clock = later(95_000.0, is_synced=False)
    with breaks(12, "watch"):
        serve(hand, access)


def test_12_a_clock_that_was_set_back_gives_nothing_back() -> None:
    hand = Hand()
    access = leased(hand)
    hand.clock = replace(NOW, boot_s=NOW.boot_s + 95_000.0)
    with breaks(12, "watch"):
        serve(hand, access)


def test_12_a_reboot_gives_nothing_back() -> None:
    hand = Hand()
    access = leased(hand)
    hand.clock = later(80_000.0)
    hand.promises.stopped("watch", crashed=True)
    hand.clock = Now("boot-2", 100.0, 0.0, False)
    hand.commit("watch", pairing(heard_at=2))
    hand.clock = Now("boot-2", 30_000.0, 0.0, False)
    with breaks(12, "watch"):
        serve(hand, access)


def renew(hand: Hand, *, answered: bool) -> None:
    hand.clock = NOW
    used = {"lease_days": 1, "lease_marked": STAMP, "lease_used_s": 50_000.0}
    token = hand.token()
    hand.commit("watch", given(token, **used), pairing(challenge="c"))
    if answered:
        hand.promises.published("phone", PEER_TOPIC, b"c".ljust(ENVELOPE_BYTES[0]))
    hand.commit("watch", given(token, **{**used, "lease_used_s": 0.0}), pairing(challenge=""))


def lease_in(end: str, payload: bytes) -> tuple[str, str]:
    return "p", payload.decode().strip()


def test_12_a_lease_that_is_renewed_by_any_other_message_is_reported() -> None:
    hand = Hand(lease_of_message=lease_in)
    hand.commit("phone", handoff("offered"))
    renew(hand, answered=True)
    with breaks(12, "watch"):
        renew(Hand(lease_of_message=lease_in), answered=False)


def test_12_a_lease_that_is_sent_while_revoke_waits_is_reported() -> None:
    hand = Hand(lease_of_message=lease_in)
    hand.commit("phone", handoff("revoking"), Outgoing("p", 1, "REVOKE", "h", b"", STAMP))
    with breaks(12, "phone"):
        renew(hand, answered=True)


# -- 13 ----------------------------------------------------------------------------------------------------


def test_13_a_second_request_before_the_first_is_answered_is_reported() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    use(hand, token)
    hand.commit("watch", given(token, state="uncertain", intent=STAMP, intent_attempts=1))
    with breaks(13, "watch"):
        use(hand, token)


def test_13_the_next_request_after_the_answer_is_innocent() -> None:
    hand = Hand()
    token = hand.token()
    hand.commit("watch", given(token))
    hand.promises.answered("watch", use(hand, token), AnswerLost("reset"))
    hand.commit("watch", given(token, state="uncertain", intent=STAMP, intent_attempts=1))
    use(hand, token)
    assert hand.promises.ledger.checks[13] == 2
