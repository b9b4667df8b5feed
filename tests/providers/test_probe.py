"""`provider probe` at providers that others wrote: what it writes down is what is known of each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Program
from tests.providers.browsers import FormBrowser
from tests.providers.identity_providers import (
    CLIENT_ID,
    PASSWORD,
    REDIRECT_PORT,
    Canaille,
    OAuthToolkit,
    OidcProvider,
    Provider,
)

pytestmark = pytest.mark.asyncio
OPEN = r"open this in (your usual|a private)[^\n]*: (http\S+)$"
# One grant of a browser session and client: documented by its events, and measured with its own log.
GRANT_OF_A_SESSION = {"can_revoke_token": True, "revocation_takes": "session"}


@dataclass(frozen=True)
class Expected:
    """What is known of a provider, by its documents and by measuring without the probe."""

    make: Callable[[], Provider]
    options: Callable[[Provider], tuple[str, ...]]
    behaviour: dict[str, Any]
    between: list[int]


PROVIDERS = {
    "oidc-provider always": Expected(
        lambda: OidcProvider("oidc-provider, always", rotation="always"),
        lambda provider: (),
        {
            "refresh_gives_new": True,
            "invalidates_on_use": True,
            "leeway_s": 0,
            "reuse_takes": "session",
            "reuse_kills_access_tokens": True,
            **GRANT_OF_A_SESSION,
        },
        [0, 1],
    ),
    "oidc-provider never": Expected(
        lambda: OidcProvider("oidc-provider, never", rotation="never"),
        lambda provider: (),
        {"refresh_gives_new": False, "invalidates_on_use": False, "reuse_takes": "nothing", **GRANT_OF_A_SESSION},
        [],
    ),
    "django-oauth-toolkit grace": Expected(
        lambda: OAuthToolkit("django-oauth-toolkit, grace", grace_s=4),
        lambda provider: ("--scope", "openid profile", "--revocation-endpoint", f"{provider.issuer}/revoke_token/"),
        {
            "refresh_gives_new": True,
            "invalidates_on_use": True,
            "leeway_s": 1,
            "reuse_takes": "family",
            "can_revoke_token": True,
            "revocation_takes": "family",
        },
        [1, 5],
    ),
    "django-oauth-toolkit": Expected(
        lambda: OAuthToolkit("django-oauth-toolkit", grace_s=0),
        lambda provider: ("--scope", "openid profile"),
        {"invalidates_on_use": True, "leeway_s": 0, "reuse_takes": "family", "can_revoke_token": False},
        [0, 1],
    ),
    "canaille": Expected(
        lambda: Canaille("canaille"),
        lambda provider: ("--scope", "openid profile", "--redirect-port", str(REDIRECT_PORT)),
        {"invalidates_on_use": True, "leeway_s": 0, "reuse_takes": "nothing", "can_revoke_token": False},
        [0, 1],
    ),
}


async def attend(program: Program, user: str) -> None:
    """Sign in whenever the program asks, in the window that it names."""
    windows: dict[str, FormBrowser] = defaultdict(lambda: FormBrowser(user, PASSWORD))
    for count in range(1, 10):
        asked = await program.find(OPEN, count=count)
        await windows[asked[1]].visit(asked[2])


async def measure(provider: Provider, *options: str) -> dict[str, Any]:
    words = ("provider", "probe", provider.issuer, "--client-id", CLIENT_ID, "--no-open", "--yes", "--json", *options)
    with tempfile.TemporaryDirectory() as directory:
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": directory, "LANG": "C.UTF-8"}
        command = (sys.executable, "-m", "token_relay.cli")
        program = await Program.start(*words, env=env, cwd=Path(directory), command=command)
        attending = asyncio.create_task(attend(program, next(provider.unused)))
        try:
            return (await program.ended()).expect(0).json
        finally:
            attending.cancel()
            with contextlib.suppress(asyncio.CancelledError, AssertionError):
                await attending


@pytest.mark.parametrize("name", PROVIDERS)
async def test_what_is_measured_is_what_is_known(name: str) -> None:
    expected = PROVIDERS[name]
    with expected.make() as provider:
        told = await measure(provider, *expected.options(provider))
        print(told)
        assert expected.behaviour.items() <= told["behaviour"].items()
        assert told["leeway_between_s"] == expected.between
        live = {token.family for token in provider.tokens() if token.live}
        assert bool(live) == any("lives on" in line for line in told["left"])
