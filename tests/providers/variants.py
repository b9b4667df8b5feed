"""The providers that the stories and the kills are told at, and what is known of each, written down by hand.

From their documents, and measured: what `phone revoke` leaves there of the companion's refresh token, what `status`
says of that, and how a lost answer ends with the options of the recipe in docs/integrating.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.providers.identity_providers import REDIRECT_PORT, Canaille, OAuthToolkit, OidcProvider, Provider

ACCESS_TOKEN_S = 4  # so that a story need not wait for its end


@dataclass(frozen=True)
class Variant:
    """One provider with one rule for its refresh tokens."""

    make: Callable[[], Provider]
    options: Callable[[Provider], tuple[str, ...]]
    """What it needs of ``phone init`` beside its URL and the client id."""
    revoked: Literal["dead", "lives"]
    says: str
    lost_answer: Literal["forgiven", "over"]


def _oidc_provider(rotation: Literal["always", "default", "never"]) -> Callable[[], Provider]:
    return lambda: OidcProvider(f"oidc-provider, {rotation}", rotation=rotation, access_token_s=ACCESS_TOKEN_S)


def _oauth_toolkit(grace_s: int) -> Callable[[], Provider]:
    return lambda: OAuthToolkit(
        f"django-oauth-toolkit, grace {grace_s} s", grace_s=grace_s, access_token_s=ACCESS_TOKEN_S
    )


def _toolkit_options(*more: str) -> Callable[[Provider], tuple[str, ...]]:
    """It has an endpoint for revocation and does not tell."""
    return lambda at: ("--scope", "openid profile", "--revocation-endpoint", f"{at.issuer}/revoke_token/", *more)


ACCEPTED = "accepted by the provider"
VARIANTS = {
    "oidc-provider-always": Variant(
        _oidc_provider("always"), lambda _: ("--profile", "oidc-provider"), "dead", ACCEPTED, "over"
    ),
    # it rotates for public clients; the person has named no profile
    "oidc-provider-default": Variant(_oidc_provider("default"), lambda _: (), "dead", ACCEPTED, "over"),
    # `duende` is the profile of a refresh token whose value never changes
    "oidc-provider-never": Variant(
        _oidc_provider("never"), lambda _: ("--profile", "duende"), "dead", ACCEPTED, "forgiven"
    ),
    # `hydra` is the profile that counts on 30 seconds
    "oauth-toolkit-grace": Variant(
        _oauth_toolkit(30), _toolkit_options("--profile", "hydra"), "dead", ACCEPTED, "forgiven"
    ),
    "oauth-toolkit": Variant(_oauth_toolkit(0), _toolkit_options(), "dead", ACCEPTED, "over"),
    "canaille": Variant(
        lambda: Canaille("canaille"),
        lambda _: ("--scope", "openid profile", "--redirect-port", str(REDIRECT_PORT)),
        "lives",
        "not confirmed",
        "over",
    ),
}
