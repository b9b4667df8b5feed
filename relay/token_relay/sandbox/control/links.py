"""Shows the links on the control interface, and carries out orders for them. Pure, like the rest of that interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, model_validator

from token_relay.sandbox.links.orders import (
    LINK_NAMES,
    Cut,
    Direction,
    How,
    LinkName,
    LinkReport,
    LinkState,
    Slow,
    Whole,
)
from token_relay.sandbox.provider.http_values import JsonValue, Refusal

ALL = "all"


class LinkBook(Protocol):
    """What the control interface may do with the links of a sandbox."""

    def set(self, state: LinkState, *names: str) -> None:
        """Bring these links, or all, into one state at once. Raises KeyError for an unknown name."""
        ...

    def status(self) -> Sequence[LinkReport]:
        """Return a report on each link."""
        ...


class LinkOrder(BaseModel):
    """What is done to one link or to all: ``how`` and ``direction`` go with cut, the numbers with slow."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)
    link: Literal[LinkName, "all"]  # one Literal: a refusal then lists all names
    do: Literal["cut", "heal", "slow"]
    how: How | None = None
    direction: Direction | None = None
    latency_s: float | None = None
    bytes_per_s: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> LinkOrder:
        if self.do != "cut" and (self.how is not None or self.direction is not None):
            raise ValueError("how and direction go with cut")
        if self.do != "slow" and (self.latency_s is not None or self.bytes_per_s is not None):
            raise ValueError("latency_s and bytes_per_s go with slow")
        self.state()
        return self

    def state(self) -> LinkState:
        """Return the state that is asked for. Raises ValueError when there is no such state."""
        match self.do:
            case "heal":
                return Whole()
            case "slow":
                return Slow(self.latency_s or 0.0, self.bytes_per_s)
            case "cut":
                # Only one way of cutting has a direction, so naming one means that way.
                is_one_way = self.direction not in (None, "both")
                return Cut(self.how or ("drop" if is_one_way else "refuse"), self.direction or "both")


def carry_out(links: LinkBook, order: LinkOrder) -> dict[str, JsonValue]:
    """Carry out an order, and show the links that it changed. Raises Refusal."""
    known = [one.name for one in links.status()]
    names = known if order.link == ALL else [order.link]
    if missing := [name for name in names if name not in known]:
        raise Refusal("invalid_request", f"link: this sandbox has no {missing[0]}; it has {', '.join(known)}")
    links.set(order.state(), *names)
    return shown(links, names)


def shown(links: LinkBook, names: Sequence[str] = LINK_NAMES) -> dict[str, JsonValue]:
    """Return the links by these names as JSON."""
    return {"links": [_row(one) for one in links.status() if one.name in names]}


def event_fields(order: LinkOrder) -> dict[str, str]:
    """Return the fields of the event for an order."""
    match order.state():
        case Cut(how, direction):
            return {"link": order.link, "state": "cut", "how": how, "direction": direction}
        case state:
            return {"link": order.link, "state": _name(state)}


def _row(one: LinkReport) -> dict[str, JsonValue]:
    row: dict[str, JsonValue] = {"name": one.name, "state": _name(one.state)}
    match one.state:
        case Cut(how, direction):
            row |= {"how": how, "direction": direction}
        case Slow(latency_s, bytes_per_s):
            row |= {"latency_s": latency_s, "bytes_per_s": bytes_per_s}
        case Whole():
            pass
    return row | {
        "since": one.since,
        "address": one.address,
        "target": one.target,
        "connections": one.connections,
        "connections_in_all": one.connections_in_all,
        "bytes_up": one.bytes_up,
        "bytes_down": one.bytes_down,
        "bytes_lost": one.bytes_lost,
    }


def _name(state: LinkState) -> str:
    return type(state).__name__.lower()
