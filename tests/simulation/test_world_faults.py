"""Each accident of the simulated world does what its name says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from token_relay.agents.records import AuditEvent, Grant, Outgoing, Pairing
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.sandbox.provider.world.model import FaultModel
from token_relay.sandbox.provider.world.rules import Kind
from token_relay.simulation.loop import DeadlockError, VirtualLoop
from token_relay.simulation.ports.http import HttpFault
from token_relay.simulation.ports.http_faults import HttpFaultKind
from token_relay.simulation.ports.power import PowerCutError
from token_relay.simulation.world.devices import SimulatedCompanion, SimulatedDevice, SimulatedPhone
from token_relay.simulation.world.world import TierName, World
from token_relay.vault.errors import CorruptVaultError

DAY = 86_400.0
Story = Callable[[World, SimulatedPhone, SimulatedCompanion], Awaitable[None]]


def tell(
    story: Story, profile: Kind = "entra", tier: TierName = "fast", *, hands_off: bool = True, **more: Any
) -> World:
    """Run a story in a world where the watch has a grant (or is only paired)."""
    world = World(profile, tier=tier, **more)

    async def whole() -> None:
        await world.begin()
        if hands_off:
            assert (await world.phones[0].hand_off("watch")).state == "done"
            await world.advance(5)
        await story(world, world.phones[0], world.companions[0])

    world.run(whole())
    return world


def grant_of(watch: SimulatedCompanion) -> Grant:
    return max(watch.rows(Grant), key=lambda grant: grant.stored_at)


# -- Time --------------------------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.forgive()
    for task in asyncio.all_tasks(made):
        task.cancel()
    made.run_until_complete(asyncio.sleep(0))
    made.close()


def test_who_waits_for_nothing_is_named_and_does_not_hang(loop: VirtualLoop) -> None:

    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="waits_for_ever"):
        loop.run_until_complete(waits_for_ever())


def test_a_wait_beyond_the_worlds_end_is_an_error_while_others_go_on() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        world.loop.horizon_s = world.time_s + 10 * DAY
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="world's end"):
        tell(story)


def test_a_moment_that_never_ends_is_an_error(loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("token_relay.simulation.loop.STEPS_AT_ONCE_MAX", 1000)

    async def spins() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(DeadlockError, match="time does not pass"):
        loop.run_until_complete(spins())


@pytest.mark.parametrize("timeout", [[], [300.0]], ids=["Python 3.11", "Python 3.12 and later"])
def test_the_world_ends_as_asyncio_ends_a_loop(loop: VirtualLoop, timeout: list[float]) -> None:
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor(*timeout))


def test_threads_and_sockets_are_refused(loop: VirtualLoop) -> None:

    async def cheats() -> None:
        with pytest.raises(RuntimeError, match="no threads"):
            await asyncio.to_thread(print)
        with pytest.raises(RuntimeError, match="no sockets"):
            await asyncio.open_connection("localhost", 1)
        with pytest.raises(RuntimeError, match="no processes"):
            await asyncio.create_subprocess_exec("true")

    loop.run_until_complete(cheats())


def test_a_world_in_real_time_is_refused() -> None:
    async def story() -> None:
        with pytest.raises(RuntimeError, match="virtual time"):
            World()

    asyncio.run(story())


def test_sixty_days_offline_cost_what_happens_in_them_and_no_more() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        watch.link.cut()
        watch.http.cut()
        await world.advance(1)
        begun, steps = world.time_s, world.loop.steps
        await world.advance(60 * DAY)
        assert world.time_s - begun == pytest.approx(60 * DAY)
        # Hourly marks of the lease, and from the half of the idle lifetime on a try each quarter of an hour: a loop
        # that looked at the clock once a minute would need more than this by itself.
        assert world.loop.steps - steps < 2 * 86_400

    tell(story)


def test_a_suspended_device_sleeps_late_and_its_boot_time_goes_on() -> None:
    woke: list[float] = []

    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        begun, boot_s = world.time_s, watch.clock.now().boot_s

        async def sleeper(seconds: float) -> None:
            await watch.clock.sleep(seconds)
            woke.append(world.time_s - begun)

        async def timed_out() -> None:
            try:
                async with asyncio.timeout(100):
                    await asyncio.Event().wait()
            except TimeoutError:
                woke.append(world.time_s - begun)

        works = (sleeper(30), sleeper(1000), sleeper(9000), timed_out())
        tasks = [world.loop.create_task(work, context=watch.context.copy()) for work in works]
        await asyncio.sleep(10)
        await watch.suspend(3600)
        await asyncio.gather(*tasks)
        assert watch.clock.now().boot_s - boot_s == pytest.approx(9000)

    tell(story)
    # 20 s of its piece were left; 50 s of its first minute; not late at all; a timeout stands still in suspend
    assert sorted(woke) == pytest.approx([3630, 3660, 3700, 9000])


def test_a_suspended_device_takes_messages_and_answers_when_it_wakes() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        sleeping = asyncio.ensure_future(watch.suspend(7200))
        await world.advance(10)
        rows = await phone.revoke(watch, wait_s=60)
        assert [row.state for row in rows] == ["revoking"]
        assert grant_of(watch).state == "held"
        await sleeping
        await world.advance(60)
        assert grant_of(watch).state == "dead"

    tell(story)


def test_wall_clocks_jump_stop_and_begin_in_1970() -> None:
    world = World()
    clock = world.companions[0].clock
    right = clock.now().wall_s
    clock.jump(-5000)
    assert clock.now().wall_s == right - 5000
    clock.stop()
    world.loop.begin_at(100.0)
    assert clock.now().wall_s == right - 5000
    assert clock.now().boot_s == 200.0
    clock.go()
    clock.begin_in_1970()
    assert (clock.now().wall_s, clock.now().is_synced) == (0.0, False)
    clock.sync()
    assert (clock.now().wall_s, clock.now().is_synced) == (right + 100, True)
    before = clock.now()
    clock.has_battery = False
    clock.reboot()
    assert clock.now().boot_id != before.boot_id
    assert clock.now().wall_s < 1 < before.wall_s
    world.close()


# -- Power and disk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["fast", "real"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_power_goes_at_a_commit_and_the_commit_is_kept_or_not(moment: str, tier: TierName) -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        before = grant_of(watch)
        watch.disk.crash_at(1, moment)  # type: ignore[arg-type]  # one of the two
        with pytest.raises(PowerCutError):
            await watch.token(force_refresh=True)
        assert not watch.is_on
        assert grant_of(watch).state == ("refreshing" if moment == "after" else "held")
        asked = len(watch.http.requests)
        await world.advance(60)
        assert len(watch.http.requests) == asked  # nothing of it runs any more
        boot_id = watch.clock.boot_id
        await watch.start()
        assert watch.clock.boot_id != boot_id
        await world.advance(60)
        assert isinstance(await watch.token(), TokenGranted)
        assert grant_of(watch).generation >= before.generation

    tell(story, tier=tier)


@pytest.mark.parametrize("tier", ["fast", "real"])
def test_commits_that_were_never_flushed_are_gone_after_a_power_cut(tier: TierName) -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        before = grant_of(watch)
        watch.disk.lose_at_crash(2)  # intent and result of one refresh
        assert isinstance(await watch.token(force_refresh=True), TokenGranted)
        assert grant_of(watch).generation == before.generation + 1
        await watch.crash()
        assert grant_of(watch) == before
        await watch.start()

    tell(story, tier=tier)


@pytest.mark.parametrize("tier", ["fast", "real"])
def test_a_full_disk_refuses_writes_and_keeps_what_it_has(tier: TierName) -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        watch.disk.is_full = True
        before = watch.tables
        assert isinstance(await watch.token(), TokenGranted)  # from the cache: no write
        refused = await watch.token(force_refresh=True, timeout_s=1)
        assert isinstance(refused, TokenGranted | TokenRefused)
        assert watch.tables is before
        watch.disk.is_full = False
        await world.advance(120)
        assert isinstance(await watch.token(force_refresh=True), TokenGranted)

    tell(story, tier=tier)


@pytest.mark.parametrize("tier", ["fast", "real"])
def test_a_torn_vault_does_not_open_and_the_device_begins_anew(tier: TierName) -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        await watch.crash()
        watch.disk.tear()
        with pytest.raises(CorruptVaultError):
            await watch.start()
        device_id = watch.id
        await watch.set_aside()
        await watch.start()
        assert watch.id != device_id
        assert watch.rows(Grant) == []
        await phone.pair(watch)
        assert (await phone.hand_off(watch)).state == "done"

    tell(story, tier=tier)


@pytest.mark.parametrize("tier", ["fast", "real"])
def test_an_older_image_can_be_put_back(tier: TierName) -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        image, rows = watch.image(), watch.rows(AuditEvent)
        assert isinstance(await watch.token(force_refresh=True), TokenGranted)
        assert len(watch.rows(AuditEvent)) > len(rows)
        await watch.restore(image)
        assert watch.rows(AuditEvent) == rows
        await watch.start()

    tell(story, tier=tier)


def test_a_commit_that_the_file_does_not_hold_is_a_violation() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        store: Any = watch.disk.store
        await watch.crash()
        (grant,) = watch.rows(Grant)
        store._shadow.transact(lambda tx: tx.delete(Grant, grant.grant_id), lambda: None)
        with pytest.raises(AssertionError, match="the file holds other rows than were committed"):
            await watch.start()

    tell(story, tier="real")


def test_whoever_uses_a_device_that_is_off_is_told() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        await watch.stop()
        with pytest.raises(PowerCutError):
            await watch.token()

    tell(story)


# -- The wire and the broker -------------------------------------------------------------------------------


def test_a_cut_wire_keeps_messages_until_it_is_healed() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        watch.link.cut()
        assert not watch.channel.is_connected
        rows = await phone.revoke(watch, wait_s=30)
        assert [row.state for row in rows] == ["revoking"]
        watch.link.heal()
        await world.advance(1)
        assert grant_of(watch).state == "dead"

    tell(story)


def is_connected(end: SimulatedDevice) -> bool:
    return end.channel.is_connected


@pytest.mark.parametrize("way", ["out", "in"])
def test_a_one_way_partition_lets_the_other_way_through_until_it_is_noticed(way: str) -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        watch.link.cut(way)  # type: ignore[arg-type]  # one of the two
        await phone.revoke(watch, wait_s=30)
        assert is_connected(watch)
        assert (grant_of(watch).state == "dead") is (way == "out")
        assert phone.rows(Outgoing)  # REVOKED has not come back
        await world.advance(90)
        assert not is_connected(watch)
        watch.link.heal()
        await world.advance(1)
        assert grant_of(watch).state == "dead"
        assert not phone.rows(Outgoing)

    tell(story)


def test_lost_doubled_late_and_reordered_packets_end_well() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        for end in world.ends:
            for direction in (end.link.out, end.link.inward):
                direction.loss, direction.duplicate, direction.reorder = 0.2, 0.3, 0.5
                direction.delay_s = (0.0, 2.0)
        arrived = len(world.broker.seen)
        row = await phone.hand_off(watch, wait_s=0)
        await world.advance(3600)
        assert any(found.handoff_id == row.handoff_id for found in watch.rows(Grant))
        assert watch.agent.turns.rejects["duplicate"] + phone.agent.turns.rejects["duplicate"] > 0
        assert len(world.broker.seen) - arrived > 5

    tell(story)


def test_a_broker_that_forgets_makes_everybody_connect_anew() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        watch.link.cut()
        await phone.revoke(watch, wait_s=1)
        assert world.broker.sessions[watch.id].waiting
        world.broker.forget()
        await world.advance(1)
        watch.link.heal()
        await world.advance(1)
        assert phone.channel.is_connected and watch.channel.is_connected
        assert grant_of(watch).state == "dead"  # the phone's outbox has not forgotten

    tell(story)


def test_a_broker_that_lies_acknowledges_and_drops() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        world.broker.lie = lambda packet: packet.sender == "phone"
        await phone.revoke(watch, wait_s=30)
        assert grant_of(watch).state == "held"
        world.broker.lie = None
        await world.advance(600)
        assert grant_of(watch).state == "dead"

    tell(story)


def test_a_broker_may_hold_one_kind_of_message_back_and_deliver_the_rest() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        world.broker.hold = lambda packet: world.type_of(packet) == "REVOKE"
        await phone.revoke(watch, wait_s=30)
        await world.advance(2 * DAY)
        assert grant_of(watch).state == "held"
        assert {world.type_of(packet) for packet in world.broker.held} == {"REVOKE"}
        assert "HELLO" in {world.type_of(packet) for packet in world.broker.seen}
        world.broker.release()
        await world.advance(1)
        assert grant_of(watch).state == "dead"

    tell(story)
    tell(story, tier="memory")


def test_old_packets_can_be_replayed_and_the_broker_restarted() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        before = grant_of(watch)
        for number in range(len(world.broker.seen)):
            world.broker.replay(number)
        await world.advance(5)
        assert watch.agent.turns.rejects["duplicate"] > 0
        restart = asyncio.ensure_future(world.restart_broker(down_s=60))
        await world.advance(30)
        assert not is_connected(watch)
        await restart
        assert is_connected(watch)
        assert grant_of(watch).refresh_token == before.refresh_token

    tell(story)


# -- The provider ------------------------------------------------------------------------------------------

ANSWERS: dict[HttpFaultKind, object] = {
    "not_sent": NotSent,
    "lost_before": AnswerLost,
    "lost_after": AnswerLost,
    "500": 500,
    "502": 502,
    "503": 503,
    "429": 429,
    "slow": 200,
    "200": 200,
    "cut_json": 200,
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_request_meets_the_fault_that_was_planned(kind: HttpFaultKind) -> None:
    class Heard:
        """Of all that happens only the answers."""

        def __init__(self) -> None:
            self.answers: list[tuple[str, object]] = []

        def answered(self, end: str, request: HttpRequest, answer: HttpResponse | NotSent | AnswerLost) -> None:
            self.answers.append((end, answer.status if isinstance(answer, HttpResponse) else type(answer)))

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *args, **named: None

    heard = Heard()

    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        commits, begun = world.provider.kinds().count("refresh_committed"), world.time_s
        del heard.answers[:]
        watch.http.plan(HttpFault(kind, seconds=7.0))
        await watch.token(force_refresh=True, timeout_s=20)
        assert heard.answers[0] == ("watch", ANSWERS[kind])
        is_committed = kind in ("lost_after", "slow", "cut_json")
        retries = len(heard.answers) - 1
        assert world.provider.kinds().count("refresh_committed") - commits == is_committed + retries
        assert (world.time_s - begun >= 7) is (kind == "slow")

    tell(story, observers=(heard,))


def test_the_providers_own_faults_and_slow_answers_count_in_virtual_time() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        armed = FaultModel(name="drop_after_commit", grant_type="refresh_token")
        world.provider.faults.arm(armed, world.provider.time(world.provider.true_wall_s()))
        watch.http.delay_s = (1.0, 2.0)
        begun = world.time_s
        assert isinstance(await watch.token(force_refresh=True, timeout_s=20), TokenGranted)
        assert "answer_lost" in world.provider.kinds()
        assert 2 <= world.time_s - begun <= 10

    tell(story)


def test_a_user_may_be_revoked_at_any_time() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        world.provider.revoke_user()
        await watch.token(force_refresh=True, timeout_s=5)
        assert (grant_of(watch).state, grant_of(watch).reason) == ("dead", "denied")

    tell(story, "strict")


def _refresh_twice(world: World, phone: SimulatedPhone, pause_s: float) -> Callable[[], Awaitable[list[int]]]:
    """Spend one value twice, then its successor; return the three answers' statuses."""

    async def spend(value: object) -> HttpResponse:
        form: Any = (
            ("grant_type", "refresh_token"),
            ("refresh_token", value),
            ("client_id", phone.agent.settings.client_id),
        )
        answer = await phone.http.request(HttpRequest("POST", world.provider.metadata.token_endpoint, form=form))
        assert isinstance(answer, HttpResponse)
        return answer

    async def run() -> list[int]:
        (own,) = phone.rows(Grant)
        first = await spend(own.refresh_token)
        await world.advance(pause_s)
        second = await spend(own.refresh_token)
        import json

        third = await spend(json.loads(first.body)["refresh_token"])
        return [first.status, second.status, third.status]

    return run


@pytest.mark.parametrize(
    ("profile", "pause_s", "expected"),
    [
        ("entra", 1000, [200, 200, 200]),
        ("auth0", 10, [200, 200, 200]),  # the second made the first's successor the previous one
        ("auth0", 1000, [200, 403, 403]),
        ("strict", 10, [200, 400, 400]),
        ("rotates", 10, [200, 400, 200]),  # a spent token is refused, its successor stays good
        ("grace", 10, [200, 200, 200]),  # both branches live
        ("grace", 1000, [200, 400, 400]),
    ],
)
def test_each_kind_of_provider_treats_a_second_use_in_its_own_way(
    profile: Kind, pause_s: float, expected: list[int]
) -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        assert await _refresh_twice(world, phone, pause_s)() == expected

    tell(story, profile, hands_off=False)


def test_branches_within_the_grace_period_live_on_independently() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        assert await _refresh_twice(world, phone, 10)() == [200, 200, 200]
        assert world.provider.kinds().count("family_killed") == 0

    tell(story, "grace", hands_off=False)


# -- Many devices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["entra", "strict"])
@pytest.mark.parametrize("live", [False, True])
def test_two_phones_and_two_companions_keep_apart(profile: Kind, live: bool) -> None:
    world = World(profile, phones=2, companions=2)

    async def story() -> None:
        await world.begin(live=live)
        assert [end.name for end in world.ends] == ["phone", "phone2", "watch", "watch2"]
        for phone in world.phones:
            for companion in world.companions:
                assert (await phone.hand_off(companion)).state == "done"
        await world.advance(10)
        for companion in world.companions:
            assert [grant.state for grant in companion.rows(Grant)] == ["held", "held"]
            assert isinstance(await companion.token(), TokenGranted)
        await world.phones[1].revoke(world.companions[0])
        await world.advance(5)
        states = [sorted(grant.state for grant in companion.rows(Grant)) for companion in world.companions]
        assert states == [["dead", "held"], ["held", "held"]]

    world.run(story())


@pytest.mark.parametrize("tier", ["fast", "memory", "real"])
def test_a_world_that_begins_in_the_middle_is_as_one_that_did_it_live(tier: TierName) -> None:
    found = []
    for live in (True, False):
        world = World("auth0", tier=tier)

        async def story(world: World = world, live: bool = live) -> None:
            await world.begin(live=live)
            await world.advance(3600)
            found.append([[pairing.state for pairing in end.rows(Pairing)] for end in world.ends])
            assert [grant.state for grant in world.phones[0].rows(Grant)] == ["held"]
            assert (await world.phones[0].hand_off("watch")).state == "done"

        world.run(story())
    assert found[0] == found[1] == [[["active"][0]], [["active"][0]]]


def test_a_second_person_signs_in_beside_the_first() -> None:
    async def story(world: World, phone: SimulatedPhone, watch: SimulatedCompanion) -> None:
        await phone.sign_in(world.usernames[1])
        # auth0 tells the user name only to a client that asks for email, so people are known by their names there
        names = ["Pat Password", "second"] if world.profile == "auth0" else sorted(world.usernames)
        assert sorted(grant.account for grant in phone.rows(Grant)) == names

    tell(story, hands_off=False)
    tell(story, "auth0", "memory", hands_off=False)
