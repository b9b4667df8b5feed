"""The companion as a running program: its agent on the runtime, its commands on the control socket."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from token_relay.agents.companion.agent import CompanionAgent
from token_relay.agents.companion.invitations import InvitationEndedError
from token_relay.agents.companion.phones import named
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Grant, Pairing, PrimaryPhone
from token_relay.agents.token_source import NamedPhone
from token_relay.host.client_credentials import AuthenticatedHttp, read_credentials
from token_relay.host.config import CompanionConfig, Home
from token_relay.host.config_file import load_config
from token_relay.protocol import pairing as wire
from token_relay.service import metrics
from token_relay.service.commands import AgentCommands, confirm
from token_relay.service.control import JSON, Exchange
from token_relay.service.copied_vault import until_at_home
from token_relay.service.questions import erase_question
from token_relay.service.runtime import number_of, open_runtime, text_of
from token_relay.service.status import companion_status

if TYPE_CHECKING:
    from token_relay.service.checks.finding import Finding

FRESH_MAX = 10
TICK_S_MIN = 1.0
COMMANDS_THAT_GO_ON: tuple[str, ...] = ("forget", "forget_phone", "primary")


async def run_companion(home: Home, config: CompanionConfig) -> None:
    """Run the companion's agent until it is cancelled."""
    async with (
        open_runtime("companion", home, config, provider_ca=config.provider.ca) as runtime,
        asyncio.TaskGroup() as tasks,
    ):
        await until_at_home(runtime, tasks)
        authenticated = AuthenticatedHttp(
            runtime.http, partial(read_credentials, config), clock=runtime.clock, random=runtime.random
        )
        http = metrics.MeasuredHttp(authenticated)
        agent = CompanionAgent(
            runtime.ports(http, tasks),
            runtime.identity,
            name=config.name,
            broker_url=config.broker.url,
            idle_days=config.provider.idle_days,
            provider_hosts=config.provider.hosts,
        )

        def reload() -> None:
            authenticated.reload()
            if home.config_file is not None:
                agent.endpoints.hosts = load_config(CompanionConfig, home.config_file).provider.hosts

        commands = _CompanionCommands(runtime, agent, http)
        await runtime.serve(
            agent,
            tasks,
            handlers={
                **commands.shared,
                "status": commands.status,
                "pair": commands.pair,
                "rename": commands.rename,
                "forget": commands.forget,
                "forget_phone": commands.forget_phone,
                "primary": commands.primary,
            },
            goes_on=COMMANDS_THAT_GO_ON,
            reload=reload,
        )


class _CompanionCommands(AgentCommands[CompanionAgent]):
    """The companion's control commands."""

    async def status(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Return the companion's status."""
        return await self._stand(companion_status, {"primary": PrimaryPhone})

    async def _look_at_provider(self) -> list[Finding]:
        from token_relay.service.checks.provider import issuers  # only for ``doctor``

        named = await self._runtime.vault.run(lambda tx: {grant.issuer for grant in tx.select(Grant)})
        return await issuers(self._http, named - {""}, self._agent.endpoints.hosts)

    async def pair(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Show an invitation; with ``wait``, until the phone has confirmed or it has ended.

        ``fresh``: how many new ones may follow one that has ended. ``tick_s``: how often to say how long it is valid.
        """
        fresh = int(number_of(args, "fresh", 0, low=0, high=FRESH_MAX))
        tick_s = number_of(args, "tick_s", wire.INVITATION_LIFETIME_S, low=TICK_S_MIN, high=wire.INVITATION_LIFETIME_S)
        await self._await_broker()
        invitations = self._agent.invitations
        while True:
            text = await invitations.show()
            shown: dict[str, JSON] = {"state": "shown", "invitation": text, "expires_in_s": invitations.left_s()}
            if args.get("wait") is False:
                return {**shown, "pending": True}
            await exchange.progress(shown)
            try:
                return await self._follow(text, exchange, tick_s)
            except InvitationEndedError as exc:
                if not fresh or exc.is_others_doing:
                    raise
                fresh -= 1
                await exchange.progress({"state": "ended", "reason": exc.reason, "message": str(exc)})

    async def _follow(self, text: str, exchange: Exchange, tick_s: float) -> dict[str, JSON]:
        """Tell each step of one invitation; returns the last one. Raises InvitationEndedError."""
        invitations = self._agent.invitations
        is_answered = False
        while True:
            paired = await invitations.wait(text, seconds=tick_s)
            if paired is None:
                if not is_answered:
                    await exchange.progress({"state": "open", "expires_in_s": invitations.left_s()})
                continue
            is_answered = True
            step: dict[str, JSON] = {"check_number": paired.check_number, "device_name": paired.device_name}
            if paired.is_active:
                message = f"paired with {paired.device_name}"
                return {"state": "paired", **step, "device_id": paired.device_id, "message": message}
            await exchange.progress({"state": "answered", **step})

    async def rename(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Call this device otherwise."""
        name = text_of(args, "name")
        before = await self._agent.rename(name)
        message = f"this device calls itself {name} from now on; each phone is told when it connects"
        return {"name": name, "name_before": before, "message": message}

    async def forget(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Erase the grants here, and with ``pairing`` also the pairings."""
        with_pairings = args.get("pairing") is True

        def read(tx: Transaction) -> tuple[list[Grant], list[Pairing]]:
            return [grant for grant in tx.select(Grant) if grant.state != "dead"], tx.select(Pairing)

        await confirm(args, exchange, erase_question(*await self._agent.turns.read(read), with_pairings=with_pairings))
        return _forgotten(await self._agent.forget(pairing=with_pairings))

    async def forget_phone(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Erase what came of one phone, and its pairings."""
        word = text_of(args, "phone")

        def read(tx: Transaction) -> tuple[NamedPhone, list[Grant], list[Pairing]]:
            phone = named(tx, word)
            pairings = tx.select(Pairing, peer_id=phone.device_id)
            grants = [grant for row in pairings for grant in tx.select(Grant, pairing_id=row.pairing_id)]
            return phone, [grant for grant in grants if grant.state != "dead"], pairings

        phone, grants, pairings = await self._agent.turns.read(read)
        await confirm(args, exchange, erase_question(grants, pairings, with_pairings=True))
        return _forgotten(await self._agent.forget_phone(phone.device_id))

    async def primary(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Make a phone primary."""
        phone = await self._agent.choose_primary(text_of(args, "phone"))
        message = f"{phone.name} is the primary phone"
        return {"device_id": phone.device_id, "device_name": phone.name, "message": message}


def _forgotten(counts: dict[str, int]) -> dict[str, JSON]:
    return {**counts, "message": f"erased {counts['grants']} grants and {counts['pairings']} pairings"}
