"""The zoo: answers that the field really sends, one file each, and the world in which a grant meets them.

The agents, their records and the provider's core are the real ones, in virtual time; the answer comes by the sandbox's
own fault. An app asks for a token every :data:`ASKED_EVERY_S` seconds, so that nothing but the agent keeps the pace.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.agents.provider_orders import order
from tests.agents.world_kit import World, form_value, running
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.provider.http import HttpRequest
from token_relay.provider.profile import PROFILES, Profile
from token_relay.sandbox.provider.world.animal import Animal
from token_relay.sandbox.provider.world.rules import Kind
from token_relay.service.status import grant_row

ANIMALS_DIR = Path(__file__).parent / "animals"
ANIMALS: dict[str, Animal] = {
    path.stem: Animal.model_validate(tomllib.loads(path.read_text("utf-8")))
    for path in sorted(ANIMALS_DIR.glob("*.toml"))
}
KINDS: dict[str, Kind] = {  # the sandbox's provider that behaves as a profile of the client says
    "entra": "entra",
    "keycloak": "entra",
    "google": "entra",
    "duende": "entra",
    "auth0": "auth0",
    "okta": "grace",
    "hydra": "grace",
    "cognito": "grace",
    "strict": "strict",
    "oidc-provider": "strict",
    "keycloak-rotating": "strict",
    "duende-one-time": "rotates",
}
TOKEN_LIFE_S = 600.0
ASKED_EVERY_S = 20.0
LATE_S = 60.0  # the soonest that a value which may be spent is sent again
HOUR_S = 3600.0


@dataclass
class Met:
    """A grant that has met an answer, and an app that goes on asking."""

    world: World
    profile: Profile
    sent: str = field(repr=False)  # the refresh token before
    tries: list[float] = field(default_factory=list)  # when a refresh left, in the world's time

    async def grant(self) -> Grant:
        return await self.world.watch.grant()

    async def ask(self, scope: str = "", *, timeout_s: float = 10.0, **query: Any) -> TokenGranted | TokenRefused:
        return await self.world.watch.token(scope=scope, timeout_s=timeout_s, **query)

    async def next_try_s(self, within_s: float) -> float | None:
        """Go on asking until one more refresh leaves; return how long after the last one, None if there is none."""
        before = len(self.tries)
        ends_at = self.world.time_s + within_s
        while len(self.tries) == before and self.world.time_s < ends_at:
            await self.world.clock.advance(ASKED_EVERY_S)
            await self.ask(timeout_s=0.2)
        return None if len(self.tries) == before else self.tries[before] - self.tries[before - 1]

    async def granted_within(self, seconds: float) -> TokenGranted | TokenRefused:
        """Go on asking until there is a token; return the last answer."""
        ends_at = self.world.time_s + seconds
        while not isinstance(told := await self.ask(), TokenGranted) and self.world.time_s < ends_at:
            await self.world.clock.advance(60.0)
        return told

    async def shown(self) -> str:
        """Return what ``status`` says of the grant."""
        watch, grant = self.world.watch, await self.grant()
        problem = watch.agent.keeper.pause_reason(grant.grant_id)
        row = grant_row(grant, await watch.rows(CachedToken), problem, watch.clock.now())
        return f"{row['problem']}; {row['said']}"

    def heal(self) -> None:
        """Let the provider answer again."""
        self.world.provider.faults.clear()


@asynccontextmanager
async def grant_without_token(profile: str) -> AsyncIterator[Met]:
    """A companion whose access token has just ended, at a provider of that profile."""
    async with running(KINDS[profile]) as world:
        order(world, "policy", access_token_lifetime_s=TOKEN_LIFE_S)
        await world.phone.hand_off()
        await world.clock.advance(10)
        grant = await world.watch.grant()
        assert grant.state == "held" and grant.refresh_token is not None
        await world.watch.edit(grant, profile=profile, behaviour="")
        await world.clock.advance(TOKEN_LIFE_S + 1)
        grant = await world.watch.grant()
        assert grant.state == "held" and grant.refresh_token is not None
        met = Met(world, PROFILES[profile], grant.refresh_token.reveal())

        def watch(request: HttpRequest) -> str:
            if form_value(request, "grant_type") == "refresh_token":
                met.tries.append(world.time_s)
            return ""

        world.watch.http.fault = watch
        yield met


def arm(world: World, animal: Animal, **more: Any) -> None:
    """Arm the provider over its control interface, as ``sandbox ctl fault answer`` does."""
    order(world, "animals", animal=json.loads(animal.model_dump_json(exclude_unset=True)), **more)


def those(what: str) -> list[tuple[str, str]]:
    """Return the animals of one kind of request, each with each of its profiles."""
    return [(name, profile) for name, one in ANIMALS.items() if one.asked.what == what for profile in one.profiles]
