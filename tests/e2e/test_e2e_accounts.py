"""Two people on one phone, through the real programs: the token on the companion speaks for the one who was named."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.e2e.kit import OTP_USER, PASSWORD, Companion, World, ready
from tests.e2e.terminal import Terminal

pytestmark = pytest.mark.asyncio
FIRST = OTP_USER
SECOND = "reset@contoso.example"


async def speaks_for(world: World, watch: Companion, *words: str) -> str:
    """Ask the sandbox's protected resource whose token an app would get."""
    token = (await watch("token", *words, is_permitted=True)).expect(0).out.strip()
    request = urllib.request.Request(
        f"{world.sandbox.http}/sandbox/resource", headers={"authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["username"])


async def test_the_person_who_is_named_is_handed_off_and_nobody_else() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        sign_in = ("sign-in", "--username", SECOND, "--password-file", "-")
        (await phone(*sign_in, stdin=PASSWORD)).expect(0)
        # measured: this ignored --username, and handed out the account that had signed in last
        refused = (await phone("handoff", "watch", "--username", FIRST, "--password-file", "pw")).expect(2)
        assert "--username and --password-file would not be heeded" in refused.err and "--account" in refused.err
        asked = (await phone("handoff", "watch")).expect(4)
        assert f"whose grant is handed off: {FIRST}, {SECOND}" in asked.err and "--account" in asked.err
        made = (await phone("handoff", "watch", "--account", FIRST, "--json")).expect(0).json
        assert (made["state"], made["account"]) == ("done", FIRST)
        assert await speaks_for(world, watch) == FIRST
        words = ("phone", "handoff", "watch", "--home", str(phone.home))
        async with Terminal(*words, env=world.env, cwd=world.directory) as terminal:
            number = (await terminal.sees(rf"(\d)  {SECOND}"))[1]
            await terminal.sees("Which one")
            await terminal.types(number)
            assert await terminal.ended() == 0
        assert "several grants fit" in (await watch("token")).expect(1).err, "no program changes its person"
        for name in (FIRST, SECOND):
            assert await speaks_for(world, watch, "--account", name) == name
        (await phone("sign-out")).expect(4)
        out = (await phone("sign-out", "--account", SECOND)).expect(0).out
        assert out.startswith(f"signed out of {SECOND}")
        (await phone("handoff", "watch")).expect(0)
        assert await speaks_for(world, watch, "--account", FIRST) == FIRST
