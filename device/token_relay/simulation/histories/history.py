"""A readable history of one run, and its hash: same seed, same history.

:class:`HistoryDigest` folds everything an observer sees into one digest. :class:`History` keeps one line an event, for
a person who looks at a broken promise; it opens messages to name them, so it is used only when somebody reads.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping

from token_relay.agents.ports import Record
from token_relay.agents.records import CompanionHandoff, Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.protocol.topics import parse_topic
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.simulation.observer import Observer, Tables
from token_relay.simulation.promises.ledger import changed, form_of

LINES_SHOWN = 40
LINES_KEPT = 100_000
SHOWN: tuple[type[Record], ...] = (PhoneHandoff, CompanionHandoff, Grant, Pairing, Outgoing)


class HistoryDigest(Observer):
    """A digest over every event. Two runs of one seed have the same; nothing in it depends on memory addresses."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def hex(self) -> str:
        """Return the digest so far."""
        return self._hash.hexdigest()

    def _add(self, *parts: object) -> None:
        for part in parts:
            self._hash.update(part if isinstance(part, bytes) else str(part).encode())
            self._hash.update(b"\0")

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        self._add("commit", end)
        for record in sorted(after, key=lambda kind: kind.table):
            for _, row in changed(before, after, record):
                self._add(record.table, row)

    def stopped(self, end: str, *, crashed: bool) -> None:
        self._add("stop", end, crashed)

    def restored(self, end: str, tables: Tables) -> None:
        self._add("restore", end)

    def published(self, end: str, topic: str, payload: bytes) -> None:
        self._add("publish", end, topic, payload)

    def delivered(self, end: str, topic: str, payload: bytes) -> None:
        self._add("deliver", end, topic, payload)

    def acknowledged(self, end: str, topic: str, payload: bytes) -> None:
        self._add("puback", end, topic, payload)

    def requested(self, end: str, request: HttpRequest) -> None:
        self._add("request", end, request.method, request.url)

    def answered(self, end: str, request: HttpRequest, answer: HttpResponse | NotSent | AnswerLost) -> None:
        self._add("answer", end, answer.status if isinstance(answer, HttpResponse) else answer)

    def provider_said(self, event: Mapping[str, object]) -> None:
        self._add("provider", sorted(event.items()))

    def served(self, end: str, query: TokenQuery, answer: TokenGranted | TokenRefused) -> None:
        self._add("serve", end, query, answer)

    def advanced(self, seconds: float) -> None:
        self._add("time", seconds)


class History(Observer):
    """One line per event. ``type_of`` names a message; ``time_of`` is the world's time in seconds."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.type_of: Callable[[bytes], str] = lambda payload: ""
        self.time_of: Callable[[], float] = lambda: 0.0
        self.names: Callable[[], Mapping[str, str]] = dict

    def note(self, line: str, end: str = "") -> None:
        """Add a line."""
        self.lines.append(f"{_clock(self.time_of())}  {end:7}  {line}")

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        for record in SHOWN:
            for was, row in changed(before, after, record):
                if line := _row(was, row):
                    self.note(f"disk: {line}", end)

    def stopped(self, end: str, *, crashed: bool) -> None:
        self.note("POWER CUT" if crashed else "stopped", end)

    def restored(self, end: str, tables: Tables) -> None:
        self.note("the disk is as it was before: older image, or commits lost", end)

    def published(self, end: str, topic: str, payload: bytes) -> None:
        self.note(f"sends {self._name(topic, payload)}", end)

    def delivered(self, end: str, topic: str, payload: bytes) -> None:
        self.note(f"gets {self._name(topic, payload)}", end)

    def acknowledged(self, end: str, topic: str, payload: bytes) -> None:
        """Write nothing: the commit that follows has its own line."""

    def requested(self, end: str, request: HttpRequest) -> None:
        form = form_of(request)
        what = form.get("grant_type") or request.url.rpartition("/")[2]
        self.note(f"asks the provider: {what}", end)

    def answered(self, end: str, request: HttpRequest, answer: HttpResponse | NotSent | AnswerLost) -> None:
        if isinstance(answer, HttpResponse):
            error = answer.body[:80].decode(errors="replace") if answer.status >= 400 else ""
            self.note(f"answer {answer.status} {error}".rstrip(), end)
        else:
            self.note(f"no answer: {type(answer).__name__} ({answer.reason})", end)

    def provider_said(self, event: Mapping[str, object]) -> None:
        shown = ("family", "generation", "used_generation", "reason", "username")
        if event.get("kind") not in ("token_request_received", "request_held"):
            found = " ".join(f"{name}={event[name]}" for name in shown if name in event)
            self.note(f"{event.get('kind')} {found}", "provider")

    def served(self, end: str, query: TokenQuery, answer: TokenGranted | TokenRefused) -> None:
        said = "an access token" if isinstance(answer, TokenGranted) else f"{answer.error}: {answer.detail}"
        self.note(f"gives an app {said}", end)

    def advanced(self, seconds: float) -> None:
        """Write nothing: every line has its time."""

    def tail(self, count: int = LINES_SHOWN) -> list[str]:
        """Return the last lines."""
        return list(self.lines)[-count:]

    def _name(self, topic: str, payload: bytes) -> str:
        parsed = parse_topic(topic)
        sender = getattr(parsed, "sender", "")
        recipient = getattr(parsed, "recipient", "")
        names = self.names()
        route = f" {names.get(sender, sender[:6])} -> {names.get(recipient, recipient[:6])}" if sender else ""
        return f"{self.type_of(payload) or 'a pairing message'}{route}"


def _clock(seconds: float) -> str:
    days, rest = divmod(seconds, 86_400.0)
    hours, rest = divmod(rest, 3600.0)
    minutes, rest = divmod(rest, 60.0)
    return f"{int(days):3}d {int(hours):02}:{int(minutes):02}:{rest:06.3f}"


def _row(was: Record | None, row: Record | None) -> str:
    """Return what a commit did to one row, if that matters for the protocol."""
    shown = row or was
    gone = " deleted" if row is None else ""
    match shown:
        case PhoneHandoff():
            text = f"handoff {shown.handoff_id[:6]} {shown.state} {shown.reason} {shown.strategy}"
            text += f" orphans={shown.orphans}" if shown.orphans else ""
        case CompanionHandoff():
            text = f"handoff {shown.handoff_id[:6]} {shown.state} {shown.reason}"
        case Grant():
            text = f"grant {shown.grant_id[:6]} {shown.state} {shown.reason} generation {shown.generation}"
            text += "" if shown.refresh_token is not None else ", no token"
        case Pairing():
            text = f"pairing {shown.pairing_id[:6]} {shown.state} rollback={shown.rollback or 'no'}"
            is_same = isinstance(was, Pairing) and (was.state, was.rollback) == (shown.state, shown.rollback)
            if row is not None and is_same:
                return ""
        case Outgoing():
            text = f"outbox {shown.type} {shown.handoff_id[:6]}"
            gone = " settled" if row is None else ""
        case _:
            return ""
    return f"{text}{gone}"
