"""``phone console`` and ``companion console``: the pages of an agent, for the person who typed the command."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

from token_relay.cli.client import ClientError, locate
from token_relay.cli.commands.serve import configure_logs, until_stopped
from token_relay.cli.parsing import DONE, Context
from token_relay.console.agent_client import Locate
from token_relay.console.run import page_server, run_console
from token_relay.host.paths import Kind
from token_relay.pages.conversation import Talks
from token_relay.pages.terminal import viewers


def run(args: argparse.Namespace, context: Context) -> int:
    """Serve the pages until a signal or half an hour without a request."""
    configure_logs(context)
    kind: Kind = "phone" if args.group == "phone" else "companion"
    other: Kind = "companion" if kind == "phone" else "phone"

    here = of_one_agent(lambda name: locate(kind, context.env, name=name, home=args.home, socket_directory=args.socket))
    talks = Talks()
    server = page_server(
        kind,
        here=here,
        there=of_the_same_user(other, context.env, here),
        talks=talks,
        uids=viewers(context.env, os.geteuid()),
        port=args.port,
    )

    def tell(address: str) -> None:
        context.out(json.dumps({"address": address}) if context.as_json else address)

    async def serve() -> None:
        await run_console(server, talks, tell=tell, terminal=terminal)
        context.note("nothing was asked for half an hour: the console has ended")

    terminal = context.stdin.fileno() if context.stdin.isatty() and not context.as_json else None
    if terminal is not None:
        context.note("open this address in a browser on this machine; it works once, and Enter prints a fresh one")
    asyncio.run(until_stopped(serve()))
    return DONE


def of_one_agent(locate: Locate) -> Locate:
    """Return what finds an agent in the directory where it was found first, whichever others run by then.

    A form of its pages, such as the one that erases everything, must not reach the service of the machine because
    the person's own agent is down.
    """
    first: list[Path] = []

    def here(name: str) -> Path:
        path = locate(name)
        if path.parent not in (first or [path.parent]):
            said = f"the agent of these pages does not run any more; another one listens in {path.parent}"
            raise ClientError("not_running", said, hint="start it again, or for the other one another console")
        first[:] = [path.parent]
        return path

    return here


def of_the_same_user(kind: Kind, environment: Mapping[str, str], here: Locate) -> Locate:
    """Return what finds the other kind's agent where it is usual, if it is this user's or of this agent's user."""
    known = {
        name: value
        for name, value in environment.items()
        if name not in ("TOKEN_RELAY_HOME", "RUNTIME_DIRECTORY", "STATE_DIRECTORY")
    }

    def there(name: str) -> Path:
        path = locate(kind, known, name=name)
        if path.stat().st_uid not in (os.geteuid(), here(name).stat().st_uid):
            raise ClientError("no_access", f"the {kind}'s agent belongs to another user")
        return path

    return there
