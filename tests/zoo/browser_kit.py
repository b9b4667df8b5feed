"""A phone whose sign-in is the one of production, with a browser that fills in the provider's page by itself."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urljoin, urlsplit

from tests.agents.world_kit import Nobody, SimulatedPhone, World
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.person import CodeReceived, RedirectReceiver, SignIn
from token_relay.agents.phone.sign_in import ProviderSignIn
from token_relay.protocol.secret import Code
from token_relay.provider.http import Http, HttpRequest, HttpResponse
from token_relay.sandbox.provider.world.model import PASSWORD
from token_relay.simulation.ports.provider import USERNAMES


class Browser(Nobody):
    """The person, the browser that they use, and the receiver of its redirect, in one object."""

    redirect_uri = "http://127.0.0.1:9999/callback"

    def __init__(self, http: Http) -> None:
        super().__init__(password=PASSWORD)
        self._http = http
        self._url = ""
        self.questions: list[str] = []

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        self.questions.append(str(kind))
        if kind == "browser":
            self._url = str(extra["url"])
            return ""
        return await super().ask(kind, text, **extra)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def wait(self) -> CodeReceived:
        page = await self._http.request(HttpRequest("GET", self._url))
        assert isinstance(page, HttpResponse) and page.status == 200
        ticket = re.search(rb'name="ticket" value="([^"]+)"', page.body)
        action = re.search(rb'action="([^"]+)"', page.body)
        assert ticket is not None and action is not None
        form = (("ticket", ticket[1].decode()), ("username", USERNAMES[0]), ("password", PASSWORD))
        sent = await self._http.request(HttpRequest("POST", urljoin(self._url, action[1].decode()), form=form))
        assert isinstance(sent, HttpResponse) and sent.status in (302, 303)
        return CodeReceived(Code(parse_qs(urlsplit(sent.headers["location"]).query)["code"][0]))


class BrowsingPhone(SimulatedPhone):
    browser: Browser

    def _new_sign_in(self, settings: AccountSettings) -> SignIn:
        browser = self.browser = Browser(self.http)

        def new_receiver(state: str) -> RedirectReceiver:
            return browser

        return ProviderSignIn(
            http=self.http, clock=self.clock, random=self.random, settings=settings, new_receiver=new_receiver
        )


class BrowsingWorld(World):
    """One phone that nobody has signed in on yet."""

    phone_type = BrowsingPhone

    @property
    def browsing(self) -> BrowsingPhone:
        phone = self.phone
        assert isinstance(phone, BrowsingPhone)
        return phone
