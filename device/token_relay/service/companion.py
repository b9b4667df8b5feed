"""The companion as a running program: its agent on the runtime, its commands on the control socket."""

from __future__ import annotations

import asyncio
from typing import Any

from token_relay.agents.companion.agent import CompanionAgent
from token_relay.agents.ports import Transaction
from token_relay.agents.records import CachedToken, Grant, Outgoing, Pairing
from token_relay.host.config import CompanionConfig, Home
from token_relay.protocol.errors import TransientError
from token_relay.service import metrics
from token_relay.service import round_trip as measuring
from token_relay.service.control import JSON, Exchange
from token_relay.service.copied_vault import nothing_to_adopt, until_at_home
from token_relay.service.runtime import Runtime, open_runtime
from token_relay.service.status import companion_status

COMMANDS_THAT_GO_ON: tuple[str, ...] = ("forget",)


async def run_companion(home: Home, config: CompanionConfig) -> None:
    """Run the companion's agent until it is cancelled."""
    async with open_runtime("companion", home, config) as runtime, asyncio.TaskGroup() as tasks:
        await until_at_home(runtime, tasks)
        http = metrics.MeasuredHttp(runtime.http)
        agent = CompanionAgent(
            vault=runtime.vault,
            http=http,
            clock=runtime.clock,
            random=runtime.random,
            identity=runtime.identity,
            name=config.name,
            broker_url=config.broker.url,
            tasks=tasks,
        )
        commands = _Commands(runtime, agent, http)
        await runtime.serve(
            agent,
            tasks,
            handlers={
                "status": commands.status,
                "events": runtime.events,
                "pair": commands.pair,
                "forget": commands.forget,
                "doctor": commands.doctor,
                "metrics": commands.metrics,
                "adopt": nothing_to_adopt,
            },
            goes_on=COMMANDS_THAT_GO_ON,
            on_network=agent.keeper.network_is_up,
        )


class _Commands:
    """What the command line may ask of the companion."""

    def __init__(self, runtime: Runtime, agent: CompanionAgent, http: metrics.MeasuredHttp) -> None:
        self._runtime = runtime
        self._agent = agent
        self._http = http

    async def status(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Where the companion stands."""

        def read(tx: Transaction) -> dict[str, Any]:
            return {
                "pairings": tx.select(Pairing),
                "outbox": tx.select(Outgoing),
                "grants": tx.select(Grant),
                "tokens": tx.select(CachedToken),
            }

        rows = await self._runtime.vault.run(read)
        problems = {grant.grant_id: self._agent.keeper.pause_reason(grant.grant_id) for grant in rows["grants"]}
        return companion_status(
            self._runtime.surroundings(self._agent.link.rejects),
            self._runtime.clock.now(),
            problems=problems,
            estranged=self._agent.link.estranged(),
            **rows,
        )

    async def pair(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Show an invitation; with ``wait``, until the phone has confirmed or it has ended."""
        if self._runtime.channel is None or not self._runtime.channel.is_connected:
            error = self._runtime.channel.last_error if self._runtime.channel else ""
            raise TransientError(f"the broker is not connected: {error or 'connecting'}", hint="try again in a moment")
        invitations = self._agent.invitations
        text = await invitations.show()
        shown: dict[str, JSON] = {"invitation": text, "expires_in_s": invitations.left_s()}
        if args.get("wait") is False:
            return {**shown, "pending": True}
        await exchange.progress(shown)
        while True:
            paired = await invitations.wait()
            step: dict[str, JSON] = {"check_number": paired.check_number, "device_name": paired.device_name}
            if paired.is_active:
                await invitations.close()
                return {**step, "device_id": paired.device_id, "message": f"paired with {paired.device_name}"}
            await exchange.progress(step)

    async def metrics(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """The numbers, as Prometheus reads them."""
        runtime, agent = self._runtime, self._agent
        seen = metrics.Seen(
            runtime.clock.now(),
            runtime.channel is not None and runtime.channel.is_connected,
            agent.keeper.flights.outcomes,
            agent.link.rejects,
            self._http.latency,
        )
        return {"text": metrics.text(await runtime.vault.run(metrics.read), seen)}

    async def doctor(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """What only the running agent can measure."""
        return await measuring.doctor(self._runtime.channel)

    async def forget(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Erase the grants here, and with ``pairing`` the pairings."""
        counts = await self._agent.forget(pairing=args.get("pairing") is True)
        return {**counts, "message": f"erased {counts['grants']} grants and {counts['pairings']} pairings"}
