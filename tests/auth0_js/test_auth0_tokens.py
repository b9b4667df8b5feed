"""auth0-spa-js, as it comes: tokens from hidden frames and by refresh, for one API and another, bound to a key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.auth0_js.single_page import Bench, bench, by_redirect, claims_of, popup, returned, silently
from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, sign_in
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.auth0_clients import SPA_ID
from token_relay.sandbox.provider.world.client_settings import RefreshTokenSetting, ResourcePolicy
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, ClientModel

pytestmark = [pytest.mark.asyncio, NEEDS_CHROMIUM]
ORDERS, WATCHES = "https://orders.example/", "https://watches.example/"
MODES = [
    {},
    {"useRefreshTokens": True},
    {"useRefreshTokens": True, "cacheLocation": "localstorage"},
    {"useRefreshTokens": True, "useFormData": False},
    {"useRefreshTokens": True, "useRefreshTokensFallback": True, "useDpop": True},
    {"useDpop": True},
]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "+".join(mode) or "frames")
async def test_three_new_tokens_at_once(spa: Bench, mode: dict[str, Any]) -> None:
    page = await spa.open(**mode)
    assert "value" in await by_redirect(page)
    first = await returned(page, "getTokenSilently")
    assert await returned(page, "getTokenSilently") == first  # from the cache
    told = await asyncio.gather(*(silently(page) for _ in range(3)))
    tokens = {one["value"] for one in told}
    assert len(tokens | {first}) == 4
    assert await returned(page, "getTokenSilently") in tokens
    families = spa.server.provider.state.families.values()
    assert not any(family.is_dead for family in families)
    assert (len(families) == 1) == ("useRefreshTokens" in mode)  # one grant and its refreshes, or four


async def test_tokens_of_localstorage_outlive_a_reload(spa: Bench) -> None:
    page = await spa.open(useRefreshTokens=True, cacheLocation="localstorage")
    await by_redirect(page)
    token = await returned(page, "getTokenSilently")
    await spa.profile.clear_cookies()  # so that no session can help
    await page.reload()
    assert await returned(page, "getTokenSilently") == token
    assert "value" in await silently(page)


@pytest.mark.parametrize("cache", ["memory", "localstorage"])
@pytest.mark.parametrize("has_fallback", [True, False], ids=["fallback", "no fallback"])
async def test_a_refresh_token_that_is_refused_is_replaced_by_the_session(
    spa: Bench, *, has_fallback: bool, cache: str
) -> None:
    page = await spa.open(useRefreshTokens=True, useRefreshTokensFallback=has_fallback, cacheLocation=cache)
    await by_redirect(page)
    await returned(page, "revokeRefreshToken")
    told = await silently(page)
    assert told.keys() == {"value"} if has_fallback else told["error"] in {"missing_refresh_token", "invalid_grant"}


@pytest.mark.parametrize("has_fallback", [True, False], ids=["fallback", "no fallback"])
async def test_a_grant_that_ended_at_the_provider(spa: Bench, *, has_fallback: bool) -> None:
    page = await spa.open(useRefreshTokens=True, useRefreshTokensFallback=has_fallback)
    await by_redirect(page)
    spa.end_grants()
    told = await silently(page)
    assert "value" in told if has_fallback else told["text"] == "Unknown or invalid refresh token."


async def test_a_token_for_an_api(spa: Bench) -> None:
    page = await spa.open(authorizationParams={"audience": ORDERS, "scope": "openid profile read:orders"})
    await by_redirect(page)
    claims = claims_of(await returned(page, "getTokenSilently"))
    assert claims["scope"] == "openid profile read:orders" and ORDERS in claims["aud"]
    other = {"authorizationParams": {"audience": WATCHES, "scope": "read:watches"}}
    found = claims_of(await returned(page, "getTokenSilently", other))
    assert "read:watches" in found["scope"].split() and WATCHES in found["aud"]
    assert await returned(page, "getTokenSilently", other) == await returned(page, "getTokenSilently", other)


async def test_a_token_for_another_api_with_a_popup(spa: Bench) -> None:
    page = await spa.open()
    await by_redirect(page)
    words = {"authorizationParams": {"audience": WATCHES, "scope": "read:watches", "prompt": "login"}}
    async with popup(page, words, method="getTokenWithPopup") as (window, told):
        await sign_in(window)
        assert WATCHES in claims_of((await told)["value"])["aud"]


async def test_a_token_that_is_bound_to_a_key(spa: Bench) -> None:
    page = await spa.open(useDpop=True, useRefreshTokens=True, authorizationParams={"audience": ORDERS})
    await by_redirect(page)
    keys = {claims_of((await silently(page))["value"])["cnf"]["jkt"] for _ in range(2)}
    assert len(keys) == 1
    told = await returned(page, "getTokenSilently", {"detailedResponse": True})
    assert told["token_type"] == "DPoP"


@pytest.mark.parametrize("audience", [{}, {"audience": ORDERS}], ids=["no audience", "audience"])
@pytest.mark.parametrize("mode", [{}, {"useDpop": True}], ids=["bearer", "dpop"])
async def test_the_sdk_s_own_fetch(spa: Bench, mode: dict[str, Any], audience: dict[str, str]) -> None:
    page = await spa.open(**mode, authorizationParams=audience)
    await by_redirect(page)
    sub = (await returned(page, "getUser"))["sub"]
    for path in ("/userinfo", "/sandbox/resource"):
        for _ in range(2):
            found = await page.evaluate("(path) => window.ask(path)", path)
            assert (found["status"], found["sub"]) == (200, sub), found


async def test_two_tabs_share_a_refresh_token_and_use_it_one_after_the_other(spa: Bench) -> None:
    mode: dict[str, Any] = {"useRefreshTokens": True, "cacheLocation": "localstorage"}
    one, other = await spa.open(**mode), await spa.open(**mode)
    await by_redirect(one)
    told = await asyncio.gather(*(silently(page) for page in (one, other, one, other)))
    assert len({token["value"] for token in told}) == 4
    (family,) = spa.server.provider.state.families.values()
    assert not family.is_dead and family.generation == 5


async def test_one_refresh_token_for_two_apis(packages: Path, tmp_path: Path, signer: RsaSigner) -> None:
    policies = [ResourcePolicy(audience=WATCHES, scope=["read:watches"])]
    setting = RefreshTokenSetting(rotation_type="rotating", expiration_type="expiring", policies=policies)
    client = ClientModel(client_id=SPA_ID, app_type="spa", refresh_token=setting)
    async with bench(packages, tmp_path, signer, world=DEFAULT_WORLD.model_copy(update={"clients": [client]})) as spa:
        page = await spa.open(useRefreshTokens=True, useMrrt=True, authorizationParams={"audience": ORDERS})
        await by_redirect(page)
        words = {"authorizationParams": {"audience": WATCHES, "scope": "read:watches"}}
        assert WATCHES in claims_of(await returned(page, "getTokenSilently", words))["aud"]
        assert ORDERS in claims_of((await silently(page))["value"])["aud"]
        (family,) = spa.server.provider.state.families.values()
        assert not family.is_dead


async def test_a_refresh_token_that_lives_as_long_as_the_session(spa: Bench) -> None:
    page = await spa.open(useRefreshTokens=True, useDpop=True, refreshTokenMode="online")
    await by_redirect(page)
    assert len({(await silently(page))["value"] for _ in range(3)}) == 3
    (family,) = spa.server.provider.state.families.values()
    assert family.is_online and family.generation == 1
    await returned(page, "revokeRefreshToken")
    assert await returned(page, "isAuthenticated") is False
    assert not any(session.is_alive(family.born_at) for session in spa.server.provider.state.sessions.values())


async def test_the_second_factor_was_asked_for_later(spa: Bench) -> None:
    """The person signed in without one; then it is required, and a frame cannot ask for it."""
    page = await spa.open(interactiveErrorHandler="popup")
    await by_redirect(page)
    spa.server.provider.state.users[PASSWORD_USER].mfa = "required"
    async with popup(page, {"cacheMode": "off"}, method="getTokenSilently") as (window, told):
        await window.get_by_text("A code was sent to you").wait_for()
        await sign_in(window, PASSWORD_USER, spa.code_for(PASSWORD_USER))
        assert "value" in await told


async def test_a_frame_cannot_ask_for_a_second_factor(spa: Bench) -> None:
    page = await spa.open()
    await by_redirect(page)
    spa.server.provider.state.users[PASSWORD_USER].mfa = "required"
    told = await silently(page)
    assert (told["error"], told["text"]) == ("login_required", "Multifactor authentication required")
