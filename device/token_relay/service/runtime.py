"""Opens and closes in order what both agents run on: vault, channel, sockets and the service manager.

A stop is clean: it takes no new work, lets a refresh in flight end (its answer may be the only copy of a rotated
token), then cancels everything and closes the vault last.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from token_relay.agents.agent import Agent
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.ports import Ports, Transaction
from token_relay.agents.records import Grant, Identity, Pairing
from token_relay.apps.policy import Policy, parse_policy
from token_relay.apps.server import TokenApi
from token_relay.host.clock import SystemClock, SystemRandom
from token_relay.host.config import AgentConfig, Home, Kind
from token_relay.host.config_file import load_config, read_own_text, read_secret_file
from token_relay.host.home import key_source, open_vault
from token_relay.host.http import AioHttp
from token_relay.host.paths import CONTROL_SOCKET, TOKEN_SOCKET, with_path
from token_relay.host.systemd import listen_fds, notify, watchdog_interval_s
from token_relay.mqtt.channel import MqttChannel
from token_relay.mqtt.connection import MqttSettings
from token_relay.protocol.errors import ConfigError, RelayError, VaultError
from token_relay.protocol.identity import device_id
from token_relay.protocol.topics import inbox_filter
from token_relay.provider.http import Http
from token_relay.service.broker_advice import Adviser
from token_relay.service.certificate_watch import CertificateWatch
from token_relay.service.control import JSON, ControlServer, Exchange, Handler
from token_relay.service.status import Surroundings
from token_relay.vault.store import SqliteVault

log = structlog.get_logger()

DRAIN_S = 1.5  # a clean stop takes at most two seconds
POLICY_BYTES_MAX = 65_536  # a rule has some 100 bytes


@dataclass(slots=True)
class Runtime:
    """The open resources of one agent."""

    kind: Kind
    home: Home
    config: AgentConfig
    vault: SqliteVault
    identity: Identity
    http: AioHttp
    clock: SystemClock
    random: SystemRandom
    channel: MqttChannel
    adviser: Adviser
    key_description: str

    def ports(self, http: Http, tasks: asyncio.TaskGroup) -> Ports:
        """Return what the agent reaches the world through; ``http`` may be measured."""
        return Ports(
            vault=self.vault, channel=self.channel, http=http, clock=self.clock, random=self.random, tasks=tasks
        )

    def surroundings(self, rejects: Mapping[str, int], name: str = "") -> Surroundings:
        """Return what ``status`` needs beside the records; ``name`` is what this device calls itself."""
        return Surroundings(
            kind=self.kind,
            name=name or self.config.name,
            device_id=device_id(self.identity.public_key),
            broker_url=self.config.broker.url,
            is_connected=self.channel.is_connected,
            broker_error=self.channel.last_error,
            vault_key=self.key_description,
            rejects=rejects,
            home=str(self.home.directory),
        )

    async def serve(
        self,
        agent: Agent,
        tasks: asyncio.TaskGroup,
        *,
        handlers: Mapping[str, Handler],
        goes_on: tuple[str, ...],
        reload: Callable[[], None] = lambda: None,
    ) -> None:
        """Run the agent until it is cancelled; ``reload`` takes its own part in a reload, and may raise ConfigError."""

        async def connected(_present: bool) -> None:
            self.adviser.connected()
            await agent.link.connected()
            agent.network_is_up()

        certificates = CertificateWatch(self.config.broker, self.channel.certificates_renewed)
        await agent.start()
        self.vault.when_damaged(lambda: agent.turns.spawn(agent.mend()))
        passed = listen_fds(self.home.environment, pid=os.getpid())
        config_file = self.home.config_file
        named = {name: _naming(handler, config_file) for name, handler in handlers.items()}
        control = ControlServer(named, owner_uid=os.geteuid(), kind=self.kind, goes_on=goes_on)
        keeper = agent.keeper
        token_api = TokenApi(
            keeper,
            self.policy(self.config),
            clock=self.clock,
            transfers=keeper,
            phones=keeper,
            config_file=config_file,
        )
        await control.start(passed.get(CONTROL_SOCKET, self.home.sockets / CONTROL_SOCKET))
        try:
            await token_api.start(passed.get(TOKEN_SOCKET, self.home.sockets / TOKEN_SOCKET))
            background = [
                tasks.create_task(work)
                for work in (
                    self.channel.run(agent.link.receive, connected),
                    *agent.works(),
                    self.feed_watchdog(),
                    certificates.run(self.clock.sleep),
                )
            ]
            address = self.home.environment.get("NOTIFY_SOCKET")
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGHUP, self._reload, token_api, certificates, agent.keeper, reload
            )
            notify(address, READY=1)
            log.info("agent_started", kind=self.kind, device_id=agent.turns.own_id)
            try:
                await asyncio.Event().wait()
            finally:
                notify(address, STOPPING=1)
                await token_api.stop()
                await agent.keeper.flights.drain(DRAIN_S)
                for task in background:
                    task.cancel()
        finally:
            await control.stop()

    def _reload(
        self, token_api: TokenApi, certificates: CertificateWatch, keeper: GrantKeeper, own: Callable[[], None]
    ) -> None:
        """At SIGHUP: read policy and certificates anew, and ask again where the provider refuses a client.

        A wrong policy or configuration is refused and the former stays in force.
        """
        address = self.home.environment.get("NOTIFY_SOCKET")
        notify(address, RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        try:
            path = self.home.config_file
            config = self.config if path is None else load_config(type(self.config), path)
            token_api.policy = self.policy(config)
            own()
        except ConfigError as exc:
            log.error("reload_refused", detail=str(exc), hint=exc.hint)
        else:
            log.info("policy_reloaded", rules=len(token_api.policy.rules), file=token_api.policy.file or "none")
            if changed := _not_reloaded(self.config, config):
                log.warning("restart_needed", changed=", ".join(changed), hint="restart the agent")
        certificates.check()
        keeper.reload()
        notify(address, READY=1)

    def policy(self, config: AgentConfig) -> Policy:
        """Read who may have tokens. Raises ConfigError: the file is unsafe or wrong."""
        path = config.token_api.policy_file
        if path is None:
            return Policy(os.geteuid())
        text = read_own_text(path, POLICY_BYTES_MAX, what="policy", forbidden=0o022)
        return parse_policy(text, file=str(path), owner_uid=os.geteuid())

    async def feed_watchdog(self, status: str = "") -> None:
        """Feed the service manager's watchdog while the loop runs and the vault answers; nothing else counts.

        ``status`` is what the manager shows in place of the counts.
        """
        interval_s = watchdog_interval_s(self.home.environment, pid=os.getpid())
        address = self.home.environment.get("NOTIFY_SOCKET")
        while interval_s is not None and address:
            try:
                paired, grants = await self.vault.run(_counts)
                connected = "connected" if self.channel.is_connected else "not connected"
                notify(address, WATCHDOG=1, STATUS=status or f"{paired} paired, {grants}, broker {connected}")
            except VaultError as exc:  # not fed: the service manager decides whether to kill the agent
                log.error("vault_refused", detail=str(exc))
            await self.clock.sleep(interval_s / 2)


def _not_reloaded(running: AgentConfig, read: AgentConfig) -> list[str]:
    """Return the tables and keys of the configuration that differ and that only a restart takes up."""
    taken = {"token_api": {"policy_file"}, "provider": {"hosts"}}
    before, after = (config.model_dump(exclude=taken) for config in (running, read))
    return sorted(name for name in before if before[name] != after[name])


def _naming(handler: Handler, config_file: Path | None) -> Handler:
    """Return the handler so that its refusals name the configuration with its path."""

    async def run(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        try:
            return await handler(args, exchange)
        except RelayError as exc:
            exc.hint = with_path(exc.hint, config_file)
            raise

    return run


def _counts(tx: Transaction) -> tuple[int, str]:
    """Return the number of active pairings, and the numbers of grants by state in words."""
    states = Counter(grant.state for grant in tx.select(Grant))
    words = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return len(tx.select(Pairing, state="active")), f"grants: {words or 'none'}"


def _channel(
    config: AgentConfig, identity: Identity, clock: SystemClock, random: SystemRandom, adviser: Adviser
) -> MqttChannel:
    """Return the way to the broker. Raises ConfigError: its password cannot be read."""
    broker, own_id = config.broker, device_id(identity.public_key)
    password = None
    if broker.password_file is not None:
        password = read_secret_file(broker.password_file, "broker password")

    async def pause(seconds: float) -> None:  # the channel sleeps when, and only when, a connection has failed
        await adviser.failed(channel.last_error)
        await clock.sleep(seconds)

    channel = MqttChannel(
        MqttSettings(
            host=broker.host,
            port=broker.port,
            client_id=own_id,
            protocol=broker.protocol,
            use_tls=broker.use_tls,
            ca_file=broker.ca,
            cert_file=broker.cert,
            key_file=broker.key,
            username=broker.username or "",
            password=password,
        ),
        sleep=pause,
        uniform=random.uniform,
        subscriptions=[inbox_filter(own_id)],
    )
    return channel


@asynccontextmanager
async def open_runtime(
    kind: Kind, home: Home, config: AgentConfig, *, provider_ca: Path | None
) -> AsyncIterator[Runtime]:
    """Open the vault and what needs no network; everything is closed again at the end.

    Raises:
        ConfigError, VaultError: the agent cannot run; the message says what to do.
    """
    source = key_source(home.directory, config.vault, home.environment)
    if not home.directory.is_dir():
        raise ConfigError(f"there is no home at {home.directory}", hint=f"token-relay {kind} init --help")
    clock = SystemClock(boot_id=home.environment.get("TOKEN_RELAY_BOOT_ID", ""))
    now_text = datetime.fromtimestamp(clock.now().wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    vault = await open_vault(home.directory, source, kind, now_text)
    http = AioHttp(ca_file=provider_ca, route=config.http_address)
    try:
        identity = await vault.run(lambda tx: tx.get(Identity, "self"))
        if identity is None:
            raise VaultError("the vault holds no identity", hint=f"token-relay {kind} init --force …")
        random = SystemRandom()
        adviser = Adviser(config.broker, lambda: clock.now().wall_s)
        channel = _channel(config, identity, clock, random, adviser)
        key_description = source.describe()
        yield Runtime(kind, home, config, vault, identity, http, clock, random, channel, adviser, key_description)
    finally:
        await http.close()
        await vault.close()


def text_of(args: Mapping[str, Any], name: str, default: str = "") -> str:
    """Return a text argument of a command. Raises ConfigError for anything else."""
    value = args.get(name, default)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text")
    return value


def number_of(args: Mapping[str, Any], name: str, default: float, *, low: float, high: float) -> float:
    """Return a number argument of a command, within its limits. Raises ConfigError for anything else."""
    value = args.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name} must be a number from {low:g} to {high:g}")
    return float(value)
