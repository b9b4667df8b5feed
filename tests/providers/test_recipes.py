"""The recipes of docs/integrating.md, word for word: a person who copies them signs in, pairs and hands over.

Two things are put in their place, the provider's address and the broker's. The person's browser is the program that
``BROWSER`` names, as on any machine, and pairing is asked and answered on a terminal.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.kit import Phone
from tests.e2e.terminal import Terminal
from tests.providers.identity_providers import PASSWORD, REDIRECT_PORT, Canaille, OAuthToolkit, OidcProvider, Provider
from tests.providers.provider_world import ProviderWorld, page_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "integrating.md"
BROWSER = f"""#!{sys.executable}
import sys

sys.path.insert(0, {str(ROOT)!r})
from tests.providers.browsers import FormBrowser

FormBrowser({{user!r}}, {PASSWORD!r}).open(sys.argv[1])
"""
RECIPES: dict[str, Callable[[], Provider]] = {
    "oidc-provider": lambda: OidcProvider("oidc-provider", rotation="always"),
    "django-oauth-toolkit": lambda: OAuthToolkit("django-oauth-toolkit", grace_s=30),
    "Canaille": lambda: Canaille("canaille"),
}


@dataclass
class WithABrowser(ProviderWorld):
    """A world whose programs find a browser, as on a desktop."""

    browser: Path = field(kw_only=True)

    @property
    def env(self) -> dict[str, str]:
        return super().env | {"BROWSER": str(self.browser)}


def commands(heading: str, world: ProviderWorld) -> list[list[str]]:
    """Return the words of each command below a heading, without comments and the final ``&``."""
    host, port = world.provider.address
    text = page_of(PAGE, heading).replace("\\\n", " ")
    for example, ours in (
        ("https://id.example", f"http://{host}:{port}"),
        ("mqtts://broker.example:8883", world.broker_url),
    ):
        assert example in text
        text = text.replace(example, ours)
    lines = [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]
    assert all(words[0] == "token-relay" for words in lines)
    return [words[1:] for words in lines]


@pytest.mark.asyncio
@pytest.mark.parametrize("heading", RECIPES)
async def test_a_person_who_copies_the_recipe_signs_in_pairs_and_hands_over(heading: str, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    with RECIPES[heading]() as provider:
        user = next(provider.unused)
        browser.write_text(BROWSER.format(user=user))
        browser.chmod(0o755)
        async with WithABrowser(provider=provider, user=user, browser=browser) as world:
            watch = await world.companion()
            init, run, sign_in, pair, handoff = commands(heading, world)
            phone = Phone(world, "phone", "phone")
            phone.home = world.directory / ".local/state/token-relay/phone"
            world.agents.append(phone)
            (await world.run(*init)).expect()
            assert run == ["phone", "run", "&"]
            phone.program = await world.start("phone", "run")
            await phone.program.logged("mqtt_connected")
            (await world.run(*sign_in)).expect()
            async with Terminal(*pair, env=world.env, cwd=world.directory) as person:
                await person.sees("RTR1")
                await person.types(await watch.invitation())
                await person.sees("number")
                await person.types("y")
                assert await person.ended() == 0, person.text
            (await world.run(*handoff)).expect()
            assert (await watch.until_generation(2))["account"]
            await world.gets_in(watch)


def test_the_port_of_the_page_is_the_one_that_is_registered() -> None:
    assert f"`http://127.0.0.1:{REDIRECT_PORT}/callback`: it compares the port" in PAGE.read_text().replace("\n", " ")
