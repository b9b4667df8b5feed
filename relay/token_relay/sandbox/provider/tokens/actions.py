"""What a post-login Action sees, and what its answer changes.

The event uses the names of Auth0's ``post-login`` trigger, so that a rule can be copied word for word. No value in it
is a secret, and none depends on the moment of asking: two questions about one login have the same event. An Action
that fails denies: nobody is signed in, and the tenant's log holds the cause.
"""

from __future__ import annotations

from collections.abc import Sequence

from token_relay.sandbox.provider.http_values import JsonValue, Refusal, stamp
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, IssuedTransferToken, Session, State
from token_relay.sandbox.provider.memory.verdicts import (
    FAILED_TEXT,
    NO_VERDICT,
    ActionWanted,
    Command,
    Deny,
    Question,
    RevokeCommand,
    SetExpiry,
    SetMetadata,
    Verdict,
)
from token_relay.sandbox.provider.tokens import session_transfer
from token_relay.sandbox.provider.tokens.cascade import end_session, kill_family, log_revoked
from token_relay.sandbox.provider.tokens.rotation import rotation_of
from token_relay.sandbox.provider.world.auth0_clients import CONNECTION
from token_relay.sandbox.provider.world.model import ClientModel
from token_relay.sandbox.provider.world.rules import user_id

METADATA_MAX = 25  # entries of one refresh token, as documented


def ask(
    state: State,
    trace: Trace,
    *,
    client: ClientModel,
    user: User,
    protocol: str,
    scope: Sequence[str],
    session: Session | None = None,
    transfer: IssuedTransferToken | None = None,
    family: Family | None = None,
    organization: str = "",
    redirect_uri: str = "",
) -> Verdict:
    """Return the Actions' verdict on this login; call this before any change.

    Raises:
        ActionWanted: they have not been asked yet; the driver asks them and starts again.
    """
    if not state.has_actions:
        return NO_VERDICT
    event: dict[str, JsonValue] = {
        "client": {"client_id": client.client_id, "name": client.name, "metadata": dict(client.metadata)},
        "user": {
            "user_id": user_id(user.username),
            "email": user.username,
            "name": user.name,
            "user_metadata": dict(user.attributes),
        },
        "request": {**trace.place.as_json(), "hostname": trace.host},
        "tenant": {"id": state.urls.tenant},
        "connection": {"name": CONNECTION, "strategy": "auth0"},
        "transaction": {"protocol": protocol, "requested_scopes": list(scope), "redirect_uri": redirect_uri},
        "secrets": {},
    }
    if session is not None:
        event["session"] = session_json(state, session)
    if transfer is not None:
        event["session_transfer_token"] = session_transfer.as_event(state, transfer)
    if family is not None:
        event["refresh_token"] = refresh_token_json(state, family, metadata_as="metadata")
    if organization:
        event["organization"] = {"id": organization, "name": organization}
    question = Question(event)
    if trace.verdict is None or trace.verdict.key != question.key:
        raise ActionWanted(question)
    return trace.verdict


def denial(verdict: Verdict) -> str:
    """Return why the login is refused, or an empty string. The client gets this reason."""
    if verdict.failure:
        return FAILED_TEXT
    return next((one.reason or "Access denied." for one in verdict.commands if isinstance(one, Deny)), "")


def carry_out(
    state: State,
    commands: Sequence[Command],
    trace: Trace,
    *,
    session: Session | None = None,
    family: Family | None = None,
) -> None:
    """Apply what Actions said about the session and the refresh token of a login that they did not deny.

    Raises:
        Refusal: an Action revoked the session or the refresh token.
    """
    for one in commands:
        match one:
            case SetExpiry(of="session") if session is not None:
                _shorten(session, one)
            case SetExpiry(of="refresh_token") if family is not None:
                _shorten_family(state, family, one)
            case SetMetadata() if family is not None:
                if one.value is None:
                    family.metadata.pop(one.key, None)
                elif one.key in family.metadata or len(family.metadata) < METADATA_MAX:
                    family.metadata[one.key] = one.value
            case RevokeCommand(of="session") if session is not None:
                end_session(state, session, trace, reason="action", with_refresh_tokens=True)
                raise Refusal("access_denied", one.reason or "The session was revoked.", status=403)
            case RevokeCommand(of="refresh_token") if family is not None:
                if not family.is_dead:
                    kill_family(state, family, trace, reason="action")
                    log_revoked(state, family, trace, cause="action")
                raise Refusal("access_denied", one.reason or "The refresh token was revoked.", status=403)
            case _:
                pass


def _shorten(session: Session, order: SetExpiry) -> None:
    at = order.at_ms / 1000
    if order.do == "set_expires_at":
        session.expires_at = at if session.expires_at is None else min(at, session.expires_at)
    else:
        session.idle_expires_at = at if session.idle_expires_at is None else min(at, session.idle_expires_at)


def _shorten_family(state: State, family: Family, order: SetExpiry) -> None:
    at = order.at_ms / 1000
    if order.do == "set_expires_at":
        family.expires_at = at if family.expires_at is None else min(at, family.expires_at)
        return
    entry = state.refresh_tokens.get(family.newest)
    if entry is not None:
        entry.idle_expires_at = at if entry.idle_expires_at is None else min(at, entry.idle_expires_at)


def session_json(state: State, session: Session) -> dict[str, JsonValue]:
    """Return a session as Actions and the management API show it."""
    parent = state.families.get(session.parent_family_id)
    shown: dict[str, JsonValue] = {
        "id": session.session_id,
        "user_id": user_id(session.username),
        "created_at": stamp(session.created_at),
        "updated_at": stamp(session.updated_at),
        "authenticated_at": stamp(session.authenticated_at),
        "expires_at": stamp(session.expires_at),
        "idle_expires_at": stamp(session.idle_expires_at),
        "device": _device(session),
        "clients": [{"client_id": one} for one in session.clients],
    }
    if session.parent_family_id:
        metadata: dict[str, JsonValue] = {} if parent is None else dict(parent.metadata)
        shown["session_transfer"] = {"parent_refresh_token": {"id": session.parent_family_id, "metadata": metadata}}
    return shown


def refresh_token_json(state: State, family: Family, *, metadata_as: str) -> dict[str, JsonValue]:
    """Return a grant's refresh token as Actions and the management API show it; rotation keeps its id."""
    entry = state.refresh_tokens.get(family.newest)
    shown: dict[str, JsonValue] = {
        "id": family.family_id,
        "user_id": user_id(family.username),
        "client_id": family.client_id,
        "session_id": family.session_id or None,
        "created_at": stamp(family.born_at),
        "expires_at": stamp(family.expires_at),
        "idle_expires_at": stamp(entry.idle_expires_at if entry is not None else None),
        "last_exchanged_at": stamp(family.last_exchanged_at),
        "rotating": rotation_of(state, state.clients.get(family.client_id), family).rotates,
        "resource_servers": [{"audience": family.audience, "scopes": " ".join(family.scope)}],
        "device": _device(family),
        metadata_as: dict(family.metadata),
    }
    if family.parent_family_id:
        shown["session_transfer"] = {"parent_refresh_token": {"id": family.parent_family_id}}
    return shown


def _device(of: Session | Family) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for when, place in (("initial", of.initial_place), ("last", of.last_place)):
        found[f"{when}_ip"] = place.ip
        found[f"{when}_asn"] = None if place.asn is None else str(place.asn)
        found[f"{when}_user_agent"] = place.user_agent
    return found
