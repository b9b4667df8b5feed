"""Session delegation: a session transfer token in a person's name that says who acts. RFC 8693 §2.

A confidential client brings an id_token of the person (``subject_token``) and one of the agent (``actor_token``), both
issued here, and gets a token whose session lasts two hours, has no refresh tokens and carries ``act``.

Ours: the real service lets an Action name the person; here the subject token does. If Actions are loaded, one of them
has to call ``api.authentication.setActor``; otherwise the answer is the documented ``setactor_required``.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal, Response, json_response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, State
from token_relay.sandbox.provider.memory.verdicts import SetActor
from token_relay.sandbox.provider.tokens import session_transfer
from token_relay.sandbox.provider.tokens.actions import ask, denial
from token_relay.sandbox.provider.tokens.cascade import setting_of
from token_relay.sandbox.provider.tokens.issued import find_access
from token_relay.sandbox.provider.tokens.token_answer import subject
from token_relay.sandbox.provider.world.model import ClientModel

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105  # a type's name


def exchange(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Carry out the exchange. Raises Refusal."""
    if not client.is_confidential:
        raise Refusal("unauthorized_client", "Only a confidential client may delegate.", status=403)
    if not session_transfer.domain_of(params.need("audience")):
        raise Refusal("invalid_target", "Only session transfer tokens can be had by token exchange.")
    if not setting_of(state, client.client_id).can_create_session_transfer_token:
        raise Refusal("session_transfer_disabled", "The client may not create session transfer tokens.")
    person, agent = (_family(state, params, name, trace) for name in ("subject_token", "actor_token"))
    if agent.actor or person.actor:
        raise Refusal("invalid_request", "An actor cannot act through another one.")
    session_transfer.check_may_create(state, client, person, params, trace)
    user = state.users.get(person.username)
    if user is None:
        raise Refusal("invalid_request", "The subject_token is not valid.")
    actor = subject(state, agent.username, client.client_id)
    if state.has_actions:
        verdict = ask(state, trace, client=client, user=user, protocol="oauth2-token-exchange", scope=person.scope)
        problem = denial(verdict)
        if problem:
            raise Refusal("access_denied", problem, status=403)
        actor = next((one.sub for one in verdict.commands if isinstance(one, SetActor)), "")
        if not actor:
            raise Refusal("setactor_required", "An Action must call api.authentication.setActor.")
    value = session_transfer.create(state, person, trace, actor=actor)
    body: dict[str, JsonValue] = {
        "access_token": value,
        "issued_token_type": session_transfer.ISSUED_TOKEN_TYPE,
        "token_type": "N_A",  # RFC 8693 §2.2.1 demands one; the documents' sample leaves it out
        "expires_in": int(state.policy.session_transfer_lifetime_s),
    }
    return json_response(body)


def _family(state: State, params: Params, name: str, trace: Trace) -> Family:
    """Return the grant that this id_token came from. Raises Refusal."""
    value = params.need(name)
    if params.need(f"{name}_type") != ID_TOKEN_TYPE:
        raise Refusal("invalid_request", f"{name}_type must be {ID_TOKEN_TYPE}")
    entry = find_access(state, value, "id")
    family = state.families.get(entry.family_id) if entry is not None else None
    if entry is None or family is None or family.is_dead or trace.now >= entry.expires_at:
        raise Refusal("invalid_request", f"The {name} is not valid.")  # §2.2.2
    return family
