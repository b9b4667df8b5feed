"""Refresh tokens, sessions, device credentials and the log in the management API.

A refresh token's id is its grant's and stays through rotation. Online refresh tokens are not shown; their session is.
The real service acts some time after a 202; the sandbox acts before it answers.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from token_relay.sandbox.provider.http_values import JsonValue, Response, json_response
from token_relay.sandbox.provider.management.api import ManagementCall, ManagementProblem, Route, json_any, route
from token_relay.sandbox.provider.memory.state import Family, Session
from token_relay.sandbox.provider.memory.tenant_logs import LOG_TYPES
from token_relay.sandbox.provider.tokens.actions import METADATA_MAX, refresh_token_json, session_json
from token_relay.sandbox.provider.tokens.cascade import end_session, kill_family, log_revoked
from token_relay.sandbox.provider.tokens.families import revoke_family
from token_relay.sandbox.provider.world.rules import user_id

_CLOSED = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)
_Id = Annotated[str, StringConstraints(min_length=1, max_length=254)]
CREDENTIALS_MAX = 1_000
_KEY = r"^[A-Za-z0-9_-]{1,255}$"
_LOG_TERM = re.compile(r'(type|client_id|user_id|user_name|ip|audience|log_id):(?:"([^"]{0,500})"|([^\s"]{1,500}))')


class MetadataChange(BaseModel):
    """PATCH of a refresh token; null removes all metadata, a null value removes its key."""

    model_config = _CLOSED
    refresh_token_metadata: (
        dict[
            Annotated[str, StringConstraints(pattern=_KEY)],
            Annotated[str, StringConstraints(max_length=255)] | None,
        ]
        | None
    )


class BulkRevocation(BaseModel):
    """Which refresh tokens to revoke: by id, or those of a person, with one client, for one API."""

    model_config = _CLOSED
    ids: Annotated[list[_Id], Field(min_length=1, max_length=100)] | None = None
    user_id: _Id | None = None
    client_id: _Id | None = None
    audience: _Id | None = None


# -- refresh tokens ----------------------------------------------------------------------------------------------


def _alive(call: ManagementCall, owner: str | None = None, client_id: str = "") -> list[Family]:
    return [
        one
        for one in call.state.families.values()
        if one.generation > 0
        and not one.is_dead
        and not one.is_online
        and owner in {None, user_id(one.username)}
        and client_id in {"", one.client_id}
    ]


def _shown(call: ManagementCall, family: Family) -> dict[str, JsonValue]:
    return refresh_token_json(call.state, family, metadata_as="refresh_token_metadata")


def _family(call: ManagementCall) -> Family:
    family = call.state.families.get(call.names[0])
    if family is None or family.is_dead or family.is_online or family.generation == 0:
        raise ManagementProblem(404, "inexistent_refresh_token", "The refresh token does not exist.")
    return family


def _list_tokens(call: ManagementCall) -> Response:
    owner, client_id = call.query.get("user_id"), call.query.get("client_id")
    if not owner:
        raise ManagementProblem(400, "invalid_query_string", "Query validation error: user_id is required")
    found = _alive(call, owner, client_id)
    return call.checkpointed("refresh_tokens", [_shown(call, one) for one in found])


def _read_token(call: ManagementCall) -> Response:
    return json_response(call.fields(_shown(call, _family(call))))


def _update_token(call: ManagementCall) -> Response:
    family, change = _family(call), call.read(MetadataChange).refresh_token_metadata
    if change is None:
        family.metadata = {}
    else:
        merged = {**family.metadata, **{key: value for key, value in change.items() if value is not None}}
        merged = {key: value for key, value in merged.items() if change.get(key, value) is not None}
        if len(merged) > METADATA_MAX:
            message = f"Payload validation error: refresh_token_metadata: more than {METADATA_MAX} entries"
            raise ManagementProblem(400, "invalid_body", message)
        family.metadata = merged
    return json_response(_shown(call, family))


def _delete_token(call: ManagementCall) -> Response:
    revoke_family(call.state, _family(call), call.trace)
    return Response(202)


def _revoke_tokens(call: ManagementCall) -> Response:
    order = call.read(BulkRevocation)
    if (order.ids is None) == (order.user_id is None):
        raise ManagementProblem(400, "invalid_body", "Payload validation error: either ids or user_id is wanted")
    if order.ids is not None and (order.client_id or order.audience):
        raise ManagementProblem(400, "invalid_body", "Payload validation error: ids goes alone")
    if order.audience is not None and order.client_id is None:
        raise ManagementProblem(400, "invalid_body", "Payload validation error: audience goes with client_id")
    for family in _alive(call, order.user_id, order.client_id or ""):
        is_meant = order.ids is None or family.family_id in order.ids
        if is_meant and order.audience in {None, family.audience} and not family.is_dead:
            revoke_family(call.state, family, call.trace)
    return Response(202)


# -- people ------------------------------------------------------------------------------------------------------


def _owner(call: ManagementCall) -> str:
    if all(user_id(name) != call.names[0] for name in call.state.users):
        raise ManagementProblem(404, "inexistent_user", "The user does not exist.")
    return call.names[0]


def _user_tokens(call: ManagementCall) -> Response:
    tokens = [_shown(call, one) for one in _alive(call, _owner(call))]
    return _with_either_paging(call, "tokens", tokens)


def _delete_user_tokens(call: ManagementCall) -> Response:
    for family in _alive(call, _owner(call)):
        if not family.is_dead:
            revoke_family(call.state, family, call.trace)
    return Response(202)


def _user_sessions(call: ManagementCall) -> Response:
    owner = _owner(call)
    sessions = [session_json(call.state, one) for one in _sessions(call) if user_id(one.username) == owner]
    return _with_either_paging(call, "sessions", sessions)


def _delete_user_sessions(call: ManagementCall) -> Response:
    owner = _owner(call)
    for session in _sessions(call):
        if user_id(session.username) == owner:
            end_session(call.state, session, call.trace, reason="administrator")
    return Response(202)


def _with_either_paging(call: ManagementCall, name: str, items: list[dict[str, JsonValue]]) -> Response:
    if call.query.get("page") or call.query.get("per_page") or call.query.get("include_totals"):
        return call.listed(name, items)
    return call.checkpointed(name, items)


# -- sessions ----------------------------------------------------------------------------------------------------


def _sessions(call: ManagementCall) -> list[Session]:
    return [one for one in call.state.sessions.values() if one.is_alive(call.trace.now)]


def _session(call: ManagementCall) -> Session:
    session = call.state.sessions.get(call.names[0])
    if session is None or not session.is_alive(call.trace.now):
        raise ManagementProblem(404, "inexistent_session", "The session does not exist.")
    return session


def _read_session(call: ManagementCall) -> Response:
    return json_response(call.fields(session_json(call.state, _session(call))))


def _delete_session(call: ManagementCall) -> Response:
    end_session(call.state, _session(call), call.trace, reason="administrator")
    return Response(202)


def _revoke_session(call: ManagementCall) -> Response:
    end_session(call.state, _session(call), call.trace, reason="administrator", with_refresh_tokens=True)
    return Response(202)


# -- device credentials ------------------------------------------------------------------------------------------


def _credentials(call: ManagementCall) -> Response:
    kind = call.query.get("type") or "refresh_token"
    if kind not in {"refresh_token", "rotating_refresh_token", "public_key"}:
        message = "Query validation error: type must be refresh_token, rotating_refresh_token or public_key"
        raise ManagementProblem(400, "invalid_query_string", message)
    families = [] if kind == "public_key" else _alive(call, call.query.get("user_id") or None)
    client_id = call.query.get("client_id")
    is_rotating = kind == "rotating_refresh_token"
    found: list[dict[str, JsonValue]] = [
        {
            "id": one.family_id,
            "type": kind,
            "user_id": user_id(one.username),
            "client_id": one.client_id,
            "device_name": one.metadata.get("device_name", one.last_place.user_agent),
        }
        for one in families
        if one.is_rotating == is_rotating and client_id in {"", one.client_id}
    ]
    return call.listed("device_credentials", found[:CREDENTIALS_MAX])


def _delete_credential(call: ManagementCall) -> Response:
    family = call.state.families.get(call.names[0])
    if family is not None and not family.is_dead and not family.is_online:
        kill_family(call.state, family, call.trace, reason="revoked")
        log_revoked(call.state, family, call.trace, cause="device_credential_deleted")
    return Response(204)


# -- the log -----------------------------------------------------------------------------------------------------


def _logs(call: ManagementCall) -> Response:
    records = [one.as_json() for one in call.state.logs]
    query = call.query.get("q") or call.query.get("search")
    if query:
        records = [one for one in records if _matches(query, one)]
    if call.query.get("from") or call.query.get("take"):
        after = call.query.get("from")
        later = [one for one in records if not after or str(one["log_id"]) > after]
        shown: list[JsonValue] = [call.fields(one) for one in later[: call.number("take", 50, 100) or 50]]
        return json_any(shown)
    if not call.query.get("sort").endswith(":1"):  # the newest first, unless date:1 is asked for
        records.reverse()
    return call.listed("logs", records, key="log_id")


def _log(call: ManagementCall) -> Response:
    for record in call.state.logs:
        if record.log_id == call.names[0]:
            return json_response(record.as_json())
    raise ManagementProblem(404, "inexistent_log", "There is no such log record.")


def _matches(query: str, record: dict[str, JsonValue]) -> bool:
    """Return whether every term fits; only ``name:value AND ...`` of Lucene's language is known.

    Raises ManagementProblem.
    """
    for term in re.split(r"\s+AND\s+", query.strip()):
        found = _LOG_TERM.fullmatch(term)
        if found is None or (found[1] == "type" and (found[2] or found[3]) not in LOG_TYPES):
            message = "Query validation error: q takes terms such as type:sertft, joined by AND"
            raise ManagementProblem(400, "invalid_query_string", message)
        if record.get(found[1]) != (found[2] if found[2] is not None else found[3]):
            return False
    return True


ROUTES: tuple[Route, ...] = (
    route("GET", "refresh-tokens", _list_tokens, "read:refresh_tokens"),
    route("POST", "refresh-tokens/revoke", _revoke_tokens, "delete:refresh_tokens"),
    route("GET", "refresh-tokens/*", _read_token, "read:refresh_tokens"),
    route("PATCH", "refresh-tokens/*", _update_token, "update:refresh_tokens"),
    route("DELETE", "refresh-tokens/*", _delete_token, "delete:refresh_tokens"),
    route("GET", "users/*/refresh-tokens", _user_tokens, "read:refresh_tokens"),
    route("DELETE", "users/*/refresh-tokens", _delete_user_tokens, "delete:refresh_tokens"),
    route("GET", "users/*/sessions", _user_sessions, "read:sessions"),
    route("DELETE", "users/*/sessions", _delete_user_sessions, "delete:sessions"),
    route("GET", "sessions/*", _read_session, "read:sessions"),
    route("DELETE", "sessions/*", _delete_session, "delete:sessions"),
    route("POST", "sessions/*/revoke", _revoke_session, "delete:sessions delete:refresh_tokens"),
    route("GET", "device-credentials", _credentials, "read:device_credentials"),
    route("DELETE", "device-credentials/*", _delete_credential, "delete:device_credentials"),
    route("GET", "logs", _logs, "read:logs"),
    route("GET", "logs/*", _log, "read:logs"),
)
