"""The management API under ``/api/v2/``: who may call it, its routes, and how lists are cut into pages.

Bearer tokens come from ``client_credentials`` and carry scopes; each route names those that it needs. Bodies are
closed schemas, and a mistake is a 400 that names the key and never the value. Errors look as the real ones do:
``statusCode``, ``error``, ``message``, ``errorCode``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from token_relay.sandbox.provider.http_values import (
    JsonValue,
    Params,
    Refusal,
    Request,
    Response,
    json_response,
    query_params,
)
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import ManagementToken, State, digest
from token_relay.sandbox.provider.world.model import problems_of

PREFIX = "/api/v2/"
PER_PAGE, PER_PAGE_MAX = 50, 100
_WORDS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed"}
M = TypeVar("M", bound=BaseModel)


class ManagementProblem(Exception):  # an answer on its way out of a handler, not a fault of the program
    """A refusal by the management API."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class ManagementCall:
    """One call with a valid token. ``names``: the parts of the path that match a ``*``."""

    state: State
    request: Request
    query: Params
    names: tuple[str, ...]
    token: ManagementToken
    trace: Trace

    def read(self, model: type[M]) -> M:
        """Return the body. Raises ManagementProblem."""
        if self.request.content_type != "application/json":
            raise ManagementProblem(
                400, "invalid_body", "Payload validation error: the content type must be application/json"
            )
        try:
            json.loads(self.request.body or b"null")  # pydantic's own message would quote the text
            return model.model_validate_json(self.request.body)
        except ValidationError as exc:
            raise ManagementProblem(400, "invalid_body", f"Payload validation error: {problems_of(exc)}") from None
        except (ValueError, RecursionError):
            raise ManagementProblem(400, "invalid_body", "Payload validation error: the body is not JSON") from None

    def flag(self, name: str) -> bool | None:
        """Return a boolean of the query, None where it is left out. Raises ManagementProblem."""
        text = self.query.get(name)
        if text not in {"", "true", "false"}:
            raise ManagementProblem(
                400, "invalid_query_string", f"Query validation error: {name} must be true or false"
            )
        return None if not text else text == "true"

    def number(self, name: str, default: int, most: int) -> int:
        """Return a number of the query. Raises ManagementProblem."""
        text = self.query.get(name)
        if not text:
            return default
        if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) > most:
            raise ManagementProblem(
                400, "invalid_query_string", f"Query validation error: {name} must be from 0 to {most}"
            )
        return int(text)

    def listed(self, name: str, items: Sequence[Mapping[str, JsonValue]], *, key: str = "id") -> Response:
        """Return one page of a list: by ``from`` and ``take``, or by ``page`` and ``per_page``.

        Raises ManagementProblem.
        """
        if self.query.get("take") or self.query.get("from"):
            return self._by_checkpoint(name, items, key)
        per_page = self.number("per_page", PER_PAGE, PER_PAGE_MAX) or PER_PAGE
        start = self.number("page", 0, 1_000_000) * per_page
        shown: list[JsonValue] = [self.fields(one) for one in items[start : start + per_page]]
        if not self.flag("include_totals"):
            return json_any(shown)
        return json_any({"start": start, "limit": per_page, "length": len(shown), "total": len(items), name: shown})

    def checkpointed(self, name: str, items: Sequence[Mapping[str, JsonValue]]) -> Response:
        """Return one page of a list that knows only ``from`` and ``take``. Raises ManagementProblem."""
        return self._by_checkpoint(name, items, "id")

    def _by_checkpoint(self, name: str, items: Sequence[Mapping[str, JsonValue]], key: str) -> Response:
        take = self.number("take", PER_PAGE, PER_PAGE_MAX) or PER_PAGE
        after, start = self.query.get("from"), 0
        if after:
            try:
                last = base64.urlsafe_b64decode(after.encode()).decode()
            except (binascii.Error, ValueError):
                last = ""
            start = next((index + 1 for index, one in enumerate(items) if one[key] == last), -1)
            if start < 0:
                raise ManagementProblem(400, "invalid_query_string", "Query validation error: from is not a checkpoint")
        cut = items[start : start + take]
        body: dict[str, JsonValue] = {name: [self.fields(one) for one in cut]}
        if start + take < len(items):
            body["next"] = base64.urlsafe_b64encode(str(cut[-1][key]).encode()).decode()
        return json_any(body)

    def fields(self, item: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Return what ``fields`` and ``include_fields`` leave of an object. Raises ManagementProblem."""
        wanted = {name.strip() for name in self.query.get("fields").split(",") if name.strip()}
        if not wanted:
            return dict(item)
        is_kept = self.flag("include_fields") is not False
        return {name: value for name, value in item.items() if (name in wanted) == is_kept}


Handler = Callable[[ManagementCall], Response]


@dataclass(frozen=True, slots=True)
class Route:
    """A method, a path whose ``*`` matches anything, and groups of scopes: a call needs all scopes of one group."""

    method: str
    path: tuple[str, ...]
    scopes: tuple[frozenset[str], ...]
    handler: Handler


def route(method: str, path: str, handler: Handler, *scopes: str) -> Route:
    """Return a route; each of ``scopes`` is a group of scopes separated by spaces."""
    return Route(method, tuple(path.split("/")), tuple(frozenset(one.split()) for one in scopes), handler)


def manage(state: State, request: Request, routes: Sequence[Route], trace: Trace) -> Response:
    """Answer a call."""
    try:
        token = _token(state, request, trace)
        # Documented calls have doubled slashes, as in ``clients//{id}``.
        path = tuple(part for part in request.path.removeprefix(PREFIX).split("/") if part)
        here = [one for one in routes if _fits(one.path, path)]
        if not here:
            raise ManagementProblem(404, "not_found", "Nothing is at this path.")
        found = next((one for one in here if one.method == request.method), None)
        if found is None:
            raise ManagementProblem(
                405, "method_not_allowed", "Here go " + ", ".join(sorted({one.method for one in here}))
            )
        if not any(group <= token.scope for group in found.scopes):
            wanted = " or ".join(", ".join(sorted(group)) for group in found.scopes)
            raise ManagementProblem(403, "insufficient_scope", f"Insufficient scope, expected: {wanted}")
        names = tuple(given for known, given in zip(found.path, path, strict=True) if known == "*")
        call = ManagementCall(state, request, query_params(request), names, token, trace)
        response = found.handler(call)
        if request.method != "GET":
            description = f"{request.method} {PREFIX}{'/'.join(found.path)}"
            state.log("sapi", trace, client_id=token.client_id, description=description)
        return response
    except ManagementProblem as problem:
        return problem_response(problem.status, problem.code, problem.message)
    except Refusal as refusal:
        return problem_response(refusal.status, "invalid_query_string", refusal.description)


def problem_response(status: int, code: str, message: str) -> Response:
    """Return an error in the API's shape."""
    body: dict[str, JsonValue] = {"statusCode": status, "error": _WORDS.get(status, "Error"), "message": message}
    return json_any({**body, "errorCode": code}, status)


def _token(state: State, request: Request, trace: Trace) -> ManagementToken:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not value:
        raise ManagementProblem(401, "missing_token", "Missing authentication")
    token = state.management_tokens.get(digest(value.strip()))
    if token is None or token.client_id not in state.clients:
        raise ManagementProblem(401, "invalid_token", "Invalid token")
    if trace.now >= token.expires_at:
        raise ManagementProblem(401, "invalid_token", "Expired token received for JSON Web Token validation")
    return token


def _fits(known: tuple[str, ...], given: tuple[str, ...]) -> bool:
    return len(known) == len(given) and all(one in {"*", other} for one, other in zip(known, given, strict=True))


def json_any(value: JsonValue, status: int = 200) -> Response:
    """Return any JSON value as an answer that no cache keeps."""
    if isinstance(value, dict):
        return json_response(value, status)
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(status, body, headers=(("Cache-Control", "no-store"), ("Pragma", "no-cache")))
