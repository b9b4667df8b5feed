"""Sign-in in a browser: authorization code with PKCE, and a login page of one form.

The page asks for user name and "password or code": a person without a password leaves the second field empty, gets
a code, and enters that. Under ``entra`` a person who needs a second factor enters, after the password and in the same
field, a code that was sent to the first registered method (to the user name, if there is none). The fields are
``ticket``, ``username`` and ``password``, so a script can fill in the form.

An error goes back to the client's redirect URI only once client and URI are known to belong together; before that it
is a page (RFC 6749 §4.1.2.1). Only S256 is accepted (RFC 7636 §4.2, RFC 9700 §2.1.1). Redirect URIs: HTTP or
HTTPS on the loopback interface, any port and path (RFC 8252 §7.3), or registered exactly. An authorization code works
once; a second use ends the grant of the first (RFC 6749 §4.1.2), and a wrong verifier burns the code.

Of the implicit grant ``auth0`` has ``response_type=id_token``, the default of express-openid-connect.

``response_mode`` is ``query``, ``fragment`` or ``form_post``, under ``auth0`` also ``web_message``, which goes to web
origins of the client only.

Limits: ``entra`` and ``auth0`` keep sessions (:mod:`token_relay.sandbox.provider.web.session_login`). Elsewhere every
request shows the page, and ``prompt=none`` gets ``login_required``. An unguessable ticket binds the form to its
request, not a cookie.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from token_relay.sandbox.provider.http_values import LOOPBACK_NAMES, Params, Refusal, Response
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Authorization, ResponseMode, Session, State, digest, remember
from token_relay.sandbox.provider.memory.tenant_logs import LogType
from token_relay.sandbox.provider.tokens import origins
from token_relay.sandbox.provider.tokens.cascade import kill_family
from token_relay.sandbox.provider.tokens.claims import NO_CLAIMS, asked_claims
from token_relay.sandbox.provider.tokens.families import (
    SignInRequest,
    asked_audience,
    asked_scope,
    grant_type_refused,
    scope_of_use,
    sign_in,
)
from token_relay.sandbox.provider.tokens.sessions import granted_scope, session_of
from token_relay.sandbox.provider.web import consent, device_code, saml, second_step
from token_relay.sandbox.provider.web.pages import back, error_page, login_page, origin_of
from token_relay.sandbox.provider.web.session_login import Finish, Visit, arrive, go_on, signed_in
from token_relay.sandbox.provider.world.model import ClientModel
from token_relay.sandbox.provider.world.rules import OIDC_SCOPES

LOGIN_LIFETIME_S = 600.0
CODE_LIFETIME_S = 600.0  # RFC 6749 §4.1.2 recommends ten minutes at most
LOGIN_TRIES_MAX = 10
STATE_CHARS_MAX = 2_048
ORGANIZATION_CHARS_MAX = 100
# Those of the real service but for create: signing up in the browser is not played.
ENTRA_PROMPTS = frozenset({"login", "none", "consent", "select_account"})
REDIRECT_URI_CHARS_MAX = 2_048
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # base64url of SHA-256, RFC 7636 §4.2
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)  # RFC 7636 §4.1


def authorize(state: State, params: Params, cookies: Mapping[str, str], trace: Trace) -> Response:
    """Check an authorization request and show the login page, or what :mod:`.session_login` decides."""
    client = state.clients.get(params.get("client_id"))
    redirect_uri = params.get("redirect_uri")
    if client is None:
        return error_page("This client is not known here.")
    if client.disabled and state.rules.is_native:
        return error_page("AADSTS7000112: The application is disabled.")
    if not is_redirect_uri(client, redirect_uri):
        return error_page("This redirect_uri is neither registered for the client nor on the loopback interface.")
    answer_state = params.get("state")
    if len(answer_state) > STATE_CHARS_MAX:
        return error_page("The state is too long.")

    known = response_modes(state)
    usual = "fragment" if "token" in params.get("response_type") else "query"  # OAuth 2.0 Multiple Response Types §3
    mode = next((one for one in known if one == (params.get("response_mode") or usual)), None)
    if mode == "web_message" and not _is_web_origin(client, redirect_uri):
        return error_page("The origin of this redirect_uri is not among the client's web_origins.", 403)

    def refused(error: str, description: str) -> Response:
        return back(
            state, redirect_uri, answer_state, response_mode=mode or "query", error=error, error_description=description
        )

    is_implicit = params.get("response_type") == "id_token" and state.rules.is_managed
    if not is_implicit and params.get("response_type") != "code":
        return refused("unsupported_response_type", "only response_type=code is supported")
    grant_type = "implicit" if is_implicit else "authorization_code"
    if state.rules.is_managed and grant_type not in client.allowed_grant_types:
        barred = grant_type_refused(grant_type)
        return refused(barred.error, barred.description)
    if is_implicit and (mode == "query" or not params.get("nonce") or "openid" not in params.words("scope")):
        text = "an id_token needs the scope openid and a nonce, and does not come back in the query"
        return refused("invalid_request", text)  # OpenID Connect Core §3.2.2.1, OAuth 2.0 Multiple Response Types §5
    if mode is None:
        return refused("invalid_request", f"response_mode must be one of {', '.join(known)}")
    prompts = params.words("prompt")
    if "none" in prompts and len(prompts) > 1:  # OpenID Connect Core §3.1.2.1
        return refused("invalid_request", "prompt=none goes with no other prompt")
    if state.rules.is_native and not ENTRA_PROMPTS.issuperset(prompts):
        return refused("invalid_request", f"AADSTS90023: prompt must be one of {', '.join(sorted(ENTRA_PROMPTS))}.")
    if state.rules.is_native and not params.get("scope"):
        return refused("invalid_request", "AADSTS900144: The request must contain the parameter 'scope'.")
    challenge = params.get("code_challenge")
    has_challenge = params.get("code_challenge_method") == "S256" and _CHALLENGE.fullmatch(challenge)
    is_without = client.is_confidential and not challenge and not params.get("code_challenge_method")
    if not has_challenge and not is_without and not is_implicit:
        return refused("invalid_request", "PKCE with S256 is required")
    if "none" in prompts and not state.rules.has_sessions:
        return refused("login_required", "nobody is signed in")
    if len(params.get("nonce")) > STATE_CHARS_MAX:
        return refused("invalid_request", "the nonce is too long")
    thumbprint = params.get("dpop_jkt") if state.rules.is_managed else ""
    if thumbprint and not _CHALLENGE.fullmatch(thumbprint):
        return refused("invalid_request", "dpop_jkt is not a thumbprint")
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
        code_challenge=challenge,
        expires_at=trace.now + LOGIN_LIFETIME_S,
        organization=params.get("organization")[:ORGANIZATION_CHARS_MAX],
        login_hint=params.get("login_hint"),
        response_mode=mode,
        key_thumbprint=thumbprint,
        prompts=prompts,
        is_implicit=is_implicit,
        tells_auth_time=params.get("max_age") != "",
    )
    if state.rules.has_sessions:
        return arrive(Visit(state, client, authorization, cookies, trace, finish), params)
    ticket = state.token("lt")
    remember(state.logins, digest(ticket), authorization)
    return login_page(state, ticket, username=params.get("login_hint"))


def activate(state: State, params: Params, cookies: Mapping[str, str], trace: Trace) -> Response:
    """Answer a person who enters the code that a device shows."""
    authorization = device_code.authorization_of(state, params, trace)
    if isinstance(authorization, Response):
        return authorization
    client = state.clients.get(authorization.client_id)
    if client is None:
        return error_page("This client is not known here.")
    return arrive(Visit(state, client, authorization, cookies, trace, device_code.finish), Params(()))


def login(state: State, params: Params, cookies: Mapping[str, str], trace: Trace) -> Response:
    """Take the login form: send the browser back with a code, or show the form again."""
    ticket = params.get("ticket")
    authorization = state.logins.get(digest(ticket))
    if authorization is None or trace.now >= authorization.expires_at:
        return error_page("This login page is too old; go back to the app and start again.")
    if authorization.question:
        return _answered(state, authorization, ticket, params, cookies, trace=trace)
    username, credential = params.get("username").strip().lower(), params.get("password")
    user = state.users.get(username)
    is_proven = authorization.is_proven and authorization.username == username
    if user is not None and user.method == "oob" and not credential.strip():
        return second_step.ask(state, authorization, user, ticket, trace)
    if user is None or not (is_proven or second_step.is_right(state, authorization, user, credential, trace)):
        authorization.tries += 1
        if authorization.tries >= LOGIN_TRIES_MAX:
            del state.logins[digest(ticket)]
            return error_page("Too many attempts; go back to the app and start again.")
        return login_page(state, ticket, username=username, problem="Wrong user name, password or code.")
    if not authorization.is_second_factor and second_step.is_needed(state, user):
        authorization.is_second_factor = True
        return second_step.ask(state, authorization, user, ticket, trace)
    authorization.username = username
    if state.rules.has_sessions:
        client = state.clients.get(authorization.client_id)
        if client is None:
            return error_page("This client is not known here.")
        # An Action may have to be asked now, and a one-time code cannot be used twice.
        authorization.is_proven = state.has_actions
        visit = Visit(state, client, authorization, cookies, trace, FINISHES[authorization.protocol])
        response = signed_in(visit, user)
        del state.logins[digest(ticket)]
        return response
    del state.logins[digest(ticket)]
    return _with_code(state, authorization, trace)


def finish(visit: Visit, user: User, session: Session) -> Response:
    """Send a signed-in person back to the application with a code, or ask whether it may have one."""
    state, authorization = visit.state, visit.authorization
    if not consent.is_needed(state, visit.client, authorization, user):
        return _with_code(state, authorization, visit.trace)
    if "none" in authorization.prompts or session.is_delegated:
        error = "interaction_required" if session.is_delegated else "consent_required"
        return _answer(state, authorization, error=error, error_description="Consent required")
    question = f"{visit.client.name or visit.client.client_id} asks for:"
    return consent.ask(state, visit.client, authorization, session, question)


def _answered(
    state: State, authorization: Authorization, ticket: str, params: Params, cookies: Mapping[str, str], *, trace: Trace
) -> Response:
    """Take the answer to a question, from the browser that is signed in as the person who was asked."""
    session = session_of(state, cookies, trace.now)
    client = state.clients.get(authorization.client_id)
    if session is None or session.session_id != authorization.session_id or client is None:
        return error_page("You are not signed in here any more; go back to the app and start again.")
    if authorization.question == "account":
        authorization.question = ""
        if params.get("action") != "continue":
            return login_page(state, ticket, username="")
        del state.logins[digest(ticket)]
        return go_on(Visit(state, client, authorization, cookies, trace, FINISHES[authorization.protocol]), session)
    del state.logins[digest(ticket)]
    is_yes = params.get("action") == "accept"
    if authorization.device:
        return device_code.decide(state, authorization, session, is_yes=is_yes)
    if not is_yes:
        text = "User did not authorize the request"
        state.log("f", trace, client_id=authorization.client_id, username=authorization.username, description=text)
        return _answer(state, authorization, error="access_denied", error_description=text)
    consent.give(state, authorization)
    return _with_code(state, authorization, trace)


FINISHES: dict[str, Finish] = {
    "oidc-basic-profile": finish,
    "samlp": saml.finish,
    "wsfed": saml.finish,
    device_code.PROTOCOL: device_code.finish,
}


def _answer(state: State, authorization: Authorization, **params: str) -> Response:
    return back(
        state, authorization.redirect_uri, authorization.state, response_mode=authorization.response_mode, **params
    )


def _with_code(state: State, authorization: Authorization, trace: Trace) -> Response:
    if authorization.is_implicit:
        return _with_id_token(state, authorization, trace)
    authorization.expires_at = trace.now + CODE_LIFETIME_S
    code = state.token("ac")
    remember(state.codes, digest(code), authorization)
    return _answer(state, authorization, code=code)


def _with_id_token(state: State, authorization: Authorization, trace: Trace) -> Response:
    """Answer ``response_type=id_token``: who has signed in, and no token to call anything with."""
    user = state.users[authorization.username]
    asked = SignInRequest(
        authorization.client_id,
        tuple(word for word in authorization.scope if word in {"openid", "profile", "email"}),
        user.method,
        nonce=authorization.nonce,
        organization=authorization.organization,
        tells_auth_time=authorization.tells_auth_time,
    )
    session = state.sessions[authorization.session_id]
    try:
        response = sign_in(state, user, trace, asked, session=session, commands=authorization.commands)[1]
    except Refusal as refusal:  # an Action has revoked the grant
        return _answer(state, authorization, error=refusal.error, error_description=refusal.description)
    return _answer(state, authorization, id_token=str(json.loads(response.body)["id_token"]))


def redeem(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Carry out ``grant_type=authorization_code``. Raises Refusal. RFC 6749 §4.1.3, RFC 7636 §4.6."""
    try:
        return _redeem(state, client, params, trace)
    except Refusal as refusal:
        authorization = state.codes.get(digest(params.get("code")))
        is_delegated = authorization is not None and authorization.is_delegated
        kind: LogType = "fdeleacft" if is_delegated else "feacft"
        state.log(kind, trace, client_id=client.client_id, description=refusal.description)
        raise


def _redeem(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    code, redirect_uri, verifier = params.need("code"), params.need("redirect_uri"), params.get("code_verifier")
    origins.check(state, origins.redeemer_of(client), trace)
    if not client.is_confidential:
        params.need("code_verifier")
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
    if user.is_disabled:
        raise Refusal("invalid_grant", "The user account is disabled.", code=50057)
    if trace.now >= authorization.expires_at:
        raise Refusal("invalid_grant", "The authorization code has expired.", code=70008)
    if authorization.redirect_uri != redirect_uri:
        raise bad
    if authorization.key_thumbprint and authorization.key_thumbprint != trace.key_thumbprint:
        del state.codes[digest(code)]  # as observed: another key burns the code
        raise Refusal("invalid_grant", "The code is bound to another key.")
    if not _is_verified(authorization, verifier):
        del state.codes[digest(code)]
        raise Refusal("invalid_grant", "The code_verifier does not match the code_challenge.", code=501481)
    scope, session = authorization.scope, None
    if authorization.session_id:
        session = state.sessions.get(authorization.session_id)
        if session is None or not session.is_alive(trace.now):
            raise bad  # it has ended meanwhile, perhaps with all that depends on it
        scope = granted_scope(state, client, session, scope)
    if "online_access" in scope and session is not None and not client.is_confidential and not trace.key_thumbprint:
        raise Refusal("invalid_request", "online_access of a public client needs a DPoP proof.")
    token_scope = None
    if state.rules.is_native:  # the scopes of one API of those that were consented to
        asked = scope_of_use(state, client, params, scope)
        token_scope = tuple(dict.fromkeys((*(word for word in scope if word in OIDC_SCOPES), *asked)))
    family, response = sign_in(
        state,
        user,
        trace,
        SignInRequest(
            client.client_id,
            scope,
            user.method,
            authorization.audience,
            nonce=authorization.nonce,
            has_second_factor=authorization.is_second_factor or (session is not None and session.has_second_factor),
            claims=asked_claims(params) if state.rules.is_native else NO_CLAIMS,
            redeemer=origins.redeemer_of(client),
            organization=authorization.organization,
            token_scope=token_scope,
            tells_auth_time=authorization.tells_auth_time,
        ),
        session=session,
        commands=authorization.commands,
    )
    authorization.family_id = family.family_id
    state.log(
        "sdeleacft" if family.actor else "seacft",
        trace,
        client_id=client.client_id,
        username=user.username,
        scope=" ".join(scope),
        details={"familyId": family.family_id, "session_id": family.session_id},
    )
    return response


def _is_verified(authorization: Authorization, verifier: str) -> bool:
    if not authorization.code_challenge:
        return not verifier  # RFC 9700 §2.1.1: a verifier without a challenge is a downgrade
    challenge = base64.urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return bool(_VERIFIER.fullmatch(verifier)) and hmac.compare_digest(challenge, authorization.code_challenge)


def is_redirect_uri(client: ClientModel, uri: str) -> bool:
    """Return whether codes of this client may be sent to ``uri``."""
    if not uri or len(uri) > REDIRECT_URI_CHARS_MAX or not uri.isascii() or not uri.isprintable() or " " in uri:
        return False
    if "#" in uri:  # RFC 6749 §3.1.2
        return False
    if uri in client.redirect_uris:
        return True
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return False
    if "\\" in uri or "@" in parts.netloc or port == 0:
        return False
    return parts.scheme in {"http", "https"} and parts.hostname in LOOPBACK_NAMES


def response_modes(state: State) -> tuple[ResponseMode, ...]:
    """Return the ways in which this profile sends an answer back."""
    return ("query", "fragment", "form_post", *(("web_message",) if state.rules.is_managed else ()))


def _is_web_origin(client: ClientModel, uri: str) -> bool:
    return urlsplit(uri).hostname in LOOPBACK_NAMES or origin_of(uri) in client.web_origins
