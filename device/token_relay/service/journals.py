"""Answers ``events`` and ``messages``: what an agent has written down and what has passed, or as soon as there is more.

Whoever waits costs nothing: the turn that writes an event, or the message that passes, wakes them up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from token_relay.agents.device_names import resolve_device
from token_relay.agents.pairings import names_of
from token_relay.agents.ports import Clock, Transaction, Vault
from token_relay.agents.pulse import Pulse
from token_relay.agents.records import AuditEvent, CompanionHandoff, Pairing, PhoneHandoff
from token_relay.agents.traffic import PASSED_MAX, Passed, Traffic
from token_relay.protocol.errors import ConfigError
from token_relay.service.control import JSON, Exchange
from token_relay.service.runtime import Runtime, number_of, text_of

EVENTS_SHOWN_MAX = 1000
WAIT_S_MAX = 30.0
TRACE_CHARS_MIN = 8  # what people copy of a UUID, and enough to mean one request
LISTS = {"phone": "token-relay phone devices", "companion": "token-relay companion status"}


class Journals:
    """What happened at one agent; ``written`` beats with each event. A locked agent has no messages."""

    def __init__(self, runtime: Runtime, traffic: Traffic, written: Pulse) -> None:
        self._vault: Vault = runtime.vault
        self._clock: Clock = runtime.clock
        self._traffic = traffic
        self._written = written
        self._lists = LISTS[runtime.kind]
        self._instance = runtime.random.bytes(8).hex()

    async def events(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """The command ``events``: audit rows with a number above ``after``, the newest ``limit`` of those that fit.

        Raises:
            LocalError: there is no such device. ConfigError: a wrong argument.
        """
        limit = int(number_of(args, "limit", 50, low=1, high=EVENTS_SHOWN_MAX))
        after = int(number_of(args, "after", 0, low=0, high=2**53))
        handoff_id, trace, word = (text_of(args, name) for name in ("handoff_id", "trace", "device"))
        if trace and len(trace) < TRACE_CHARS_MIN:
            raise ConfigError(f"trace must have the first {TRACE_CHARS_MIN} characters of the id at least")

        def read(tx: Transaction) -> list[JSON]:
            rows, called = tx.select(AuditEvent), dict(names_of(tx))
            before = {row.device: row.detail for row in rows if row.name == "paired"}  # of those that were forgotten
            device = resolve_device(word, _known(called, before), lists=self._lists) if word else ""
            devices = _devices(tx, rows)
            found = [
                row if row.device else replace(row, device=devices.get(row.handoff_id, ""))
                for row in rows
                if row.number > after and handoff_id in ("", row.handoff_id) and _is_of(row, trace.lower())
            ]
            found = [row for row in found if device in ("", row.device)]
            return [self._event(row, before | called) for row in found[-limit:]]

        async def look() -> dict[str, JSON]:
            return {"events": await self._vault.run(read)}

        return await self._look(args, look, self._written)

    async def messages(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """The command ``messages``: what passed or changed since the change ``after``, the newest ``limit`` rows.

        ``last`` is where to go on, as long as ``instance`` is the same. Raises as :meth:`events`.
        """
        limit = int(number_of(args, "limit", PASSED_MAX, low=1, high=PASSED_MAX))
        after = int(number_of(args, "after", 0, low=0, high=2**53))
        handoff_id, word, traffic = text_of(args, "handoff_id"), text_of(args, "device"), self._traffic
        called = dict(await self._vault.run(names_of))
        device = resolve_device(word, list(called.items()), lists=self._lists) if word else ""

        async def look() -> dict[str, JSON]:
            rows = traffic.rows(after=after, device=device, handoff_id=handoff_id)[-limit:]
            return {
                "messages": [_shown(row, called) for row in rows],
                "last": traffic.last,
                "instance": self._instance,
            }

        if after > traffic.last:  # that was told by an agent that has been started anew since
            return await look()
        return await self._look(args, look, traffic.changed)

    def _event(self, row: AuditEvent, called: Mapping[str, str]) -> JSON:
        moment = self._traffic.moments.get(row.number)
        return _shown(row, called) | ({} if moment is None else {"moment": moment})

    async def _look(
        self, args: Mapping[str, JSON], look: Callable[[], Awaitable[dict[str, JSON]]], news: Pulse
    ) -> dict[str, JSON]:
        """Look until there is something, at most ``wait_s``, and again only when there is news."""
        ends_at = self._clock.now().boot_s + number_of(args, "wait_s", 0, low=0, high=WAIT_S_MAX)
        while True:
            following = news.next
            found = await look()
            left_s = ends_at - self._clock.now().boot_s
            if any(isinstance(rows, list) and rows for rows in found.values()) or left_s <= 0:
                return found
            await self._clock.wait(following, left_s)


def _known(called: Mapping[str, str], before: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the devices with their names, those too that were forgotten; a name means the one that has it now."""
    taken = set(called.values())
    forgotten = ((peer, name) for peer, name in before.items() if peer not in called)
    return [*called.items(), *((peer, "" if name in taken else name) for peer, name in forgotten)]


def _devices(tx: Transaction, rows: list[AuditEvent]) -> dict[str, str]:
    """Return the device of each handoff: what the provider says of a grant is written with its handoff alone."""
    peers = {row.pairing_id: row.peer_id for row in tx.select(Pairing)}
    keys = [row.at for row in tx.select(PhoneHandoff)] + [row.at for row in tx.select(CompanionHandoff)]
    known = {handoff_id: peers[pairing_id] for pairing_id, handoff_id in keys if pairing_id in peers}
    return {row.handoff_id: row.device for row in rows if row.device and row.handoff_id} | known


def _is_of(row: AuditEvent, trace: str) -> bool:
    return row.trace_id.lower().startswith(trace) or row.correlation_id.lower().startswith(trace)


def _shown(row: AuditEvent | Passed, called: Mapping[str, str]) -> dict[str, JSON]:
    shown: dict[str, JSON] = {name: value for name in row.__slots__ if (value := getattr(row, name)) != ""}
    return shown | {"device_name": name} if (name := called.get(row.device)) else shown
