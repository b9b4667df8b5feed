"""``sandbox``, ``demo`` and ``try``: the only commands that use the sandbox's provider and broker."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from token_relay.cli.commands.serve import configure_logs
from token_relay.cli.parsing import DONE, Context, UsageError
from token_relay.host.systemd import notify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from token_relay.sandbox.server import SandboxServer


def sandbox(args: argparse.Namespace, context: Context) -> int:
    """``sandbox``: runs provider and broker until a stop signal."""
    from token_relay.provider.http import is_loopback
    from token_relay.sandbox.main import SandboxOptions, run

    if (args.tls_cert is None) != (args.tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together")
    if args.lab and (args.tls_cert or not is_loopback(args.http_host)):
        raise UsageError("--lab goes with a sandbox on plain HTTP", hint="leave --tls-cert and --http-host out")
    configure_logs(context)
    options = SandboxOptions(
        http_host=args.http_host,
        http_port=args.http_port,
        mqtt_port=args.mqtt_port,
        profile=args.profile,
        world=_path(args.world),
        access_token_lifetime_s=args.access_token_lifetime,
        tls_cert=_path(args.tls_cert),
        tls_key=_path(args.tls_key),
        as_json=context.as_json,
        cors=tuple(args.cors),
        seed=args.seed,
        links=args.links,
        network_table=_path(args.network_table),
        actions=_path(args.actions),
        issuer_path=args.issuer_path or "",
    )

    def announce(announcement: str) -> None:
        context.out(announcement.removesuffix("\n"))
        notify(context.env.get("NOTIFY_SOCKET"), READY=1)

    @contextlib.asynccontextmanager
    async def lab(server: SandboxServer, init: Mapping[str, str]) -> AsyncIterator[str]:
        async with _lab(server, init, context, args.lab_port) as address:
            yield address

    # It handles the stop signals itself.
    asyncio.run(run(options, write=announce, lab=lab if args.lab else None))
    return DONE


@contextlib.asynccontextmanager
async def _lab(server: SandboxServer, init: Mapping[str, str], context: Context, port: int) -> AsyncIterator[str]:
    """Run the lab, and yield its first address; each Enter, or line of a program that keeps our input, gets another."""
    from token_relay.cli.demo.lab_ends import LabEnds
    from token_relay.host.loopback_peer import owner_of
    from token_relay.pages.terminal import on_enter, viewers
    from token_relay.sandbox.lab.lab import Lab

    ends = LabEnds(init, context.env)
    uids = viewers(context.env, os.geteuid())
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(ends.stop)
        opened = await stack.enter_async_context(Lab(server, ends, owner=owner_of, uids=uids, port=port))
        pages = opened.server

        def tell() -> None:
            address = pages.address()
            context.out(json.dumps({"lab": address}) if context.as_json else address)

        if (fd := _readable(context)) is not None:
            stack.enter_context(on_enter(fd, tell))
        forgetting = asyncio.create_task(pages.forget_when_idle())
        stack.callback(forgetting.cancel)
        yield pages.address()


def _readable(context: Context) -> int | None:
    """Return our standard input if it is a terminal, or the pipe of a program that reads our JSON."""
    try:
        fd = context.stdin.fileno()
        is_pipe = context.as_json and stat.S_ISFIFO(os.fstat(fd).st_mode)
    except (OSError, ValueError):
        return None
    return fd if is_pipe or os.isatty(fd) else None


def demo(args: argparse.Namespace, context: Context) -> int:
    """``demo``: returns 0 only if every step did what it promises."""
    from token_relay.cli.demo import run_demo

    return run_demo(fast=args.fast, step=args.step, profile=args.profile)


def try_out(args: argparse.Namespace, context: Context) -> int:
    """``try``: runs until a stop signal, after which the exit code is 0."""
    from token_relay.cli.demo.kept_running import run_try

    return run_try(context, profile=args.profile, home=_path(args.home))


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)
