"""The whole life at a provider that somebody else wrote, once for each provider: a class to inherit from.

Each test is a world of its own at a shared provider, told by a user of its own: no story meets another's grants. The
expected outcomes stand in :mod:`tests.providers.variants`.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest

from tests import needs
from tests.chaos.victims import Target
from tests.e2e.kit import eventually
from tests.providers.browsers import CHROMIUM, visit_with_chromium
from tests.providers.gateway import Page
from tests.providers.identity_providers import PASSWORD, Provider, Token
from tests.providers.kill_rounds import KINDS, KillRounds, Tally
from tests.providers.provider_world import ProviderCompanion, ProviderWorld, companion_with_a_grant
from tests.providers.variants import Variant
from tests.watchdog import HANG_S
from token_relay.cli.client import get_token

GENERATIONS = 6
ASKERS = 8
ROUNDS = 6  # of kills in each story; `python -m tests.providers` does hundreds
PAGES = [Page(**page) for page in tomllib.loads((Path(__file__).parent / "pages.toml").read_text())["page"]]


class Stories:
    """Inherit, and say at which provider."""

    variant: ClassVar[Variant]

    @pytest.fixture(scope="class")
    @classmethod
    def provider(cls) -> Iterator[Provider]:
        with cls.variant.make() as provider:
            yield provider

    def world(self, provider: Provider) -> ProviderWorld:
        return ProviderWorld(provider=provider, user=next(provider.unused), init_options=self.variant.options(provider))

    async def test_every_strategy_and_a_companion_that_lives_on_while_the_phone_is_off(
        self, provider: Provider
    ) -> None:
        async with self.world(provider) as world, companion_with_a_grant(world) as (phone, watch):
            first = await watch.grant()
            assert first["account"] == world.user or first["account"], "two accounts must be told apart"
            refused = (await phone("handoff", "watch", "--strategy", "branch", "--wait", "20")).expect(5)
            assert "branch" in refused.err and "mint" in refused.err
            assert len(await world.live()) == 2, "the phone's and the companion's"

            await phone.stop()
            for number in range(GENERATIONS):
                await world.gets_in(watch)
                assert (await watch.grant())["generation"] >= 3 + number
            await phone.run()

            await phone.hand_off(watch)  # over an older grant
            second = await watch.until_generation(2)
            assert second["grant_id"] != first["grant_id"]
            (await phone("handoff", "watch", "--strategy", "move", "--wait", "60")).expect()
            third = await watch.until_generation(2)
            assert third["grant_id"] not in (first["grant_id"], second["grant_id"])
            await world.gets_in(watch)
            assert not [row for row in (await phone.status())["accounts"] if row["state"] == "held"]
            world.check_uses()

    async def test_eight_programs_that_ask_at_once_cost_one_refresh(self, provider: Provider) -> None:
        async with self.world(provider) as world, companion_with_a_grant(world) as (_, watch):
            gateway = world.gateways["watch"]
            before = len(gateway.uses)
            gateway.opened.clear()
            socket, query = watch.home / "token.sock", {"force_refresh": "true"}
            with ThreadPoolExecutor(ASKERS) as askers:
                asking = [askers.submit(get_token, socket, query, timeout_s=HANG_S) for _ in range(ASKERS)]
                await eventually("all of them wait", lambda: wait_at(socket, ASKERS))
                gateway.opened.set()
                answers = await asyncio.gather(*map(asyncio.wrap_future, asking))
            assert {status for status, _ in answers} == {200}
            tokens = [str(answer["access_token"]) for _, answer in answers]
            assert len({*tokens}) == len(gateway.uses) - before == 1
            world.check_uses()

    async def test_ten_pages_in_the_place_of_answers_cost_no_grant(self, provider: Provider) -> None:
        async with self.world(provider) as world, companion_with_a_grant(world) as (phone, watch):
            gateway, app = world.gateways["watch"], Target(watch, phone)
            before = len(gateway.uses)
            gateway.pages = list(PAGES)

            async def are_met() -> bool:
                watch.hours_pass(2)
                await app.ask(force=True)
                assert (await watch.grant())["state"] in ("uncertain", "held", "refreshing")
                return not gateway.pages

            await eventually("every page has stood in the place of an answer", are_met)
            met = gateway.uses[before : before + len(PAGES)]
            assert len({use.value for use in met}) == 1 and not any(use.status for use in met)

            async def is_back() -> bool:
                watch.hours_pass(2)
                token = await app.ask(force=True)
                return bool(token) and (await watch.grant())["generation"] >= 3

            await eventually("a refresh after the pages", is_back)
            world.check_uses()

    async def test_a_lost_answer_ends_as_the_provider_decides_and_is_said(self, provider: Provider) -> None:
        async with self.world(provider) as world, companion_with_a_grant(world) as (phone, watch):
            gateway, app = world.gateways["watch"], Target(watch, phone)
            gateway.fate = "after"
            await app.ask(force=True)
            assert any(use.is_lost for use in gateway.uses)
            is_back = await comes_back(watch, app, 2)
            assert is_back is (self.variant.lost_answer == "forgiven")
            if not is_back:
                assert "phone handoff" in (await watch("status")).out
                await phone.hand_off(watch)
                await watch.until_generation(2)
            await world.gets_in(watch)
            await world.gets_in(phone)

    async def test_kills_cost_no_grant_unless_an_answer_was_lost(self, provider: Provider) -> None:
        tally = Tally()
        async with self.world(provider) as world, companion_with_a_grant(world) as (phone, watch):
            rounds = KillRounds(world, phone, watch, Random(7), tally)
            for kind in KINDS[:ROUNDS]:
                await rounds.play(kind)
        assert tally.rounds == ROUNDS
        tally.check()

    async def test_revoking_here_ends_it_there_or_says_that_it_does_not(self, provider: Provider) -> None:
        async with self.world(provider) as world, companion_with_a_grant(world) as (phone, watch):
            held = [token for token in await world.live() if token.value in world.gateways["watch"].values]
            (await phone("revoke", "watch", "--yes", "--wait", "60")).expect()
            (await watch("token")).expect(4)
            status = await phone.until(
                "word of the provider",
                lambda status: status["devices"][0]["handoffs"][-1]["provider_revoked"] not in ("", "not yet"),
            )
            assert self.variant.says in status["devices"][0]["handoffs"][-1]["provider_revoked"]
            code, said = await asyncio.to_thread(provider.refresh, held[-1].value)
            assert (code, said.get("error")) == (
                (400, "invalid_grant") if self.variant.revoked == "dead" else (200, None)
            )
            await world.gets_in(phone)

    async def test_revoking_there_is_noticed_here_within_one_refresh(self, provider: Provider) -> None:
        async with self.world(provider) as world, companion_with_a_grant(world) as (phone, watch):
            gateway = world.gateways["watch"]
            held = await of_companion(world)
            await asyncio.to_thread(provider.revoke, held)
            before = len(gateway.uses)
            (await watch("token", "--force-refresh")).expect(4)
            assert len(gateway.uses) == before + 1 and gateway.uses[-1].status == 400
            assert await watch.action() == "hand_off_again"
            for _ in range(3):
                (await watch("token")).expect(4)
            assert len(gateway.uses) == before + 1, "a grant that is over is not asked for again"
            await phone.until(
                "word of the companion",
                lambda status: status["devices"][0]["handoffs"][-1]["device_reason"] == "denied",
            )
            await world.gets_in(phone)

    @pytest.mark.skipif(CHROMIUM is None, reason=needs.missing("chromium"))
    async def test_a_person_signs_in_with_a_real_browser(self, provider: Provider, tmp_path: Path) -> None:
        async with self.world(provider) as world:
            phone = await world.phone()
            program = await phone.begin("sign-in", "--browser", "--no-open")
            url = (await program.find(r"^(?:open in a browser: )?(https?://\S+)$"))[1]
            await visit_with_chromium(url, tmp_path / "profile", world.user, PASSWORD)
            (await program.ended()).expect()
            await world.gets_in(phone)


async def of_companion(world: ProviderWorld) -> Token:
    """Return the companion's live refresh token, as the provider knows it."""
    (held,) = [token for token in await world.live() if token.value in world.gateways["watch"].values]
    return held


async def comes_back(watch: ProviderCompanion, app: Target, generation: int) -> bool:
    """Wait until a refresh after a lost answer has worked (True), or until the grant is over (False)."""

    async def look() -> str:
        watch.hours_pass(1)
        await app.ask(force=True)
        grant = await app.newest()
        if grant["state"] in ("needs_handoff", "dead", "locked"):
            return "over"
        return "back" if grant["generation"] > generation and grant["state"] == "held" else ""

    return await eventually("the end of the doubt", look) == "back"


async def wait_at(path: Path, count: int) -> bool:
    """Whether so many connections are open at a Unix socket, the listening one apart. proc(5), /proc/net/unix."""
    return sum(line.endswith(f" {path}") for line in Path("/proc/net/unix").read_text().splitlines()) > count
