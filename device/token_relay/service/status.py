"""Builds the object of ``status`` from records alone. Pure.

The object is for scripts and people: the state of this end, when it last heard the other, and ``action``: the one
thing that a person must do (:mod:`.actions`), or null.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from token_relay.agents.grants import lease, schedule
from token_relay.agents.grants.choice import as_it_counts
from token_relay.agents.grants.lifecycle import Erased, LastRefusal, Locked, NeedsHandoff, Uncertain
from token_relay.agents.grants.serving import barred_host, lease_of, profile_of, remaining_s, state_of
from token_relay.agents.phone.presence import PresenceName
from token_relay.agents.ports import Now
from token_relay.agents.records import CachedToken, Grant, Outgoing, Pairing, PhoneHandoff, PrimaryPhone
from token_relay.provider.profile import Profile
from token_relay.service import devices
from token_relay.service.actions import action

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The facts that a status needs beside the records."""

    kind: str
    name: str
    device_id: str
    broker_url: str
    is_connected: bool
    broker_error: str
    vault_key: str
    rejects: Mapping[str, int]
    home: str


def common(here: Surroundings, now: Now) -> Json:
    """Return the part that both agents share."""
    return {
        "kind": here.kind,
        "name": here.name,
        "device_id": here.device_id,
        "home": here.home,
        "broker": {"url": here.broker_url, "connected": here.is_connected, "last_error": here.broker_error},
        "vault": {"detail": here.vault_key},
        "clock": {"synced": now.is_synced, "now": int(now.wall_s)},
        "counters": dict(sorted(here.rejects.items())),
    }


def grant_row(grant: Grant, tokens: Iterable[CachedToken], problem: str, now: Now) -> Json:
    """Return what is known of one grant; times are Unix seconds, 0 or null where there is none."""
    held = lease_of(grant)
    left = lease.left_s(held, now) if held is not None else None
    end, counts = _end_of(grant), as_it_counts(grant, now)
    longest = max((remaining_s(token, now) for token in tokens if token.grant_id == grant.grant_id), default=0.0)
    return {
        "grant_id": grant.grant_id,
        "handoff_id": grant.handoff_id,
        "account": grant.account,
        "issuer": grant.issuer,
        "client_id": grant.client_id,
        "profile": grant.profile,
        "scope": grant.scope,
        "state": counts.state,
        "reason": counts.reason,
        "generation": grant.generation,
        "stored_at": grant.stored_at,
        "refreshed_at": grant.refreshed_at,
        "access_token_ends_at": int(now.wall_s + longest) if longest > 0 else 0,
        "grant_ends_at": end.at if end is not None else None,
        "lease_left_s": None if left is None else max(0, int(left)),
        "problem": problem or grant.said or grant.note,
        "said": grant.said,
        "said_at": grant.said_at,
        "trace_id": grant.trace_id,
        "correlation_id": grant.correlation_id,
    }


def companion_status(
    here: Surroundings,
    now: Now,
    *,
    pairings: list[Pairing],
    outbox: list[Outgoing],
    grants: list[Grant],
    tokens: list[CachedToken],
    problems: Mapping[str, str],
    primary: Sequence[PrimaryPhone],
    estranged: Collection[str] = (),
) -> Json:
    """Return the companion's status; ``estranged`` are the peers of :meth:`token_relay.agents.link.Link.estranged`."""
    grants = sorted(grants, key=lambda grant: (grant.stored_at, grant.grant_id))
    peers = {pairing.pairing_id: pairing.peer_id for pairing in pairings}
    rows = [
        {
            **grant_row(grant, tokens, problems.get(grant.grant_id, ""), now),
            "phone": peers.get(grant.pairing_id, ""),
        }
        for grant in grants
    ]
    primary_id = primary[0].peer_id if primary else ""
    phones = devices.pairing_rows(pairings, outbox)
    for phone, pairing in zip(phones, pairings, strict=True):
        mine = [grant for grant in grants if grant.pairing_id == pairing.pairing_id and grant.state != "dead"]
        phone |= {"is_primary": pairing.peer_id == primary_id, "grants": len(mine)}
    return {
        **common(here, now),
        "phones": phones,
        "grants": rows,
        "action": _estranged_companion(pairings, estranged) or _companion_action(here, phones, grants, rows, now),
    }


def _estranged_companion(pairings: list[Pairing], estranged: Collection[str]) -> Json | None:
    """Return ``pair_again`` where only a phone that lost the pairing could act; another phone may still act."""
    peers = {row.peer_id: row.peer_name for row in pairings if row.state == "active"}
    return action("pair_again", next(iter(peers.values()))) if peers and peers.keys() <= set(estranged) else None


def _companion_action(
    here: Surroundings, phones: list[Json], grants: list[Grant], rows: list[Json], now: Now
) -> Json | None:
    active = {phone["device_id"] for phone in phones if phone["state"] == "active"}
    if not active:
        return action("pair")
    primary_id = next((phone["device_id"] for phone in phones if phone["is_primary"]), "")
    if not primary_id:
        return action("choose_primary", active.pop() if len(active) == 1 else "PHONE")
    newest = {row["phone"]: (grant, row) for grant, row in zip(grants, rows, strict=True)}
    if primary_id not in newest:
        return _broker_action(here) or action("hand_off", here.name)
    for _, (grant, row) in sorted(newest.items(), key=lambda item: item[0] != primary_id):
        if (asked := _grant_action(here, grant, row, now)) is not None:
            return asked
    return _broker_action(here)


def _broker_action(here: Surroundings) -> Json | None:
    """Return what to do about the broker; nothing before the first connection has failed."""
    if here.is_connected or not here.broker_error:
        return None
    if "VaultError" in here.broker_error:  # it was reached, and its messages could not be kept
        return action("check_disk")
    return action("check_broker", here.kind)


def _grant_action(here: Surroundings, newest: Grant, row: Json, now: Now) -> Json | None:
    if row["reason"] == "lease":
        return action("bring_phone_online")
    match state_of(newest):
        case Locked(reason="rollback"):
            return action("restored_backup", here.name)
        case Locked() | Uncertain(refusal=LastRefusal(reason="configuration")):
            host = barred_host(newest)
            return action("allow_host", host=host) if host else action("client_refused")
        case NeedsHandoff() | Erased():
            return action("hand_off_again", here.name)
        case _:
            pass
    end, left_s = _end_of(newest), row["lease_left_s"]
    if end is not None and devices.ends_soon(end, now):
        return action("grant_ends_soon", here.name)
    if left_s is not None and left_s < min(lease.WARN_BEFORE_S, newest.lease_days * lease.DAY_S / 4):
        return action("lease_ends_soon")
    return None


def _end_of(grant: Grant) -> schedule.GrantEnd | None:
    return schedule.grant_end(
        profile_of(grant),
        is_otp=grant.is_otp,
        signed_in_at=grant.signed_in_at,
        refreshed_at=grant.refreshed_at,
        told_s=grant.life_told_s,
    )


def phone_status(
    here: Surroundings,
    now: Now,
    *,
    pairings: list[Pairing],
    outbox: list[Outgoing],
    handoffs: list[PhoneHandoff],
    grants: list[Grant],
    tokens: list[CachedToken],
    problems: Mapping[str, str],
    allow_refresh_token_access: bool,
    estranged: Collection[str] = (),
    described: Profile | None = None,
    presence: Mapping[str, PresenceName] = MappingProxyType({}),
) -> Json:
    """Return the phone's status; ``estranged`` and ``described`` as in :class:`token_relay.service.devices.PhoneSide`.

    ``devices`` are the first ``devices.WHOLE_MAX`` pairings by name; ``summary`` counts all devices.
    """
    own = sorted((grant for grant in grants if not grant.pairing_id), key=lambda grant: grant.stored_at)
    phone = devices.PhoneSide(now, own, estranged, described)
    known = devices.devices_of(pairings, handoffs, presence)
    shown = sorted(pairings, key=lambda row: (row.peer_name, row.peer_id, row.pairing_id))[: devices.WHOLE_MAX]
    return {
        **common(here, now),
        "allow_refresh_token_access": allow_refresh_token_access,
        "accounts": [grant_row(grant, tokens, problems.get(grant.grant_id, ""), now) for grant in own],
        "summary": devices.summary(devices.device_rows(known, phone)),
        "devices": devices.whole_rows(shown, outbox, handoffs, described),
        "orphans": sum(row.orphans for row in handoffs),
        "action": _phone_action(here, known, phone, devices.unconfirmed(pairings, handoffs)),
    }


def _phone_action(
    here: Surroundings, known: list[devices.PairedDevice], phone: devices.PhoneSide, unconfirmed: Json | None
) -> Json | None:
    own, active = phone.own, [device for device in known if device.pairing.state == "active"]
    ids = {device.pairing.peer_id for device in active}
    if asked := _first(devices.estranged(device, phone) for device in active):
        return asked
    if asked := _first(devices.half_replaced(device, ids) for device in active):
        return asked
    if not phone.is_signed_in and any(grant.reason == "configuration" for grant in own):
        return action("client_refused")  # a sign-in would be refused likewise
    sign_in = devices.sign_in_again(phone, known)
    if asked := _first(devices.urgent(device, phone, sign_in) for device in active):
        return asked
    if not phone.is_signed_in and any(grant.reason not in ("moved", "") for grant in own):
        return sign_in
    if not phone.is_signed_in and not any(device.latest for device in active):
        return sign_in
    if (asked := _broker_action(here)) is not None:
        return asked
    if not active:
        return action("pair")
    waits = _first(devices.waiting(device) for device in active)
    return waits or unconfirmed or _first(devices.lacking(device, phone.now) for device in active)


def _first(asked: Iterable[Json | None]) -> Json | None:
    return next((found for found in asked if found is not None), None)
