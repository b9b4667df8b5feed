"""The ``sandbox`` command: provider and broker in one process, until somebody stops it.

Says once where everything is, for a person as text or for a program as one line of JSON, and ends within two seconds
of SIGTERM, SIGINT or cancellation. All state is in memory and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from relay.errors import ConfigError
from relay.sandbox.server import SandboxServer, tls_context
from relay.sandbox.values import JsonValue
from relay.sandbox.world import DEFAULT_WORLD, WORLD_BYTES_MAX, Policy, ProfileName, World, parse_world

STOP_S_MAX = 2.0


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
    seed: int | None = None


async def run(options: SandboxOptions, *, write: Callable[[str], object] | None = None) -> None:
    """Run the sandbox until SIGTERM or SIGINT (returns) or cancellation (raises CancelledError).

    The announcement goes to ``write``, else to standard output.

    Raises:
        ConfigError: an option or the world file is wrong, or a port is taken.
    """
    world = world_of(options)
    server = SandboxServer(
        world,
        profile_of(options.profile),
        rng=random.SystemRandom() if options.seed is None else random.Random(options.seed),  # noqa: S311  # asked for
        host=options.http_host,
        port=options.http_port,
        tls=tls_context(options.tls_cert, options.tls_key),
    )
    async with contextlib.AsyncExitStack() as stack:
        stop = stack.enter_context(_stop_signals())
        stack.push_async_callback(_within, server.stop)
        await server.start()
        mqtt = ""
        if options.mqtt_port is not None:
            from relay.sandbox.broker import Broker

            # Recording: what passes is ciphertext, and a replay is one of the things that a sandbox is for.
            broker = Broker(
                "127.0.0.1", options.mqtt_port, record=True, on_publish=lambda _topic, _payload: server.tell()
            )
            server.broker = broker
            try:
                mqtt = f"mqtt://127.0.0.1:{await broker.start()}"
            except OSError as exc:
                raise ConfigError(f"cannot listen on 127.0.0.1:{options.mqtt_port}: {exc.strerror}") from exc
            stack.push_async_callback(_within, broker.stop)
        (write or _print)(announcement(server, world, mqtt=mqtt, as_json=options.as_json))
        await stop.wait()


def profile_of(name: str) -> ProfileName:
    """Return the profile of this name. Raises ConfigError."""
    for known in get_args(ProfileName):
        if known == name:
            profile: ProfileName = known
            return profile
    raise ConfigError(f"there is no profile {name!r}", hint=f"one of {', '.join(get_args(ProfileName))}")


def world_of(options: SandboxOptions) -> World:
    """Return the world that the options describe. Raises ConfigError."""
    world = DEFAULT_WORLD
    if options.world is not None:
        try:
            with options.world.open("rb") as file:
                raw = file.read(WORLD_BYTES_MAX + 1)
            world = parse_world(raw.decode(), file=str(options.world))
        except OSError as exc:
            raise ConfigError(f"cannot read {options.world}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise ConfigError(f"{options.world}: not UTF-8") from exc
    lifetime_s = options.access_token_lifetime_s
    if lifetime_s is not None:
        if not 1 <= lifetime_s <= 10 * 365 * 86_400:
            raise ConfigError(f"an access token lifetime of {lifetime_s} s is not possible", hint="at least 1 s")
        set_before = world.policy.model_dump(exclude_unset=True)
        policy = Policy.model_validate({**set_before, "access_token_lifetime_s": float(lifetime_s)})
        world = world.model_copy(update={"policy": policy})
    return world


def announcement(server: SandboxServer, world: World, *, mqtt: str, as_json: bool) -> str:
    """Say where everything is. The passwords shown are the sandbox's own and open nothing else."""
    state = server.provider.state
    users: list[JsonValue] = []
    for user in state.users.values():
        shown: dict[str, JsonValue] = {"username": user.username, "kind": user.kind}
        if user.password is not None:
            shown["password"] = user.password.reveal()
        users.append(shown)
    facts: dict[str, JsonValue] = {
        "http": server.base_url,
        "issuer": state.places.issuer,
        "mqtt": mqtt or None,
        "profile": state.places.profile,
        "tenant": world.tenant,
        "client_id": next(iter(state.clients)),
    }
    if as_json:
        return json.dumps({**facts, "users": users}) + "\n"
    lines = [f"{name:10} {value or 'none'}" for name, value in facts.items()]
    lines.insert(1, f"{'authority':10} {state.places.authority}")
    for entry in state.users.values():
        how = "code by e-mail" if entry.password is None else f"password {entry.password.reveal()}"
        lines.append(f"{'user':10} {entry.username} ({how})")
    lines.append(f"{'control':10} {server.base_url}/sandbox/ (codes: GET /sandbox/mailbox/ADDRESS)")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM and SIGINT set, where signals can be caught at all (the main thread)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    caught = []
    for number in (signal.SIGTERM, signal.SIGINT):
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
    """Give one part half of the time to stop; what does not manage in it is left to the end of the process."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_S_MAX / 2):
            await stop()
