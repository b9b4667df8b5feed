"""A provider of a drawn behaviour, in process and in virtual time, and a person with a browser of two windows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.person import CodeReceived, NotAccepted, SignInOptions, SignInRefused
from token_relay.agents.phone.sign_in import ProviderSignIn
from token_relay.agents.ports import Now, Signal
from token_relay.agents.probe.driver import Probe
from token_relay.protocol.secret import Code, Secret
from token_relay.provider.http import HttpRequest, HttpResponse
from token_relay.provider.profile import profile_for
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.http_values import Request, Response
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.model import (
    CLIENT_ID,
    DEFAULT_USERS,
    PASSWORD,
    BehaviourModel,
    ClientModel,
    PolicyModel,
    WorldModel,
)
from token_relay.sandbox.provider.world.rules import Urls

NOON = 1_800_000_000.0
BASE = "https://id.example"
SIGNER = RsaSigner()
USERNAME = "password@contoso.example"
FORM = "application/x-www-form-urlencoded"
REDIRECT_URI = "http://127.0.0.1:9999/callback"


class VirtualClock:
    """Time passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.pauses: list[float] = []

    def now(self) -> Now:
        return Now("boot", self.elapsed_s, NOON + self.elapsed_s, is_synced=True)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.elapsed_s += seconds

    async def wait(self, event: Signal, seconds: float) -> bool:
        await self.sleep(seconds)
        return event.is_set()


class SeededRandom:
    """The same values each time."""

    def __init__(self) -> None:
        self._rng = Random(7)  # no secret

    def bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._rng.uniform(low, high)


class CoreHttp:
    """The provider's core as an Http port; keeps what was asked."""

    def __init__(self, provider: Provider, clock: VirtualClock) -> None:
        self._provider = provider
        self._clock = clock
        self.requests: list[HttpRequest] = []

    async def request(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        answer = self.carry_out(request)
        headers = {name.lower(): value for name, value in answer.headers}
        return HttpResponse(answer.status, {"content-type": answer.content_type, **headers}, answer.body)

    def carry_out(self, request: HttpRequest) -> Response:
        parts = urlsplit(request.url)
        headers = dict(request.headers)
        if request.authorization is not None:
            headers["authorization"] = request.authorization.reveal()
        body = b""
        if request.form is not None:
            headers["content-type"] = FORM
            pairs = [(name, value.reveal() if isinstance(value, Secret) else value) for name, value in request.form]
            body = urlencode(pairs).encode()
        target = f"{parts.path}{'?' if parts.query else ''}{parts.query}"
        asked, now = Request(request.method, target, body, headers), NOON + self._clock.elapsed_s
        return self._provider.commit(asked, self._provider.admit(asked, now), now).response


class Receiver:
    """Where the browser comes back to."""

    redirect_uri = REDIRECT_URI

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def wait(self) -> CodeReceived | SignInRefused | NotAccepted:
        return CodeReceived(Code(self._browser.codes.pop()))


class Browser:
    """A person, and their browser: a jar of cookies for each window. ``stops_at``: the sign-in they do not want."""

    def __init__(self, http: CoreHttp, *, stops_at: int = 0, one_window: bool = False) -> None:
        self._http = http
        self._jars: dict[str, dict[str, str]] = {}
        self._stops_at = stops_at
        self._one_window = one_window
        self.codes: list[str] = []
        self.windows: list[str] = []
        self.questions: list[str] = []
        self.said: list[str] = []

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        self.questions.append(text)
        if kind == "confirm":
            return None if len(self.windows) + 1 == self._stops_at else "yes"
        assert kind == "browser"
        window = extra["window"]
        self.windows.append(window)
        self._visit(extra["url"], self._jars.setdefault("usual" if self._one_window else window, {}))
        return "shown"

    async def progress(self, step: dict[str, Any]) -> None:
        self.said.append(step["message"])

    def _visit(self, url: str, jar: dict[str, str]) -> None:
        answer = self._load(HttpRequest("GET", url), jar)
        for _ in range(5):
            if answer.status == 303 and (location := dict(answer.headers)["Location"]).startswith(REDIRECT_URI):
                self.codes.append(parse_qs(urlsplit(location).query)["code"][0])
                return
            html = answer.body.decode()
            action, ticket = re.search(r'action="([^"]+)"', html), re.search(r'name="ticket" value="([^"]+)"', html)
            assert action is not None and ticket is not None, html
            fields = (("ticket", ticket[1]), ("username", USERNAME), ("password", PASSWORD), ("action", "accept"))
            answer = self._load(HttpRequest("POST", urljoin(url, action[1]), form=fields), jar)
        raise AssertionError("the sign-in does not end")

    def _load(self, request: HttpRequest, jar: dict[str, str]) -> Response:
        cookies = {"cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
        answer = self._http.carry_out(HttpRequest(request.method, request.url, form=request.form, headers=cookies))
        for name, value in answer.headers:
            if name.lower() == "set-cookie":
                pair, equals, cookie = value.partition(";")[0].partition("=")
                assert equals
                jar[pair] = cookie
        return answer


@dataclass
class Bench:
    """One provider with a probe before it."""

    provider: Provider
    clock: VirtualClock
    http: CoreHttp
    person: Browser
    probe: Probe


def bench(
    behaviour: BehaviourModel,
    policy: Mapping[str, Any],
    *,
    base: str = BASE,
    scopes: list[str] | None = None,
    **person: Any,
) -> Bench:
    world = WorldModel(
        users=list(DEFAULT_USERS),
        clients=[ClientModel(client_id=CLIENT_ID, scopes=scopes)],
        policy=PolicyModel(**policy),
        behaviour=behaviour,
    )
    urls = Urls("auth0", base, "contoso")  # the sandbox whose people have sessions in a browser
    clock = VirtualClock()
    provider = Provider(world, urls, Random(1), SIGNER, now=NOON)
    http = CoreHttp(provider, clock)
    browser = Browser(http, **person)
    issuer = urls.issuer
    settings = AccountSettings(
        url=issuer,
        client_id=CLIENT_ID,
        tenant=None,
        scope="openid profile offline_access",
        profile=profile_for(issuer),
        allow_refresh_token_access=False,
    )
    sign_in = ProviderSignIn(
        http=http, clock=clock, random=SeededRandom(), settings=settings, new_receiver=lambda state: Receiver(browser)
    )
    probe = Probe(http=http, clock=clock, sign_in=sign_in, settings=settings, options=SignInOptions(method="browser"))
    return Bench(provider, clock, http, browser, probe)


def measure(at: Bench, **options: Any) -> Any:
    """Run the probe to its end."""
    return asyncio.run(at.probe.run(at.person, **options))
