"""What the simulation has found: each test is a broken promise, in the smallest world that shows it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.simulation.test_promises import STAMP, grant, handoff, pairing
from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import state_of
from token_relay.agents.phone.person import SignInLostError
from token_relay.agents.ports import Now
from token_relay.agents.records import CompanionHandoff, Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.simulation.ports.channel import Packet
from token_relay.simulation.ports.http import HttpFault
from token_relay.simulation.promises.settlement import JudgedDevice
from token_relay.simulation.world.world import World


def test_a_hello_that_was_overtaken_does_not_bring_a_dead_grant_back_to_life() -> None:
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        await phone.hand_off(watch)
        await world.advance(5)
        watch.link.cut()
        await world.advance(5)
        phone_hellos: list[bool] = []

        def first_hello(packet: Packet) -> bool:
            is_it = packet.sender == "watch" and world.type_of(packet) == "HELLO" and not phone_hellos
            phone_hellos.append(is_it)
            return bool(is_it)

        world.broker.hold = first_hello
        watch.link.heal()
        await world.advance(5)
        assert len(world.broker.held) == 1
        world.provider.revoke_user()
        await watch.token(force_refresh=True)
        await world.advance(5)
        (row,) = phone.rows(PhoneHandoff)
        assert row.device_state == "needs_handoff"
        world.broker.release()  # the HELLO says "held": so it was, before the denial
        await world.advance(5)
        (row,) = phone.rows(PhoneHandoff)
        assert row.device_state == "needs_handoff"

    world.run(story())


def test_a_restored_phone_that_does_not_know_of_a_move_gives_its_token_up() -> None:
    world = World("entra", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        image = phone.image()
        assert (await phone.hand_off(watch, strategy="move")).state == "done"
        await world.advance(5)
        await phone.restore(image)
        assert phone.rows(Grant)[0].state == "held"  # offline a rollback of the whole disk cannot be noticed
        await phone.start()
        await world.advance(60)
        assert phone.rows(Pairing)[0].rollback == "self"
        own = phone.rows(Grant)[0]
        assert (own.state, own.reason) == ("locked", "rollback")
        assert watch.rows(Grant)[0].state == "held"

    world.run(story())


def test_a_restored_phone_that_had_only_offered_a_move_gives_its_token_up() -> None:
    world = World("entra", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        watch.link.cut()
        assert (await phone.hand_off(watch, strategy="move", wait_s=1.0)).state == "offered"
        image = phone.image()
        watch.link.heal()
        await world.advance(60)
        assert phone.rows(PhoneHandoff)[0].state == "done"
        await phone.restore(image)
        await phone.start()
        await world.advance(60)
        own = phone.rows(Grant)[0]
        assert (own.state, own.reason) == ("locked", "rollback")
        await phone.sign_in()
        await phone.stop()
        await phone.start()
        await world.advance(60)  # the next list names the moved grant again
        assert [row.state for row in phone.rows(Grant)] == ["held"]

    world.run(story())


@pytest.mark.parametrize("is_late", [True, False])
def test_a_token_that_was_sealed_cannot_be_moved_and_the_handoff_says_so(is_late: bool) -> None:
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        watch.link.cut()
        await phone.hand_off(watch, strategy="move", wait_s=1.0)
        phone.http.plan(HttpFault("lost_after", path="token"))
        await phone.token(force_refresh=True)
        await world.advance(3600 if is_late else 60)
        (own,) = phone.rows(Grant)
        assert (own.state, own.reason, own.refresh_token is not None) == ("needs_handoff", "uncertain", True)
        watch.link.heal()
        await world.advance(600)
        (row,) = phone.rows(PhoneHandoff)
        assert (row.state, row.problem) == ("cancelled", "the phone has no token to move any more")

    world.run(story())


def test_a_handoff_that_was_begun_by_a_clock_in_1970_is_still_the_latest_while_it_is_open() -> None:
    in_1970 = Stamp.of(Now("boot-2", 5.0, 3600.0, False)).to_text()
    rows: tuple[Grant | Pairing | PhoneHandoff, ...] = (
        grant(None, grant_id="g", state="held"),
        pairing(),
        replace(handoff("done"), handoff_id="first", device_state="needs_handoff", created=STAMP),
        replace(handoff("offered"), handoff_id="second", reason="accepted", created=in_1970),
    )
    tables: dict[type, dict[tuple[str | int, ...], object]] = {}
    for row in rows:
        tables.setdefault(type(row), {})[tuple(getattr(row, name) for name in row.key)] = row
    status = JudgedDevice("phone", "phone", "phone", tables, Now("boot-2", 9.0, 1_800_000_000.0, True)).status()  # type: ignore[arg-type]
    assert status["action"]["slug"] == "finish_handoff"


@pytest.mark.parametrize("act", ["REVOKE", "OFFER", "CANCEL"])
def test_a_request_of_a_restored_phone_gets_a_number_that_the_companion_takes(act: str) -> None:
    """Queued before the rollback was noticed, it bore a number of the lost future and was dropped for ever."""
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        if act == "CANCEL":
            watch.link.cut()
            await phone.hand_off(watch, wait_s=1.0)
            watch.link.heal()
            watch.link.cut()
        image = phone.image() if act != "REVOKE" else None
        watch.link.heal()
        await world.advance(600)
        await phone.hand_off(watch)
        if act == "REVOKE":
            image = phone.image()
        for _ in range(5):  # a future in which many messages pass, and which is lost
            await watch.stop()
            await world.advance(60)
            await watch.start()
        await phone.restore(image)
        phone.link.cut()
        await phone.start()
        match act:
            case "REVOKE":
                await phone.revoke(watch, wait_s=0.0)
            case "OFFER":
                await phone.hand_off(watch, wait_s=0.0)
            case _:
                await phone.cancel(watch)
        phone.link.heal()
        await world.advance(3600)
        rows = phone.rows(PhoneHandoff)
        assert rows and all(row.state in ("done", "cancelled", "gone") for row in rows), [row.state for row in rows]
        if act == "REVOKE":
            assert [grant.state for grant in watch.rows(Grant)] == ["dead"]
        assert phone.rows(Outgoing) == []

    world.run(story())


def test_a_renewal_that_overtakes_the_receipt_is_not_forgotten() -> None:
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        world.broker.hold = lambda packet: world.type_of(packet) == "STORED"
        watch.http.cut()
        await phone.hand_off(watch, wait_s=1.0)
        world.provider.revoke_user()
        watch.http.heal()
        await world.advance(120)  # the first refresh is denied: RENEW is here, STORED is not
        world.broker.release()
        await world.advance(60)
        (row,) = phone.rows(PhoneHandoff)
        assert (row.state, row.device_state) == ("done", "needs_handoff")

    world.run(story())


def test_a_handoff_that_the_phone_has_lost_is_not_kept_ready_for_ever() -> None:
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        image = phone.image()
        world.broker.hold = lambda packet: world.type_of(packet) == "ACCEPT"
        await phone.hand_off(watch, wait_s=1.0)
        assert [row.state for row in watch.rows(CompanionHandoff)] == ["ready"]
        await phone.restore(image)
        world.broker.held.clear()
        world.broker.release()
        await phone.start()
        await world.advance(60)
        (row,) = watch.rows(CompanionHandoff)
        assert (row.state, row.reason, row.one_time_key) == ("dead", "rejected", None)

    world.run(story())


def test_a_token_whose_sign_in_was_not_answered_is_counted_as_an_orphan() -> None:
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        phone.http.plan(HttpFault("lost_after", path="sign-in"))
        with pytest.raises(SignInLostError):
            await phone.hand_off(watch, strategy="mint")
        assert (await phone.hand_off(watch, strategy="mint")).state == "done"
        (row,) = phone.rows(PhoneHandoff)
        assert row.orphans == 1

    world.run(story())


def test_a_handoff_that_the_companion_does_not_list_any_more_is_over() -> None:
    """A restored phone had lost for whom it was minted, and so that it superseded the one before."""
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        await phone.hand_off(watch, strategy="mint")
        world.broker.hold = lambda packet: world.type_of(packet) == "OFFER"
        await phone.hand_off(watch, strategy="mint", wait_s=1.0)
        image = phone.image()
        world.broker.release()
        await world.advance(5)
        await phone.hand_off(watch, strategy="mint")
        await phone.restore(image)
        await phone.start()
        await world.advance(3600)
        states = {row.state: row.device_state for row in phone.rows(PhoneHandoff)}
        (held,) = [grant for grant in watch.rows(Grant) if grant.state == "held"]
        for row in phone.rows(PhoneHandoff):
            is_alive = row.state == "done" and row.device_state in ("held", "refreshing")
            assert is_alive == (row.handoff_id == held.handoff_id), states

    world.run(story())


def test_the_last_instant_of_an_access_token_does_not_keep_the_keeper_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        await phone.hand_off(watch)
        await world.advance(100)
        watch.http.plan("lost_after")
        await watch.token(force_refresh=True)
        (row,) = watch.rows(Grant)
        assert row.state == "uncertain"
        state = state_of(row)
        assert isinstance(state, lifecycle.Uncertain)
        never = lifecycle.Wait(state, 1e-13)
        monkeypatch.setattr(lifecycle, "begin_refresh", lambda *args, **named: never)
        await world.advance(7200)  # a DeadlockError says that time does not pass any more

    world.run(story())


def test_a_restored_companion_does_not_take_the_token_of_a_handoff_that_was_revoked_since() -> None:
    world = World("entra", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        world.broker.hold = lambda packet: world.type_of(packet) == "TOKEN"
        await phone.hand_off(watch, wait_s=1.0)
        image = watch.image()
        (row,) = await phone.revoke(watch)
        assert (row.state, row.reason) == ("gone", "revoked")
        await watch.restore(image)
        await watch.start()
        await world.advance(5)
        assert watch.rows(Pairing)[0].rollback == "self"
        world.broker.release()  # the image still had the one-time key
        await world.settle()
        assert [grant for grant in watch.rows(Grant) if grant.refresh_token is not None] == []

    world.run(story())


def test_a_receipt_from_a_restored_companion_is_answered_though_its_handoff_was_revoked() -> None:
    world = World("rotates", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        world.broker.hold = lambda packet: world.type_of(packet) == "CLOSED"
        await phone.hand_off(watch)
        image = watch.image()
        assert [row.type for row in watch.rows(Outgoing)] == ["STORED"]
        world.broker.hold = lambda packet: world.type_of(packet) == "HELLO"  # which would take the grant away first
        world.broker.held.clear()
        await phone.revoke(watch)
        await watch.restore(image)
        await watch.start()
        await world.advance(600)
        assert watch.rows(Outgoing) == []

    world.run(story())


@pytest.mark.parametrize("why", ["denied", "uncertain"])
def test_a_grant_that_ended_while_an_offer_was_open_is_told_of_when_the_offer_comes_to_nothing(why: str) -> None:
    """The companion had not asked for a new one, since one was on its way, and nobody heard of it for 12 hours."""
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        await phone.hand_off(watch)
        await world.advance(3600)
        world.broker.hold = lambda packet: world.type_of(packet) == "TOKEN"
        await phone.hand_off(watch, strategy="mint", wait_s=1.0)
        assert "ready" in [row.state for row in watch.rows(CompanionHandoff)]
        if why == "denied":
            world.provider.revoke_user()
        else:
            watch.http.plan("lost_after")
        await watch.token()
        await world.advance(60)
        assert watch.rows(Grant)[0].state == ("dead" if why == "denied" else "needs_handoff")
        assert watch.rows(Outgoing) == []
        world.broker.held.clear()
        await phone.cancel(watch)
        await world.advance(60)
        old = next(row for row in phone.rows(PhoneHandoff) if row.state == "done")
        assert (old.device_state, old.device_reason) == ("needs_handoff", why)

    world.run(story())


def test_a_handoff_that_the_phone_gave_up_after_a_rollback_does_not_wait_at_the_companion() -> None:
    world = World("strict", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    def is_held(packet: Packet) -> bool:
        return packet.sender == "phone" and world.type_of(packet) in ("TOKEN", "CANCEL", "HELLO")

    async def story() -> None:
        await world.begin()
        await phone.hand_off(watch)
        await world.advance(5)
        image = phone.image()
        world.broker.hold = is_held
        moved = asyncio.ensure_future(phone.hand_off(watch, strategy="move"))
        await world.advance(1)
        cancelled = asyncio.ensure_future(phone.cancel(watch))
        await world.advance(1)
        await phone.restore(image)
        await phone.start()
        again = asyncio.ensure_future(phone.hand_off(watch, strategy="move"))
        await world.advance(1)
        assert [row.state for row in watch.rows(CompanionHandoff)].count("ready") == 1
        world.broker.release()  # the first TOKEN and CANCEL come before what the restored phone has sent since
        await world.advance(60)
        await asyncio.gather(moved, cancelled, again, return_exceptions=True)
        (row,) = (row for row in phone.rows(PhoneHandoff) if row.state != "done")
        assert (row.state, row.reason) == ("gone", "rollback")
        assert {row.state for row in watch.rows(CompanionHandoff)} == {"stored", "dead"}

    world.run(story())


def test_a_restored_phone_gives_its_moved_token_up_before_it_hears_the_list() -> None:
    """Where a use spends nothing too: put back to OFFERED it held what the watch held, until some later list came."""
    world = World("entra", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        phone.disk.lose_at_crash(2)
        assert (await phone.hand_off(watch, strategy="move")).state == "done"
        await phone.crash()
        assert [row.state for row in phone.rows(PhoneHandoff)] == ["offered"]
        assert [row.state for row in phone.rows(Grant)] == ["held"]
        world.broker.lie = lambda packet: packet.sender == "watch" and world.type_of(packet) == "HELLO"
        await phone.start()
        await world.advance(60)
        assert phone.rows(Pairing)[0].rollback == "self"
        own = phone.rows(Grant)[0]
        assert (own.state, own.reason) == ("locked", "rollback")
        assert watch.rows(Grant)[0].state == "held"

    world.run(story())


def test_a_list_that_was_overtaken_is_asked_for_anew() -> None:
    """RENEW came before an older HELLO, whose list was dropped; nobody asked for it before the next greeting."""
    world = World("rotates", seed=1)
    phone, watch = world.phones[0], world.companions[0]

    async def story() -> None:
        await world.begin()
        first = await phone.hand_off(watch)
        image = phone.image()
        await world.advance(5)
        await phone.hand_off(watch)
        await world.advance(5)
        await phone.restore(image)
        world.broker.hold = lambda packet: packet.sender == "watch" and world.type_of(packet) == "HELLO"
        await phone.start()
        await world.advance(5)
        world.provider.revoke_user()
        await watch.token(force_refresh=True)
        await world.advance(5)
        assert world.broker.held
        world.broker.release()
        await world.advance(700)
        row = next(row for row in phone.rows(PhoneHandoff) if row.handoff_id == first.handoff_id)
        assert (row.state, row.device_state) == ("done", "dead")

    world.run(story())
