"""An agent as it runs on a device, with a clock beside each commit.

``python -m benchmarks.worker phone|companion HOME [--provider]``. Everything is the real thing (runtime, agent, vault,
channel, control socket), except: the vault is wrapped so that each transaction leaves a name and two moments; without
``--provider`` the one behind HTTP is a few lines here that answer at once, and the companion's first refresh waits
until it is asked for, because on two devices it would not compete with the phone for one disk.

Commands on the control socket: ``sign_in`` (the phone gets a new grant of its own), ``handoff``, ``settle`` (the
companion has heard CLOSED, and refreshes once), ``refresh``, ``trace`` (what the commits were).
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.homes import grant
from token_relay.agents.companion.agent import CompanionAgent
from token_relay.agents.phone.agent import HandoffWish, PhoneAgent
from token_relay.agents.phone.sign_in import AccountSettings, ProviderSignIn
from token_relay.agents.ports import Record, Transaction, Vault
from token_relay.agents.records import CachedToken, CompanionHandoff, Grant, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.host.config import CompanionConfig, Home, PhoneConfig
from token_relay.host.config_file import load_config
from token_relay.host.logs import configure
from token_relay.host.loopback_receiver import LoopbackReceiver
from token_relay.provider.http import HttpRequest, HttpResponse, Lost, NotSent
from token_relay.service.control import JSON, Exchange, Handler
from token_relay.service.runtime import Runtime, number_of, open_runtime, text_of

T = TypeVar("T")

WAIT_S = 20.0


@dataclass(slots=True)
class Commit:
    """One transaction: the states it wrote, when the caller handed it over, and when it was durable (seconds)."""

    began: float
    ended: float = 0.0
    names: list[str] = field(default_factory=list)


class NamingTransaction:
    """A transaction that remembers which states were written."""

    def __init__(self, tx: Transaction, names: list[str]) -> None:
        self._tx = tx
        self._names = names

    def put(self, record: Record) -> None:
        """As the vault; a handoff or a grant leaves the name of its state."""
        match record:
            case PhoneHandoff(state=state) | CompanionHandoff(state=state):
                self._names.append(state)
            case Grant(state=state):
                self._names.append(f"grant {state}")
            case _:
                pass
        self._tx.put(record)

    def __getattr__(self, name: str) -> Any:
        """Everything else as the vault."""
        return getattr(self._tx, name)


class TimedVault:
    """A vault that leaves a :class:`Commit` for each transaction."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.commits: list[Commit] = []
        self.changed = asyncio.Event()

    async def run(self, step: Callable[[Transaction], T]) -> T:
        """As the vault."""
        commit = Commit(time.monotonic())
        result = await self._vault.run(lambda tx: step(NamingTransaction(tx, commit.names)))
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
    """An identity provider that answers at once with new tokens; for what is to be measured without one."""

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | Lost:
        """Answer any request with a refresh."""
        body = {
            "access_token": secrets.token_urlsafe(900),
            "refresh_token": secrets.token_urlsafe(900),
            "token_type": "Bearer",
            "expires_in": 86_400,
        }
        return HttpResponse(200, {"content-type": "application/json"}, json.dumps(body).encode())


async def run_phone(home: Home, config: PhoneConfig) -> None:
    """Run the phone until it is stopped."""
    async with open_runtime("phone", home, config) as runtime, asyncio.TaskGroup() as tasks:
        vault = TimedVault(runtime.vault)
        http = InstantProvider()
        settings = AccountSettings(
            url=config.provider.url,
            client_id=config.provider.client_id,
            tenant=None,
            scope=config.provider.scope,
            profile=config.provider.resolved_profile,
            allow_refresh_token_access=True,
        )
        sign_in_port = ProviderSignIn(
            http=http, clock=runtime.clock, random=runtime.random, settings=settings, new_receiver=LoopbackReceiver
        )
        agent = PhoneAgent(
            vault=vault,
            http=http,
            sign_in=sign_in_port,
            clock=runtime.clock,
            random=runtime.random,
            identity=runtime.identity,
            name=config.name,
            settings=settings,
            strategy=None,
            lease_days=90,
            tasks=tasks,
        )

        async def sign_in(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            def step(turn: Turn) -> None:
                for old in turn.tx.select(Grant):
                    turn.tx.delete(Grant, old.grant_id)
                for over in turn.tx.select(PhoneHandoff):
                    turn.tx.delete(PhoneHandoff, over.handoff_id)
                turn.tx.put(grant(turn.now))

            await agent.link.turn(step)
            return {}

        async def handoff(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            vault.commits.clear()
            wish = HandoffWish(strategy="move", wait_s=WAIT_S)
            row = await agent.hand_off(text_of(args, "device"), wish, exchange)
            return {"state": row.state, "commits": vault.trace()}

        await _serve(runtime, agent, tasks, {"sign_in": sign_in, "handoff": handoff})


async def run_companion(home: Home, config: CompanionConfig, *, has_provider: bool) -> None:
    """Run the companion until it is stopped."""
    async with open_runtime("companion", home, config) as runtime, asyncio.TaskGroup() as tasks:
        vault = TimedVault(runtime.vault)
        agent = CompanionAgent(
            vault=vault,
            http=runtime.http if has_provider else InstantProvider(),
            clock=runtime.clock,
            random=runtime.random,
            identity=runtime.identity,
            name=config.name,
            broker_url=config.broker.url,
            tasks=tasks,
        )
        keeper = agent.keeper
        wake = keeper.wake
        if not has_provider:
            keeper.wake = lambda: None  # type: ignore[method-assign]  # the first refresh waits for `settle`

        async def settle(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            await vault.until(_is_closed)
            wake()
            await vault.until(_is_refreshed)
            trace = vault.trace()
            await agent.link.turn(forget_all)
            return {"commits": trace}

        def forget_all(turn: Turn) -> None:
            """Every handoff is a device's first: rows of older ones would be read along with it."""
            for old in turn.tx.select(Grant):
                for token in turn.tx.select(CachedToken, grant_id=old.grant_id):
                    turn.tx.delete(CachedToken, token.grant_id, token.scope)
                turn.tx.delete(Grant, old.grant_id)
            for over in turn.tx.select(CompanionHandoff):
                turn.tx.delete(CompanionHandoff, over.handoff_id)

        async def refresh(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
            (held,) = await vault.run(lambda tx: tx.select(Grant, state="held"))
            taken: list[JSON] = []
            for _ in range(int(number_of(args, "count", 1, low=1, high=10_000))):
                began = time.monotonic()
                await keeper.refresh(held.grant_id)
                taken.append(time.monotonic() - began)
            after = await vault.run(lambda tx: tx.get(Grant, held.grant_id))
            assert after is not None
            return {"taken_s": taken, "generations": after.generation - held.generation}

        await _serve(runtime, agent, tasks, {"settle": settle, "refresh": refresh})


def _is_closed(commits: list[Commit]) -> bool:
    """The handoff's row was written after the grant was stored: that was CLOSED."""
    stored = [number for number, commit in enumerate(commits) if "stored" in commit.names]
    return len(stored) >= 2


def _is_refreshed(commits: list[Commit]) -> bool:
    names = [name for commit in commits for name in commit.names]
    return "grant refreshing" in names and "grant held" in names[names.index("grant refreshing") :]


async def _serve(
    runtime: Runtime, agent: PhoneAgent | CompanionAgent, tasks: asyncio.TaskGroup, handlers: dict[str, Handler]
) -> None:
    async def connected(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        async with asyncio.timeout(WAIT_S):
            while runtime.channel is None or not runtime.channel.is_connected:
                await asyncio.sleep(0.02)
        return {}

    await runtime.serve(agent, tasks, handlers={**handlers, "connected": connected}, goes_on=())


def main(arguments: list[str]) -> None:
    """Run until SIGTERM."""
    from token_relay.cli.commands.serve import until_stopped

    kind, directory, *options = arguments
    path = Path(directory)
    home = Home(path, path, os.environ)
    configure(sys.stderr, environment=os.environ, level="warning")
    work: Any
    if kind == "phone":
        work = run_phone(home, load_config(PhoneConfig, path / "config.toml"))
    else:
        config = load_config(CompanionConfig, path / "config.toml")
        work = run_companion(home, config, has_provider="--provider" in options)
    asyncio.run(until_stopped(work))


if __name__ == "__main__":
    main(sys.argv[1:])
