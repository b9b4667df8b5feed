"""People who sign in at the sandbox provider: they type what they are asked for, or fill in its one-form page."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from token_relay.agents.phone.account import AccountSettings, SignInLostError
from token_relay.agents.ports import Random
from token_relay.protocol.errors import TransientError
from token_relay.protocol.secret import Code, IdToken
from token_relay.provider import oauth
from token_relay.provider.http import Http, HttpRequest, HttpResponse
from token_relay.provider.outcome import OutcomeUnknown, Refreshed
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.world.model import PASSWORD
from token_relay.simulation.ports.tiers import claims_of

NONCE = "nonce"  # the id_token's; one is enough where nobody replays sign-ins
REDIRECT_URI = "http://127.0.0.1:9999/callback"


class SimulatedPerson:
    """Implements :class:`token_relay.agents.phone.account.Person`: knows the password, and reads the mailbox."""

    def __init__(self, provider: Provider, username: str) -> None:
        self._provider = provider
        self._username = username

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        """Answer what a sign-in asks."""
        if kind == "password":
            return PASSWORD
        if kind == "code":
            sent = self._provider.state.mailboxes.get(self._username)
            return None if sent is None else sent.code.reveal()
        return None

    async def progress(self, step: dict[str, Any]) -> None:
        """Look on."""


async def sign_in_by_form(
    http: Http, settings: AccountSettings, metadata: oauth.ProviderMetadata, username: str, random: Random
) -> Refreshed:
    """Sign in with code and PKCE, filling the provider's page in as a browser would.

    Raises:
        TransientError: any step of it did not come about.
    """
    verifier, challenge = oauth.pkce_pair(random.bytes(32))
    if metadata.authorization_endpoint is None:
        raise TransientError("no authorization endpoint")
    url = oauth.authorization_url(
        authorization_endpoint=metadata.authorization_endpoint,
        client_id=settings.client_id,
        redirect_uri=REDIRECT_URI,
        scope=settings.scope,
        state="0123456789abcdef0123",
        nonce=NONCE,
        code_challenge=challenge,
    )
    page = await http.request(HttpRequest("GET", url))
    html = page.body.decode() if isinstance(page, HttpResponse) and page.status == 200 else ""
    ticket = re.search(r'name="ticket" value="([^"]+)"', html)
    action = re.search(r'action="([^"]+)"', html)
    if ticket is None or action is None:
        raise TransientError("the sign-in page did not come")
    fields = (("ticket", ticket[1]), ("username", username), ("password", PASSWORD))
    sent = await http.request(HttpRequest("POST", urljoin(url, action[1]), form=fields))
    if not isinstance(sent, HttpResponse) or sent.status not in (302, 303):
        raise TransientError("the sign-in was not accepted")
    code = parse_qs(urlsplit(sent.headers["location"]).query)["code"][0]
    outcome = await oauth.exchange_code(
        http,
        settings.profile,
        token_endpoint=metadata.token_endpoint,
        client_id=settings.client_id,
        code=Code(code),
        code_verifier=verifier,
        redirect_uri=REDIRECT_URI,
    )
    if isinstance(outcome, OutcomeUnknown):
        raise SignInLostError("the answer to the sign-in was lost")
    if not isinstance(outcome, Refreshed):
        raise TransientError("the code was not redeemed")
    return outcome


def subject_of(id_token: IdToken) -> str:
    """Read who signed in out of an id_token that :class:`token_relay.simulation.ports.tiers.PlainSigner` made."""
    return str(claims_of(id_token.reveal())["sub"])
