"""What is no verdict erases nothing: pages, refused requests, a refused client; and how often the provider is asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.agents.provider_orders import order
from tests.agents.world_kit import World, form_value, running
from token_relay.agents.records import AuditEvent, Grant
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.protocol.errors import PersonNeededError, TransientError
from token_relay.provider.http import HttpRequest
from token_relay.sandbox.provider.world.rules import Kind
from token_relay.simulation.ports.http import HttpFault, SimulatedHttp
from token_relay.simulation.ports.http_faults import HttpFaultKind

pytestmark = pytest.mark.asyncio
HOUR = 3600.0
PAGE = HttpFault("502")
TAKEN = HttpFault("502", committed=True)
EVERY = pytest.mark.parametrize("profile", ["entra", "auth0", "strict"])


async def handed_over(world: World) -> Grant:
    """Hand off; the access token of the first refresh has an hour to live, or a day at auth0."""
    assert (await world.phone.hand_off()).state == "done"
    await world.clock.advance(120)
    return await world.watch.grant()


def refreshes(http: SimulatedHttp) -> list[HttpRequest]:
    return [request for request in http.requests if form_value(request, "grant_type") == "refresh_token"]


def only_refreshes(fault: HttpFault) -> Callable[[HttpRequest], str | HttpFault]:
    return lambda request: fault if form_value(request, "grant_type") == "refresh_token" else ""


async def expire(world: World) -> None:
    """Let the newest access token end."""
    await world.clock.advance(25 * HOUR)


@EVERY
async def test_pages_for_a_week_cost_nothing_and_are_asked_at_most_each_hour(profile: Kind) -> None:
    async with running(profile) as world:
        grant = await handed_over(world)
        await expire(world)
        world.watch.http.fault = only_refreshes(PAGE)
        before = len(refreshes(world.watch.http))
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "offline"
        assert "502 text/html" in refused.detail and "handoff" in refused.action
        await world.clock.advance(168 * HOUR)
        page = await world.watch.grant()
        assert (page.state, page.intent_came, page.refresh_token) == ("uncertain", "page", grant.refresh_token)
        assert page.said.startswith("502 text/html") and page.said_at
        sent = len(refreshes(world.watch.http)) - before
        in_leeway = 10 if profile == "auth0" else 0  # 1, 2, 3, 4, 5, 5 … seconds apart
        assert 28 <= sent <= 168 + 6 + in_leeway  # 1, 2, 4 … 60 minutes apart; where nothing is spent, up to 6 hours
        world.watch.http.heal()
        await world.clock.advance(7 * HOUR)
        assert isinstance(await world.watch.token(), TokenGranted)
        after = await world.watch.grant()
        assert (after.state, after.said) == ("held", "") and after.generation > grant.generation
        assert "reuse_detected" not in world.provider.kinds()


async def test_a_page_after_the_commit_ends_with_the_providers_verdict_alone() -> None:
    async with running("strict") as world:
        grant = await handed_over(world)
        world.watch.http.fault = only_refreshes(TAKEN)
        answer = await world.watch.token(force_refresh=True)
        assert isinstance(answer, TokenGranted)  # the one from before
        world.watch.http.heal()
        await world.clock.advance(0.5 * HOUR)
        page = await world.watch.grant()
        assert (page.state, page.refresh_token) == ("uncertain", grant.refresh_token)
        assert world.provider.kinds().count("reuse_detected") == 0
        await world.clock.advance(1 * HOUR)  # the access token has ended: the value is sent, and the provider decides
        dead = await world.watch.grant()
        assert (dead.state, dead.reason, dead.refresh_token) == ("dead", "denied", None)
        assert world.provider.kinds().count("reuse_detected") == 1


async def test_nothing_is_sent_late_while_a_handoff_is_ready() -> None:
    async with running("strict") as world:
        await handed_over(world)
        await expire(world)
        world.watch.http.fault = only_refreshes(PAGE)
        await world.watch.token()
        sent = len(refreshes(world.watch.http))
        # Nobody can sign in for it: the handoff stays READY.
        world.phone.http.fault = lambda request: "not_sent" if request.method == "POST" else ""
        with pytest.raises(TransientError):
            await world.phone.hand_off(wait_s=1)
        await world.clock.advance(3 * HOUR)
        assert len(refreshes(world.watch.http)) == sent
        await world.within(world.phone.agent.cancel("watch"))
        await world.clock.advance(3 * HOUR)
        assert len(refreshes(world.watch.http)) > sent


async def test_after_a_lost_answer_a_grant_that_nobody_shares_is_tried_on() -> None:
    async with running("strict") as world:
        grant = await handed_over(world)
        await world.watch.edit(await world.watch.grant(), is_sole=True)
        await expire(world)
        world.watch.http.plan("lost_before")
        await world.watch.token()
        assert (await world.watch.grant()).state == "uncertain"
        await world.clock.advance(120)
        after = await world.watch.grant()
        assert (after.state, after.generation) == ("held", grant.generation + 1)


# -- One request refused alone -----------------------------------------------------------------------------


async def test_a_refused_scope_stops_nobody_else() -> None:
    async with running("auth0") as world:
        await handed_over(world)
        order(world, "faults", name="refuse", endpoint="token", error="invalid_scope")
        refused = await world.watch.token(scope="openid")
        assert isinstance(refused, TokenRefused) and refused.error == "refused"
        assert "invalid_scope" in refused.detail
        assert (await world.watch.grant()).state == "held"
        sent = len(refreshes(world.watch.http))
        again = await world.watch.token(scope="openid")
        assert isinstance(again, TokenRefused) and again.error == "refused"
        assert again.retry_after_s is not None and 590 < again.retry_after_s <= 600
        assert len(refreshes(world.watch.http)) == sent  # it is remembered
        soon = await world.watch.token(scope="profile")
        assert isinstance(soon, TokenRefused) and soon.error == "busy"  # one unknown request a minute
        await expire(world)
        assert isinstance(await world.watch.token(), TokenGranted)
        assert isinstance(await world.watch.token(scope="profile"), TokenGranted)


async def test_a_cached_token_outlives_the_refusal_of_its_scope() -> None:
    async with running("auth0") as world:
        await handed_over(world)
        assert isinstance(await world.watch.token(scope="openid"), TokenGranted)
        order(world, "faults", name="refuse", endpoint="token", error="invalid_scope")
        for tries in (1, 0):  # the second time the refusal is remembered
            sent = len(refreshes(world.watch.http))
            assert isinstance(await world.watch.token(scope="openid", force_refresh=True), TokenGranted)
            assert len(refreshes(world.watch.http)) == sent + tries


async def test_claims_have_never_worked_before_whatever_the_scope() -> None:
    async with running("entra") as world:
        await handed_over(world)
        order(world, "faults", name="refuse", endpoint="token", error="invalid_scope")
        refused = await world.watch.token(scope="openid")
        assert isinstance(refused, TokenRefused) and refused.error == "refused"
        sent = len(refreshes(world.watch.http))
        claims = await world.watch.token(claims='{"access_token":{"xms_cc":{"values":["cp1"]}}}')
        assert isinstance(claims, TokenRefused) and claims.error == "busy"
        assert len(refreshes(world.watch.http)) == sent


@pytest.mark.parametrize(
    ("fault", "error", "event", "said"),
    [
        ("502", "offline", "refresh_page", "no verdict from the provider: 502 text/html"),
        ("lost_before", "offline", "refresh_answer_lost", "the provider's answer was lost: connection reset"),
        ("person", "reauth_required", "refresh_denied", "the provider wants the person: interaction_required"),
        ("unknown_client", "locked", "refresh_denied", "the provider refuses this client: invalid_client"),
    ],
)
async def test_an_app_and_the_audit_are_told_what_came(fault: HttpFaultKind, error: str, event: str, said: str) -> None:
    async with running("entra") as world:
        await handed_over(world)
        await expire(world)
        world.watch.http.fault = only_refreshes(HttpFault(fault))
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == error and said in refused.detail
        assert event in [row.name for row in await world.watch.rows(AuditEvent)]


async def test_a_scope_that_works_again_is_refused_for_ten_minutes_the_next_time() -> None:
    async with running("auth0") as world:
        await handed_over(world)
        for _ in range(2):
            order(world, "faults", name="refuse", endpoint="token", error="invalid_scope")
            refused = await world.watch.token(scope="openid", force_refresh=True)
            assert isinstance(refused, TokenRefused) and refused.error == "refused"
            assert refused.retry_after_s is not None and 590 < refused.retry_after_s <= 600
            await world.clock.advance(601)
            assert isinstance(await world.watch.token(scope="openid", force_refresh=True), TokenGranted)
            await expire(world)


async def test_an_invalid_grant_to_a_narrow_request_is_followed_by_a_full_one() -> None:
    async with running("entra") as world:
        grant = await handed_over(world)
        order(
            world, "faults", name="refuse", endpoint="token", error="invalid_grant", suberror="basic_action", code=50076
        )
        sent = len(refreshes(world.watch.http))
        refused = await world.watch.token(scope="openid")
        assert isinstance(refused, TokenRefused) and refused.error == "refused" and "50076" in refused.detail
        scopes = [form_value(request, "scope") for request in refreshes(world.watch.http)[sent:]]
        assert scopes == ["openid", grant.scope]
        after = await world.watch.grant()
        assert (after.state, after.generation) == ("held", grant.generation + 1)


async def test_where_the_full_request_is_refused_too_its_verdict_counts() -> None:
    async with running("auth0") as world:
        await handed_over(world)
        world.provider.revoke_user()
        refused = await world.watch.token(scope="openid")
        assert isinstance(refused, TokenRefused) and refused.error == "reauth_required"
        dead = await world.watch.grant()
        assert (dead.state, dead.reason, dead.refresh_token) == ("dead", "denied", None)


# -- The client is refused ---------------------------------------------------------------------------------


async def test_a_registration_that_is_off_for_a_while_locks_nobody_out() -> None:
    async with running("auth0") as world:
        grant = await handed_over(world)
        await expire(world)
        world.watch.http.fault = only_refreshes(HttpFault("unknown_client"))
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"
        assert "invalid_client" in refused.detail and "app registration" in refused.action
        assert "sign" not in refused.action
        sent = len(refreshes(world.watch.http))
        for minutes, times in ((9.5, 0), (2, 1), (18, 1), (5, 2)):  # after 10, 20, 40 … minutes
            await world.clock.advance(minutes * 60)
            assert len(refreshes(world.watch.http)) == sent + times
        locked = await world.watch.grant()
        assert (locked.state, locked.reason, locked.refresh_token) == ("locked", "configuration", grant.refresh_token)
        world.watch.http.heal()
        await world.clock.advance(1 * HOUR)
        assert isinstance(await world.watch.token(), TokenGranted)


@pytest.mark.parametrize("how", ["force", "reload", "restart"])
async def test_a_person_need_not_wait_for_it(how: str) -> None:
    async with running("auth0") as world:
        await handed_over(world)
        await expire(world)
        world.watch.http.fault = only_refreshes(HttpFault("unknown_client"))
        await world.watch.token()
        world.watch.http.heal()
        world.watch.agent.network_is_up()  # this says nothing about the registration
        await world.clock.advance(60)
        assert (await world.watch.grant()).state == "locked"
        if how == "force":
            assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)
        elif how == "reload":
            world.watch.agent.keeper.reload()
        else:
            await world.watch.stop()
            await world.watch.start()
        await world.clock.advance(5)
        assert (await world.watch.grant()).state == "held"
        names = [event.name for event in await world.watch.rows(AuditEvent)]
        assert names.count("refresh_denied") == 1


async def test_what_is_asked_first_after_a_refusal_is_all_that_the_grant_gives() -> None:
    async with running("auth0") as world:
        grant = await handed_over(world)
        await expire(world)
        world.watch.http.fault = only_refreshes(HttpFault("unknown_client"))
        await world.watch.token()
        assert (await world.watch.grant()).state == "locked"
        sent = len(refreshes(world.watch.http))
        still = await world.watch.token(scope="openid", force_refresh=True)
        assert isinstance(still, TokenRefused) and still.error == "locked"  # a refusal of all, not of this scope
        world.watch.http.heal()
        assert isinstance(await world.watch.token(scope="openid", force_refresh=True), TokenGranted)
        scopes = [form_value(request, "scope") for request in refreshes(world.watch.http)[sent:]]
        assert scopes == [grant.scope, grant.scope, "openid"]


@pytest.mark.parametrize("how", ["force", "reload", "nothing"])
async def test_nor_where_an_earlier_use_is_open_beyond_the_pace_of_late_tries(how: str) -> None:
    async with running("auth0") as world:
        await handed_over(world)
        await expire(world)
        world.watch.http.fault = only_refreshes(HttpFault("502"))
        await world.watch.token()
        await world.clock.advance(40)  # the leeway is over
        world.watch.http.fault = only_refreshes(HttpFault("unknown_client"))
        await world.clock.advance(90)
        grant = await world.watch.grant()
        assert (grant.state, grant.refused) == ("uncertain", "configuration")
        world.watch.http.heal()
        if how == "force":
            await world.watch.token(force_refresh=True)
        elif how == "reload":
            world.watch.agent.keeper.reload()
        await world.clock.advance(150)
        assert (await world.watch.grant()).state == ("uncertain" if how == "nothing" else "held")


async def test_a_restored_disk_locks_a_grant_whose_client_is_refused_too() -> None:
    async with running("auth0") as world:
        await handed_over(world)
        await world.watch.edit(await world.watch.grant(), state="locked", reason="configuration", refused_times=1)
        image = world.watch.image()
        assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)
        await world.phone.stop()
        await world.phone.start()  # what the two say to each other shows the older image
        await world.clock.advance(5)
        await world.watch.restore(image)
        world.watch.http.fault = only_refreshes(HttpFault("unknown_client"))
        await world.watch.start()
        await world.clock.advance(30)
        grant = await world.watch.grant()
        assert (grant.state, grant.reason) == ("locked", "rollback")


async def test_the_phone_is_told_that_the_registration_is_refused_and_not_to_sign_in() -> None:
    async with running("auth0") as world:
        await handed_over(world)
        await expire(world)
        world.watch.http.fault = only_refreshes(HttpFault("unknown_client"))
        await world.watch.token()
        await world.phone.stop()
        await world.phone.start()
        await world.clock.advance(5)
        assert (await world.phone.handoff()).device_state == "refused"
        (own,) = await world.phone.rows(Grant)
        await world.phone.edit(own, state="locked", reason="configuration")
        with pytest.raises(PersonNeededError, match="refuses this client") as caught:
            await world.phone.hand_off(strategy="move")
        assert "app registration" in caught.value.hint
