"""A companion of two phones: which is primary, what each one's grants answer, and one that is lost and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.agents.guard_kit import UNKNOWN, an_offer, erasures, say
from tests.agents.world_kit import SimulatedPhone, World, form_value, running
from token_relay.agents.grants.errand import RefreshErrand
from token_relay.agents.grants.lanes import LANES, Lanes
from token_relay.agents.records import (
    AuditEvent,
    CachedToken,
    CompanionHandoff,
    Grant,
    Outgoing,
    Pairing,
    PrimaryPhone,
    Seen,
)
from token_relay.agents.token_source import FittingGrant, NamedPhone, TokenGranted, TokenQuery, TokenRefused
from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.http import AnswerLost, Http, HttpRequest, HttpResponse, NotSent
from token_relay.service.status import Surroundings, companion_status

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def two_phones(*, handed_off: bool = True) -> AsyncIterator[tuple[World, SimulatedPhone, SimulatedPhone]]:
    """A companion with two paired phones; each has handed over a grant of the same person, the second later."""
    async with running("entra", paired=False, phones=2) as world:
        first, second = world.phones
        for phone in (first, second):
            await phone.sign_in()
            await world.pair(phone)
            await world.clock.advance(60)
        if handed_off:
            for phone in (first, second):
                await phone.hand_off()
                await world.clock.advance(60)
        yield world, first, second


async def primary(world: World) -> str:
    return (await world.watch.one(PrimaryPhone)).peer_id


async def by(world: World, *phones: SimulatedPhone) -> str:
    """The phone whose grant answers a question that may be answered by these."""
    found = frozenset(phone.id for phone in phones) or frozenset({""})
    answer = await world.watch.token(phones=found)
    if isinstance(answer, TokenRefused):
        return answer.error
    assert answer.phone is not None
    return answer.phone.device_id


async def action(world: World, *, broker_error: str = "", is_connected: bool = True) -> tuple[str, str]:
    status = await status_of(world, broker_error=broker_error, is_connected=is_connected)
    found = status["action"] or {"slug": "", "sentence": ""}
    return found["slug"], found["sentence"]


async def status_of(world: World, *, broker_error: str = "", is_connected: bool = True) -> dict[str, Any]:
    watch = world.watch
    return companion_status(
        Surroundings("companion", "watch", watch.id, "", is_connected, broker_error, "", {}, ""),
        watch.clock.now(),
        pairings=await watch.rows(Pairing),
        outbox=await watch.rows(Outgoing),
        grants=await watch.rows(Grant),
        tokens=await watch.rows(CachedToken),
        primary=await watch.rows(PrimaryPhone),
        problems={},
    )


# -- Primary -----------------------------------------------------------------------------------------------


async def test_the_first_phone_is_primary_and_stays_so() -> None:
    async with two_phones() as (world, first, second):
        assert await primary(world) == first.id
        assert await by(world) == first.id
        assert await by(world, second) == second.id
        await world.watch.stop()
        await world.watch.start()
        assert await primary(world) == first.id
        await world.pair(second)
        await world.pair(first)  # anew, with the same key
        assert await primary(world) == first.id and await by(world) == first.id


async def test_a_home_of_before_gets_the_phone_of_its_oldest_active_pairing() -> None:
    async with two_phones() as (world, first, second):
        await world.watch.agent.turns.run(lambda turn: turn.tx.delete(PrimaryPhone, "self"))
        (old,) = await world.watch.rows(Pairing, peer_id=first.id)
        await world.watch.edit(old, state="retired")
        await world.watch.stop()
        await world.watch.start()
        assert await primary(world) == second.id, "the oldest that is active"
        assert await by(world) == second.id and await by(world, first) == first.id


async def test_a_person_chooses_another_by_name_or_by_the_beginning_of_its_id() -> None:
    async with two_phones() as (world, first, second):
        choose = world.watch.agent.choose_primary
        (name,) = {row.peer_name for row in await world.watch.rows(Pairing, peer_id=second.id)}
        for word in (second.id, second.id[:6]):
            assert await choose(word) == NamedPhone(second.id, name, is_primary=True)
            assert await primary(world) == second.id and await by(world) == second.id
            await choose(first.id)
        with pytest.raises(LocalError, match="nobody"):
            await choose("nobody")
        assert await primary(world) == first.id
        chosen = [row.device for row in await world.watch.rows(AuditEvent) if row.name == "primary_phone_chosen"]
        assert chosen == [first.id, second.id, first.id, second.id, first.id]


async def test_no_other_phone_takes_the_place_of_a_forgotten_one() -> None:
    async with two_phones() as (world, first, second):
        await world.watch.agent.forget_phone(first.id)
        assert await primary(world) == ""
        answer = await world.watch.token()
        assert isinstance(answer, TokenRefused) and answer.error == "not_found"
        assert "companion primary" in answer.action
        assert await action(world) == (
            "choose_primary",
            f"say whose grants apps get: token-relay companion primary {second.id}",
        )
        assert await by(world, second) == second.id
        await world.pair(first)
        assert await primary(world) == "", "not even when it comes back, while there is another"
        await world.watch.agent.choose_primary(first.id)
        assert (await action(world))[0] == "hand_off"


async def test_when_no_phone_is_left_the_next_one_is_primary() -> None:
    async with two_phones() as (world, first, second):
        for phone in (first, second):
            await world.watch.agent.forget_phone(phone.id)
        assert (await action(world))[0] == "pair"
        await world.pair(second)
        assert await primary(world) == second.id
        await world.watch.agent.forget(pairing=True)
        answer = await world.watch.token()
        assert isinstance(answer, TokenRefused) and answer.error in ("reauth_required", "not_found")
        await world.pair(first)
        assert await primary(world) == first.id


# -- A lost phone ------------------------------------------------------------------------------------------


async def test_one_lost_phone_is_forgotten_alone_with_all_that_came_of_it() -> None:
    """Measured: a phone that lost everything left its pairing active and its grant held, and only all could go."""
    async with two_phones() as (world, first, second):
        anew = await world.pair(second)  # a retired pairing and its handoff are the phone's as well
        await say(second, an_offer(), pairing=anew)
        kept = {kind: await _of(world, kind, first) for kind in (Pairing, Grant, CompanionHandoff, Seen, CachedToken)}
        (grant,) = [row for row in await world.watch.rows(Grant) if row not in kept[Grant]]
        handoffs = [row.at for row in await world.watch.rows(CompanionHandoff) if row not in kept[CompanionHandoff]]
        with erasures(world.watch) as erased:
            assert await world.watch.agent.forget_phone(second.id[:5]) == {"grants": 1, "pairings": 2}
        assert {f"grant:{grant.grant_id}", *(f"handoff:{a}:{b}" for a, b in handoffs)} == set(erased)
        assert len(handoffs) == 2 and (anew.pairing_id, UNKNOWN) in handoffs
        for kind, rows in kept.items():
            assert await world.watch.rows(kind) == rows, kind
        assert {row.pairing_id for row in await world.watch.rows(Outgoing)} <= {row.pairing_id for row in kept[Pairing]}
        assert await primary(world) == first.id and await by(world) == first.id
        assert await by(world, second) == "not_found"
        await world.clock.advance(60)
        assert await by(world) == first.id


async def _of(world: World, kind: Any, phone: SimulatedPhone) -> list[Any]:
    mine = {row.pairing_id for row in await world.watch.rows(Pairing, peer_id=phone.id)}
    grants = {row.grant_id for row in await world.watch.rows(Grant) if row.pairing_id in mine}
    rows = await world.watch.rows(kind)
    return [row for row in rows if (row.grant_id in grants if kind is CachedToken else row.pairing_id in mine)]


async def test_a_forgotten_phones_token_is_revoked_where_that_ends_nothing_else() -> None:
    async with running("auth0") as world:
        await world.phone.hand_off()
        sent = len(world.watch.http.requests)
        await world.watch.agent.forget_phone(world.phone.id)
        await world.clock.advance(5)
        assert [one.url.rpartition("/")[2] for one in world.watch.http.requests[sent:]] == ["revoke"]
        assert (await world.watch.rows(Grant), await world.watch.rows(Pairing)) == ([], [])


# -- Choosing ----------------------------------------------------------------------------------------------


async def test_two_phones_with_one_account_are_told_apart_and_never_mixed() -> None:
    async with two_phones() as (world, first, second):
        answer = await world.watch.token(phones=frozenset({first.id, second.id}))
        assert isinstance(answer, TokenRefused) and answer.error == "ambiguous"
        rows = await world.watch.rows(Grant)
        assert set(answer.grants) == {FittingGrant(rows[0].issuer, rows[0].account, one.id) for one in (first, second)}


async def test_a_grant_that_cannot_refresh_does_not_hide_a_token_that_lives() -> None:
    """Measured: a newer grant with a dead endpoint made every call `offline` while the older one's token lay there."""
    async with running("entra") as world:
        await world.phone.hand_off()
        honest = await world.watch.token()
        assert isinstance(honest, TokenGranted)
        await world.clock.advance(60)
        await world.pair()  # anew: the grant of the former pairing stays
        await world.phone.hand_off()
        await world.clock.advance(5)
        old, new = sorted(await world.watch.rows(Grant), key=lambda row: row.stored_at)
        assert (old.state, new.state, old.subject) == ("held", "held", new.subject)
        await world.watch.agent.turns.run(lambda turn: turn.tx.delete(CachedToken, new.grant_id, ""))
        world.watch.http.cut()
        for _ in range(2):  # asked, and in the pause after it
            answer = await world.watch.token()
            assert isinstance(answer, TokenGranted) and answer.access_token == honest.access_token


async def test_a_companion_finds_a_phone_by_what_a_person_calls_it_and_a_phone_has_none() -> None:
    async with two_phones(handed_off=False) as (world, first, second):
        found = await world.watch.agent.keeper.find_phone(second.id)
        assert isinstance(found, NamedPhone) and (found.device_id, found.is_primary) == (second.id, False)
        found = await world.watch.agent.keeper.find_phone(first.id[:4])
        assert isinstance(found, NamedPhone) and found.is_primary
        for agent in (world.watch.agent, first.agent):
            unknown = await agent.keeper.find_phone("nobody")
            assert isinstance(unknown, TokenRefused) and unknown.error == "not_found"
        assert isinstance(await first.agent.keeper.get_token(TokenQuery()), TokenGranted)


# -- Status ------------------------------------------------------------------------------------------------


async def test_status_shows_the_phones_and_whose_each_grant_is() -> None:
    async with two_phones() as (world, first, second):
        status = await status_of(world)
        shown = {phone["device_id"]: (phone["is_primary"], phone["grants"]) for phone in status["phones"]}
        assert shown == {first.id: (True, 1), second.id: (False, 1)}
        assert [grant["phone"] for grant in status["grants"]] == [first.id, second.id]
        assert status["action"] is None
        (theirs,) = [row for row in await world.watch.rows(Grant) if row.stored_at == status["grants"][1]["stored_at"]]
        await world.watch.edit(theirs, state="dead", reason="denied")
        assert (await action(world))[0] == "hand_off_again", "another phone's trouble is told where ours is well"
        (ours,) = [row for row in await world.watch.rows(Grant) if row.state == "held"]
        await world.watch.edit(replace(ours, lease_days=1), state="locked", reason="rollback")
        assert (await action(world))[0] == "restored_backup", "the primary phone's first"


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        ("", ""),  # measured: the advice came in the first second, before any attempt had ended
        ("connection refused", "check_broker"),
        ("greeting failed: VaultError: no room to write vault.db", "check_disk"),
        ("greeting failed: CorruptVaultError: vault.db is damaged", "check_disk"),
    ],
)
async def test_the_broker_is_advised_on_only_when_it_is_what_failed(error: str, slug: str) -> None:
    async with running("entra") as world:
        assert (await action(world, is_connected=False, broker_error=error))[0] == (slug or "hand_off")
        await world.phone.hand_off()
        assert (await action(world, is_connected=False, broker_error=error))[0] == slug
        await world.watch.edit(await world.watch.grant(), lease_days=1, lease_used_s=9e9)
        assert (await action(world, is_connected=False, broker_error=error))[0] == "bring_phone_online"


async def test_status_names_the_host_to_allow() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(60)
        await world.watch.edit(await world.watch.grant(), token_endpoint="http://127.0.0.1:8088/token")
        await world.watch.token(force_refresh=True)
        slug, sentence = await action(world)
        assert slug == "allow_host" and "127.0.0.1:8088" in sentence and "provider.hosts" in sentence
        (row,) = (await status_of(world))["grants"]
        assert (row["state"], row["reason"]) == ("locked", "configuration") and "127.0.0.1:8088" in row["said"]


async def test_no_phone_becomes_primary_because_a_row_was_lost() -> None:
    async with two_phones() as (world, first, second):
        (row,) = await world.watch.rows(Pairing, peer_id=first.id)
        world.watch.disk.store.transact(lambda tx: tx.delete(Pairing, row.pairing_id), lambda: None)
        await world.pair(second)
        assert await primary(world) == first.id


class _Slow:
    """The provider, but for one phone's grants: those are never answered until ``released``."""

    def __init__(self, http: Http, slow: set[str]) -> None:
        self._http, self._slow = http, slow
        self.released = asyncio.Event()
        self.under_way = self.most = self.seen = 0

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        if form_value(request, "refresh_token") not in self._slow:
            return await self._http.request(request)
        self.under_way += 1
        self.seen += 1
        self.most = max(self.most, self.under_way)
        await self.released.wait()
        self.under_way -= 1
        return NotSent("no connection")


async def test_slow_endpoints_of_one_phone_hold_up_its_own_grants_alone() -> None:
    """Measured: sixty grants of one phone at an address that is silent took every connection of the device."""
    async with two_phones() as (world, _, second):
        (theirs,) = await world.watch.rows(Grant, pairing_id=(await second.one(Pairing)).pairing_id)
        ids = [f"{number:02x}" * 16 for number in range(12)]
        for grant_id in ids:
            await world.watch.edit(theirs, grant_id=grant_id, refresh_token=RefreshToken(f"slow {grant_id}"))
        flights = world.watch.agent.keeper.flights
        slow = _Slow(world.watch.http, {f"slow {grant_id}" for grant_id in ids})
        flights._http = slow
        for grant_id in ids:
            flights.fly(grant_id, RefreshErrand())
        await world.clock.advance(5)
        assert slow.under_way == LANES
        assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)
        slow.released.set()
        await world.clock.advance(5)
        assert slow.seen >= len(ids) and slow.most == LANES, "each has its turn"


async def test_each_pairing_has_lanes_of_its_own_and_leaves_nothing_behind() -> None:
    lanes, entered, go_on = Lanes(), [], asyncio.Event()

    async def fly(pairing_id: str) -> None:
        async def work() -> None:
            entered.append(pairing_id)
            await go_on.wait()

        await lanes.run(pairing_id, work)

    async with asyncio.TaskGroup() as tasks:
        for pairing_id in ["one"] * (LANES + 2) + ["two"] + [""] * (LANES + 2):
            tasks.create_task(fly(pairing_id))
        for _ in range(3):
            await asyncio.sleep(0)
        assert sorted(entered) == [""] * (LANES + 2) + ["one"] * LANES + ["two"]
        go_on.set()
    assert entered.count("one") == LANES + 2 and (lanes._taken, lanes._waiting) == ({}, {})
