"""The control commands that both agents have; each adds its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from token_relay.agents.agent import Agent
from token_relay.agents.grants import refuted
from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import CachedToken, Grant, Outgoing, Pairing
from token_relay.agents.renaming import own_name
from token_relay.protocol.errors import PersonNeededError, TransientError
from token_relay.service import metrics, round_trip
from token_relay.service.certificate_watch import certificate_end
from token_relay.service.control import JSON, Exchange, Handler
from token_relay.service.copied_vault import nothing_to_adopt
from token_relay.service.journals import Journals
from token_relay.service.runtime import Runtime

if TYPE_CHECKING:
    from token_relay.service.checks.finding import Finding

A = TypeVar("A", bound=Agent)
FIRST_CONNECTION_S = 10.0  # then a person wants to hear that there is none
CONNECTION_LOOK_S = 0.1  # too short for a person to notice
SHOWN: dict[str, type[Record]] = {"pairings": Pairing, "outbox": Outgoing, "grants": Grant, "tokens": CachedToken}


class AgentCommands(Generic[A]):
    """The commands that both agents have."""

    def __init__(self, runtime: Runtime, agent: A, http: metrics.MeasuredHttp) -> None:
        self._runtime = runtime
        self._agent = agent
        self._http = http

    @property
    def shared(self) -> dict[str, Handler]:
        """Return the handlers by name."""
        turns = self._agent.turns
        journals = Journals(self._runtime, turns.traffic, turns.events_written)
        return {
            "events": journals.events,
            "messages": journals.messages,
            "doctor": self.doctor,
            "metrics": self.metrics,
            "adopt": nothing_to_adopt,
        }

    async def status(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Return the agent's status."""
        raise NotImplementedError

    async def device_rows(self) -> list[dict[str, Any]]:
        """Return the rows of the agent's devices; only a phone has any."""
        return []

    async def metrics(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Return the numbers as Prometheus reads them."""
        runtime, agent = self._runtime, self._agent
        action = (await self.status({}, exchange))["action"]
        seen = metrics.ProcessFigures(
            runtime.clock.now(),
            runtime.channel.is_connected,
            agent.keeper.flights.outcomes,
            agent.turns.rejects,
            self._http.latency,
            devices=await self.device_rows(),
            action=str(action["slug"]) if isinstance(action, dict) else "",
            certificate_ends_at=certificate_end(runtime.config.broker.cert),
        )
        return {"text": metrics.text(await runtime.vault.run(metrics.read), seen)}

    async def doctor(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Return the checks that only the running agent can make."""
        from token_relay.service.checks.provider import bounded  # with the X.509 library, which an agent seldom needs

        checks = await round_trip.doctor(self._runtime.channel)
        found: list[JSON] = [{**one.as_json()} for one in await bounded(self._look_at_provider())]
        return {"checks": checks + found}

    async def _look_at_provider(self) -> list[Finding]:
        raise NotImplementedError

    async def _await_broker(self) -> None:
        """Wait for the first connection of an agent that has just started.

        Raises:
            TransientError: the broker cannot be reached, and why.
        """
        channel, clock = self._runtime.channel, self._runtime.clock
        ends_at = clock.now().boot_s + FIRST_CONNECTION_S
        while not (channel.is_connected or channel.last_error) and clock.now().boot_s < ends_at:
            await clock.sleep(CONNECTION_LOOK_S)
        self._require_broker()

    def _require_broker(self) -> None:
        channel, kind = self._runtime.channel, self._runtime.kind
        if not channel.is_connected:
            why = channel.last_error or "it does not answer"
            raise TransientError(f"the broker is not connected: {why}", hint=f"token-relay {kind} doctor")

    async def _stand(
        self, show: Callable[..., dict[str, JSON]], more: Mapping[str, type[Record]], **known: Any
    ) -> dict[str, JSON]:
        """Read the rows that a status is made of, in one transaction, and have ``show`` make it."""

        def read(tx: Transaction) -> tuple[dict[str, Any], list[dict[str, str | int]], str]:
            rows = {name: tx.select(kind) for name, kind in (*SHOWN.items(), *more.items())}
            return rows, refuted.listed(tx), own_name(tx, self._runtime.config.name)

        rows, refuted_rows, called = await self._runtime.vault.run(read)
        problems = {grant.grant_id: self._agent.keeper.pause_reason(grant.grant_id) for grant in rows["grants"]}
        shown = show(
            self._runtime.surroundings(self._agent.turns.rejects, called),
            self._runtime.clock.now(),
            problems=problems,
            estranged=self._agent.link.estranged(),
            **known,
            **rows,
        )
        return {**shown, "refuted": [dict(row) for row in refuted_rows]}


async def confirm(args: dict[str, JSON], exchange: Exchange, question: str) -> None:
    """Have the person agree; ``yes`` among the arguments is their answer beforehand. Raises PersonNeededError: they did
    not."""
    if args.get("yes") is not True and await exchange.ask("confirm", question) != "yes":
        raise PersonNeededError("not confirmed; nothing was changed", hint="--yes goes on without the question")
