"""What the sandbox is told about its world: users, clients, policy and faults, each a closed schema.

The same models read the control interface's JSON and the world file's TOML. Both come from a person, so an error
names the key, for a file also the line, and never the value, which may be a password.
"""

from __future__ import annotations

import re
import tomllib
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from token_relay.protocol.errors import ConfigError
from token_relay.protocol.secret import Password
from token_relay.sandbox.provider.world.answer import AnswerModel
from token_relay.sandbox.provider.world.client_settings import RefreshTokenSetting, SessionTransfer
from token_relay.sandbox.provider.world.contacts import Channel, contact
from token_relay.sandbox.provider.world.strictness import RULE_NAMES, RuleName

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
    "refuse",  # a refusal with `error`, `suberror` and, under entra, `code`
    "slow",  # waits `seconds`, then does what was asked
    "down",  # connection cut at once
    "html",  # 200 with a page, as a captive portal answers
    "huge",  # 200 with `size` bytes of JSON
    "redirect",  # 307 to `location`, where a client must not send its token
    "cut_json",  # the right answer, its second half missing
    "answer",  # `answer`, word for word
]
EndpointName = Literal[
    "initiate",
    "challenge",
    "introspect",
    "token",
    "register_introspect",
    "register_challenge",
    "register_continue",
    "signup_start",
    "signup_challenge",
    "signup_continue",
    "resetpassword_start",
    "resetpassword_challenge",
    "resetpassword_continue",
    "resetpassword_submit",
    "resetpassword_poll_completion",
    "authorize_challenge",
    "native_step",
    "revoke",
    "authorize",
    "login",
    "discovery",
    "jwks",
    "resource",
    "userinfo",
    "logout",
    "management",
    "samlp",
    "wsfed",
    "service_provider",
    "device_code",
    "activate",
]
FAULT_NAMES: tuple[str, ...] = get_args(FaultName)
_ANSWERS = {"error_500", "error_502", "error_503", "throttle_429", "refuse", "html", "huge", "redirect", "answer"}

Name = Annotated[str, StringConstraints(min_length=1, max_length=254, pattern=r"^[!-~]+$")]
Seconds = Annotated[float, Field(gt=0, le=SECONDS_MAX, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=256)]
_CLOSED = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

# none: one factor is enough. required: a code to one of the person's methods follows the password.
# register: the person has no method yet, and registers one at the next sign-in.
Mfa = Literal["none", "required", "register"]
AppType = Literal["native", "spa", "regular_web", "non_interactive"]
ClientAuthMethod = Literal["none", "client_secret_post", "client_secret_basic"]
AttributeType = Literal["String", "Int64", "Boolean"]
Reach = Literal["nothing", "family", "session", "user"]  # what ends with a token
ConditionalAccess = Literal[50076, 50142, 53003, 70043]  # see token_relay.sandbox.provider.tokens.conditional_access


class MethodModel(BaseModel):
    """An address that second-factor codes go to; any code sent there is in its mailbox."""

    model_config = _CLOSED
    channel: Channel
    target: Annotated[str, StringConstraints(min_length=1, max_length=254)]

    @model_validator(mode="after")
    def _is_contact(self) -> MethodModel:
        if contact(self.channel, self.target) is None:
            wanted = {"email": "an e-mail address", "sms": "a phone number such as +14255550100"}[self.channel]
            raise ValueError(f"target: {wanted} is wanted")
        return self


class UserModel(BaseModel):
    """A person, who signs in with their password or, if they have none, with a code sent to ``username``.

    ``mfa`` concerns people with a password only: people who sign in with an e-mail code need no second one.
    ``required`` without ``methods`` means codes to ``username``. ``email_proven``: the address was proven when the
    person signed up, so registering it takes no code. ``alias``: another name to sign in with natively.
    ``findable_by_phone``: whoever knows the number of a text message method learns, masked, whose it is; nobody is
    unless they say so, since this tells strangers who has an account.
    """

    model_config = _CLOSED
    username: Name
    password: Password | None = None
    name: Annotated[str, StringConstraints(max_length=200)] = ""
    mfa: Mfa = "none"
    methods: Annotated[list[MethodModel], Field(max_length=10)] = []
    attributes: Annotated[dict[Name, Text], Field(max_length=50)] = {}
    email_proven: bool = False
    disabled: bool = False
    alias: Name | None = None
    findable_by_phone: bool = False

    @model_validator(mode="after")
    def _fits(self) -> UserModel:
        if self.alias is not None and self.password is None:
            raise ValueError("an alias goes with a password")
        if self.mfa == "register" and self.methods:
            raise ValueError("mfa register goes with no methods: the person has none yet")
        if self.mfa == "required" and not self.methods and contact("email", self.username) is None:
            raise ValueError("mfa required needs methods, or a username that is an e-mail address")
        return self


class SamlModel(BaseModel):
    """Where signed assertions for a service provider go, and their audience."""

    model_config = _CLOSED
    acs_url: Annotated[str, StringConstraints(max_length=2000, pattern=r"^https?://[!-~]+$")]
    audience: Name


class ClientModel(BaseModel):
    """A client. Loopback redirect URIs (RFC 8252 §7.3) are always registered; others are named here, exactly.

    It is public, unless ``token_endpoint_auth_method`` says otherwise: then it proves itself with ``client_secret``.
    The fields after ``scopes`` concern ``auth0`` only. ``api_scopes``: the scopes of the management API it may have.
    """

    model_config = _CLOSED
    client_id: Name
    redirect_uris: Annotated[list[Name], Field(max_length=50)] = []
    native_auth: bool = True  # entra: the switch in the app registration
    spa: bool = False  # entra: its redirect URIs are of type spa, so a browser sign-in lasts 24 hours
    disabled: bool = False  # entra: the application is switched off in the tenant
    scopes: Annotated[list[Name], Field(max_length=100)] | None = None  # None: any scope may be asked for
    name: Annotated[str, StringConstraints(max_length=200)] = ""
    app_type: AppType = "native"
    client_secret: Password | None = None
    token_endpoint_auth_method: ClientAuthMethod = "none"  # noqa: S105  # a method's name
    grant_types: Annotated[list[Name], Field(max_length=20)] | None = None  # None: those of its app_type
    description: Annotated[str, StringConstraints(max_length=140)] = ""
    initiate_login_uri: Name | None = None
    allowed_logout_urls: Annotated[list[Name], Field(max_length=100)] = []
    web_origins: Annotated[list[Name], Field(max_length=100)] = []  # those of loopback and of this list get web_message
    metadata: Annotated[dict[Name, Text], Field(max_length=10)] = {}
    api_scopes: Annotated[list[Name], Field(max_length=100)] = []
    session_transfer: SessionTransfer | None = None
    refresh_token: RefreshTokenSetting | None = None
    saml: SamlModel | None = None  # the application is a service provider, of SAML or WS-Federation
    is_first_party: bool = True  # false: the person is asked for consent
    is_token_endpoint_ip_header_trusted: bool = False  # its auth0-forwarded-for counts; with client authentication

    @property
    def is_confidential(self) -> bool:
        """Whether the client proves itself at the token endpoint."""
        return self.token_endpoint_auth_method != "none"  # noqa: S105  # a method's name

    @property
    def allowed_grant_types(self) -> list[str]:
        """Its own, or those that Auth0 gives to an application of this type."""
        if self.grant_types is not None:
            return [*self.grant_types]
        is_public = self.app_type in {"native", "spa"}
        return ["implicit", "authorization_code", "refresh_token", *([] if is_public else ["client_credentials"])]

    @model_validator(mode="after")
    def _can_prove_itself(self) -> ClientModel:
        if self.is_confidential and self.client_secret is None:
            raise ValueError(f"token_endpoint_auth_method {self.token_endpoint_auth_method} needs a client_secret")
        if self.is_token_endpoint_ip_header_trusted and not self.is_confidential:
            raise ValueError("is_token_endpoint_ip_header_trusted needs a client that proves itself")
        return self

    @model_validator(mode="after")
    def _may_live_so_long(self) -> ClientModel:
        setting = self.refresh_token
        if setting is None:
            return self
        is_endless = setting.infinite_token_lifetime or setting.infinite_idle_token_lifetime
        if self.app_type == "spa" and is_endless:
            raise ValueError("refresh_token: infinite lifetimes are not for single-page applications")
        if not self.is_first_party and (is_endless or setting.expiration_type == "non-expiring"):
            raise ValueError("refresh_token: of a third-party client it must expire")
        if not self.is_first_party and setting.policies:
            raise ValueError("refresh_token.policies: only for first-party clients")
        return self


class AttributeModel(BaseModel):
    """An attribute that a person must give when signing up; ``regex`` must fit the whole value."""

    model_config = _CLOSED
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,127}$")]
    type: AttributeType = "String"
    required: bool = True
    regex: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        """Take a bare name for a text attribute."""
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _compiles(self) -> AttributeModel:
        try:
            re.compile(self.regex or "")
        except re.error as exc:
            raise ValueError("regex: not a regular expression") from exc
        return self


class PolicyModel(BaseModel):
    """Knobs, in seconds; ``None`` means no limit. A profile's defaults are in :data:`.rules.RULES`."""

    model_config = _CLOSED
    access_token_lifetime_s: Annotated[Seconds, Field(ge=1)] = 3600.0
    leeway_s: Annotated[float, Field(ge=0, le=DAY_S)] = 0.0  # how long the previous refresh token still works
    reuse_count_max: Annotated[int, Field(ge=0, le=1_000)] | None = None  # where uses are counted; None: the profile's
    refresh_idle_lifetime_s: Seconds | None = None  # counted anew for each refresh token
    refresh_absolute_lifetime_s: Seconds | None = None  # counted from the sign-in
    otp_refresh_lifetime_s: Seconds | None = None  # after an e-mail code sign-in
    otp_refresh_mode: Literal["fixed", "sliding"] = "fixed"  # from the sign-in, or anew with each refresh token
    refresh_needs_offline_access: bool = False  # entra: a refresh without that scope gets no refresh token
    code_length: Annotated[int, Field(ge=4, le=20)] = 8
    code_lifetime_s: Seconds = 600.0
    code_tries_max: Annotated[int, Field(ge=1, le=100)] = 5
    continuation_lifetime_s: Seconds = 900.0
    password_tries_max: Annotated[int, Field(ge=1, le=1000)] = 10
    lockout_s: Seconds = 60.0
    password_length_min: Annotated[int, Field(ge=1, le=256)] = 8
    password_length_max: Annotated[int, Field(ge=1, le=256)] = 256
    password_classes_min: Annotated[int, Field(ge=1, le=4)] = 3  # of lower, upper, digit, symbol
    password_banned: Annotated[list[Text], Field(max_length=1000)] = [
        "Password1",
        "Password123",
        "P@ssw0rd",
        "Contoso1!",
    ]
    sign_up: Literal["any", "password", "oob"] = "any"  # any: by password where the client can, else by e-mail code
    sign_up_mfa: Mfa = "none"  # the ``mfa`` of people who have signed up
    required_attributes: Annotated[list[AttributeModel], Field(max_length=50)] = []
    registration_channels: Annotated[list[Channel], Field(min_length=1, max_length=2)] = ["email", "sms"]
    blocked_contacts: Annotated[list[Text], Field(max_length=1000)] = []  # no codes go there: bad reputation
    self_service_reset: bool = True
    reset_duration_s: Annotated[float, Field(ge=0, le=DAY_S)] = 0.0  # how long poll_completion says in_progress
    reset_outcome: Literal["succeeded", "failed"] = "succeeded"
    poll_interval_s: Annotated[int, Field(ge=0, le=60)] = 2
    conditional_access: ConditionalAccess | None = None
    sign_in_frequency_s: Annotated[float, Field(ge=0, le=SECONDS_MAX)] = 0.0  # 70043: how old a sign-in may be
    requests_per_minute_max: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # of one client; more is 429
    cae: bool = False  # continuous access evaluation for clients that declare cp1
    cae_access_token_lifetime_s: Annotated[Seconds, Field(ge=1)] = 28 * 3600.0
    session_idle_lifetime_s: Seconds | None = 3 * DAY_S  # of sessions at the provider; Auth0's defaults
    session_absolute_lifetime_s: Seconds | None = 7 * DAY_S
    session_transfer_lifetime_s: Annotated[float, Field(gt=0, le=600)] = 60.0
    refused_grant_status: Literal[400, 403] = 403  # auth0: documents and reports say 403, RFC 6749 says 400
    management_token_lifetime_s: Annotated[Seconds, Field(ge=1)] = DAY_S
    revoking_deletes_grant: bool = False  # auth0: revoking one refresh token ends all of its user, client and audience

    def over(self, base: PolicyModel) -> PolicyModel:
        """Return ``base`` with the fields that this one sets."""
        return base.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


class FaultModel(BaseModel):
    """One fault, for the next ``times`` requests that fit, from ``after_s`` seconds of provider time on.

    Without ``endpoint`` it meets any provider endpoint but ``resource``; the four with ``commit`` in their names then
    meet POST only, so that a discovery request does not use them up. ``committed`` says whether the request is carried
    out before a wrong answer is given; ``cut_json`` always carries it out. ``times`` 0: each request that fits.
    """

    model_config = _CLOSED
    name: FaultName
    endpoint: EndpointName | None = None
    grant_type: Name | None = None
    times: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    after_s: Annotated[float, Field(ge=0, le=SECONDS_MAX)] = 0.0
    seconds: Annotated[float, Field(ge=0, le=600)] | None = None
    retry_after_s: Annotated[int, Field(ge=0, le=86_400)] | None = None
    committed: bool = False
    error: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,64}$")] = "invalid_grant"
    suberror: Annotated[str, StringConstraints(pattern=r"^[a-z_]{0,64}$")] = ""
    code: Annotated[int, Field(ge=0, le=99_999_999)] = 0
    size: Annotated[int, Field(ge=1024, le=16_777_216)] = 1_048_576
    location: Annotated[str, StringConstraints(max_length=2000, pattern=r"^https?://[!-~]+$")] = (
        "https://other.invalid/"
    )
    answer: AnswerModel | None = None

    @property
    def is_answer(self) -> bool:
        """Whether it gives an answer of its own in place of the provider's."""
        return self.name in _ANSWERS

    @model_validator(mode="after")
    def _fits(self) -> FaultModel:
        if (self.name == "answer") != (self.answer is not None):
            raise ValueError("the fault answer, and no other, needs answer")
        if self.answer is not None and self.answer.borrows and not self.committed:
            raise ValueError("an answer that borrows from the real one needs committed")
        if self.name == "slow" and self.seconds is None:
            raise ValueError("slow needs seconds")
        if self.endpoint not in {None, "token"} and self.grant_type is not None:
            raise ValueError("grant_type goes with the endpoint token")
        return self


class BehaviourModel(BaseModel):
    """What the provider does with refresh tokens, in place of its profile's rules.

    ``refresh``: what a refresh does to them. ``spends``: another one each time, the old one works for the policy's
    leeway. ``keeps``: another one, and the old one stays. ``repeats``: the same one for good, in each answer;
    ``hides``: the same one, in no answer. ``branches``: within the leeway any spent one works, not only the previous.
    What a reuse and a revocation take along: ``session`` needs a profile that has sessions. ``revocation``: whether the
    endpoint works, says yes and does nothing, refuses, or is not there. ``narrows``: a refresh may ask for less scope.
    ``tells_life``: each answer says how long the refresh token lives.
    """

    model_config = _CLOSED
    refresh: Literal["spends", "keeps", "repeats", "hides"] = "spends"
    branches: bool = False
    reuse_takes: Reach = "family"
    reuse_kills_access_tokens: bool = False
    revocation: Literal["works", "ignored", "refused", "absent"] = "works"
    revocation_takes: Reach = "family"
    narrows: bool = True
    tells_life: bool = False


class WorldModel(BaseModel):
    """The whole world. A key that a world file leaves out stays as in the default world."""

    model_config = _CLOSED
    tenant: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")] = "contoso"
    users: Annotated[list[UserModel], Field(max_length=USERS_MAX)] = []
    clients: Annotated[list[ClientModel], Field(min_length=1, max_length=CLIENTS_MAX)] = []
    policy: PolicyModel = PolicyModel()
    behaviour: BehaviourModel | None = None
    lenient: Annotated[list[RuleName], Field(max_length=len(RULE_NAMES))] = []  # rules that are switched off
    faults: Annotated[list[FaultModel], Field(max_length=FAULTS_MAX)] = []


# The client id is the one of Microsoft's documentation examples; the password is no secret, it opens only this sandbox.
CLIENT_ID = "00001111-aaaa-2222-bbbb-3333cccc4444"
PASSWORD = "correct-horse-7-battery"  # noqa: S105  # documented on purpose
_PASSWORD = Password(PASSWORD)
_EMAIL_AND_SMS = [
    MethodModel(channel="email", target="mfa@contoso.example"),
    MethodModel(channel="sms", target="+14255550100"),  # 555-0100 belongs to nobody
]
DEFAULT_USERS = (
    UserModel(username="otp@contoso.example", name="Olga Otp"),
    UserModel(username="password@contoso.example", password=_PASSWORD, name="Pat Password"),
    UserModel(
        username="mfa@contoso.example", password=_PASSWORD, name="Mia Mfa", mfa="required", methods=_EMAIL_AND_SMS
    ),
    UserModel(username="register@contoso.example", password=_PASSWORD, name="Rae Register", mfa="register"),
    UserModel(
        username="preverified@contoso.example",
        password=_PASSWORD,
        name="Pia Preverified",
        mfa="register",
        email_proven=True,
    ),
    UserModel(username="reset@contoso.example", password=_PASSWORD, name="Rory Reset"),
)
# Under entra the default world has this one too. Its id is of the same kind as the other's.
SINGLE_PAGE = ClientModel(client_id="11112222-bbbb-3333-cccc-4444dddd5555", name="Single-page application", spa=True)
DEFAULT_WORLD = WorldModel(users=list(DEFAULT_USERS), clients=[ClientModel(client_id=CLIENT_ID)])


def parse_world(text: str, *, file: str) -> WorldModel:
    """Read a world file's text.

    Raises:
        ConfigError: it names ``file``, the line and the key, in words that a person can act on.
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
        world = WorldModel.model_validate({"users": list(DEFAULT_USERS), "clients": DEFAULT_WORLD.clients, **found})
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
    """Return the line, from 1, of a key in a TOML text, or the line of the table that should hold the key.

    Exact for the way the documentation writes a world (``[policy]``, ``[[users]]``, one key per line); for inline
    tables it is the line where the outermost key begins. Line 1 if nothing is found.
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
