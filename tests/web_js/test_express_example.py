"""The Express example as its README tells it, word for word: what a newcomer has is that page and the folder."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests import needs, node_packages
from tests.providers.browsers import ElsewhereError, FormBrowser
from tests.watchdog import HANG_S
from tests.web_js.web_kit import Visitor, free_port, sandbox
from token_relay.cli import main as cli
from token_relay.sandbox.server import SandboxServer

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "docs" / "examples" / "express"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
PROVIDER, APPLICATION, SIGNED_IN = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
pytestmark = pytest.mark.asyncio


async def bash(script: str, directory: Path) -> asyncio.subprocess.Process:
    """Begin to run what somebody has typed in, in a process group of its own."""
    path = f"{Path(node_packages.program()).parent}{os.pathsep}{os.environ['PATH']}"
    return await asyncio.create_subprocess_exec(
        "bash",
        *("-euc", script),
        cwd=directory,
        env={"PATH": path, "HOME": str(directory)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


@asynccontextmanager
async def application(server: SandboxServer, packages: Path, directory: Path) -> AsyncIterator[dict[str, str]]:
    """Do what the page says, with other ports; yields what became of its two addresses."""
    command, run = APPLICATION.split("\n", 1)
    wanted = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert command.split()[:2] == ["npm", "install"] and set(command.split()[2:]) <= set(wanted)
    (directory / "node_modules").symlink_to(packages / "node_modules")
    shutil.copy(FOLDER / "app.mjs", directory)
    port = str(free_port())
    addresses = {"http://127.0.0.1:8400": server.base_url, "http://127.0.0.1:3000": f"http://127.0.0.1:{port}"}
    process = await bash(f"export PORT={port}\n{replaced(run, addresses)}", directory)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(HANG_S):
            line = (await process.stdout.readline()).decode()
        assert line == f"listening on http://127.0.0.1:{port}\n"
        yield addresses
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def replaced(text: str, addresses: dict[str, str]) -> str:
    for told, real in addresses.items():
        text = text.replace(told, real)
    return text


async def test_a_person_signs_in_where_the_page_says_so(packages: Path, tmp_path: Path) -> None:
    assert PROVIDER == "token-relay sandbox --profile auth0\n"
    cli.parse(PROVIDER.split()[1:])
    told = re.search(
        r"Open <(\S+)> and sign in as `(\S+)` with the password\n`(\S+)`\. The page says `([^`]+)`", README
    )
    assert told is not None
    async with sandbox() as server, application(server, packages, tmp_path) as addresses:
        browser = FormBrowser(told[2], told[3])
        with pytest.raises(ElsewhereError, match=f": {re.escape(told[4])}\n$"):  # no device, but the application
            await browser.visit(replaced(told[1], addresses))
        assert browser.forms == 1


@pytest.mark.skipif(needs.find("curl") is None, reason="curl is not installed: its lines were not run")
async def test_a_browser_arrives_signed_in_by_the_address_that_the_page_prints(packages: Path, tmp_path: Path) -> None:
    async with sandbox() as server, application(server, packages, tmp_path) as addresses:
        process = await bash(replaced(SIGNED_IN, addresses), tmp_path)
        async with asyncio.timeout(HANG_S):
            said, _ = await process.communicate()
        assert process.returncode == 0
        way = await Visitor().visit(said.decode().strip())
        assert (way.status, way.forms, way.text) == (200, 0, "signed in as password@contoso.example\n")
