"""Everything the provider remembers, in memory, and the few ways it is changed.

Codes and tokens are kept only as SHA-256 digests, so neither a dump of the state nor an event can show one; the
exceptions are a user's password and the last code in a mailbox, which are Secret values. Each table has a limit; the
oldest entry is dropped first, so a long demo does not grow for ever.

A refresh leaves nothing behind that grows: what a token stands for is written into the token itself
(:mod:`token_relay.sandbox.provider.tokens.issued`), and a family keeps rows only of those of its refresh tokens whose
use still changes something.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from random import Random
from typing import Literal, Protocol, TypeVar

from token_relay.protocol.secret import Code
from token_relay.sandbox.marked_tokens import MARK
from token_relay.sandbox.provider.http_values import JsonValue
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.flow_states import NativeFlow, SentCode
from token_relay.sandbox.provider.memory.refusals import NOWHERE, Trace
from token_relay.sandbox.provider.memory.signing import Signer
from token_relay.sandbox.provider.memory.tenant_logs import DESCRIPTIONS, LOGS_MAX, LogRecord, LogType
from token_relay.sandbox.provider.memory.verdicts import Command
from token_relay.sandbox.provider.world.auth0_clients import demo_clients
from token_relay.sandbox.provider.world.model import (
    DEFAULT_WORLD,
    SINGLE_PAGE,
    ClientModel,
    PolicyModel,
    UserModel,
    WorldModel,
)
from token_relay.sandbox.provider.world.network_table import Location, NetworkTable
from token_relay.sandbox.provider.world.rules import RULES, Rules, Urls, user_id, with_behaviour
from token_relay.sandbox.provider.world.strictness import RuleName

TABLE_MAX = 100_000  # sign-ins and their flows: some 100 MB at worst, and only for as many people or tries
EVENTS_MAX = 10_000  # three to a refresh; some 10 MB
K = TypeVar("K")
V = TypeVar("V")
ResponseMode = Literal["query", "fragment", "form_post", "web_message"]


# Who redeemed its code: a single-page application, or another client; empty after a sign-in without a code.
Redeemer = Literal["", "spa", "other"]


@dataclass(slots=True)
class Family:
    """One sign-in and every token that stems from it. Times are Unix seconds of the provider's clock."""

    family_id: str
    client_id: str
    username: str
    scope: tuple[str, ...]
    audience: str
    method: str
    born_at_seq: int
    born_at: float
    expires_at: float | None
    expired_code: int = 70008  # AADSTS number for "past expires_at"
    has_second_factor: bool = False
    generation: int = 0  # of the newest refresh token; 0 before the first
    newest: str = ""  # digest of the newest refresh token
    rows: tuple[str, ...] = ()  # digests of those that have a row, the oldest first
    is_dead: bool = False
    access_tokens_dead: bool = False
    session_id: str = ""  # the session that it was born in
    authenticated_at: float = 0.0  # when the person of that session proved their identity
    parent_family_id: str = ""  # whose session transfer token opened that session
    organization: str = ""
    actor: str = ""  # who acts in the person's name
    is_rotating: bool = True  # as it was at the latest exchange
    is_online: bool = False  # of the scope online_access: one with its session
    tells_auth_time: bool = False  # in id_tokens, under every profile
    key_thumbprint: str = ""  # of the key that its refresh tokens are bound to, RFC 9449 §5
    redeemer: Redeemer = ""
    used_generation: int = 0  # of the youngest refresh token that was used
    last_exchanged_at: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    initial_place: Location = NOWHERE
    last_place: Location = NOWHERE


@dataclass(slots=True)
class Session:
    """A browser that is signed in at the provider. Times are Unix seconds of the provider's clock."""

    session_id: str
    username: str
    created_at: float
    authenticated_at: float
    expires_at: float | None
    idle_expires_at: float | None
    cookie: str  # digest of its value
    updated_at: float
    clients: list[str] = field(default_factory=list)
    parent_family_id: str = ""  # the grant whose session transfer token opened it
    is_delegated: bool = False
    actor: str = ""
    has_second_factor: bool = False
    initial_place: Location = NOWHERE
    last_place: Location = NOWHERE

    def is_alive(self, now: float) -> bool:
        """Return whether neither of its ends has come; a session that was ended is no longer in the table."""
        return all(end is None or now < end for end in (self.expires_at, self.idle_expires_at))


@dataclass(slots=True)
class IssuedTransferToken:
    """One token that opens a session, once. ``place`` is where the exchange came from."""

    client_id: str
    family_id: str
    username: str
    scope: tuple[str, ...]
    place: Location
    expires_at: float
    organization: str = ""
    actor: str = ""
    is_used: bool = False


@dataclass(slots=True)
class RefreshEntry:
    """One refresh token; ``superseded_at`` is when its successor was issued, -inf for one without a row."""

    family_id: str
    generation: int
    idle_expires_at: float | None
    superseded_at: float | None = None
    uses: int = 0  # for providers that count


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """What an access token or id_token says about itself."""

    token_id: str  # ``jti`` without its mark
    family_id: str
    scope: str
    expires_at: int
    born_at_seq: int = 0
    is_cae: bool = False  # called back as soon as something happens to the account
    generation: int = 0  # of the refresh token that it came with
    is_for_userinfo: bool = False  # auth0: opaque, or ``aud`` lists that endpoint


class Assertions(Protocol):
    """Signs SAML assertions and checks them."""

    def sign(self, xml: str) -> str:
        """Return the assertion with its signature in place of the one marked ``placeholder``."""
        ...

    def verify(self, xml: str) -> VerifiedAssertion | None:
        """Return what the one signed assertion in here says, or None when none is valid."""
        ...


@dataclass(frozen=True, slots=True)
class VerifiedAssertion:
    """What an assertion says inside its signed part. Times as written: UTC, ``Z`` at the end."""

    assertion_id: str
    issuer: str
    name_id: str
    audience: str
    recipient: str
    not_before: str
    not_on_or_after: str


@dataclass(frozen=True, slots=True)
class ManagementToken:
    """An access token of the management API."""

    client_id: str
    scope: frozenset[str]
    expires_at: float


@dataclass(slots=True)
class Authorization:
    """A browser's authorization request (RFC 6749 §4.1.1), waiting for its person, then for its code to be redeemed."""

    client_id: str
    redirect_uri: str
    scope: tuple[str, ...]
    audience: str
    state: str
    nonce: str
    code_challenge: str
    expires_at: float
    username: str = ""
    sent: SentCode | None = None
    is_second_factor: bool = False  # the password was right, and ``sent`` is the code that must follow
    tries: int = 0
    family_id: str = ""  # once redeemed
    session_id: str = ""
    organization: str = ""
    commands: tuple[Command, ...] = ()  # what an Action has said, for the tokens
    is_proven: bool = False  # the credential was right, and an Action is being asked
    login_hint: str = ""
    protocol: str = "oidc-basic-profile"  # or samlp, wsfed, oauth2-device-code
    response_mode: ResponseMode = "query"
    key_thumbprint: str = ""  # ``dpop_jkt``, RFC 9449 §10
    is_delegated: bool = False
    transfer: str = ""  # digest of the session transfer token that stood for the first factor
    device: str = ""  # user code of the device that waits for it
    prompts: tuple[str, ...] = ()
    is_implicit: bool = False  # it is answered by an id_token, not by a code
    tells_auth_time: bool = False  # max_age was asked for: OpenID Connect Core §2
    question: Literal["", "consent", "account"] = ""  # what a signed-in person is being asked


@dataclass(slots=True)
class DeviceCode:
    """A device that waits for its person (RFC 8628). ``outcome``: empty, approved or denied."""

    client_id: str
    scope: tuple[str, ...]
    audience: str
    expires_at: float
    interval_s: float
    polled_at: float | None = None
    outcome: str = ""
    username: str = ""
    session_id: str = ""
    is_transferred: bool = False  # a session transfer token opened the session that said yes
    commands: tuple[Command, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, without any secret. ``at`` is the provider's time."""

    event_id: int
    at: float
    kind: str
    fields: tuple[tuple[str, str | int], ...]

    def as_json(self) -> dict[str, JsonValue]:
        """Return the event as a flat object."""
        return {"id": self.event_id, "at": self.at, "kind": self.kind, **dict(self.fields)}


@dataclass(slots=True)
class State:
    """The provider's memory."""

    urls: Urls
    rules: Rules
    policy: PolicyModel
    rng: Random
    signer: Signer
    token_key: bytes = field(repr=False)  # under which refresh tokens are genuine
    users: dict[str, User] = field(default_factory=dict)
    clients: dict[str, ClientModel] = field(default_factory=dict)
    families: dict[str, Family] = field(default_factory=dict)
    refresh_tokens: dict[str, RefreshEntry] = field(default_factory=dict)
    revoked_access_tokens: dict[str, int] = field(default_factory=dict)  # one by one: token id and end
    flows: dict[str, NativeFlow] = field(default_factory=dict)
    logins: dict[str, Authorization] = field(default_factory=dict)
    codes: dict[str, Authorization] = field(default_factory=dict)
    mailboxes: dict[str, SentCode] = field(default_factory=dict)
    email_searches: deque[float] = field(default_factory=deque)  # when somebody looked for an account by phone
    recent_requests: dict[str, deque[float]] = field(default_factory=dict)  # by client, for the limit per minute
    sessions: dict[str, Session] = field(default_factory=dict)
    session_cookies: dict[str, str] = field(default_factory=dict)  # digest of the cookie: session id
    transfers: dict[str, IssuedTransferToken] = field(default_factory=dict)
    management_tokens: dict[str, ManagementToken] = field(default_factory=dict)
    networks: NetworkTable = field(default_factory=NetworkTable)
    has_actions: bool = False
    assertions: Assertions | None = None
    seen_assertions: dict[str, float] = field(default_factory=dict)  # at the demo service provider
    devices: dict[str, DeviceCode] = field(default_factory=dict)  # by digest of the device code
    user_codes: dict[str, str] = field(default_factory=dict)  # user code: digest of the device code
    consents: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)  # by person and client
    seen_proofs: dict[str, float] = field(default_factory=dict)  # RFC 9449 §11.1
    logs: deque[LogRecord] = field(default_factory=lambda: deque(maxlen=LOGS_MAX))
    next_log_number: int = 1
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    next_event_id: int = 1
    clock_offset_s: float = 0.0
    lenient: set[RuleName] = field(default_factory=set)  # rules that are switched off

    @classmethod
    def from_world(
        cls, world: WorldModel, urls: Urls, rng: Random, signer: Signer, rules: Rules | None = None
    ) -> State:
        """Return the state at the start; a policy key that the world leaves out is the profile's."""
        rules = with_behaviour(rules or RULES[urls.profile], world.behaviour)
        policy = world.policy.over(rules.policy)
        state = cls(urls, rules, policy, rng, signer, token_key=rng.randbytes(32), lenient={*world.lenient})
        for user in world.users:
            state.put_user(user)
        clients = world.clients
        if clients == DEFAULT_WORLD.clients and state.rules.is_managed:
            clients = demo_clients(urls.base_url)
        elif clients == DEFAULT_WORLD.clients and state.rules.is_native:
            clients = [*clients, SINGLE_PAGE]
        for client in clients:
            state.clients[client.client_id] = client
        return state

    def keeps(self, rule: RuleName) -> bool:
        """Return whether this rule is kept, as it is unless somebody has switched it off."""
        return rule not in self.lenient

    def put_user(self, user: UserModel) -> None:
        """Add a person, or replace the one of that name; tokens already issued stay as they are."""
        fresh = User.from_model(user)
        if fresh.username in self.users:
            fresh.keep_marks_of(self.users[fresh.username])
        self.users[fresh.username] = fresh

    def note(self, kind: str, now: float, **fields: str | int) -> int:
        """Record an event and return its number. Empty texts are left out."""
        event_id = self.next_event_id
        self.next_event_id += 1
        kept = tuple((name, value) for name, value in fields.items() if value != "")
        self.events.append(Event(event_id, now, kind, kept))
        return event_id

    def log(self, kind: LogType, trace: Trace, *, client_id: str = "", username: str = "", **fields: JsonValue) -> None:
        """Write a record of the tenant's log, under the one profile that keeps one. Empty texts are left out."""
        if not self.rules.is_managed:
            return
        client = self.clients.get(client_id)
        known: dict[str, JsonValue] = {
            "description": DESCRIPTIONS[kind],
            "client_id": client_id,
            "client_name": "" if client is None else client.name,
            "ip": trace.place.ip,
            "user_agent": trace.place.user_agent,
            "user_id": user_id(username) if username else "",
            "user_name": username,
            "hostname": trace.host,
            "tenant_name": self.urls.tenant,
            "trace_id": trace.trace_id,
        }
        if trace.place.asn is not None:
            known["asn"] = str(trace.place.asn)
        if "countryCode" in trace.place.geoip:
            known["location_info"] = {
                "country_code": trace.place.geoip["countryCode"],
                "city_name": trace.place.geoip.get("cityName"),
            }
        shown = {name: value for name, value in {**known, **fields}.items() if value != ""}
        self.logs.append(LogRecord(self.next_log_number, trace.now, kind, shown))
        self.next_log_number += 1

    def logs_after(self, number: int) -> Iterator[LogRecord]:
        """Yield what was logged later than the record of this number, in order."""
        return _last(self.logs, self.next_log_number - 1 - number)

    def events_after(self, event_id: int) -> Iterator[Event]:
        """Yield what was recorded later than this event, in order."""
        return _last(self.events, self.next_event_id - 1 - event_id)

    def guid(self) -> str:
        """Return a fresh GUID."""
        raw = self.rng.randbytes(16).hex()
        return f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"

    def token(self, kind: str) -> str:
        """Return a fresh opaque value of 256 bits: ``ct`` continuation token, ``ac`` code …"""
        return f"{kind}.{MARK}.{self.rng.randbytes(32).hex()}"

    def send_code(self, mailbox: str, now: float) -> SentCode:
        """Put a fresh code into a mailbox, in place of the one before."""
        digits = "".join(str(self.rng.randrange(10)) for _ in range(self.policy.code_length))
        sent = SentCode(Code(digits), now + self.policy.code_lifetime_s, self.policy.code_tries_max, mailbox)
        remember(self.mailboxes, mailbox, sent)
        return sent

    def take_code(self, sent: SentCode) -> None:
        """Take a code that was used out of its mailbox, unless a newer one is in it."""
        if self.mailboxes.get(sent.mailbox) is sent:
            del self.mailboxes[sent.mailbox]


def digest(value: str) -> str:
    """Return the name under which a code or token is kept."""
    return sha256(value.encode()).hexdigest()


def remember(table: dict[K, V], key: K, value: V) -> None:
    """Store at the end of the table, and drop its oldest entries beyond the limit."""
    table.pop(key, None)
    table[key] = value
    while len(table) > TABLE_MAX:
        del table[next(iter(table))]


def _last(numbered: deque[V], count: int) -> Iterator[V]:
    """Yield the last ``count``; their numbers have no gaps, and most callers want two or three of ten thousand."""
    return reversed(list(islice(reversed(numbered), max(0, count))))
