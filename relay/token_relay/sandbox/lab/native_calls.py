"""The native endpoints as our OpenAPI file describes them, the form for each, and the live call that a form makes.

What a person need not type is filled in here: the continuation token of the answer before, the refresh token that the
lab keeps, the sandbox's own password of a person. None of them is ever in a page.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import Code
from token_relay.sandbox.lab.live import HIDDEN, SHORTENED, LiveCall, shown
from token_relay.sandbox.lab.room import Chain, LabRoom, content, secret_in
from token_relay.sandbox.provider.world.contacts import mailbox

PACKAGE = Path(__file__).parents[2]
OPENAPI, POSTMAN = "native-auth.openapi.json", "native-auth.postman_collection.json"
NO_JSON = "the answer is no JSON object: a gateway or a fault has answered"
TYPED_HIDDEN = frozenset({"password", "new_password", "refresh_token", "continuation_token"})
KEPT = {
    "continuation_token": "empty: the one of the latest answer",
    "refresh_token": "empty: the newest one that the lab keeps",
    "password": "empty: the sandbox knows it, since this person is made up",
}


@dataclass(frozen=True, slots=True)
class Param:
    """One field of a call; ``choices`` are its only values, empty when it is free."""

    name: str
    meaning: str
    word: str  # for a person who signs in
    is_required: bool
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint. ``answers`` are the fields of a 200, ``errors`` the codes of a refusal."""

    name: str
    tag: str
    path: str
    summary: str
    params: tuple[Param, ...]
    answers: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FormField:
    """A field as its form shows it. ``choices``: value and text. ``kept``: what an empty one stands for.

    ``must``: a person who signs in is asked for it, and nothing stands for an empty one.
    """

    param: Param
    value: str
    choices: tuple[tuple[str, str], ...]
    kept: str
    may_be_none: bool
    must: bool

    @property
    def hint(self) -> str:
        """Return what is said beside it."""
        return "; ".join(filter(None, (self.param.meaning, self.kept)))

    @property
    def fills(self) -> str:
        """Return what a browser may fill in. HTML Living Standard, autofill."""
        return {"oob": "one-time-code", "username": "username", "new_password": "new-password"}.get(
            self.param.name, "off"
        )

    @property
    def is_hidden(self) -> bool:
        """Whether what is typed is not shown."""
        return self.param.name in TYPED_HIDDEN


def api_file(name: str) -> Path:
    """Return where a description of the native endpoints lies: in the package of a wheel, else in the checkout."""
    installed = PACKAGE / "docs" / "api"
    return (installed if installed.is_dir() else PACKAGE.parents[1] / "docs" / "api") / name


@cache
def operations() -> Mapping[str, Operation]:
    """Return the endpoints, by name, in the file's order."""
    described = json.loads(api_file(OPENAPI).read_text(encoding="utf-8"))
    schemas = described["components"]["schemas"]
    found = {}
    for path, methods in described["paths"].items():
        post = methods["post"]
        schema = _named(schemas, post["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"])
        good = post["responses"]["200"]["content"]["application/json"]["schema"]
        answers = [name for one in good.get("oneOf", [good]) for name in _named(schemas, one)["properties"]]
        errors = post["responses"]["400"]["description"].removeprefix("One of: ").rstrip(".").split(", ")
        found[post["operationId"]] = Operation(
            name=post["operationId"],
            tag=post["tags"][0],
            path=path,
            summary=post["summary"],
            params=tuple(_param(name, one, schema) for name, one in schema["properties"].items()),
            answers=tuple(dict.fromkeys(answers)),
            errors=tuple(errors),
        )
    return found


def _named(schemas: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schemas[schema["$ref"].rpartition("/")[2]]
    return found


def _param(name: str, one: Mapping[str, Any], schema: Mapping[str, Any]) -> Param:
    texts = content("lessons")
    choices = one.get("enum") or ([one["const"]] if "const" in one else [])
    meaning = one.get("description") or texts["meanings"].get(name, "")
    word = texts["words"].get(name, name)
    return Param(name, meaning, word, name in schema.get("required", ()), tuple(choices))


def form(
    room: LabRoom,
    operation: Operation,
    chain: Chain,
    values: Mapping[str, str],
    *,
    only: Iterable[str] | None = None,
    asked: Collection[str] = (),
    choices: Mapping[str, tuple[tuple[str, str], ...]] | None = None,
) -> list[FormField]:
    """Return the fields of a call, filled in as far as can be; ``only`` these. Those ``asked`` for need a value."""
    defaults = {
        **content("flows")["defaults"],
        "client_id": next(iter(room.state.clients)),
        "username": chain.username or next(iter(room.state.users), ""),
    }
    wanted = None if only is None else {*only}
    user = room.state.users.get(chain.username.lower())
    knows_password = user is not None and user.password is not None
    fields = []
    for param in operation.params:
        if wanted is not None and param.name not in wanted:
            continue
        value = values.get(param.name) or defaults.get(param.name, "")
        given = (choices or {}).get(param.name) or tuple((one, one) for one in param.choices)
        if given and value not in dict(given):
            value = given[0][0] if len(given) == 1 else ""
        shown_value = "" if param.name in TYPED_HIDDEN else value
        may_be_none = not param.is_required and param.name not in asked
        kept = "" if param.name == "password" and not knows_password else KEPT.get(param.name, "")
        must = param.name in asked and not kept
        fields.append(FormField(param, shown_value, given, kept, may_be_none, must))
    return fields


async def send(
    room: LabRoom, operation: Operation, chain: Chain, typed: Mapping[str, str]
) -> tuple[LiveCall, Mapping[str, object]]:
    """Make the call with what was typed and what is kept; move the chain on, and keep tokens that came.

    Raises:
        LocalError: something is missing that only an earlier call can give.
        TransientError: there was no answer.
    """
    known = {param.name for param in operation.params}
    fields = {name: value.strip() for name, value in typed.items() if name in known and value.strip()}
    chain.username = fields.get("username", chain.username)
    chain.target = fields.get("challenge_target", "") or chain.target
    required = {param.name for param in operation.params if param.is_required}
    if "continuation_token" not in fields and "continuation_token" in known:
        needs = "continuation_token" in required or fields.get("grant_type") not in {None, "refresh_token"}
        if chain.continuation_token is not None:
            fields |= {"continuation_token": chain.continuation_token.reveal()} if needs else {}
        elif needs:
            raise LocalError("there is no continuation token yet", hint="begin with initiate, or the start of a flow")
    if fields.get("grant_type") == "refresh_token" and "refresh_token" not in fields:
        kept = next(
            (one for one in room.memory.tokens if one.refresh_token and one.client_id == fields.get("client_id")), None
        )
        if kept is None or kept.refresh_token is None:
            raise LocalError("the lab keeps no refresh token of this client", hint="sign in first, then renew")
        fields["refresh_token"] = kept.refresh_token.reveal()
        chain.username = kept.username
    if fields.get("grant_type") == "password" and "password" not in fields:
        user = room.state.users.get(chain.username.lower())
        if user is not None and user.password is not None:
            fields["password"] = user.password.reveal()
    call, body = await room.live.call("POST", f"{room.authority}{operation.path}", fields)
    if token := secret_in(body, "continuation_token"):
        chain.continuation_token = Code(token)
    if secret_in(body, "access_token"):
        room.memory.keep(
            body,
            how="renewed" if fields.get("grant_type") == "refresh_token" else "native",
            username=chain.username,
            client_id=fields.get("client_id", ""),
            at=call.at,
            trace_id=call.trace_id,
        )
        if fields.get("grant_type") != "refresh_token":
            room.memory.done.add("native")
    return call, body


def mail(room: LabRoom, chain: Chain) -> tuple[str, str] | None:
    """Return address and code of the newest mail to this person, as long as the code is good."""
    state = room.state
    user = state.users.get(chain.username.lower())
    known = {mailbox(chain.username), mailbox(chain.target), *(one.target for one in (user.methods if user else ()))}
    now = room.sandbox.now()
    good = [(name, sent) for name, sent in state.mailboxes.items() if name in known and sent.is_good(now)]
    return (good[-1][0], good[-1][1].code.reveal()) if good else None


def curl(base_url: str, call: LiveCall) -> str:
    """Return a line for a shell that makes the same call; secrets are variables of the shell."""
    words = ["curl", "-sS", "-X", call.method, shlex.quote(f"{base_url}{call.path}")]
    if call.is_json:
        return " ".join([*words, "-H 'Content-Type: application/json' -d", shlex.quote(json.dumps(call.sent))])
    for name, value in call.sent.items():
        is_left_out = value == HIDDEN or name in SHORTENED
        words += ["--data-urlencode", f'"{name}=${name.upper()}"' if is_left_out else shlex.quote(f"{name}={value}")]
    return " ".join(words)


def outcome(body: Mapping[str, object], status: int) -> str:
    """Return the word of an answer that decides what comes next."""
    if not body:
        return NO_JSON
    names = ("suberror", "error") if status >= 400 else ("challenge_type", "status")
    return next((str(body[name]) for name in names if body.get(name)), "ok")


def described(method: Mapping[str, object]) -> str:
    """Return a method of a second factor as a person reads it."""
    return f"{method.get('challenge_channel', '')} {shown('login_hint', method.get('login_hint', ''))}".strip()
