"""Runs the console of one agent: prints an address, and a fresh one for each Enter, until a signal or idle minutes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path

from token_relay.console.agent_client import AgentClient, Locate
from token_relay.console.companion import HINTS as COMPANION_HINTS
from token_relay.console.companion import NAV as COMPANION_NAV
from token_relay.console.companion import CompanionPages
from token_relay.console.device_words import GRANTS
from token_relay.console.phone import HINTS as PHONE_HINTS
from token_relay.console.phone import NAV as PHONE_NAV
from token_relay.console.phone import PhonePages
from token_relay.host.loopback_peer import owner_of
from token_relay.host.paths import Kind
from token_relay.pages.conversation import Talks
from token_relay.pages.server import IDLE_S_MAX, Look, PageServer
from token_relay.pages.terminal import on_enter

TEMPLATES = Path(__file__).with_name("templates")


def page_server(
    kind: Kind,
    *,
    here: Locate,
    there: Locate,
    talks: Talks,
    uids: Collection[int],
    port: int = 0,
    idle_s: float = IDLE_S_MAX,
) -> PageServer:
    """Return the pages of an agent; ``here`` and ``there`` find its sockets and those of the other kind's agent."""
    other: Kind = "companion" if kind == "phone" else "phone"
    ends = AgentClient(kind, here), AgentClient(other, there)
    pages = PhonePages(*ends, talks) if kind == "phone" else CompanionPages(*ends, talks)
    nav = PHONE_NAV if kind == "phone" else COMPANION_NAV
    hints = PHONE_HINTS if kind == "phone" else COMPANION_HINTS
    look = Look([TEMPLATES], [], {"called": f"token-relay {kind}", "nav": nav, "grant_words": GRANTS}, hints)
    return PageServer(pages.routes, look, owner=owner_of, uids=uids, port=port, idle_s=idle_s)


async def run_console(server: PageServer, talks: Talks, *, tell: Callable[[str], None], terminal: int | None) -> None:
    """Serve until cancelled, or return when nothing was asked for half an hour.

    ``tell`` gets each address; ``terminal`` is a descriptor where Enter asks for a fresh one.
    """

    def announce() -> None:
        tell(server.address())

    async with server:
        announce()
        try:
            with nullcontext() if terminal is None else on_enter(terminal, announce):
                await server.until_idle()
        finally:
            await talks.stop()
