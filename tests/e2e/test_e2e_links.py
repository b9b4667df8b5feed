"""Each end has its own way to the broker and to the provider; a way that is cut is said at once, and heals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.e2e.kit import Companion, Phone, World, eventually, pair
from tests.watchdog import HANG_S
from token_relay.cli.client import get_token

pytestmark = pytest.mark.asyncio


async def through_links(world: World) -> tuple[Phone, Companion]:
    """A signed-in phone and a companion that holds a grant, each by its own links."""
    links = world.sandbox.links
    phone = await world.phone("phone", *options(links, "phone"))
    watch = await world.companion("watch", *options(links, "companion"))
    await phone.sign_in()
    await pair(phone, watch)
    await phone.hand_off(watch)
    await watch.until_generation(2)
    return phone, watch


def options(links: dict[str, str], kind: str) -> list[str]:
    return ["--broker", f"mqtt://{links[f'{kind}-broker']}", "--http-route", links[f"{kind}-provider"]]


async def ctl(world: World, *words: str) -> dict[str, Any]:
    """Run one ``sandbox ctl`` as a person does."""
    return (await world.run("sandbox", "ctl", *words, "--url", world.sandbox.http, "--json")).expect().json


async def passed(world: World) -> dict[str, int]:
    return {link["name"]: link["bytes_up"] for link in (await ctl(world, "links"))["links"]}


@pytest.mark.parametrize("profile", ["entra", "strict"])
async def test_a_companion_whose_provider_link_is_cut_says_offline_at_once_and_recovers(profile: str) -> None:
    async with World(profile, access_token_lifetime_s=1.0) as world:
        phone, watch = await through_links(world)
        await watch.gets_in()
        before = await passed(world)
        assert all(before.values()), "each end goes its own way"

        await ctl(world, "cut", "companion-provider")
        await eventually("the end of the cached token", lambda: token_has_ended(watch))
        for _ in range(2):
            said = (await watch("token", "--json")).expect(1)
            assert said.json["error"] == "offline" and "refused" in said.json["detail"]
        grant = await watch.grant()
        assert grant["state"] == "held" and "refused" in grant["problem"]
        await phone.gets_in()  # the phone's own way is whole, at the same URL of the same issuer
        after = await passed(world)
        assert after["companion-provider"] == before["companion-provider"]
        assert after["phone-provider"] > before["phone-provider"]

        await ctl(world, "heal", "companion-provider")
        await eventually("a token after the pause that the failures earned", lambda: gets_a_token(watch))
        assert (await watch.grant())["problem"] == ""
        assert (await passed(world))["companion-provider"] > before["companion-provider"]
        assert await world.sandbox.count("reuse_detected") == 0


async def token_has_ended(watch: Companion) -> bool:
    return bool((await watch.grant())["access_token_ends_at"] == 0)


async def gets_a_token(watch: Companion) -> bool:
    return (await watch("token", is_permitted=True)).code == 0


async def test_a_refresh_into_a_dead_link_ends_with_the_callers_patience_and_costs_nothing() -> None:
    async with World("entra", access_token_lifetime_s=1.0) as world:
        _, watch = await through_links(world)
        await ctl(world, "cut", "companion-provider", "--how", "drop")
        await eventually("the end of the cached token", lambda: token_has_ended(watch))
        mark = await world.sandbox.mark()
        socket = watch.home / "token.sock"
        status, body = await asyncio.to_thread(get_token, socket, {"timeout_s": "1.5"}, timeout_s=HANG_S)
        assert (status, body["error"]) == (503, "offline")
        assert await world.sandbox.count("token_request_received", after=mark) == 0
        await ctl(world, "heal", "all")
        await eventually("a token after the pause that the failure earned", lambda: gets_a_token(watch))


async def test_a_cut_broker_link_is_seen_at_its_end_alone_and_a_handoff_goes_through_after_it() -> None:
    async with World("entra") as world:
        phone, watch = await through_links(world)
        await ctl(world, "cut", "companion-broker")
        await watch.until("the broken connection", lambda status: not status["broker"]["connected"])
        assert (await phone.status())["broker"]["connected"]
        await phone("handoff", "watch", "--wait", "0")
        await ctl(world, "heal", "companion-broker")
        await phone.until(
            "the second handoff in place of the first",
            lambda s: [row["state"] for row in s["devices"][0]["handoffs"]] == ["gone", "done"],
        )
