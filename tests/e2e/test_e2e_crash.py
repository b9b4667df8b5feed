"""kill -9 and lost brokers in the middle of a handoff: it settles by itself, and nothing is issued or held twice.

The provider holds the phone's request at the moment that a test wants, so each kill lands between the same two commits
every time.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.kit import BrokerKind, Companion, Phone, World, ready

pytestmark = pytest.mark.asyncio


async def begin_and_hold(phone: Phone, when: str = "before_commit") -> int:
    """Open a handoff and return when ACCEPT is on the phone's disk and the provider holds the refresh for it."""
    sandbox = phone.world.sandbox
    mark = await sandbox.hold_refresh(when)
    (await phone("handoff", "watch", "--wait", "0")).expect(6)
    await sandbox.held(mark)
    return mark


async def until_done(phone: Phone) -> dict[str, object]:
    status = await phone.until("done", lambda s: s["devices"][0]["handoffs"][-1]["state"] == "done")
    return dict(status["devices"][0]["handoffs"][-1])


async def works(watch: Companion) -> None:
    await watch.gets_in()


@pytest.mark.parametrize("when", ["before_commit", "after_commit"])
async def test_phone_killed_while_it_obtains_the_token_counts_an_orphan_and_completes_after_its_restart(
    when: str,
) -> None:
    async with World() as world:
        phone, watch = await ready(world)
        mark = await begin_and_hold(phone, when)
        await phone.kill()
        await world.sandbox.event("request_lost" if when == "before_commit" else "answer_lost", after=mark)
        await world.sandbox.release()
        await phone.run()
        done = await until_done(phone)
        assert done["orphans"] == 1 and (await phone.status())["orphans"] == 1
        assert "orphan_left" in await phone.events()
        await watch.until_generation(2)
        await works(watch)
        # the orphan is counted even where the provider had done nothing: a killed phone cannot know
        committed = await world.sandbox.count("refresh_committed", after=mark)
        # [orphan +] what brings the phone's open intent to its end + branch + the companion's first
        assert committed == {"before_commit": 3, "after_commit": 4}[when]


async def test_phone_killed_between_released_and_stored_delivers_later_without_asking_the_provider_again() -> None:
    async with World(broker="mosquitto") as world:
        phone, watch = await ready(world)
        mark = await begin_and_hold(phone)
        await watch.stop()
        await world.sandbox.release()
        await phone.running.logged("handoff_released")
        await phone.kill()
        await watch.run()
        await phone.run()
        assert (await until_done(phone))["orphans"] == 0
        await watch.until_generation(2)
        await works(watch)
        assert await world.sandbox.count("refresh_committed", after=mark) == 2  # branch, and the companion's first


async def test_released_token_reaches_a_companion_whose_queue_the_broker_has_lost() -> None:
    """What decides is the phone's outbox; the broker's queue is a convenience."""
    async with World(broker="mosquitto") as world:
        assert world.mosquitto is not None
        phone, watch = await ready(world)
        await begin_and_hold(phone)
        await watch.kill()
        await world.sandbox.release()
        await phone.running.logged("handoff_released")
        await phone.kill()
        await world.mosquitto.kill()
        (world.mosquitto.directory / "mosquitto.db").unlink()
        await world.mosquitto.start()
        await asyncio.gather(watch.run(), phone.run())
        assert (await until_done(phone))["orphans"] == 0
        await works(watch)


async def test_companion_killed_after_accept_still_opens_the_token() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await begin_and_hold(phone)
        await watch.kill()
        await world.sandbox.release()
        await phone.running.logged("handoff_released")
        await watch.run()
        await until_done(phone)
        await works(watch)


@pytest.mark.parametrize("broker", ["mosquitto", "mosquitto-311"])
async def test_broker_killed_in_the_middle_of_a_handoff_only_delays_it(broker: BrokerKind) -> None:
    async with World(broker=broker) as world:
        assert world.mosquitto is not None
        phone, watch = await ready(world)
        await begin_and_hold(phone)
        await world.mosquitto.kill()
        await phone.until("noticed", lambda s: not s["broker"]["connected"])
        await world.sandbox.release()
        await phone.running.logged("handoff_released")  # the disk decides, not the network
        assert await phone.action() == "check_broker"
        handoff = (await phone("handoff", watch.device_id, "--wait", "0")).expect(6)
        assert handoff.last_line.endswith("token-relay phone doctor [check_broker]")  # and not: bring watch online
        assert (await phone("devices")).expect(0).last_line == handoff.last_line
        await world.mosquitto.start()
        await until_done(phone)
        await works(watch)
        assert (await phone.status())["broker"]["last_error"] == ""


async def test_both_agents_killed_at_every_log_line_of_a_handoff_still_settle() -> None:
    """One round for each point of the protocol that shows in a log: kill both there, start both, and it comes about."""
    async with World() as world:
        phone, watch = await ready(world)
        points: list[tuple[Phone | Companion, str]] = [
            (watch, "handoff_ready"),
            (phone, "handoff_released"),
            (watch, "handoff_stored"),
            (phone, "handoff_done"),
        ]
        for number, (agent, point) in enumerate(points, 1):
            (await phone("handoff", "watch", "--wait", "0")).expect(6)
            await agent.running.logged(point)
            await asyncio.gather(phone.kill(), watch.kill())
            await asyncio.gather(phone.run(), watch.run())
            await phone.until(f"{point} settled", lambda s: s["devices"][0]["handoffs"][-1]["state"] == "done")
            assert len((await phone.status())["devices"][0]["handoffs"]) == number
        await works(watch)
        grants = (await watch.status())["grants"]
        assert [grant["state"] for grant in grants] == ["held"]  # each handoff superseded the one before
        assert await world.sandbox.count("reuse_detected") == 0


async def test_token_that_was_moved_is_never_used_by_the_phone_again_even_across_a_kill() -> None:
    async with World("strict") as world:
        phone, watch = await ready(world)
        await watch.stop()
        (await phone("handoff", "watch", "--strategy", "move", "--wait", "0")).expect(6)
        await watch.run()
        await phone.running.logged("handoff_released")
        await phone.kill()
        await phone.run()
        (await phone("token")).expect(4)
        await until_done(phone)
        await watch.until_generation(2)
        await works(watch)
        assert await world.sandbox.count("reuse_detected") == 0
