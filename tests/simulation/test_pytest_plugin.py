"""The test kit as its users have it: the fixtures in their projects, and what each verb of the API promises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from token_relay.cli.client import ClientError, get_token
from token_relay.sandbox.marked_tokens import find_marked
from token_relay.simulation.loop import DeadlockError
from token_relay.simulation.testkit.api import RelayWorld, TokenAnswer
from token_relay.simulation.testkit.sandbox import SandboxWorld
from token_relay.simulation.testkit.virtual import VirtualWorld

pytest_plugins = ["pytester"]

AGAIN = ("-p", "token_relay.simulation.pytest_plugin")  # beside the entry point
# pytest-asyncio warns by itself until this is set
QUIET = ("-W", "error", "-o", "asyncio_default_fixture_loop_scope=function")
LINKS = "phone-broker, companion-broker, phone-provider, companion-provider"
STORY = """
import asyncio
import pytest
import pytest_asyncio

@pytest_asyncio.fixture
async def app():
    queue = asyncio.Queue()
    task = asyncio.ensure_future(queue.get())
    yield queue
    await queue.put(None)
    await task

async def story(world):
    await world.phone.sign_in()
    await world.phone.hand_off("watch")
    await world.links.cut("phone")
    await world.advance(hours=36)
    await world.provider.lose_next_answer()
    await world.companion.restart()
    return await world.until(world.companion.token)

{mark}
async def test_beside_an_asynchronous_fixture_of_the_project(app, relay_world):
    assert await story(relay_world)
    await asyncio.wait_for(asyncio.sleep(0.001), 60)  # the project's own loop works in real time

{mark}
@pytest.mark.parametrize("relay_world", ["entra", "auth0", "grace"], indirect=True)
async def test_the_parameter_chooses_the_provider(relay_world):
    if relay_world.profile == "grace":  # its client knows of no leeway
        with pytest.raises(TimeoutError, match="reauth_required"):
            await story(relay_world)
    else:
        assert await story(relay_world)

{mark}
@pytest.mark.token_relay(profile="strict", access_token_lifetime_s=600)
class TestMarked:
    async def test_the_mark_chooses_the_provider(self, relay_world):
        assert relay_world.profile == "strict"
        await relay_world.phone.sign_in()
        await relay_world.phone.hand_off()
        await relay_world.advance(minutes=11)
        await relay_world.companion.token()
        assert await relay_world.provider.count("refresh_committed") == 2

    @pytest.mark.token_relay(profile="auth0")
    async def test_the_closest_mark_wins(self, relay_world):
        assert relay_world.profile == "auth0"

def test_without_asyncio(relay_world):
    assert relay_world.companion.get_token()[0] == 404
    assert asyncio.run(story(relay_world))
    assert relay_world.companion.get_token()[0] == 200

{mark}
async def test_that_uses_none_of_it_has_its_ordinary_loop():
    assert type(asyncio.get_running_loop()).__module__.startswith("asyncio.")
"""
FAILING = """
async def test_that_fails(relay_world):
    await relay_world.phone.sign_in()
    await relay_world.phone.hand_off()
    answer = await relay_world.companion.token()
    assert not answer

@__import__("pytest").mark.token_relay(profil="strict")
async def test_with_a_slip(relay_world): ...

@__import__("pytest").mark.token_relay(profile="okta")
async def test_with_another(relay_world): ...
"""


# -- In the projects of users ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_fixtures_work_in_both_modes_and_without_any_configuration(pytester: pytest.Pytester, mode: str) -> None:
    pytester.makepyfile(STORY.format(mark="@pytest.mark.asyncio" if mode == "strict" else ""))
    options = () if mode == "strict" else ("-o", "asyncio_mode=auto")  # strict is the default
    found = pytester.runpytest_subprocess(*QUIET, "--strict-markers", *options)
    found.assert_outcomes(passed=8)


def test_a_conftest_may_name_the_plugin_and_a_failure_says_what_the_provider_saw(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("pytest_plugins = ['token_relay.simulation.pytest_plugin']")
    pytester.makepyfile(FAILING)
    found = pytester.runpytest_subprocess(*QUIET, "-o", "asyncio_mode=auto")
    found.assert_outcomes(failed=1, errors=2)
    text = found.stdout.str()
    for said in (
        "token relay: relay_world",
        "refresh_committed generation=3",
        "not <TokenAnswer 200, until 2027-01-15",
        "token_relay does not know profil; it knows profile, access_token_lifetime_s, seed",
        "there is no profile 'okta'; there are entra, auth0, strict, rotates, grace",
    ):
        assert said in text
    assert not find_marked(text.encode())


@pytest.mark.parametrize(
    ("options", "autoload", "found"),
    [
        ((), "", "1 passed"),
        (AGAIN, "", "1 passed"),
        (AGAIN, "1", "1 passed"),
        (("-p", "no:token_relay"), "", "fixture 'relay_world' not found"),
        ((), "1", "fixture 'relay_world' not found"),
    ],
)
def test_the_plugin_is_taken_once_however_it_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], autoload: str, found: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", autoload)
    pytester.makepyfile("def test_of_an_app(relay_world): assert relay_world.phone.name")
    assert found in pytester.runpytest_subprocess(*options).stdout.str()


def test_tests_that_do_not_use_it_pay_for_one_small_module(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_of_somebody_else():
            names = sorted(name for name in sys.modules if name.split(".")[0] in ("token_relay", "pydantic", "aiohttp"))
            package = "token_relay.simulation"
            assert names == ["token_relay", package, f"{package}.pytest_entry", f"{package}.pytest_plugin"]
    """)
    pytester.runpytest_subprocess("-W", "error", "-p", "no:asyncio").assert_outcomes(passed=1)


# -- Virtual time ------------------------------------------------------------------------------------------


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[VirtualWorld]:
    found = VirtualWorld(getattr(request, "param", "entra"))
    yield found
    found.close()


async def handed_off(world: RelayWorld) -> None:
    await world.phone.sign_in()
    assert await world.phone.hand_off("watch") == "done"


async def two_days(world: VirtualWorld) -> list[dict[str, Any]]:
    await handed_off(world)
    await world.companion.crash_in_refresh()
    await world.companion.start()
    await world.links.slow("companion", latency_s=2)
    await world.advance(days=2)
    await world.companion.token()
    return await world.provider.events()


def test_the_same_seed_and_the_same_calls_are_the_same_history() -> None:
    histories = []
    for seed in (1, 1, 2):
        world = VirtualWorld("auth0", seed=seed)
        histories.append(asyncio.run(two_days(world)))
        world.close()
    assert histories[0] == histories[1] != histories[2]
    assert len(histories[0]) > 10


@pytest.mark.asyncio
async def test_a_name_that_does_not_exist_is_answered_with_those_that_do(world: VirtualWorld) -> None:
    with pytest.raises(ValueError, match=f"no link 'phone-brocker'; there are {LINKS}, and phone, companion"):
        await world.links.cut("phone-brocker")
    with pytest.raises(ValueError, match=f"name a link; there are {LINKS}"):
        await world.links.heal()
    with pytest.raises(ValueError, match=f"no link 'phone'; there are {LINKS}"):
        await world.links.state("phone")
    with pytest.raises(ValueError, match="drop_after_commit"):
        await world.provider.fault("drop_after")
    with pytest.raises(ValueError, match="there is no such user"):
        await world.provider.revoke("nobody@contoso.example")
    with pytest.raises(ValueError, match="time only goes forward"):
        await world.advance(hours=-1)
    with pytest.raises(ValueError, match="the sandbox has no profile 'grace'; it has entra, auth0, strict"):
        SandboxWorld("grace")  # type: ignore[arg-type]  # that is the point


@pytest.mark.asyncio
async def test_a_refused_token_names_the_slug_and_a_granted_one_is_never_shown(world: VirtualWorld) -> None:
    refused = await world.companion.token()
    assert (bool(refused), refused.status, refused.error, refused.access_token) == (False, 404, "not_found", "")
    assert refused.expires_at is None and refused.action and "not_found" in repr(refused)
    await handed_off(world)
    answer = await world.companion.token(min_valid_s=600, force_refresh=True)
    assert answer and answer.error == "" and answer.expires_at is not None
    assert find_marked(answer.access_token.encode()) and not find_marked(repr(answer).encode())
    assert sorted(answer.body) == ["access_token", "expires_at", "issuer", "scope", "token_type"]
    assert (await world.companion.token(min_valid="x")).error == "bad_request"


@pytest.mark.asyncio
async def test_a_device_that_is_off_says_what_its_socket_would(world: VirtualWorld) -> None:
    await world.companion.stop()
    for call in (world.companion.token, world.companion.status, world.companion.crash_in_refresh):
        with pytest.raises(ClientError) as refused:
            await call()
        assert refused.value.code == "not_running"
    with pytest.raises(ClientError, match="watch is off"):
        world.companion.get_token({})
    await world.companion.start()
    assert world.companion.is_on


@pytest.mark.asyncio
async def test_what_the_phone_refuses_has_the_code_of_its_control_socket(world: VirtualWorld) -> None:
    with pytest.raises(ClientError) as refused:
        await world.phone.hand_off("watch")
    assert refused.value.code == "person_needed"
    await world.phone.sign_in()
    with pytest.raises(ClientError, match="toaster"):
        await world.phone.hand_off("toaster")
    assert await world.phone.action() == "hand_off"


@pytest.mark.asyncio
async def test_a_provider_that_cannot_be_reached_is_said_at_once_and_a_silent_one_in_time(world: VirtualWorld) -> None:
    await handed_off(world)
    await world.links.cut("provider")
    assert [await world.links.state(name) for name in world.links.names] == ["whole", "whole", "cut", "cut"]
    began_at = world.time_s
    await world.advance(hours=2)
    assert (await world.companion.token(timeout_s=5)).error == "offline"
    assert world.time_s == began_at + 7200
    await world.links.heal("all")
    assert await world.until(world.companion.token)
    await world.advance(hours=2)
    await world.links.cut("companion-provider", how="drop")
    before = world.time_s
    assert (await world.companion.token(timeout_s=5)).error == "offline"
    assert world.time_s == pytest.approx(before + 5, abs=0.1)


@pytest.mark.asyncio
async def test_a_link_that_is_dead_one_way_loses_the_answer_after_the_commit(world: VirtualWorld) -> None:
    await handed_off(world)
    await world.links.cut("companion-provider", how="drop", direction="down")
    before = await world.provider.count("refresh_committed")
    await world.companion.token(force_refresh=True)
    assert await world.provider.count("refresh_committed") == before + 1
    assert await world.provider.count("answer_lost") == 1


@pytest.mark.asyncio
async def test_a_slow_link_takes_the_worlds_time(world: VirtualWorld) -> None:
    await handed_off(world)
    await world.links.slow("companion", latency_s=3)
    before = world.time_s
    assert await world.companion.token(force_refresh=True)
    assert world.time_s == before + 6


@pytest.mark.asyncio
async def test_a_handoff_waits_for_a_companion_that_is_away(world: VirtualWorld) -> None:
    await world.phone.sign_in()
    await world.links.cut("companion-broker")
    assert await world.phone.hand_off("watch", wait_s=5) == "offered"
    assert await world.phone.action() == "bring_device_online"
    await world.links.heal("companion-broker")
    assert await world.until(world.companion.token)
    await world.links.cut("companion-broker", how="drop")
    assert await world.phone.hand_off("watch", wait_s=1, lease_days=7) == "offered"
    assert await world.phone.cancel("watch") == "cancelling"


@pytest.mark.asyncio
@pytest.mark.parametrize("world", ["entra", "auth0", "strict", "rotates", "grace"], indirect=True)
@pytest.mark.parametrize("committed", [False, True])
async def test_a_power_cut_in_a_refresh_costs_what_the_provider_makes_of_it(
    world: VirtualWorld, committed: bool
) -> None:
    await handed_off(world)
    mark = await world.provider.mark()
    await world.companion.crash_in_refresh(committed=committed)
    assert not world.companion.is_on
    (held,) = [event for event in await world.provider.events(after=mark) if event["kind"] == "request_held"]
    assert held["when"] == ("after_commit" if committed else "before_commit")
    await world.companion.start()
    await world.advance(hours=2)
    answer = await world.companion.token()
    # The client knows of no leeway, and not what reuse would take along: the phone has a grant too.
    is_lost = world.profile in ("strict", "rotates", "grace")
    assert bool(answer) is not is_lost and answer.error == ("reauth_required" if is_lost else "")


@pytest.mark.asyncio
@pytest.mark.parametrize("world", ["strict"], indirect=True)
async def test_a_lost_answer_of_a_strict_provider_asks_for_a_handoff_as_the_page_says(world: VirtualWorld) -> None:
    await handed_off(world)
    await world.advance(hours=36)
    await world.provider.lose_next_answer()
    await world.companion.restart()
    assert await world.until(lambda: is_revoked(world))
    assert await world.provider.count("reuse_detected") == 0
    assert await world.companion.action() == "hand_off_again"
    assert await world.phone.hand_off("watch") == "done"
    assert await world.until(world.companion.token)
    await world.provider.lose_next_request()
    assert await world.companion.token(force_refresh=True), "the token that it has is good for an hour"
    assert await world.provider.count("request_lost") == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("world", ["strict"], indirect=True)
async def test_the_providers_clock_alone_ends_a_token_that_the_companion_still_serves(world: VirtualWorld) -> None:
    await handed_off(world)
    answer = await world.companion.token()
    assert await world.provider.accepts(answer)
    await world.provider.advance(hours=1, seconds=1)
    assert await world.companion.token() == answer
    assert not await world.provider.accepts(answer)
    await world.provider.set_policy(access_token_lifetime_s=60)
    renewed = await world.companion.token(force_refresh=True)
    assert renewed != answer and await world.provider.accepts(renewed.access_token)


@pytest.mark.asyncio
async def test_a_coroutine_that_runs_in_the_world_has_its_time_and_its_errors(world: VirtualWorld) -> None:
    await handed_off(world)

    async def app() -> list[bool]:
        answers = []
        for _ in range(24):
            answers.append(bool(await world.companion.token()))
            await asyncio.sleep(3600)
        return answers

    before = world.time_s
    assert await world.run(app()) == [True] * 24
    assert world.time_s == before + 86_400

    async def blocks() -> None:
        world.companion.get_token({})

    with pytest.raises(RuntimeError, match=r"inside of world.run\(\) only what is awaited works"):
        await world.run(blocks())

    async def fails() -> None:
        pytest.fail("as a test does")

    with pytest.raises(pytest.fail.Exception, match="as a test does"):
        await world.run(fails())
    assert await world.companion.token()


@pytest.mark.asyncio
async def test_an_app_that_speaks_http_gets_virtual_time_on_a_real_socket(world: VirtualWorld) -> None:
    path = world.companion.token_socket
    await handed_off(world)
    for _ in range(30):  # more in a second than an agent would allow
        await world.advance(hours=2)
        assert get_token(path, {})[0] == 200
    assert await world.provider.count("refresh_committed") > 30
    await world.links.cut("companion-provider")
    await world.advance(hours=2)
    status, body = await asyncio.to_thread(get_token, path, {"timeout_s": "1"})
    assert (status, body["error"]) == (503, "offline")
    await world.companion.crash()
    with pytest.raises(ClientError) as refused:
        get_token(path, {})
    assert refused.value.code == "not_running"
    await world.companion.start()
    assert get_token(path, {"force_refresh": "maybe"})[1]["error"] == "bad_request"
    assert world.companion.token_socket == path and world.phone.token_socket != path
    assert get_token(world.phone.token_socket, {})[0] == 200


@pytest.mark.asyncio
async def test_a_request_on_the_socket_that_the_world_waits_for_ends_in_real_time(
    world: VirtualWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.apps.server.SOURCE_GRACE_S", 0.2)
    path = world.companion.token_socket
    await handed_off(world)

    async def blocks() -> tuple[int, object]:
        status, body = get_token(path, {"timeout_s": "0.1"})
        return status, body["error"]

    assert await world.run(blocks()) == (503, "offline")
    assert get_token(path, {})[0] == 200


def test_a_wait_for_what_never_comes_is_an_error_that_names_it(world: VirtualWorld) -> None:
    async def listens_for_nobody() -> None:
        for device in (world.phone, world.companion):
            await device.stop()
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match=r"nobody can go on: \S+listens_for_nobody in "):
        asyncio.run(world.run(listens_for_nobody()))


@pytest.mark.asyncio
async def test_until_gives_up_in_the_worlds_time_and_says_the_last_answer(world: VirtualWorld) -> None:
    before = world.time_s
    with pytest.raises(TimeoutError, match=r"not within 10 s; the last answer was <TokenAnswer 404, not_found"):
        await world.until(world.companion.token, within_s=10)
    assert world.time_s == pytest.approx(before + 10, abs=0.2)


# -- Real time ---------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_real_programs_do_the_same_by_the_same_names() -> None:
    world = await asyncio.to_thread(SandboxWorld, "auth0", access_token_lifetime_s=3.0)
    try:
        home = world.companion.home
        await handed_off(world)
        answer = await world.until(world.companion.token)
        assert await world.provider.accepts(answer)
        assert get_token(world.companion.token_socket, {})[0] == world.companion.get_token()[0] == 200
        await world.companion.crash_in_refresh(committed=False)
        assert not world.companion.is_on
        with pytest.raises(ClientError) as refused:
            await world.companion.token()
        assert refused.value.code == "not_running"
        await world.links.cut("companion-broker")
        await world.companion.start()
        assert await world.until(world.companion.token)
        assert await world.companion.action() == "check_broker"
        assert not await world.phone.revoke("watch", wait_s=0.2)
        await world.links.heal("all")
        await world.until(lambda: is_revoked(world), within_s=60)
        with pytest.raises(ValueError, match=f"no link 'x'; there are {LINKS}"):
            await world.links.cut("x")
        with pytest.raises(RuntimeError, match="real time cannot be put forward: take relay_world"):
            await world.advance(hours=36)
        said = await asyncio.to_thread(world.describe)
        assert await world.provider.events("request_lost")  # the page shows only the last events
        assert "refresh_committed" in said and "-- the end of " in said and not find_marked(said.encode())
        assert json.dumps(await world.phone.status())
    finally:
        await asyncio.to_thread(world.close)
    assert not home.exists()


async def is_revoked(world: RelayWorld) -> bool:
    answer: TokenAnswer = await world.companion.token()
    return answer.error == "reauth_required"
