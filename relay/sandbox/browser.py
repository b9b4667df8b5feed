"""Sign-in in a browser: authorization code with PKCE, and a login page of one form.

The page asks for user name and "password or code": a person without a password leaves the second field empty, is
sent a code, and enters that. Under ``entra`` a person who needs a second factor enters, after the password and in the
same field, a code to the first of the registered methods (to the user name, where there is none). The fields are
``ticket``, ``username`` and ``password``, so a script can fill the form in.

An error goes back to the client's redirect URI only once client and URI are known to belong together; before that it
is a page (RFC 6749 §4.1.2.1). Only S256 is accepted (RFC 7636 §4.2, RFC 9700 §2.1.1). Redirect URIs: plain HTTP on
the loopback interface, any port and path (RFC 8252 §7.3), or registered exactly. An authorization code works once; a
second use kills what came of the first (RFC 6749 §4.1.2), and a wrong verifier burns it.

Limits: there is no provider session, so every request shows the page and ``prompt=none`` is ``login_required``; the
form is bound to its request by an unguessable ticket, not by a cookie.
"""

from __future__ import annotations

import base64
import hmac
import re
from hashlib import sha256
from html import escape
from urllib.parse import urlencode, urlsplit

from relay.sandbox import conditional_access
from relay.sandbox.accounts import User
from relay.sandbox.claims import NO_CLAIMS, asked_claims
from relay.sandbox.codes import is_right_code, send_code
from relay.sandbox.contacts import Channel
from relay.sandbox.flows import CODES_MAX
from relay.sandbox.passwords import check_password
from relay.sandbox.refusals import Trace
from relay.sandbox.state import Authorization, State, digest, remember
from relay.sandbox.tokens import asked_audience, asked_scope, kill_family, sign_in
from relay.sandbox.values import Params, Refusal, Response, html_response
from relay.sandbox.world import ClientModel

LOGIN_LIFETIME_S = 600.0
CODE_LIFETIME_S = 600.0  # RFC 6749 §4.1.2 recommends ten minutes at most
LOGIN_TRIES_MAX = 10
STATE_CHARS_MAX = 2_048
REDIRECT_URI_CHARS_MAX = 2_048
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # base64url of SHA-256, RFC 7636 §4.2
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)  # RFC 7636 §4.1


def authorize(state: State, params: Params, trace: Trace) -> Response:
    """Check an authorization request and show the login page."""
    client = state.clients.get(params.get("client_id"))
    redirect_uri = params.get("redirect_uri")
    if client is None:
        return _error_page("This client is not known here.")
    if not is_redirect_uri(client, redirect_uri):
        return _error_page("This redirect_uri is neither registered for the client nor on the loopback interface.")
    answer_state = params.get("state")
    if len(answer_state) > STATE_CHARS_MAX:
        return _error_page("The state is too long.")

    def refused(error: str, description: str) -> Response:
        return _back(state, redirect_uri, answer_state, error=error, error_description=description)

    if params.get("response_type") != "code":
        return refused("unsupported_response_type", "only response_type=code is supported")
    if params.get("response_mode") not in {"", "query"}:
        return refused("invalid_request", "only response_mode=query is supported")
    if params.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(params.get("code_challenge")):
        return refused("invalid_request", "PKCE with S256 is required")
    if params.get("prompt") == "none":
        return refused("login_required", "nobody is signed in")
    if len(params.get("nonce")) > STATE_CHARS_MAX:
        return refused("invalid_request", "the nonce is too long")
    try:
        scope, audience = asked_scope(client, params), asked_audience(params)
    except Refusal as refusal:
        return refused(refusal.error, refusal.description)
    authorization = Authorization(
        client_id=client.client_id,
        redirect_uri=redirect_uri,
        scope=scope,
        audience=audience,
        state=answer_state,
        nonce=params.get("nonce"),
        code_challenge=params.get("code_challenge"),
        expires_at=trace.now + LOGIN_LIFETIME_S,
    )
    ticket = state.token("lt")
    remember(state.logins, digest(ticket), authorization)
    return _login_page(state, ticket, username=params.get("login_hint"))


def login(state: State, params: Params, trace: Trace) -> Response:
    """Take the login form: send the browser back with a code, or show the form again."""
    ticket = params.get("ticket")
    authorization = state.logins.get(digest(ticket))
    if authorization is None or trace.now >= authorization.expires_at:
        return _error_page("This login page is too old; go back to the app and start again.")
    username, credential = params.get("username").strip().lower(), params.get("password")
    user = state.users.get(username)
    if user is not None and user.method == "oob" and not credential.strip():
        return _send_code(state, authorization, user, ticket, trace)
    if user is None or not _is_right(state, authorization, user, credential, trace):
        authorization.tries += 1
        if authorization.tries >= LOGIN_TRIES_MAX:
            del state.logins[digest(ticket)]
            return _error_page("Too many attempts; go back to the app and start again.")
        return _login_page(state, ticket, username=username, problem="Wrong user name, password or code.")
    if _needs_second_factor(state, authorization, user):
        authorization.is_second_factor = True
        return _send_code(state, authorization, user, ticket, trace)
    problem = conditional_access.at_sign_in(state, user, method=user.method) if state.rules.is_native else None
    if problem is not None:
        del state.logins[digest(ticket)]
        return _back(
            state,
            authorization.redirect_uri,
            authorization.state,
            error="access_denied",
            error_description=f"AADSTS{problem.code}: {problem.description}",
        )
    del state.logins[digest(ticket)]
    authorization.username = username
    authorization.expires_at = trace.now + CODE_LIFETIME_S
    code = state.token("ac")
    remember(state.codes, digest(code), authorization)
    return _back(state, authorization.redirect_uri, authorization.state, code=code)


def redeem(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Carry out ``grant_type=authorization_code``. Raises Refusal. RFC 6749 §4.1.3, RFC 7636 §4.6."""
    code, redirect_uri = params.need("code"), params.need("redirect_uri")
    verifier = params.need("code_verifier")
    bad = Refusal("invalid_grant", "Invalid authorization code.", code=70000)
    authorization = state.codes.get(digest(code))
    if authorization is None or authorization.client_id != client.client_id:
        raise bad
    user = state.users.get(authorization.username)
    if authorization.family_id or user is None:
        family = state.families.get(authorization.family_id)
        if family is not None and not family.is_dead:
            kill_family(state, family, trace, reason="code_reuse", access_tokens=True)
        raise bad
    if trace.now >= authorization.expires_at:
        raise Refusal("invalid_grant", "The authorization code has expired.", code=70008)
    if authorization.redirect_uri != redirect_uri:
        raise bad
    challenge = base64.urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    if not _VERIFIER.fullmatch(verifier) or not hmac.compare_digest(challenge, authorization.code_challenge):
        del state.codes[digest(code)]
        raise Refusal("invalid_grant", "The code_verifier does not match the code_challenge.", code=501481)
    family, response = sign_in(
        state,
        user,
        trace,
        client_id=client.client_id,
        scope=authorization.scope,
        method=user.method,
        audience=authorization.audience,
        nonce=authorization.nonce,
        has_second_factor=authorization.is_second_factor,
        claims=asked_claims(params) if state.rules.is_native else NO_CLAIMS,
        is_spa=client.spa and state.rules.is_native,
    )
    authorization.family_id = family.family_id
    return response


def is_redirect_uri(client: ClientModel, uri: str) -> bool:
    """Return whether codes of this client may be sent there."""
    if not uri or len(uri) > REDIRECT_URI_CHARS_MAX or not uri.isascii() or not uri.isprintable() or " " in uri:
        return False
    if uri in client.redirect_uris:
        return True
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return False
    if "\\" in uri or "#" in uri or "@" in parts.netloc or port == 0:
        return False
    return parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}


def _is_right(state: State, authorization: Authorization, user: User, credential: str, trace: Trace) -> bool:
    if not credential.strip() or (user.is_disabled and state.rules.is_native):
        return False
    if user.method == "password" and not authorization.is_second_factor:
        return check_password(state, user, credential, trace) is None
    sent = authorization.sent
    if (
        sent is None
        or authorization.username != user.username
        or not is_right_code(sent, credential.strip(), trace.now)
    ):
        return False
    state.take_code(sent)
    return True


def _needs_second_factor(state: State, authorization: Authorization, user: User) -> bool:
    is_asked_for = state.rules.is_native and conditional_access.wants_second_factor(state, user)
    return is_asked_for and user.method == "password" and not authorization.is_second_factor


def _send_code(state: State, authorization: Authorization, user: User, ticket: str, trace: Trace) -> Response:
    authorization.tries += 1
    if authorization.tries > CODES_MAX:
        del state.logins[digest(ticket)]
        return _error_page("Too many codes were sent; go back to the app and start again.")
    method = user.methods[0] if authorization.is_second_factor and user.methods else None
    address = user.username if method is None else method.target
    channel: Channel = "email" if method is None else method.channel
    authorization.sent = send_code(
        state, address, trace, client_id=authorization.client_id, username=user.username, channel=channel
    )
    authorization.username = user.username  # whom the code was sent to
    return _login_page(
        state, ticket, username=user.username, problem="A code was sent to you; enter it below.", status=200
    )


def _back(state: State, redirect_uri: str, answer_state: str, **params: str) -> Response:
    """Send the browser to the client. RFC 6749 §4.1.2, with the issuer as RFC 9207 has it."""
    known = {**params, "state": answer_state, "iss": state.places.issuer}
    query = urlencode({name: value for name, value in known.items() if value})
    location = f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{query}"
    return html_response("", 303).with_headers(("Location", location))


def _login_page(state: State, ticket: str, *, username: str, problem: str = "", status: int = 400) -> Response:
    action = urlsplit(state.places.url("login")).path
    note = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    form = (
        f'<form method="post" action="{escape(action)}">'
        f'<input type="hidden" name="ticket" value="{escape(ticket)}">'
        f'<label>User name <input name="username" value="{escape(username)}" autocomplete="username"></label>'
        "<label>Password, or code from your mailbox (leave empty to be sent one) "
        '<input name="password" type="password" autocomplete="current-password"></label>'
        "<button>Sign in</button></form>"
    )
    return html_response(_page("Sign in", f"{note}{form}"), status if problem else 200)


def _error_page(text: str) -> Response:
    return html_response(_page("This did not work", f"<p>{escape(text)}</p>"), 400)


def _page(title: str, content: str) -> str:
    style = "body{font:16px sans-serif;max-width:24em;margin:3em auto}label,input,button{display:block;margin:.5em 0}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} - sandbox</title>'
        f"<style>{style}</style></head><body><h1>{title}</h1>{content}</body></html>"
    )
