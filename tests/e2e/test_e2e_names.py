"""Names at both ends with real programs: renamed while the other end is off, and one device in another's place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.kit import OTP_USER, Agent, World, ready
from tests.e2e.terminal import Terminal

pytestmark = pytest.mark.asyncio


async def peer(end: Agent, device: Agent) -> dict[str, Any]:
    """What one end's status says of another, by its id."""
    status = await end.status()
    rows = status["devices"] if end.kind == "phone" else status["phones"]
    return next((dict(row) for row in rows if row["device_id"] == device.device_id), {})


async def until_called(end: Agent, device: Agent, name: str, itself: str) -> None:
    """Wait until one end calls another so, and knows what that one calls itself."""
    wanted = (name, itself)

    def holds(status: dict[str, Any]) -> bool:
        rows = status["devices"] if end.kind == "phone" else status["phones"]
        found = [(row["name"], row["calls_itself"]) for row in rows if row["device_id"] == device.device_id]
        return found == [wanted]

    await end.until(f"{wanted} at {end.name}", holds)


async def test_a_name_that_is_given_while_the_other_end_is_off_arrives_and_a_persons_own_stays() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.stop()
        (await watch("rename", "wrist")).expect(0)
        assert (await watch.status())["name"] == "wrist"
        await watch.stop()
        phone.edit_config('name = "phone"', 'name = "ann\'s phone"')
        await phone.run()
        (await phone("rename", "watch", "wrist ")).expect(2)
        await phone.stop()
        await watch.run()  # by now it has heard of nothing
        await phone.run()
        await until_called(phone, watch, "wrist", "wrist")
        await until_called(watch, phone, "ann's phone", "ann's phone")
        (await phone("handoff", "wrist", "--wait", "20")).expect(0)
        (await watch("primary", "ann's phone")).expect(0)
        told = (await phone("events", "--json")).expect(0).last_line
        assert ("device_renamed", "watch -> wrist") in [
            (row["name"], row.get("detail", "")) for row in json.loads(told)["events"]
        ]

        (await phone("rename", "wrist", "my watch")).expect(0)
        (await watch("rename", "arm")).expect(0)
        await until_called(phone, watch, "my watch", "arm")
        watch.edit_config('name = "watch"', 'name = "band"')
        await watch.stop()
        await watch.run()
        await until_called(phone, watch, "my watch", "band")
        assert "no paired device is called 'band'" in (await phone("handoff", "band")).expect(1).err


async def test_a_new_companion_takes_the_place_and_the_name_of_one_that_is_off() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await watch.stop()
        new = await world.companion("watch2")
        invitation = await new.invitation()
        words = ("replace", "watch", invitation, "--home", str(phone.home))
        async with Terminal("phone", *words, env=world.env, cwd=world.directory) as terminal:
            old = rf"watch \({watch.device_id[:6]}\)"
            await terminal.sees(rf"does watch2 show \d{{3}} \d{{3}} too\? .* grant of {OTP_USER}, then {old} loses")
            await terminal.types("y")
            assert await terminal.ended() == 6, terminal.text
            assert "has taken the place of" in terminal.text
        assert (await peer(phone, new))["name"] == "watch"
        assert [(await peer(phone, watch))[name] for name in ("name", "state")] == ["watch (old)", "retired"]
        assert await phone.action() == "bring_device_online"
        await new.gets_in()
        ran = (await phone("replace", "watch", "--yes", "--json")).expect(6)
        assert "watch (old)" in json.loads(ran.last_line)["message"], "it is over, but for the old one's word"
        await watch.run()
        await watch.until("nothing held", lambda status: all(row["state"] == "dead" for row in status["grants"]))
        await phone.until("no action", lambda status: status["action"] is None)
        await new.gets_in("--force-refresh")


async def test_what_was_begun_is_completed_when_it_is_run_again() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        new = await world.companion("watch2")
        invitation = await new.invitation()
        ran = (await phone("replace", "watch", invitation, "--yes", "--wait", "0")).expect(6)
        assert "keeps its grant until then" in ran.out + ran.err
        assert await phone.action() == "finish_replacement"
        done = (await phone("replace", "watch", "--yes", "--json")).expect(0)
        assert json.loads(done.last_line)["device_id"] == new.device_id
        assert await peer(phone, watch) == {} and (await peer(phone, new))["name"] == "watch"
        (await watch("token")).expect(4)
        await new.gets_in()
