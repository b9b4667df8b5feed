"""The test kit: a phone, a companion, a broker and a provider for the tests of an app that gets its tokens from here.

It has one API in two variants. ``relay_world`` is
:class:`~token_relay.simulation.testkit.virtual.VirtualWorld`: both agents' real code in virtual
time, no network, no process, 36 hours in a few milliseconds. ``relay_sandbox`` is
:class:`~token_relay.simulation.testkit.sandbox.SandboxWorld`: the programs themselves as processes, real sockets, real
time. The fixtures are in :mod:`token_relay.simulation.pytest_plugin`; ``docs/testing-your-app.md`` has examples.

Methods that act are coroutines, for any event loop; the one exception is :meth:`Device.get_token`, which is a plain
call like :func:`token_relay.cli.client.get_token`. A refusal of an agent is a
:class:`~token_relay.cli.client.ClientError`, as at its control socket; an impossible request is a ValueError that lists
the possible ones.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from token_relay.cli.client import JsonObject
from token_relay.protocol.handoff import Strategy
from token_relay.sandbox.links.orders import LINK_NAMES, Direction, How

T = TypeVar("T")
U = TypeVar("U")
Json = dict[str, Any]
Ask = Callable[[str, str, Mapping[str, object] | None], Awaitable[Json]]

POLL_S = 0.1
HANDOFF_WAIT_S = 60.0
REVOKE_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """The token API's answer: HTTP status and body. True when there is a token, which ``repr`` never shows."""

    status: int
    body: JsonObject = field(repr=False)

    @property
    def is_granted(self) -> bool:
        """Whether there is an access token."""
        return self.status == 200

    @property
    def access_token(self) -> str:
        """The access token, or an empty string."""
        return self._text("access_token")

    @property
    def expires_at(self) -> datetime | None:
        """The token's end by the device's clock, aware UTC; None without a token."""
        text = self._text("expires_at")
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) if text else None

    @property
    def error(self) -> str:
        """``reauth_required``, ``locked``, ``denied``, ``offline``, ``not_found``, ``busy``, or an empty string."""
        return self._text("error")

    @property
    def detail(self) -> str:
        """Why there is no token, in words."""
        return self._text("detail")

    @property
    def action(self) -> str:
        """The one thing that would change it."""
        return self._text("action")

    def _text(self, name: str) -> str:
        value = self.body.get(name)
        return value if isinstance(value, str) else ""

    def __bool__(self) -> bool:
        return self.is_granted

    def __repr__(self) -> str:
        said = f"until {self.expires_at:%Y-%m-%d %H:%M:%S} UTC" if self.is_granted else f"{self.error}: {self.detail}"
        return f"<TokenAnswer {self.status}, {said}>"


class Links:
    """The four links between the two devices and the two servers.

    ``phone-broker``, ``companion-broker``, ``phone-provider``, ``companion-provider``. A device or a server means both
    of its links, ``all`` means all four.
    """

    names: tuple[str, ...] = LINK_NAMES

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def cut(self, *names: str, how: How = "refuse", direction: Direction = "both") -> None:
        """Cut links at once. ``how="drop"``: nothing is reset and nothing arrives, which is noticed late or never;
        with it, ``direction`` may be ``up`` (from the device) or ``down``."""  # fmt: skip
        await self._order(names, {"do": "cut", "how": how, "direction": direction})

    async def heal(self, *names: str) -> None:
        """Undo cuts and slowness of links."""
        await self._order(names, {"do": "heal"})

    async def slow(self, *names: str, latency_s: float) -> None:
        """Delay everything on these links by ``latency_s``, each way."""
        await self._order(names, {"do": "slow", "latency_s": latency_s})

    async def state(self, name: str) -> str:
        """Return ``whole``, ``slow`` or ``cut``."""
        (one,) = self._spelled((name,)) if name in self.names else ("",)
        if not one:
            raise ValueError(f"there is no link {name!r}; there are {', '.join(self.names)}")
        found = await self._ask("GET", "links", None)
        return next(str(row["state"]) for row in found["links"] if row["name"] == name)

    async def _order(self, names: tuple[str, ...], order: Mapping[str, object]) -> None:
        for name in self._spelled(names):
            await self._ask("POST", "links", {"link": name, **order})

    def _spelled(self, names: tuple[str, ...]) -> list[str]:
        found: list[str] = []
        for name in names or ("",):
            fits = [one for one in self.names if name in (one, "all", *one.split("-"))]
            if not fits:
                known = ", ".join(self.names)
                what = f"there is no link {name!r}" if name else "name a link"
                raise ValueError(f"{what}; there are {known}, and phone, companion, broker, provider, all")
            found += [one for one in fits if one not in found]
        return found


class ProviderControls:
    """The identity provider: the sandbox's, with its faults, its events, and its clock."""

    def __init__(self, ask: Ask, get: Callable[[str], Awaitable[int]]) -> None:
        self._ask = ask
        self._get = get

    async def lose_next_answer(self, times: int = 1) -> None:
        """Carry out the next refresh and lose the answer: the provider has rotated, the device cannot know."""
        await self.fault("drop_after_commit", times=times, grant_type="refresh_token")

    async def lose_next_request(self, times: int = 1) -> None:
        """Lose the next refresh on its way: the provider has done nothing, the device cannot know."""
        await self.fault("drop_before_commit", times=times, grant_type="refresh_token")

    async def fault(self, name: str, *, times: int = 1, **fields: object) -> None:
        """Arm a fault of the sandbox for the next requests: ``docs/spec/sandbox.md`` names all.

        ``fields``: ``grant_type`` or ``endpoint`` (which requests), ``seconds``, ``retry_after_s``, ``committed`` …
        """
        await self._ask("POST", "faults", {"name": name, "times": times, **fields})

    async def clear_faults(self) -> None:
        """Forget all faults that no request has met."""
        await self._ask("DELETE", "faults", None)

    async def revoke(self, username: str = "password@contoso.example") -> None:
        """Revoke all that a person has signed in to, as an administrator does."""
        await self._ask("POST", "revoke", {"username": username})

    async def set_policy(self, **knobs: object) -> None:
        """Change lifetimes and the leeway: ``access_token_lifetime_s=60``; the sandbox's page has the knobs."""
        await self._ask("POST", "policy", knobs)

    async def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Put only the provider's clock forward: its tokens end sooner than the devices think."""
        await self._ask("POST", "clock", {"advance_s": seconds_of(days, hours, minutes, seconds)})

    async def accepts(self, answer: TokenAnswer | str) -> bool:
        """Return whether an API of this provider accepts an access token now."""
        token = answer if isinstance(answer, str) else answer.access_token
        return await self._get(token) == 200

    async def events(self, kind: str = "", *, after: int = 0) -> list[Json]:
        """Return the provider's events, oldest first, or only one kind; never a token."""
        found: list[Json] = (await self._ask("GET", f"events?after={after}", None))["events"]
        return [event for event in found if kind in ("", event["kind"])]

    async def count(self, kind: str) -> int:
        """Return how often this has happened: ``refresh_committed``, ``reuse_detected``, …"""
        return len(await self.events(kind))

    async def mark(self) -> int:
        """Return the number of the last event, for :meth:`events` to look for later ones only."""
        return int((await self._ask("GET", "state", None))["last_event_id"])


class Device(ABC):
    """A phone or a companion: its agent, its power, and the apps on it."""

    name: str

    @property
    @abstractmethod
    def is_on(self) -> bool:
        """Whether its agent runs."""

    @property
    @abstractmethod
    def token_socket(self) -> Path:
        """The socket for apps on the device: HTTP/1.1, ``GET /v1/token``. It is closed while the device is off."""

    @abstractmethod
    async def start(self) -> None:
        """Start the agent; return when it has picked up its work, connected if the broker can be reached."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop the agent cleanly, as the service manager does."""

    @abstractmethod
    async def crash(self) -> None:
        """Cut the power: everything that is not on disk is gone."""

    async def restart(self, *, clean: bool = False) -> None:
        """Cut the power (``clean``: stop it cleanly), and start again."""
        await (self.stop() if clean else self.crash())
        await self.start()

    @abstractmethod
    async def status(self) -> Json:
        """Return what ``token-relay … status --json`` prints."""

    async def action(self) -> str:
        """Return the slug of the one thing that a person must do now, or an empty string."""
        found = (await self.status())["action"]
        return "" if found is None else str(found["slug"])

    async def token(self, **query: object) -> TokenAnswer:
        """Ask for an access token as an app on this device does. A refusal is an answer, not an exception.

        ``query``: ``min_valid_s``, ``timeout_s``, ``scope``, ``account``, ``audience``, ``force_refresh=True``.
        """
        spelled = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in query.items()}
        return TokenAnswer(*await self._ask_token(spelled))

    @abstractmethod
    def get_token(self, query: Mapping[str, str] | None = None, *, timeout_s: float = 10.0) -> tuple[int, JsonObject]:
        """Ask like :func:`.cli.client.get_token`, without its path: a plain call that returns HTTP status and body."""

    @abstractmethod
    async def _ask_token(self, query: Mapping[str, str]) -> tuple[int, JsonObject]: ...


class Phone(Device):
    """The phone, and the person who holds it."""

    @abstractmethod
    async def sign_in(self, username: str = "") -> None:
        """Sign a person in, by password or page as the provider requires."""

    @abstractmethod
    async def hand_off(
        self,
        device: str = "watch",
        *,
        strategy: Strategy | None = None,
        lease_days: int | None = None,
        wait_s: float = HANDOFF_WAIT_S,
    ) -> str:
        """Hand a grant to the companion; return the handoff's state: ``done`` when it is on the companion's disk.

        Where the provider asks the person once more (``mint``), they sign in.
        """

    @abstractmethod
    async def cancel(self, device: str = "watch") -> str:
        """Give up an open handoff; return its state."""

    @abstractmethod
    async def revoke(self, device: str = "watch", *, wait_s: float = REVOKE_WAIT_S) -> bool:
        """Take the companion's grants away; return whether it has confirmed. If not, REVOKE waits for it."""


class Companion(Device):
    """The companion, which needs no phone after the handoff."""

    async def crash_in_refresh(self, *, committed: bool = True) -> None:
        """Make it refresh now, and cut the power before the answer is on its disk; it stays off until :meth:`start`.

        ``committed``: the provider has rotated the token by then; else the request was lost with the power.
        """
        await self._crash_at(f"hold_{'after' if committed else 'before'}_commit")

    @abstractmethod
    async def _crash_at(self, fault: str) -> None: ...


class RelayWorld(ABC):
    """Two devices, paired and on, without a sign-in; one broker, one provider."""

    flavour: Literal["virtual", "sandbox"]
    profile: str
    """The kind of provider."""
    phone: Phone
    companion: Companion
    provider: ProviderControls
    links: Links

    @abstractmethod
    async def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let time pass for everybody, with all that happens in it. Virtual time only."""

    @property
    @abstractmethod
    def time_s(self) -> float:
        """The world's time in seconds since its beginning."""

    async def until(self, holds: Callable[[], Awaitable[U]], *, within_s: float = 30.0) -> U:
        """Ask again and again while the world's time passes, until the answer is true; return that answer.

        After a link is healed, it may take seconds: both ends wait longer after each failed attempt.

        Raises:
            TimeoutError: it was never true.
        """
        ends_at = self.time_s + within_s
        while not (answer := await holds()):
            if self.time_s >= ends_at:
                raise TimeoutError(f"not within {within_s:g} s; the last answer was {answer!r}")
            await self._pause()
        return answer

    @abstractmethod
    async def _pause(self) -> None: ...

    @abstractmethod
    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the world's time: in virtual time, its ``asyncio.sleep(3600)`` costs nothing."""

    @abstractmethod
    def close(self) -> None:
        """Switch everything off; the fixture calls it."""

    @abstractmethod
    def describe(self) -> str:
        """Return what has happened so far, for the report of a failed test."""


def seconds_of(days: float, hours: float, minutes: float, seconds: float) -> float:
    """Return a time span in seconds. Raises ValueError when it is not positive."""
    found = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    if found <= 0:
        raise ValueError("time only goes forward: days=, hours=, minutes= or seconds=, more than 0 together")
    return found


def control_answer(status: int, raw: bytes) -> Json:
    """Read an answer of the sandbox's control interface. Raises ValueError for a refusal."""
    found: Json = json.loads(raw)
    if status >= 400:
        names = f"; there are {', '.join(found['faults'])}" if "faults" in found else ""
        raise ValueError(f"{found.get('detail') or found.get('error')}{names}")
    return found


def event_line(event: Mapping[str, Any], began_at: float) -> str:
    """Return an event of the provider as one line, with its time from the beginning."""
    more = [f"{name}={event[name]}" for name in ("grant_type", "fault", "generation", "state") if event.get(name)]
    return f"{timedelta(seconds=round(event['at'] - began_at))!s:>18}  {event['kind']} {' '.join(more)}".rstrip()
