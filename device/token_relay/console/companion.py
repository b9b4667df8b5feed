"""The pages of a companion: its grants and phones, and the invitation as a large QR code."""

from __future__ import annotations

import io
from typing import Any

import segno

from token_relay.console.both import SharedPages
from token_relay.console.device_words import ago, largest
from token_relay.pages.server import PageRoute
from token_relay.pages.visit import Answer, Elements, PageRequest
from token_relay.protocol.errors import LocalError

Json = dict[str, Any]
NAV = (("", "Grants"), ("pair", "Pair"), ("tokens", "Tokens"), ("trouble", "What went wrong"))
TICK_S = 5.0  # how often the time that is left is said
FRESH = 10  # invitations that may follow one that has ended
DAY_S = 86_400
HINTS = {"companion pair": "pair", "companion primary": ""}  # where what a hint names is done
TITLES = {
    "rename": "Rename this device",
    "forget": "Erase the grants here",
    "forget_all": "Erase the grants and forget the phones",
    "forget_phone": "Forget {}",
    "primary": "Make {} the primary phone",
}


class CompanionPages(SharedPages):
    """All pages of a companion."""

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            *self.shared_routes,
            self.route("", self._grants),
            PageRoute("stream", self._grants_stream),
            self.route("pair", self._pair),
            PageRoute("pair/{id}/qr.svg", self._qr),
            PageRoute("do/{command}", self._do),
        )

    async def _status(self) -> Json:
        found = await self.here.call("status")
        phones = {phone["device_id"]: phone["name"] for phone in found["phones"]}
        now = found["clock"]["now"]
        for phone in found["phones"]:
            phone["heard_text"] = ago(phone["heard_at"], now)
        for grant in found["grants"]:
            left_s = grant["lease_left_s"]
            grant["phone_name"] = phones.get(grant["phone"], "a phone that is forgotten")
            grant["refreshed_text"] = ago(grant["refreshed_at"], now)
            grant["lease_text"] = "" if left_s is None or grant["state"] == "dead" else largest(left_s)
            grant["lease_left_days"] = 0 if left_s is None else round(left_s / DAY_S)
        return {"agent": found}

    async def _grants(self, visit: PageRequest) -> Answer:
        return visit.page("grants.html", **await self._status())

    async def _grants_stream(self, visit: PageRequest) -> Answer:
        async def look() -> Elements:
            return {"state": visit.html("grants_state.html", **await self._status())}

        return await visit.live(look)

    # -- Pairing -----------------------------------------------------------------------------------------------

    async def _pair(self, visit: PageRequest) -> Answer:
        if not visit.is_post:
            return visit.page("pair_companion.html")
        args = {"wait": True, "fresh": FRESH, "tick_s": TICK_S}
        return await self.begin(visit, "Pair with a phone", "pair", args, template="invitation_steps.html")

    async def _qr(self, visit: PageRequest) -> Answer:
        talk = self.talks.of(visit)
        text = next((step["invitation"] for step in reversed(talk.steps) if step.get("invitation")), None)
        if text is None or talk.is_over:
            raise LocalError("no invitation is open", hint="begin again: Pair")
        drawn = io.BytesIO()
        segno.make(str(text), error="l", micro=False).save(drawn, kind="svg", border=4, dark="#000", light="#fff")
        return visit.picture(drawn.getvalue())

    # -- What is done ------------------------------------------------------------------------------------------

    async def _do(self, visit: PageRequest) -> Answer:
        command, fields = visit.part("command"), visit.fields
        if command not in TITLES:
            return visit.refuse(404, "nothing is here")
        if not visit.is_post:
            return visit.go("")
        args: Json = {name: fields[name].strip() for name in ("name", "phone") if fields.get(name)}
        if command == "forget_all":
            command, args = "forget", {"pairing": True}
        title = TITLES[visit.part("command")].format(fields.get("called") or fields.get("phone"))
        return await self.begin(visit, title, command, args)
