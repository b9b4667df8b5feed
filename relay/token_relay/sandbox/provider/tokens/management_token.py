"""Access tokens of the management API: by client credentials, with scopes. RFC 6749 §4.4."""

from __future__ import annotations

from token_relay.sandbox.marked_tokens import MARK
from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal, Response, json_response, split_scope
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import ManagementToken, State, digest, remember
from token_relay.sandbox.provider.world.model import ClientModel


def audience(state: State) -> str:
    """Return the API's identifier: its address, with the slash at the end."""
    return f"{state.urls.base_url}/api/v2/"


def management_token(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Carry out ``grant_type=client_credentials``. Raises Refusal."""
    if not client.is_confidential:
        raise Refusal("unauthorized_client", "Grant type 'client_credentials' not allowed for the client.", status=403)
    asked = params.need("audience")
    host = f"https://{trace.host}/api/v2/"  # what an SDK that knows only the host asks for
    if asked not in {audience(state), host}:
        raise Refusal("access_denied", f"Service not enabled within domain: {asked}", status=403)
    scope = split_scope(params.get("scope")) if params.get("scope") else tuple(client.api_scopes)
    if not client.api_scopes or not set(scope).issubset(client.api_scopes):
        state.log("feccft", trace, client_id=client.client_id, audience=asked)
        raise Refusal("access_denied", "Client has not been granted scopes: " + " ".join(scope), status=403)
    lifetime_s = int(state.policy.management_token_lifetime_s)
    claims: dict[str, JsonValue] = {
        "iss": state.urls.issuer,
        "sub": f"{client.client_id}@clients",
        "aud": asked,
        "iat": int(trace.now),
        "exp": int(trace.now) + lifetime_s,
        "scope": " ".join(scope),
        "gty": "client-credentials",
        "azp": client.client_id,
        "jti": f"{MARK}-{state.rng.randbytes(16).hex()}",
    }
    value = state.signer.sign(claims)
    token = ManagementToken(client.client_id, frozenset(scope), trace.now + lifetime_s)
    remember(state.management_tokens, digest(value), token)
    state.log("seccft", trace, client_id=client.client_id, audience=asked, scope=" ".join(scope))
    body: dict[str, JsonValue] = {
        "access_token": value,
        "scope": " ".join(scope),
        "expires_in": lifetime_s,
        "token_type": "Bearer",
    }
    return json_response(body)
