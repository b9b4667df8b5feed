"""Sign-in in the browser, by popup and by redirect, as a single-page application of the lab's own does it.

A plain link begins: the server makes state, nonce and the PKCE pair (RFC 7636), and sends the browser to the provider.
The way back comes from another page, so it has no cookie of ours: it is known by its state, which works once. The code
is exchanged here, by a live call. Where the answer leads is no address from outside: it is the attempt's own page.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from typing import Literal

from token_relay.pages.server import PageRoute
from token_relay.pages.token_words import Words, read
from token_relay.pages.visit import Answer, PageRequest
from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import Code
from token_relay.provider.authorization import authorization_url, pkce_pair
from token_relay.sandbox.lab.live import LiveCall
from token_relay.sandbox.lab.room import LabRoom, content, secret_in
from token_relay.sandbox.provider.world.model import ClientModel

ATTEMPTS_MAX = 16
LIFETIME_S = 600.0  # as the provider's login page
SCOPE = "openid profile offline_access"
Way = Literal["popup", "redirect"]
PEOPLE_SHOWN = 8


@dataclass(slots=True)
class Attempt:
    """One sign-in. ``outcome``: waits, done or refused; ``why`` says what went wrong."""

    attempt_id: str
    way: Way
    began_at: float
    redirect_uri: str
    nonce: str
    code_verifier: Code
    state: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    outcome: Literal["waits", "done", "refused"] = "waits"
    why: str = ""
    call: LiveCall | None = None
    tokens: int = 0


class BrowserPages:
    """``browser`` explains and begins, ``browser/callback`` is the way back, ``browser/attempts/ID`` how it ended."""

    def __init__(self, room: LabRoom) -> None:
        self._room = room
        self._attempts: dict[str, Attempt] = {}

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            PageRoute("browser", self._page),
            PageRoute("browser/begin", self._begin),
            PageRoute("browser/callback", self._callback, comes_from_elsewhere=True),
            PageRoute("browser/attempts/{id}", self._attempt),
        )

    async def _page(self, visit: PageRequest) -> Answer:
        people = [*self._room.state.users.values()][:PEOPLE_SHOWN]
        return visit.page(
            "browser.html",
            texts=content("lessons")["browser"],
            popup_id=self._new_id(visit.now),
            redirect_id=secrets.token_hex(8),
            people=people,
        )

    def _new_id(self, now: float) -> str:
        for old in [one for one in self._attempts.values() if one.began_at + LIFETIME_S < now]:
            del self._attempts[old.attempt_id]
        return secrets.token_hex(8)

    async def _begin(self, visit: PageRequest) -> Answer:
        """Send the browser to the provider; the page that has the link knows the attempt's id already."""
        way: Way = "popup" if visit.query.get("way") == "popup" else "redirect"
        attempt_id = visit.query.get("id", "")
        if len(attempt_id) != 16 or not attempt_id.isalnum() or attempt_id in self._attempts:
            attempt_id = secrets.token_hex(8)
        origin = f"http://{visit.request.host}"
        verifier, challenge = pkce_pair(secrets.token_bytes(32))
        attempt = Attempt(
            attempt_id, way, visit.now, f"{origin}{visit.root}browser/callback", secrets.token_urlsafe(16), verifier
        )
        while len(self._attempts) >= ATTEMPTS_MAX:
            del self._attempts[next(iter(self._attempts))]
        self._attempts[attempt_id] = attempt
        self._register(attempt.redirect_uri)
        url = authorization_url(
            authorization_endpoint=self._room.state.urls.url("authorize"),
            client_id=self._room.client_id,
            redirect_uri=attempt.redirect_uri,
            scope=SCOPE,
            state=attempt.state,
            nonce=attempt.nonce,
            code_challenge=challenge,
            prompt="login",
        )
        return visit.leave(url)

    def _register(self, redirect_uri: str) -> None:
        """Register the lab's own public client in the running sandbox, with this address."""
        client = ClientModel(
            client_id=self._room.client_id,
            name="The lab's single-page application",
            redirect_uris=[redirect_uri],
            native_auth=False,
            spa=True,
            app_type="spa",
        )
        self._room.state.clients[client.client_id] = client

    async def _callback(self, visit: PageRequest) -> Answer:
        given = visit.query.get("state", "")
        attempt = next(
            (
                one
                for one in self._attempts.values()
                if hmac.compare_digest(one.state.encode(), given.encode()) and one.outcome == "waits"
            ),
            None,
        )
        if attempt is None or visit.is_post or attempt.began_at + LIFETIME_S < visit.now:
            return visit.refuse(400, "this sign-in is over, or was not begun here", is_in=False)
        if error := visit.query.get("error", ""):
            attempt.outcome, attempt.why = "refused", f"{error}: {visit.query.get('error_description', '')}"[:500]
        else:
            attempt.outcome = "refused"  # until the exchange says otherwise: a state works once
            await self._exchange(attempt, visit.query.get("code", ""), origin=f"http://{visit.request.host}")
        window = "?window=popup" if attempt.way == "popup" else ""
        return visit.onward(f"browser/attempts/{attempt.attempt_id}{window}")

    async def _exchange(self, attempt: Attempt, code: str, *, origin: str) -> None:
        """Change the code for tokens, and look at the id_token. RFC 6749 §4.1.3, OpenID Connect Core §3.1.3.7."""
        form = {
            "grant_type": "authorization_code",
            "client_id": self._room.client_id,
            "code": code,
            "redirect_uri": attempt.redirect_uri,
            "code_verifier": attempt.code_verifier.reveal(),
        }
        path = self._room.state.urls.url("token").removeprefix(self._room.sandbox.base_url)
        # entra lets a page redeem what a single-page application was given, and marks pages by their Origin
        call, body = await self._room.live.call("POST", path, form, {"Origin": origin})
        attempt.call = call
        if not secret_in(body, "access_token"):
            attempt.why = str(body.get("error", "no tokens came"))
            return
        words = read(str(body.get("id_token", "")))
        if words is None:
            attempt.why = "the answer has no id_token"
            return
        attempt.why = self._wrong(attempt, words)
        if attempt.why:
            return
        claims = words.claims
        name = str(claims.get("preferred_username") or claims.get("name") or claims.get("sub") or "")
        kept = self._room.memory.keep(
            body, how=attempt.way, username=name, client_id=self._room.client_id, at=call.at, trace_id=call.trace_id
        )
        attempt.outcome, attempt.tokens = "done", kept.number
        self._room.memory.done.add(attempt.way)

    def _wrong(self, attempt: Attempt, words: Words) -> str:
        """Return what is wrong with an id_token that came straight from the token endpoint; empty when nothing is."""
        wanted = {"iss": self._room.state.urls.issuer, "aud": self._room.client_id, "nonce": attempt.nonce}
        return next(
            (f"the id_token's {name} is another one" for name, one in wanted.items() if words.claims.get(name) != one),
            "",
        )

    async def _attempt(self, visit: PageRequest) -> Answer:
        attempt = self._attempts.get(visit.part("id"))
        if attempt is None:
            raise LocalError("this sign-in was not begun, or is forgotten", hint="begin again on the page Browser")
        return visit.page("attempt.html", attempt=attempt, is_popup=visit.query.get("window") == "popup")
