"""An invitation that is over, between real programs over mosquitto: both ends say what happened, and what to do."""

from __future__ import annotations

import asyncio
import queue
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.kit import Agent, Companion, Phone, World, pair
from tests.watchdog import HANG_S
from tests.world import old_program
from token_relay.agents.phone.pairing import PAIR1_WAIT_S
from token_relay.cli.client import ClientError, JsonObject, control_call
from token_relay.protocol import pairing as wire
from token_relay.protocol.identity import KeyPair

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).parents[2]
SHIFTED_CLOCK = """#!{python}
import sys, time
from pathlib import Path

boot, shift = time.clock_gettime, Path({shift!r})
time.clock_gettime = lambda which: boot(which) + (float(shift.read_text()) if which == time.CLOCK_BOOTTIME else 0)
sys.path.insert(0, {root!r})
from tests import refusals
from token_relay.cli.main import main

refusals.record()
sys.exit(main(sys.argv[1:]))
"""


def shifted_clock(into: Path) -> tuple[tuple[str, ...], Path]:
    """Return a command whose boot time is ahead by as many seconds as a file says, and the file."""
    shift, launcher = into / "shift", into / "token-relay"
    shift.write_text("0")
    launcher.write_text(SHIFTED_CLOCK.format(python=sys.executable, shift=str(shift), root=str(ROOT)))
    launcher.chmod(0o755)
    return (str(launcher),), shift


async def says_no(phone: Agent, invitation: str) -> ClientError:
    """Pair as a person does who sees another number on the companion."""

    def call() -> ClientError:
        def no(ask: JsonObject) -> str:
            assert ask["kind"] == "confirm"
            return "no"

        with pytest.raises(ClientError) as refused:
            control_call(phone.home / "control.sock", "pair", {"invitation": invitation}, on_ask=no, silence_s=HANG_S)
        return refused.value

    return await asyncio.to_thread(call)


async def is_told(phone: Agent, invitation: str, said: str) -> None:
    error = (await phone("pair", "--yes", invitation, "--json")).expect(4).json["error"]
    assert said in error["message"] and "token-relay companion pair" in error["hint"], error


async def test_a_spent_invitation_is_said_to_be_used() -> None:
    async with World(broker="mosquitto") as world:
        phone, late, watch = await asyncio.gather(world.phone(), world.phone("late"), world.companion("watch"))
        invitation = await watch.invitation()
        (await phone("pair", "--yes", invitation)).expect(0)
        await is_told(late, invitation, "this invitation was used already")
        assert (await late.status())["devices"] == []
        await is_told(phone, invitation, "this invitation was used already")
        again = (await phone("pair", "--yes", await watch.invitation(), "--json")).expect(0).json
        assert again["message"] == "paired with watch again; this pairing takes the place of the older one"
        await phone.until("the older row is gone", lambda s: len(s["devices"]) == 1)


async def test_a_declined_invitation_is_said_at_both_ends() -> None:
    async with World(broker="mosquitto") as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        showing = await watch.begin("pair", "--no-qr")
        invitation = (await showing.find(r"^RTR1:\S+$"))[0]
        refused = await says_no(phone, invitation)
        assert refused.exit_code == 4 and "not confirmed" in str(refused)
        ended = (await showing.ended()).expect(4)
        assert "a phone answered: check number" in ended.err
        assert "the phone declined: the check numbers were not confirmed to be the same" in ended.err
        assert "token-relay companion pair" in ended.err
        assert (await watch.status())["phones"] == []
        await is_told(phone, invitation, "this invitation was declined on a phone")
        await pair(phone, watch)


async def test_a_fresh_invitation_follows_one_that_came_to_nothing_so_often_and_no_more() -> None:
    async with World() as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        steps: queue.SimpleQueue[JsonObject] = queue.SimpleQueue()
        path, args = watch.home / "control.sock", JsonObject({"fresh": 1})
        showing = asyncio.create_task(
            asyncio.to_thread(control_call, path, "pair", args, on_progress=steps.put, silence_s=HANG_S)
        )
        invitations: list[str] = []
        for _ in range(2):
            shown = await asyncio.to_thread(steps.get, timeout=HANG_S)
            assert shown["state"] == "shown"
            invitations.append(str(shown["invitation"]))
            await says_no(phone, invitations[-1])
            answered = await asyncio.to_thread(steps.get, timeout=HANG_S)
            assert answered["state"] == "answered" and answered["device_name"] == "phone"
            if len(invitations) == 1:
                ended = await asyncio.to_thread(steps.get, timeout=HANG_S)
                assert (ended["state"], ended["reason"]) == ("ended", "declined")
        assert invitations[0] != invitations[1]
        with pytest.raises(ClientError, match="the phone declined") as over:
            await showing
        assert over.value.exit_code == 4


async def test_a_command_that_is_interrupted_declines() -> None:
    async with World(broker="mosquitto") as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        showing = await watch.begin("pair", "--no-qr")
        invitation = (await showing.find(r"^RTR1:\S+$"))[0]
        (await phone("pair", invitation)).expect(4)  # nobody is at its terminal to say yes, and it leaves
        assert "the phone declined: its command was interrupted" in (await showing.ended()).expect(4).err
        assert (await watch.status())["phones"] == []


async def test_an_expired_invitation_is_said_to_be_expired(tmp_path: Path) -> None:
    command, shift = shifted_clock(tmp_path)
    async with World(broker="mosquitto", commands={"watch": command}) as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        invitation = await watch.invitation()
        shift.write_text(str(wire.INVITATION_LIFETIME_S + 300))
        await is_told(phone, invitation, "this invitation expired 5 min ago")
        await pair(phone, watch)


async def test_a_burnt_and_a_replaced_invitation_are_said_to_be_so() -> None:
    async with World() as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        first = await watch.invitation()
        waiting = await watch.begin("pair", "--no-qr")
        second = (await waiting.find(r"^RTR1:\S+$"))[0]
        await is_told(phone, first, "a newer invitation replaced this one")
        third = await watch.invitation()
        assert "replaced by a newer one" in (await waiting.ended()).expect(4).err
        await is_told(phone, second, "a newer invitation replaced this one")
        (await phone("pair", "--yes", third)).expect(0)


async def test_a_broker_that_is_down_is_the_cause_and_the_doctor_the_thing_to_do() -> None:
    async with World(broker="mosquitto") as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        invitation = await watch.invitation()
        assert world.mosquitto is not None
        await world.mosquitto.kill()
        for agent, words in ((watch, ["pair"]), (phone, ["pair", "--yes", invitation])):
            await agent.until("the broker is gone", lambda s: not s["broker"]["connected"])
            error = (await agent(*words, "--json")).expect(1).json["error"]
            assert error["message"].startswith("the broker is not connected: "), error
            assert error["hint"] == f"token-relay {agent.kind} doctor"


@pytest.mark.parametrize("cause", ["another broker", "no agent", "no broker"])
async def test_where_nobody_answers_the_likely_cause_is_named(tmp_path: Path, cause: str) -> None:
    command, shift = shifted_clock(tmp_path)
    async with World(broker="mosquitto", commands={"phone": command}) as world:
        phone = await world.phone()
        assert world.mosquitto is not None
        own = f"mqtt://127.0.0.1:{world.broker_port}"
        address = "mqtts://broker.example:8883" if cause == "another broker" else own
        key = KeyPair.from_random(bytes(range(32))).public_key
        text = wire.Invitation(key, wire.PairingSecret(bytes(16)), address).text()
        trying = await phone.begin("pair", text, "--json")
        await trying.find("waiting for the companion")
        if cause == "no broker":
            await world.mosquitto.kill()
            await phone.until("the broker is gone", lambda s: not s["broker"]["connected"])
        shift.write_text(str(PAIR1_WAIT_S))  # the minute is over at its next look at the clock
        error = (await trying.ended()).expect(1).json["error"]
        match cause:
            case "another broker":
                assert error["message"].endswith(f": its broker is {address}, this phone's is {own}"), error
                assert "config.toml" in error["hint"]
            case "no agent":
                assert error["message"] == "the companion did not answer"
                assert "token-relay companion status" in error["hint"]
            case _:
                assert error["message"].startswith("the broker is not connected: ")
                assert error["hint"] == "token-relay phone doctor"


async def test_an_agent_that_has_just_started_waits_for_its_broker_by_itself() -> None:
    async with World(broker="mosquitto") as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        await watch.stop()
        await watch.run(is_connected=False)
        invitation = await watch.invitation()
        await phone.stop()
        await phone.run(is_connected=False)
        (await phone("pair", "--yes", invitation)).expect(0)


async def test_an_invitation_is_taken_as_people_paste_it() -> None:
    async with World() as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        for paste in (
            lambda text: [text[:50], text[50:]],
            lambda text: [f"{text[:50]}\n{text[50:]}".lower()],
            lambda text: ["invitation:", text],
        ):
            (await phone("pair", "--yes", *paste(await watch.invitation()))).expect(0)
        text = await watch.invitation()
        lines = iter([f"the invitation: {text[:30]}", text[30:60], text[60:]])
        asked: list[str] = []

        def typed(ask: JsonObject) -> str:
            asked.append(str(ask["text"]))
            return next(lines)

        args: JsonObject = {"yes": True}
        await asyncio.to_thread(control_call, phone.home / "control.sock", "pair", args, on_ask=typed, silence_s=HANG_S)
        assert len(asked) == 3 and asked[1] == "the invitation is incomplete or mistyped; the rest of it, or nothing"
        text = await watch.invitation()
        (await phone("pair", "--yes", "-", stdin=f"valid for 10 min\n{text[:50]}\n{text[50:]}\n")).expect(0)


# -- Programs from before these answers --------------------------------------------------------------------


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command of the old program."""
    return old_program.unpack(tmp_path_factory.mktemp("old"), 1)


async def test_an_old_phone_drops_the_answer_and_asks_on_as_it_always_did(old: tuple[str, ...]) -> None:
    async with World(broker="mosquitto", commands={"late": old}) as world:
        phone: Phone
        phone, late, watch = await asyncio.gather(world.phone(), world.phone("late"), world.companion("watch"))
        invitation = await watch.invitation()
        (await phone("pair", "--yes", invitation)).expect(0)
        trying = await late.begin("pair", "--yes", invitation)
        await late.until("it drops the answer", lambda s: s["counters"].get("bad_length", 0) >= 1)
        assert trying.is_running
        trying.process.send_signal(signal.SIGINT)  # it would go on asking for a minute
        assert (await trying.ended()).code == 130
        await pair(late, watch)


async def test_an_old_companion_drops_the_word_of_a_phone_that_declines(old: tuple[str, ...]) -> None:
    async with World(broker="mosquitto", commands={"watch": old}) as world:
        watch: Companion
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        refused = await says_no(phone, await watch.invitation())
        assert refused.exit_code == 4
        await watch.until("it drops the word", lambda s: s["counters"].get("invitation_used", 0) >= 1)
        await pair(phone, watch)
