"""Hostile peers and odd moments: each of these once lost, doubled or resurrected data, or let a peer make it grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from tests.agents.world_kit import SimulatedDevice, World, form_value, running, settle
from token_relay.agents.phone.devices import revoke_device
from token_relay.agents.phone.person import NewGrant
from token_relay.agents.ports import Transaction
from token_relay.agents.records import CompanionHandoff, Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted
from token_relay.agents.turn import Turn
from token_relay.protocol import messages as m
from token_relay.protocol.errors import LocalError, PersonNeededError, RelayError, TransientError
from token_relay.protocol.secret import RefreshToken
from token_relay.simulation.ports.channel import Packet

T = TypeVar("T")

pytestmark = pytest.mark.asyncio


async def say(end: SimulatedDevice, body: m.Body) -> None:
    """Have one end say something that its program never would."""
    pairing = (await end.rows(Pairing))[-1]
    await end.agent.turns.run(lambda turn: turn.answer(pairing.pairing_id, body))
    await settle()


LONG = " ".join(f"https://api.example/scope.number{i:03}" for i in range(60)) + " offline_access openid profile"


@pytest.mark.parametrize(("profile", "strategy"), [("entra", "branch"), ("strict", "move")])
async def test_long_scope_of_the_provider_does_not_kill_the_phone(profile: str, strategy: str) -> None:
    async with running(profile) as world:
        grant = await world.phone.one(Grant)
        await world.phone.edit(grant, scope=LONG)
        task = world.phone.main
        assert task is not None
        try:
            await world.phone.hand_off(strategy=strategy, wait_s=20)
        except (LocalError, RuntimeError, AssertionError):
            pass
        assert not task.done(), f"the agent died: {task.exception()!r}: {getattr(task.exception(), 'exceptions', '')}"


async def test_mint_long_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("strict") as world:
        accounts = world.phone.agent.accounts
        sub = accounts.grant_of

        def grant_of(turn: Turn, new: NewGrant, refresh_token: RefreshToken) -> Grant:
            return replace(sub(turn, new, refresh_token), scope=LONG)

        monkeypatch.setattr(accounts, "grant_of", grant_of)
        with pytest.raises(LocalError):
            await world.phone.hand_off(strategy="mint", wait_s=20)
        row = await world.phone.handoff()
        assert not row.is_obtaining


async def test_a_companion_cannot_grow_the_phones_table() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        for i in range(300):
            await say(world.watch, m.Stored(handoff_id=f"{i:032x}"))
            await say(world.watch, m.Revoked(handoff_id=f"{i:032x}", provider="unknown", access_token_ends_at=0))
        rows = await world.phone.rows(PhoneHandoff)
        assert len(rows) < 100


async def test_a_companion_cannot_block_its_own_revocation(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        watch = world.watch
        # a hostile companion: never answers REVOKE
        monkeypatch.setattr(watch.agent.messages, "on_message", lambda *a: None)
        for i in range(260):
            await say(watch, m.Stored(handoff_id=f"{i:032x}"))
        await world.within(world.phone.agent.revoke("watch", wait_s=1))
        assert (await world.phone.one(Pairing)).renew_denied


async def test_a_phone_cannot_grow_the_companions_table() -> None:
    import token_relay.agents.companion.steps as a

    async with running("entra") as world:
        a_max, a.HANDOFFS_MAX = a.HANDOFFS_MAX, 50
        try:
            for i in range(100):
                await say(world.phone, m.Cancel(handoff_id=f"{i:032x}"))
                await say(world.phone, m.Revoke(handoff_id=f"{i + 1000:032x}"))
                await say(world.phone, m.Token(handoff_id=f"{i + 2000:032x}", sealed="AAAA"))
        finally:
            a.HANDOFFS_MAX = a_max
        rows = await world.watch.rows(CompanionHandoff)
        assert len(rows) <= 50


async def test_a_low_order_one_time_key_costs_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("entra") as world:
        watch = world.watch
        import token_relay.protocol.messages as mm

        def hostile(turn: Turn, pairing: Pairing, message: m.Message, plaintext: bytes) -> None:
            if isinstance(message.body, mm.Offer):
                turn.answer(
                    pairing.pairing_id,
                    mm.Accept(
                        handoff_id=message.body.handoff_id,
                        one_time_key="00" * 32,
                        offer_hash=mm.plaintext_hash(plaintext).hex(),
                    ),
                )

        monkeypatch.setattr(watch.agent.messages, "on_message", hostile)
        before = len([r for r in world.phone.http.requests if form_value(r, "grant_type") == "refresh_token"])
        try:
            await world.phone.hand_off(wait_s=5)
        except LocalError:
            pass
        await world.clock.advance(3600)
        n = len([r for r in world.phone.http.requests if form_value(r, "grant_type") == "refresh_token"]) - before
        await world.phone.handoff()
        assert n == 0


async def test_client_id_changed_after_sign_in_move_keeps_the_token() -> None:
    async with running("strict") as world:
        phone = world.phone
        await phone.one(Grant)
        phone.agent.settings = replace(phone.agent.settings, client_id="11111111-aaaa-2222-bbbb-3333cccc4444")
        phone.agent.accounts.settings = phone.agent.settings
        try:
            await phone.hand_off(strategy="move", wait_s=20)
        except RelayError:
            pass
        grants = await phone.rows(Grant)
        held = [g for g in grants if g.refresh_token is not None] + [
            g for g in await world.watch.rows(Grant) if g.refresh_token is not None
        ]
        hands = [r for r in await phone.rows(PhoneHandoff) if r.held_token is not None]
        assert held or hands, "the only token is in nobody's hands"


async def test_profile_changed_after_sign_in_no_branch_on_a_rotating_grant() -> None:
    from token_relay.provider.profile import PROFILES

    async with running("strict") as world:
        phone = world.phone
        phone.agent.settings = replace(phone.agent.settings, profile=PROFILES["entra"])
        phone.agent.accounts.settings = phone.agent.settings
        try:
            await phone.hand_off(strategy="branch", wait_s=20)
        except RelayError:
            pass
        g = await phone.one(Grant)
        await phone.agent.keeper.refresh(g.grant_id)
        await world.clock.advance(5)
        g = await phone.one(Grant)
        await world.watch.token(force_refresh=True)
        assert g.state == "held"


async def test_a_revoked_grant_does_not_come_back_with_a_restored_image() -> None:
    async with running("entra") as world:
        begun = len(world.broker.seen)
        # image taken at READY: ACCEPT is out, TOKEN not yet in
        world.broker.hold = lambda p: (
            p.topic.startswith(f"relay/v1/{world.watch.id}/")
            and len(p.payload) > 0
            and len(world.broker.seen) - 1 > begun
        )
        await world.phone.hand_off(wait_s=1)
        await settle()
        image = world.watch.image()
        await world.watch.rows(CompanionHandoff)
        tokens = list(world.broker.held)
        world.broker.release()
        await world.clock.advance(10)
        assert (await world.phone.handoff()).state == "done"
        await world.within(world.phone.agent.revoke("watch", wait_s=10))
        assert (await world.phone.handoff()).state == "gone"
        assert all(g.refresh_token is None for g in await world.watch.rows(Grant))
        await world.watch.restore(image)
        await world.watch.start()
        await world.clock.advance(30)
        for p in tokens:
            world.broker.deliver(p)
        await world.clock.advance(30)
        await world.watch.rows(Grant)
        t = await world.watch.token()
        assert not isinstance(t, TokenGranted), "revoked, confirmed, and back"


async def test_restored_after_store() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        image = world.watch.image()
        await world.within(world.phone.agent.revoke("watch", wait_s=10))
        await world.watch.restore(image)
        await world.watch.start()
        await world.clock.advance(60)
        for _ in range(3):
            world.watch.channel.cut()
            await world.watch.channel.connect()
            await world.clock.advance(60)
        gs = await world.watch.rows(Grant)
        assert all(g.refresh_token is None for g in gs)


async def test_a_held_token_does_not_start_a_fresh_lease_after_a_revocation() -> None:
    async with running("entra") as world:
        world.broker.hold = lambda p: (
            p.topic.startswith(f"relay/v1/{world.watch.id}/")
            and len(p.payload) > 0
            and world.phone.agent is not None
            and any(True for _ in [0])
            and _is_token(world, p)
        )
        await world.phone.hand_off(wait_s=2, lease_days=7)
        row = await world.phone.handoff()
        tokens = list(world.broker.held)
        assert row.state == "released"
        world.phone.channel.cut()
        await world.phone.agent.revoke("watch", wait_s=0)
        await world.clock.advance(20 * 86400)
        for p in tokens:
            world.broker.deliver(p)
        await world.clock.advance(30)
        t = await world.watch.token()
        assert not isinstance(t, TokenGranted)


_count: dict[int, int] = {}


def _is_token(world: World, p: Packet) -> bool:
    # after OFFER: the next message to the watch that is not an answer to HELLO
    k = id(world)
    _count[k] = _count.get(k, 0) + 1
    return _count[k] >= 2


def _lose_token(tx: Transaction) -> None:
    for row in tx.select(Outgoing, type="TOKEN"):
        tx.delete(Outgoing, row.pairing_id, row.seq)


async def test_hellos_of_a_peer_do_not_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        watch = world.watch
        monkeypatch.setattr(watch.agent.messages, "on_message", lambda *a: None)
        for i in range(200):
            await say(watch, m.Stored(handoff_id=f"{i:032x}"))
        before = len(world.broker.seen)
        for i in range(10):
            await say(watch, m.Hello(challenge=f"{i:032x}", seq_sent=10**6, seq_accepted=0, handoffs=[]))
        n = len([p for p in world.broker.seen[before:] if p.topic.startswith(f"relay/v1/{watch.id}/")])
        assert n < 300


async def test_import_does_not_lose_a_moved_token() -> None:
    async with running("strict") as world:
        phone = world.phone
        _count.clear()
        world.broker.hold = lambda p: p.topic.startswith(f"relay/v1/{world.watch.id}/") and _is_token(world, p)
        await phone.hand_off(strategy="move", wait_s=2)
        assert (await phone.handoff()).state == "released"
        with pytest.raises(RelayError):  # another account's token is imported meanwhile, and refused
            await world.within(phone.agent.accounts.adopt(RefreshToken("nonsense"), account="x"))
        # TOKEN is lost, CANCEL arrives
        await phone.vault.run(_lose_token)
        phone.agent.turns._due.clear()
        world.broker.held.clear()
        world.broker.hold = lambda p: False
        row = await world.within(phone.agent.cancel("watch"))
        assert row.state == "cancelled"
        assert any(g.state == "held" and g.refresh_token is not None for g in await phone.rows(Grant))


async def test_signed_out_stays_signed_out_when_a_move_is_cancelled() -> None:
    async with running("strict") as world:
        phone = world.phone
        _count.clear()
        world.broker.hold = lambda p: p.topic.startswith(f"relay/v1/{world.watch.id}/") and _is_token(world, p)
        await phone.hand_off(strategy="move", wait_s=2)
        row = await phone.handoff()
        assert row.state == "released"
        await phone.agent.accounts.sign_out("", phone.person())
        await phone.vault.run(_lose_token)
        phone.agent.turns._due.clear()
        world.broker.held.clear()
        world.broker.hold = lambda p: False
        await world.within(phone.agent.cancel("watch"))
        assert not any(g.refresh_token is not None for g in await phone.rows(Grant))


async def test_mint_that_fails_its_check_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("strict") as world:

        async def bad(new: NewGrant) -> NewGrant:
            raise TransientError("keys cannot be had")

        monkeypatch.setattr(world.phone.agent.obtaining._sign_in, "check", bad)
        world.provider.kinds().count("refresh_token_issued")
        with pytest.raises(TransientError):
            await world.phone.hand_off(strategy="mint")
        row = await world.phone.handoff()
        assert row.orphans == 1 or "revoked" in " ".join(world.provider.kinds()[-3:])


async def test_a_restored_phone_can_still_revoke_what_its_disk_has_forgotten() -> None:
    async with running("entra") as world:
        image = world.phone.image()
        await world.phone.hand_off(lease_days=0)
        await world.clock.advance(5)
        await world.phone.restore(image)
        await world.phone.start()
        await world.clock.advance(60)
        for _ in range(2):
            world.watch.channel.cut()
            await world.watch.channel.connect()
            await world.clock.advance(60)
        await world.within(world.phone.agent.revoke("watch", wait_s=10))
        t = await world.watch.token()
        assert not isinstance(t, TokenGranted)


async def test_superseded_comes_back() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        image = world.watch.image()
        await world.phone.hand_off()
        await world.clock.advance(5)
        await world.watch.restore(image)
        await world.watch.start()
        await world.clock.advance(60)
        await world.within(world.phone.agent.revoke("watch", wait_s=10))
        gs = await world.watch.rows(Grant)
        assert all(g.refresh_token is None for g in gs)


async def test_connected_does_not_forget_what_is_queued_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        phone, link = world.phone, world.phone.agent.link
        world.watch.channel.cut()

        class Stalled:
            """Behaves like SqliteVault after the loop was busy for some milliseconds: two answers come in one round, in
            order."""

            def __init__(self) -> None:
                self.waiting: list[asyncio.Future[None]] = []

            async def run(self, step: Callable[[Transaction], T]) -> T:
                result = await phone.vault.run(step)
                mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self.waiting.append(mine)
                if len(self.waiting) == 2:
                    for waiting in self.waiting:
                        asyncio.get_running_loop().call_soon(waiting.set_result, None)
                await mine
                return result

        monkeypatch.setattr(phone.agent.turns, "_vault", Stalled())
        greeting = asyncio.ensure_future(link.connected())
        await asyncio.sleep(0)
        revoking = asyncio.ensure_future(
            phone.agent.turns.run(lambda turn: revoke_device(turn, phone.agent.steps, world.watch.id))
        )
        await asyncio.gather(greeting, revoking)
        assert {(row.pairing_id, row.seq) for row in await phone.rows(Outgoing)} == set(phone.agent.turns._due)


async def test_bug_in_a_handler_neither_kills_nor_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("entra") as world:

        def bad(*a: object) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(world.phone.agent.handoffs, "on_message", bad)
        await say(world.watch, m.Stored(handoff_id="0" * 32))
        await settle()
        assert world.phone.main is not None and not world.phone.main.done()
        assert not world.broker.sessions[world.phone.id].waiting


async def test_the_refresh_token_is_of_the_same_grant_as_the_access_token() -> None:
    async with running("entra") as world:
        phone = world.phone
        first = await phone.one(Grant)
        # a second account, newer, that waits for its person: its token is kept sealed, but serves nothing
        other = replace(
            first,
            grant_id="f" * 32,
            account="other",
            subject="other",
            stored_at=first.stored_at + 9,
            refresh_token=RefreshToken("other-token"),
            state="needs_handoff",
            reason="person",
        )
        await phone.vault.run(lambda tx: tx.put(other))
        api = phone.agent.accounts.get_access_token
        got = await api(account=first.account, return_refresh_token=True)
        assert got.refresh_token == first.refresh_token
        with pytest.raises(PersonNeededError, match="several grants fit"):
            await api(return_refresh_token=True)


async def test_claiming_what_is_over_does_not_block_a_revocation(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        done = await world.phone.handoff()

        def live_long(tx: Transaction) -> None:
            for i in range(300):
                tx.put(replace(done, handoff_id=f"{i:032x}", state="gone", reason="revoked"))

        await world.phone.vault.run(live_long)
        monkeypatch.setattr(world.watch.agent.messages, "on_message", lambda *args: None)  # it answers nothing
        pairing = await world.watch.one(Pairing)

        async def claim(body: m.Body) -> None:
            await world.watch.agent.turns.run(lambda turn: turn.answer(pairing.pairing_id, body))

        for i in range(300):
            await claim(m.Stored(handoff_id=f"{i:032x}"))
        await settle()
        await world.within(world.phone.agent.revoke("watch", wait_s=1))
        assert (await world.phone.one(Pairing)).renew_denied
        assert (await world.phone.rows(PhoneHandoff, handoff_id=done.handoff_id))[0].state == "revoking"


async def test_what_a_turn_queues_and_settles_itself_is_not_sent_again() -> None:
    """``companion forget --pairing``: RENEW is queued for each grant, then the pairing is deleted."""
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        assert await world.watch.agent.forget(pairing=True) == {"grants": 1, "pairings": 1}
        assert await world.watch.rows(Outgoing) == []
        assert not world.watch.agent.turns._due
