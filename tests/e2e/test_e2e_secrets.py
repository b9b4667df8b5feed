"""No token leaves the processes except sealed, to the provider, or as the reply that was asked for.

Every world is searched at its end (see the kit); here the story has as many ways to leak as possible, the broker is
tapped, and the search itself is shown to find what is planted.
"""

from __future__ import annotations

import asyncio
import base64
import sqlite3

import pytest

from tests.e2e.kit import OTP_USER, PASSWORD_USER, World, pair, ready
from tests.e2e.tap import Tap
from token_relay.sandbox.marked_tokens import find_marked

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("profile", ["entra", "strict"])
async def test_nothing_that_is_written_said_or_sent_holds_a_token(profile: str) -> None:
    by_exec = profile == "strict"
    async with World(profile, access_token_lifetime_s=2.0, by_exec=by_exec) as world, Tap(world.broker_port) as tap:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        await phone.sign_in()
        await pair(phone, watch)
        # answers that are lost, cut, refused, or hold the token where it does not belong
        for name in ("cut_json", "error_500", "html", "redirect"):
            await world.sandbox.fault(name, endpoint="token", committed=True)
            await phone("token", "--force-refresh", is_permitted=True)
        await world.sandbox.release()
        await phone.stop()
        await phone.run()
        await phone.hand_off(watch)
        await watch.token()
        for agent in (phone, watch):
            for words in (["status"], ["status", "--json"], ["events"], ["events", "--json"], ["doctor", "--json"]):
                await agent(*words)
            await agent("token", "--inspect", is_permitted=True)  # header and claims hold the mark, no signature
        wrong = await phone("sign-in", "--username", PASSWORD_USER, "--password-file", "-", stdin="wrong\n")
        assert wrong.code != 0
        await phone("sign-in", "--username", OTP_USER, "--otp-command", "echo 000", "--json")
        mark = await world.sandbox.hold_refresh("after_commit")
        asking = await watch.begin("token", "--force-refresh", is_permitted=True)
        await world.sandbox.held(mark)
        await watch.kill()  # with a journal, a socket and whatever else a crash leaves
        await asking.ended()
        await world.sandbox.release()
        world.check_for_leaks()
        await watch.run()
        (await phone("revoke", "watch", "--yes", "--lost", "--wait", "20")).expect(0)
        world.check_for_leaks()
        assert len(tap.heard) > 10
        for topic, payload in tap.heard:
            assert not find_marked(topic.encode() + payload), topic


async def test_the_search_finds_what_is_planted_in_every_place_that_it_looks_at() -> None:
    async with World(by_exec=True) as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        assert world.leaks() == []
        token = f"rt.SANDBOXMARK.{'5' * 64}"
        planted = {
            "raw": token.encode(),
            "hex": token.encode().hex().upper().encode(),
            "base64": base64.b64encode(b"xx" + token.encode()),
            "url": token.replace("S", "%53").encode(),
        }
        for name, data in planted.items():
            path = watch.home / f"planted-{name}"
            path.write_bytes(b"." * 1000 + data)
            assert [leak for leak in world.leaks() if str(path) in leak], name
            path.unlink()
        # a vault that forgets to seal
        await watch.stop()
        with sqlite3.connect(watch.home / "vault.db") as database:
            database.execute("UPDATE grants SET account = ?", (token,))
        database.close()
        assert any("vault.db" in leak for leak in world.leaks())
        with sqlite3.connect(watch.home / "vault.db") as database:
            database.execute("PRAGMA secure_delete=ON")
            database.execute("UPDATE grants SET account = 'x'")
        database.close()
        # a command that prints one, and one that is called with one
        printed = await phone("token")
        name = " ".join(printed.words)
        assert [leak for leak in world.leaks() if leak.startswith(f"{name}: base64")]
        world.permitted.add(name)
        told = await phone("handoff", token)
        assert [leak for leak in world.leaks() if leak.startswith(" ".join(told.words)) and "/proc" in leak]
        world.permitted |= {" ".join(told.words), f"{' '.join(told.words)} in /proc"}


async def test_refresh_token_lies_on_no_disk_in_clear_and_the_sealed_one_is_gone_after_the_revocation() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)

        def sealed() -> list[bytes | None]:
            with sqlite3.connect(f"file:{watch.home}/vault.db?mode=ro", uri=True) as database:
                found = [row[0] for row in database.execute("SELECT refresh_token FROM grants")]
            database.close()
            return found

        (before,) = sealed()
        assert isinstance(before, bytes)
        # A long row goes on in another page of the database, so the cell is looked for in pieces.
        pieces = [before[start : start + 16] for start in range(0, len(before) - 15, 16)]
        lying = (watch.home / "vault.db").read_bytes()
        assert sum(piece in lying for piece in pieces) >= len(pieces) - 1
        (await phone("revoke", "watch", "--yes")).expect(0)
        assert sealed() == [None]
        left = (watch.home / "vault.db").read_bytes()
        assert not any(piece in left for piece in pieces)  # overwritten, not only unlinked
