"""Tokens in words: what each answer gave, and what differs between two, before and after a renewal or of two people.

A page shows header and claims. The text itself comes on request, without its signature, and with it when asked again:
an access token is a key, and with its signature it opens. A refresh token is never shown.
"""

from __future__ import annotations

from token_relay.pages.server import PageRoute
from token_relay.pages.token_words import Words, difference, read, said
from token_relay.pages.visit import Answer, PageRequest
from token_relay.protocol.errors import LocalError
from token_relay.sandbox.lab.room import KeptTokens, LabRoom

KINDS = ("access_token", "id_token")


class TokenPages:
    """``tokens``, ``tokens/NUMBER`` and ``tokens/difference``."""

    def __init__(self, room: LabRoom) -> None:
        self._room = room

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            PageRoute("tokens", self._list),
            PageRoute("tokens/difference", self._difference),
            PageRoute("tokens/{number}", self._page),
        )

    async def _list(self, visit: PageRequest) -> Answer:
        return visit.page("tokens.html", kept=self._room.memory.tokens)

    async def _page(self, visit: PageRequest) -> Answer:
        kept = self._room.memory.tokens_of(visit.part("number"))
        words = {kind: _words(kept, kind) for kind in KINDS if getattr(kept, kind) is not None}
        raw, kind = "", visit.fields.get("raw", "")
        if visit.is_post and kind in words:  # the answer to a form is kept in no history, and no link leads to it
            raw = _text(kept, kind)
            if "signature" not in visit.fields:
                raw = f"{raw.rpartition('.')[0]}.(signature left out)" if words[kind] else ""
        told = {name: None if one is None else said(one, visit.now) for name, one in words.items()}
        return visit.page("token.html", kept=kept, told=told, raw=raw, raw_kind=kind)

    async def _difference(self, visit: PageRequest) -> Answer:
        kind = "id_token" if visit.query.get("kind") == "id_token" else "access_token"
        numbers = visit.query.get("before", ""), visit.query.get("after", "")
        if not all(numbers):
            newest = [str(one.number) for one in self._room.memory.tokens][:2][::-1]
            if len(newest) < 2:
                return visit.page("difference.html", kept=self._room.memory.tokens, kind=kind, pair=(), rows=None)
            numbers = newest[0], newest[1]
        pair = [self._room.memory.tokens_of(number) for number in numbers]
        words = [_words(one, kind) for one in pair]
        rows = None if words[0] is None or words[1] is None else difference(words[0], words[1], visit.now)
        return visit.page("difference.html", kept=self._room.memory.tokens, kind=kind, pair=pair, rows=rows)


def _text(kept: KeptTokens, kind: str) -> str:
    token = kept.id_token if kind == "id_token" else kept.access_token
    if token is None:
        raise LocalError(f"this answer had no {kind}")
    return token.reveal()


def _words(kept: KeptTokens, kind: str) -> Words | None:
    return None if getattr(kept, kind) is None else read(_text(kept, kind))
