"""Whether a device is there is asked when somebody looks: true a moment after it was switched off, and not for ever."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.agents.world_kit import SimulatedPhone, running
from token_relay.agents.elapsed import Stamp
from token_relay.agents.phone.presence import ANSWER_S, ONLINE_S, PresenceName, presence
from token_relay.agents.phone.roll_call import AGAIN_S, ASKS
from token_relay.agents.ports import Now
from token_relay.agents.records import Pairing
from token_relay.cli.device_table import lines_of
from token_relay.service.device_list import DeviceList

NOW = Now("boot", 10_000.0, 1_800_000_000.0, True)


def stamp(age_s: float | None) -> str:
    return "" if age_s is None else Stamp("boot", NOW.boot_s - age_s, NOW.wall_s - age_s, True).to_text()


@pytest.mark.parametrize(
    ("heard_s", "asked_s", "connected_s", "judged"),
    [
        (0.1, 0.2, 5_000, "online"),  # it answered
        (300.0, 0.2, 5_000, "unknown"),  # its answer may be on its way
        (300.0, ANSWER_S, 5_000, "silent"),
        (None, ANSWER_S, 5_000, "silent"),  # never heard
        (0.2, 0.2, 5_000, "online"),  # it was heard in the turn that greets it
        (ONLINE_S, 400.0, 5_000, "online"),  # it answered then, and nobody has asked since
        (ONLINE_S + 1, 400.0, 5_000, "unknown"),
        (300.0, 400.0, 0.5, "unknown"),  # in a connection before this one: all are greeted at its begin
        (300.0, 400.0, 30.0, "silent"),
        (20.0, 400.0, 30.0, "online"),
    ],
)
def test_presence_follows_from_three_moments(
    heard_s: float | None, asked_s: float | None, connected_s: float, judged: PresenceName
) -> None:
    row = Pairing("p", "d", b"", "name", "active", b"", "", heard=stamp(heard_s), challenged=stamp(asked_s))
    assert presence(row, NOW, connected_at=NOW.boot_s - connected_s) == judged


# -- In the simulated world --------------------------------------------------------------------------------


async def look(phone: SimulatedPhone, **args: Any) -> dict[str, Any]:
    return dict(await DeviceList(phone.agent).answer(args))


async def states(phone: SimulatedPhone, **args: Any) -> dict[str, str]:
    return {row["name"]: row["state"] for row in (await look(phone, **args))["devices"]}


@asynccontextmanager
async def with_companions(count: int) -> Any:
    async with running("entra", companions=count) as world:
        for companion in world.companions[1:]:
            await world.pair(world.phone, companion)
        for companion in world.companions:
            await world.phone.hand_off(companion.name)
        yield world


@pytest.mark.asyncio
async def test_a_device_switched_off_a_minute_ago_is_silent_at_the_first_look() -> None:
    async with with_companions(2) as world:
        assert set((await states(world.phone)).values()) == {"online"}
        await world.clock.advance(600)
        await world.companions[1].crash()
        await world.clock.advance(60)
        assert await states(world.phone) == {world.companions[0].name: "online", world.companions[1].name: "silent"}
        (row,) = [row for row in (await look(world.phone))["devices"] if row["state"] == "silent"]
        assert row["heard_at"] < world.clock.now().wall_s - 60
        await world.companions[1].start()
        assert set((await states(world.phone)).values()) == {"online"}  # it greets when it comes back


@pytest.mark.asyncio
async def test_without_the_broker_nobody_is_called_silent() -> None:
    async with with_companions(2) as world:
        await world.clock.advance(600)
        await world.companions[1].crash()
        assert set((await states(world.phone)).values()) == {"online", "silent"}
        world.broker.go_down()
        assert set((await states(world.phone)).values()) == {"unknown"}


@pytest.mark.asyncio
async def test_a_broker_that_takes_no_greeting_says_nothing_of_a_device() -> None:
    async with with_companions(2) as world:
        await world.clock.advance(600)

        async def publish(topic: str, payload: bytes) -> bool:
            await world.phone.clock.sleep(3_600)  # neither taken nor refused
            return False

        world.phone.agent.turns.channel.publish = publish
        assert set((await states(world.phone)).values()) == {"unknown"}
        assert set((await states(world.phone, wait_s=0)).values()) == {"unknown"}


@pytest.mark.asyncio
async def test_looking_without_end_costs_commits_only_now_and_then() -> None:
    async with with_companions(2) as world:
        await world.clock.advance(600)
        row = (await world.phone.rows(Pairing))[0]
        for _ in range(50):
            await look(world.phone)
        again = (await world.phone.rows(Pairing))[0]
        assert (
            again.seq_sent <= row.seq_sent + 3
        )  # the greeting; and the device asks for its lease: an answer and the lease
        before = again.seq_sent
        hours = 4
        for _ in range(int(hours * 3_600 / AGAIN_S)):
            await world.clock.advance(AGAIN_S)
            await look(world.phone)
        asked = (await world.phone.rows(Pairing))[0].seq_sent - before
        assert ASKS.burst < asked <= 2 * (ASKS.burst + hours * 3_600 / ASKS.every_s) + 50


@pytest.mark.asyncio
async def test_looking_without_waiting_asks_nobody() -> None:
    async with with_companions(1) as world:
        await world.clock.advance(600)
        row = (await world.phone.rows(Pairing))[0]
        await look(world.phone, wait_s=0)
        assert (await world.phone.rows(Pairing))[0].seq_sent == row.seq_sent


@pytest.mark.asyncio
async def test_twenty_devices_fit_one_screen_with_the_silent_one_first_after_what_needs_a_person() -> None:
    async with with_companions(20) as world:
        silent, wanting = world.companions[13], world.companions[6]
        await world.clock.advance(600)
        await silent.crash()
        await wanting.agent.forget(pairing=False)  # it asks for a grant again, and a person must give it
        await world.clock.advance(60)
        lines = lines_of(await look(world.phone), width=80)
        assert len(lines) <= 23 and max(map(len, lines)) <= 80, "\n".join(lines)  # and a line for the prompt
        assert lines[0].split() == ["state", "name", "account", "heard", "lease", "next"]
        assert lines[1].split()[:4] == ["!", "needs", "you", wanting.name]
        assert lines[2].split()[:3] == ["○", "silent", silent.name]
        assert lines[21] == "20 devices: 1 needs you, 1 silent, 18 fine"
        names = [line.split()[2] for line in lines[3:21]]
        assert names == sorted(names, key=lambda name: int(name.removeprefix("watch") or 1)), "by number, not by letter"


@pytest.mark.asyncio
async def test_a_list_of_many_comes_in_pages_that_miss_nobody() -> None:
    async with with_companions(5) as world:
        seen: list[str] = []
        place: str | None = ""
        while place is not None:
            page = await look(world.phone, limit=2, after=place)
            assert page["summary"]["devices"] == 5
            seen += [row["name"] for row in page["devices"]]
            place = page["next"]
        assert len(seen) == 5 and set(seen) == {companion.name for companion in world.companions}


@pytest.mark.asyncio
async def test_one_device_is_shown_whole() -> None:
    async with with_companions(2) as world:
        name = world.companions[1].name
        whole = (await look(world.phone, device=name))["device"]
        assert (whole["name"], whole["state"], whole["device_id"]) == (name, "online", world.companions[1].id)
        assert [row["state"] for row in whole["pairings"][0]["handoffs"]] == ["done"]
