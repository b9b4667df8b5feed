"""The rows of the devices: which state and what to do follows from the records, in which order, and page by page."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.schedule import GrantEnd
from token_relay.agents.phone.presence import PresenceName
from token_relay.agents.ports import Now
from token_relay.agents.records import Grant, Pairing, PhoneHandoff
from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import RefreshToken
from token_relay.service.actions import action
from token_relay.service.devices import (
    PhoneSide,
    companions_grant_end,
    device_rows,
    devices_of,
    ends_soon,
    page,
    sign_in_again,
    summary,
    unconfirmed,
)
from token_relay.service.status import Surroundings, phone_status

NOW = Now("boot", 40_000_000.0, 1_800_000_000.0, True)
DAY = 86_400
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def stamp(age_s: float) -> str:
    return Stamp("boot", NOW.boot_s - age_s, NOW.wall_s - age_s, True).to_text()


def pairing(name: str, *, heard_s: float = 10.0, **more: Any) -> Pairing:
    number = f"{sum(ord(c) * 31**place for place, c in enumerate(name)) % 10**8:08d}"
    device_id = ("".join(LETTERS[int(digit)] for digit in number) + "a" * 26)[:26]
    row = Pairing(f"p-{name}", device_id, b"", name, "active", b"", stamp(heard_s), paired_at=1)
    return replace(row, heard=stamp(heard_s), heard_at=int(NOW.wall_s - heard_s), **more)


def handoff(to: Pairing, state: str = "done", *, age_s: float = 100.0, **more: Any) -> PhoneHandoff:
    done_at = int(NOW.wall_s - age_s)
    values: dict[str, Any] = {"strategy": "branch", "scope": "", "lease_days": 90, "profile": "strict"}
    values |= {"account": "ann@x", "reason": "", "device_state": "held" if state == "done" else "", "done_at": done_at}
    at = {"created": stamp(age_s), "created_at": done_at, "expires_at": 0}
    return PhoneHandoff(f"h-{to.peer_name}-{age_s}", to.pairing_id, "g", state, **at, **(values | more))  # type: ignore[arg-type]


def grant(**more: Any) -> Grant:
    row = Grant(
        "g", "", "", issuer="https://i", client_id="c", token_endpoint="", revocation_endpoint="", scope="s",
        audience="", subject="sub", account="ann@x", profile="strict", signed_in_at=1, is_otp=False, stored_at=1,
        refresh_token=RefreshToken("rt-1"),
    )  # fmt: skip
    return replace(row, **more)


SIGNED_IN = PhoneSide(NOW, [grant()])
KITCHEN = pairing("kitchen")


def one(
    row: Pairing, *handoffs: PhoneHandoff, presence: PresenceName = "online", phone: PhoneSide = SIGNED_IN
) -> tuple[str, str, str]:
    """Return state, slug and words of the one device."""
    (shown,) = device_rows(devices_of([row], handoffs, {row.pairing_id: presence}), phone)
    return shown["state"], shown["action"]["slug"] if shown["action"] else "", shown["next"]


@pytest.mark.parametrize(
    ("handoffs", "presence", "is_shown"),
    [
        ([], "online", ("needs_me", "hand_off", "hand off")),
        ([handoff(KITCHEN)], "online", ("online", "", "")),
        ([handoff(KITCHEN)], "silent", ("silent", "", "")),
        ([handoff(KITCHEN)], "unknown", ("unknown", "", "")),
        ([handoff(KITCHEN, device_state="needs_handoff")], "online", ("needs_me", "hand_off_again", "hand off")),
        ([handoff(KITCHEN, device_state="dead")], "silent", ("needs_me", "hand_off_again", "hand off")),
        ([handoff(KITCHEN, device_state="locked")], "online", ("needs_me", "restored_backup", "hand off")),
        ([handoff(KITCHEN, device_state="refused")], "online", ("needs_me", "client_refused", "see status")),
        ([handoff(KITCHEN, "offered")], "online", ("waiting", "", "")),
        ([handoff(KITCHEN, "released")], "unknown", ("waiting", "", "")),
        ([handoff(KITCHEN, "offered")], "silent", ("needs_me", "bring_device_online", "bring online")),
        ([handoff(KITCHEN, "revoking")], "silent", ("needs_me", "bring_device_online", "bring online")),
        ([handoff(KITCHEN, "gone", reason="revoked")], "online", ("online", "", "")),  # a person took it away
        ([handoff(KITCHEN, "gone", reason="lost")], "online", ("needs_me", "hand_off", "hand off")),
        ([handoff(KITCHEN, "cancelled")], "online", ("needs_me", "hand_off", "hand off")),
        (
            [handoff(KITCHEN, "offered", reason="accepted", strategy="mint")],
            "online",
            ("needs_me", "finish_handoff", "hand off"),
        ),
        ([handoff(KITCHEN, "offered", strategy="mint")], "online", ("waiting", "", "")),  # the companion's turn
        ([handoff(KITCHEN, "offered", reason="accepted")], "online", ("waiting", "", "")),
        # an open one counts, whatever is newer; then the newest
        ([handoff(KITCHEN, age_s=5), handoff(KITCHEN, "offered", age_s=50)], "online", ("waiting", "", "")),
        ([handoff(KITCHEN, age_s=5), handoff(KITCHEN, device_state="dead", age_s=50)], "online", ("online", "", "")),
        # one that came to nothing takes nothing away
        ([handoff(KITCHEN, age_s=50), handoff(KITCHEN, "cancelled", age_s=5)], "online", ("online", "", "")),
        (
            [handoff(KITCHEN, device_state="dead", age_s=50), handoff(KITCHEN, "cancelled", age_s=5)],
            "online",
            ("needs_me", "hand_off_again", "hand off"),
        ),
        # e-mail code at Entra: 24 hours, of which a quarter is left
        (
            [handoff(KITCHEN, profile="entra", is_otp=True, signed_in_at=int(NOW.wall_s) - 19 * 3600)],
            "online",
            ("needs_me", "grant_ends_soon", "hand off"),
        ),
    ],
)
def test_state_and_what_to_do(handoffs: list[PhoneHandoff], presence: PresenceName, is_shown: tuple[str, ...]) -> None:
    assert one(KITCHEN, *handoffs, presence=presence) == is_shown


@pytest.mark.parametrize("state", ["offered", "released", "cancelling", "cancelled"])
def test_what_a_device_holds_is_shown_while_another_handoff_is_open(state: str) -> None:
    row = pairing("kitchen", heard_s=80 * DAY)
    handoffs = [handoff(row, age_s=81 * DAY, profile="entra"), handoff(row, state, age_s=5, account="bob@x")]
    (shown,) = device_rows(devices_of([row], handoffs, {row.pairing_id: "silent"}), SIGNED_IN)
    assert (shown["account"], shown["accounts"], shown["grant"]) == ("ann@x", 1, "held")
    assert shown["lease_left_s"] == 10 * DAY
    assert shown["grant_ends_at"] == NOW.wall_s + 10 * DAY


def test_the_end_of_a_lease_is_said_while_another_handoff_is_open() -> None:
    row = pairing("kitchen", heard_s=84 * DAY)
    handoffs = [handoff(row, age_s=85 * DAY), handoff(row, "offered", age_s=5, lease_days=1)]
    assert one(row, *handoffs, presence="unknown") == ("needs_me", "device_lease_ends", "bring online")


@pytest.mark.parametrize(
    ("days", "heard_s", "left_s", "slug"),
    [
        (90, 10, 90 * DAY - 10, ""),
        (90, 82 * DAY, 8 * DAY, ""),
        (90, 84 * DAY, 6 * DAY, "device_lease_ends"),
        (90, 91 * DAY, 0, "device_lease_ends"),
        (4, 10, 4 * DAY - 10, ""),  # a short one: a quarter
        (4, 3 * DAY + 10, DAY - 10, "device_lease_ends"),
        (0, 200 * DAY, None, ""),  # no lease
    ],
)
def test_lease_left_counts_from_when_the_device_was_last_heard(
    days: int, heard_s: float, left_s: int | None, slug: str
) -> None:
    row = pairing("kitchen", heard_s=heard_s)
    (shown,) = device_rows(devices_of([row], [handoff(row, lease_days=days)], {}), SIGNED_IN)
    assert shown["lease_left_s"] == left_s
    assert (shown["action"]["slug"] if shown["action"] else "") == slug


def test_an_open_handoff_has_no_lease_yet() -> None:
    (shown,) = device_rows(devices_of([KITCHEN], [handoff(KITCHEN, "offered")], {}), SIGNED_IN)
    assert shown["lease_left_s"] is None


@pytest.mark.parametrize(("heard_s", "left_d"), [(0.0, 90), (30.0 * DAY, 60), (200.0 * DAY, 10)])
def test_a_grant_that_ends_unused_was_alive_when_its_device_was_last_heard(heard_s: float, left_d: int) -> None:
    end = companions_grant_end(handoff(KITCHEN, profile="entra", age_s=80 * DAY), int(NOW.wall_s - heard_s))
    assert end is not None and end.at == int(NOW.wall_s) + left_d * DAY


def test_nobody_signed_in_is_said_where_a_handoff_needs_it() -> None:
    out = PhoneSide(NOW, [])
    again = handoff(KITCHEN, device_state="needs_handoff")
    assert one(KITCHEN, again, phone=out) == ("needs_me", "sign_in", "sign in")
    assert one(KITCHEN, replace(again, strategy="mint"), phone=out)[1] == "hand_off_again"
    assert one(KITCHEN, handoff(KITCHEN), phone=replace(out, estranged={KITCHEN.peer_id}))[1] == "pair_again"
    locked = PhoneSide(NOW, [grant(state="locked", reason="rollback")])
    assert one(replace(KITCHEN, rollback="self"), again, phone=locked) == ("needs_me", "restored_phone", "sign in")


def test_a_device_with_grants_of_two_people_shows_the_latest_and_counts_both() -> None:
    given = [handoff(KITCHEN, age_s=9, account="bob@x"), handoff(KITCHEN, age_s=5), handoff(KITCHEN, age_s=50)]
    given.append(handoff(KITCHEN, "gone", age_s=70, account="eve@x"))
    (row,) = device_rows(devices_of([KITCHEN], given, {}), SIGNED_IN)
    assert (row["account"], row["accounts"]) == ("ann@x", 2)


def test_a_device_that_is_being_unpaired_needs_nobody_while_it_is_not_silent() -> None:
    row = pairing("kitchen", state="retired")
    assert one(row, handoff(row, "revoking"), presence="online") == ("leaving", "", "")
    assert one(row, handoff(row, "revoking"), presence="silent")[:2] == ("needs_me", "bring_device_online")
    assert one(row, handoff(row, device_state="needs_handoff")) == ("leaving", "", "")
    assert one(row, handoff(row, "offered"), presence="silent") == ("leaving", "", "")


@pytest.mark.parametrize(
    ("life_d", "left_d", "is_soon"),
    [(90, 8, False), (90, 6.9, True), (28, 6.9, True), (8, 5, False), (8, 1.9, True), (1, 0.3, False), (1, 0.2, True)],
)
def test_a_grant_ends_soon_in_its_last_week_or_its_last_quarter(life_d: float, left_d: float, is_soon: bool) -> None:
    assert ends_soon(GrantEnd(int(NOW.wall_s + left_d * DAY), life_d * DAY), NOW) is is_soon


def test_of_two_pairings_that_are_over_the_newest_counts() -> None:
    older, newer = (replace(KITCHEN, pairing_id=f"p{at}", state="retired", paired_at=at) for at in (5, 6))
    for rows in ([older, newer], [newer, older]):
        (device,) = devices_of(rows, [], {})
        assert device.pairing == newer


def test_a_replacement_that_was_begun_is_to_be_finished() -> None:
    new = pairing("new")
    old = replace(KITCHEN, replaced_by=new.peer_id)
    rows = device_rows(devices_of([old, new], [handoff(old), handoff(new)], {}), SIGNED_IN)
    assert [(row["name"], row["next"]) for row in rows] == [("kitchen", "replace"), ("new", "")]
    assert one(old, handoff(old))[1] == ""  # the other one is gone
    over = replace(old, state="retired")  # it is done
    assert [row["next"] for row in device_rows(devices_of([over, new], [handoff(new)], {}), SIGNED_IN)] == ["", ""]


def test_only_an_unpaired_device_that_has_not_confirmed_is_waited_for() -> None:
    over = pairing("over", state="retired")
    rows = [handoff(KITCHEN, "revoking"), handoff(over, "gone")]
    assert unconfirmed([KITCHEN, over], rows) is None
    assert unconfirmed([KITCHEN, over], [*rows, handoff(over, "revoking")]) == action("bring_device_online", "over")


def test_a_lost_pairing_comes_before_what_cannot_be_done_without_it_and_is_nothing_where_it_is_over() -> None:
    phone = replace(SIGNED_IN, estranged={KITCHEN.peer_id})
    assert one(KITCHEN, handoff(KITCHEN, device_state="dead"), phone=phone)[1] == "pair_again"
    assert one(replace(KITCHEN, state="retired"), phone=phone) == ("leaving", "", "")


def test_the_device_that_says_so_is_named_when_this_disk_is_an_older_image() -> None:
    phone = PhoneSide(NOW, [grant(state="locked", reason="rollback")])
    known = devices_of([pairing("attic"), replace(KITCHEN, rollback="self")], [], {})
    assert sign_in_again(phone, known) == action("restored_phone", "kitchen")


def test_of_several_pairings_with_a_device_the_active_one_counts_and_pending_ones_are_none() -> None:
    old = replace(KITCHEN, pairing_id="old", state="retired", paired_at=5)
    new = replace(KITCHEN, pairing_id="new", state="pending", peer_id="z" * 26)
    rows = device_rows(devices_of([new, KITCHEN, old], [handoff(KITCHEN)], {}), SIGNED_IN)
    assert [(row["device_id"], row["grant"]) for row in rows] == [(KITCHEN.peer_id, "held")]


# -- Order, counts, pages ----------------------------------------------------------------------------------

NAMES = ("Zoo", "car 2", "car 10", "bath", "Äther", "car 1", "attic", "厨房")
BY_NAME = ["attic", "bath", "car 1", "car 2", "car 10", "Zoo", "Äther", "厨房"]


def many(states: dict[str, str], *, seed: int = 0) -> list[dict[str, Any]]:
    rows = [pairing(name) for name in NAMES]
    random.Random(seed).shuffle(rows)
    presence = {row.pairing_id: "silent" if states.get(row.peer_name) == "silent" else "online" for row in rows}
    handoffs = [handoff(row) for row in rows if states.get(row.peer_name) != "needs_me"]
    return device_rows(devices_of(rows, handoffs, presence), SIGNED_IN)  # type: ignore[arg-type]  # of PresenceName


@pytest.mark.parametrize("seed", range(5))
def test_what_needs_a_person_comes_first_then_what_is_silent_then_the_rest_by_name(seed: int) -> None:
    rows = many({"Zoo": "needs_me", "car 10": "silent", "car 2": "silent"}, seed=seed)
    first = ["Zoo", "car 2", "car 10"]
    assert [row["name"] for row in rows] == first + [name for name in BY_NAME if name not in first]
    counts = {"devices": 8, "needs_me": 1, "silent": 2, "waiting": 0, "unknown": 0, "leaving": 0, "fine": 5}
    assert summary(rows) == counts


def test_pages_go_on_where_the_last_one_ended_even_when_devices_have_moved() -> None:
    rows = many({"car 10": "silent"})
    shown, place = page(rows, after="", limit=3)
    assert [row["name"] for row in shown] == ["car 10", "attic", "bath"] and place is not None
    moved = many({"attic": "needs_me", "car 1": "silent"})  # the last one shown stands elsewhere now
    shown, place = page(moved, after=place, limit=3)
    assert [row["name"] for row in shown] == ["car 2", "car 10", "Zoo"] and place is not None
    shown, place = page(moved, after=place, limit=3)
    assert [row["name"] for row in shown] == ["Äther", "厨房"] and place is None
    _, place = page(rows, after="", limit=3)
    moved = many({"car 10": "silent", "bath": "needs_me"})  # the last one itself: it goes on where that one stood
    assert [row["name"] for row in page(moved, after=str(place), limit=2)[0]] == ["car 1", "car 2"]


@pytest.mark.parametrize("after", ["x", "2.", "3." + "a" * 26, "2." + "b" * 26, "2." + "A" * 26, "²." + "a" * 26])
def test_a_place_that_is_none_is_refused(after: str) -> None:
    with pytest.raises(LocalError, match="not in the list") as refused:
        page(many({}), after=after, limit=3)
    assert refused.value.hint == "token-relay phone devices"


def test_whatever_needs_a_person_in_the_list_is_asked_for_by_status() -> None:
    here = Surroundings("phone", "phone", "", "", True, "", "", {}, "")
    states = ("needs_handoff", "dead", "locked", "refused", "held")
    for state in states:
        for kind in ("done", "cancelled", "offered"):
            rows = [pairing("hall"), KITCHEN]
            given = [handoff(rows[0]), handoff(KITCHEN, kind, device_state=state if kind == "done" else "")]
            known: dict[str, PresenceName] = {"p-hall": "online", "p-kitchen": "silent"}
            status = phone_status(
                here, NOW, pairings=rows, outbox=[], handoffs=given, grants=[grant()], tokens=[], problems={},
                allow_refresh_token_access=True, presence=known,
            )  # fmt: skip
            assert bool(status["summary"]["needs_me"]) == bool(status["action"]), (state, kind)
            if status["action"] and status["action"]["slug"] != "client_refused":
                assert "kitchen" in status["action"]["sentence"]
