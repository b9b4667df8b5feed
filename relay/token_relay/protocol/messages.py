"""Every message that two paired devices exchange, as a strict model, and its encoding.

A message is UTF-8 JSON inside an envelope: the head (version, type, pairing, from, to, seq, sent_at, in_reply_to)
and a ``body`` whose fields depend on type and version. Unknown or missing fields, duplicate keys, wrong types, floats
and integers outside 0 … 2^53 − 1 are refused. A type or version that we do not know has an error of its own
(:class:`UnsupportedError`), since it is answered; everything else is counted and dropped.

Binary values are lower-case hex; the sealed grant, which is long, is base64url without padding.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from token_relay.protocol.behaviour import Behaviour
from token_relay.protocol.errors import PeerError
from token_relay.protocol.handoff import Strategy
from token_relay.protocol.secret import RefreshToken
from token_relay.protocol.wire_json import INTEGER_MAX, encode_json, parse_object

SPEAKS = 4  # the highest version of a message that this program knows
GRANT_VERSION = 2  # and of a sealed grant
SEQUENCE_MAX = 2**52  # in a peer's messages; the room above is for our own jump after a claim of rollback
HANDOFFS_LISTED_MAX = 64
STRATEGIES_NAMED_MAX = 16
SEALED_CHARS_MAX = 15_000  # of base64url; as many as fit the larger envelope beside the other fields

Integer = Annotated[int, Field(ge=0, le=INTEGER_MAX)]
Hex16: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}\z")]
Hex32: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
DeviceId: TypeAlias = Annotated[str, Field(pattern=r"^[a-z2-7]{26}\z")]
Slug: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}\z")]
ProfileId: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}\z")]  # oidc-provider, keycloak-rotating
_CONTROL = r"\x00-\x1f\x7f-\x9f"  # a terminal may show all but these
_PRINTABLE = rf"^[^{_CONTROL}]*\z"
_NAME = rf"^[^{_CONTROL} ]([^{_CONTROL}]*[^{_CONTROL} ])?\z"  # no blank at either end
Text: TypeAlias = Annotated[str, Field(max_length=256, pattern=_PRINTABLE)]
Url: TypeAlias = Annotated[str, Field(min_length=1, max_length=512, pattern=_PRINTABLE)]
DeviceName: TypeAlias = Annotated[str, Field(max_length=64, pattern=_NAME)]
Scope: TypeAlias = Annotated[str, Field(max_length=1024, pattern=_PRINTABLE)]
Version: TypeAlias = Annotated[int, Field(ge=1, le=255)]
Version1: TypeAlias = Annotated[int, Field(ge=1, le=1)]  # Literal[1] would take `true` as well
Version2: TypeAlias = Annotated[int, Field(ge=2, le=2)]


class UnsupportedError(PeerError):
    """A well-formed message of a type or version that this program does not speak: answer REJECT."""

    def __init__(self, head: Head) -> None:
        super().__init__("unsupported", f"message type {head.type!r} version {head.v} is not supported")
        self.head = head


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
    )


class Head(_Strict):
    """The fields that begin every message."""

    v: Version
    type: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,15}\z")]
    pairing_id: Hex16
    sender: DeviceId = Field(alias="from")
    recipient: DeviceId = Field(alias="to")
    seq: Annotated[int, Field(ge=1, le=INTEGER_MAX)]
    sent_at: Integer  # Unix seconds by the sender's clock, 0 when it is not synced; never decides alone
    in_reply_to: Integer | None


class _Body(_Strict):
    """What stands in ``body``; a type whose fields changed has a class for each version."""

    version: ClassVar[int] = 1


class HandoffReport(_Strict):
    """What one end knows about one live handoff."""

    handoff_id: Hex16
    state: Slug
    generation: Integer


class Hello(_Body):
    """Sent at each connection, answered once: a challenge, and what the sender has on disk."""

    type: ClassVar[str] = "HELLO"
    challenge: Hex16
    seq_sent: Integer
    seq_accepted: Integer
    handoffs: Annotated[list[HandoffReport], Field(max_length=HANDOFFS_LISTED_MAX)]


class Hello2(Hello):
    """It says too what its sender knows: every message version up to ``speaks``, and these strategies."""

    version: ClassVar[int] = 2
    speaks: Annotated[int, Field(ge=2, le=255)]
    strategies: Annotated[list[Slug], Field(max_length=STRATEGIES_NAMED_MAX)]


class Hello3(Hello2):
    """It says too what its sender calls itself now."""

    version: ClassVar[int] = 3
    speaks: Annotated[int, Field(ge=3, le=255)]
    name: DeviceName


class Offer(_Body):
    """The phone offers a grant. ``expires_at`` is Unix seconds, 0 when the phone's clock is not synced."""

    type: ClassVar[Literal["OFFER"]] = "OFFER"
    handoff_id: Hex16
    strategy: Strategy
    issuer: Url
    client_id: Text
    scope: Scope
    account: Text
    lease_days: Annotated[int, Field(ge=0, le=365)]
    expires_at: Integer
    renews: Hex16 | None


class Accept(_Body):
    """The companion accepts the offer, and gives the one-time key to which the phone seals the grant."""

    type: ClassVar[str] = "ACCEPT"
    handoff_id: Hex16
    one_time_key: Hex32
    offer_hash: Hex32


class Accept2(Accept):
    """It says too which versions of the sealed grant the companion opens: all up to ``grant_version``."""

    version: ClassVar[int] = 2
    grant_version: Version


class Token(_Body):
    """The grant itself, sealed to the one-time key: base64url of a :class:`GrantPayload`'s sealed bytes."""

    type: ClassVar[Literal["TOKEN"]] = "TOKEN"
    handoff_id: Hex16
    sealed: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\z", max_length=SEALED_CHARS_MAX)]


class Stored(_Body):
    """The receipt: the grant is on the companion's disk."""

    type: ClassVar[Literal["STORED"]] = "STORED"
    handoff_id: Hex16


class Closed(_Body):
    """The phone has seen the receipt."""

    type: ClassVar[str] = "CLOSED"
    handoff_id: Hex16


class Cancel(_Body):
    """The phone asks to cancel the handoff."""

    type: ClassVar[Literal["CANCEL"]] = "CANCEL"
    handoff_id: Hex16


class CancelConfirmed(_Body):
    """The companion never stored the grant and never will."""

    type: ClassVar[str] = "CANCELLED"
    handoff_id: Hex16


class Revoke(_Body):
    """The person takes the grant away."""

    type: ClassVar[Literal["REVOKE"]] = "REVOKE"
    handoff_id: Hex16


ProviderSaid = Literal["accepted", "refused", "unreachable", "unsupported", "unknown"]


class Revoked(_Body):
    """The grant is erased on the companion; ``provider`` says what the provider answered.

    ``access_token_ends_at``: Unix seconds until which an access token may still work, 0 when none or not known.
    """

    type: ClassVar[str] = "REVOKED"
    handoff_id: Hex16
    provider: ProviderSaid
    access_token_ends_at: Integer


class Lost(_Body):
    """A TOKEN came that cannot be opened any more; this handoff is dead."""

    type: ClassVar[str] = "LOST"
    handoff_id: Hex16


LostReason = Literal[
    "bad_field",
    "bad_sealed_box",
    "bad_grant",
    "grant_mismatch",
    "no_one_time_key",
    "no_handoff",  # TOKEN found no handoff of this id
    "unknown",  # it was lost before this was remembered
]


class Lost4(Lost):
    """It says too why, and which fields were wrong: their names, separated by commas, never what they hold."""

    version: ClassVar[int] = 4
    reason: LostReason
    field: Text


RenewReason = Literal["uncertain", "denied", "person", "expired", "locked", "forgotten"]


class Renew(_Body):
    """The companion cannot go on with this grant. Only ``uncertain`` may be served without the person.

    ``generation`` is the grant's: 1 means that its very first refresh failed.
    """

    type: ClassVar[Literal["RENEW"]] = "RENEW"
    handoff_id: Hex16
    reason: RenewReason
    generation: Integer


class Reject(_Body):
    """A refusal, with its reason; ``handoff_id`` is null when it is about no handoff."""

    type: ClassVar[str] = "REJECT"
    handoff_id: Hex16 | None
    reason: Slug


class LeaseTerm(_Strict):
    """One grant's lease, counted from now; 0 days = no lease."""

    handoff_id: Hex16
    lease_days: Annotated[int, Field(ge=0, le=365)]


class Lease(_Body):
    """The leases of the grants named, with the challenge of the companion's own HELLO."""

    type: ClassVar[str] = "LEASE"
    challenge: Hex16
    handoffs: Annotated[list[LeaseTerm], Field(max_length=HANDOFFS_LISTED_MAX)]


class Rollback(_Body):
    """The receiver was restored from an older image; the numbers are those on the sender's disk."""

    type: ClassVar[str] = "ROLLBACK"
    seq_sent: Integer
    seq_accepted: Integer


class Pair3(_Body):
    """The phone owns its static key and has seen this transcript."""

    type: ClassVar[Literal["PAIR3"]] = "PAIR3"
    transcript_hash: Hex32


class Pair4(_Body):
    """The companion has done the same; the pairing is active."""

    type: ClassVar[str] = "PAIR4"
    transcript_hash: Hex32


Body: TypeAlias = (
    Hello
    | Hello2
    | Hello3
    | Offer
    | Accept
    | Accept2
    | Token
    | Stored
    | Closed
    | Cancel
    | CancelConfirmed
    | Revoke
    | Revoked
    | Lost
    | Lost4
    | Renew
    | Reject
    | Lease
    | Rollback
    | Pair3
    | Pair4
)
BODIES: dict[tuple[str, int], type[Body]] = {(body.type, body.version): body for body in Body.__args__}

Request: TypeAlias = Offer | Token | Stored | Cancel | Revoke | Renew | Pair3  # stays in the outbox until answered
RequestType = Literal["OFFER", "TOKEN", "STORED", "CANCEL", "REVOKE", "RENEW", "PAIR3"]
REQUESTS: frozenset[RequestType] = frozenset(get_args(RequestType))


class GrantPayload(_Strict):
    """What the sealed TOKEN holds. The seven fields after ``v`` tie it to one pairing, one handoff, one exchange."""

    v: Version1
    pairing_id: Hex16
    handoff_id: Hex16
    phone_key: Hex32
    companion_key: Hex32
    one_time_key: Hex32
    offer_hash: Hex32
    accept_hash: Hex32
    refresh_token: RefreshToken
    issuer: Url
    client_id: Text
    token_endpoint: Url
    revocation_endpoint: Url | None
    scope: Scope
    audience: Text
    subject: Text
    account: Text
    profile: ProfileId
    signed_in_at: Integer
    is_otp: bool
    is_sole: bool = False


class GrantPayload2(GrantPayload):
    """It brings the provider's behaviour too; ``is_sole`` is no longer left out."""

    v: Version2
    is_sole: bool
    behaviour: Behaviour


class Message(_Strict):
    """A head with its body."""

    head: Head
    body: Body


def plaintext_hash(plaintext: bytes) -> bytes:
    """Return the BLAKE2b-256 by which OFFER and ACCEPT are named inside TOKEN: over the bytes before padding."""
    return hashlib.blake2b(plaintext, digest_size=32, person=b"rtr1-msg").digest()


def envelope_digest(envelope: bytes) -> bytes:
    """Return the 16 bytes that the replay window keeps of an accepted envelope."""
    return hashlib.blake2b(envelope, digest_size=16, person=b"rtr1-env").digest()


def encode(head: Head, body: Body) -> bytes:
    """Return a message's plaintext."""
    assert (head.type, head.v) == (body.type, body.version)
    value = head.model_dump(mode="json", by_alias=True)
    value["body"] = body.model_dump(mode="json")
    return encode_json(value)


def decode(plaintext: bytes) -> Message:
    """Parse a message's plaintext.

    Raises:
        UnsupportedError: a type or version that we do not speak; answer REJECT ``unsupported``.
        PeerError: ``bad_json``, ``duplicate_key`` or ``bad_field``; drop the message. It names the field where it can.
    """
    value = parse_object(plaintext)
    body = value.pop("body", None)
    try:
        head = Head.model_validate(value, by_name=False)  # on the wire only the aliases count
    except ValidationError as exc:
        raise PeerError("bad_field", _place(exc)) from None  # the original shows what the peer sent
    if head.seq > SEQUENCE_MAX:
        raise PeerError("bad_field", "seq")
    model = BODIES.get((head.type, head.v))
    if model is None:
        raise UnsupportedError(head)
    try:
        message = Message.model_construct(head=head, body=model.model_validate(body))
    except ValidationError as exc:
        raise PeerError("bad_field", f"{_place(exc) or 'body'} of {head.type}") from None
    match message.body:
        case Hello(seq_sent=sent, seq_accepted=accepted) | Rollback(seq_sent=sent, seq_accepted=accepted):
            if max(sent, accepted) > SEQUENCE_MAX:
                name = "seq_sent" if sent > SEQUENCE_MAX else "seq_accepted"
                raise PeerError("bad_field", f"{name} of {head.type}")
        case _:
            pass
    return message


def encode_grant(payload: GrantPayload) -> bytes:
    """Return the bytes to be sealed to the one-time key. One of the few places that reveal a refresh token."""
    value = payload.model_dump(mode="json", exclude={"refresh_token"})
    if payload.v == 1 and not payload.is_sole:
        del value["is_sole"]  # companions of before do not know it
    value["refresh_token"] = payload.refresh_token.reveal()
    return encode_json(value)


def decode_grant(plaintext: bytes) -> GrantPayload:
    """Parse what :func:`encode_grant` made.

    Raises:
        PeerError: ``bad_grant``; the message names the field.
    """
    try:
        value = parse_object(plaintext)
    except PeerError:
        raise PeerError("bad_grant", "not one JSON object") from None
    kind = GrantPayload2 if value.get("v") == 2 else GrantPayload
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        raise PeerError("bad_grant", _place(exc)) from None


def _place(exc: ValidationError) -> str:
    """Name the first field that is wrong, such as ``handoffs.0.state``; no name that the peer made up."""
    (first, *_) = exc.errors(include_input=False, include_url=False, include_context=False)
    if first["type"] == "extra_forbidden":
        return "an unknown field"
    return ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())


def encode_base64url(data: bytes) -> str:
    """Spell bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """Read base64url without padding; the spelling must be the one that :func:`encode_base64url` gives.

    Raises:
        PeerError: ``bad_field``.
    """
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as exc:
        raise PeerError("bad_field", "sealed") from exc
    if encode_base64url(data) != text:
        raise PeerError("bad_field", "sealed")
    return data
