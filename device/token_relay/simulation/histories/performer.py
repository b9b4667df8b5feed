"""Runs a plan in a world: people, apps, power, disks and networks, each step at its time; then judges the result.

A person's command runs beside everything else, as in a terminal; its end (done, refused, the power went) is one line
of the history. A device that lost its power comes back when the plan says so, or at a step ``RESTART_S`` later. When
the plan is over, every fault is taken back. Once nothing is under way any more, at the latest
:data:`~token_relay.simulation.promises.settlement.SETTLE_HOURS` later,
:mod:`token_relay.simulation.promises.settlement` judges the world.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any
from urllib.parse import urlencode

from token_relay.agents.records import Grant, Pairing
from token_relay.agents.token_source import NamedPhone, Peer, TokenGranted, TokenQuery, TokenRefused
from token_relay.apps.policy import Policy, Rule
from token_relay.apps.replies import Reply
from token_relay.apps.server import TokenApi, parse_query
from token_relay.protocol.errors import RelayError
from token_relay.simulation.histories.plan import Plan
from token_relay.simulation.histories.step import Step
from token_relay.simulation.histories.third_steps import ThirdSteps
from token_relay.simulation.ports.channel import Packet
from token_relay.simulation.ports.http import HttpFault
from token_relay.simulation.ports.http_faults import HttpFaultKind
from token_relay.simulation.ports.power import PowerCutError
from token_relay.simulation.promises.promises import Promises
from token_relay.simulation.promises.settlement import SETTLE_HOURS, JudgedDevice, is_quiet, judge, look
from token_relay.simulation.world.devices import SimulatedCompanion, SimulatedDevice, SimulatedPhone
from token_relay.simulation.world.world import World
from token_relay.vault.errors import CorruptVaultError

OWNER_UID = 500
POLICY = Policy(OWNER_UID, (Rule(uid=1000, scopes=frozenset({"openid", "profile"})),))
RESTART_S = 900.0  # a device without power gets it back by then, if the plan says nothing else
LATENCY_S = (0.01, 0.4)
LOOK_EVERY_S = 600
REFRESHES_MIN = 3  # a schedule with fewer goes on until it has them


class _Source:
    """The keeper of a device, as its token API sees it; the checks see what it serves."""

    def __init__(self, world: World, end: SimulatedDevice) -> None:
        self._world = world
        self._end = end

    async def get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        """Ask the agent that runs now."""
        answer: TokenGranted | TokenRefused = await self._end.agent.keeper.get_token(query)
        self._world.announcer.served(self._end.name, query, answer)
        return answer

    async def find_phone(self, word: str) -> NamedPhone | TokenRefused:
        """Ask the agent that runs now."""
        return await self._end.agent.keeper.find_phone(word)


class Performer:
    """Everything that acts on a world from outside: people, apps, faults."""

    def __init__(
        self, world: World, plan: Plan, promises: Promises, note: Callable[[str], None] = lambda line: None
    ) -> None:
        self.world = world
        self.plan = plan
        self.promises = promises
        self.note = note
        self.random = Random(f"people {plan.seed}")  # noqa: S311  # part of the reproducible history
        self.lost: set[str] = set()
        self.failed_sign_ins = 0
        self.done: list[str] = []
        self._images: dict[str, Any] = {}
        self._off_since: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._third = ThirdSteps(world, promises, self._go, self._ask_with) if world.third is not None else None
        self._apis = {end.name: self._api(end) for end in world.ends}

    def _api(self, end: SimulatedDevice) -> TokenApi:
        source = _Source(self.world, end)
        return TokenApi(source, POLICY, clock=end.clock, phones=source)

    async def run(self) -> None:
        """Run the whole plan, then let everything heal, and judge."""
        if self.plan.has_latency:
            for end in self.world.ends:
                self._latency(end)
        begun_s = self.world.time_s
        for step in self.plan.steps:
            wait_s = begun_s + step.at_s - self.world.time_s
            if wait_s > 0:
                await self.world.advance(wait_s)
            await self._restart_idle()
            self.note(step.text())
            if self._third is not None and step.act.startswith("third_"):
                await self._third.perform(step)
            else:
                await getattr(self, f"_{step.act}")(step)
        await self._calm()
        await self._settle()
        for task in list(self._tasks):
            await asyncio.wait({task})
        self.judge()
        if self._third is not None:
            await self._third.ask_at_the_end([end for end in self._present() if end.is_on])
        await self._ask_on()
        if self._refreshes() < REFRESHES_MIN and any(end in self.world.companions for end in self._present()):
            await self._heal_by_handoff()
            await self._settle()
            self.judge()

    def _refreshes(self) -> int:
        return sum(event.kind == "refresh_committed" for event in self.world.provider.state.events)

    async def _heal_by_handoff(self) -> None:
        """Check that a sign-in, a pairing where needed and a handoff give a working companion, whatever happened.

        The new handoff joins one that was open, which may turn out to be dead at the companion: then try once more.
        """
        phone = self.world.phones[0]
        watch = next(end for end in self.world.companions if end.name not in self.lost)
        self.note("all is well again: a handoff must heal it")
        seen = ""
        for _ in range(2):
            try:
                await phone.sign_in()
                if not _are_paired(phone, watch):
                    await phone.pair(watch)
                row = await phone.hand_off(watch, lease_days=0)
            except RelayError as exc:
                seen = f"{type(exc).__name__}: {exc}"
                self.note(seen)
            else:
                seen = f"it ended in {row.state}" if row.state != "done" else ""
                break
        look(self.promises.ledger, not seen, phone.name, f"no handoff in peace: {seen}")
        await self._ask_on()

    async def _ask_on(self) -> None:
        """Ask working companions for tokens until there were enough refreshes."""
        for end in self.world.companions:
            if end.name in self.lost or not any(row.state == "held" for row in end.rows(Grant)):
                continue
            for _ in range(REFRESHES_MIN):
                if self._refreshes() >= REFRESHES_MIN:
                    return
                await self.world.advance(61.0)
                await self._ask(end, OWNER_UID, is_forced=True)

    async def _settle(self) -> None:
        """Let time pass until nothing is under way any more, at most the promised bound."""
        for _ in range(SETTLE_HOURS * 3600 // LOOK_EVERY_S):
            await self.world.advance(LOOK_EVERY_S)
            present = self._present()
            if any(end.name in self.promises.ledger.ever_restored for end in present):
                continue  # what one end knows of it and the other has not heard is on no disk
            strange = self.promises.ledger.strange
            if not self.plan.settles_long and all(is_quiet(end.tables, strange) for end in present):
                return

    def _present(self) -> list[SimulatedDevice]:
        return [end for end in self.world.ends if end.name not in self.lost]

    def judge(self) -> None:
        """Judge the world as it is now."""
        views = [
            JudgedDevice(
                end.name,
                end.id,
                "phone" if isinstance(end, SimulatedPhone) else "companion",
                end.tables,
                end.clock.now(),
                is_connected=end.is_on and end.channel.is_connected,
                is_here=end.name not in self.lost,
            )
            for end in self.world.ends
        ]
        judge(self.promises, views, told=self.failed_sign_ins)

    # -- beginning and end -----------------------------------------------------------------------------

    def _latency(self, end: SimulatedDevice) -> None:
        end.link.out.delay_s = end.link.inward.delay_s = LATENCY_S
        end.http.delay_s = LATENCY_S

    async def _calm(self) -> None:
        """Take every fault back and switch on every device that is not lost."""
        while asleep := [end for end in self.world.ends if end.clock.is_suspended]:
            await self.world.advance(600.0)  # a suspended device wakes only when its time is over
            assert self.world.time_s < 10**9, asleep
        self.note("calm: every fault is taken back")
        if self._third is not None:
            await self._third.third.crash()
        broker = self.world.broker
        broker.lie = None
        broker.release()
        for end in self.world.ends:
            if end.name in self.lost:
                await end.crash()
                continue
            end.link.calm()
            end.http.heal()
            end.disk.calm()
            end.clock.sync()
            await self._switch_on(end)
        await self._broker_up(Step(0.0, "broker_up"))

    async def _switch_on(self, end: SimulatedDevice) -> None:
        """Switch a device on; if its vault is damaged, it begins anew and its person pairs it again."""
        if end.name in self.lost or end.is_on or end.disk.is_full:
            return
        end.disk.fail_next(0)  # the service manager starts a service again until its disk has room
        self._off_since.pop(end.name, None)
        try:
            await end.start()
        except CorruptVaultError:
            self.note(f"{end.name}: the vault is damaged; set aside")
            await end.set_aside()
            await end.start()
            self._go(self._pair_anew(end), f"{end.name} begins anew")

    async def _pair_anew(self, end: SimulatedDevice) -> None:
        """Act for the person whose device has a new identity: forget the old entry, sign in, pair."""
        if isinstance(end, SimulatedPhone):
            await self._sign_in_at(end)
            for companion in self.world.companions:
                if companion.is_on:
                    await end.pair(companion)
            return
        assert isinstance(end, SimulatedCompanion)
        for phone in self.world.phones:
            for pairing in phone.rows(Pairing):
                if pairing.peer_name == end.name and pairing.peer_id != end.id:
                    await phone.forget(pairing.peer_id)
            await phone.pair(end)

    async def _restart_idle(self) -> None:
        for end in self.world.ends:
            if not end.is_on and end.name not in self.lost:
                since_s = self._off_since.setdefault(end.name, self.world.time_s)
                if self.world.time_s - since_s >= RESTART_S:
                    await self._switch_on(end)

    def _go(self, work: Coroutine[Any, Any, object], what: str) -> None:
        """Run something beside everything else, and note its end as a line of the history."""

        async def carefully() -> None:
            try:
                await work
            except (RelayError, PowerCutError) as exc:
                self.note(f"{what}: {type(exc).__name__}: {exc}")
            else:
                self.note(f"{what}: done")

        task = asyncio.ensure_future(carefully())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what people do --------------------------------------------------------------------------------

    def _phone(self, step: Step) -> SimulatedPhone:
        end = self.world.end(step.end)
        assert isinstance(end, SimulatedPhone)
        return end

    def _watch(self, name: object) -> SimulatedCompanion:
        end = self.world.end(str(name))
        assert isinstance(end, SimulatedCompanion)
        return end

    async def _hand_off(self, step: Step) -> None:
        phone, watch, strategy = self._phone(step), step.args[0], step.args[1]
        username = self.random.choice(self.world.usernames) if self.random.random() < 0.15 else ""
        wish: dict[str, Any] = {"lease_days": self.plan.lease_days}
        if strategy:
            wish["strategy"] = strategy
        self._go(self._handing_off(phone, self._watch(watch), username, wish), step.text())

    async def _handing_off(
        self, phone: SimulatedPhone, watch: SimulatedDevice, username: str, wish: dict[str, Any]
    ) -> None:
        if self._third is not None and (spelled := self._third.spell(phone, watch)):
            row = await self._third.hand_off(phone, watch, spelled, username, wish)
        else:
            row = await phone.hand_off(watch, username=username, **wish)
        self.done.append(row.state)

    async def _cancel(self, step: Step) -> None:
        self._go(self._phone(step).cancel(self._watch(step.args[0])), step.text())

    async def _revoke(self, step: Step) -> None:
        self._go(self._phone(step).revoke(self._watch(step.args[0])), step.text())

    async def _unpair(self, step: Step) -> None:
        self._go(self._phone(step).unpair(self._watch(step.args[0])), step.text())

    async def _forget(self, step: Step) -> None:
        self._go(self._phone(step).forget(self._watch(step.args[0])), step.text())

    async def _pair(self, step: Step) -> None:
        self._go(self._phone(step).pair(self._watch(step.args[0])), step.text())

    async def _sign_in(self, step: Step) -> None:
        self._go(self._sign_in_at(self._phone(step)), step.text())

    async def _sign_in_at(self, phone: SimulatedPhone) -> None:
        try:
            await phone.sign_in(self.random.choice(self.world.usernames) if self.random.random() < 0.15 else "")
        except (RelayError, PowerCutError):
            self.failed_sign_ins += 1  # the person sees it; the provider may have issued a token
            raise

    async def _sign_out(self, step: Step) -> None:
        self._go(self._phone(step).sign_out(), step.text())

    async def _erase(self, step: Step) -> None:
        self._go(self._watch(step.end).forget(pairing=step.args[0] == "pairings"), step.text())

    async def _lose(self, step: Step) -> None:
        end = self.world.end(step.end)
        self.lost.add(end.name)
        await end.crash()

    async def _provider_revokes(self, step: Step) -> None:
        self.world.provider.revoke_user()

    # -- what apps do ----------------------------------------------------------------------------------

    async def _token(self, step: Step) -> None:
        end = self.world.end(step.end)
        if end.is_on:
            self._go(self._ask(end, int(step.args[1]) or OWNER_UID, is_forced=step.args[0] == "force"), step.text())

    async def _ask(self, end: SimulatedDevice, uid: int, *, is_forced: bool) -> None:
        parameters: dict[str, str] = {"min_valid_s": "60"}
        if uid != OWNER_UID:
            parameters["scope"] = "openid"
        elif is_forced:
            parameters["force_refresh"] = "1"
        await self._ask_with(end, parameters, uid)

    async def _ask_with(self, end: SimulatedDevice, parameters: Mapping[str, str], uid: int = OWNER_UID) -> None:
        peer = Peer(uid, uid, 1)
        text = urlencode(parameters)
        reply: Reply = await end.call(self._apis[end.name].answer(peer, "GET", f"/v1/token?{text}"))
        query = parse_query(text)
        assert isinstance(query, TokenQuery)
        scope = str(reply.body["scope"]) if reply.status == 200 else None
        self.promises.policy.asked(end.name, peer, POLICY, query, scope)
        if reply.status != 200:
            self.note(f"{end.name}: no token: {reply.body['error']}: {reply.body['detail']}")

    # -- links and broker ------------------------------------------------------------------------------

    async def _cut(self, step: Step) -> None:
        self.world.end(step.end).link.cut(step.args[0])  # type: ignore[arg-type]  # a plan names a way

    async def _heal(self, step: Step) -> None:
        self.world.end(step.end).link.heal()

    async def _noise(self, step: Step) -> None:
        link, (what, share) = self.world.end(step.end).link, step.args
        for direction in (link.out, link.inward):
            if what == "delay":
                direction.delay_s = (0.1, 20.0 * float(share))
            else:
                setattr(direction, str(what), float(share))

    async def _calm_link(self, step: Step) -> None:
        end = self.world.end(step.end)
        end.link.calm()
        if self.plan.has_latency:
            self._latency(end)

    async def _broker_forgets(self, step: Step) -> None:
        self.world.broker.forget()

    async def _broker_lies(self, step: Step) -> None:
        share = float(step.args[0])
        self.world.broker.lie = lambda packet: self.random.random() < share

    async def _broker_honest(self, step: Step) -> None:
        self.world.broker.lie = None

    async def _broker_down(self, step: Step) -> None:
        self.world.broker.go_down()

    async def _broker_up(self, step: Step) -> None:
        self.world.broker.come_up([end.channel for end in self.world.ends if end.is_on])

    async def _withhold(self, step: Step) -> None:
        kind = step.args[0]

        def is_held(packet: Packet) -> bool:
            return self.world.type_of(packet) == kind

        self.world.broker.hold = is_held

    async def _release(self, step: Step) -> None:
        self.world.broker.release()

    async def _replay(self, step: Step) -> None:
        seen = self.world.broker.seen
        count, where = int(step.args[0]), float(step.args[1])
        first = int(where * len(seen))
        for packet in list(seen[first : first + count]):
            self.world.broker.replay(packet)

    # -- the provider ----------------------------------------------------------------------------------

    async def _http(self, step: Step) -> None:
        kind, times, committed, seconds, retry_after_s, path = step.args
        named: HttpFaultKind = kind  # type: ignore[assignment]  # a plan names a kind
        fault = HttpFault(named, float(seconds), int(retry_after_s) or None, committed=bool(committed), path=str(path))
        self.world.end(step.end).http.plan(fault, int(times))

    async def _http_cut(self, step: Step) -> None:
        self.world.end(step.end).http.cut()

    async def _http_heal(self, step: Step) -> None:
        end = self.world.end(step.end)
        end.http.heal()
        if self.plan.has_latency:
            end.http.delay_s = LATENCY_S

    # -- power, disk, clock ----------------------------------------------------------------------------

    async def _crash(self, step: Step) -> None:
        await self.world.end(step.end).crash()

    async def _crash_at(self, step: Step) -> None:
        commit, moment = step.args
        self.world.end(step.end).disk.crash_at(int(commit), moment)  # type: ignore[arg-type]  # a plan names it

    async def _lose_at_crash(self, step: Step) -> None:
        self.world.end(step.end).disk.lose_at_crash(int(step.args[0]))

    async def _start(self, step: Step) -> None:
        await self._switch_on(self.world.end(step.end))

    async def _full(self, step: Step) -> None:
        self.world.end(step.end).disk.is_full = True

    async def _room(self, step: Step) -> None:
        self.world.end(step.end).disk.is_full = False

    async def _fail_next(self, step: Step) -> None:
        self.world.end(step.end).disk.fail_next(int(step.args[0]))

    async def _image(self, step: Step) -> None:
        end = self.world.end(step.end)
        self._images[step.end] = (end.id, end.image())

    async def _restore(self, step: Step) -> None:
        end = self.world.end(step.end)
        owner, image = self._images.get(step.end, ("", None))
        if owner == end.id and end.name not in self.lost:
            await end.restore(image)
            await self._switch_on(end)

    async def _tear(self, step: Step) -> None:
        end = self.world.end(step.end)
        if end.name not in self.lost:
            end.disk.tear()
            await end.crash()
            await self._switch_on(end)

    async def _jump(self, step: Step) -> None:
        self.world.end(step.end).clock.jump(float(step.args[0]))

    async def _clock_stop(self, step: Step) -> None:
        self.world.end(step.end).clock.stop()

    async def _year_1970(self, step: Step) -> None:
        """Cut the power of a board without a battery, whose clock then begins in 1970."""
        end = self.world.end(step.end)
        await end.crash()
        end.clock.begin_in_1970()
        await self._switch_on(end)

    async def _sync(self, step: Step) -> None:
        self.world.end(step.end).clock.sync()

    async def _suspend(self, step: Step) -> None:
        end = self.world.end(step.end)
        if end.is_on and not end.clock.is_suspended:
            self._go(end.suspend(float(step.args[0])), step.text())


def _are_paired(phone: SimulatedPhone, watch: SimulatedCompanion) -> bool:
    here, there = (
        {row.pairing_id for row in end.rows(Pairing) if row.state == "active" and row.peer_id == to.id}
        for end, to in ((phone, watch), (watch, phone))
    )
    return bool(here & there)
