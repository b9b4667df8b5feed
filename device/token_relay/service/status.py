"""Builds the object of ``status`` from records alone. Pure.

The object is for scripts and people: the state of this end, when it last heard the other, and ``action``: the one
thing that a person must do, as a slug (explained in ``docs/troubleshooting.md``) and a sentence, or null.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lease, schedule
from token_relay.agents.grants.choice import as_it_counts
from token_relay.agents.grants.lifecycle import Erased, LastRefusal, Locked, NeedsHandoff, Uncertain
from token_relay.agents.grants.serving import barred_host, lease_of, profile_of, remaining_s, state_of
from token_relay.agents.ports import Now
from token_relay.agents.records import CachedToken, Grant, Outgoing, Pairing, PhoneHandoff, PrimaryPhone
from token_relay.provider.profile import PROFILES, STRICT, Profile

Json = dict[str, Any]
ENDS_SOON_S = 7 * 86_400
OPEN = ("offered", "released", "cancelling")  # an undecided handoff counts as the latest, whatever its time

ACTIONS: Mapping[str, str] = {
    "pair": "pair the two devices: token-relay companion pair here, token-relay phone pair there",
    "sign_in": "sign in: token-relay phone sign-in --username U, or --browser",
    "pair_again": "one of the two lost this pairing; pair again: token-relay companion pair, token-relay phone pair",
    "hand_off": "on the phone: token-relay phone handoff DEVICE",
    "finish_replacement": "go on with what was begun: token-relay phone replace DEVICE",
    "finish_handoff": "the handoff waits for the person to sign in: token-relay phone handoff DEVICE",
    "hand_off_again": "this grant needs the person; on the phone: token-relay phone handoff DEVICE",
    "bring_device_online": "bring the device online; the handoff goes on by itself when it is",
    "bring_phone_online": "bring the phone online: the lease is over",
    "lease_ends_soon": "bring the phone online before the lease ends",
    "grant_ends_soon": "hand over anew before the grant ends: token-relay phone handoff DEVICE",
    "restored_backup": "this disk was restored from an older image; on the phone: token-relay phone handoff DEVICE",
    "restored_phone": "DEVICE says that this disk is an older image, so its tokens are locked; sign in again: "
    "token-relay phone sign-in",
    "copied": "this vault was copied from another device: token-relay AGENT adopt here, or pair anew",
    "choose_primary": "say whose grants apps get: token-relay companion primary DEVICE",
    "allow_host": "a grant is not used: its endpoint is on HOST; if that is right, set provider.hosts and reload",
    "client_refused": "the provider refuses this client: look at the app registration; it is asked again by itself",
    "check_disk": "the vault cannot be written: see the log, and what doctor says of the disk",
    "check_broker": "the broker cannot be reached; see why: token-relay DEVICE doctor",
}


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


def action(slug: str, device: str = "", *, host: str = "") -> Json:
    """Return an action as ``status`` shows it."""
    return {"slug": slug, "sentence": ACTIONS[slug].replace("DEVICE", device or "DEVICE").replace("HOST", host)}


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


def pairing_rows(pairings: Iterable[Pairing], outbox: Iterable[Outgoing]) -> list[Json]:
    """Return one row for each pairing: the peer, since when, when last heard, what is unanswered."""
    open_requests = list(outbox)
    return [
        {
            "device_id": row.peer_id,
            "name": row.peer_name,
            "calls_itself": row.own_name,
            "state": row.state,
            "paired_at": row.paired_at,
            "heard_at": row.heard_at,
            "unanswered": [other.type for other in open_requests if other.pairing_id == row.pairing_id],
            "rollback": row.rollback,
        }
        for row in pairings
    ]


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
    phones = pairing_rows(pairings, outbox)
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
    peers = {row.peer_id for row in pairings if row.state == "active"}
    return action("pair_again") if peers and peers.issubset(estranged) else None


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
        return _broker_action(here) or action("hand_off", here.device_id)
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
            return action("restored_backup", here.device_id)
        case Locked() | Uncertain(refusal=LastRefusal(reason="configuration")):
            host = barred_host(newest)
            return action("allow_host", host=host) if host else action("client_refused")
        case NeedsHandoff() | Erased():
            return action("hand_off_again", here.device_id)
        case _:
            pass
    end, left_s = _end_of(newest), row["lease_left_s"]
    if end is not None and _ends_soon(end, now):
        return action("grant_ends_soon", here.device_id)
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


def _profile_of(row: PhoneHandoff, described: Profile | None) -> Profile:
    """Return what the settings describe, where the handoff was made under that name."""
    is_it = described is not None and described.name == row.profile
    return described if described is not None and is_it else PROFILES.get(row.profile, STRICT)


def companions_grant_end(
    row: PhoneHandoff, heard_at: int, described: Profile | None = None
) -> schedule.GrantEnd | None:
    """Return when the companion's grant ends as far as the phone knows: it was alive when last heard.

    ``described``: the profile of the phone's settings.
    """
    profile = _profile_of(row, described)
    return schedule.grant_end(
        profile, is_otp=row.is_otp, signed_in_at=row.signed_in_at, refreshed_at=max(row.done_at, heard_at)
    )


def _ends_soon(end: schedule.GrantEnd, now: Now) -> bool:
    """Whether less than seven days are left, or of a short life less than a quarter: the keep-alive came to nothing."""
    return end.at - now.wall_s < min(ENDS_SOON_S, end.life_s / 4)


def handoff_row(row: PhoneHandoff, heard_at: int = 0, described: Profile | None = None) -> Json:
    """Return one handoff as the phone's status and commands show it."""
    profile = _profile_of(row, described)
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
) -> Json:
    """Return the phone's status; ``estranged`` are the peers of :meth:`token_relay.agents.link.Link.estranged`.

    ``described`` is the profile of its settings.
    """
    own = sorted((grant for grant in grants if not grant.pairing_id), key=lambda grant: grant.stored_at)
    devices = pairing_rows(pairings, outbox)
    for device, pairing in zip(devices, pairings, strict=True):
        mine = [row for row in handoffs if row.pairing_id == pairing.pairing_id]
        mine.sort(key=_begun)
        device["handoffs"] = [handoff_row(row, pairing.heard_at, described) for row in mine[-5:]]
    return {
        **common(here, now),
        "allow_refresh_token_access": allow_refresh_token_access,
        "accounts": [grant_row(grant, tokens, problems.get(grant.grant_id, ""), now) for grant in own],
        "devices": devices,
        "orphans": sum(row.orphans for row in handoffs),
        "action": _estranged_device(pairings, estranged)
        or _open_replacement(pairings)
        or _phone_action(here, pairings, handoffs, own, now, described=described),
    }


def _estranged_device(pairings: list[Pairing], estranged: Collection[str]) -> Json | None:
    names = [row.peer_name for row in pairings if row.state == "active" and row.peer_id in estranged]
    return action("pair_again", names[0]) if names else None


def _open_replacement(pairings: list[Pairing]) -> Json | None:
    """Return ``finish_replacement`` where a device is paired that takes another's place, and has not done so yet."""
    active = {row.peer_id for row in pairings if row.state == "active"}
    open_ones = [row.peer_name for row in pairings if row.state == "active" and row.replaced_by in active]
    return action("finish_replacement", open_ones[0]) if open_ones else None


def _begun(row: PhoneHandoff) -> float:
    """Return when a handoff began, finer than seconds: a script begins several within one second."""
    return Stamp.from_text(row.created).wall_s


def _phone_action(
    here: Surroundings,
    pairings: list[Pairing],
    handoffs: list[PhoneHandoff],
    own: list[Grant],
    now: Now,
    *,
    described: Profile | None,
) -> Json | None:
    names = {pairing.pairing_id: pairing.peer_name for pairing in pairings if pairing.state == "active"}
    heard = {pairing.pairing_id: pairing.heard_at for pairing in pairings}
    latest: dict[str, PhoneHandoff] = {}
    for row in sorted(handoffs, key=lambda row: (row.state in OPEN, _begun(row))):
        if row.pairing_id in names:
            latest[row.pairing_id] = row
    live = [grant for grant in own if grant.state not in ("dead", "needs_handoff", "locked")]
    if not live and any(grant.reason == "configuration" for grant in own):
        return action("client_refused")  # a sign-in would be refused likewise
    sign_in = action("sign_in")
    if not live and any((grant.state, grant.reason) == ("locked", "rollback") for grant in own):
        sign_in = action(
            "restored_phone", next((row.peer_name for row in pairings if row.rollback == "self"), "a device")
        )
    for pairing_id, row in latest.items():
        if row.state == "offered" and row.reason == "accepted" and row.strategy == "mint":
            return action("finish_handoff", names[pairing_id])
        if row.state == "done" and row.device_state in ("needs_handoff", "dead"):
            if not live and row.strategy != "mint":  # mint signs in by itself; the others need a live grant
                return sign_in
            return action("hand_off_again", names[pairing_id])
        if row.state == "done" and row.device_state == "refused":
            return action("client_refused")
        if row.state == "done" and row.device_state == "locked":
            return action("restored_backup", names[pairing_id])
        end = companions_grant_end(row, heard[pairing_id], described) if row.state == "done" else None
        if end is not None and _ends_soon(end, now):
            return action("grant_ends_soon", names[pairing_id])
    if not live and any(grant.reason not in ("moved", "") for grant in own):
        return sign_in
    if not live and not latest:
        return sign_in
    if (asked := _broker_action(here)) is not None:
        return asked
    if not names:
        return action("pair")
    unpaired = {pairing.pairing_id: pairing.peer_name for pairing in pairings if pairing.state == "retired"}
    for row in latest.values():
        if row.state in ("offered", "released", "cancelling", "revoking"):
            return action("bring_device_online", names[row.pairing_id])
    for row in handoffs:
        if row.state == "revoking" and row.pairing_id in unpaired:
            return action("bring_device_online", unpaired[row.pairing_id])
    if not any(row.state == "done" for row in latest.values()):
        return action("hand_off", next(iter(names.values())))
    return None
