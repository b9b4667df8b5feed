"""The whole story with real programs: sign in, pair, hand off, the phone away, power cuts, revoke.

Each provider profile, each way to sign in, each strategy and each kind of broker comes up at least once; what a test
varies stands in its parameters.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.e2e.kit import (
    OTP_USER,
    PASSWORD,
    PASSWORD_USER,
    BrokerKind,
    Companion,
    Phone,
    Ran,
    World,
    eventually,
    pair,
    ready,
)

pytestmark = pytest.mark.asyncio
LIFETIME_S = 2.0  # of access tokens: long enough to be shown to the resource, short enough to wait for its end


async def sign_in_with_code_from_a_command(phone: Phone) -> None:
    address = phone.world.sandbox.http + f"/sandbox/mailbox/{OTP_USER}?wait_s=10"
    script = f"import urllib.request as u; print(u.urlopen('{address}').read().decode())"
    command = shlex.join([sys.executable, "-c", script])
    (await phone("sign-in", "--username", OTP_USER, "--otp-command", command)).expect()


async def sign_in_with_code_from_a_file(phone: Phone) -> None:
    code_file = phone.world.directory / "code"
    code_file.write_text("00000000\n")  # an older code, which must not be taken for the new one
    program = await phone.begin("sign-in", "--username", OTP_USER, "--otp-file", str(code_file))
    await program.find("waiting for the code")
    code = await phone.world.sandbox.code(OTP_USER)
    new = code_file.with_suffix(".new")
    new.write_text(f"{code}\n")
    new.rename(code_file)
    (await program.ended()).expect()


async def sign_in_with_password_from_a_file(phone: Phone) -> None:
    password_file = phone.world.directory / "password"
    password_file.write_text(f"{PASSWORD}\n")
    phone.world.permitted.add(str(password_file))
    (await phone("sign-in", "--username", PASSWORD_USER, "--password-file", str(password_file))).expect()


async def sign_in_with_browser(phone: Phone) -> None:
    await phone.sign_in()


async def import_from_an_sdk(phone: Phone) -> None:
    token = await phone.world.sandbox.refresh_token_of_an_sdk(PASSWORD_USER, PASSWORD)
    (await phone("import", "--refresh-token-file", "-", stdin=f"{token}\n")).expect()


STORIES = [
    ("entra", "sandbox", sign_in_with_code_from_a_command, "branch"),
    ("entra", "mosquitto", sign_in_with_password_from_a_file, "move"),
    ("entra", "mosquitto-311", sign_in_with_code_from_a_file, "mint"),
    ("auth0", "mutual-tls", sign_in_with_browser, "mint"),
    ("auth0", "mosquitto-311", import_from_an_sdk, "move"),
    ("strict", "mosquitto", sign_in_with_browser, "mint"),
    ("strict", "sandbox", sign_in_with_browser, "move"),
]


@pytest.mark.parametrize(
    ("profile", "broker", "sign_in", "strategy"),
    STORIES,
    ids=[f"{profile}-{broker}-{sign_in.__name__}-{strategy}" for profile, broker, sign_in, strategy in STORIES],
)
async def test_companion_lives_on_while_the_phone_is_off_until_it_is_revoked(
    profile: str, broker: BrokerKind, sign_in: Callable[[Phone], Awaitable[None]], strategy: str
) -> None:
    async with World(profile, broker, LIFETIME_S, by_exec=broker == "mutual-tls") as world:
        sandbox = world.sandbox
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        await sign_in(phone)
        await pair(phone, watch)
        (await hand_off(phone, watch, strategy)).expect(0)
        (done,) = await phone.handoffs(watch)
        assert (done["state"], done["strategy"], done["orphans"]) == ("done", strategy, 0)
        # the companion has refreshed once: the value that travelled is spent
        assert (await watch.until_generation(2))["state"] == "held"
        await phone.stop()

        first = await watch.gets_in()
        generation = (await watch.grant())["generation"]
        await eventually("the end of the first token", lambda: is_refused(world, first))
        assert (await watch.grant())["generation"] == generation  # only an app that asks makes a new one
        second = await eventually("a second token", lambda: another_token(watch, first))
        assert (await sandbox.resource(second))[0] == 200
        assert (await watch.grant())["generation"] == generation + 1

        await phone.run()
        revoked = (await phone("revoke", "watch", "--yes", "--json")).expect(0).json
        (row,) = revoked["handoffs"]
        assert row["device_confirmed"] is True
        refused = (await watch("token", "--json")).expect(4).json
        assert refused["error"] == "reauth_required" and "revoked" in refused["detail"]
        assert await watch.action() == "hand_off_again"
        if profile == "entra":
            assert row["provider_revoked"].startswith("this provider cannot revoke one token")
        else:
            await sandbox.event("token_revoked")
            provider = "accepted by the provider"
            await phone.until(provider, lambda s: s["devices"][0]["handoffs"][0]["provider_revoked"] == provider)
        if profile == "strict":  # where the family's end is also the end of its access tokens
            status, said = await sandbox.resource(second)
            assert status == 401 and "revoked" in said["error_description"]
        assert await sandbox.count("reuse_detected") == 0


async def hand_off(phone: Phone, watch: Companion, strategy: str) -> Ran:
    words = ("handoff", "watch", "--strategy", strategy, "--wait", "20")
    if strategy != "mint":
        return await phone(*words)
    if phone.world.sandbox.profile != "entra":
        return await phone.with_browser(*words, "--browser", "--no-open")
    before = phone.world.sandbox
    program = await phone.begin(*words, "--username", PASSWORD_USER, "--password-file", "-", stdin=PASSWORD)
    await before.event("signed_in", username=PASSWORD_USER)
    return await program.ended()


async def is_refused(world: World, token: str) -> bool:
    return (await world.sandbox.resource(token))[0] == 401


async def another_token(watch: Companion, first: str) -> str:
    token = await watch.token()
    return "" if token == first else token


@pytest.mark.parametrize("profile", ["entra", "auth0"])
async def test_power_cut_before_the_provider_commits_costs_nothing(profile: str) -> None:
    async with World(profile, access_token_lifetime_s=LIFETIME_S) as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await cut_power_in_a_refresh(watch, "before_commit")
        await watch.until("a token again", is_held_in_generation(3))
        await watch.gets_in()
        assert await world.sandbox.count("reuse_detected") == 0


@pytest.mark.parametrize("profile", ["entra", "auth0"])
async def test_power_cut_after_the_provider_committed_is_repaired_where_the_old_token_still_works(profile: str) -> None:
    async with World(profile, access_token_lifetime_s=LIFETIME_S) as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await cut_power_in_a_refresh(watch, "after_commit")
        await watch.until("a token again", is_held_in_generation(3))
        await watch.gets_in()
        assert await world.sandbox.count("reuse_detected") == 0
        assert await watch.action() == ""


@pytest.mark.parametrize("when", ["before_commit", "after_commit"])
async def test_power_cut_in_a_refresh_costs_a_new_handoff_where_reuse_may_end_other_grants(when: str) -> None:
    """No leeway: nothing is sent that could end a sibling. Both ends say so, and the person hands off once more."""
    async with World("strict", access_token_lifetime_s=LIFETIME_S) as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await cut_power_in_a_refresh(watch, when)
        lost = await watch.until("needs a handoff", lambda s: s["grants"][-1]["state"] == "needs_handoff")
        assert (lost["grants"][-1]["reason"], lost["action"]["slug"]) == ("uncertain", "hand_off_again")
        assert await world.sandbox.count("reuse_detected") == 0
        # mint needs the person, so the companion's RENEW is refused, and the phone says whose turn it is
        await phone.until("the phone knows", lambda s: (s["action"] or {}).get("slug") == "hand_off_again")
        # HELLO says that a handoff is needed, RENEW why; either may come first
        await phone.until("why", lambda s: s["devices"][0]["handoffs"][-1]["device_reason"] == "uncertain")
        assert "renewal_asked" in await phone.events()
        await eventually("the refusal arrived", lambda: has_event(watch, "renewal_refused"))

        await phone.hand_off(watch)
        await watch.until_generation(2)
        await watch.gets_in()
        assert (await watch.action(), await phone.action()) == ("", "")


async def has_event(agent: Companion, name: str) -> bool:
    return name in await agent.events()


def is_held_in_generation(generation: int) -> Callable[[dict[str, Any]], bool]:
    def holds(status: dict[str, Any]) -> bool:
        grant = status["grants"][-1]
        return bool((grant["state"], grant["generation"]) == ("held", generation))

    return holds


async def cut_power_in_a_refresh(watch: Companion, when: str) -> None:
    """kill -9 while the provider holds the companion's request, then start it again."""
    sandbox = watch.world.sandbox
    mark = await sandbox.hold_refresh(when)
    asking = await watch.begin("token", "--force-refresh", is_permitted=True)
    await sandbox.held(mark)
    assert (await watch.grant())["state"] == "refreshing"  # the intent was on disk before the request left
    await watch.kill()
    (await asking.ended()).expect(1)
    await sandbox.event("request_lost" if when == "before_commit" else "answer_lost", after=mark)
    await sandbox.release()
    await watch.run()
