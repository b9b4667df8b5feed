"""``token``: prints an access token for a shell script, with the fastest possible start.

It imports only the standard library and :mod:`token_relay.cli.client`. A refusal of the agent is an answer with its own
exit code, not an error: its ``detail`` goes to standard error, and with ``--json`` the whole object to standard output.

``--inspect`` reads a JWT without checking it (its API does that) and never shows the signature: header and claims
alone are no credential, so a person can paste them into a bug report.
"""

from __future__ import annotations

import base64
import json

from token_relay.cli.client import TOKEN_GRACE_S, ClientError, get_token, locate
from token_relay.cli.parsing import DONE, FAILED, PERSON, REFUSED, Context, printable
from token_relay.host.paths import TOKEN_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from token_relay.cli.client import JsonObject
    from token_relay.host.paths import Kind

AGENT_TIMEOUT_S = 10.0  # the agent's own default for fetching a token
EXITS = {"reauth_required": PERSON, "locked": PERSON, "denied": REFUSED}


def run(args: argparse.Namespace, context: Context) -> int:
    """Print the token (or its contents) and return 0, or say why there is none."""
    query = {
        name: value
        for name in ("scope", "account", "issuer", "phone", "audience")
        if (value := getattr(args, name, None)) is not None  # a phone has no --phone
    }
    if args.min_valid is not None:
        query["min_valid_s"] = f"{args.min_valid:g}"
    if args.claims is not None:
        query["claims"] = args.claims
    if args.force_refresh:
        query["force_refresh"] = "true"
    path = locate(agent_kind(args), context.env, name=TOKEN_SOCKET, home=args.home, socket_directory=args.socket)
    status, body = get_token(path, query, timeout_s=AGENT_TIMEOUT_S + TOKEN_GRACE_S)
    token = body.get("access_token")
    if status != 200 or not isinstance(token, str) or not _is_clean(token):
        return refused(context, status, body, prog=args.prog)
    if args.inspect:
        context.out(json.dumps(inspect(token), indent=None if context.as_json else 2))
    else:
        context.out(json.dumps(body) if context.as_json else token)
    return DONE


def agent_kind(args: argparse.Namespace) -> Kind:
    """Return the agent that the command is for."""
    return "phone" if args.group == "phone" else "companion"


def inspect(token: str) -> dict[str, object]:
    """Return header and claims of a JWT, unverified and without the signature. RFC 7519 §3.

    Raises:
        ClientError: the token is opaque; only its API can read it.
    """
    try:
        header, claims, _ = token.split(".")
        return {"header": _part(header), "claims": _part(claims), "is_verified": False}
    except ValueError:
        raise ClientError(
            "opaque_token", "the access token is not a JWT: only the API that it is for can read it", exit_code=FAILED
        ) from None


def _part(part: str) -> dict[str, object]:
    if not part.isascii() or len(part) % 4 == 1:
        raise ValueError("not base64url")
    try:
        value: object = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def refused(context: Context, status: int, body: JsonObject, *, prog: str = "token-relay") -> int:
    """Print the agent's error, detail and action, and return the exit code of the error."""
    error = body.get("error")
    if not isinstance(error, str):
        raise ClientError("bad_reply", f"the agent answered {status} without a token or a reason")
    if context.as_json:
        context.out(json.dumps(body))
    context.note(f"token-relay: {error}: {printable(str(body.get('detail') or error))}")
    action = f"{prog} --help" if error == "bad_request" else body.get("action")
    if isinstance(action, str) and action:
        context.hint(action)
    return EXITS.get(error, FAILED)


def _is_clean(token: str) -> bool:
    """Whether the token is one word of printable ASCII characters for a shell. RFC 6750 §2.1."""
    return token.isascii() and token.isprintable() and " " not in token and token != ""
