"""Carries out a plan's steps for the third end, and what people and apps do where it is about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, cast

from token_relay.agents.records import Grant, Pairing, PhoneHandoff
from token_relay.protocol.errors import LocalError
from token_relay.simulation.histories.step import Step
from token_relay.simulation.lies import Whose
from token_relay.simulation.promises.promises import Promises
from token_relay.simulation.world.devices import SimulatedCompanion, SimulatedDevice, SimulatedPhone
from token_relay.simulation.world.third_end import ThirdEnd
from token_relay.simulation.world.world import World

Ask = Callable[[SimulatedDevice, Mapping[str, str]], Awaitable[None]]
PREFIX_CHARS = 6  # of an id: as much as the command line shows


class ThirdSteps:
    """``go`` runs a command beside everything else, ``ask`` has an app ask for a token."""

    def __init__(
        self, world: World, promises: Promises, go: Callable[[Coroutine[Any, Any, object], str], None], ask: Ask
    ) -> None:
        assert world.third is not None
        self.third: ThirdEnd = world.third
        self._world = world
        self._promises = promises
        self._go = go
        self._app_asks = ask
        promises.ledger.strangers = frozenset({world.third.id})

    async def perform(self, step: Step) -> None:
        """Carry out one step."""
        await getattr(self, f"_{step.act.removeprefix('third_')}")(step)

    # -- the third end itself --------------------------------------------------------------------------

    async def _befriend(self, step: Step) -> None:
        peer = self._world.end(step.end)
        name = self._name(peer, str(step.args[0]))
        await self.third.start()
        self._go(self._pair(peer, name), f"{step.text()} as {name!r}")

    async def _pair(self, peer: SimulatedDevice, name: str) -> None:
        try:
            await self.third.befriend(peer, name)
        except LocalError:  # the name is another device's: the person types another
            await self.third.befriend(peer, "third")

    def _name(self, peer: SimulatedDevice, like: str) -> str:
        """Return a name that may be taken for another device's."""
        others = self._world.companions if isinstance(peer, SimulatedPhone) else self._world.phones
        other = self.third.draw.choice(others)
        return {"name": other.name, "short": other.id[:PREFIX_CHARS], "id": other.id}.get(like, like)

    async def _say(self, step: Step) -> None:
        kind, whose, number, is_reply = step.args
        await self.third.lie(str(kind), cast("Whose", whose), number=str(number), is_reply=bool(is_reply))

    async def _mute(self, step: Step) -> None:
        self.third.is_mute = True

    async def _unmute(self, step: Step) -> None:
        self.third.is_mute = False

    async def _attend(self, step: Step) -> None:
        self.third.manners = 1.0

    # -- people and apps -------------------------------------------------------------------------------

    async def _give(self, step: Step) -> None:
        self._command(step, lambda phone: phone.hand_off(self.third, wait_s=20.0))

    async def _cancel(self, step: Step) -> None:
        self._command(step, lambda phone: phone.cancel(self.third))

    async def _revoke(self, step: Step) -> None:
        self._command(step, lambda phone: phone.revoke(self.third))

    async def _unpair(self, step: Step) -> None:
        self._command(step, lambda phone: phone.unpair(self.third))

    async def _forget(self, step: Step) -> None:
        self._command(step, lambda phone: phone.forget(self.third))

    def _command(self, step: Step, command: Callable[[SimulatedPhone], Coroutine[Any, Any, object]]) -> None:
        phone = self._world.end(step.end)
        assert isinstance(phone, SimulatedPhone)
        self._go(command(phone), step.text())

    async def _ask(self, step: Step) -> None:
        end = self._world.end(step.end)
        if end.is_on:
            ways = [query for query in self._queries(end) if step.args[0] in query] or [{}]
            self._go(self._ask_for(end, ways), step.text())

    async def _ask_for(self, end: SimulatedDevice, queries: list[dict[str, str]]) -> None:
        for query in queries:
            await self._app_asks(end, query)

    def _queries(self, end: SimulatedDevice) -> list[dict[str, str]]:
        """Return the questions of an app that names nobody, an honest account or issuer, or a phone."""
        strange = self._promises.ledger.strange
        honest = [grant for grant in end.rows(Grant) if grant.pairing_id not in strange]
        found = [{"account": account} for account in sorted({grant.account for grant in honest})]
        found += [{"issuer": issuer} for issuer in sorted({grant.issuer for grant in honest})]
        return [{}, *found, *({"phone": phone.id} for phone in (*self._world.phones, self.third))]

    async def hand_off(
        self, phone: SimulatedPhone, watch: SimulatedDevice, spelled: str, username: str, wish: dict[str, Any]
    ) -> PhoneHandoff:
        """Hand off to a device by a name for it; if that may mean another, by its id."""
        try:
            row = await phone.hand_off(spelled, username=username, **wish)
        except LocalError as exc:
            self._promises.others.named(phone.name, spelled, watch.id, "", str(exc))
            return await phone.hand_off(watch, username=username, **wish)
        reached = next((it.peer_id for it in phone.rows(Pairing) if it.pairing_id == row.pairing_id), watch.id)
        self._promises.others.named(phone.name, spelled, watch.id, reached, "")
        return row

    def spell(self, phone: SimulatedPhone, watch: SimulatedDevice) -> str:
        """Return what a person types for a device: its name, the short id that is shown, or the whole id."""
        names = [row.peer_name for row in phone.rows(Pairing) if row.peer_id == watch.id]
        return self.third.draw.choice([watch.id, watch.id[:PREFIX_CHARS], *names])

    # -- at the end ------------------------------------------------------------------------------------

    async def ask_at_the_end(self, ends: list[SimulatedDevice]) -> None:
        """Ask once more for tokens, and by name for devices: whatever the third end did, nothing is hidden."""
        for end in ends:
            if isinstance(end, SimulatedPhone):
                await self._call_by_names(end)
            elif isinstance(end, SimulatedCompanion):
                await self._ask_for(end, self._queries(end))

    async def _call_by_names(self, phone: SimulatedPhone) -> None:
        paired = {row.peer_id: row for row in phone.rows(Pairing) if row.state == "active"}
        for watch in self._world.companions:
            if watch.id not in paired:
                continue
            for spelled in (watch.id, watch.id[:PREFIX_CHARS], paired[watch.id].peer_name):
                try:
                    found = await phone.call(phone.agent.pairing_of(spelled))
                except LocalError as exc:
                    self._promises.others.named(phone.name, spelled, watch.id, "", str(exc))
                else:
                    self._promises.others.named(phone.name, spelled, watch.id, found.peer_id, "")
