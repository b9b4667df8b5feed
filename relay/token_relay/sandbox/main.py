"""The ``sandbox`` command: provider, broker and the links to both in one process, until somebody stops it.

Says once where everything is, for a person as text or for a program as one line of JSON, and ends within two seconds
of SIGTERM, SIGINT, SIGHUP or cancellation. All state is in memory and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from token_relay.protocol.errors import ConfigError
from token_relay.provider.http import is_loopback
from token_relay.sandbox.actions.runner import ActionRunner
from token_relay.sandbox.control.api import described
from token_relay.sandbox.links.network import Network
from token_relay.sandbox.links.orders import LINK_NAMES
from token_relay.sandbox.provider.cors import origin_problem
from token_relay.sandbox.provider.http_values import JsonValue
from token_relay.sandbox.provider.world.model import (
    DEFAULT_WORLD,
    WORLD_BYTES_MAX,
    PolicyModel,
    WorldModel,
    parse_world,
)
from token_relay.sandbox.provider.world.network_table import TABLE_BYTES_MAX, NetworkTable, parse_network_table
from token_relay.sandbox.provider.world.provider_kinds import IMITATIONS
from token_relay.sandbox.provider.world.rules import Rules
from token_relay.sandbox.server import SandboxServer, tls_context
from token_relay.sandbox.trust import trust_lines

STOP_S_MAX = 2.0
PORT_MAX = 65_535
_ISSUER_PATH = re.compile(r"[A-Za-z0-9_-]{1,100}(/[A-Za-z0-9_-]{1,100}){0,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """What the command line says. A port of 0 means any free one, ``mqtt_port=None`` no broker.

    With a ``seed`` the tokens can be guessed by everybody who knows it: for repeatable runs only.
    """

    http_host: str = "127.0.0.1"
    http_port: int = 8400
    mqtt_port: int | None = 1884
    profile: str = "entra"
    world: Path | None = None
    access_token_lifetime_s: float | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    as_json: bool = False
    cors: tuple[str, ...] = ()  # origins whose web pages may call the provider
    seed: int | None = None
    links: bool = True
    network_table: Path | None = None  # address to autonomous system and geography
    actions: Path | None = None  # post-login hooks
    issuer_path: str = ""


Beside = Callable[[SandboxServer, Mapping[str, str]], AbstractAsyncContextManager[str]]
"""Starts the lab: for a sandbox that runs and the lines that make its agents, it yields the address to announce."""


async def run(
    options: SandboxOptions, *, write: Callable[[str], object] | None = None, lab: Beside | None = None
) -> None:
    """Run the sandbox until SIGTERM or SIGINT (returns) or cancellation (raises CancelledError).

    The announcement goes to ``write``, else to standard output. With ``lab``, pages about it run beside it.

    Raises:
        ConfigError: an option or the world file is wrong, or a port is taken.
    """
    world = world_of(options)
    rules = rules_of(options.profile)
    if options.actions is not None and not rules.is_managed:
        raise ConfigError(f"profile {options.profile} runs no Actions", hint="--actions goes with --profile auth0")
    server = SandboxServer(
        world,
        rules.name,
        rules=rules,
        networks=None if options.network_table is None else _network_table(options.network_table),
        actions=None if options.actions is None else ActionRunner(options.actions),
        rng=random.SystemRandom() if options.seed is None else random.Random(options.seed),  # noqa: S311  # asked for
        host=options.http_host,
        port=options.http_port,
        tls=tls_context(options.tls_cert, options.tls_key),
        cors_origins=cors_origins(options.cors),
        issuer_path=_issuer_path(options.issuer_path, rules),
    )
    async with contextlib.AsyncExitStack() as stack:
        stop = stack.enter_context(_stop_signals())
        stack.push_async_callback(_within, server.stop)
        await server.start()
        mqtt, broker_place = "", None
        if options.mqtt_port is not None:
            from token_relay.sandbox.mqtt.broker import Broker

            # Recording is harmless, since messages are ciphertext, and the sandbox replays what was recorded.
            broker = Broker(
                "127.0.0.1", options.mqtt_port, record=True, on_publish=lambda _topic, _payload: server.tell()
            )
            server.broker = broker
            try:
                broker_place = ("127.0.0.1", await broker.start())
            except OSError as exc:
                raise ConfigError(
                    f"cannot listen on 127.0.0.1:{options.mqtt_port}: {os.strerror(exc.errno or 0)}"
                ) from exc
            stack.push_async_callback(_within, broker.stop)
            mqtt = f"mqtt://127.0.0.1:{broker_place[1]}"
        if options.links:
            network = await _start_links(broker_place, _place_of(server, options), is_fixed=options.http_port != 0)
            server.links = network
            stack.push_async_callback(_within, network.stop)
        trust = {} if options.tls_cert is None else trust_lines(options.tls_cert)
        facts = _facts(server, world, mqtt=mqtt)
        if lab is not None:
            facts["lab"] = await stack.enter_async_context(lab(server, init_lines(facts, _addresses(server))))
        (write or _print)(announcement(server, facts, trust=trust, as_json=options.as_json))
        await stop.wait()


def _place_of(server: SandboxServer, options: SandboxOptions) -> tuple[str, int]:
    """Return where a link finds the provider, which listens everywhere when it is not on loopback."""
    return (options.http_host if is_loopback(options.http_host) else "127.0.0.1"), server.port


async def _start_links(broker: tuple[str, int] | None, provider: tuple[str, int], *, is_fixed: bool) -> Network:
    """Start the links; if the provider's port is fixed and the next ones are free, there, so that agents find them
    again."""
    ports: dict[str, int] = {name: provider[1] + 1 + index for index, name in enumerate(LINK_NAMES)}
    if is_fixed and max(ports.values()) <= PORT_MAX:
        with contextlib.suppress(ConfigError):
            return await Network.between(broker=broker, provider=provider, ports=ports).start()
    return await Network.between(broker=broker, provider=provider).start()


def rules_of(name: str) -> Rules:
    """Return the rules of the profile or imitation of this name. Raises ConfigError."""
    if name not in IMITATIONS:
        raise ConfigError(f"there is no profile {name!r}", hint=f"one of {', '.join(IMITATIONS)}")
    return IMITATIONS[name].rules


def _issuer_path(given: str, rules: Rules) -> str:
    """Return the path with a slash before it. Raises ConfigError."""
    if given and rules.is_native:
        raise ConfigError(f"the issuer of profile {rules.name} has a path of its own")
    if given and not _ISSUER_PATH.fullmatch(given):
        raise ConfigError(
            f"--issuer-path {given} is not possible", hint="letters and digits, as in contoso or t/contoso"
        )
    return given and f"/{given}"


def _network_table(path: Path) -> NetworkTable:
    return parse_network_table(_text(path, TABLE_BYTES_MAX), file=str(path))


def _text(path: Path, bytes_max: int) -> str:
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1).decode()
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not UTF-8") from exc


def cors_origins(given: tuple[str, ...]) -> frozenset[str]:
    """Return the origins that web pages may call from. Raises ConfigError."""
    for origin in given:
        problem = origin_problem(origin)
        if problem:
            raise ConfigError(f"--cors {origin} {problem}", hint="as the browser spells it: http://localhost:3000")
    return frozenset(given)


def world_of(options: SandboxOptions) -> WorldModel:
    """Return the world that the options describe. Raises ConfigError."""
    world = DEFAULT_WORLD
    if options.world is not None:
        world = parse_world(_text(options.world, WORLD_BYTES_MAX), file=str(options.world))
    lifetime_s = options.access_token_lifetime_s
    if lifetime_s is not None:
        if not 1 <= lifetime_s <= 10 * 365 * 86_400:
            raise ConfigError(f"an access token lifetime of {lifetime_s} s is not possible", hint="at least 1 s")
        set_before = world.policy.model_dump(exclude_unset=True)
        policy = PolicyModel.model_validate({**set_before, "access_token_lifetime_s": float(lifetime_s)})
        world = world.model_copy(update={"policy": policy})
    return world


def _facts(server: SandboxServer, world: WorldModel, *, mqtt: str) -> dict[str, JsonValue]:
    state = server.provider.state
    return {
        "http": server.base_url,
        "authority": state.urls.authority,
        "issuer": state.urls.issuer,
        "mqtt": mqtt or None,
        "profile": state.rules.imitates or state.rules.name,
        "tenant": world.tenant,
        "client_id": next(iter(state.clients)),
        "control": f"{server.base_url}/sandbox/",
    }


def _addresses(server: SandboxServer) -> dict[str, str]:
    return {} if server.links is None else {link.name: link.address for link in server.links.status()}


def announcement(
    server: SandboxServer, facts: Mapping[str, JsonValue], *, trust: Mapping[str, str], as_json: bool
) -> str:
    """Say where everything is. The passwords and secrets shown are the sandbox's own and open nothing else."""
    state = server.provider.state
    clients: list[dict[str, JsonValue]] = []
    for client in state.clients.values():
        kind = client.app_type if state.rules.is_managed else "spa" if client.spa else "native"
        secret = {} if client.client_secret is None else {"client_secret": client.client_secret.reveal()}
        clients.append({"client_id": client.client_id, "kind": kind, **secret})
    users: list[JsonValue] = []
    for user in state.users.values():
        shown = described(user)
        if user.password is not None:
            shown["password"] = user.password.reveal()
        users.append(shown)
    addresses = _addresses(server)
    init = init_lines(facts, addresses)
    if as_json:
        more: dict[str, JsonValue] = {"clients": [*clients], "users": users, "links": {**addresses}, "init": {**init}}
        return json.dumps({**facts, **more, "trust": {**trust}}) + "\n"
    lines = [f"{name:10} {value or 'none'}" for name, value in facts.items() if name not in {"client_id", "lab"}]
    lines[-1] += " (codes: GET /sandbox/mailbox/ADDRESS)"
    for shown in clients:
        how = f"{shown['kind']}, secret {shown['client_secret']}" if "client_secret" in shown else shown["kind"]
        lines.append(f"{'client':10} {shown['client_id']} ({how})")
    for entry in state.users.values():
        how = "code by e-mail" if entry.password is None else f"password {entry.password.reveal()}"
        if state.rules.is_native and entry.password is not None:
            how += {"none": "", "required": ", then a code", "register": ", registers a method"}[entry.mfa]
        lines.append(f"{'user':10} {entry.username} ({how})")
    lines += [f"{'link':10} {name} {address}" for name, address in addresses.items()]
    if trust:
        lines += ["", "clients that trust its certificate:", *trust.values()]
    if init:
        through = ", through the links (token-relay sandbox ctl cut LINK)" if addresses else ""
        lines += ["", f"agents that use it{through}:", *init.values()]
    if "lab" in facts:
        lines += ["", "the lab, opened once by this address (Enter prints a new one):", str(facts["lab"])]
    return "\n".join(lines) + "\n"


def init_lines(facts: Mapping[str, JsonValue], addresses: Mapping[str, str]) -> dict[str, str]:
    """Return the command lines that make a phone and a companion of this sandbox, through its links if it has any.

    The provider's URL is the same with and without a link, so there is one issuer for both ends, and the phone may
    hand the token endpoint that it discovered to a companion that reaches it by another link.
    """
    if facts["mqtt"] is None:
        return {}
    is_entra = facts["profile"] == "entra"
    provider = ["--provider", facts["http"] if is_entra else facts["issuer"], "--profile", facts["profile"]]
    provider += ["--tenant", facts["tenant"]] if is_entra else []
    provider += ["--client-id", facts["client_id"], "--allow-refresh-token-access"]
    lines = {}
    place = urlsplit(str(facts["http"]))
    here = ["--provider-host", place.netloc] if is_loopback(place.hostname or "") else []
    for kind, name, more in (("phone", "phone", provider), ("companion", "watch", here)):
        broker = addresses.get(f"{kind}-broker")
        words = ["token-relay", kind, "init", *more, "--broker", f"mqtt://{broker}" if broker else facts["mqtt"]]
        words += ["--http-route", addresses[f"{kind}-provider"]] if addresses else []
        lines[kind] = shlex.join(map(str, [*words, "--name", name]))
    return lines


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM and SIGINT set, where signals can be caught at all (the main thread).

    So does a closed terminal, or the lab's agents would outlive it; but not under nohup.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    caught = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            continue
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
            caught.append(number)
    try:
        yield stop
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()  # the program that reads our line waits for it, and a pipe is buffered


async def _within(stop: Callable[[], Awaitable[None]]) -> None:
    """Give one part half of the time to stop; what has not stopped by then ends with the process."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_S_MAX / 2):
            await stop()
