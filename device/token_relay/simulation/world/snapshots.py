"""Snapshots of worlds in which everybody is signed in and paired, so that other worlds can begin there.

A snapshot is made once per process for each kind of provider and number of devices, always from the same seed. It holds
what survives a power cut: disks, identities, the provider's memory, the broker's sessions, the time. A world that
restores it switches its devices on as after a night; from there on its own seed decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from token_relay.agents.records import Identity
from token_relay.sandbox.provider.memory.state import Event, State
from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.ports.channel import SimulatedBroker, SimulatedSession
from token_relay.simulation.ports.provider import SimulatedProvider
from token_relay.simulation.world.devices import SimulatedDevice

TABLES = ("users", "families", "refresh_tokens")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that survives a power cut of all devices, at one moment."""

    time_s: float
    disks: tuple[tuple[Identity, Any], ...]
    tables: dict[str, dict[str, Any]]
    token_key: bytes
    events: tuple[Event, ...]
    next_event_id: int
    filters: dict[str, frozenset[str]]


def capture(
    ends: Sequence[SimulatedDevice], provider: SimulatedProvider, broker: SimulatedBroker, loop: VirtualLoop
) -> Snapshot:
    """Return a snapshot of a world in which nothing is under way."""
    state = provider.state
    return Snapshot(
        loop.time(),
        tuple((end.identity, end.image()) for end in ends),
        _copies(state),
        state.token_key,
        tuple(state.events),
        state.next_event_id,
        {client_id: frozenset(session.filters) for client_id, session in broker.sessions.items()},
    )


def restore(
    snapshot: Snapshot,
    ends: Sequence[SimulatedDevice],
    provider: SimulatedProvider,
    broker: SimulatedBroker,
    loop: VirtualLoop,
) -> None:
    """Put a new world into the state of the snapshot; its devices are off."""
    loop.begin_at(snapshot.time_s)
    for end, (identity, image) in zip(ends, snapshot.disks, strict=True):
        end.identity = identity
        end.disk.store.restore(image)
        end.clock.reboot()
    state = provider.state
    for name in TABLES:
        table = getattr(state, name)
        table.clear()
        table.update({key: copy(value) for key, value in snapshot.tables[name].items()})
    state.token_key = snapshot.token_key
    state.events = deque(snapshot.events, maxlen=state.events.maxlen)
    state.next_event_id = snapshot.next_event_id
    for client_id, filters in snapshot.filters.items():
        broker.sessions[client_id] = SimulatedSession(client_id, set(filters))
    provider.tell()
    for end in ends:
        end.announcer.restored(end.name, end.tables)


def _copies(state: State) -> dict[str, dict[str, Any]]:
    return {name: {key: copy(value) for key, value in getattr(state, name).items()} for name in TABLES}
