"""Asks the provider for the name of who signed in, when the id_token does not tell it.

The answer is for a person's eyes. It counts only when its ``sub`` is that of the id_token: an access token may belong
to somebody else. OpenID Connect Core §5.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from token_relay.protocol.secret import AccessToken
from token_relay.provider.http import AuthorizationHeader, Http, HttpRequest, HttpResponse, url_problem
from token_relay.provider.tokens import parse_object, shown

SUB_CHARS_MAX = 255  # OpenID Connect Core §2
USERINFO_TIMEOUT_S = 10.0  # it gives a name only; the sign-in is on disk and waits for it


@dataclass(frozen=True, slots=True)
class UserInfo:
    """Who signed in; ``username`` is empty when the provider tells no name."""

    sub: str
    username: str


async def fetch_userinfo(http: Http, endpoint: str | None, access_token: AccessToken | None) -> UserInfo | None:
    """Ask once; None when there is nobody to ask, or no usable answer (a signed one, which is rare, is none)."""
    if not endpoint or url_problem(endpoint) or access_token is None:
        return None
    request = HttpRequest(
        "GET",
        endpoint,
        headers={"accept": "application/json"},
        timeout_s=USERINFO_TIMEOUT_S,
        authorization=AuthorizationHeader(f"Bearer {access_token.reveal()}"),
    )
    answer = await http.request(request)
    parsed = parse_object(answer.body) if isinstance(answer, HttpResponse) and answer.status == 200 else None
    if parsed is None or parsed[1]:
        return None
    claims = parsed[0]
    sub = claims.get("sub")
    if not isinstance(sub, str) or not 0 < len(sub) <= SUB_CHARS_MAX or not sub.isprintable():
        return None
    names = (claims.get(name) for name in ("preferred_username", "email", "name", "nickname"))
    return UserInfo(sub, next((name for name in map(shown, names) if name), ""))
