"""One target per decoder: bytes from outside go in, and either a value or a declared error comes out.

``third_end`` is another kind: there a whole agent takes a hostile peer's messages (:mod:`.third_end`).

A target raises nothing for any input. What it catches is what the decoder's docstring declares; everything else that
comes out of it is a bug. Where a decoder's result can be spelled again, the spelling is checked too.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from tests.fuzz.third_end import third_end
from token_relay.apps import server as token_api
from token_relay.apps.policy import parse_policy
from token_relay.host import config, config_file
from token_relay.protocol.envelope import NONCE_BYTES, PeerBox, open_once, pad, parse_header, seal_once, unpad
from token_relay.protocol.errors import ConfigError, PeerError
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import (
    GrantPayload,
    Message,
    decode,
    decode_base64url,
    decode_grant,
    encode,
    encode_base64url,
    encode_grant,
)
from token_relay.protocol.pairing import (
    DECLINED_MAGIC,
    ENDED_MAGIC,
    ENDING_BYTES,
    Invitation,
    Pair1Fields,
    Pair2Fields,
    PairingSecret,
    _checksum,
    open_declined,
    open_ended,
    open_pair1,
    open_pair2,
    seal_pair1,
    seal_pair2,
    sender_key,
)
from token_relay.protocol.secret import SECRET_CHARS_MAX, Code, IdToken, Password
from token_relay.protocol.topics import MailboxTopic, PeerTopic, mailbox_topic, parse_topic, peer_topic
from token_relay.protocol.wire_json import encode_json
from token_relay.provider import id_token, oauth
from token_relay.provider.discovery import discovery_urls, read_metadata
from token_relay.provider.http import HttpRequest, HttpResponse
from token_relay.provider.native_auth import states
from token_relay.provider.native_auth.service import Service
from token_relay.provider.native_auth.sign_in import SignInFlow
from token_relay.provider.profile import PROFILES
from token_relay.provider.tokens import ProviderError
from token_relay.sandbox.control.api import control as sandbox_control
from token_relay.sandbox.mqtt.filters import is_filter, is_topic
from token_relay.sandbox.mqtt.packets import Decoder, PacketError
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.memory.signing import SharedKeySigner
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, parse_world
from token_relay.sandbox.provider.world.rules import Urls
from token_relay.service import control

PACKET_BYTES_MAX = 65_536
PHONE, COMPANION, FRESH, OTHER = (KeyPair.from_random(bytes([number]) * 32) for number in range(1, 5))
INVITATION = Invitation(COMPANION.public_key, PairingSecret(bytes(16)), "mqtts://broker.example:8883")
PAIR1 = seal_pair1(
    INVITATION,
    fresh=FRESH,
    nonce=bytes(NONCE_BYTES),
    fields=Pair1Fields(type="PAIR1", v=1, static_key=PHONE.public_key.hex(), name="phone", nonce="00" * 16),
)


def envelope(data: bytes) -> None:
    """The bytes as they are, padded to a right length, and as plaintext sealed by the peer itself."""
    ours, theirs = PeerBox(COMPANION, PHONE.public_key), PeerBox(PHONE, COMPANION.public_key)
    lengths = (len(data), 4172, 16460)
    for length in lengths:
        wire = data.ljust(length, b"\0")[:length]
        for read in (parse_header, ours.open):
            _only(PeerError, read, wire)
    _only(PeerError, unpad, data)
    if len(data) < 16384:
        assert ours.open(theirs.seal(data, bytes(NONCE_BYTES))) == data
        assert unpad(pad(data)) == data


def message(data: bytes) -> None:
    """A message's plaintext; what is accepted is spelled again and read as the same."""
    found = _only(PeerError, decode, data)
    if isinstance(found, Message):
        assert decode(encode(found.head, found.body)) == found


def grant(data: bytes) -> None:
    """What the sealed TOKEN holds, and the sealed bytes themselves."""
    found = _only(PeerError, decode_grant, data)
    if isinstance(found, GrantPayload):
        assert decode_grant(encode_grant(found)) == found
    _only(PeerError, open_once, data, FRESH)
    _only(PeerError, seal_once, b"grant", data[:32].ljust(32, b"\0"), FRESH)
    text = data.decode("latin-1")
    raw = _only(PeerError, decode_base64url, text)
    if isinstance(raw, bytes):
        assert encode_base64url(raw) == text


def invitation(data: bytes) -> None:
    """The text of a QR code; also any octets with the prefix and a right checksum in front of them and behind."""
    for text in (data.decode("utf-8", "replace"), _spelled(data)):
        found = _only(PeerError, Invitation.from_text, text)
        if isinstance(found, Invitation):
            assert Invitation.from_text(found.text()) == found


def pairing(data: bytes) -> None:
    """PAIR1 and PAIR2: raw, and with the bytes as what the other end sealed into them; ENDED and DECLINED."""
    for magic in (b"", ENDED_MAGIC, DECLINED_MAGIC):
        for wire in (magic + data, (magic + data).ljust(ENDING_BYTES, b"\0")[:ENDING_BYTES]):
            assert _only(PeerError, open_ended, INVITATION, PAIR1, wire) is None, "without the secret"
            assert _only(PeerError, open_declined, INVITATION, bytes(32), wire) is None, "without the secret"
    for wire in (data, data.ljust(len(PAIR1), b"\0")[: len(PAIR1)]):
        _only(PeerError, sender_key, wire)
        _only(PeerError, open_pair1, INVITATION, wire, static=COMPANION)
        _only(PeerError, open_pair2, INVITATION, PAIR1, wire, fresh=FRESH)
        _only(PeerError, seal_pair2, INVITATION, wire, fresh=OTHER, nonce=bytes(24), fields=_PAIR2)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict) and len(data) < 4000:
        fields = _Forged(value)
        wire = seal_pair1(INVITATION, fresh=FRESH, nonce=bytes(24), fields=fields)  # type: ignore[arg-type]
        _only(PeerError, open_pair1, INVITATION, wire, static=COMPANION)
        wire = seal_pair2(INVITATION, PAIR1, fresh=OTHER, nonce=bytes(24), fields=fields)  # type: ignore[arg-type]
        _only(PeerError, open_pair2, INVITATION, PAIR1, wire, fresh=FRESH)


def topic(data: bytes) -> None:
    """A topic that a broker delivered; also the embedded broker's own checks of topics and filters."""
    text = data.decode("utf-8", "replace")
    is_topic(text), is_filter(text)
    match parse_topic(text):
        case PeerTopic(recipient, sender):
            assert peer_topic(recipient=recipient, sender=sender) == text
        case MailboxTopic(mailbox_id):
            assert mailbox_topic(mailbox_id) == text
        case None:
            pass


def token_answer(data: bytes) -> None:
    """A token endpoint's answer: the first byte picks the status, a first line without brace is a Retry-After."""
    status = (200, 400, 401, 403, 429, 500, 502, 503, 302, 201, 204)[data[0] % 11] if data else 200
    header, _, body = data[1:].partition(b"\n") if b"{" not in data[1:].partition(b"\n")[0] else (b"", b"", data[1:])
    headers = {"retry-after": header.decode("latin-1")} if header else {}
    for profile in PROFILES.values():
        repr(oauth.classify(profile, HttpResponse(status, headers, body)))


def discovery(data: bytes) -> None:
    """A discovery document, and an issuer as a person types it."""
    for url in ("http://127.0.0.1:8400/x", "https://contoso.example/x"):
        asyncio.run(read_metadata(_Answers(200, data), url))
    discovery_urls("https://contoso.example/" + data[:64].hex())


def jwks(data: bytes) -> None:
    """A set of keys, and an id_token that names one of them."""
    id_token.parse_jwks(data)


def id_tokens(data: bytes) -> None:
    """A compact JWT against one published key; ``header.claims`` alone gets a signature of zeros."""
    text = data.decode("latin-1")
    for spelled in (text, text + "." + "A" * 86, _jwt(data)):
        if not 0 < len(spelled) <= SECRET_CHARS_MAX:
            continue
        token = IdToken(spelled)
        _only(
            ProviderError, id_token.check_id_token, token, _keys(), issuer="https://contoso.example/",
            client_id="client", nonce="nonce", now_wall_s=1_800_000_000.0,
        )  # fmt: skip


def native(data: bytes) -> None:
    """Answers of Entra's native authentication, in whatever order: lines, each with a status byte before its JSON."""
    answers = [(200 if line[0] % 2 else 400, line[1:]) for line in data.split(b"\n") if line]
    asyncio.run(_native(answers or [(200, b"")]))


def mqtt(data: bytes) -> None:
    """Packets to the embedded broker, whole and byte by byte: both ways the same."""
    whole = _packets([data])
    assert whole == _packets([data[at : at + 1] for at in range(len(data))])
    for level in (
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a",
        b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a",
    ):
        _packets([level + data])


def config_toml(data: bytes) -> None:
    """A configuration of either agent."""
    text = data.decode("utf-8", "replace")
    for model in (config.PhoneConfig, config.CompanionConfig):
        found = config_file.check_config(model, text, Path("/nowhere"))
        if isinstance(found, tuple):
            assert found and all(problem.in_file("file") for problem in found)


def policy_toml(data: bytes) -> None:
    """The token policy."""
    _only(ConfigError, parse_policy, data.decode("utf-8", "replace"), file="policy.toml", owner_uid=1000)


def world_toml(data: bytes) -> None:
    """The sandbox's world."""
    _only(ConfigError, parse_world, data.decode("utf-8", "replace"), file="world.toml")


def control_line(data: bytes) -> None:
    """One line on an agent's control socket, read as a request and as an answer."""
    try:
        value = control._parse_object(data)
    except control._BadLineError:
        return
    for model in (control._Request, control._AnswerLine):
        try:
            model.model_validate(value)
        except ValidationError as exc:
            assert control._complaint(exc)


def token_query(data: bytes) -> None:
    """The query of the local token API; the parser answers with values only."""
    token_api.parse_query(data.decode("latin-1"))


def sandbox_request(data: bytes) -> None:
    """An HTTP request to the sandbox's provider, or to its control interface: ``METHOD target``, headers, body."""
    request = _request(data)
    for profile in ("entra", "auth0", "strict"):
        provider = _provider(profile)
        admission = provider.admit(request, 1_800_000_000.0)
        answer = provider.commit(request, admission, 1_800_000_000.0)
        provider.answered(admission, answer, 1_800_000_000.0)
        assert 200 <= answer.response.status < 600
    said = sandbox_control(_provider("entra"), request, 1_800_000_000.0)
    assert said is not None


TARGETS: dict[str, Callable[[bytes], None]] = {
    "envelope": envelope,
    "message": message,
    "grant": grant,
    "invitation": invitation,
    "pairing": pairing,
    "topic": topic,
    "token_answer": token_answer,
    "discovery": discovery,
    "jwks": jwks,
    "id_token": id_tokens,
    "native_auth": native,
    "mqtt_packets": mqtt,
    "config_toml": config_toml,
    "policy_toml": policy_toml,
    "world_toml": world_toml,
    "control_line": control_line,
    "token_query": token_query,
    "sandbox_request": sandbox_request,
    "third_end": third_end,
}


# -- helpers -----------------------------------------------------------------------------------------------


def _only(declared: type[Exception], call: Callable[..., object], *args: object, **more: object) -> object:
    """Call it; the declared error becomes None, any other goes on its way."""
    try:
        return call(*args, **more)
    except declared as exc:
        if isinstance(exc, PeerError):
            assert exc.reason.isascii() and exc.reason.replace("_", "").isalnum()
        return None


def _spelled(data: bytes) -> str:
    """A right checksum is the one thing that a mutated invitation never has."""
    return "RTR1:" + base64.b32encode(data[:140] + _checksum(data[:140])).decode().rstrip("=")


_PAIR2 = Pair2Fields(
    type="PAIR2", v=1, static_key=COMPANION.public_key.hex(), name="watch", nonce="11" * 16, pairing_id="22" * 16
)


@dataclass
class _Forged:
    """Fields that no honest end would send, in the place of a model."""

    value: dict[str, object]

    def model_dump(self, *, mode: str) -> dict[str, object]:
        try:
            encode_json(self.value)
        except (ValueError, RecursionError):  # a lone surrogate: not to be put into UTF-8; or nested too deeply
            return {}
        return self.value


class _Answers:
    """An Http port that gives prepared answers, the last one for ever."""

    def __init__(self, status: int, body: bytes) -> None:
        self.answers = [(status, body)]

    async def request(self, request: HttpRequest) -> HttpResponse:
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return HttpResponse(status, {}, body)


async def _native(answers: list[tuple[int, bytes]]) -> None:
    http = _Answers(*answers[0])
    http.answers = list(answers)
    service = Service(http, PROFILES["entra"], "https://contoso.example/t", "client")
    sign_in = SignInFlow(service, "ann@contoso.example")
    step = await sign_in.start()
    for _ in range(4):
        match step:
            case states.PasswordRequired():
                step = await sign_in.submit_password(step, Password("secret"))
            case states.CodeRequired():
                step = await sign_in.submit_code(step, Code("123456"))
            case states.Failed(again=states.PasswordRequired() | states.CodeRequired() as again):
                step = again
            case _:
                break
    repr(step)


@cache
def _keys() -> id_token.Jwks | id_token.NoKeys:
    return id_token.parse_jwks(_JWKS)


_JWKS = json.dumps(
    {
        "keys": [
            {
                "kty": "EC", "crv": "P-256", "kid": "one",  # RFC 7515 appendix A.3
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            }
        ]
    }
).encode()  # fmt: skip


def _jwt(data: bytes) -> str:
    header, _, claims = data.partition(b"\n")
    return ".".join(encode_base64url(part) for part in (header, claims, bytes(64)))


def _packets(chunks: list[bytes]) -> tuple[list[object], str]:
    decoder = Decoder(PACKET_BYTES_MAX)
    found: list[object] = []
    try:
        for chunk in chunks:
            found.extend(decoder.feed(chunk))
            assert decoder.buffered_bytes <= PACKET_BYTES_MAX + len(chunk)
    except PacketError as exc:
        return found, exc.reason
    return found, ""


def _provider(profile: str) -> Provider:
    urls = Urls(profile, "http://127.0.0.1:8400", "contoso")  # type: ignore[arg-type]  # a literal by value
    return Provider(DEFAULT_WORLD, urls, random.Random(7), SharedKeySigner(bytes(32)), now=1_800_000_000.0)


def _request(data: bytes) -> Request:
    head, _, body = data.partition(b"\n\n")
    lines = head.decode("latin-1").split("\n")
    method, _, target = lines[0].partition(" ")
    pairs = (line.partition(":") for line in itertools.islice(lines[1:], 16))
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs if name.strip()}
    return Request(method or "GET", target or "/", body, headers)
