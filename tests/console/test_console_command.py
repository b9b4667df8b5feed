"""``phone console`` and ``companion console`` as a person types them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from pathlib import Path

import aiohttp
import pytest

from tests.cli.cli_kit import Shell
from tests.e2e.kit import Program, World
from tests.e2e.terminal import Terminal
from tests.sockets.sockets_kit import short_directory
from tests.watchdog import HANG_S
from token_relay.cli.client import ClientError, locate
from token_relay.cli.commands import console as command
from token_relay.console.run import page_server, run_console
from token_relay.host import paths
from token_relay.pages.conversation import Talks


async def opens(address: str) -> int:
    """Open an address without cookies; return the status."""
    async with aiohttp.ClientSession() as session, session.get(address) as answer:
        return answer.status


@pytest.mark.asyncio
async def test_it_prints_one_address_that_opens_once_and_outlives_its_agent() -> None:
    async with World() as world:
        phone, watch = await asyncio.gather(world.phone(is_running=False), world.companion("watch"))
        for agent, said in ((phone, "The agent is away"), (watch, "No grant is here")):
            program: Program = await agent.begin("console", "--json")
            address = json.loads((await program.find(r"^\{.*\}$"))[0])["address"]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}/open\?key=[\w-]{32}", address)
            assert address.encode() not in program.seen_by_others()
            jar = aiohttp.CookieJar(unsafe=True)
            async with aiohttp.ClientSession(cookie_jar=jar) as session:
                async with session.get(address) as answer:
                    assert answer.status == 200
                async with session.get(address.partition("open?")[0]) as answer:
                    assert said in await answer.text()
            assert await opens(address) == 403
            await program.terminate()
            assert bytes(program.out).count(b"\n") == 1


@pytest.mark.asyncio
async def test_each_enter_prints_a_fresh_address() -> None:
    async with World() as world:
        phone = await world.phone(is_running=False)
        words = ("phone", "console", "--home", str(phone.home))
        async with Terminal(*words, env=world.env, cwd=world.directory) as screen:
            first = (await screen.sees(r"http://127\S+key=[\w-]{32}"))[0]
            await screen.types("")
            second = (await screen.sees(r"http://127\S+key=[\w-]{32}"))[0]
            assert second != first
            assert await opens(second) == await opens(first) == 200
            await screen.types("\x03")
            assert await screen.ended() == 0


@pytest.mark.asyncio
async def test_it_ends_when_nothing_is_asked_for() -> None:
    with short_directory() as home:
        talks, told = Talks(), list[str]()
        server = page_server(
            "phone", here=lambda name: home / name, there=lambda name: home / name, talks=talks, uids={0}, idle_s=0.0
        )
        async with asyncio.timeout(HANG_S):
            await run_console(server, talks, tell=told.append, terminal=None)
        assert len(told) == 1


def test_half_an_hour_without_a_request_is_said(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def ends_at_once(*_: object, **__: object) -> None:
        return

    monkeypatch.setattr(command, "run_console", ends_at_once)
    monkeypatch.setattr(command, "configure_logs", lambda context: None)  # it holds for a whole process: this one's too
    ran = shell("phone", "console", "--home", str(tmp_path))
    assert ran.code == 0 and "nothing was asked for half an hour" in ran.err


def test_a_console_stays_with_the_agent_that_it_found_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_directory() as homes, socket.socket(socket.AF_UNIX) as service, socket.socket(socket.AF_UNIX) as own:
        places = {service: homes / "run" / "phone", own: homes / "token-relay" / "phone"}
        for listener, place in places.items():
            place.mkdir(parents=True)
            listener.bind(str(place / "control.sock"))
            listener.listen()
        monkeypatch.setattr(paths, "SYSTEM_SOCKET_DIRECTORY", homes / "run")
        place_of = command.of_one_agent(lambda name: locate("phone", {"XDG_STATE_HOME": str(homes)}, name=name))
        assert place_of("control.sock").parent == places[own]
        own.close()
        with pytest.raises(ClientError, match=r"another one listens in .*/run/phone"):
            place_of("control.sock")
        assert locate("phone", {"XDG_STATE_HOME": str(homes)}).parent == places[service]


@pytest.mark.parametrize(
    ("me", "phones", "companions", "is_found"),
    [(7, 7, 7, True), (0, 7, 7, True), (7, 0, 7, True), (0, 7, 8, False), (7, 7, 8, False)],
)
def test_the_other_kind_is_found_where_it_is_usual_and_only_of_the_same_user(
    me: int, phones: int, companions: int, is_found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = {"phone": phones, "companion": companions}
    with short_directory() as homes, socket.socket(socket.AF_UNIX) as listener:
        theirs = homes / "companion" / "control.sock"
        theirs.parent.mkdir()
        listener.bind(str(theirs))
        listener.listen()
        environment = {"TOKEN_RELAY_HOMES": str(homes), "TOKEN_RELAY_HOME": str(homes / "phone")}
        place_of = command.of_the_same_user("companion", environment, lambda name: homes / "phone" / name)
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: me)
            patch.setattr(Path, "stat", lambda path: os.stat_result([0] * 4 + [owners[path.parent.name]] + [0] * 5))
            if is_found:
                assert place_of("control.sock") == theirs
                return
            with pytest.raises(ClientError, match="belongs to another user"):
                place_of("control.sock")
