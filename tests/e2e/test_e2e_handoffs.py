"""What a person does with handoffs and devices: several of each, joining, cancelling, revoking, unpairing, pairing."""

from __future__ import annotations

import asyncio
import signal
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.kit import OTP_USER, PASSWORD_USER, Companion, Phone, World, eventually, pair, ready

pytestmark = pytest.mark.asyncio


async def test_two_phones_and_two_companions_share_nothing() -> None:
    async with World() as world:
        one, two, watch, car = await asyncio.gather(
            world.phone("one"), world.phone("two"), world.companion("watch"), world.companion("car")
        )
        await asyncio.gather(one.sign_in(OTP_USER), two.sign_in(PASSWORD_USER))
        for phone in (one, two):
            for companion in (watch, car):
                await pair(phone, companion)
        await asyncio.gather(*(phone.hand_off(companion) for phone in (one, two) for companion in (watch, car)))
        for companion in (watch, car):
            for name, username in (("one", OTP_USER), ("two", PASSWORD_USER)):
                status, said = await world.sandbox.resource(await companion.token("--phone", name))
                assert (status, said["username"]) == (200, username)
            status, said = await world.sandbox.resource(await companion.token())
            assert (status, said["username"]) == (200, OTP_USER), "the primary phone's"
            (await companion("token", "--account", PASSWORD_USER)).expect(1)
        # what one phone takes away is its own grant on that one device
        (await one("revoke", "watch", "--yes")).expect(0)
        (await watch("token", "--phone", "one")).expect(4)
        for companion, name in ((watch, "two"), (car, "one"), (car, "two")):
            await companion.token("--phone", name)
        states = {grant["account"]: grant["state"] for grant in (await watch.status())["grants"]}
        assert states == {OTP_USER: "dead", PASSWORD_USER: "held"}
        # one phone is lost: it goes alone, and another is made primary by hand
        assert (await car("forget", "--yes", "--phone", "one", "--json")).expect(0).json["grants"] == 1
        assert await car.action() == "choose_primary"
        (await car("token")).expect(1)
        assert (await car("primary", "two", "--json")).expect(0).json["device_id"] == two.device_id
        status, said = await world.sandbox.resource(await car.token())
        assert (status, said["username"]) == (200, PASSWORD_USER)


async def test_a_provider_on_this_machine_is_used_only_once_a_person_has_allowed_it() -> None:
    """A phone says where the provider is; the reload of a configuration that names the host is enough."""
    async with World() as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch", is_running=False))
        watch.edit_config('hosts = ["127.0.0.1"]', "hosts = []")
        await watch.run()
        await phone.sign_in()
        await pair(phone, watch)
        await phone.hand_off(watch)
        assert await watch.action() == "allow_host"
        refused = (await watch("token", "--json")).expect(4).json
        host = urlsplit(world.sandbox.http).netloc
        assert refused["error"] == "locked" and host in refused["detail"] and f'hosts = ["{host}"]' in refused["action"]
        watch.edit_config("hosts = []", f'hosts = ["{host}"]')
        watch.running.process.send_signal(signal.SIGHUP)
        await watch.until_generation(2)
        assert (await world.sandbox.resource(await watch.token()))[0] == 200


async def test_a_handoff_without_a_broker_sends_nobody_to_the_companion() -> None:
    async with World(broker="mosquitto") as world:
        phone, _ = await ready(world)
        assert world.mosquitto is not None
        await world.mosquitto.stop()
        waits = (await phone("handoff", "watch", "--wait", "1", "--json")).expect(6).json
        assert (waits["message"], waits["action"]["slug"]) == ("waiting for the broker", "check_broker")


async def test_second_handoff_joins_the_open_one() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await watch.stop()
        first, second = [(await phone("handoff", "watch", "--wait", "0", "--json")).expect(6).json for _ in range(2)]
        assert first["handoff_id"] == second["handoff_id"] and first["pending"] is True
        assert (await phone.status())["devices"][0]["unanswered"] == ["OFFER"]
        assert await phone.action() == "bring_device_online"
        waiting = [await phone.begin("handoff", "watch", "--wait", "20", "--json") for _ in range(2)]
        await watch.run()
        for program in waiting:
            assert (await program.ended()).expect(0).json["handoff_id"] == first["handoff_id"]
        assert len(await phone.handoffs(watch)) == 1


async def test_handoff_that_is_pending_settles_by_itself_when_the_device_comes() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await watch.stop()
        (await phone("handoff", "watch", "--wait", "0.1")).expect(6)
        await watch.run()
        await phone.until("done", lambda s: s["devices"][0]["handoffs"][0]["state"] == "done")
        assert await phone.action() == ""
        await watch.token()


async def test_cancel_before_the_token_was_released_leaves_nothing_on_the_companion() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        mark = await world.sandbox.hold_refresh("before_commit")
        (await phone("handoff", "watch", "--wait", "0")).expect(6)
        await world.sandbox.held(mark)
        cancelled = (await phone("cancel", "watch", "--json")).expect(0).json
        assert cancelled["state"] == "cancelled"
        await world.sandbox.release()
        # the answer comes for a handoff that is over: no device holds the token, and status says so
        await phone.until("the orphan is counted", lambda s: s["orphans"] == 1)
        assert await watch.grant() == {}
        (await watch("token")).expect(1)
        await phone.hand_off(watch)
        await watch.token()


async def test_cancel_of_an_offer_that_the_device_has_not_seen_waits_for_the_device() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await watch.stop()
        (await phone("handoff", "watch", "--wait", "0")).expect(6)
        cancelling = await phone.begin("cancel", "watch", "--json")
        await phone.until("cancelling", lambda s: s["devices"][0]["handoffs"][0]["state"] == "cancelling")
        await watch.run()
        assert (await cancelling.ended()).expect(0).json["state"] == "cancelled"
        assert await watch.grant() == {}


async def test_cancel_after_the_companion_stored_is_answered_by_what_its_disk_holds() -> None:
    async with World(broker="mosquitto") as world:
        phone, watch = await ready(world)
        mark = await world.sandbox.hold_refresh("before_commit")
        (await phone("handoff", "watch", "--wait", "0")).expect(6)
        await world.sandbox.held(mark)
        await watch.stop()
        await world.sandbox.release()
        await phone.running.logged("handoff_released")
        # TOKEN waits in the broker's queue for the companion, and CANCEL behind it
        cancelling = await phone.begin("cancel", "watch", "--json")
        await phone.until("cancelling", lambda s: s["devices"][0]["handoffs"][0]["state"] == "cancelling")
        await watch.run()
        said = (await cancelling.ended()).expect(0).json
        assert said["state"] == "done" and "phone revoke" in said["message"]
        await watch.token()
        (await phone("cancel", "watch")).expect(1)  # nothing is open any more
        (await phone("revoke", "watch", "--yes")).expect(0)


async def test_move_that_was_cancelled_gives_the_phone_its_token_back() -> None:
    async with World("strict") as world:
        phone, watch = await ready(world)
        await watch.stop()
        (await phone("handoff", "watch", "--strategy", "move", "--wait", "0")).expect(6)
        cancelling = await phone.begin("cancel", "watch", "--json")
        await phone.until("cancelling", lambda s: s["devices"][0]["handoffs"][0]["state"] == "cancelling")
        await watch.run()
        assert (await cancelling.ended()).expect(0).json["state"] == "cancelled"
        await phone.gets_in("--force-refresh")


async def test_revoke_of_a_device_that_is_off_is_pending_and_reaches_it_later() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await watch.stop()
        said = (await phone("revoke", "watch", "--yes", "--wait", "0", "--lost", "--json")).expect(6).json
        assert said["handoffs"][0]["state"] == "revoking" and said["handoffs"][0]["device_confirmed"] is False
        assert any("revokeSignInSessions" in step for step in said["steps"])
        assert await phone.action() == "bring_device_online"
        await phone.kill()  # REVOKE is on the disk, and survives
        await asyncio.gather(phone.run(), watch.run())
        await phone.until("confirmed", lambda s: s["devices"][0]["handoffs"][0]["device_confirmed"])
        (await watch("token")).expect(4)


async def test_unpair_revokes_first_and_then_forgets() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        assert (await phone("unpair", "watch", "--yes", "--json")).expect(0).json["pending"] is False
        assert (await phone.status())["devices"] == []
        (await watch("token")).expect(4)
        (await phone("handoff", "watch")).expect(1)
        await pair(phone, watch)
        await phone.hand_off(watch)
        await watch.token()


async def test_forgotten_device_keeps_what_it_holds_and_says_nothing_that_counts() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        (await phone("forget", "watch", "--yes")).expect(0)
        assert (await phone.status())["devices"] == []
        await watch.stop()
        await watch.run()  # greets a phone that knows it no more
        await phone.until("counted", lambda s: s["counters"].get("unknown_sender", 0) >= 1)
        await watch.token("--force-refresh")
        assert (await watch("forget", "--yes", "--pairing", "--json")).expect(0).json["pairings"] == 1
        (await watch("token")).expect(4)
        assert await watch.action() == "pair"


async def test_companion_that_forgets_its_grant_tells_the_phone() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        (await watch("forget", "--yes")).expect(0)
        (await watch("token")).expect(4)
        await phone.until("told", lambda s: (s["action"] or {}).get("slug") == "hand_off_again")
        await phone.hand_off(watch)
        await watch.token()
        assert await phone.action() == ""


async def test_pairing_anew_in_the_middle_of_a_handoff_settles_the_old_one_first() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        mark = await world.sandbox.hold_refresh("before_commit")
        (await phone("handoff", "watch", "--wait", "0")).expect(6)
        await world.sandbox.held(mark)
        await pair(phone, watch)
        await world.sandbox.release()
        await phone.until("the dropped token is counted", lambda s: s["orphans"] == 1)
        rows = await eventually("settled", lambda: settled(phone, watch))
        assert [row["state"] for row in rows] == ["cancelled"]
        await phone.hand_off(watch)
        await watch.token()
        assert len((await watch.status())["grants"]) == 1


async def settled(phone: Phone, watch: Companion) -> list[dict[str, Any]] | None:
    rows = await phone.handoffs(watch)
    return rows if all(row["state"] not in ("offered", "released", "cancelling") for row in rows) else None


async def test_grant_of_an_older_pairing_stays_revocable() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await pair(phone, watch)
        await watch.token()
        (await phone("revoke", "watch", "--yes")).expect(0)
        (await watch("token")).expect(4)


async def test_provider_that_revokes_ends_the_grant_and_both_ends_say_so() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await world.sandbox.control("POST", "revoke", {"username": OTP_USER})
        denied = (await watch("token", "--force-refresh", "--json")).expect(4).json
        assert denied["error"] == "reauth_required"
        grant = await watch.grant()
        assert (grant["state"], grant["reason"]) == ("dead", "denied")
        assert grant["trace_id"] and grant["correlation_id"]  # what the provider's support asks for
        await phone.until("told", lambda s: (s["action"] or {}).get("slug") == "hand_off_again")
        (await phone("handoff", "watch", "--wait", "10")).expect(1)  # the phone's own grant is revoked as well
        assert await phone.action() == "sign_in"
        (await phone("handoff", "watch")).expect(4)
        await phone.sign_in()
        await phone.hand_off(watch)
        await watch.token()
