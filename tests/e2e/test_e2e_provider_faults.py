"""A provider that answers nonsense at a refresh: the grant stays, the app is told why, and afterwards all is well."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.e2e.kit import Companion, World, eventually, ready

pytestmark = pytest.mark.asyncio

FAULTS: dict[str, tuple[dict[str, int], str]] = {
    "html": ({}, "no verdict from the provider: 200 text/html"),
    "huge": ({"size": 8_000_000}, "larger than 262144 bytes"),
    "cut_json": ({}, "no verdict from the provider: 200 application/json"),
    "throttle_429": ({"retry_after_s": 7}, "429"),
    "error_503": ({"retry_after_s": 7}, "503"),
    "drop_after_commit": ({}, ""),
}


async def cached_token_has_ended(watch: Companion) -> bool:
    return bool((await watch.grant())["access_token_ends_at"] == 0)


async def test_nonsense_at_a_refresh_keeps_the_grant_and_tells_the_app_that_it_is_offline_and_why() -> None:
    async with World(access_token_lifetime_s=1.0) as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await phone.stop()
        for name, (options, reason) in FAULTS.items():
            await eventually("the cached token's end", lambda: cached_token_has_ended(watch))
            generation = (await watch.grant())["generation"]
            await world.sandbox.fault(name, endpoint="token", times=1000, **options)
            said = (await watch("token", "--json")).expect(1).json
            assert said["error"] == "offline" and reason in said["detail"], (name, said)
            if "retry_after_s" in options:
                assert 5 < said["retry_after_s"] <= 7
            grant = await watch.grant()
            state = "held" if name == "throttle_429" else "uncertain"
            assert (grant["state"], grant["generation"]) == (state, generation), name
            assert grant["problem"] and said["detail"].startswith(grant["problem"]), name
            await world.sandbox.release()
            await watch.stop()  # a new start asks at once; else it would wait for the pause that the fault earned
            await watch.run()
            await watch.gets_in()
            assert (await watch.grant())["problem"] == ""


async def test_redirect_at_a_refresh_is_not_followed() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as elsewhere:
        elsewhere.setblocking(False)
        async with World(access_token_lifetime_s=1.0) as world:
            phone, watch = await ready(world)
            await phone.hand_off(watch)
            await watch.until_generation(2)
            await eventually("the cached token's end", lambda: cached_token_has_ended(watch))
            location = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/token"
            await world.sandbox.fault("redirect", endpoint="token", location=location)
            said = (await watch("token", "--json")).expect(1).json
            assert "307" in said["detail"] and "never followed" in said["detail"]
            with pytest.raises(BlockingIOError):
                elsewhere.accept()


@pytest.mark.parametrize("name", ["cut_json", "drop_after_commit"])
async def test_lost_answer_is_repaired_at_once_within_the_providers_leeway(name: str) -> None:
    """auth0: the previous token still works for 30 s, so one question of one app is enough."""
    async with World("auth0") as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        mark = await world.sandbox.fault(name, endpoint="token")
        token = await watch.token("--force-refresh")
        assert (await world.sandbox.resource(token))[0] == 200
        assert await world.sandbox.count("refresh_committed", after=mark) == 2
        assert await world.sandbox.count("reuse_detected") == 0
        assert (await watch.grant())["generation"] == 3


async def test_cached_token_is_given_while_the_provider_is_away() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        first = await watch.token()
        await world.sandbox.fault("down", times=1000)
        assert await watch.token("--force-refresh") == first
        assert "reached" in (await watch.grant())["problem"] or "lost" in (await watch.grant())["problem"]
        assert await watch.action() == ""
