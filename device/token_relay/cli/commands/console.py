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


def run(args: argparse.Namespace, context: Context) -> int:
    """Serve the pages until a signal or half an hour without a request."""
    configure_logs(context)
    kind: Kind = "phone" if args.group == "phone" else "companion"
    other: Kind = "companion" if kind == "phone" else "phone"

    def here(name: str) -> Path:
        return locate(kind, context.env, name=name, home=args.home, socket_directory=args.socket)

    talks = Talks()
    server = page_server(
        kind,
        here=here,
        there=_of_the_same_user(other, context.env),
        talks=talks,
        uids=_uids(context.env),
        port=args.port,
    )

    def tell(address: str) -> None:
        context.out(json.dumps({"address": address}) if context.as_json else address)

    async def serve() -> None:
        await run_console(server, talks, tell=tell, stdin=stdin)
        context.note("nothing was asked for half an hour: the console has ended")

    stdin = context.stdin if context.stdin.isatty() and not context.as_json else None
    if stdin is not None:
        context.note("open this address in a browser on this machine; it works once, and Enter prints a fresh one")
    asyncio.run(until_stopped(serve()))
    return DONE


def _of_the_same_user(kind: Kind, environment: Mapping[str, str]) -> Locate:
    """Return what finds the other kind's agent where it is usual, if it is this user's too."""
    known = {
        name: value
        for name, value in environment.items()
        if name not in ("TOKEN_RELAY_HOME", "RUNTIME_DIRECTORY", "STATE_DIRECTORY")
    }

    def there(name: str) -> Path:
        path = locate(kind, known, name=name)
        if path.stat().st_uid != os.geteuid():
            raise ClientError("no_access", f"the {kind}'s agent belongs to another user")
        return path

    return there


def _uids(environment: Mapping[str, str]) -> frozenset[int]:
    """Return whose browsers may look: this user's, and under sudo that of the person who typed it."""
    given = environment.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    is_number = given.isascii() and given.isdigit() and len(given) < 11
    return frozenset({os.geteuid(), *([int(given)] if is_number else [])})
