"""A grant whose endpoint nothing vouches for is stored and kept; nothing is sent for it until a person allows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

import token_relay.agents.phone.steps
from tests.agents.guard_kit import say
from tests.agents.world_kit import World, running
from token_relay.agents.records import AuditEvent, Grant
from token_relay.agents.token_source import TokenGranted, TokenRefused, TransferQuery
from token_relay.protocol import messages as m

pytestmark = pytest.mark.asyncio
HERE = "http://127.0.0.1:8088"
HOST = "127.0.0.1:8088"


@contextmanager
def grants_that_say(**fields: Any) -> Iterator[None]:
    """Let the phone put other words into the grant that it seals, as a hostile one would."""
    encode = m.encode_grant
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            token_relay.agents.phone.steps,
            "encode_grant",
            lambda payload: encode(payload.model_copy(update=fields)),
        )
        yield


async def events(world: World, name: str) -> list[str]:
    return [row.detail for row in await world.watch.rows(AuditEvent) if row.name == name]


async def test_a_phone_cannot_aim_the_companion_at_a_program_of_this_machine() -> None:
    """Measured: the companion posted to a port of loopback that a handed-over grant named, and again by itself."""
    async with running("entra") as world:
        with grants_that_say(token_endpoint=f"{HERE}/cgi-bin/reboot?now=1"):
            await world.phone.hand_off()
        assert (await world.watch.handoff()).state == "stored", "never judged at TOKEN"
        grant = await world.watch.grant()
        assert (grant.state, grant.reason) == ("locked", "configuration") and grant.refresh_token is not None
        await world.clock.advance(3 * 86_400)
        for force in (False, True):
            refused = await world.watch.token(force_refresh=force)
            assert isinstance(refused, TokenRefused) and refused.error == "locked"
            assert HOST in refused.detail and f'hosts = ["{HOST}"]' in refused.action and "reload" in refused.action
        transfer = await world.watch.call(world.watch.agent.keeper.get_session_transfer(TransferQuery()))
        assert isinstance(transfer, TokenRefused) and transfer.error == "locked"
        assert world.watch.http.requests == [], "not even discovery"
        assert set(await events(world, "endpoint_barred")) == {HOST}
        assert len(await events(world, "endpoint_barred")) == 1, "said once, not at each look"


async def test_the_host_counts_from_a_reload_on() -> None:
    async with running("entra") as world:
        grant = await _barred(world)
        world.watch.agent.endpoints.hosts = (HOST,)
        await world.clock.advance(1)
        assert world.watch.http.requests == []
        world.watch.agent.keeper.reload()
        await world.clock.advance(1)
        assert isinstance(await world.watch.token(), TokenGranted)
        after = await world.watch.grant()
        assert (after.state, after.said, after.generation) == ("held", "", grant.generation + 1)
        assert len(world.watch.http.requests) == 1


async def test_the_host_counts_at_a_start_and_by_itself_within_the_pace_of_a_refused_client() -> None:
    async with running("entra") as world:
        await _barred(world)
        world.watch.agent.endpoints.hosts = (HOST,)
        await world.clock.advance(700)
        assert (await world.watch.grant()).state == "held"


async def test_an_allowed_host_that_is_down_is_a_provider_that_is_down_and_no_refused_client() -> None:
    async with running("entra") as world:
        await _barred(world)
        world.watch.agent.endpoints.hosts = (HOST,)
        world.watch.http.cut()
        refused = await world.watch.token(force_refresh=True)
        assert isinstance(refused, TokenRefused) and refused.error == "offline"
        assert (await world.watch.grant()).state == "held"


async def test_a_grant_stored_before_the_rule_serves_its_cached_token_to_its_end_and_then_nothing() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        assert isinstance(await world.watch.token(), TokenGranted)
        grant = await world.watch.grant()
        await world.watch.edit(grant, token_endpoint=f"{HERE}{_path(grant)}")
        asked = len(world.watch.http.requests)
        forced = await world.watch.token(force_refresh=True)
        assert isinstance(forced, TokenGranted), "what still works"
        assert (await world.watch.grant()).reason == "configuration"
        await world.clock.advance(2 * 3600)
        ended = await world.watch.token()
        assert isinstance(ended, TokenRefused) and ended.error == "locked"
        assert len(world.watch.http.requests) == asked


@pytest.mark.parametrize("profile", ["auth0", "strict"])
async def test_a_revocation_goes_to_no_such_endpoint_either(profile: str) -> None:
    async with running(profile) as world:
        with grants_that_say(revocation_endpoint="http://localhost:2375/containers"):
            await world.phone.hand_off()
        assert (await world.watch.grant()).reason == "configuration"
        await world.phone.revoke()
        await world.clock.advance(30)
        assert (await world.watch.grant()).reason == "revoked"
        assert world.watch.http.requests == []
        assert (await world.phone.handoff()).provider_said == "unreachable"


@pytest.mark.parametrize("came", ["page", "lost"])
async def test_an_open_use_stays_open_behind_a_barred_endpoint(came: str) -> None:
    """Locked or not: at a provider that rotates, what an earlier request came to is not forgotten."""
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(120)
        world.watch.http.plan("503" if came == "page" else "lost_after")
        await world.watch.token(force_refresh=True)
        before = await world.watch.grant()
        assert before.state == "uncertain"
        await world.watch.edit(before, token_endpoint=f"{HERE}{_path(before)}")
        asked = len(world.watch.http.requests)
        await world.clock.advance(3 * 3600)
        after = await world.watch.grant()
        assert (after.intent, after.intent_came, after.refused) == (before.intent, before.intent_came, "configuration")
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked" and HOST in refused.detail
        assert len(world.watch.http.requests) == asked
        await world.watch.edit(after, token_endpoint=before.token_endpoint)
        world.watch.agent.keeper.reload()
        await world.clock.advance(3 * 3600)
        after = await world.watch.grant()
        if came == "page":
            assert len(world.watch.http.requests) > asked, "the late try of an open use goes on"
        else:  # what this provider did to a lost request is not known, and another use could end other grants
            assert (after.state, after.reason) == ("needs_handoff", "uncertain")


async def test_a_grant_that_is_refused_says_which_field_was_wrong_and_never_its_value() -> None:
    async with running("entra") as world:
        with (
            grants_that_say(issuer="https://other.example", client_id="other"),
            pytest.raises(Exception, match="could not take the token"),
        ):
            await world.phone.hand_off()
        assert await events(world, "grant_refused") == ["grant_mismatch: issuer, client_id"]
        row = await world.phone.handoff()
        lost = m.Lost4(handoff_id=row.handoff_id, reason="grant_mismatch", field="issuer, client_id")
        await say(world.watch, lost)  # once more, with nothing new in it
        told = [event.detail for event in await world.phone.rows(AuditEvent) if event.name == "token_lost"]
        assert told == ["grant_mismatch: issuer, client_id"]
        assert (row.reason, row.problem) == ("lost", f"the companion could not take the token ({told[0]})")


async def _barred(world: World) -> Grant:
    """Hand a grant over whose token endpoint lies on this machine, where the very provider answers."""
    await world.phone.hand_off()
    honest = await world.watch.grant()
    await world.phone.revoke()
    with grants_that_say(token_endpoint=f"{HERE}{_path(honest)}"):
        await world.phone.hand_off()
    http, provider = world.watch.http, honest.token_endpoint.removesuffix(_path(honest))
    there = http.request
    http.request = lambda request: there(replace(request, url=request.url.replace(HERE, provider)))  # type: ignore[method-assign]  # a way there
    http.requests.clear()
    grant = await world.watch.grant()
    assert (grant.state, grant.reason) == ("locked", "configuration")
    return grant


def _path(grant: Grant) -> str:
    return "/" + grant.token_endpoint.split("/", 3)[3].split("?")[0]
