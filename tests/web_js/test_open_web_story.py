"""The whole way: a phone's agent with a grant, ``open-web``, and the example's web application, all real programs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import MozillaCookieJar
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.watchdog import HANG_S
from tests.web_js.web_kit import PAT, Visitor, grant_of, sandbox, web_application
from token_relay.sandbox.provider.world.model import CLIENT_ID
from token_relay.sandbox.server import SandboxServer

ROOT = Path(__file__).parents[2]
EXPRESS = ROOT / "docs" / "examples" / "express" / "app.mjs"
BROWSER = """\
import sys, urllib.request
from http.cookiejar import CookieJar
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
open(sys.argv[1], "w").write(sys.argv[2] + "\\n" + opener.open(sys.argv[2], timeout=60).read().decode())
"""


class Phone:
    """An agent in a home of its own, and its command line."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self._home = home
        self._environment = environment
        self.log = b""

    async def run(self, *words: str, given: bytes = b"") -> str:
        process = await self._start(*words, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(HANG_S):
            out, err = await process.communicate(given)
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def _start(self, *words: str, stderr: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "token_relay.cli", "phone", *words, "--home", str(self._home)),
            cwd=ROOT,
            env={**os.environ, **self._environment},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        agent = await self._start("run", stderr=asyncio.subprocess.PIPE)
        assert agent.stderr is not None
        async with asyncio.timeout(HANG_S):
            while b"agent_started" not in self.log:
                line = await agent.stderr.readline()
                assert line, self.log.decode()
                self.log += line
        try:
            yield
        finally:
            agent.terminate()
            _, rest = await agent.communicate()
            self.log += rest


async def signed_in(phone: Phone, server: SandboxServer) -> str:
    issuer = server.provider.state.urls.issuer
    await phone.run("init", "--provider", issuer, "--client-id", CLIENT_ID, "--broker", "mqtt://127.0.0.1:1")
    return (await grant_of(server, PAT)).reveal()


@pytest.mark.asyncio
async def test_open_web_signs_in_by_query_in_a_browser_and_by_cookie(packages: Path, tmp_path: Path) -> None:
    seen, script, jar = tmp_path / "seen", tmp_path / "browser.py", tmp_path / "jar"
    script.write_text(BROWSER)
    phone = Phone(tmp_path / "phone", {"BROWSER": f"{sys.executable} {script} {seen} %s"})
    async with sandbox() as server, web_application(EXPRESS, packages, tmp_path, server) as base:
        refresh_token = await signed_in(phone, server)
        async with phone.running():
            await phone.run("import", "--refresh-token-file", "-", given=refresh_token.encode())

            address = (await phone.run("open-web", f"{base}/login", "--print")).strip()
            assert (await Visitor().visit(address)).text == f"signed in as {PAT}\n"

            os.mkfifo(seen)  # the command does not wait for the browser, so the test does
            said = asyncio.create_task(asyncio.to_thread(seen.read_text))
            assert await phone.run("open-web", f"{base}/login") == ""
            started_with, text = (await said).split("\n", 1)
            assert text == f"signed in as {PAT}\n" and "session_transfer_token" not in started_with

            assert await phone.run("open-web", f"{base}/login", "--cookie-jar", str(jar)) == f"{base}/login\n"
            cookies = MozillaCookieJar()
            cookies.load(str(jar))
            view = Visitor()
            for cookie in cookies:
                assert cookie.domain == urlsplit(server.base_url).hostname and cookie.value is not None
                view.give(server.base_url, cookie.name, cookie.value)
            way = await view.visit(f"{base}/login")
            assert way.text == f"signed in as {PAT}\n"
            assert not any("session_transfer_token" in one for one in way.addresses)
    token = address.partition("session_transfer_token=")[2]
    assert token.encode() not in phone.log and refresh_token.encode() not in phone.log
