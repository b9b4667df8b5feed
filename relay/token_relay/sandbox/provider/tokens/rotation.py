"""Which refresh token may be used, and how its use changes it and its family.

:func:`rotation_of` decides: a client's own ``refresh_token`` setting where it has one (``auth0``), else the
profile's rules and the policy's knobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, RefreshEntry, State, digest, remember
from token_relay.sandbox.provider.tokens.issued import refresh_value
from token_relay.sandbox.provider.world.model import ClientModel


@dataclass(frozen=True, slots=True)
class Rotation:
    """How one client's refresh tokens live. Seconds; None: no limit. ``keeps``: a refresh issues no other one."""

    rotates: bool
    leeway_s: float
    idle_s: float | None
    absolute_s: float | None
    keeps: bool


ONLINE = Rotation(
    rotates=False, leeway_s=0.0, idle_s=None, absolute_s=None, keeps=True
)  # lives and ends with its session


def rotation_of(state: State, client: ClientModel | None, family: Family | None = None) -> Rotation:
    """Return the present rotation of this client, or of this grant."""
    if family is not None and family.is_online:
        return ONLINE
    setting = client.refresh_token if client is not None and state.rules.is_managed else None
    if setting is None:
        policy = state.policy
        return Rotation(
            state.rules.invalidates_on_use,
            policy.leeway_s,
            policy.refresh_idle_lifetime_s,
            policy.refresh_absolute_lifetime_s,
            keeps=not state.rules.invalidates_on_use and state.rules.answers != "successor",
        )
    rotates = setting.rotation_type == "rotating"
    return Rotation(rotates, float(setting.leeway), setting.idle_s, setting.absolute_s, keeps=not rotates)


def may_be_used(state: State, family: Family, entry: RefreshEntry, rotation: Rotation, now: float) -> bool:
    """Return whether the rules allow this use."""
    within_leeway = entry.superseded_at is not None and now - entry.superseded_at <= rotation.leeway_s
    if state.rules.branches_in_grace:
        return entry.superseded_at is None or within_leeway
    if state.rules.reuse_count_max is not None:
        # Keycloak: this many more uses of the token that was used last; the use of a younger token makes it stale
        set_count = state.policy.reuse_count_max
        most = state.rules.reuse_count_max if set_count is None else set_count
        return entry.generation >= family.used_generation and entry.uses <= most
    if entry.generation == family.generation:
        return True
    return entry.generation == family.generation - 1 and within_leeway and rotation.leeway_s > 0


def use(state: State, family: Family, entry: RefreshEntry, rotation: Rotation, trace: Trace) -> str:
    """Spend a token that may be used, and return its successor; empty if the provider gives none out.

    The token that was the newest counts as the previous one from now on. So a token that was repeated within the
    leeway is the second-to-last afterwards, and its next use kills the family.
    """
    entry.uses += 1
    family.used_generation = max(family.used_generation, entry.generation)
    family.last_exchanged_at = trace.now
    family.last_place = trace.place
    if rotation.keeps:
        entry.idle_expires_at = None if rotation.idle_s is None else trace.now + rotation.idle_s
        return ""
    if state.rules.branches_in_grace:
        if entry.superseded_at is None:  # the grace counts from the first use
            entry.superseded_at = trace.now
    elif (newest := state.refresh_tokens.get(family.newest)) is not None:
        newest.superseded_at = trace.now
    return issue(state, family, trace.now, rotation)


def issue(state: State, family: Family, now: float, rotation: Rotation) -> str:
    """Issue the family's next refresh token."""
    family.generation += 1
    idle = rotation.idle_s
    if family.method == "oob" and state.policy.otp_refresh_mode == "sliding":
        known = [one for one in (idle, state.policy.otp_refresh_lifetime_s) if one is not None]
        idle = min(known, default=None)
    entry = RefreshEntry(family.family_id, family.generation, None if idle is None else now + idle)
    value = refresh_value(state.token_key, entry)
    family.newest = digest(value)
    remember(state.refresh_tokens, family.newest, entry)
    _keep_rows(state, family, now, rotation)
    return value


def _keep_rows(state: State, family: Family, now: float, rotation: Rotation) -> None:
    """Keep the rows of the newest refresh token and of those whose next use depends on their earlier uses."""
    kept: list[str] = []
    for name in (*family.rows, family.newest):
        row = state.refresh_tokens.get(name)
        if row is None:
            continue
        if state.rules.branches_in_grace:
            is_needed = row.superseded_at is None or now - row.superseded_at <= rotation.leeway_s
        elif state.rules.reuse_count_max is not None:
            is_needed = row.generation >= min(family.generation - 1, family.used_generation)
        else:
            is_needed = row.generation >= family.generation - 1
        if is_needed:
            kept.append(name)
        else:
            del state.refresh_tokens[name]
    family.rows = tuple(kept)
