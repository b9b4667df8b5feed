"""The browser of the tests trusts one key and reaches one machine; its import map says what Node would find."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from playwright.async_api import Error

from tests.browser.app_server import AppServer, import_map
from tests.browser.chromium import NEEDS_CHROMIUM, certificate, chromium, new_profile
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD
from token_relay.sandbox.server import SandboxServer, tls_context


def package(place: Path, **told: object) -> None:
    place.mkdir(parents=True)
    (place / "package.json").write_text(json.dumps(told))
    (place / "main.mjs").write_text("export const name = import.meta.url;\n")


def test_names_mean_what_they_mean_to_node(tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    conditions = {"types": "./main.d.ts", "require": "./main.cjs", "import": {"types": "./x", "default": "./main.mjs"}}
    package(modules / "@vendor/sdk", exports={".": conditions, "./part": "./part.mjs", "./private/*": None})
    package(modules / "plain", module="main.mjs", main="main.cjs")
    package(modules / "plain/node_modules/@vendor/sdk", exports=conditions)
    assert import_map(tmp_path) == {
        "imports": {
            "@vendor/sdk": "/node_modules/@vendor/sdk/main.mjs",
            "@vendor/sdk/part": "/node_modules/@vendor/sdk/part.mjs",
            "plain": "/node_modules/plain/main.mjs",
        },
        "scopes": {"/node_modules/plain/": {"@vendor/sdk": "/node_modules/plain/node_modules/@vendor/sdk/main.mjs"}},
    }


@NEEDS_CHROMIUM
@pytest.mark.asyncio
async def test_a_page_of_the_app_runs_its_packages_and_reads_its_settings(tmp_path: Path) -> None:
    package(tmp_path / "node_modules/@vendor/sdk", exports={".": "./main.mjs"})
    script = tmp_path / "page.mjs"
    script.write_text(
        'import { name } from "@vendor/sdk";\n'
        'window.told = { name, ...(await (await fetch("/settings.json")).json()) };\n'
    )
    async with AppServer(tmp_path, {"/": script}) as app, chromium() as browser, new_profile(browser) as profile:
        app.settings["clientId"] = "x"
        page = await profile.new_page()
        await page.goto(f"{app.origin}/")
        told = await page.wait_for_function("window.told")
        assert await told.json_value() == {"name": f"{app.origin}/node_modules/@vendor/sdk/main.mjs", "clientId": "x"}
        with pytest.raises(Error, match="ERR_NAME_NOT_RESOLVED"):
            await page.goto("https://login.microsoftonline.com/")


@NEEDS_CHROMIUM
@pytest.mark.asyncio
async def test_one_key_is_trusted_and_no_other(tmp_path: Path) -> None:
    own, foreign = certificate(tmp_path / "own"), certificate(tmp_path / "foreign")
    tls = {name: tls_context(one.cert, one.key) for name, one in (("own", own), ("foreign", foreign))}
    async with (
        SandboxServer(DEFAULT_WORLD, "entra", rng=random.Random(1), host="localhost", tls=tls["own"]) as trusted,
        SandboxServer(DEFAULT_WORLD, "entra", rng=random.Random(1), host="localhost", tls=tls["foreign"]) as unknown,
        chromium(own) as browser,
        new_profile(browser) as profile,
    ):
        page = await profile.new_page()
        found = await page.goto(f"{trusted.provider.state.urls.issuer}/.well-known/openid-configuration")
        assert found is not None and found.status == 200
        with pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
            await page.goto(f"{unknown.provider.state.urls.issuer}/.well-known/openid-configuration")
