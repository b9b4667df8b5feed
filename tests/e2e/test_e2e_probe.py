"""`provider probe` and `provider show` as a person types them: processes, sockets, a browser with two windows.

That no token stands in anything that the programs wrote, the world itself looks after.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import tomllib
from collections import defaultdict
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest

from tests.e2e.kit import PASSWORD, PASSWORD_USER, Program, World
from token_relay.sandbox.provider.world.model import CLIENT_ID

pytestmark = pytest.mark.asyncio
OPEN = r"open this in (your usual|a private)[^\n]*: (http://\S+)$"


async def sign_in(jar: aiohttp.CookieJar, url: str) -> None:
    """Fill in the pages until the program's own page comes."""
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        answer = await browser.get(url)
        for _ in range(5):
            html = await answer.text()
            action, ticket = re.search(r'action="([^"]+)"', html), re.search(r'name="ticket" value="([^"]+)"', html)
            if action is None or ticket is None:
                assert answer.status == 200, html
                return
            fields = {"ticket": ticket[1], "username": PASSWORD_USER, "password": PASSWORD, "action": "accept"}
            answer = await browser.post(urljoin(str(answer.url), action[1]), data=fields)
    raise AssertionError("the sign-in does not end")


async def attend(program: Program) -> None:
    """Sign in whenever the program asks, in the window that it names."""
    jars: dict[str, aiohttp.CookieJar] = defaultdict(lambda: aiohttp.CookieJar(unsafe=True))
    for count in range(1, 10):
        asked = await program.find(OPEN, count=count)
        await sign_in(jars[asked[1]], asked[2])


async def begin(world: World, *words: str) -> Program:
    return await world.start(
        *("provider", "probe", world.sandbox.issuer, "--client-id", CLIENT_ID, "--no-open", "--yes", "--json", *words)
    )


async def measured(world: World, *words: str) -> dict[str, Any]:
    program = await begin(world, *words)
    attending = asyncio.create_task(attend(program))
    try:
        return (await program.ended()).expect(0).json
    finally:
        attending.cancel()
        with contextlib.suppress(asyncio.CancelledError, AssertionError):
            await attending


@pytest.mark.parametrize(
    ("world_toml", "found", "between"),
    [
        (
            '[behaviour]\nreuse_takes = "session"\nrevocation_takes = "user"\n[policy]\nleeway_s = 2.5\n',
            {"invalidates_on_use": True, "leeway_s": 1, "reuse_takes": "session", "revocation_takes": "user"},
            [1, 5],
        ),
        (
            '[behaviour]\nrefresh = "repeats"\nrevocation = "ignored"\n',
            {"invalidates_on_use": False, "refresh_gives_new": False, "can_revoke_token": False},
            [],
        ),
    ],
    ids=["spends", "repeats"],
)
async def test_a_person_measures_a_provider_and_the_phone_goes_by_the_file(
    world_toml: str, found: dict[str, Any], between: list[int]
) -> None:
    async with World("auth0", world_toml=world_toml) as world:
        file = world.directory / "measured.toml"
        told = await measured(world, "--write", str(file))
        assert found.items() <= told["behaviour"].items()
        assert told["leeway_between_s"] == between
        assert told["behaviour"].items() <= tomllib.loads(file.read_text()).items()
        alive = 0 if found.get("can_revoke_token", True) else 3
        assert len([line for line in told["left"] if "lives on" in line]) == alive

        phone = await world.phone("phone", "--profile-file", str(file))
        shown = (await world.run("provider", "show", "--home", str(phone.home), "--json")).expect(0).json
        assert found.items() <= shown["behaviour"].items()
        assert {name for name, source in shown["sources"].items() if source == "file"} >= set(found)
        assert shown["refuted"] == []
        assert (await phone("status", "--json")).expect(0).json["refuted"] == []
        again = (await (await begin(world, "--write", str(file))).ended()).expect(2)
        assert "exists: nothing was measured" in again.json["error"]["message"]


async def test_ctrl_c_revokes_what_it_can_and_says_what_is_left() -> None:
    async with World("auth0", world_toml="[policy]\nleeway_s = 600\n", by_exec=True) as world:
        program = await begin(world)
        attending = asyncio.create_task(attend(program))
        await program.find("waiting 5 s")
        program.process.send_signal(signal.SIGINT)
        ran = await program.ended()
        attending.cancel()
        ran.expect(130)
        assert "access tokens that were issued work until their own end" in ran.err
        assert "interrupted" in ran.err
        assert "lives on" not in ran.err
        assert await world.sandbox.count("family_killed") == 3
