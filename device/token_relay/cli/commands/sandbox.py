"""``sandbox``, ``demo`` and ``try``: the only commands that use the sandbox's provider and broker."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from token_relay.cli.commands.serve import configure_logs
from token_relay.cli.parsing import DONE, Context, UsageError
from token_relay.host.systemd import notify


def sandbox(args: argparse.Namespace, context: Context) -> int:
    """``sandbox``: runs provider and broker until a stop signal."""
    from token_relay.sandbox.main import SandboxOptions, run

    if (args.tls_cert is None) != (args.tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together")
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

    asyncio.run(run(options, write=announce))  # it handles the stop signals itself
    return DONE


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
