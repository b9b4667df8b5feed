"""Session transfer tokens: each is made from a refresh token and signs a browser in once.

A native client trades its refresh token at the token endpoint for a token that lives a minute
(``grant_type=refresh_token`` with the audience ``urn:{domain}:session_transfer``). A browser brings it to
``/authorize``, as a cookie or in the query, and is signed in without a form.

:func:`judge` decides, with one branch for each row of its table, and changes nothing; :func:`spend` uses the token
up. A driver that runs one request at a time therefore lets exactly one of many attempts win.

Ours, where nothing is documented: the first request that finds a token uses it up, whether it signs anybody in or
not; a token that arrives in a way that the client does not accept is ignored. If a cookie and a query parameter
arrive together, the query counts if the client accepts it. Under ``asn`` an address without a known system matches
only itself. A revoked parent makes its tokens worthless even without the cascade.
Source: Auth0's documents of Native to Web SSO.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal, Response, json_response
from token_relay.sandbox.provider.memory import tenant_logs
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, IssuedTransferToken, Session, State, digest, remember
from token_relay.sandbox.provider.tokens.cascade import setting_of
from token_relay.sandbox.provider.tokens.sessions import TRANSFER_COOKIES
from token_relay.sandbox.provider.tokens.token_answer import identity_token
from token_relay.sandbox.provider.world.client_settings import Binding, DeliveryMethod, accepts, effective_binding
from token_relay.sandbox.provider.world.model import ClientModel
from token_relay.sandbox.provider.world.network_table import Location

PARAM = "session_transfer_token"
ISSUED_TOKEN_TYPE = "urn:auth0:params:oauth:token-type:session_transfer_token"  # noqa: S105  # a type's name
_AUDIENCE = re.compile(r"urn:([^\s/]{1,253}):session_transfer", re.ASCII)


@dataclass(frozen=True, slots=True)
class NoToken:
    """The request brought no token in a way that the client accepts. ``warning``, if any, goes into the log."""

    warning: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The token signs nobody in: the person gets the login page, or keeps the session that was there before."""

    name: str
    token: IssuedTransferToken | None
    warning: str


@dataclass(frozen=True, slots=True)
class OtherUser:
    """The browser's session belongs to somebody else: it is revoked, and the person signs in with the form."""

    name: str
    token: IssuedTransferToken
    session: Session
    warning: str = tenant_logs.USER_MISMATCH


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """A delegated token met a session: the answer is an error page, and nothing is revoked."""

    name: str
    token: IssuedTransferToken
    warning: str = tenant_logs.DELEGATION_OVER_SESSION


@dataclass(frozen=True, slots=True)
class Accepted:
    """The token signs its person in."""

    name: str
    token: IssuedTransferToken
    parent: Family


Judgement = NoToken | Rejected | OtherUser | ErrorPage | Accepted


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a browser brings to ``/authorize``."""

    client: ClientModel
    query: str
    cookie: str
    session: Session | None
    organization: str
    place: Location


def domain_of(audience: str) -> str:
    """Return the domain of a session transfer audience, or an empty string for any other audience."""
    match = _AUDIENCE.fullmatch(audience)
    return match[1] if match else ""


def cookie_token(state: State, cookies: Mapping[str, str], protocol: str) -> str:
    """Return the token that came as a cookie, or an empty string. The documents have two names only for SAML."""
    has_both = protocol in {"samlp", "wsfed"} or not state.keeps("transfer-cookie")
    names = TRANSFER_COOKIES if has_both else TRANSFER_COOKIES[:1]
    return next((cookies[name] for name in names if cookies.get(name)), "")


def check_may_create(state: State, client: ClientModel, family: Family, params: Params, trace: Trace) -> None:
    """Refuse an exchange that this client or this grant may not make. Raises Refusal; changes nothing.

    The error bodies are ours: none is documented.
    """
    domain = domain_of(params.get("audience"))
    host = urlsplit(state.urls.base_url).netloc
    known = {host, host.rpartition(":")[0], trace.host, trace.host.rpartition(":")[0]} - {""}
    if domain not in known:
        raise Refusal("access_denied", "The audience names another domain.", status=403)
    if not setting_of(state, client.client_id).can_create_session_transfer_token:
        raise Refusal("access_denied", "The client may not create session transfer tokens.", status=403)
    if family.parent_family_id:
        raise Refusal("invalid_request", "A refresh token of a transferred session cannot be exchanged again.")


def create(state: State, family: Family, trace: Trace, *, actor: str = "") -> str:
    """Make a session transfer token of this grant."""
    value = state.token("st")
    token = IssuedTransferToken(
        client_id=family.client_id,
        family_id=family.family_id,
        username=family.username,
        scope=family.scope,
        place=trace.place,
        expires_at=trace.now + state.policy.session_transfer_lifetime_s,
        organization=family.organization,
        actor=actor,
    )
    remember(state.transfers, digest(value), token)
    state.note(
        "session_transfer_token_issued",
        trace.now,
        trace_id=trace.trace_id,
        family=family.family_id,
        client_id=family.client_id,
        username=family.username,
    )
    return value


def answer(state: State, family: Family, value: str, refresh_token: str, trace: Trace) -> Response:
    """Return the token endpoint's answer: no ``scope``, and ``refresh_token`` only where the exchange rotated it."""
    body: dict[str, JsonValue] = {
        "access_token": value,
        "issued_token_type": ISSUED_TOKEN_TYPE,
        "token_type": "N_A",
        "expires_in": int(state.policy.session_transfer_lifetime_s),
    }
    if refresh_token:
        body["refresh_token"] = refresh_token
    user = state.users.get(family.username)
    if "openid" in family.scope and user is not None:
        body["id_token"] = identity_token(state, family, user, family.scope, trace)
    return json_response(body)


def judge(state: State, arrival: Arrival, now: float) -> Judgement:
    """Decide what the browser's token leads to. Changes nothing."""
    accepted = accepts(arrival.client.session_transfer)
    brought: list[tuple[DeliveryMethod, str]] = [("query", arrival.query), ("cookie", arrival.cookie)]
    brought = [(method, value) for method, value in brought if value]
    if not brought:
        return NoToken()
    usable = [(method, value) for method, value in brought if method in accepted.methods]
    if not usable:
        return NoToken(tenant_logs.METHOD_NOT_ALLOWED.format(method=brought[0][0]))
    name = digest(usable[0][1])
    token = state.transfers.get(name)
    if token is None or token.is_used or now >= token.expires_at:
        return Rejected(name, token, tenant_logs.TOKEN_NOT_FOUND)
    parent = state.families.get(token.family_id)
    if parent is None or parent.is_dead or token.username not in state.users:
        return Rejected(name, token, tenant_logs.PARENT_NOT_FOUND)
    if token.actor and arrival.session is not None:
        return ErrorPage(name, token)
    if token.actor and not accepted.allows_delegated_access:
        return Rejected(name, token, tenant_logs.DELEGATION_NOT_ALLOWED)
    if arrival.organization and arrival.organization != token.organization:
        return Rejected(name, token, tenant_logs.ORGANIZATION_MISMATCH)
    native = state.clients.get(token.client_id)
    binding: Binding = effective_binding(
        native.session_transfer if native is not None else None, arrival.client.session_transfer
    )
    if token.actor:
        binding = accepted.delegation_binding
    if not is_bound(binding, token.place, arrival.place):
        return Rejected(name, token, tenant_logs.BINDING_FAILED.format(binding=binding.upper()))
    if arrival.session is not None and arrival.session.username != token.username:
        return OtherUser(name, token, arrival.session)
    return Accepted(name, token, parent)


def is_bound(binding: Binding, made_at: Location, used_at: Location) -> bool:
    """Return whether a token made in one place may be used in the other."""
    match binding:
        case "none":
            return True
        case "asn":
            is_same = made_at.asn is not None and made_at.asn == used_at.asn
            return is_same or made_at.ip == used_at.ip
        case "ip":
            return made_at.ip == used_at.ip


def spend(judgement: Judgement) -> None:
    """Use the token up, if there is one."""
    if not isinstance(judgement, NoToken) and judgement.token is not None:
        judgement.token.is_used = True


def as_event(state: State, token: IssuedTransferToken) -> dict[str, JsonValue]:
    """Return ``event.session_transfer_token``."""
    return {"client_id": token.client_id, "scope": list(token.scope), "request": token.place.as_json()}
