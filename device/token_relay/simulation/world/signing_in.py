"""Signs in at the sandbox provider: a person that answers the questions, and sign-ins without a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from token_relay.agents.elapsed import Stamp
from token_relay.agents.phone.account_choice import ALL
from token_relay.agents.phone.person import (
    NewGrant,
    Person,
    RedirectReceiver,
    RefusalNote,
    SignInLostError,
    SignInOptions,
)
from token_relay.agents.phone.provider_endpoints import discover
from token_relay.agents.phone.sign_in import ProviderSignIn
from token_relay.protocol.errors import LocalError, TransientError
from token_relay.protocol.secret import Code, IdToken
from token_relay.provider import discovery, oauth
from token_relay.provider.authorization import pkce_pair
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.provider.outcome import OutcomeUnknown, Refreshed, TokenOutcome
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.world.model import DEFAULT_USERS, PASSWORD
from token_relay.simulation.ports.provider import USERNAMES
from token_relay.simulation.ports.tiers import claims_of

NONCE = "nonce"  # the id_token's; one is enough, since sign-ins are not replayed here
REDIRECT_URI = "http://127.0.0.1:9999/callback"


class SimulatedPerson:
    """Implements :class:`token_relay.agents.phone.person.Person`: knows the password, and reads the mailbox."""

    def __init__(self, provider: Provider, username: str) -> None:
        self._provider = provider
        self._username = username

    @property
    def username(self) -> str:
        """Who they are."""
        return self._username

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        """Answer a question of a sign-in."""
        if kind == "password":
            return PASSWORD
        if kind == "code":
            sent = self._provider.state.mailboxes.get(self._username)
            return None if sent is None else sent.code.reveal()
        if kind == "choice":  # all where that is offered; else their own account, or the one that comes first
            texts = {one["text"]: str(one["value"]) for one in extra["choices"]}
            first, *_, last = texts.values()
            return last if last == ALL else texts.get(self._username, first)
        return None

    async def progress(self, step: dict[str, Any]) -> None:
        """Do nothing."""


class FormSignIn(ProviderSignIn):
    """Signs in as a browser would, by filling in the provider's page."""

    async def authenticate(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant:
        """Sign in with code and PKCE. Raises TransientError: a step of it failed."""
        metadata = await discover(self._http, self._settings)
        sent = Stamp.of(self._clock.now())
        username = options.username or (person.username if isinstance(person, SimulatedPerson) else USERNAMES[0])
        tokens = await self._fill_in(metadata, username)
        return NewGrant(tokens, metadata, sent, NONCE, is_otp=False, username=username)

    async def _fill_in(self, metadata: discovery.ProviderMetadata, username: str) -> Refreshed:
        verifier, challenge = pkce_pair(self._random.bytes(32))
        url = self._url(metadata, REDIRECT_URI, state="0123456789abcdef0123", nonce=NONCE, challenge=challenge)
        page = await self._http.request(HttpRequest("GET", url))
        # An id_token may tell a person's name only; a person types their user name all the same.
        typed = next((user.username for user in DEFAULT_USERS if user.name == username), username)
        sent = await self._answer(url, page, ("username", typed), ("password", PASSWORD))
        if isinstance(sent, HttpResponse) and sent.status == 200:
            sent = await self._answer(url, sent, ("action", "accept"))  # the person is asked for consent
        if not isinstance(sent, HttpResponse) or sent.status not in (302, 303):
            raise TransientError("the sign-in was not accepted")
        code = parse_qs(urlsplit(sent.headers["location"]).query)["code"][0]
        outcome = await self._redeem(metadata, REDIRECT_URI, Code(code), verifier)
        return _tokens(outcome, "the code was not redeemed")

    async def _answer(self, url: str, page: object, *typed: tuple[str, str]) -> HttpResponse | NotSent | AnswerLost:
        """Fill the form of a page in and send it."""
        cookie, html = "", ""
        if isinstance(page, HttpResponse) and page.status == 200:
            cookie, html = page.headers.get("set-cookie", "").partition(";")[0], page.body.decode()
        ticket, action = re.search(r'name="ticket" value="([^"]+)"', html), re.search(r'action="([^"]+)"', html)
        if ticket is None or action is None:
            raise TransientError("the sign-in page did not come")
        headers = {"cookie": cookie} if cookie else {}
        form = (("ticket", ticket[1]), *typed)
        return await self._http.request(HttpRequest("POST", urljoin(url, action[1]), form=form, headers=headers))


class DirectSignIn(ProviderSignIn):
    """Signs in with the provider's core alone: no pages, and no signatures to check. It meets the same faults."""

    def __init__(self, *, metadata: discovery.ProviderMetadata, usual: str, **ports: Any) -> None:
        super().__init__(**ports)
        self._metadata = metadata
        self._usual = usual

    async def authenticate(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant:
        """Sign in, as ``usual`` unless the options name somebody. Raises TransientError: it failed."""
        username = options.username or self._usual
        sent = Stamp.of(self._clock.now())
        asked = HttpRequest("POST", f"{self._settings.url}/sign-in", form=(("username", username),))
        outcome = oauth.classify(self._settings.profile, await self._http.request(asked))
        tokens = _tokens(outcome, "the sign-in did not come about")
        return NewGrant(tokens, self._metadata, sent, None, is_otp=False, username=username)

    async def check(self, new: NewGrant) -> NewGrant:
        """Trust the id_token. Raises LocalError: something is missing."""
        if new.tokens.refresh_token is None or new.tokens.id_token is None:
            raise LocalError("the provider's answer cannot be used")
        return replace(new, subject=subject_of(new.tokens.id_token))


def subject_of(id_token: IdToken) -> str:
    """Return the subject of an id_token of :class:`token_relay.simulation.ports.tiers.PlainSigner`."""
    return str(claims_of(id_token.reveal())["sub"])


def no_browser(state: str) -> RedirectReceiver:
    """Refuse to wait for a browser."""
    raise LocalError("there is no browser in a simulation", hint="sign in as the profile does")


def _tokens(outcome: TokenOutcome, problem: str) -> Refreshed:
    if isinstance(outcome, OutcomeUnknown):
        raise SignInLostError("the answer to the sign-in was lost")
    if not isinstance(outcome, Refreshed):
        raise TransientError(problem)
    return outcome
