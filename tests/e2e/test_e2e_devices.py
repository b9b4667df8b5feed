"""An operator's day with real programs: who is there, what to do, and what a timer and Prometheus are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.e2e.kit import World, pair
from tests.e2e.terminal import Terminal

pytestmark = pytest.mark.asyncio


async def test_a_killed_companion_is_silent_the_others_are_online_and_each_hint_says_which() -> None:
    async with World() as world:
        phone, hall, car = await asyncio.gather(world.phone(), world.companion("hall"), world.companion("car 13"))
        await phone.sign_in()
        for device in (hall, car):
            await pair(phone, device)
            await phone.hand_off(device)

        async def rows() -> dict[str, dict[str, Any]]:
            listed = (await phone("devices", "--json")).expect(0).json["devices"]
            return {row["name"]: row for row in listed}

        assert {name: row["state"] for name, row in (await rows()).items()} == {"hall": "online", "car 13": "online"}
        assert (await phone("status", "--exit-code")).expect(0).out.startswith("2 devices: 2 fine\n")

        words = ("phone", "devices", "--watch", "--home", str(phone.home))
        async with Terminal(*words, env=world.env, cwd=world.directory) as screen:
            await screen.sees("2 devices: 2 fine")
            await car.kill()
            await screen.sees(r"silent +car 13 .*\n.*online +hall ")  # asked again ten seconds after the last question
            await screen.sees("2 devices: 1 silent, 1 fine")
            await screen.types("\x03")
            assert await screen.ended() == 0
        lines = (await phone("devices")).expect(0).out.splitlines()
        assert lines[1].startswith("○ silent") and "car 13" in lines[1]
        assert lines[3] == "2 devices: 1 silent, 1 fine"

        waiting = (await phone("handoff", "car 13", "--wait", "0")).expect(6)
        assert (
            waiting.last_line
            == "next: bring car 13 online; what waits for it goes on by itself then [bring_device_online]"
        )
        asked = (await phone("devices", "--only", "needs-me")).expect(0).out
        assert "needs you" in asked and "hall" not in asked
        assert "bring car 13 online" in (await phone("status", "--exit-code")).expect(4).last_line
        events = (await phone("events")).expect(0).out
        assert "car 13" in events and car.device_id not in events
        text = (await phone("metrics")).expect(0).out
        assert f'token_relay_device_info{{device_id="{car.device_id}",name="car 13"}} 1.0' in text
        assert f'token_relay_device_state{{device_id="{car.device_id}",state="needs_me"}} 1.0' in text
        assert 'token_relay_action{slug="bring_device_online"} 1.0' in text

        await phone.stop()
        (await phone("status", "--exit-code")).expect(3)
        (await hall("forget", "--yes")).expect(0)
        sentence = (await hall("status", "--exit-code")).expect(4).last_line
        assert "token-relay phone handoff hall" in sentence and hall.device_id not in sentence
