"""Writes the description of the native endpoints: ``python tests/api/make.py [DIRECTORY]`` (default: docs/api).

An OpenAPI 3.1 document and a Postman collection (format 2.1), both made from the models that the client sends and
reads, :mod:`token_relay.provider.native_auth.wire`. The same bytes each time.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pydantic import BaseModel  # noqa: E402  # the repository has to be on the path first
from pydantic.json_schema import models_json_schema  # noqa: E402

from token_relay.protocol.secret import Code, Password, RefreshToken, Secret  # noqa: E402
from token_relay.provider.native_auth import wire  # noqa: E402
from token_relay.provider.native_auth.service import CAPABILITIES  # noqa: E402
from token_relay.provider.tokens import TokenResponse  # noqa: E402
from token_relay.sandbox.provider.http_values import BODY_BYTES_MAX  # noqa: E402
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD  # noqa: E402

Json = dict[str, Any]
OPENAPI = "native-auth.openapi.json"
POSTMAN = "native-auth.postman_collection.json"
FORM = "application/x-www-form-urlencoded"
TAGS = {
    "oauth2": "Sign-in and tokens",
    "register": "Registration of a second factor",
    "signup": "Sign-up",
    "resetpassword": "Password reset",
}


class Tokens(TokenResponse):
    """Tokens. ``refresh_token`` comes with the scope ``offline_access``, ``id_token`` with ``openid``."""

    refresh_token: RefreshToken | None = None
    client_info: str | None = None
    ext_expires_in: float | None = None


class TooLong(BaseModel):
    """The sandbox's alone: a body that was not read. It has no AADSTS number and no trace id."""

    error: Literal["invalid_request"]
    detail: str


def sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def described(model: type[BaseModel]) -> str:
    """Return the docstring without what only a reader of the source can use."""
    text = re.sub(r"\s*For the description of the endpoints:.*", "", model.__doc__ or "", flags=re.DOTALL)
    return " ".join(text.split()).replace("``", "`")


# -- OpenAPI -----------------------------------------------------------------------------------------------


def answer_of(endpoint: wire.Endpoint) -> type[BaseModel]:
    return Tokens if endpoint.answer is TokenResponse else endpoint.answer


def openapi() -> Json:
    """Return the OpenAPI document."""
    models: list[type[BaseModel]] = [wire.Redirected, wire.NativeRefusal, TooLong]
    for endpoint in wire.ENDPOINTS:
        models += [one for one in (endpoint.request, answer_of(endpoint)) if one not in models]
    _, found = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas = {name: tidy(schema) for name, schema in sorted(found["$defs"].items())}
    for model in models:
        schemas[model.__name__]["description"] = described(model)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Native authentication, version 1",
            "version": "1.0",
            "description": "The endpoints that token-relay's client calls and its sandbox serves, as Microsoft Entra "
            "External ID has them. Every call is a POST of a form, poll_completion too. Every step carries the "
            "continuation token of the answer before; a refusal leaves it as it is. Finding an account by phone number "
            "is left out on purpose: it would let anybody enumerate accounts.",
        },
        "servers": [
            {"url": "http://127.0.0.1:8400/contoso.onmicrosoft.com", "description": "the sandbox"},
            {
                "url": "https://{name}.ciamlogin.com/{tenant}",
                "variables": {"name": {"default": "contoso"}, "tenant": {"default": "contoso.onmicrosoft.com"}},
            },
        ],
        "tags": [{"name": name} for name in TAGS.values()],
        "paths": {endpoint.request.path: {"post": operation(endpoint)} for endpoint in wire.ENDPOINTS},
        "components": {"schemas": schemas},
    }


def operation(endpoint: wire.Endpoint) -> Json:
    family, _, name = endpoint.request.path.strip("/").replace("/v2.0", "").replace("/v1.0", "").partition("/")
    answer = ref(answer_of(endpoint))
    return {
        "operationId": f"{family}_{name}",
        "tags": [TAGS[family]],
        "summary": sentence(endpoint.request),
        "description": described(endpoint.request),
        "requestBody": {"required": True, "content": {FORM: {"schema": ref(endpoint.request)}}},
        "responses": {
            "200": reply("The next step, or a redirect to the browser.", {"oneOf": [answer, ref(wire.Redirected)]}),
            "400": reply(f"One of: {', '.join(sorted(endpoint.errors))}.", ref(wire.NativeRefusal)),
            "413": reply(f"The body is longer than {BODY_BYTES_MAX:,} bytes.", ref(TooLong)),
            "429": {
                **reply("Too many requests.", ref(wire.NativeRefusal)),
                "headers": {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
            },
        },
    }


def reply(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def ref(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def tidy(schema: Any) -> Any:
    """Drop generated titles, and null as an alternative to a field that may be left out: a form has no null."""
    if isinstance(schema, list):
        return [tidy(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {
        key: {name: tidy(one) for name, one in value.items()} if key in ("properties", "$defs") else tidy(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    if "description" in kept:
        kept["description"] = " ".join(kept["description"].split()).replace("``", "`")
    choices = [one for one in kept.get("anyOf", []) if one != {"type": "null"}]
    if len(choices) == 1 and len(kept["anyOf"]) == 2:
        del kept["anyOf"]
        kept = {**choices[0], **kept}
    return kept


# -- Postman -----------------------------------------------------------------------------------------------

VARIABLES = {
    "base_url": "http://127.0.0.1:8400",
    "tenant": "contoso.onmicrosoft.com",
    "client_id": CLIENT_ID,
    "password": PASSWORD,
    "new_password": "",
    "new_username": "",
    "continuation_token": "",
    "code": "",
    "method_id": "",
    "refresh_token": "",
}
SANDBOX_ALONE = "The sandbox's alone."
TOKEN = Code("{{continuation_token}}")
CODE = Code("{{code}}")
NEW_USERNAME = "{{new_username}}"
RIGHT, NEW = Password("{{password}}"), Password("{{new_password}}")
FRESH_PASSWORD = {"new_password": "Wrong-Horse-{{$guid}}"}
CLIENT = "{{client_id}}"
SAVE_TOKEN = {"continuation_token": "continuation_token"}
SAVE_TOKENS = {"refresh_token": "refresh_token"}


def call(
    request: wire.NativeRequest,
    status: int = 200,
    saves: dict[str, str] | None = None,
    fresh: dict[str, str] | None = None,
) -> Json:
    """Return one item: a request, the status that is expected, and what of its answer the next one needs.

    ``fresh``: variables that get a new value before the request is sent, so that the collection can be run again.
    """
    fields = [(name, value.reveal() if isinstance(value, Secret) else value) for name, value in request.form()]
    checks = [expected(status)]
    for variable, place in (SAVE_TOKEN if saves is None else saves).items():
        checks.append(f'pm.collectionVariables.set("{variable}", pm.response.json().{place});')
    path = request.path.strip("/").split("/")
    return {
        "name": f"{path[0]} {path[-1]}",
        "event": [*renewed(fresh or {}), script("test", checks)],
        "request": {
            "method": "POST",
            "description": described(type(request)),
            "header": [],
            "body": {
                "mode": "urlencoded",
                "urlencoded": [{"key": name, "value": str(value), "type": "text"} for name, value in fields],
            },
            "url": url("{{base_url}}/{{tenant}}" + request.path),
        },
    }


def script(listen: str, lines: list[str]) -> Json:
    return {"listen": listen, "script": {"type": "text/javascript", "exec": lines}}


def expected(status: int) -> str:
    return f'pm.test("status {status}", () => pm.response.to.have.status({status}));'


def renewed(variables: dict[str, str]) -> list[Json]:
    """Return the script that gives each variable a new value; in a value ``{{$guid}}`` is another one each time."""
    lines = [
        f'pm.collectionVariables.set("{name}", pm.variables.replaceIn("{value}"));' for name, value in variables.items()
    ]
    return [script("prerequest", lines)] if lines else []


def mailbox(address: str) -> Json:
    """Return the item that takes the code out of the sandbox's mailbox; with the real service a person types it."""
    return {
        "name": f"mailbox of {address}",
        "event": [script("test", [expected(200), 'pm.collectionVariables.set("code", pm.response.text());'])],
        "request": {
            "method": "GET",
            "description": SANDBOX_ALONE,
            "header": [],
            "url": url("{{base_url}}/sandbox/mailbox/" + address),
        },
    }


def unregistered() -> Json:
    """Return the item that makes a person who has no second factor yet, and whom nobody else has met."""
    person = {"username": NEW_USERNAME, "password": "{{password}}", "mfa": "register"}
    return {
        "name": "a person without a second factor",
        "event": [*renewed({"new_username": "register-{{$guid}}@contoso.example"}), script("test", [expected(201)])],
        "request": {
            "method": "POST",
            "description": SANDBOX_ALONE,
            "header": [],
            "body": {"mode": "raw", "raw": json.dumps(person), "options": {"raw": {"language": "json"}}},
            "url": url("{{base_url}}/sandbox/users"),
        },
    }


def url(raw: str) -> Json:
    host, *path = raw.split("/")
    return {"raw": raw, "host": [host], "path": path}


def sign_in(username: str) -> Iterator[Json]:
    yield call(
        wire.Initiate(
            client_id=CLIENT,
            username=username,
            challenge_type=wire.CHALLENGE_TYPES,
            capabilities=" ".join(CAPABILITIES),
        )
    )
    yield call(wire.Challenge(client_id=CLIENT, continuation_token=TOKEN, challenge_type=wire.CHALLENGE_TYPES))


def token(grant_type: str, status: int = 200, saves: dict[str, str] | None = None, **more: Any) -> Json:
    given = {"continuation_token": TOKEN} if grant_type != "refresh_token" else {}
    request = wire.TokenRequest.model_validate(
        {"client_id": CLIENT, "grant_type": grant_type, "scope": wire.SCOPE_DEFAULT, **given, **more}
    )
    return call(request, status, SAVE_TOKENS if saves is None else saves)


def folders() -> Iterator[tuple[str, list[Json]]]:
    """Yield the flows, each from its first call to its tokens."""
    yield "Password", [*sign_in("password@contoso.example"), token("password", password=RIGHT)]
    yield "Refresh", [token("refresh_token", refresh_token=RefreshToken("{{refresh_token}}"))]
    otp = "otp@contoso.example"
    yield "E-mail code", [*sign_in(otp), mailbox(otp), token("oob", oob=CODE)]
    mfa = "mfa@contoso.example"
    yield (
        "Second factor",
        [
            *sign_in(mfa),
            token("password", 400, SAVE_TOKEN, password=RIGHT),
            call(
                wire.Introspect(client_id=CLIENT, continuation_token=TOKEN),
                saves={**SAVE_TOKEN, "method_id": "methods[0].id"},
            ),
            call(
                wire.Challenge(
                    client_id=CLIENT,
                    continuation_token=TOKEN,
                    challenge_type=wire.CHALLENGE_TYPES,
                    id="{{method_id}}",
                )
            ),
            mailbox(mfa),
            token("mfa_oob", oob=CODE),
        ],
    )
    contact = "second@contoso.example"
    yield (
        "Registration of a second factor",
        [
            unregistered(),
            *sign_in(NEW_USERNAME),
            token("password", 400, SAVE_TOKEN, password=RIGHT),
            call(wire.RegisterIntrospect(client_id=CLIENT, continuation_token=TOKEN)),
            call(
                wire.RegisterChallenge(
                    client_id=CLIENT, continuation_token=TOKEN, challenge_target=contact, challenge_channel="email"
                )
            ),
            mailbox(contact),
            call(wire.RegisterContinue(client_id=CLIENT, continuation_token=TOKEN, grant_type="oob", oob=CODE)),
            token("continuation_token"),
        ],
    )
    yield (
        "Sign-up",
        [
            call(
                wire.SignUpStart(
                    client_id=CLIENT,
                    username=NEW_USERNAME,
                    challenge_type=wire.CHALLENGE_TYPES,
                    attributes='{"displayName":"Ann"}',
                    capabilities=" ".join(CAPABILITIES),
                ),
                fresh={"new_username": "new-{{$guid}}@contoso.example", **FRESH_PASSWORD},
            ),
            call(wire.SignUpChallenge(client_id=CLIENT, continuation_token=TOKEN, challenge_type=wire.CHALLENGE_TYPES)),
            mailbox(NEW_USERNAME),
            call(
                wire.SignUpContinue(client_id=CLIENT, continuation_token=TOKEN, grant_type="oob", oob=CODE), status=400
            ),
            call(wire.SignUpChallenge(client_id=CLIENT, continuation_token=TOKEN, challenge_type=wire.CHALLENGE_TYPES)),
            call(wire.SignUpContinue(client_id=CLIENT, continuation_token=TOKEN, grant_type="password", password=NEW)),
            token("continuation_token", username=NEW_USERNAME),
        ],
    )
    reset = "reset@contoso.example"
    yield (
        "Password reset",
        [
            call(
                wire.ResetStart(
                    client_id=CLIENT,
                    username=reset,
                    challenge_type=wire.CHALLENGE_TYPES,
                    capabilities=" ".join(CAPABILITIES),
                ),
                fresh=FRESH_PASSWORD,
            ),
            call(wire.ResetChallenge(client_id=CLIENT, continuation_token=TOKEN, challenge_type=wire.CHALLENGE_TYPES)),
            mailbox(reset),
            call(wire.ResetContinue(client_id=CLIENT, continuation_token=TOKEN, oob=CODE)),
            call(wire.ResetSubmit(client_id=CLIENT, continuation_token=TOKEN, new_password=NEW)),
            call(wire.ResetPoll(client_id=CLIENT, continuation_token=TOKEN)),
            token("continuation_token", username=reset),
        ],
    )


def postman() -> Json:
    """Return the Postman collection."""
    return {
        "info": {
            "name": "Native authentication, version 1",
            "description": "Every flow from its first call to its tokens, in `token-relay sandbox`, as often as you "
            "like. With the real service leave out what is the sandbox's alone, and put the code that came into the "
            "variable `code`.",
            "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
        },
        "variable": [{"key": name, "value": value} for name, value in VARIABLES.items()],
        "item": [{"name": name, "item": items} for name, items in folders()],
    }


def files() -> dict[str, str]:
    """Return the content of both files by name."""
    return {
        name: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for name, content in ((OPENAPI, openapi()), (POSTMAN, postman()))
    }


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "api"
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
