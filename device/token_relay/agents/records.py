"""What the agents keep in their vaults, one frozen dataclass a table.

Plain fields lie in clear (states, times, counters, names of issuers); ``Secret`` fields are sealed. Moments are text
made by :class:`token_relay.agents.elapsed.Stamp` where elapsed time matters, and Unix seconds (``*_at``) where a person
reads them. Everything is keyed pairing × handoff × grant, so a phone may have several companions and accounts, and a
companion several phones.

Columns of state are ``Literal``: a misspelt state is a type error, and the vault refuses to write it and to read it.
After each record that changes stand the columns that may: :meth:`token_relay.agents.turn.Turn.change` takes these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from token_relay.protocol.handoff import CompanionStateName, DeadReason, GoneReason, PhoneStateName, Strategy
from token_relay.protocol.messages import LostReason, ProviderSaid, RenewReason, RequestType
from token_relay.protocol.secret import AccessToken, PrivateKey, RefreshToken
from token_relay.provider.outcome import Came

PairingState = Literal["pending", "active", "retired"]
RestoredEnd = Literal["peer", "self"]  # whose disk is an older image
GrantStateName = Literal["held", "refreshing", "uncertain", "needs_handoff", "locked", "dead"]
NeedsHandoffReason = Literal["uncertain", "person"]
LockedReason = Literal["lease", "rollback", "configuration", "unverified", "damaged"]
GrantEndReason = Literal["denied", "superseded", "forgotten", "signed_out", "moved", "damaged", DeadReason]
GrantReason = Literal["", NeedsHandoffReason, LockedReason, GrantEndReason]
RefusedReason = Literal["person", "configuration"]  # refused, kept, and asked again by itself
HandoffKey = tuple[str, str]  # pairing id, handoff id: the peer chooses the latter
USABLE: frozenset[GrantStateName] = frozenset({"held", "refreshing", "uncertain"})  # its refresh token may be sent
UNANSWERED: frozenset[GrantStateName] = frozenset({"refreshing", "uncertain"})  # a request may have no verdict
FINISHED: frozenset[GrantStateName] = frozenset({"needs_handoff", "dead"})  # only a person can help
# "refused": locked because the provider refuses the client. "unknown": a newer companion said another word
DeviceState = Literal["ready", "erased", "refused", "unknown", GrantStateName]


@dataclass(frozen=True, slots=True)
class Identity:
    """This device's static key pair; one row, ``name`` = "self"."""

    table: ClassVar[str] = "identity"
    key: ClassVar[tuple[str, ...]] = ("name",)
    sealed_under: ClassVar[str] = "vault"

    name: str
    public_key: bytes
    private_key: PrivateKey
    created_at: int


@dataclass(frozen=True, slots=True)
class Pairing:
    """One pairing with one peer and the numbers of its two directions.

    ``state``: ``pending`` (PAIR1/PAIR2 done), ``active``, ``retired`` (a newer pairing with the same peer took over:
    what was open is settled, nothing new begins). ``challenge`` is that of our last HELLO, empty once LEASE came.
    """

    table: ClassVar[str] = "pairings"
    key: ClassVar[tuple[str, ...]] = ("pairing_id",)
    sealed_under: ClassVar[str] = "vault"

    pairing_id: str
    peer_id: str
    peer_key: bytes
    peer_name: str
    state: PairingState
    transcript_hash: bytes
    created: str
    paired_at: int = 0
    seq_sent: int = 0
    seq_high: int = 0
    peer_accepted: int = 0
    challenge: str = ""
    challenged: str = ""  # when; a lease counts from here, so that a broker gains nothing by holding LEASE back
    heard_at: int = 0
    heard: str = ""
    rollback: Literal["", RestoredEnd] = ""
    renew_denied: bool = False  # `phone revoke` takes the right to renew away
    speaks: int = 0  # the highest message version that the peer is known to speak; 0: not known yet
    strategies: str = ""  # those that the peer said it knows, separated by spaces
    own_name: str = ""  # what the peer calls itself, as it last said; empty: it has not said yet
    is_name_given: bool = False  # a person gave it ``peer_name``, which no word of the peer replaces
    replaced_by: str = ""  # the id of the device that takes its place


class PairingColumns(TypedDict, total=False):
    """What may change in a :class:`Pairing`."""

    peer_name: str
    state: PairingState
    paired_at: int
    seq_sent: int
    seq_high: int
    peer_accepted: int
    challenge: str
    challenged: str
    heard_at: int
    heard: str
    rollback: Literal["", RestoredEnd]
    renew_denied: bool
    speaks: int
    strategies: str
    own_name: str
    is_name_given: bool
    replaced_by: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One accepted message of the replay window."""

    table: ClassVar[str] = "seen"
    key: ClassVar[tuple[str, ...]] = ("pairing_id", "seq")
    sealed_under: ClassVar[str] = "vault"

    pairing_id: str
    seq: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One open request: its ciphertext, so that a resend is byte-identical."""

    table: ClassVar[str] = "outbox"
    key: ClassVar[tuple[str, ...]] = ("pairing_id", "seq")
    sealed_under: ClassVar[str] = "vault"

    pairing_id: str
    seq: int
    type: RequestType
    handoff_id: str
    envelope: bytes
    queued: str


@dataclass(frozen=True, slots=True)
class PhoneHandoff:
    """The phone's end of one handoff. Only ``move`` keeps ``held_token``, until the companion has decided."""

    table: ClassVar[str] = "phone_handoffs"
    key: ClassVar[tuple[str, ...]] = ("pairing_id", "handoff_id")
    sealed_under: ClassVar[str] = "handoff:{pairing_id}:{handoff_id}"

    handoff_id: str
    pairing_id: str
    grant_id: str  # the phone's own grant behind it
    state: PhoneStateName
    reason: Literal["", "accepted", GoneReason]
    strategy: Literal["", Strategy]  # "": only the companion knows
    scope: str
    lease_days: int
    created: str
    created_at: int
    expires_at: int
    offer_hash: bytes = b""
    one_time_key: bytes = b""
    accept_hash: bytes = b""
    grant_version: int = 1  # the highest that the companion opens, as its ACCEPT said
    is_obtaining: bool = False  # the request for the companion's token may have gone out
    orphans: int = 0  # tokens that the provider may have issued and nobody holds
    problem: str = ""
    held_token: RefreshToken | None = None
    renews: str = ""
    is_renewal: bool = False
    done_at: int = 0
    device_state: Literal["", DeviceState] = ""
    device_reason: Literal["", RenewReason] = ""
    generation: int = 0
    provider_said: Literal["", ProviderSaid] = ""
    access_token_ends_at: int = 0
    issuer: str = ""
    client_id: str = ""
    subject: str = ""
    account: str = ""
    is_otp: bool = False
    signed_in_at: int = 0
    profile: str = ""
    sid: str = ""
    user_id: str = ""  # as the grant's

    @property
    def at(self) -> HandoffKey:
        """Its key."""
        return self.pairing_id, self.handoff_id


class PhoneHandoffColumns(TypedDict, total=False):
    """What may change in a :class:`PhoneHandoff`."""

    state: PhoneStateName
    reason: Literal["", "accepted", GoneReason]
    offer_hash: bytes
    one_time_key: bytes
    accept_hash: bytes
    grant_version: int
    is_obtaining: bool
    orphans: int
    problem: str
    held_token: RefreshToken | None
    done_at: int
    device_state: Literal["", DeviceState]
    device_reason: Literal["", RenewReason]
    generation: int
    provider_said: Literal["", ProviderSaid]
    access_token_ends_at: int
    subject: str
    account: str
    is_otp: bool
    signed_in_at: int
    sid: str
    user_id: str


@dataclass(frozen=True, slots=True)
class CompanionHandoff:
    """The companion's end of one handoff; a ``dead`` row is the tombstone and stays as long as the pairing."""

    table: ClassVar[str] = "companion_handoffs"
    key: ClassVar[tuple[str, ...]] = ("pairing_id", "handoff_id")
    sealed_under: ClassVar[str] = "handoff:{pairing_id}:{handoff_id}"

    handoff_id: str
    pairing_id: str
    state: CompanionStateName
    reason: Literal["", DeadReason] = ""
    was_stored: bool = False
    created_at: int = 0
    offer_hash: bytes = b""
    accept_hashes: bytes = b""  # 32 bytes each, of the ACCEPTs sent; TOKEN names the one that arrived
    one_time_public: bytes = b""
    one_time_key: PrivateKey | None = None
    issuer: str = ""
    client_id: str = ""
    account: str = ""  # as OFFER said it; empty in a row of before schema 4
    renews: str = ""  # the handoff in whose place this one comes, as OFFER said it
    scope: str = ""
    lease_days: int = 0
    provider_said: Literal["", "asking", ProviderSaid] = ""
    access_token_ends_at: int = 0
    lost_reason: Literal["", LostReason] = ""
    lost_field: str = ""  # names of fields, never what was in them

    @property
    def at(self) -> HandoffKey:
        """Its key."""
        return self.pairing_id, self.handoff_id


class CompanionHandoffColumns(TypedDict, total=False):
    """What may change in a :class:`CompanionHandoff`."""

    state: CompanionStateName
    reason: Literal["", DeadReason]
    was_stored: bool
    accept_hashes: bytes
    one_time_public: bytes
    one_time_key: PrivateKey | None
    provider_said: Literal["", "asking", ProviderSaid]
    access_token_ends_at: int
    lost_reason: Literal["", LostReason]
    lost_field: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant and where it stands. On the phone ``pairing_id`` and ``handoff_id`` are empty.

    ``intent`` to ``intent_came``: the open use of the refresh token, from its first request to a verdict.
    ``refused`` and ``refused_times``: the refusal after which it is asked again. ``said`` and ``said_at``: what came
    last that was no token. ``note``: what was odd in the last good answer. ``life_*``: the idle life that the provider
    tells, the last and the longest; ``is_life_fixed``: it shrinks as time goes by. ``is_sole``: the phone knows of no
    other device with a grant of this person and client.
    """

    table: ClassVar[str] = "grants"
    key: ClassVar[tuple[str, ...]] = ("grant_id",)
    sealed_under: ClassVar[str] = "grant:{grant_id}"

    grant_id: str
    pairing_id: str
    handoff_id: str
    issuer: str
    client_id: str
    token_endpoint: str
    revocation_endpoint: str
    scope: str
    audience: str
    subject: str
    account: str
    profile: str
    signed_in_at: int
    is_otp: bool
    stored_at: int
    refresh_token: RefreshToken | None
    state: GrantStateName = "held"
    reason: GrantReason = ""
    generation: int = 1
    intent: str = ""
    intent_late: int = 0
    intent_attempts: int = 0
    intent_sent: str = ""
    intent_came: Literal["", Came] = ""
    refused: Literal["", RefusedReason] = ""
    refused_times: int = 0
    refreshed_at: int = 0
    refreshed: str = ""
    life_told_s: float = 0.0
    life_longest_s: float = 0.0
    is_life_fixed: bool = False
    lease_days: int = 0
    lease_used_s: float = 0.0
    lease_marked: str = ""
    lease_wall: float = 0.0
    said: str = ""
    said_at: int = 0
    note: str = ""
    trace_id: str = ""
    correlation_id: str = ""
    sid: str = ""
    is_sole: bool = False
    behaviour: str = ""  # of the provider, as JSON, as the phone said it; empty: the profile's
    user_id: str = ""  # what the provider's administration calls the person (Entra: oid), where the sign-in told it


class GrantColumns(TypedDict, total=False):
    """What may change in a :class:`Grant`."""

    scope: str
    subject: str
    account: str
    refresh_token: RefreshToken | None
    state: GrantStateName
    reason: GrantReason
    generation: int
    intent: str
    intent_late: int
    intent_attempts: int
    intent_sent: str
    intent_came: Literal["", Came]
    refused: Literal["", RefusedReason]
    refused_times: int
    refreshed_at: int
    refreshed: str
    life_told_s: float
    life_longest_s: float
    is_life_fixed: bool
    lease_days: int
    lease_used_s: float
    lease_marked: str
    lease_wall: float
    said: str
    said_at: int
    note: str
    behaviour: str
    trace_id: str
    correlation_id: str
    sid: str
    user_id: str
    is_sole: bool


@dataclass(frozen=True, slots=True)
class CachedToken:
    """The newest access token of a grant for one normalised scope set."""

    table: ClassVar[str] = "access_tokens"
    key: ClassVar[tuple[str, ...]] = ("grant_id", "scope")
    sealed_under: ClassVar[str] = "grant:{grant_id}"

    grant_id: str
    scope: str
    granted_scope: str
    token_type: str
    received: str
    expires_in_s: float
    generation: int
    access_token: AccessToken | None


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One row of the audit table, at most 1000, no secret in it."""

    table: ClassVar[str] = "events"
    key: ClassVar[tuple[str, ...]] = ("number",)
    sealed_under: ClassVar[str] = "vault"

    number: int
    at: int
    name: str
    device: str
    handoff_id: str
    grant_id: str
    generation: int
    detail: str
    trace_id: str
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Counter:
    """A durable counter, such as the number of the last event."""

    table: ClassVar[str] = "counters"
    key: ClassVar[tuple[str, ...]] = ("name",)
    sealed_under: ClassVar[str] = "vault"

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class PrimaryPhone:
    """The phone whose grants answer where nobody names one; one row, ``name`` = "self".

    No row: none was ever chosen. An empty ``peer_id``: it was forgotten, and a person chooses another.
    """

    table: ClassVar[str] = "primary_phone"
    key: ClassVar[tuple[str, ...]] = ("name",)
    sealed_under: ClassVar[str] = "vault"

    name: str
    peer_id: str
    chosen_at: int


@dataclass(frozen=True, slots=True)
class OwnName:
    """What this device calls itself; one row, ``name`` = "self". ``configured``: the setting when it was last read."""

    table: ClassVar[str] = "own_name"
    key: ClassVar[tuple[str, ...]] = ("name",)
    sealed_under: ClassVar[str] = "vault"

    name: str
    called: str
    configured: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """A row that could not be read any more and was given up, until the agent has acted on it.

    ``row`` is its key, its parts separated by spaces.
    """

    table: ClassVar[str] = "damaged"
    key: ClassVar[tuple[str, ...]] = ("number",)
    sealed_under: ClassVar[str] = "vault"

    number: int
    table_name: str
    row: str


@dataclass(frozen=True, slots=True)
class Board:
    """Which device the vault belongs to; one row, ``name`` = "self". ``components`` is JSON: service.board_check."""

    table: ClassVar[str] = "board"
    key: ClassVar[tuple[str, ...]] = ("name",)
    sealed_under: ClassVar[str] = "vault"

    name: str
    components: str
    recorded_at: int


RECORDS = (
    Identity,
    Pairing,
    Seen,
    Outgoing,
    PhoneHandoff,
    CompanionHandoff,
    Grant,
    CachedToken,
    AuditEvent,
    Counter,
    Board,
    PrimaryPhone,
    Damaged,
    OwnName,
)
EVENTS_MAX = 1000


def grant_key(grant_id: str) -> str:
    """Return the name of the data key of a grant and its access tokens."""
    return Grant.sealed_under.format(grant_id=grant_id)


def handoff_key(pairing_id: str, handoff_id: str) -> str:
    """Return the name of a handoff's data key: what a peer names lies in its own pairing's name space."""
    return PhoneHandoff.sealed_under.format(pairing_id=pairing_id, handoff_id=handoff_id)
