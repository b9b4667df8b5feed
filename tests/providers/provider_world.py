"""A world whose identity provider somebody else wrote: real mosquitto, real agents, and gateways between.

The agents are those of :mod:`tests.e2e.kit`; what differs is who signs a person in, who says whether an access token is
good (the provider's own userinfo), and which tokens may stand nowhere (all that passed the gateways).
"""

from __future__ import annotations

import asyncio
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.kit import Agent, Companion, Phone, World, eventually, pair
from tests.e2e.processes import Program, Ran
from tests.providers.browsers import FormBrowser
from tests.providers.gateway import Gateway
from tests.providers.identity_providers import CLIENT_ID, PASSWORD, Provider, Token
from tests.watchdog import HANG_S

CLOCKS_AHEAD = """
import sys, time
from pathlib import Path

ahead, clock_gettime, wall = Path({path!r}), time.clock_gettime, time.time
time.clock_gettime = lambda clock: clock_gettime(clock) + float(ahead.read_text())
time.time = lambda: wall() + float(ahead.read_text())
from token_relay.cli.main import main

sys.exit(main(sys.argv[1:]))
"""


@dataclass
class ProviderWorld(World):
    """One story at one provider, told by one of its users."""

    provider: Provider = field(kw_only=True)
    user: str = field(kw_only=True)
    init_options: tuple[str, ...] = field(default=(), kw_only=True)
    """What this provider needs of ``phone init`` beside its URL and the client id."""
    gateways: dict[str, Gateway] = field(init=False, default_factory=dict)

    async def __aenter__(self) -> Self:
        self.broker = "mosquitto"
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for agent in self.agents:
            if agent.program is not None and agent.program.is_running:
                await agent.stop()
        for gateway in self.gateways.values():
            await gateway.__aexit__(None, None, None)
        await super().__aexit__(kind, error, trace)

    async def _start_sandbox(self) -> None:
        """There is none."""

    async def gateway(self, name: str) -> Gateway:
        """Return the gateway of one agent."""
        gateway = self.gateways[name] = await Gateway(self.provider.address).__aenter__()
        return gateway

    async def phone(self, name: str = "phone", *options: str, **keywords: Any) -> Phone:
        gateway = await self.gateway(name)
        words = ["--provider", self.provider.issuer, "--client-id", CLIENT_ID, "--http-route", gateway.address]
        phone = ProviderPhone(self, "phone", name)
        await self._init(phone, *words, "--allow-refresh-token-access", *self.init_options, *options, is_running=True)
        return phone

    async def companion(self, name: str = "watch", *options: str, is_running: bool = True) -> Companion:
        gateway = await self.gateway(name)
        companion = ProviderCompanion(self, "companion", name)
        words = ("--http-route", gateway.address, "--provider-host", "127.0.0.1", *options)
        await self._init(companion, *words, is_running=is_running)
        return companion

    # -- what the provider says ------------------------------------------------------------------------

    async def live(self) -> list[Token]:
        """Return the refresh tokens of this story's user that the provider would still take."""
        return await asyncio.to_thread(self.provider.live, self.user)

    async def is_good(self, access_token: str) -> bool:
        """Whether the provider itself takes an access token, as an API that asks it would."""
        return await asyncio.to_thread(self._userinfo, access_token) == 200

    async def gets_in(self, agent: Agent) -> None:
        """Refresh until the provider takes the new access token.

        Once is enough, but for Canaille: of two within a second it makes the very same token, and refuses that when
        the first of them is over.
        """

        async def look() -> bool:
            return await self.is_good(await agent.token("--force-refresh"))

        await eventually("an access token that the provider takes", look)

    def _userinfo(self, access_token: str) -> int:
        url = self.provider.metadata["userinfo_endpoint"]
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {access_token}"})
        try:
            with urllib.request.urlopen(request, timeout=HANG_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code

    # -- what holds at every end -----------------------------------------------------------------------

    def leaks(self) -> list[str]:
        """Name every place where a refresh token that passed a gateway stands in clear, or the password."""
        secrets = {PASSWORD}.union(*(gateway.values for gateway in self.gateways.values())) - {""}
        return [
            f"{name}: a secret"
            for name, data in self.written()
            if name not in self.permitted and any(secret.encode() in data for secret in secrets)
        ]

    def check_uses(self) -> None:
        """Assert that no value was used twice whose answer was not lost, at a provider where that matters."""
        if not self.provider.rotates:
            return
        for name, gateway in self.gateways.items():
            assert not gateway.used_twice, f"{name} has sent a value twice: {gateway.uses}"


class ProviderPhone(Phone):
    """A phone whose person sits at a browser of their own, a private window each time unless told otherwise."""

    world: ProviderWorld

    def window(self) -> FormBrowser:
        """Open a private window."""
        return FormBrowser(self.world.user, PASSWORD)

    async def with_browser(self, *words: str, code: int = 0, window: FormBrowser | None = None) -> Ran:
        program = await self.begin(*words)
        url = (await program.find(r"^(?:open in a browser: )?(https?://\S+)$"))[1]
        await (window or self.window()).visit(url)
        return (await program.ended()).expect(code)

    async def sign_in(self, username: str = "") -> Ran:
        return await self.with_browser("sign-in", "--browser", "--no-open")

    async def hand_off(self, device: Any, *options: str, code: int = 0) -> Ran:
        words = ("handoff", device.name, "--wait", "60", *options)
        if "move" in options:
            return (await self(*words)).expect(code)
        return await self.with_browser(*words, "--browser", "--no-open", code=code)


class ProviderCompanion(Companion):
    """A companion for which hours can pass: its program reads clocks that are ahead, and is otherwise as it is."""

    async def begin(self, *words: str, stdin: str | None = None, is_permitted: bool = False) -> Program:
        if words != ("run",):
            return await super().begin(*words, stdin=stdin, is_permitted=is_permitted)
        if not self._ahead.exists():
            self._ahead.write_text("0")
        code = CLOCKS_AHEAD.format(path=str(self._ahead))
        command = (sys.executable, "-c", code)
        return await self.world.start(self.kind, *words, "--home", str(self.home), command=command)

    @property
    def _ahead(self) -> Path:
        return self.world.directory / f"{self.name}-ahead"

    def hours_pass(self, hours: float) -> None:
        """Let time pass, at this device alone."""
        draft = self._ahead.with_suffix(".new")
        draft.write_text(str(float(self._ahead.read_text()) + hours * 3600.0))
        draft.rename(self._ahead)


@asynccontextmanager
async def companion_with_a_grant(
    world: ProviderWorld, *options: str
) -> AsyncIterator[tuple[ProviderPhone, ProviderCompanion]]:
    """Yield a signed-in phone and a companion that holds a grant by ``mint`` and has refreshed once."""
    phone, watch = await asyncio.gather(world.phone("phone", *options), world.companion())
    assert isinstance(phone, ProviderPhone) and isinstance(watch, ProviderCompanion)
    await phone.sign_in()
    await pair(phone, watch)
    await phone.hand_off(watch)
    await watch.until_generation(2)
    yield phone, watch


def page_of(path: Path, heading: str) -> str:
    """Return the first shell block below a heading of a page."""
    text = path.read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"{path} has no heading {heading}"
    return rest.partition("```sh\n")[2].partition("```")[0]
