"""How the programs end and begin again: at once, nothing lost, nothing left behind.

"At once" is an order of events, not a time: an agent has ended while that for which it could have waited is still out.
What bounds the longest stop is ``DRAIN_S`` of the runtime; ``tests/agents/test_stop_in_time.py`` holds it in virtual
time.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.e2e.kit import World, ready

pytestmark = pytest.mark.asyncio


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process. proc(5)"""
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


async def test_idle_agents_end_at_once_on_sigterm_and_sigint_and_take_their_sockets_along() -> None:
    async with World(by_exec=True) as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        for agent in (phone, watch):
            assert children_of(agent.running.process.pid) == []
            assert sorted(path.name for path in agent.home.glob("*.sock")) == ["control.sock", "token.sock"]
            await agent.stop()
            assert list(agent.home.glob("*.sock")) == []
            program = await agent.run()
            program.process.send_signal(signal.SIGINT)
            (await program.ended()).expect(0)
            assert list(agent.home.glob("*.sock")) == []
            (await agent("status")).expect(3)


async def test_refresh_whose_answer_is_still_out_does_not_delay_the_end() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        mark = await world.sandbox.hold_refresh("before_commit")
        asking = await watch.begin("token", "--force-refresh", is_permitted=True)
        await world.sandbox.held(mark)
        await watch.stop()  # while the provider holds the answer, which it does until it is released below
        assert (await asking.ended()).code != 0
        await world.sandbox.event("request_lost", after=mark)
        await world.sandbox.release()
        await watch.run()
        await watch.until_generation(3)
        await watch.gets_in()


async def test_answer_that_comes_during_the_stop_is_stored_since_it_may_be_the_only_copy() -> None:
    async with World("strict") as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        mark = await world.sandbox.hold_refresh("after_commit")
        asking = await watch.begin("token", "--force-refresh", is_permitted=True)
        await world.sandbox.held(mark)
        stopping = asyncio.ensure_future(watch.stop())
        await watch.until_gone("token.sock")  # it has heard the signal: no new question is taken
        await world.sandbox.release()
        await stopping
        await asking.ended()
        await watch.run()
        assert (await watch.grant())["generation"] == 3
        await watch.gets_in("--force-refresh")
        assert await world.sandbox.count("reuse_detected") == 0


async def test_commands_that_wait_are_told_at_once_when_the_agent_stops() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await watch.stop()
        waiting = await phone.begin("handoff", "watch", "--wait", "600", "--json")
        await phone.until("offered", lambda s: s["devices"][0]["handoffs"])
        signing_in = await phone.begin("sign-in", "--browser", "--no-open", "--json")
        await signing_in.find("open in a browser: http")
        await phone.stop()  # while one would have waited for ten minutes and the other for a person
        for program in (waiting, signing_in):
            ran = (await program.ended()).expect(1)
            assert ran.json["error"]["code"] == "agent_went_away"
        await asyncio.gather(phone.run(), watch.run())
        await phone.until("done", lambda s: s["devices"][0]["handoffs"][0]["state"] == "done")


async def test_sockets_that_a_killed_agent_left_behind_are_replaced() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        for agent in (phone, watch):
            await agent.kill()
            assert len(list(agent.home.glob("*.sock"))) == 2
            (await agent("status")).expect(3)  # a dead socket is not an agent
            await agent.run()
            (await agent("status")).expect(0)
            await agent.token()


async def test_second_process_on_the_same_home_is_refused_and_hurts_nobody() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        for agent in (phone, watch):
            second = (await agent("run")).expect(1)
            assert "token-relay:" in second.err and "Traceback" not in second.err
            await agent.token()
            assert agent.running.is_running


async def test_agent_starts_without_broker_and_provider_and_finds_them_later() -> None:
    async with World(broker="mosquitto") as world:
        assert world.mosquitto is not None
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await watch.stop()
        await world.mosquitto.stop()
        await world.sandbox.fault("down", times=1000)
        await watch.run(is_connected=False)
        await watch.until("the reason", lambda s: s["broker"]["last_error"] == "connection refused")
        assert (await watch.status())["broker"]["connected"] is False
        await watch.token()  # from the disk
        await world.sandbox.release()
        await world.mosquitto.start()
        await watch.until("connected", lambda s: s["broker"]["connected"])
        await watch.stop()
