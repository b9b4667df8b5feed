"""Clients in the management API: GET, POST, PATCH, DELETE, with ``session_transfer`` and ``refresh_token``.

A PATCH leaves alone what it does not name. Our choice, where the documents are silent: the two settings are replaced
whole, so a caller sends every member that it relies on; null removes one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from token_relay.protocol.secret import Password
from token_relay.sandbox.provider.http_values import JsonValue, Response, json_response
from token_relay.sandbox.provider.management.api import ManagementCall, ManagementProblem, Route, route
from token_relay.sandbox.provider.tokens.cascade import kill_family, log_revoked
from token_relay.sandbox.provider.world.client_settings import RefreshTokenSetting, SessionTransfer
from token_relay.sandbox.provider.world.model import (
    CLIENTS_MAX,
    AppType,
    ClientAuthMethod,
    ClientModel,
    Name,
    SamlModel,
    Text,
    problems_of,
)

_CLOSED = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)
_Uris = Annotated[list[Name], Field(max_length=100)]
SECRET_SCOPES = frozenset({"read:client_keys"})


class _Samlp(BaseModel):
    model_config = _CLOSED
    audience: Name
    destination: Annotated[str, StringConstraints(max_length=2000, pattern=r"^https?://[!-~]+$")]


class _Addons(BaseModel):
    model_config = _CLOSED
    samlp: _Samlp | None = None
    wsfed: _Samlp | None = None  # the sandbox serves both from one setting


class ClientChange(BaseModel):
    """What a PATCH may name."""

    model_config = _CLOSED
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    description: Annotated[str, StringConstraints(max_length=140)] | None = None
    app_type: AppType | None = None
    callbacks: _Uris | None = None
    allowed_logout_urls: _Uris | None = None
    initiate_login_uri: Name | None = None
    grant_types: Annotated[list[Name], Field(max_length=20)] | None = None
    token_endpoint_auth_method: ClientAuthMethod | None = None
    client_secret: Password | None = None
    client_metadata: Annotated[dict[Name, Text], Field(max_length=10)] | None = None
    session_transfer: SessionTransfer | None = None
    refresh_token: RefreshTokenSetting | None = None
    addons: _Addons | None = None
    is_first_party: bool | None = None
    is_token_endpoint_ip_header_trusted: bool | None = None


class NewClient(ClientChange):
    """What a POST may name; only the name is required. Our addition: a ``client_id`` may be chosen."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    client_id: Name | None = None


_SAME_NAME = (
    "name",
    "description",
    "app_type",
    "allowed_logout_urls",
    "initiate_login_uri",
    "grant_types",
    "token_endpoint_auth_method",
    "client_secret",
    "session_transfer",
    "refresh_token",
    "is_first_party",
    "is_token_endpoint_ip_header_trusted",
)
_OTHER_NAME = {"callbacks": "redirect_uris", "client_metadata": "metadata"}
_MAY_BE_NULL = {"initiate_login_uri", "grant_types", "client_secret", "session_transfer", "refresh_token", "addons"}


def _changed(change: ClientChange) -> dict[str, object]:
    """Return the fields of :class:`ClientModel` that a body sets. Raises ManagementProblem."""
    found: dict[str, object] = {}
    for name in change.model_fields_set - {"client_id"}:
        value = getattr(change, name)
        if value is None and name not in _MAY_BE_NULL:
            raise ManagementProblem(400, "invalid_body", f"Payload validation error: {name} must not be null")
        if name in _SAME_NAME or name in _OTHER_NAME:
            found[_OTHER_NAME.get(name, name)] = value
        elif name == "addons":
            addon = None if change.addons is None else change.addons.samlp or change.addons.wsfed
            found["saml"] = None if addon is None else SamlModel(acs_url=addon.destination, audience=addon.audience)
    return found


def _built(fields: dict[str, object]) -> ClientModel:
    try:
        return ClientModel.model_validate(fields)
    except ValidationError as exc:
        raise ManagementProblem(400, "invalid_body", f"Payload validation error: {problems_of(exc)}") from None


def _create(call: ManagementCall) -> Response:
    body, state = call.read(NewClient), call.state
    if len(state.clients) >= CLIENTS_MAX:
        raise ManagementProblem(403, "too_many_entities", f"There are {CLIENTS_MAX} clients already.")
    client_id = body.client_id or state.rng.randbytes(16).hex()
    if client_id in state.clients:
        raise ManagementProblem(400, "invalid_body", "Payload validation error: client_id exists already")
    fields = _changed(body)
    fields.setdefault("client_secret", Password(state.rng.randbytes(32).hex()))
    is_web = body.app_type in {"regular_web", "non_interactive"}
    fields.setdefault("token_endpoint_auth_method", "client_secret_post" if is_web else "none")
    client = _built({**fields, "client_id": client_id})
    state.clients[client_id] = client
    shown = shown_client(client)
    if client.client_secret is not None:
        shown["client_secret"] = client.client_secret.reveal()
    return json_response(shown, 201)


def _read(call: ManagementCall) -> Response:
    return json_response(call.fields(_shown(call, _client(call))))


def _list(call: ManagementCall) -> Response:
    wanted = call.query.get("app_type").split(",") if call.query.get("app_type") else None
    clients = [one for one in call.state.clients.values() if wanted is None or one.app_type in wanted]
    return call.listed("clients", [_shown(call, one) for one in clients], key="client_id")


def _update(call: ManagementCall) -> Response:
    client = _client(call)
    former = {name: getattr(client, name) for name in client.model_fields_set}
    changed = _built({**former, **_changed(call.read(ClientChange))})
    call.state.clients[client.client_id] = changed
    return json_response(_shown(call, changed))


def _delete(call: ManagementCall) -> Response:
    client = _client(call)
    for family in list(call.state.families.values()):
        if family.client_id == client.client_id and not family.is_dead:
            kill_family(call.state, family, call.trace, reason="client_deleted")
            log_revoked(call.state, family, call.trace, cause="client_deleted")
    del call.state.clients[client.client_id]
    return Response(204)


def _client(call: ManagementCall) -> ClientModel:
    client = call.state.clients.get(call.names[0])
    if client is None:
        raise ManagementProblem(404, "inexistent_client", "The client does not exist.")
    return client


def _shown(call: ManagementCall, client: ClientModel) -> dict[str, JsonValue]:
    shown = shown_client(client)
    if client.client_secret is not None and call.token.scope >= SECRET_SCOPES:
        shown["client_secret"] = client.client_secret.reveal()
    return shown


def shown_client(client: ClientModel) -> dict[str, JsonValue]:
    """Return a client as the API shows it, without its secret."""
    shown: dict[str, JsonValue] = {
        "client_id": client.client_id,
        "name": client.name or client.client_id,
        "description": client.description,
        "app_type": client.app_type,
        "is_first_party": client.is_first_party,
        "is_token_endpoint_ip_header_trusted": client.is_token_endpoint_ip_header_trusted,
        "oidc_conformant": True,
        "callbacks": [*client.redirect_uris],
        "allowed_logout_urls": [*client.allowed_logout_urls],
        "token_endpoint_auth_method": client.token_endpoint_auth_method,
        "client_metadata": dict(client.metadata),
        "grant_types": [*client.allowed_grant_types],
        "session_transfer": None,
        "refresh_token": None,
    }
    if client.initiate_login_uri is not None:
        shown["initiate_login_uri"] = client.initiate_login_uri
    if client.session_transfer is not None:
        shown["session_transfer"] = client.session_transfer.model_dump(mode="json")
    if client.refresh_token is not None:
        shown["refresh_token"] = client.refresh_token.model_dump(mode="json", exclude_none=True)
    if client.saml is not None:
        shown["addons"] = {"samlp": {"audience": client.saml.audience, "destination": client.saml.acs_url}}
    return shown


ROUTES: tuple[Route, ...] = (
    route("GET", "clients", _list, "read:clients", "read:client_keys"),
    route("POST", "clients", _create, "create:clients"),
    route("GET", "clients/*", _read, "read:clients", "read:client_keys"),
    route("PATCH", "clients/*", _update, "update:clients"),
    route("DELETE", "clients/*", _delete, "delete:clients"),
)
