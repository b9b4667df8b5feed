"""The operator's pages: people, clients, policy, and the switches of this world. Each form is an order to the sandbox.

All of it goes through :meth:`SandboxServer.order`, which is the control interface: what a page can do, ``sandbox ctl``
and a program can, with the same checks and the same refusals.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from typing import get_args
from urllib.parse import quote

from token_relay.pages.conversation import Talk
from token_relay.pages.server import PageRoute
from token_relay.pages.visit import Answer, PageRequest
from token_relay.pages.words import duration
from token_relay.protocol.errors import LocalError
from token_relay.sandbox.lab.room import LabRoom
from token_relay.sandbox.lab.tenant_log import line_of
from token_relay.sandbox.links.orders import LINK_NAMES
from token_relay.sandbox.provider.http_values import JsonValue
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.world.model import FAULT_NAMES, EndpointName

Order = tuple[str, str, dict[str, JsonValue]]  # method, path and body, as the control interface has them
EVENTS_SHOWN = 20
UNITS = {"minutes": 60, "hours": 3600, "days": 86_400}
LINK_ORDERS = {
    "heal": "heal",
    "refuse": "cut: connections are reset, new ones refused",
    "blackhole": "cut: reset, new ones accepted and silent",
    "drop": "cut: nothing is reset, and nothing arrives",
    "drop up": "cut: nothing of the device arrives",
    "drop down": "cut: nothing arrives at the device",
    "slow": "slow",
}
# What is done to a person: the button, the question before it, and the order.
ACTS: Mapping[str, tuple[str, str, Callable[[str], Order]]] = {
    "revoke": (
        "Revoke all",
        "End all that {} has signed in to? Refresh tokens stop working; access tokens last to their end.",
        lambda name: ("POST", "revoke", {"username": name}),
    ),
    "sign-out": (
        "Sign out of all browsers",
        "End the browser sessions of {}? Grants go on.",
        lambda name: ("POST", "revoke", {"username": name, "event": "single_sign_out"}),
    ),
    "expire": (
        "Let the password expire",
        "Let the password of {} expire? The next sign-in asks for another one.",
        lambda name: ("POST", "revoke", {"username": name, "event": "password_expired"}),
    ),
    "disable": (
        "Switch off",
        "Switch the account of {} off? It signs in nowhere and refreshes nothing, until it is switched on again.",
        lambda name: ("PATCH", "users", {"username": name, "disabled": True}),
    ),
    "enable": (
        "Switch on",
        "Switch the account of {} on again?",
        lambda name: ("PATCH", "users", {"username": name, "disabled": False}),
    ),
    "delete": (
        "Delete",
        "Delete the account of {}? All that it has signed in to ends, and it does not come back.",
        lambda name: ("DELETE", "users", {"username": name}),
    ),
}


class OperatorPages:
    """Users, clients and policy, switches."""

    def __init__(self, room: LabRoom) -> None:
        self._sandbox, self._talks = room.sandbox, room.talks

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            PageRoute("users", self._users),
            PageRoute("users/{name}", self._user),
            PageRoute("users/{name}/mail", self._mail),
            PageRoute("users/{name}/password", self._password),
            PageRoute("users/{name}/{act}", self._act),
            PageRoute("tenant", self._tenant),
            PageRoute("switches", self._switches),
            PageRoute("orders/{what}", self._order),
        )

    # -- People ------------------------------------------------------------------------------------------------

    async def _users(self, visit: PageRequest) -> Answer:
        state = self._sandbox.provider.state
        rows = [
            (user, _place(user), self._grants(user.username), self._sessions(user.username))
            for user in state.users.values()
        ]
        return visit.page("users.html", rows=rows)

    def _grants(self, username: str) -> list[object]:
        return [one for one in self._sandbox.provider.state.families.values() if one.username == username]

    def _sessions(self, username: str) -> list[object]:
        now = self._sandbox.now()
        known = self._sandbox.provider.state.sessions.values()
        return [one for one in known if one.username == username and one.is_alive(now)]

    def _one(self, visit: PageRequest) -> User:
        user = self._sandbox.provider.state.users.get(visit.part("name"))
        if user is None:
            raise LocalError("there is no such user", hint="page Users lists them")
        return user

    async def _user(self, visit: PageRequest) -> Answer:
        user, state = self._one(visit), self._sandbox.provider.state
        now = self._sandbox.now()
        events = [line_of(one.as_json()) for one in state.events if dict(one.fields).get("username") == user.username]
        waiting = [
            (address, sent)
            for address in dict.fromkeys([user.username, *(one.target for one in user.methods)])
            if (sent := state.mailboxes.get(address)) is not None and sent.is_good(now)
        ]
        return visit.page(
            "user.html",
            user=user,
            place=_place(user),
            acts={name: button for name, (button, _, _) in ACTS.items()},
            grants=self._grants(user.username),
            sessions=self._sessions(user.username),
            events=events[: -EVENTS_SHOWN - 1 : -1],
            waiting=waiting,
            provider_now=now,
        )

    async def _mail(self, visit: PageRequest) -> Answer:
        user, address = self._one(visit), visit.fields.get("address", "")
        if not visit.is_post:
            return visit.go(_place(user))
        code = self._sandbox.order("GET", f"mailbox/{address}")["text"]
        return visit.page("mail.html", user=user, address=address, code=code)

    async def _act(self, visit: PageRequest) -> Answer:
        user, act = self._one(visit), visit.part("act")
        if act not in ACTS or not visit.is_post:
            return visit.go(_place(user))
        button, question, order = ACTS[act]

        async def work(talk: Talk) -> Mapping[str, object]:
            if await talk.ask("confirm", question.format(user.username)) != "yes":
                raise LocalError("nothing was changed")
            self._sandbox.order(*order(user.username))
            return {"message": "done"}

        back = "users" if act == "delete" else _place(user)
        return await self._talks.start(visit, f"{button}: {user.username}", work, back=back)

    async def _password(self, visit: PageRequest) -> Answer:
        user = self._one(visit)
        if not visit.is_post:
            return visit.go(_place(user))

        async def work(talk: Talk) -> Mapping[str, object]:
            await talk.progress({"message": "what was signed in by the password of today ends with it"})
            chosen = await talk.ask("new_password", f"New password of {user.username}")
            if not chosen:
                raise LocalError("nothing was changed")
            self._sandbox.order("PATCH", "users", {"username": user.username, "password": chosen})
            return {"message": "the password was changed"}

        title = f"Change the password of {user.username}"
        return await self._talks.start(visit, title, work, back=_place(user))

    # -- The tenant and the world ------------------------------------------------------------------------------

    async def _tenant(self, visit: PageRequest) -> Answer:
        policy = self._sandbox.order("GET", "policy")
        return visit.page(
            "tenant.html",
            clients=self._sandbox.provider.state.clients.values(),
            policy={name: _in_words(name, value) for name, value in policy.items()},
            knobs=[(name, name) for name in policy],
        )

    async def _switches(self, visit: PageRequest) -> Answer:
        links = [] if self._sandbox.links is None else self._sandbox.order("GET", "links")["links"]
        return visit.page(
            "switches.html",
            links=links,
            link_names=LINK_NAMES,
            link_orders=LINK_ORDERS,
            faults=self._sandbox.order("GET", "faults")["faults"],
            fault_names=[name for name in FAULT_NAMES if name != "answer"],
            endpoints=get_args(EndpointName),
            rules=self._sandbox.order("GET", "lenient")["rules"],
            clock=self._sandbox.order("GET", "clock"),
            units=UNITS,
        )

    async def _order(self, visit: PageRequest) -> Answer:
        what = visit.part("what")
        make = ORDERS.get(what)
        if make is None:
            return visit.refuse(404, "nothing is here")
        back = "users" if what == "user" else "tenant" if what in ("client", "policy") else "switches"
        if visit.is_post:
            order = make(visit.fields)
            if what == "link" and self._sandbox.links is None:
                raise LocalError("this sandbox was started without links")
            self._sandbox.order(*order)
            back = next((one for one in BACKS if one == visit.fields.get("back")), back)
        return visit.go(back)


def _place(user: User) -> str:
    return f"users/{quote(user.username, safe='')}"


BACKS = ("relay",)  # pages with orders of their own

# -- From a form to an order -------------------------------------------------------------------------------


def _texts(fields: Mapping[str, str], *names: str) -> dict[str, JsonValue]:
    """Return the fields that were filled in."""
    return {name: text for name in names if (text := fields.get(name, "").strip())}


def _numbers(fields: Mapping[str, str], *names: str) -> dict[str, JsonValue]:
    """Return the numbers that were filled in. Raises LocalError."""
    found: dict[str, JsonValue] = {}
    for name, text in _texts(fields, *names).items():
        try:
            value = float(str(text))
        except ValueError:
            raise LocalError(f"{name.replace('_', ' ')}: a number is wanted") from None
        found[name] = int(value) if value.is_integer() else value
    return found


def link_order(fields: Mapping[str, str]) -> Order:
    """Return the order for a link."""
    wish = fields.get("order", "")
    if wish not in LINK_ORDERS:
        raise LocalError("choose what is done to the link")
    how, _, direction = wish.partition(" ")
    order: dict[str, JsonValue] = {"link": fields.get("link", ""), "do": how if how in ("heal", "slow") else "cut"}
    if order["do"] == "cut":
        order |= {"how": how, **({"direction": direction} if direction else {})}
    if how == "slow":
        order |= _numbers(fields, "latency_s", "bytes_per_s")
    return "POST", "links", order


def _fault(fields: Mapping[str, str]) -> Order:
    order = _texts(fields, "name", "endpoint", "grant_type", "error", "suberror", "location")
    order |= _numbers(fields, "times", "seconds", "retry_after_s", "after_s", "code", "size")
    if fields.get("committed"):
        order["committed"] = True
    return "POST", "faults", order


def _animal(fields: Mapping[str, str]) -> Order:
    try:
        animal = tomllib.loads(fields.get("animal", ""))
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise LocalError(f"not TOML: {str(exc)[:200]}", hint="its fields: token-relay docs zoo") from None
    order: dict[str, JsonValue] = {"animal": json.loads(json.dumps(animal, default=str))}
    return "POST", "animals", order | _numbers(fields, "times")


def _gateway(fields: Mapping[str, str]) -> Order:
    """Let a gateway answer the next refresh: a page, where the provider's JSON should be."""
    answer: dict[str, JsonValue] = {
        "status": 502,
        "headers": [["Content-Type", "text/html"]],
        "body": "<html><title>502 Bad Gateway</title></html>",
    }
    of_refresh: dict[str, JsonValue] = {"endpoint": "token", "grant_type": "refresh_token"}
    return "POST", "faults", {"name": "answer", **of_refresh, "answer": answer}


def _clock(fields: Mapping[str, str]) -> Order:
    amount = _numbers(fields, "amount").get("amount")
    unit = UNITS.get(fields.get("unit", ""))
    if not isinstance(amount, int | float) or unit is None:
        raise LocalError("say by how much the clock goes forward", hint="a number, and minutes, hours or days")
    return "POST", "clock", {"advance_s": amount * unit}


def _in_words(name: str, value: JsonValue) -> str:
    """Return a knob's value as it would be typed, and a length of time also as people say it."""
    text = json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
    return f"{text} ({duration(value)})" if name.endswith("_s") and isinstance(value, int | float) else text


def _policy(fields: Mapping[str, str]) -> Order:
    text = fields.get("value", "").strip()
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        value = text  # a word such as sliding
    return "POST", "policy", {fields.get("knob", ""): value}


def _user(fields: Mapping[str, str]) -> Order:
    order = _texts(fields, "username", "password", "name", "mfa", "alias")
    if phone := fields.get("sms", "").strip():
        order["methods"] = [{"channel": "sms", "target": phone}]
    return "POST", "users", order


def _client(fields: Mapping[str, str]) -> Order:
    order = _texts(fields, "client_id", "name", "app_type")
    order["redirect_uris"] = [*fields.get("redirect_uris", "").split()]
    order["spa"] = bool(fields.get("spa"))
    return "POST", "clients", order


ORDERS: Mapping[str, Callable[[Mapping[str, str]], Order]] = {
    "user": _user,
    "client": _client,
    "policy": _policy,
    "link": link_order,
    "fault": _fault,
    "animal": _animal,
    "gateway": _gateway,
    "clear": lambda fields: ("DELETE", "faults", {}),
    "clock": _clock,
    "lenient": lambda fields: ("POST", "lenient", _texts(fields, "name")),
    "keep": lambda fields: ("DELETE", "lenient", {}),
    "keys": lambda fields: ("POST", "keys", {"keep_old": bool(fields.get("keep_old"))}),
}
