"""The API reference: each native endpoint with its fields, answers and errors, and a form that calls it live."""

from __future__ import annotations

from token_relay.pages.server import PageRoute
from token_relay.pages.visit import Answer, PageRequest
from token_relay.protocol.errors import LocalError
from token_relay.sandbox.lab.live import HIDDEN, LiveCall
from token_relay.sandbox.lab.native_calls import OPENAPI, POSTMAN, Operation, api_file, form, mail, operations, send
from token_relay.sandbox.lab.room import LabRoom, content


class ReferencePages:
    """``reference``, ``reference/NAME`` and the two downloads."""

    def __init__(self, room: LabRoom) -> None:
        self._room = room
        self._latest: dict[str, LiveCall] = {}  # by operation

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            PageRoute("reference", self._list),
            PageRoute("reference/{name}", self._page),
            PageRoute("download/{name}", self._download),
        )

    async def _list(self, visit: PageRequest) -> Answer:
        if not self._room.is_native:
            return visit.page("not_native.html", title="API reference")
        return visit.page("reference.html", operations=operations().values(), authority=self._room.authority)

    async def _page(self, visit: PageRequest) -> Answer:
        operation = operations().get(visit.part("name"))
        if operation is None:
            return visit.refuse(404, "there is no such endpoint")
        if not self._room.is_native:
            return visit.page("not_native.html", title=operation.path)
        chain = self._room.memory.chain
        if visit.is_post:
            self._latest[operation.name], _ = await send(self._room, operation, chain, visit.fields)
            return visit.go(f"reference/{operation.name}#answer")
        call = self._latest.get(operation.name)
        meanings = content("lessons")["meanings"]
        return visit.page(
            "operation.html",
            one=operation,
            call=call,
            mail=mail(self._room, chain),
            fields=form(self._room, operation, chain, {} if call is None else _typed(call)),
            params=[(one.name, "yes" if one.is_required else "", one.meaning) for one in operation.params],
            answers=[(name, meanings.get(name, "")) for name in operation.answers],
            errors=_errors(operation),
        )

    async def _download(self, visit: PageRequest) -> Answer:
        name = {"openapi": OPENAPI, "postman": POSTMAN}.get(visit.part("name"))
        if name is None:
            raise LocalError("there is no such file here", hint="openapi, postman")
        return visit.download(api_file(name).read_bytes(), name=name, content_type="application/json")


def _typed(call: LiveCall) -> dict[str, str]:
    """Return what was sent and may stand in the form again."""
    return {name: value for name, value in call.sent.items() if value != HIDDEN}


def _errors(operation: Operation) -> list[list[str]]:
    """Return the rows of the error table that this endpoint can answer with."""
    rows: list[list[str]] = content("lessons")["guide"]["errors"]
    return [row for row in rows if row[0] in operation.errors]
