"""What came out of one step against what a file expects: as a multiset, with placeholders bound on the way.

Messages are matched first, then the requests that are sent again as the same bytes, so that a file may expect both of
one message in one step. What is left over on either side is told in sentences.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.conversations.fits import faults_of_grant, protocol, requests, versions_of
from tests.conversations.laws import GRANT, NEW_ANSWER, SAME_BYTES, Law
from tests.conversations.peer import Peer, Sent, UnreadableError
from tests.conversations.values import Known, differences

SHOWN_MAX = 160
HEAD = ("type", "v", "in_reply_to")


@dataclass(frozen=True, slots=True)
class Came:
    """One thing that the end did outwards: a message, or that it begins to get a token."""

    place: int  # in `did`
    message: dict[str, Any]
    sent: Sent | None
    is_new: bool = True


def reduced(item: dict[str, Any], speaks: int) -> dict[str, Any]:
    """Return an expected message as an end says it that knows versions up to ``speaks`` only."""
    if "type" not in item or item["type"] not in protocol()["messages"]:
        return item
    version = max(v for v in versions_of(item["type"]) if v <= min(item.get("v", 1), speaks))
    later = {
        field["name"]
        for row in protocol()["messages"][item["type"]]["versions"]
        for field in row["fields"]
        if row["v"] > version
    }
    body = {name: value for name, value in item["body"].items() if name not in later}
    if "speaks" in body:
        body["speaks"] = speaks
    if "strategies" in body:
        body["strategies"] = "*"  # an end need not know every one
    return {**item, "v": version, "body": body}


def key_of(message: dict[str, Any]) -> tuple[str, str, str]:
    """Return what makes two requests the same: pairing, type and handoff."""
    if "mailbox" in message:
        return "", str(message["mailbox"]), ""
    return message["pairing_id"], message["type"], str(message["body"].get("handoff_id") or "")


class Matcher:
    """Compares one step's output. ``last`` is the bytes of the last message of each key, and is kept up to date."""

    def __init__(self, known: Known, peer: Peer, last: dict[tuple[str, str, str], str]) -> None:
        self._known = known
        self._peer = peer
        self._last = last
        self._lines: list[str] = []
        self._law: Law | None = None

    def match(
        self, expected: list[dict[str, Any]], came: list[Came], *, greetings_pass: bool
    ) -> tuple[list[str], Law | None]:
        """Return what differs, and the law that it breaks if that is another than the file's own."""
        left = list(came)
        unmet = [item for item in expected if "again" not in item and not self._take(item, left)]
        again = [item for item in expected if "again" in item]
        missing = [item for item in again if not self._take_again(item, left)]
        if greetings_pass:
            left = [one for one in left if not _is_greeting(one)]
        for item in missing:
            self._tell_again(item, left)
        for item in unmet:
            self._tell_unmet(item, left)
        for one in left:
            self._tell_unasked(one)
        for one in came:
            if one.sent is not None:
                self._last[key_of(one.message)] = one.sent.wire
        return self._lines, self._law

    # -- taking what fits

    def _take(self, item: dict[str, Any], left: list[Came]) -> bool:
        for one in left:
            if not one.is_new or not _is_alike(item, one):
                continue
            names = dict(self._known.names)
            if not self._differ(item, one):
                left.remove(one)
                if one.sent is not None:
                    self._last[key_of(one.message)] = one.sent.wire
                return True
            self._known.names = names
        return False

    def _take_again(self, item: dict[str, Any], left: list[Came]) -> bool:
        least, most = map(int, item.get("times", (1, 1)))
        wire = self._last.get(self._key(item))
        found = [one for one in left if one.sent is not None and one.sent.wire == wire and not one.is_new]
        for one in found[:most]:
            left.remove(one)
        return len(found) >= least

    def _key(self, item: dict[str, Any]) -> tuple[str, str, str]:
        kind, _, handoff = item["again"].partition(" ")
        if kind in ("PAIR1", "PAIR2", "ENDED", "DECLINED"):
            return "", kind, ""
        names = self._known.names
        return names.get(item.get("pairing", "$p1"), ""), kind, names.get(handoff, handoff)

    def _differ(self, item: dict[str, Any], one: Came) -> list[str]:
        if one.sent is None or "mailbox" in item:
            wanted = {name: value for name, value in item.items() if name not in ("pairing", "transcript")}
            return differences(wanted, {name: one.message.get(name) for name in wanted}, self._known)
        wanted = {"type": item["type"], "v": item.get("v", 1), "in_reply_to": item.get("in_reply_to")}
        actual = {name: one.message[name] for name in HEAD}
        wanted["pairing_id"], actual["pairing_id"] = item.get("pairing", "$p1"), one.message["pairing_id"]
        found = differences(wanted, actual, self._known)
        body, expected = dict(one.message["body"]), dict(item["body"])
        if isinstance(expected.get("sealed"), dict):
            expected["sealed"] = {"grant": expected["sealed"]["grant"]}
            try:
                grant = self._peer.grant(body["sealed"])
            except UnreadableError as error:
                return [*found, f"body.sealed: {error}"]
            if faults := faults_of_grant(grant):
                self._law = GRANT
                return [*found, *faults]
            body["sealed"] = {"grant": grant}
        return found + differences(expected, body, self._known, "body", one.message["seq"])

    # -- telling the rest

    def _tell_again(self, item: dict[str, Any], left: list[Came]) -> None:
        key = self._key(item)
        for one in left:
            if one.sent is not None and one.is_new and key_of(one.message) == key:
                left.remove(one)
                number = one.message.get("seq")
                self._say(f"{item['again']} was sent again as another envelope, number {number}", SAME_BYTES)
                return
        least = item.get("times", [1, 1])[0]
        times = "" if least == 1 else f", {least} times at least"
        self._say(f"expected {item['again']} again, the same bytes{times}", None)

    def _tell_unmet(self, item: dict[str, Any], left: list[Came]) -> None:
        self._say(f"expected {self._spelled(item)}", None)
        alike = [one for one in left if _is_alike(item, one)]
        if not alike:
            self._say(f"came     {'nothing of this kind' if left else 'nothing'}", None)
            return
        one = min(alike, key=lambda one: len(self._tried(item, one)))
        left.remove(one)
        if not one.is_new:
            self._say(f"came     {_said(one)}, the bytes of before", NEW_ANSWER)
            return
        self._say(f"came     {_said(one)}", None)
        for line in self._tried(item, one):
            self._say(f"  {line}", None)

    def _tell_unasked(self, one: Came) -> None:
        if one.sent is not None and one.message.get("type") in requests() and key_of(one.message) in self._last:
            law = SAME_BYTES if one.is_new else None
            how = "as another envelope" if one.is_new else "once more"
            self._say(f"was not expected: {_said(one)}, which was sent before and came {how}", law)
        else:
            self._say(f"was not expected: {_said(one)}", None)

    def _tried(self, item: dict[str, Any], one: Came) -> list[str]:
        names = dict(self._known.names)
        found = self._differ(item, one)
        self._known.names = names
        return found

    def _say(self, line: str, law: Law | None) -> None:
        self._lines.append(line)
        self._law = self._law or law

    def _spelled(self, item: dict[str, Any]) -> str:
        if "type" not in item:
            return json.dumps(item)
        reply = "" if item.get("in_reply_to") is None else f", in reply to {item['in_reply_to']}"
        return f"{item['type']} (version {item.get('v', 1)}{reply}) {_cut(item['body'])}"


def _is_alike(item: dict[str, Any], one: Came) -> bool:
    """Whether the two are of one kind, so that a comparison makes sense."""
    return all(item.get(name) == one.message.get(name) for name in ("type", "mailbox")) and (
        ("obtain" in item) == ("obtain" in one.message)
    )


def _is_greeting(one: Came) -> bool:
    return one.message.get("type") == "HELLO" and one.message["in_reply_to"] is None


def _said(one: Came) -> str:
    message = one.message
    if "type" not in message:
        return json.dumps(message)
    reply = "" if message["in_reply_to"] is None else f", in reply to {message['in_reply_to']}"
    return f"{message['type']} (version {message['v']}, number {message['seq']}{reply}) {_cut(message['body'])}"


def _cut(body: Any) -> str:
    text = json.dumps(body, ensure_ascii=False)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
