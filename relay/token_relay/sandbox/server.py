"""The sandbox provider over real HTTP: sockets, waiting and cutting connections around the pure core.

Invariants. A request whose client has gone before its commit commits nothing: the handler is cancelled by aiohttp
when the connection ends, and the commit itself never awaits. A commit whose answer could not be sent is noted as
``answer_lost``. Plain HTTP works on the loopback interface only; every other host needs TLS. The control interface
answers loopback peers only, and no web page of another origin.

Limits: the server does not notice a client that vanished without a FIN or RST before the kernel does. Request lines,
headers and bodies are bounded by aiohttp's and our own limits; there is no access log, since its lines would hold
codes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from types import TracebackType
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from token_relay.protocol.errors import ConfigError, LocalError
from token_relay.provider.http import is_loopback
from token_relay.sandbox.actions.runner import ActionRunner
from token_relay.sandbox.control.api import PREFIX, control
from token_relay.sandbox.control.links import LinkBook
from token_relay.sandbox.mqtt.record import BrokerRecord
from token_relay.sandbox.provider.core import Answer, Provider
from token_relay.sandbox.provider.faults import Admission, DriverWait
from token_relay.sandbox.provider.http_values import (
    BODY_BYTES_MAX,
    LOOPBACK_NAMES,
    JsonValue,
    Request,
    Response,
    json_response,
)
from token_relay.sandbox.provider.memory.signing import RsaSigner, Signer
from token_relay.sandbox.provider.memory.state import Assertions
from token_relay.sandbox.provider.memory.verdicts import ASKED_MAX, ActionWanted, Verdict
from token_relay.sandbox.provider.web.saml import SERVICE_PROVIDER_PATH
from token_relay.sandbox.provider.world.model import ProfileName, WorldModel
from token_relay.sandbox.provider.world.network_table import NetworkTable
from token_relay.sandbox.provider.world.rules import Rules, Urls

BODY_TIMEOUT_S = 10.0  # for a whole body to arrive
STOP_TIMEOUT_S = 0.5  # for open requests at the end; a test or a demo should not wait for its sandbox
log = structlog.get_logger()


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return the TLS settings, or None for plain HTTP.

    Raises:
        ConfigError: one of the two is missing, or they cannot be read or do not match.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigError("a TLS certificate and its key go together", hint="give both --tls-cert and --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # create_default_context would heed SSLKEYLOGFILE
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"cannot use the TLS certificate {cert} with the key {key}: {exc}") from exc
    return context


class SandboxServer:
    """The provider on a port, for as long as the ``async with`` lasts."""

    def __init__(
        self,
        world: WorldModel,
        profile: ProfileName,
        *,
        rng: Random,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        signer: Signer | None = None,
        wall: Callable[[], float] = time.time,
        cors_origins: frozenset[str] = frozenset(),
        rules: Rules | None = None,
        networks: NetworkTable | None = None,
        actions: ActionRunner | None = None,
        issuer_path: str = "",
    ) -> None:
        """Prepare; no port is bound yet. ``rules`` replace the profile's own. The server starts and stops ``actions``.

        Raises:
            ConfigError: plain HTTP was asked for on a host that is not loopback.
        """
        if tls is None and not is_loopback(host):
            raise ConfigError(
                f"plain HTTP is for the loopback interface only, not for {host}",
                hint="use 127.0.0.1, or give a certificate with --tls-cert and --tls-key",
            )
        self._world, self._profile, self._rng = world, profile, rng
        self._host, self._port, self._tls = host, port, tls
        self._signer, self._issuer_path = signer, issuer_path
        self.wall = wall
        self._cors_origins = cors_origins
        self._rules, self._networks, self._actions = rules, networks, actions
        self._runner: web.AppRunner | None = None
        self._provider: Provider | None = None
        self._changed = asyncio.Event()
        self.broker: BrokerRecord | None = None  # the control interface shows its record; may be set later
        self.links: LinkBook | None = None  # the control interface may cut its links; may be set later

    @property
    def provider(self) -> Provider:
        """The core, once started."""
        assert self._provider is not None, "start the server first"
        return self._provider

    @property
    def base_url(self) -> str:
        """Scheme, host and port, without a slash at the end, once started."""
        return self.provider.state.urls.base_url

    @property
    def port(self) -> int:
        """The port that was bound, once started."""
        port = urlsplit(self.base_url).port
        assert port is not None, "the base URL always has one"
        return port

    async def start(self) -> str:
        """Bind, accept requests and return :attr:`base_url`.

        Raises:
            ConfigError: the address cannot be bound.
        """
        if self._actions is not None:
            await self._actions.start()
        try:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            # A name for other machines is not an address of this one, so listen on all addresses. The control interface
            # listens there too, but answers loopback peers only.
            address = self._host if is_loopback(self._host) else ""
            sock = socket.create_server((address, self._port), family=family)
        except OSError as exc:
            raise ConfigError(f"cannot listen on {self._host}:{self._port}: {os.strerror(exc.errno or 0)}") from exc
        port = sock.getsockname()[1]
        shown = f"[{self._host}]" if ":" in self._host else self._host
        base_url = f"{'http' if self._tls is None else 'https'}://{shown}:{port}"
        urls = Urls(self._profile, base_url, self._world.tenant, self._issuer_path)
        signer = RsaSigner() if self._signer is None else self._signer
        self._provider = Provider(
            self._world,
            urls,
            self._rng,
            signer,
            now=self.wall(),
            rules=self._rules,
            cors_origins=self._cors_origins,
            networks=self._networks,
            has_actions=self._actions is not None,
            assertions=_assertions(),
        )
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=STOP_TIMEOUT_S)
        await self._runner.setup()
        await web.SockSite(self._runner, sock, ssl_context=self._tls).start()
        return base_url

    async def stop(self) -> None:
        """Close the port and all open connections; a request held before its commit commits nothing."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        if self._actions is not None:
            await self._actions.stop()

    async def __aenter__(self) -> SandboxServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def tell(self) -> None:
        """Wake every request that waits for a change; for callers that change :attr:`provider` themselves."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def now(self) -> float:
        """Return the provider's time."""
        return self.provider.time(self.wall())

    async def changed(self) -> None:
        """Wait for the next thing that happens here."""
        await self._changed.wait()

    def order(self, method: str, path: str, value: Mapping[str, JsonValue] | None = None) -> dict[str, JsonValue]:
        """Do what the control interface does for such a request, and return its answer; for callers in this process.

        Raises:
            LocalError: it refuses, and why.
        """
        body = json.dumps(value or {}).encode()
        request = Request(method, f"{PREFIX}{path}", body, {"content-type": "application/json"})
        answer = control(self.provider, request, self.wall(), broker=self.broker, links=self.links).response
        self.tell()
        is_text = answer.content_type.startswith("text/")
        found: dict[str, JsonValue] = {"text": answer.body.decode()} if is_text else json.loads(answer.body)
        if answer.status >= 400:
            raise LocalError(str(found.get("detail") or found.get("error")))
        return found

    # -- requests ----------------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await request.read()
        except TimeoutError:
            return _to_aiohttp(_problem("the body did not arrive in time", 408))
        except web.HTTPRequestEntityTooLarge:
            return _to_aiohttp(_problem(f"the body is longer than {BODY_BYTES_MAX} bytes", 413))
        headers = {name.lower(): value for name, value in request.headers.items()}
        if len(cookies := request.headers.getall("Cookie", [])) > 1:
            headers["cookie"] = "; ".join(cookies)  # HTTP/1.1 allows one, but some proxies split it
        value = Request(request.method, request.raw_path, body, headers, request.remote or "")
        if value.path.startswith(PREFIX) and value.path not in {f"{PREFIX}resource", SERVICE_PROVIDER_PATH}:
            return _to_aiohttp(await self._control(request, value))
        return await self._provide(request, value)

    async def _control(self, request: web.Request, value: Request) -> Response:
        origin = value.headers.get("origin")
        host = urlsplit(f"//{request.host}").hostname or ""
        if not is_loopback(request.remote or "") or host not in LOOPBACK_NAMES | {self._host}:
            return _problem("the control interface is for this machine only", 403)
        if origin is not None and origin != self.base_url:
            return _problem("the control interface is not for web pages", 403)
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        while True:
            changed = self._changed
            answer = control(self.provider, value, self.wall(), broker=self.broker, links=self.links)
            if value.method != "GET":
                self.tell()
            if not answer.is_empty or answer.wait_s == 0:
                return answer.response
            try:
                async with asyncio.timeout_at(began_at + answer.wait_s):
                    await changed.wait()
            except TimeoutError:
                return answer.response

    async def _provide(self, request: web.Request, value: Request) -> web.StreamResponse:
        provider = self.provider
        admission = provider.admit(value, self.wall())
        self.tell()
        was_committed = False
        try:
            if admission.wait_before is not None:
                await self._wait(admission.wait_before, admission)
            if admission.cut == "before" or _is_gone(request):
                raise ConnectionResetError
            answer = await self._commit(value, admission)
            was_committed = True
            self.tell()
            for record in answer.logs:
                log.info("tenant_log", type=record.type, log_id=record.log_id, **_flat(record.fields))
            if admission.wait_after is not None:
                await self._wait(admission.wait_after, admission)
            if admission.cut == "after" or _is_gone(request):
                raise ConnectionResetError
            if answer.response.raw and request.transport is not None:
                request.transport.write(answer.response.raw)
                request.transport.close()
                response = web.Response()  # goes nowhere: the connection ends
            else:
                response = _to_aiohttp(answer.response)
                await response.prepare(request)
                await response.write_eof()
            provider.answered(admission, answer, self.wall())
            self.tell()
            return response
        except (asyncio.CancelledError, ConnectionError) as exc:
            provider.lost(admission, self.wall(), was_committed=was_committed)
            self.tell()
            if isinstance(exc, asyncio.CancelledError):
                raise
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # goes nowhere: the connection is cut

    async def _commit(self, value: Request, admission: Admission) -> Answer:
        """Carry out a request; ask an Action again if the world changed meanwhile, ``ASKED_MAX`` times at most."""
        verdict: Verdict | None = None
        for _ in range(ASKED_MAX):
            try:
                return self.provider.commit(value, admission, self.wall(), verdict)
            except ActionWanted as wanted:
                assert self._actions is not None, "without Actions nobody is asked"
                verdict = await self._actions.ask(wanted.question)
        try:
            return self.provider.commit(value, admission, self.wall(), verdict)
        except ActionWanted:
            body: dict[str, JsonValue] = {
                "error": "temporarily_unavailable",
                "error_description": "the session changed again and again while an Action was asked",
            }
            return Answer(json_response(body, 503), ())

    async def _wait(self, wait: DriverWait, admission: Admission) -> None:
        try:
            async with asyncio.timeout(wait.seconds):
                while not (wait.can_be_released and self.provider.faults.release_count > admission.release_count):
                    await self._changed.wait()
        except TimeoutError:
            return


def _assertions() -> Assertions | None:
    """Return the signer of SAML assertions, or None when its library is not installed."""
    try:
        from token_relay.sandbox.saml_signing import SignxmlAssertions
    except ImportError:
        return None
    return SignxmlAssertions()


def _flat(fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a record's fields for the log, with those of ``details`` on the same level."""
    details = fields.get("details")
    more = details if isinstance(details, dict) else {}
    known = {name: value for name, value in fields.items() if name != "details"}
    return {**{f"details_{name}" if name in known else name: value for name, value in more.items()}, **known}


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _problem(detail: str, status: int) -> Response:
    body: dict[str, JsonValue] = {"error": "invalid_request", "detail": detail}
    return json_response(body, status)


def _to_aiohttp(response: Response) -> web.Response:
    answer = web.Response(status=response.status, body=response.body)
    if response.body:
        answer.headers["Content-Type"] = response.content_type
    for name, value in response.headers:
        answer.headers.add(name, value)  # there may be several cookies
    return answer
