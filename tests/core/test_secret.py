"""A secret shows itself nowhere, and each place that asks for its value is on a list with a reason.

Two halves. The first tries everything we know that prints values without being asked to. The second reads all of
``relay`` and ``device`` as syntax trees and compares the calls of ``reveal()`` with the list below: a new door needs a
line here, a closed one takes its line away.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import io
import json
import logging
import pickle
import pprint
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from token_relay.protocol.pairing import PairingSecret
from token_relay.protocol.secret import (
    SECRET_CHARS_MAX,
    AccessToken,
    ClientKey,
    ClientSecret,
    Code,
    IdToken,
    Password,
    PrivateKey,
    RefreshToken,
    Secret,
)
from token_relay.provider.http import AuthorizationHeader

ROOT = Path(__file__).parents[2]
MARK = "S3CRETMARK"
TEXT_TYPES = (RefreshToken, AccessToken, IdToken, Code, Password, ClientSecret, ClientKey, AuthorizationHeader)
SECRETS: list[Secret[str] | Secret[bytes]] = [
    *(kind(f"{MARK}-value") for kind in TEXT_TYPES),
    PrivateKey(f"{MARK}-key-of-32-bytes......".encode()[:32].ljust(32, b".")),
    PairingSecret(f"{MARK}-16bytes".encode()[:16]),
]


@dataclasses.dataclass(frozen=True)
class Holder:
    name: str
    secret: Secret[str] | Secret[bytes]


class Answer(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    refresh_token: RefreshToken
    expires_in: int


def in_a_traceback(secret: Secret[str] | Secret[bytes]) -> str:
    def fail(held: Secret[str] | Secret[bytes], holder: Holder) -> None:
        raise RuntimeError("planned")

    try:
        fail(secret, Holder("x", secret))
    except RuntimeError as exc:
        return "".join(traceback.TracebackException.from_exception(exc, capture_locals=True).format())
    raise AssertionError("unreachable")


def in_a_log(secret: Secret[str] | Secret[bytes]) -> str:
    stream = io.StringIO()
    logger = logging.Logger("secrets", logging.DEBUG)
    logger.addHandler(logging.StreamHandler(stream))
    logger.info("%s %r %s", secret, secret, {"nested": [secret]}, extra={"secret": secret})
    try:
        raise ValueError(secret)
    except ValueError:
        logger.exception("failed")
    return stream.getvalue()


def in_a_structured_log(secret: Secret[str] | Secret[bytes]) -> str:
    stream = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.StackInfoRenderer(),
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=True)),
            structlog.processors.JSONRenderer(default=repr),
        ],
    )
    try:
        held = Holder("x", secret)
        raise ValueError("planned", held)
    except ValueError:
        logger.error("failed", secret=secret, exc_info=True)
    return stream.getvalue()


class Dumped(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    secret: object


RENDERINGS: dict[str, Callable[[Secret[str] | Secret[bytes]], str]] = {
    "repr": repr,
    "str": str,
    "format": lambda secret: format(secret, ">20") + format(secret, ""),
    "f-string": lambda secret: f"{secret} {secret!s} {secret!r} {secret!a} {secret:^9}",
    "str.format": lambda secret: "{} {0.__class__}".replace("{}", "{0}").format(secret),
    "percent": lambda secret: "%s %r %a" % (secret, secret, secret),  # noqa: UP031  # the rendering under test
    "template": lambda secret: Template("$x").substitute(x=secret),
    "print": lambda secret: _printed(secret),
    "in containers": lambda secret: repr([secret, {"x": secret}, (secret,)]) + str({secret}),
    "pprint": lambda secret: pprint.pformat({"x": [Holder("x", secret)]}),
    "dataclass": lambda secret: repr(Holder("x", secret)),
    "asdict": lambda secret: (
        repr(dataclasses.asdict(Holder("x", secret))) + repr(dataclasses.astuple(Holder("", secret)))
    ),
    "copies": lambda secret: repr(copy.copy(secret)) + repr(copy.deepcopy([secret])),
    "json with default=str": lambda secret: json.dumps({"x": secret}, default=str) + json.dumps([secret], default=repr),
    "pydantic": lambda secret: repr(Dumped(secret=secret)) + str(Dumped(secret=secret).model_dump()),
    "exception": lambda secret: str(ValueError("wrong", secret)) + repr(KeyError(secret)),
    "traceback with locals": in_a_traceback,
    "logging": in_a_log,
    "structlog with locals": in_a_structured_log,
}


OPERATIONS: list[Callable[[Any], object]] = [
    len,
    iter,
    bytes,
    bytearray,
    int,
    json.dumps,
    lambda secret: secret + secret,
    lambda secret: secret[0],
    lambda secret: "".join([secret]),
    lambda secret: b"".join([secret]),
    lambda secret: secret < secret,
]


def _printed(secret: object) -> str:
    stream = io.StringIO()
    print(secret, [secret], file=stream)
    return stream.getvalue()


# -- Nothing prints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: type(secret).__name__)
@pytest.mark.parametrize("rendering", RENDERINGS)
def test_a_secret_is_shown_by_its_type_alone(rendering: str, secret: Secret[str] | Secret[bytes]) -> None:
    shown = RENDERINGS[rendering](secret)
    assert MARK not in shown
    assert MARK.encode().hex() not in shown
    assert f"<{type(secret).__name__}>" in shown


def test_the_renderings_would_show_a_plain_value() -> None:
    # Without this, a rendering that loses its argument would pass above.
    for name, rendering in RENDERINGS.items():
        assert MARK in rendering(f"{MARK}-plain"), name  # type: ignore[arg-type]  # a plain str on purpose


def test_pickle_does_not_carry_a_secret_away() -> None:
    for secret in SECRETS:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(secret, protocol)


def test_a_secret_offers_no_second_way_to_its_value() -> None:
    for secret in SECRETS:
        assert not hasattr(secret, "__dict__")
        for operation in OPERATIONS:
            with pytest.raises(TypeError):
                operation(secret)


def test_a_pydantic_model_neither_dumps_nor_reports_the_value() -> None:
    answer = Answer.model_validate_json(json.dumps({"refresh_token": f"{MARK}-1", "expires_in": 5}))
    assert answer.refresh_token.reveal() == f"{MARK}-1"
    shown = f"{answer!r} {answer} {answer.model_dump()} {answer.model_dump(mode='json')} {answer.model_dump_json()}"
    assert MARK not in shown
    assert answer.model_dump(mode="json")["refresh_token"] == "<RefreshToken>"
    assert json.loads(answer.model_dump_json()) == {"refresh_token": "<RefreshToken>", "expires_in": 5}


@pytest.mark.parametrize(
    "document",
    [
        {"refresh_token": f"{MARK}-1"},  # a field is missing: pydantic would show the whole input
        {"refresh_token": f"{MARK}-1", "expires_in": "soon"},
        {"refresh_token": [f"{MARK}-1"], "expires_in": 5},
        {"refresh_token": MARK * SECRET_CHARS_MAX, "expires_in": 5},
        {"refresh_token": "", "expires_in": MARK},
        {"refresh_token": 5, "expires_in": 5},
    ],
)
def test_a_validation_error_does_not_show_what_came(document: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as from_python:
        Answer.model_validate(document)
    with pytest.raises(ValidationError) as from_json:
        Answer.model_validate_json(json.dumps(document))
    assert MARK not in f"{from_python.value} {from_python.value!r} {from_json.value} {from_json.value!r}"


def test_a_model_takes_a_secret_of_its_own_type_only() -> None:
    token = RefreshToken("x")
    assert Answer(refresh_token=token, expires_in=5).refresh_token is token
    with pytest.raises(ValidationError):
        TypeAdapter(RefreshToken).validate_python(AccessToken("x"))
    with pytest.raises(ValidationError):
        TypeAdapter(RefreshToken).validate_python(b"x")


# -- What a secret is --------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_secrets_compare_by_value_within_one_type(one: str, other: str) -> None:
    assert RefreshToken(one) == RefreshToken(one)
    assert (RefreshToken(one) == RefreshToken(other)) is (one == other)
    assert RefreshToken(one) != AccessToken(one)
    assert RefreshToken(one) != one


def test_the_hash_says_nothing_about_the_value() -> None:
    assert hash(RefreshToken("one")) == hash(RefreshToken("other"))
    assert len({RefreshToken("one"), RefreshToken("one"), RefreshToken("other")}) == 2


def test_comparison_takes_the_same_steps_wherever_the_values_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    # The promise is that of hmac.compare_digest; what is ours is to use it, on the octets, for every comparison.
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare_digest)
    assert RefreshToken("ünd") != RefreshToken("ond")
    assert PrivateKey(bytes(32)) == PrivateKey(bytes(32))
    assert compared == [("ünd".encode(), b"ond"), (bytes(32), bytes(32))]


def test_a_secret_cannot_be_changed() -> None:
    token = RefreshToken("one")
    with pytest.raises(AttributeError, match="immutable"):
        token._value = "two"
    with pytest.raises(AttributeError, match="immutable"):
        token.note = "two"
    assert token.reveal() == "one"


@pytest.mark.parametrize("kind", TEXT_TYPES)
def test_a_secret_is_neither_empty_nor_endless(kind: type[Secret[str]]) -> None:
    assert kind("x" * SECRET_CHARS_MAX).reveal() == "x" * SECRET_CHARS_MAX
    for value in ("", f"{MARK}{'x' * SECRET_CHARS_MAX}"):
        with pytest.raises(ValueError, match=str(SECRET_CHARS_MAX)) as caught:
            kind(value)
        assert MARK not in str(caught.value)
    with pytest.raises(TypeError):
        kind(5)  # type: ignore[arg-type]  # refused on purpose


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_private_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PrivateKey(bytes(length))


# -- Who reveals -------------------------------------------------------------------------------------------

# module: {function: (number of calls, reason)}
DOORS: dict[str, dict[str, tuple[int, str]]] = {
    # cryptography: the value goes into a primitive and nowhere else
    "relay/token_relay/protocol/secret.py": {
        "Secret.__eq__": (2, "constant-time comparison"),
        "Secret.is_in": (1, "whether a text from outside repeats it"),
    },
    "relay/token_relay/protocol/identity.py": {"KeyPair.from_random": (1, "public key of a new private key")},
    "relay/token_relay/protocol/envelope.py": {
        "PeerBox.seal": (1, "shared key into crypto_box"),
        "PeerBox._unseal": (1, "shared key into crypto_box"),
        "seal_once": (1, "shared key into crypto_box_seal"),
        "open_once": (1, "one-time private key into crypto_box_seal_open"),
        "shared_key": (1, "private key into crypto_box_beforenm"),
    },
    "relay/token_relay/protocol/pairing.py": {
        "Invitation.octets": (1, "the QR code carries the one-time secret; the transcript begins with it"),
        "_seal": (1, "shared key into crypto_box"),
        "_open": (1, "shared key into crypto_box"),
        "_keyed": (1, "one-time secret as BLAKE2b's key"),
    },
    "device/token_relay/vault/sealing.py": {"_octets": (1, "a cell of the vault is sealed")},
    "device/token_relay/vault/keys.py": {"_normalised": (1, "passphrase into Argon2id")},
    # the grant on its way to the companion
    "relay/token_relay/protocol/messages.py": {
        "encode_grant": (1, "refresh token into the bytes that are sealed to the one-time key")
    },
    # requests to a provider or a broker
    "device/token_relay/host/http.py": {
        "_encode_form": (1, "form of a request to the provider, at the last moment"),
        "_exchange": (1, "its header Authorization, at the last moment"),
    },
    "relay/token_relay/provider/client_authentication.py": {
        "authenticate": (1, "the client's secret into the header Authorization, RFC 6749 §2.3.1"),
        "_signer": (1, "the client's key is read, to sign an assertion"),
    },
    "relay/token_relay/provider/userinfo.py": {
        "fetch_userinfo": (1, "access token into the header Authorization, to its own provider")
    },
    "relay/token_relay/provider/id_token.py": {"_verify": (1, "the signature over an id_token is checked")},
    "relay/token_relay/mqtt/connection.py": {"Connection.__init__": (1, "the broker's password into CONNECT")},
    # what a person or a program has asked for
    "device/token_relay/apps/session_transfer.py": {
        "transferred": (1, "session transfer token to a local program that policy allows")
    },
    "device/token_relay/apps/replies.py": {"granted": (1, "access token to a local program that policy allows")},
    "device/token_relay/cli/prompts.py": {
        "Prompts.answer": (4, "what the person typed goes to the agent over its own socket")
    },
    # the sandbox: its people and codes are made up, and showing them is its purpose
    "relay/token_relay/sandbox/main.py": {
        "announcement": (3, "the sandbox's made-up users, as text and as JSON, and clients")
    },
    "relay/token_relay/sandbox/provider/management/clients.py": {
        "_create": (1, "a new client's secret, to whoever may create clients"),
        "_shown": (1, "a client's secret, to whoever may read client keys"),
    },
    "relay/token_relay/sandbox/control/api.py": {"_mailbox": (1, "the sandbox's own one-time code, as its e-mail")},
    # ... and its lab, which signs them in; what it keeps goes back to the sandbox alone
    "relay/token_relay/sandbox/lab/browser_flows.py": {
        "BrowserPages._exchange": (1, "code_verifier to the sandbox, with the code that it sent")
    },
    "relay/token_relay/sandbox/lab/native_calls.py": {
        "send": (3, "continuation token, refresh token and a made-up person's password, to the sandbox"),
        "mail": (1, "the sandbox's own one-time code, as its e-mail"),
    },
    "relay/token_relay/sandbox/lab/kept_tokens.py": {
        "_text": (1, "access token or id_token, to be read as words; as text to who asks for that")
    },
    # tools beside production: the provider they talk to is the sandbox
    "device/token_relay/cli/demo/sandbox.py": {
        "Sandbox.show_to_resource": (1, "access token to the demo's resource server"),
    },
    "device/token_relay/simulation/ports/http.py": {"as_request": (1, "form of a request to the simulated provider")},
    "device/token_relay/simulation/promises/ledger.py": {
        "read_link": (1, "what the simulated provider has written into a token")
    },
    "device/token_relay/simulation/world/signing_in.py": {
        "SimulatedPerson.ask": (1, "the sandbox's own one-time code, typed by its made-up person"),
        "subject_of": (1, "an unsigned id_token of the fast tier is read"),
    },
}


def reveals(source: str, path: str) -> Iterator[tuple[str, str, int]]:
    """Return every mention of ``reveal`` or of the slot behind it, as (path, qualified name of the function, line)."""
    tree = ast.parse(source)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}  # a method ``_value`` is no slot

    def walk(node: ast.AST, scope: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = (*scope, child.name)
            is_door = isinstance(child, ast.Attribute) and child.attr == "reveal"
            is_slot = isinstance(child, ast.Attribute) and child.attr == "_value" and id(child) not in called
            is_text = isinstance(child, ast.Constant) and child.value in ("reveal", "_value")
            if is_door or is_slot or is_text:
                yield path, ".".join(scope), getattr(child, "lineno", 0)
            yield from walk(child, inner)

    yield from walk(tree, ())


def doors_of(sources: dict[str, str]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for path, source in sources.items():
        for _, function, _ in reveals(source, path):
            found.setdefault(path, Counter())[function] += 1
    return {path: dict(counted) for path, counted in found.items()}


def test_each_call_of_reveal_is_on_the_list() -> None:
    files = sorted(file for package in ("relay", "device") for file in (ROOT / package).rglob("*.py"))
    sources = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}
    found = doors_of(sources)
    own = found["relay/token_relay/protocol/secret.py"]  # the slot behind reveal() is named in its own class alone
    assert own.pop("Secret") == own.pop("Secret.__init__") == own.pop("Secret.reveal") == 1
    listed = {path: {name: count for name, (count, _) in functions.items()} for path, functions in DOORS.items()}
    if found != listed:
        calls = [call for path, text in sources.items() for call in reveals(text, path)]
        lines = [f"{path}:{line}: reveal() in {name}" for path, name, line in calls]
        raise AssertionError("the calls of reveal() differ from DOORS:\n" + "\n".join(lines))


def test_a_planted_call_of_reveal_is_found() -> None:
    planted = "class A:\n    def f(self, t):\n        return [t.reveal() for t in t]\n\n\ng = getattr(t, 'reveal')\n"
    assert doors_of({"x.py": planted}) == {"x.py": {"A.f": 1, "": 1}}
    assert doors_of({"x.py": "def f(t):\n    return map(str, t._value)\n"}) == {"x.py": {"f": 1}}
    assert doors_of({"x.py": "def f(t):\n    return RefreshToken.reveal\n"}) == {"x.py": {"f": 1}}
