"""An agent as it runs on a device, with a clock beside each commit.

``python -m benchmarks.worker phone|companion HOME [--provider]`` is ``token-relay … run`` with our own runtime
(:class:`MeasuredRuntime`). Everything is the real thing (agent, vault, channel, sockets), except: each transaction
leaves a name and two moments; without ``--provider`` a few lines here stand in for the provider and answer at once, and
the companion's first refresh waits until it is asked for, because on two devices it would not compete with the phone
for one disk. The log holds warnings only.

Commands on the control socket, beside the agent's own or in their place: ``sign_in`` (the phone gets a new grant of
its own), ``handoff``, ``settle`` (the companion has heard CLOSED, and refreshes once), ``refresh``, ``connected``
(waits for it). The commits come with the answers.
"""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from benchmarks.homes import grant
from token_relay.agents.agent import Agent
from token_relay.agents.companion.agent import CompanionAgent
from token_relay.agents.phone.agent import HandoffWish, PhoneAgent
from token_relay.agents.ports import Record, Transaction, Vault
from token_relay.agents.records import CachedToken, CompanionHandoff, Grant, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.cli import main as cli
from token_relay.cli.commands import serve
from token_relay.provider.http import HttpRequest, HttpResponse
from token_relay.service import runtime as service
from token_relay.service.control import JSON, Exchange, Handler

T = TypeVar("T")

WAIT_S = 20.0


@dataclass(slots=True)
class Commit:
    """One transaction: the states it wrote, when the caller handed it over, and when it was durable (seconds)."""

    began: float
    ended: float = 0.0
    names: list[str] = field(default_factory=list)


class TimedVault:
    """A vault that leaves a :class:`Commit` for each transaction; a handoff or a grant leaves the name of its state."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.commits: list[Commit] = []
        self.changed = asyncio.Event()

    async def run(self, step: Callable[[Transaction], T]) -> T:
        """As the vault."""
        commit = Commit(time.monotonic())

        def named_step(tx: Transaction) -> T:
            put = tx.put

            def put_and_name(record: Record) -> None:
                match record:
                    case PhoneHandoff(state=state) | CompanionHandoff(state=state):
                        commit.names.append(state)
                    case Grant(state=state):
                        commit.names.append(f"grant {state}")
                    case _:
                        pass
                put(record)

            tx.put = put_and_name  # type: ignore[method-assign]  # of this one transaction
            return step(tx)

        result = await self._vault.run(named_step)
        commit.ended = time.monotonic()
        self.commits.append(commit)
        self.changed.set()
        return result

    async def until(self, is_there: Callable[[list[Commit]], bool]) -> None:
        """Wait for commits."""
        async with asyncio.timeout(WAIT_S):
            while not is_there(self.commits):
                self.changed.clear()
                await self.changed.wait()

    def trace(self) -> list[JSON]:
        """Return the commits that wrote states, and forget them."""
        shown: list[JSON] = [[list[JSON](c.names), c.began, c.ended] for c in self.commits if c.names]
        self.commits.clear()
        return shown


class InstantProvider:
    """An identity provider that answers at once with new tokens; for measurements without a real one."""

    async def request(self, request: HttpRequest) -> HttpResponse:
        """Answer any request with a refresh."""
        body = {
            "access_token": secrets.token_urlsafe(900),
            "refresh_token": secrets.token_urlsafe(900),
            "token_type": "Bearer",
            "expires_in": 86_400,
        }
        return HttpResponse(200, {"content-type": "application/json"}, json.dumps(body).encode())


class MeasuredRuntime(service.Runtime):
    """A runtime with our vault and provider; its control socket also takes the benchmarks' commands."""

    has_provider = False  # a real one behind HTTP, in place of ours

    def __init__(self, *resources: Any) -> None:
        super().__init__(*resources)
        self.vault: Any = TimedVault(self.vault)
        if not self.has_provider:
            self.http: Any = InstantProvider()

    async def serve(
        self, agent: Agent, tasks: asyncio.TaskGroup, *, handlers: Mapping[str, Handler], goes_on: tuple[str, ...]
    ) -> None:
        """As the runtime."""
        if isinstance(agent, PhoneAgent):
            more = _phone_handlers(agent, self.vault)
        else:
            assert isinstance(agent, CompanionAgent)
            more = _companion_handlers(agent, self.vault, is_held_back=not self.has_provider)
        more["connected"] = self.connected
        await super().serve(agent, tasks, handlers={**handlers, **more}, goes_on=goes_on)

    async def connected(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Wait until the broker is reached."""
        async with asyncio.timeout(WAIT_S):
            while self.channel is None or not self.channel.is_connected:
                await asyncio.sleep(0.02)
        return {}


def _phone_handlers(agent: PhoneAgent, vault: TimedVault) -> dict[str, Handler]:
    async def sign_in(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        def step(turn: Turn) -> None:
            _forget(turn, Grant, PhoneHandoff)
            turn.tx.put(grant(turn.now))

        await agent.turns.run(step)
        return {}

    async def handoff(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        vault.commits.clear()
        wish = HandoffWish(strategy="move", wait_s=WAIT_S)
        row = await agent.hand_off(service.text_of(args, "device"), wish, exchange)
        return {"state": row.state, "commits": vault.trace()}

    return {"sign_in": sign_in, "handoff": handoff}


def _companion_handlers(agent: CompanionAgent, vault: TimedVault, *, is_held_back: bool) -> dict[str, Handler]:
    keeper = agent.keeper
    wake = keeper.wake
    if is_held_back:
        keeper.wake = lambda: None  # type: ignore[method-assign]  # the first refresh waits for `settle`

    async def settle(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        await vault.until(_is_closed)
        wake()
        await vault.until(_is_refreshed)
        trace = vault.trace()
        await agent.turns.run(lambda turn: _forget(turn, CachedToken, Grant, CompanionHandoff))
        return {"commits": trace}

    async def refresh(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        (held,) = await vault.run(lambda tx: tx.select(Grant, state="held"))
        taken: list[JSON] = []
        for _ in range(int(service.number_of(args, "count", 1, low=1, high=10_000))):
            began = time.monotonic()
            await keeper.refresh(held.grant_id)
            taken.append(time.monotonic() - began)
        after = await vault.run(lambda tx: tx.get(Grant, held.grant_id))
        assert after is not None
        return {"taken_s": taken, "generations": after.generation - held.generation}

    return {"settle": settle, "refresh": refresh}


def _forget(turn: Turn, *kinds: type[Record]) -> None:
    """Delete all such rows. Every handoff is a device's first: rows of older ones would be read along with it."""
    for kind in kinds:
        for row in turn.tx.select(kind):
            turn.tx.delete(kind, *(getattr(row, name) for name in kind.key))


def _is_closed(commits: list[Commit]) -> bool:
    """The handoff's row was written after the grant was stored: that was CLOSED."""
    return sum("stored" in commit.names for commit in commits) >= 2


def _is_refreshed(commits: list[Commit]) -> bool:
    names = [name for commit in commits for name in commit.names]
    return "grant refreshing" in names and "grant held" in names[names.index("grant refreshing") :]


if __name__ == "__main__":
    kind, home, *options = sys.argv[1:]
    MeasuredRuntime.has_provider = "--provider" in options
    service.Runtime = MeasuredRuntime  # type: ignore[assignment,misc]  # which `open_runtime` makes
    serve.configure = functools.partial(serve.configure, level="warning")  # type: ignore[attr-defined]  # in its place
    sys.exit(cli.main([kind, "run", "--home", home]))
