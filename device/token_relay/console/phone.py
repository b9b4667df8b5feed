"""The pages of a phone: its devices, one of them, pairing, and the account that it is signed in with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from token_relay.console.both import SharedPages, line_of
from token_relay.console.device_words import STATES, ago, largest, summary_text
from token_relay.pages.server import PageRoute
from token_relay.pages.visit import Answer, Elements, PageRequest
from token_relay.protocol.errors import LocalError

Json = dict[str, Any]
NAV = (("", "Devices"), ("pair", "Pair"), ("account", "Account"), ("tokens", "Tokens"), ("trouble", "What went wrong"))
ROWS = 200
PRESENCE_WAIT_S = 2.0  # a living device answers within milliseconds
LOST_WAIT_S = 2.0  # it hardly answers, and what else is to be done is urgent
EVENTS_SHOWN = 100
ACCOUNT_PAUSE_S = 10.0  # a status has all devices in it
DAY_S = 86_400
PLACES: Mapping[str, str] = {  # where the one thing to do is done, by its slug; else on the device's page
    "sign_in": "account",
    "restored_phone": "account",
    "pair_again": "pair",
    "pair": "pair",
}
HINTS: Mapping[str, str] = {  # where what a hint names is done
    **dict.fromkeys(("phone sign-in", "phone sign-up", "phone reset-password", "phone import"), "account"),
    **dict.fromkeys(("phone handoff", "phone cancel", "phone replace", "phone rename", "phone devices"), ""),
    "phone pair": "pair",
}
HANDOFFS: Mapping[str, str] = {
    "offered": "offered; it waits for the companion",
    "released": "given away; it waits for the receipt",
    "done": "the companion has it",
    "cancelling": "being given up; the companion decides",
    "cancelled": "given up; the companion never stored it",
    "revoking": "being taken away; the device has not confirmed yet",
    "gone": "over",
}
OPEN = ("offered", "released", "cancelling")
TITLES: Mapping[str, str] = {
    "handoff": "Hand off to {}",
    "rename": "Rename {}",
    "revoke": "Revoke {}",
    "lost": "{} is lost",
    "unpair": "Unpair {}",
    "forget": "Forget {}",
    "replace": "Replace {}",
    "cancel": "Give up the handoff to {}",
    "pair": "Pair with a companion",
    "sign_in": "Sign in",
    "sign_up": "Make an account",
    "reset_password": "Choose a new password",
    "sign_out": "Sign out",
    "import": "Adopt a refresh token",
}
OF_AN_ACCOUNT = ("sign_in", "sign_up", "reset_password", "sign_out", "import")


class PhonePages(SharedPages):
    """All pages of a phone."""

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            *self.shared_routes,
            self.route("", self._devices),
            PageRoute("stream", self._devices_stream),
            self.route("devices/{id}", self._device),
            PageRoute("devices/{id}/stream", self._device_stream),
            self.route("devices/{id}/handoff", self._newest),
            PageRoute("devices/{id}/handoff/stream", self._newest_stream),
            self.route("pair", self._pair),
            self.route("account", self._account),
            PageRoute("account/stream", self._account_stream),
            PageRoute("do/{command}", self._do),
        )

    # -- The list ----------------------------------------------------------------------------------------------

    async def _list(self, visit: PageRequest, wait_s: float) -> Json:
        wish = {name: value for name in ("only", "after") if (value := visit.query.get(name))}
        return await self.here.call("devices", {**wish, "limit": ROWS, "wait_s": wait_s})

    async def _devices(self, visit: PageRequest) -> Answer:
        found = await self._list(visit, 0)
        rows = [row_of(row, found["now"]) for row in found["devices"]]
        return visit.page(
            "devices.html",
            rows=rows,
            only=visit.query.get("only", ""),
            after=visit.query.get("after", ""),
            **_summary(found),
        )

    async def _devices_stream(self, visit: PageRequest) -> Answer:
        async def look() -> Elements:
            found = await self._list(visit, PRESENCE_WAIT_S)
            rows = [row_of(row, found["now"]) for row in found["devices"]]
            elements = {"summary": visit.html("summary.html", **_summary(found))}
            return elements | {f"d-{row['device_id']}": visit.html("device_row.html", row=row) for row in rows}

        return await visit.live(look)

    # -- One device --------------------------------------------------------------------------------------------

    async def _whole(self, visit: PageRequest, wait_s: float) -> Json:
        device = visit.part("id")
        found = await self.here.call("devices", {"device": device, "wait_s": wait_s})
        row = found["device"]
        events = (await self.here.call("events", {"device": row["device_id"], "limit": EVENTS_SHOWN}))["events"]
        handoffs = [one for pairing in row["pairings"] for one in pairing["handoffs"]]
        for one in handoffs:
            one["words"] = HANDOFFS.get(one["state"], one["state"])
        return {
            "row": row_of(row, int(time.time())),
            "handoffs": handoffs[::-1],
            "action": found.get("action"),
            "lines": [line_of(event, "phone") for event in events[::-1]],
            "has_open": any(one["state"] in OPEN for one in handoffs),
        }

    async def _device(self, visit: PageRequest) -> Answer:
        accounts = await self._accounts()
        return visit.page("device.html", **await self._whole(visit, 0), accounts=accounts)

    async def _device_stream(self, visit: PageRequest) -> Answer:
        last = 0

        async def look() -> Elements:
            nonlocal last
            found = await self._whole(visit, PRESENCE_WAIT_S)
            last = max((line["number"] for line in found["lines"]), default=0)
            lines = {line["id"]: visit.html("line.html", line=line) for line in found["lines"]}
            return {"facts": visit.html("device_facts.html", **found), **lines}

        return await visit.live(look, lambda: self.news(visit, "events", last, device=visit.part("id")))

    async def _newest_of(self, device: str) -> str:
        row = (await self.here.call("devices", {"device": device, "wait_s": 0}))["device"]
        handoffs = [one for pairing in row["pairings"] for one in pairing["handoffs"]]
        return max(handoffs, key=lambda one: one["created_at"])["handoff_id"] if handoffs else ""

    async def _newest(self, visit: PageRequest) -> Answer:
        return await self.columns(visit, await self._newest_of(visit.part("id")))

    async def _newest_stream(self, visit: PageRequest) -> Answer:
        async def which() -> str:
            return await self._newest_of(visit.part("id"))

        return await self.columns_stream(visit, which)

    # -- Pairing and account -----------------------------------------------------------------------------------

    async def _pair(self, visit: PageRequest) -> Answer:
        return visit.page("pair_phone.html")

    async def _accounts(self) -> list[Json]:
        grants: list[Json] = (await self.here.call("status"))["accounts"]
        return [grant for grant in grants if grant["state"] != "dead"]

    async def _account(self, visit: PageRequest) -> Answer:
        return visit.page("account.html", accounts=await self._accounts())

    async def _account_stream(self, visit: PageRequest) -> Answer:
        async def look() -> Elements:
            return {"accounts": visit.html("accounts.html", accounts=await self._accounts())}

        return await visit.live(look, ACCOUNT_PAUSE_S)

    # -- What is done ------------------------------------------------------------------------------------------

    async def _do(self, visit: PageRequest) -> Answer:
        command, fields = visit.part("command"), visit.fields
        if command not in TITLES:
            return visit.refuse(404, "nothing is here")
        if not visit.is_post:
            return visit.go("account" if command in OF_AN_ACCOUNT else "")
        device = fields.get("device", "")
        title = TITLES[command].format(fields.get("called") or device)
        back = "account" if command in OF_AN_ACCOUNT else f"devices/{device}" if device else ""
        if command in ("unpair", "forget", "replace"):
            back = ""
        args = args_of(command, fields)
        watch = f"devices/{device}/handoff" if command == "handoff" else ""
        return await self.begin(visit, title, "revoke" if command == "lost" else command, args, back=back, watch=watch)


def args_of(command: str, fields: Mapping[str, str]) -> Json:
    """Return a command's arguments from a form: what was left empty is not among them."""
    given = {name: value.strip() for name, value in fields.items() if value.strip()}
    args: Json = {name: given[name] for name in ("device", "name", "account", "scope", "strategy") if name in given}
    args |= {name: given[name] for name in ("invitation", "as") if name in given}
    if "lease_days" in given:
        if not (given["lease_days"].isascii() and given["lease_days"].isdigit() and len(given["lease_days"]) < 4):
            raise LocalError("the days of a lease are a whole number, 0 for no end", hint="for example 90")
        args["lease_days"] = int(given["lease_days"])
    if command == "lost":
        args |= {"lost": True, "wait_s": LOST_WAIT_S}
    sign_in: Json = {name: given[name] for name in ("method", "username", "mfa_method", "contact") if name in given}
    if sign_in.get("method") == "browser":
        sign_in = {"method": "browser", "open": False}
    if command in ("sign_in", "sign_up", "reset_password"):
        args |= sign_in
        if command != "sign_in":
            args.pop("method", None)
        if command == "sign_up":
            args["with_password"] = given.get("with_password") != "no"
    elif command in ("handoff", "replace") and sign_in.get("method"):
        args["sign_in"] = sign_in
        args["sign_in_options"] = ["--browser"] if sign_in["method"] == "browser" else ["--username"]
    return args


def row_of(row: Json, now: int) -> Json:
    """Return a device as its row shows it: words that do not change with each second."""
    mark, _, word = STATES.get(row["state"], ("·", ".", row["state"]))
    left_s, days = row["lease_left_s"], row.get("lease_days") or 0
    slug = (row["action"] or {}).get("slug", "")
    place = PLACES.get(slug, f"devices/{row['device_id']}")
    return {
        **row,
        "mark": mark,
        "word": word,
        "heard_text": "just now" if row["presence"] == "online" else ago(row["heard_at"], now),
        "others": max(0, row["accounts"] - 1),
        "lease_text": "" if left_s is None else f"{largest(left_s)} left" if left_s else "over",
        "lease_max": max(days, 1),
        "lease_value": 0 if left_s is None else round(left_s / DAY_S, 0 if left_s > 2 * DAY_S else 1),
        "place": f"{place}#hand-off" if row["next"] == "hand off" else place,
    }


def _summary(found: Json) -> Json:
    said = summary_text(found["summary"], "No device is paired yet")
    return {"summary": said, "next": found.get("next"), "action": found.get("action")}
