"""The lab's pages, on a port of their own: nothing that a page stores there is at the provider's origin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from token_relay.pages.server import Look, PageServer
from token_relay.sandbox.lab.browser_flows import BrowserPages
from token_relay.sandbox.lab.ends import Ends
from token_relay.sandbox.lab.flows import FlowPages
from token_relay.sandbox.lab.kept_tokens import TokenPages
from token_relay.sandbox.lab.native_calls import curl
from token_relay.sandbox.lab.operator import OperatorPages
from token_relay.sandbox.lab.reference import ReferencePages
from token_relay.sandbox.lab.relay import RelayPages
from token_relay.sandbox.lab.room import LabMemory, LabRoom
from token_relay.sandbox.lab.teaching import TeachingPages
from token_relay.sandbox.lab.tenant_log import LogPages
from token_relay.sandbox.server import SandboxServer

HERE = Path(__file__).parent
# place, its name for a developer, and for a person who signs in; empty: not for them
NAV = (
    ("", "Start", "Start"),
    ("flows", "Native", "Sign in"),
    ("browser", "Browser", "In the browser"),
    ("reference", "API", ""),
    ("tokens", "Tokens", "Sign-ins"),
    ("guide", "Guide", ""),
    ("relay", "Relay", "Watch"),
    ("users", "Users", ""),
    ("tenant", "Clients and policy", ""),
    ("switches", "Switches", ""),
    ("log", "Tenant log", ""),
    ("trouble", "What went wrong", "What went wrong"),
)


class LabNav:
    """The list of pages, as the present mode has it."""

    def __init__(self, memory: LabMemory) -> None:
        self._memory = memory

    def __iter__(self) -> Iterator[tuple[str, str]]:
        column = 1 if self._memory.mode == "developer" else 2
        return iter([(entry[0], entry[column]) for entry in NAV if entry[column]])


class Lab:
    """The lab of one sandbox, for as long as the ``async with`` lasts. Arguments as of :class:`PageServer`."""

    def __init__(
        self,
        sandbox: SandboxServer,
        ends: Ends | None,
        *,
        owner: Callable[[tuple[str, int], int], int | None],
        uids: Collection[int],
        port: int = 0,
    ) -> None:
        self.room = room = LabRoom(sandbox, ends)
        teaching = TeachingPages(room)
        pages = (
            FlowPages(room),
            BrowserPages(room),
            ReferencePages(room),
            TokenPages(room),
            teaching,
            RelayPages(room),
            OperatorPages(room),
            LogPages(room),
        )
        look = Look(
            templates=[HERE / "templates"],
            statics=[HERE / "static"],
            common={
                "called": "The lab",
                "nav": LabNav(room.memory),
                "tools": "mode_switch.html",
                "memory": room.memory,
                "is_person": room.memory.is_person,
                "is_native": room.is_native,
                "upcoming": teaching.upcoming,
                "profile": room.state.rules.imitates or room.state.rules.name,
                "base_url": sandbox.base_url,
                "curl": partial(curl, sandbox.base_url),
            },
            hints=dict.fromkeys(
                ("phone sign-in", "phone pair", "companion pair", "phone handoff", "phone cancel"), "relay"
            ),
        )
        routes = [*room.talks.routes, *(route for one in pages for route in one.routes)]
        self.server = PageServer(routes, look, owner=owner, uids=uids, port=port)

    async def __aenter__(self) -> Self:
        await self.server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.room.talks.stop()
        await self.server.__aexit__(kind, error, trace)
