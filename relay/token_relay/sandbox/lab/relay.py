"""The relay: two real agents, what a person does with them, and what phone, broker, companion and provider see of it.

Each column is its own: the ends tell what they wrote down and which messages passed, the broker which topics it
carried and how long the payloads were, the provider its events. No column is made up from another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from token_relay.pages import token_words
from token_relay.pages.columns import Happening, ordered
from token_relay.pages.conversation import Talk
from token_relay.pages.server import PageRoute
from token_relay.pages.visit import Answer, Elements, PageRequest
from token_relay.protocol.errors import LocalError, RelayError
from token_relay.protocol.topics import PeerTopic, parse_topic
from token_relay.sandbox.lab.ends import ENDS, EndName, Ends
from token_relay.sandbox.lab.provider_words import is_bad
from token_relay.sandbox.lab.room import LabRoom
from token_relay.sandbox.lab.tenant_log import happening, in_wall_time

SHOWN_MAX = 150  # of what happened; the rest is in the log
EVENTS_ASKED = 200
ASIDE = ("discovery", "jwks")  # what each client reads before it does anything; the log has it
HANDOFF_WAIT_S = 30.0
STRATEGIES = {
    "branch": "branch: the phone refreshes, and gives the new token away; its own goes on working",
    "mint": "mint: a grant of its own, for which the person signs in",
    "move": "move: the phone's grant goes over, and the phone has none afterwards",
}


class RelayPages:
    """``relay`` and what can be done there."""

    def __init__(self, room: LabRoom) -> None:
        self._room, self._sandbox = room, room.sandbox
        self._since = 0.0  # what happened before is not shown
        self._tokens: tuple[token_words.Words | None, token_words.Words | None] = (None, None)  # before and now
        self._said: tuple[str, str, bool] | None = None  # what the companion said last: words, hint, whether refused

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            PageRoute("relay", self._page),
            PageRoute("relay/stream", self._stream),
            PageRoute("relay/start", self._start),
            PageRoute("relay/token", self._token),
            PageRoute("relay/anew", self._anew),
            PageRoute("relay/{what}", self._do),
        )

    @property
    def _ends(self) -> Ends:
        if self._room.ends is None:
            raise LocalError("this lab has no phone and no companion", hint="token-relay sandbox --lab has them")
        return self._room.ends

    # -- Looking at it -----------------------------------------------------------------------------------------

    async def _standing(self) -> Mapping[str, Any]:
        """Return how the two ends, the links and the armed faults are now."""
        links = [] if self._sandbox.links is None else self._sandbox.order("GET", "links")["links"]
        facts: dict[str, Any] = {"links": links, "faults": self._sandbox.order("GET", "faults")["faults"]}
        if self._room.ends is None or not self._room.ends.are_running:
            return {**facts, "is_running": False, "accounts": [], "device": None, "grant": None}
        phone, companion, devices = await asyncio.gather(
            self._ends.call("phone", "status", {}),
            self._ends.call("companion", "status", {}),
            self._ends.call("phone", "devices", {"wait_s": 0}),
        )
        own = companion["device_id"]
        return {
            **facts,
            "is_running": True,
            "phone": phone,
            "companion": companion,
            "accounts": [one for one in phone["accounts"] if one["state"] != "dead"],
            "device": next((one for one in devices["devices"] if one["device_id"] == own), None),
            "grant": companion["grants"][-1] if companion["grants"] else None,
        }

    async def _happenings(self, standing: Mapping[str, Any]) -> list[Happening]:
        found: list[Happening] = []
        names: dict[str, EndName] = {}
        if standing["is_running"]:
            names = {standing[end]["device_id"]: end for end in ENDS}
            asked = [
                self._ends.call(end, what, {"limit": EVENTS_ASKED}) for end in ENDS for what in ("events", "messages")
            ]
            rows = await asyncio.gather(*asked)
            for end, events, messages in zip(ENDS, rows[::2], rows[1::2], strict=True):
                found += self._ends.happenings(end, events["events"], messages["messages"])
        own_calls = {one.trace_id for one in self._room.live.calls}  # those have pages of their own
        provider = [
            one
            for one in in_wall_time(self._sandbox)
            if one.get("trace_id") not in own_calls and (one.get("endpoint") not in ASIDE or is_bad(one))
        ]
        found += [happening(one) for one in provider] + list(self._carried(names))
        return ordered(one for one in found if one.at >= self._since)[-SHOWN_MAX:]

    def _carried(self, names: Mapping[str, EndName]) -> Iterator[Happening]:
        """Yield what the broker carried: to whom, from whom, how much."""
        for one in [] if self._sandbox.broker is None else self._sandbox.broker.messages():
            key, topic, size = f"b-{one.number:08d}", parse_topic(one.topic), one.payload_bytes
            if isinstance(topic, PeerTopic):
                sender, to = names.get(topic.sender), names.get(topic.recipient)
                text = f"A sealed message from the {sender or 'other device'}"
                yield Happening(key, one.at, "broker", text, to=to, bytes=size)
            else:
                yield Happening(key, one.at, "broker", "A message in a pairing mailbox", bytes=size)

    async def _shown(self, visit: PageRequest) -> dict[str, Any]:
        standing = await self._standing()
        before, after = self._tokens
        return {
            **standing,
            "happenings": await self._happenings(standing),
            "said": self._said,
            "claims": token_words.said(after, visit.now) if after else [],
            "changes": token_words.difference(before, after, visit.now) if before and after else [],
        }

    async def _page(self, visit: PageRequest) -> Answer:
        strategies = ["branch", "mint", "move"] if self._room.is_native else ["mint", "move"]
        return visit.page(
            "relay.html",
            **await self._shown(visit),
            users=self._room.state.users.values(),
            strategies=[(name, STRATEGIES[name]) for name in strategies],
        )

    async def _stream(self, visit: PageRequest) -> Answer:
        async def look() -> Elements:
            found = await self._shown(visit)
            rows = {f"h-{one.key}": visit.html("happening.html", one=one) for one in found["happenings"]}
            return {"standing": visit.html("standing.html", **found), **rows}

        return await visit.live(look, 1.0)

    # -- Doing something ---------------------------------------------------------------------------------------

    async def _start(self, visit: PageRequest) -> Answer:
        if visit.is_post:
            await self._ends.start()
        return visit.go("relay")

    async def _anew(self, visit: PageRequest) -> Answer:
        if visit.is_post:
            self._since = visit.now
        return visit.go("relay")

    async def _token(self, visit: PageRequest) -> Answer:
        """Ask the companion for a fresh access token, as an app on it does, and keep what the token says."""
        if visit.is_post:
            self._room.memory.done.add("lost")
            try:
                body = await self._ends.access_token("companion", force_refresh=bool(visit.fields.get("fresh")))
            except RelayError as exc:
                self._said = str(exc), exc.hint, True
            else:
                self._tokens = self._tokens[1], token_words.read(str(body.get("access_token")))
                is_same = self._tokens[0] == self._tokens[1] is not None
                what = "the same access token as before, which still serves" if is_same else "an access token"
                self._said = f"{what}, for {body.get('scope')}", "", False
        return visit.go("relay#token")

    async def _do(self, visit: PageRequest) -> Answer:
        what, fields = visit.part("what"), visit.fields
        works = {
            "sign-in": ("Sign in on the phone", self._sign_in),
            "pair": ("Pair phone and companion", self._pair),
            "hand-off": ("Hand off to the companion", self._hand_off),
            "revoke": ("Revoke the companion's grant", self._revoke),
            "cancel": ("Give the handoff up", self._cancel),
        }
        if what not in works:
            return visit.refuse(404, "nothing is here")
        if not visit.is_post:
            return visit.go("relay")
        ends = self._ends
        if not ends.are_running:
            raise LocalError("phone and companion do not run", hint="start them on the page of the relay")
        title, work = works[what]

        async def working(talk: Talk) -> Mapping[str, object]:
            return await work(ends, talk, fields)

        return await self._room.talks.start(visit, title, working, back="relay", template="relay_steps.html")

    async def _sign_in(self, ends: Ends, talk: Talk, fields: Mapping[str, str]) -> Mapping[str, object]:
        await self._tell_mailbox(talk, fields)
        return await ends.call("phone", "sign_in", _sign_in_of(fields), talk)

    async def _pair(self, ends: Ends, talk: Talk, fields: Mapping[str, str]) -> Mapping[str, object]:
        """Let the companion invite and the phone answer; the invitation goes over by itself unless it is pasted."""
        heard = Talk("", back="", template="")
        inviting = asyncio.ensure_future(ends.call("companion", "pair", {"wait": True, "fresh": 0}, heard))
        try:
            while not (found := [str(one["invitation"]) for one in heard.steps if one.get("invitation")]):
                told = asyncio.ensure_future(heard.changed())
                await asyncio.wait({inviting, told}, return_when=asyncio.FIRST_COMPLETED)
                told.cancel()
                if inviting.done():
                    inviting.result()
                    raise LocalError("the companion ended its invitation")
            if fields.get("how") == "pasted":
                await talk.progress({"message": "the companion shows this invitation", "invitation": found[0]})
            else:
                await talk.progress({"message": "the companion's invitation went over to the phone"})
            given = {} if fields.get("how") == "pasted" else {"invitation": found[0]}
            result = await ends.call("phone", "pair", given, talk)
            await inviting
        finally:
            inviting.cancel()
            await asyncio.gather(inviting, return_exceptions=True)
        return {"message": "phone and companion are paired", **result}

    async def _hand_off(self, ends: Ends, talk: Talk, fields: Mapping[str, str]) -> Mapping[str, object]:
        device = await self._device()
        args: dict[str, object] = {"device": device, "wait_s": HANDOFF_WAIT_S}
        args |= {name: text for name in ("strategy", "account") if (text := fields.get(name, "").strip())}
        if args.get("strategy") == "mint":
            await self._tell_mailbox(talk, fields)
            args["sign_in"] = _sign_in_of(fields)
        result = await ends.call("phone", "handoff", args, talk)
        self._room.memory.done.add("handoff")
        return result

    async def _revoke(self, ends: Ends, talk: Talk, fields: Mapping[str, str]) -> Mapping[str, object]:
        return await ends.call("phone", "revoke", {"device": await self._device()}, talk)

    async def _cancel(self, ends: Ends, talk: Talk, fields: Mapping[str, str]) -> Mapping[str, object]:
        return await ends.call("phone", "cancel", {"device": await self._device()}, talk)

    async def _device(self) -> str:
        device = (await self._standing())["device"]
        if device is None:
            raise LocalError("phone and companion are not paired", hint="pair them first")
        return str(device["device_id"])

    async def _tell_mailbox(self, talk: Talk, fields: Mapping[str, str]) -> None:
        user = self._room.state.users.get(fields.get("username", "").lower())
        if user is not None and fields.get("method") != "browser":
            await talk.progress({"message": f"codes for {user.username} are in the mailbox", "user": user.username})


def _sign_in_of(fields: Mapping[str, str]) -> dict[str, object]:
    """Return how the phone signs in."""
    if fields.get("method") == "browser":
        return {"method": "browser", "open": False}
    return {"method": "native", "username": fields.get("username", "")}
