"""A sandbox, web applications in Node, browsers that keep cookies, and people whose phone holds a grant."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urljoin

import aiohttp

from tests import node_packages
from tests.watchdog import HANG_S
from token_relay.host.http import AioHttp
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import session_transfer
from token_relay.provider.profile import AUTH0
from token_relay.sandbox.provider.world.auth0_clients import WEB_ID, WEB_SECRET
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD
from token_relay.sandbox.server import SandboxServer

HOPS_MAX = 12
PAT, RORY = "password@contoso.example", "reset@contoso.example"


@asynccontextmanager
async def sandbox(cors_origins: frozenset[str] = frozenset()) -> AsyncIterator[SandboxServer]:
    async with SandboxServer(DEFAULT_WORLD, "auth0", rng=Random(7), cors_origins=cors_origins) as server:
        yield server


@asynccontextmanager
async def node(
    script: Path, packages: Path, directory: Path, environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a copy of a script beside the installed packages, as somebody would who copied the example."""
    if not (directory / "node_modules").exists():
        (directory / "node_modules").symlink_to(packages / "node_modules")
    shutil.copy(script, directory)
    process = await asyncio.create_subprocess_exec(
        node_packages.program(),
        script.name,
        cwd=directory,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def web_application(script: Path, packages: Path, directory: Path, server: SandboxServer) -> AsyncIterator[str]:
    """Run a web application; yields its base URL. Its port has to be known to it beforehand."""
    port = free_port()
    environment = {
        "ISSUER": server.base_url,
        "CLIENT_ID": WEB_ID,
        "CLIENT_SECRET": WEB_SECRET,
        "SECRET": "a-cookie-secret-of-more-than-32-characters",
        "PORT": str(port),
    }
    async with node(script, packages, directory, environment) as process:
        assert process.stdout is not None
        async with asyncio.timeout(HANG_S):
            line = await process.stdout.readline()
        assert line.startswith(b"listening on"), line
        yield f"http://127.0.0.1:{port}"


@dataclass
class Visit:
    """One way of a browser: all addresses, and where it ended."""

    addresses: list[str] = field(default_factory=list)
    text: str = ""
    status: int = 0

    @property
    def forms(self) -> int:
        return self.text.count("<form")


class Visitor:
    """A browser with cookies of its own, which never fills in a form."""

    def __init__(self) -> None:
        self._cookies: dict[str, dict[str, str]] = {}  # by host and port, which is stricter than RFC 6265

    def give(self, url: str, name: str, value: str) -> None:
        """Put a cookie in, as a program does with its web view."""
        self._cookies.setdefault(url.split("/")[2], {})[name] = value

    async def visit(self, url: str, *, hops_max: int = HOPS_MAX) -> Visit:
        way = Visit()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            for _ in range(hops_max):
                way.addresses.append(url)
                mine = self._cookies.setdefault(url.split("/")[2], {})
                headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in mine.items())} if mine else {}
                async with session.get(url, headers=headers, allow_redirects=False) as answer:
                    for name, morsel in answer.cookies.items():
                        mine[name] = morsel.coded_value
                        if morsel["max-age"] == "0" or not morsel.coded_value:
                            del mine[name]
                    way.status = answer.status
                    if answer.status not in (302, 303):
                        way.text = await answer.text()
                        break
                    url = urljoin(url, answer.headers["Location"])
        return way


async def grant_of(server: SandboxServer, username: str) -> RefreshToken:
    """Have a person sign in on a native application."""
    form = {
        "grant_type": "password",
        "client_id": CLIENT_ID,
        "username": username,
        "password": PASSWORD,
        "scope": "openid profile email offline_access",
    }
    async with aiohttp.ClientSession() as session, session.post(f"{server.base_url}/oauth/token", data=form) as answer:
        body = await answer.json()
    return RefreshToken(body["refresh_token"])


async def transfer_token(server: SandboxServer, username: str) -> str:
    """Return a fresh session transfer token of this person, by the agents' own client."""
    http = AioHttp()
    try:
        outcome = await session_transfer.exchange(
            http,
            AUTH0,
            token_endpoint=f"{server.base_url}/oauth/token",
            client_id=CLIENT_ID,
            refresh_token=await grant_of(server, username),
            audience=session_transfer.audience_of(server.provider.state.urls.issuer),
        )
    finally:
        await http.close()
    assert isinstance(outcome, session_transfer.Exchanged) and outcome.token is not None, outcome
    return outcome.token.reveal()
