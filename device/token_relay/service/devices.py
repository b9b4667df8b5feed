"""The phone's devices as rows: what each is, and what a person must do about it; sorted, counted and paged. Pure.

What needs a person comes first, then what is silent, then the rest, each by name. The order, the counts and the places
in the list follow from the records and the presence alone, so the same look gives the same page.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.grants import lease, schedule
from token_relay.agents.pairings import by_peer
from token_relay.agents.phone.presence import PresenceName
from token_relay.agents.ports import Now
from token_relay.agents.records import Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.protocol.errors import LocalError
from token_relay.provider.profile import PROFILES, STRICT, Profile
from token_relay.service.actions import action

Json = dict[str, Any]
ENDS_SOON_S = 7 * 86_400
HANDOFFS_SHOWN = 5
ROWS_MAX = 500  # of one page; a row has half a kilobyte
WHOLE_MAX = 200  # pairings in one status, with their handoffs; one has up to 6 kilobytes
OPEN = ("offered", "released", "cancelling", "revoking")  # an undecided handoff counts as the latest, whatever its time
SHORT: Mapping[str, str] = {  # what to do, in the words of a column
    "sign_in": "sign in",
    "restored_phone": "sign in",
    "pair_again": "pair again",
    "hand_off": "hand off",
    "hand_off_again": "hand off",
    "restored_backup": "hand off",
    "grant_ends_soon": "hand off",
    "finish_handoff": "hand off",
    "finish_replacement": "replace",
    "bring_device_online": "bring online",
    "device_lease_ends": "bring online",
    "client_refused": "see status",
}
STATES = ("needs_me", "silent", "waiting", "unknown", "leaving")  # all but online, in the order of the summary
_PLACE = re.compile(r"([0-2])\.([a-z2-7]{26})", re.ASCII)
_DIGITS = re.compile(r"(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class PairedDevice:
    """One paired device with the handoff that counts: the open one, else the newest that was done, else the newest.

    ``held``: the one that it has its grant by, which goes on while another is open. ``accounts``: how many it has a
    grant of.
    """

    pairing: Pairing
    latest: PhoneHandoff | None
    held: PhoneHandoff | None
    presence: PresenceName
    accounts: int


@dataclass(frozen=True, slots=True)
class PhoneSide:
    """What else a phone knows: its own grants, and which peers :meth:`token_relay.agents.link.Link.estranged` names.

    ``described`` is the profile of its settings.
    """

    now: Now
    own: Sequence[Grant]
    estranged: Collection[str] = ()
    described: Profile | None = None

    @property
    def is_signed_in(self) -> bool:
        """Whether one of its grants can be used."""
        return any(grant.state not in ("dead", "needs_handoff", "locked") for grant in self.own)


def devices_of(
    pairings: Iterable[Pairing], handoffs: Iterable[PhoneHandoff], presence: Mapping[str, PresenceName]
) -> list[PairedDevice]:
    """Return the devices by name: of several pairings with one the active, else the newest; none that is pending."""
    latest: dict[str, PhoneHandoff] = {}
    held: dict[str, PhoneHandoff] = {}
    accounts: dict[str, set[str]] = {}
    for handoff in sorted(handoffs, key=lambda row: (row.state in OPEN, row.state == "done", begun(row))):
        latest[handoff.pairing_id] = handoff
        if handoff.state == "done":
            held[handoff.pairing_id] = handoff
            accounts.setdefault(handoff.pairing_id, set()).add(handoff.account)
    devices = []
    for row in by_peer(pairings).values():
        at = row.pairing_id
        there, count = presence.get(at, "unknown"), len(accounts.get(at, ()))
        devices.append(PairedDevice(row, latest.get(at), held.get(at), there, count))
    return sorted(devices, key=lambda device: _by_name(device.pairing.peer_name, device.pairing.peer_id))


def begun(row: PhoneHandoff) -> float:
    """Return when a handoff began, finer than seconds: a script begins several within one second."""
    return Stamp.from_text(row.created).wall_s


# -- What to do --------------------------------------------------------------------------------------------


def urgent(device: PairedDevice, phone: PhoneSide, sign_in: Json) -> Json | None:
    """Return what a person must do about the device's latest handoff; ``sign_in``: what they do when nobody is."""
    row, name = device.latest, device.pairing.peer_name
    if row is None or device.pairing.state != "active":
        return None
    if row.state == "offered" and row.reason == "accepted" and row.strategy == "mint":
        return action("finish_handoff", name)
    if row.state != "done":
        return None
    if row.device_state in ("needs_handoff", "dead"):
        # mint signs in by itself; the others need a grant of the phone that is alive
        return action("hand_off_again", name) if phone.is_signed_in or row.strategy == "mint" else sign_in
    if row.device_state == "refused":
        return action("client_refused")
    if row.device_state == "locked":
        return action("restored_backup", name)
    end = companions_grant_end(row, device.pairing.heard_at, phone.described)
    return action("grant_ends_soon", name) if end is not None and ends_soon(end, phone.now) else None


def waiting(device: PairedDevice) -> Json | None:
    """Return ``bring_device_online`` where an open handoff waits for the device's answer."""
    row = device.latest
    is_open = row is not None and row.state in OPEN and (device.pairing.state == "active" or row.state == "revoking")
    return action("bring_device_online", device.pairing.peer_name) if is_open else None


def unconfirmed(pairings: Iterable[Pairing], handoffs: Iterable[PhoneHandoff]) -> Json | None:
    """Return ``bring_device_online`` where an unpaired device has not confirmed that it erased a grant."""
    unpaired = {row.pairing_id: row.peer_name for row in pairings if row.state == "retired"}
    names = (unpaired[row.pairing_id] for row in handoffs if row.state == "revoking" and row.pairing_id in unpaired)
    name = next(names, None)
    return None if name is None else action("bring_device_online", name)


def half_replaced(device: PairedDevice, active: Collection[str]) -> Json | None:
    """Return ``finish_replacement`` where the device that takes this one's place is paired, and has not done so yet."""
    is_it = device.pairing.state == "active" and device.pairing.replaced_by in active
    return action("finish_replacement", device.pairing.peer_name) if is_it else None


def lacking(device: PairedDevice, now: Now) -> Json | None:
    """Return what to do about a device that has no grant, unless a person took it away, or whose lease ends soon."""
    row, held, left_s = device.latest, device.held, lease_left_s(device, now)
    if device.pairing.state != "active":
        return None
    if row is None or row.state == "cancelled" or (row.state == "gone" and row.reason != "revoked"):
        return action("hand_off", device.pairing.peer_name)
    if held is not None and left_s is not None and left_s < min(lease.WARN_BEFORE_S, held.lease_days * lease.DAY_S / 4):
        return action("device_lease_ends", device.pairing.peer_name)
    return None


def estranged(device: PairedDevice, phone: PhoneSide) -> Json | None:
    """Return ``pair_again`` for a device that greets in a pairing that is over here."""
    is_it = device.pairing.state == "active" and device.pairing.peer_id in phone.estranged
    return action("pair_again", device.pairing.peer_name) if is_it else None


def sign_in_again(phone: PhoneSide, devices: Iterable[PairedDevice]) -> Json:
    """Return how a person signs in: after a device has said that this disk is an older image, with its name."""
    if not phone.is_signed_in and any((grant.state, grant.reason) == ("locked", "rollback") for grant in phone.own):
        names = (device.pairing.peer_name for device in devices if device.pairing.rollback == "self")
        return action("restored_phone", next(names, "a device"))
    return action("sign_in")


def _to_do(device: PairedDevice, phone: PhoneSide, sign_in: Json, active: Collection[str]) -> Json | None:
    first = estranged(device, phone) or half_replaced(device, active) or urgent(device, phone, sign_in)
    waits = waiting(device) if device.presence == "silent" else None
    return first or waits or lacking(device, phone.now)


# -- Ends --------------------------------------------------------------------------------------------------


def profile_of(row: PhoneHandoff, described: Profile | None) -> Profile:
    """Return what the settings describe, where the handoff was made under that name."""
    is_it = described is not None and described.name == row.profile
    return described if described is not None and is_it else PROFILES.get(row.profile, STRICT)


def companions_grant_end(
    row: PhoneHandoff, heard_at: int, described: Profile | None = None
) -> schedule.GrantEnd | None:
    """Return when the companion's grant ends as far as the phone knows: it was alive when last heard.

    ``described``: the profile of the phone's settings.
    """
    profile = profile_of(row, described)
    return schedule.grant_end(
        profile, is_otp=row.is_otp, signed_in_at=row.signed_in_at, refreshed_at=max(row.done_at, heard_at)
    )


def ends_soon(end: schedule.GrantEnd, now: Now) -> bool:
    """Whether less than seven days are left, or of a short life less than a quarter: the keep-alive came to nothing."""
    return end.at - now.wall_s < min(ENDS_SOON_S, end.life_s / 4)


def lease_left_s(device: PairedDevice, now: Now) -> int | None:
    """Return how long the device may go on at most: it had no word of this phone after it was last heard here.

    None where its grant has no lease, or no clock can say.
    """
    row = device.held
    if row is None or not row.lease_days:
        return None
    stamp = device.pairing.heard or row.created
    age_s = elapsed_s(Stamp.from_text(stamp), now)
    return None if age_s is None else max(0, int(row.lease_days * lease.DAY_S - age_s))


# -- Rows --------------------------------------------------------------------------------------------------


def device_rows(devices: Sequence[PairedDevice], phone: PhoneSide) -> list[Json]:
    """Return one row a device, in the order of the list."""
    sign_in = sign_in_again(phone, devices)
    active = {device.pairing.peer_id for device in devices if device.pairing.state == "active"}
    rows = [_row(device, phone, _to_do(device, phone, sign_in, active)) for device in devices]
    return sorted(rows, key=_order)


def _row(device: PairedDevice, phone: PhoneSide, to_do: Json | None) -> Json:
    pairing, latest, done = device.pairing, device.latest, device.held
    end = companions_grant_end(done, pairing.heard_at, phone.described) if done is not None else None
    is_waited_for = latest is not None and latest.state in OPEN
    state: str = "waiting" if is_waited_for else device.presence
    state = "needs_me" if to_do else "leaving" if pairing.state == "retired" else state
    return {
        "device_id": pairing.peer_id,
        "name": pairing.peer_name,
        "state": state,
        "presence": device.presence,
        "account": shown.account if (shown := done or latest) is not None else "",
        "accounts": device.accounts,
        "handoff": latest.state if latest is not None else "",
        "grant": done.device_state if done is not None else "",
        "heard_at": pairing.heard_at,
        "lease_left_s": lease_left_s(device, phone.now),
        "lease_days": done.lease_days if done is not None else 0,
        "grant_ends_at": end.at if end is not None else None,
        "grant_life_s": end.life_s if end is not None else None,
        "next": SHORT[to_do["slug"]] if to_do else "",
        "action": to_do,
    }


def _order(row: Json) -> tuple[Any, ...]:
    rank = {"needs_me": 0, "silent": 1}.get(row["state"], 2)
    return rank, _by_name(row["name"], row["device_id"])


def _by_name(name: str, device_id: str) -> tuple[Any, ...]:
    """Return what a name is sorted by: numbers in it by their value, so that car 2 comes before car 10."""
    parts = _DIGITS.split(name.casefold())  # text and digits in turn, beginning with text
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name, device_id


def summary(rows: Iterable[Json]) -> dict[str, int]:
    """Count the devices by state; ``fine`` are those that are online."""
    states = [row["state"] for row in rows]
    counts = {state: states.count(state) for state in STATES}
    return {"devices": len(states), **counts, "fine": states.count("online")}


def page(rows: Sequence[Json], *, after: str, limit: int) -> tuple[list[Json], str | None]:
    """Return the rows after a place in the list, and the place to go on from, None at the end.

    A place is that of a device when it was shown; what has moved meanwhile may come twice or not at all.

    Raises:
        LocalError: there is no such place.
    """
    first = 0
    if after:
        found = _PLACE.fullmatch(after)
        row = next((row for row in rows if found is not None and row["device_id"] == found[2]), None)
        if found is None or row is None:
            raise LocalError("this place is not in the list any more", hint="token-relay phone devices")
        place = int(found[1]), _by_name(row["name"], row["device_id"])
        first = sum(1 for other in rows if _order(other) <= place)
    shown = list(rows[first : first + limit])
    last = shown[-1] if shown and first + limit < len(rows) else None
    return shown, f"{_order(last)[0]}.{last['device_id']}" if last is not None else None


# -- Whole -------------------------------------------------------------------------------------------------


def pairing_rows(pairings: Iterable[Pairing], outbox: Iterable[Outgoing]) -> list[Json]:
    """Return one row for each pairing: the peer, since when, when last heard, what is unanswered."""
    unanswered: dict[str, list[str]] = {}
    for request in outbox:
        unanswered.setdefault(request.pairing_id, []).append(request.type)
    return [
        {
            "device_id": row.peer_id,
            "name": row.peer_name,
            "calls_itself": row.own_name,
            "state": row.state,
            "paired_at": row.paired_at,
            "heard_at": row.heard_at,
            "unanswered": unanswered.get(row.pairing_id, []),
            "rollback": row.rollback,
        }
        for row in pairings
    ]


def whole_rows(
    pairings: Sequence[Pairing], outbox: Iterable[Outgoing], handoffs: Iterable[PhoneHandoff], described: Profile | None
) -> list[Json]:
    """Return one row for each pairing, with its last handoffs."""
    mine: dict[str, list[PhoneHandoff]] = {}
    for row in sorted(handoffs, key=begun):
        mine.setdefault(row.pairing_id, []).append(row)
    shown = pairing_rows(pairings, outbox)
    for device, pairing in zip(shown, pairings, strict=True):
        last = mine.get(pairing.pairing_id, [])[-HANDOFFS_SHOWN:]
        device["handoffs"] = [handoff_row(row, pairing.heard_at, described) for row in last]
    return shown


def handoff_row(row: PhoneHandoff, heard_at: int = 0, described: Profile | None = None) -> Json:
    """Return one handoff as the phone's status and commands show it."""
    profile = profile_of(row, described)
    end = companions_grant_end(row, heard_at, described) if row.state == "done" else None
    return {
        "handoff_id": row.handoff_id,
        "state": row.state,
        "reason": row.reason,
        "strategy": row.strategy,
        "account": row.account,
        "lease_days": row.lease_days,
        "created_at": row.created_at,
        "done_at": row.done_at,
        "problem": row.problem,
        "orphans": row.orphans,
        "device_state": row.device_state,
        "device_reason": row.device_reason,
        "generation": row.generation,
        "grant_ends_at": end.at if end is not None else None,
        "device_confirmed": row.reason == "revoked" if row.state in ("revoking", "gone") else None,
        "provider_revoked": _provider_says(row, can_revoke=profile.can_revoke_token),
        "access_token_ends_at": row.access_token_ends_at,
    }


def _provider_says(row: PhoneHandoff, *, can_revoke: bool) -> str:
    if row.state not in ("revoking", "gone"):
        return ""
    if row.provider_said == "accepted":
        return "accepted by the provider"
    if row.provider_said in ("refused", "unreachable"):
        return f"not confirmed ({row.provider_said})"
    if can_revoke:
        return "only the device can tell this provider; it has not confirmed" if row.state == "revoking" else "unknown"
    return "this provider cannot revoke one token; only all sessions of the user"
