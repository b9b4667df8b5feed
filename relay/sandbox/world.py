"""What the sandbox is told about its world: users, clients, policy and faults, each a closed schema.

The same models read the control interface's JSON and the world file's TOML. Both come from a person, so a mistake is
answered with the key, for a file also with the line, and never with the value, which may be a password.
"""

from __future__ import annotations

import re
import tomllib
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from relay.errors import ConfigError
from relay.secret import Password

DAY_S = 86_400.0
SECONDS_MAX = 10 * 365 * DAY_S
WORLD_BYTES_MAX = 1_048_576
USERS_MAX = 10_000
CLIENTS_MAX = 1_000
FAULTS_MAX = 1_000

ProfileName = Literal["entra", "auth0", "strict"]
FaultName = Literal[
    "hold_before_commit",  # received, nothing done; goes on when released or after `seconds`, or ends with the client
    "hold_after_commit",  # done; the answer waits for the same
    "drop_before_commit",  # received, nothing done, connection cut
    "drop_after_commit",  # done, connection cut: the client cannot know
    "error_500",
    "error_502",
    "error_503",
    "throttle_429",
    "slow",  # waits `seconds`, then does what was asked
    "down",  # connection cut at once
    "html",  # 200 with a page, as a captive portal answers
    "huge",  # 200 with `size` bytes of JSON
    "redirect",  # 307 to `location`, where a client must not send its token
    "cut_json",  # the right answer, its second half missing
]
EndpointName = Literal[
    "initiate", "challenge", "token", "revoke", "authorize", "login", "discovery", "jwks", "resource"
]
FAULT_NAMES: tuple[str, ...] = get_args(FaultName)

Name = Annotated[str, StringConstraints(min_length=1, max_length=254, pattern=r"^[!-~]+$")]
Seconds = Annotated[float, Field(gt=0, le=SECONDS_MAX, allow_inf_nan=False)]
_CLOSED = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class UserModel(BaseModel):
    """A person. With a password: signs in by password. Without: by a code sent to ``username``."""

    model_config = _CLOSED
    username: Name
    password: Password | None = None
    name: Annotated[str, StringConstraints(max_length=200)] = ""


class ClientModel(BaseModel):
    """A public client. Loopback redirect URIs (RFC 8252 §7.3) are always registered; others are named here, exactly."""

    model_config = _CLOSED
    client_id: Name
    redirect_uris: Annotated[list[Name], Field(max_length=50)] = []
    native_auth: bool = True  # entra: the switch in the app registration
    scopes: Annotated[list[Name], Field(max_length=100)] | None = None  # None: any scope may be asked for


class Policy(BaseModel):
    """Knobs, in seconds; ``None`` means no limit. A profile's defaults are in :data:`relay.sandbox.rules.RULES`."""

    model_config = _CLOSED
    access_token_lifetime_s: Annotated[Seconds, Field(ge=1)] = 3600.0
    leeway_s: Annotated[float, Field(ge=0, le=DAY_S)] = 0.0  # how long the previous refresh token still works
    refresh_idle_lifetime_s: Seconds | None = None  # counted anew for each refresh token
    refresh_absolute_lifetime_s: Seconds | None = None  # counted from the sign-in
    otp_refresh_lifetime_s: Seconds | None = None  # absolute, after an e-mail code sign-in
    code_length: Annotated[int, Field(ge=4, le=20)] = 8
    code_lifetime_s: Seconds = 600.0
    code_tries_max: Annotated[int, Field(ge=1, le=100)] = 5
    continuation_lifetime_s: Seconds = 900.0
    password_tries_max: Annotated[int, Field(ge=1, le=1000)] = 10
    lockout_s: Seconds = 60.0


class FaultModel(BaseModel):
    """One fault, for the next ``times`` requests that fit, from ``after_s`` seconds of provider time on.

    Without ``endpoint`` it meets any provider endpoint but ``resource``; the four that speak of a commit then meet
    POST only, so that a discovery request does not use them up. ``committed`` says whether the request is carried
    out before a wrong answer is given; ``cut_json`` always carries it out.
    """

    model_config = _CLOSED
    name: FaultName
    endpoint: EndpointName | None = None
    grant_type: Name | None = None
    times: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    after_s: Annotated[float, Field(ge=0, le=SECONDS_MAX)] = 0.0
    seconds: Annotated[float, Field(ge=0, le=600)] | None = None
    retry_after_s: Annotated[int, Field(ge=0, le=86_400)] | None = None
    committed: bool = False
    size: Annotated[int, Field(ge=1024, le=16_777_216)] = 1_048_576
    location: Annotated[str, StringConstraints(max_length=2000, pattern=r"^https?://[!-~]+$")] = (
        "https://other.invalid/"
    )

    @model_validator(mode="after")
    def _fits(self) -> FaultModel:
        if self.name == "slow" and self.seconds is None:
            raise ValueError("slow needs seconds")
        if self.endpoint not in {None, "token"} and self.grant_type is not None:
            raise ValueError("grant_type goes with the endpoint token")
        return self


class World(BaseModel):
    """All of it. What a world file leaves out stays as in the default world."""

    model_config = _CLOSED
    tenant: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")] = "contoso"
    users: Annotated[list[UserModel], Field(max_length=USERS_MAX)] = []
    clients: Annotated[list[ClientModel], Field(min_length=1, max_length=CLIENTS_MAX)] = []
    policy: Policy = Policy()
    faults: Annotated[list[FaultModel], Field(max_length=FAULTS_MAX)] = []


# The client id is the one of Microsoft's documentation examples; the password is no secret, it opens only this sandbox.
CLIENT_ID = "00001111-aaaa-2222-bbbb-3333cccc4444"
PASSWORD = "correct-horse-7-battery"  # noqa: S105  # documented on purpose
DEFAULT_USERS = (
    UserModel(username="otp@contoso.example", name="Olga Otp"),
    UserModel(username="password@contoso.example", password=Password(PASSWORD), name="Pat Password"),
)
DEFAULT_WORLD = World(users=list(DEFAULT_USERS), clients=[ClientModel(client_id=CLIENT_ID)])


def parse_world(text: str, *, file: str) -> World:
    """Read a world file's text.

    Raises:
        ConfigError: naming ``file``, the line and the key, in words a person can act on.
    """
    if len(text) > WORLD_BYTES_MAX:
        raise ConfigError(f"{file}: longer than {WORLD_BYTES_MAX} characters")
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(f"{file}: not TOML: {exc}") from exc
    except ValueError:  # Python's limit for the digits of an integer
        raise ConfigError(f"{file}: not TOML: a number has too many digits") from None
    try:
        world = World.model_validate({"users": list(DEFAULT_USERS), "clients": DEFAULT_WORLD.clients, **found})
    except ValidationError as exc:
        problems = [f"{file}:{line_of(text, loc)}: {key_text(loc)}: {what}" for loc, what in _found(exc)]
        hint = f"fault names: {', '.join(FAULT_NAMES)}" if any(": faults" in line for line in problems) else ""
        raise ConfigError("\n".join(problems), hint=hint) from None  # the cause would hold the input
    for kind, names in (
        ("users", [user.username.lower() for user in world.users]),
        ("clients", [client.client_id for client in world.clients]),
    ):
        for index, name in enumerate(names):
            if name in names[:index]:
                line = line_of(text, (kind, index))
                raise ConfigError(f"{file}:{line}: {kind}[{index}]: the same name stands there twice")
    return world


def problems_of(error: ValidationError) -> str:
    """Say what is wrong with a value that came as JSON: keys and rules, never the value itself."""
    return "; ".join(f"{key_text(loc)}: {what}" for loc, what in _found(error))


def _found(error: ValidationError) -> list[tuple[tuple[int | str, ...], str]]:
    """Return the first problems, one per place; pydantic's names for the branches of a type are left out."""
    found: dict[tuple[int | str, ...], str] = {}
    for one in error.errors(include_input=False, include_context=False, include_url=False)[:20]:
        loc = tuple(part if isinstance(part, int) else part[:60] for part in one["loc"] if "[" not in str(part))
        found[loc] = one["msg"]
    return list(found.items())[:10]


def key_text(loc: tuple[int | str, ...]) -> str:
    """Spell a place in the data: ``users[1].username``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "(the whole)"


def line_of(text: str, loc: tuple[int | str, ...]) -> int:
    """Return the line, from 1, where a key of a TOML text stands, or that of the table it should stand in.

    Exact for the way the documentation writes a world (``[policy]``, ``[[users]]``, one key per line); for inline
    tables it is the line where the outermost key begins. Line 1 where nothing is found.
    """
    names = [part for part in loc if isinstance(part, str)]
    index = next((part for part in loc if isinstance(part, int)), 0)
    top, key = (names[0] if names else ""), (names[1] if len(names) > 1 else "")
    header = re.compile(r"\s*\[{1,2}\s*([\w-]+)\s*\]{1,2}")
    current, seen, table_line = "", -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        if match := header.match(line):
            current = match[1]
            if current == top:
                seen += 1
                table_line = number if seen <= index else table_line
            continue
        assigned = re.match(r"\s*[\"']?([\w-]+)[\"']?\s*=", line)
        if assigned is None:
            continue
        if (current == "" and assigned[1] == top) or (current == top and seen == index and assigned[1] == key):
            return number
    return table_line
