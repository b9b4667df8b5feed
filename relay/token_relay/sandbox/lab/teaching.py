"""What the lab says and remembers besides its calls: start, journey, mode, guide, and find your email."""

from __future__ import annotations

import re

from token_relay.pages.server import PageRoute
from token_relay.pages.visit import Answer, PageRequest
from token_relay.protocol.errors import LocalError
from token_relay.sandbox.lab.live import LiveCall
from token_relay.sandbox.lab.room import MODES, Content, LabRoom, content

PLACE = re.compile(r"(?!.*(\.\.|//))[A-Za-z0-9/_.@+-]{0,200}", re.ASCII)  # a page of ours, a person's among them


class TeachingPages:
    """The pages that explain."""

    def __init__(self, room: LabRoom) -> None:
        self._room = room
        self._search: LiveCall | None = None
        self._found = ""

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            PageRoute("", self._start),
            PageRoute("mode", self._mode),
            PageRoute("journey/{name}", self._journey),
            PageRoute("guide", self._guide),
            PageRoute("find-email", self._find_email),
        )

    def _steps(self) -> list[Content]:
        steps: list[Content] = content("lessons")["journey"]
        return [step for step in steps if step["name"] != "native" or self._room.is_native]

    def _open_before(self, name: str) -> list[Content]:
        """Return the steps before this one that are neither done nor skipped."""
        memory, names = self._room.memory, [step["name"] for step in self._steps()]
        before = self._steps()[: names.index(name)]
        return [step for step in before if step["name"] not in memory.done | memory.skipped]

    def upcoming(self) -> Content | None:
        """Return the step of the journey that comes next."""
        memory = self._room.memory
        return next((step for step in self._steps() if step["name"] not in memory.done | memory.skipped), None)

    async def _start(self, visit: PageRequest) -> Answer:
        return visit.page("start.html", journey=self._steps())

    async def _mode(self, visit: PageRequest) -> Answer:
        mode = next((one for one in MODES if one == visit.fields.get("mode")), None)
        back = visit.fields.get("back", "")
        if mode is not None and visit.is_post:
            self._room.memory.mode, self._room.memory.is_chosen = mode, True
        return visit.go(back if PLACE.fullmatch(back) else "")

    async def _journey(self, visit: PageRequest) -> Answer:
        step = next((one for one in self._steps() if one["name"] == visit.part("name")), None)
        if step is None:
            return visit.refuse(404, "the journey has no such step")
        missing = self._open_before(step["name"])
        if visit.is_post:
            self._room.memory.skipped |= {one["name"] for one in missing}
            missing = []
        if missing:
            return visit.page("gate.html", step=step, first=missing[0])
        return visit.go(step["place"])

    async def _guide(self, visit: PageRequest) -> Answer:
        return visit.page("guide.html", guide=content("lessons")["guide"])

    async def _find_email(self, visit: PageRequest) -> Answer:
        if visit.is_post and "findable" in visit.fields:
            user = self._room.state.users.get(visit.fields["findable"])
            if user is None:
                raise LocalError("there is no such person")
            user.is_findable = visit.fields.get("may") == "yes"
        elif visit.is_post:
            order = {"phone": visit.fields.get("phone", "")}
            self._search, body = await self._room.live.call("POST", "/sandbox/find-email", json_body=order)
            names = body.get("usernames")
            self._found = ", ".join(map(str, names)) if isinstance(names, list) else ""
        if visit.is_post:
            return visit.go("find-email")
        with_phone = [one for one in self._room.state.users.values() if one.phones]
        return visit.page("find_email.html", call=self._search, found=self._found, people=with_phone)
