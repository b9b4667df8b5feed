"""Random walks over the native flows: no order of calls, and no parameter, gives a token without the proofs for it.

Two walkers. The guesser calls anything in any order with tokens from anywhere and never knows a password or reads a
mailbox. The forgetful one knows every secret but calls at random; what it is given must match what it has proven, which
a model that knows nothing of stages keeps account of.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.native_kit import CAPABILITIES, NEW_PASSWORD, TYPES, Answer, App, Journey
from token_relay.sandbox.control.api import control
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD

PATHS = [
    *(f"oauth2/v2.0/{step}" for step in ("initiate", "challenge", "introspect", "token")),
    *(f"register/v1.0/{step}" for step in ("introspect", "challenge", "continue")),
    *(f"signup/v1.0/{step}" for step in ("start", "challenge", "continue")),
    *(f"resetpassword/v1.0/{step}" for step in ("start", "challenge", "continue", "submit", "poll_completion")),
]
PEOPLE = [
    *("password@contoso.example", "otp@contoso.example", "mfa@contoso.example", "register@contoso.example"),
    *("preverified@contoso.example", "reset@contoso.example"),
]
GRANTS = ["password", "oob", "mfa_oob", "continuation_token", "attributes", "refresh_token", "authorization_code", ""]
TEXTS = st.one_of(st.text(max_size=30), st.sampled_from(["\x00", "a" * 17_000, "[]", "{}", '{"a":1}', "%00", "é"]))
FIELDS: dict[str, st.SearchStrategy[str]] = {
    "client_id": st.sampled_from([CLIENT_ID, CLIENT_ID, CLIENT_ID, "nobody", ""]),
    "username": st.one_of(st.sampled_from([*PEOPLE, "new@contoso.example"]), TEXTS),
    "challenge_type": st.sampled_from([TYPES, TYPES, "oob redirect", "redirect", "oob", "pigeon", ""]),
    "capabilities": st.sampled_from([CAPABILITIES, "mfa_required", ""]),
    "grant_type": st.sampled_from(GRANTS),
    "scope": st.sampled_from(["openid offline_access", "openid", '"', ""]),
    "password": TEXTS,
    "oob": st.one_of(st.just("00000000"), TEXTS),
    "new_password": st.one_of(st.just(NEW_PASSWORD), TEXTS),
    "challenge_target": st.one_of(st.just("evil@contoso.example"), st.just("+14255550999"), TEXTS),
    "challenge_channel": st.sampled_from(["email", "sms", "pigeon", ""]),
    "attributes": TEXTS,
    "claims": TEXTS,
    "id": TEXTS,
    "refresh_token": TEXTS,
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, str], int]:
    """A path, fields, and which of the tokens seen so far goes with it."""
    path = draw(st.sampled_from(PATHS))
    names = draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=8))
    fields = {name: draw(FIELDS[name]) for name in sorted(names)}
    if draw(st.booleans()):
        fields |= {"challenge_type": TYPES, "capabilities": CAPABILITIES}
    return path, fields, draw(st.integers(-1, 30))


@settings(max_examples=200, deadline=None)
@given(walk=st.lists(calls(), min_size=1, max_size=25))
def test_who_knows_no_secret_is_never_signed_in_and_breaks_nothing(
    walk: list[tuple[str, dict[str, str], int]],
) -> None:
    app = App()
    seen: list[str] = []
    for path, fields, number in walk:
        given_token = {"continuation_token": seen[number % len(seen)]} if seen and number >= 0 else {}
        clean = {name: value.encode("utf-8", "replace").decode() for name, value in fields.items()}
        answer = app.post(path, **clean, **given_token)
        assert answer.status in {200, 400}
        assert not answer.has_tokens
        if answer.token:
            seen.append(answer.token)
    assert not {"signed_in", "signed_up", "password_reset", "method_registered", "refresh_committed"} & set(app.kinds())


# Where a walker that remembers a little goes on; the other half of the time it goes anywhere.
OAUTH, REGISTER, SIGNUP, RESET = "oauth2/v2.0", "register/v1.0", "signup/v1.0", "resetpassword/v1.0"
NEXT = {
    f"{OAUTH}/initiate": [f"{OAUTH}/challenge"],
    f"{OAUTH}/challenge": [f"{OAUTH}/token"],
    f"{OAUTH}/token": [f"{OAUTH}/introspect", f"{REGISTER}/introspect"],
    f"{OAUTH}/introspect": [f"{OAUTH}/challenge"],
    f"{REGISTER}/introspect": [f"{REGISTER}/challenge"],
    f"{REGISTER}/challenge": [f"{REGISTER}/continue"],
    f"{REGISTER}/continue": [f"{OAUTH}/token"],
    f"{SIGNUP}/start": [f"{SIGNUP}/challenge"],
    f"{SIGNUP}/challenge": [f"{SIGNUP}/continue"],
    f"{SIGNUP}/continue": [f"{SIGNUP}/challenge", f"{OAUTH}/token"],
    f"{RESET}/start": [f"{RESET}/challenge"],
    f"{RESET}/challenge": [f"{RESET}/continue"],
    f"{RESET}/continue": [f"{RESET}/submit"],
    f"{RESET}/submit": [f"{RESET}/poll_completion"],
    f"{RESET}/poll_completion": [f"{OAUTH}/token"],
}


# -- the forgetful one -------------------------------------------------------------------------------------------------


@dataclass
class Proof:
    """What the model says a continuation token stands for. ``proven`` holds ``password`` and mailboxes' names."""

    username: str
    proven: frozenset[str] = frozenset()
    code: str = ""  # the code that was sent with this token, and to where
    mailbox: str = ""
    path: str = ""  # the call that gave it


@dataclass
class Walker:
    """Calls at random with the right secrets, and keeps account of what it has proven."""

    app: App
    rng: random.Random
    alive: dict[str, Proof] = field(default_factory=dict)
    spent: list[str] = field(default_factory=list)
    signed_in: int = 0

    def step(self) -> None:
        path = self.rng.choice(PATHS)
        token = self.rng.choice([*self.alive]) if self.alive else ""
        if path.endswith(("initiate", "start")):
            token = ""
        elif token and self.rng.random() < 0.7:
            token = self.rng.choice([*self.alive][-3:])
            path = self.rng.choice(NEXT[self.alive[token].path])
        if token and self.spent and self.rng.random() < 0.1:
            token = self.rng.choice(self.spent)
        proof = self.alive.get(token, Proof(""))
        fields = self._fields(path, token, proof)
        sent_before = self.app.kinds().count("code_sent")
        answer = self.app.post(path, **fields)
        assert answer.status in {200, 400}, answer.json
        if token in self.spent:
            assert answer.why[2] in {55200, 90100, 901001, 901007, 900144, 70003}, answer.json
            assert not answer.token and not answer.has_tokens
        if answer.has_tokens:
            self._check(proof, fields)
        was_sent = self.app.kinds().count("code_sent") > sent_before
        self._account(token, proof, path, fields, answer, was_sent=was_sent)

    def _fields(self, path: str, token: str, proof: Proof) -> dict[str, str]:
        rng = self.rng
        fields = {"continuation_token": token, "challenge_type": TYPES, "capabilities": CAPABILITIES}
        if path.endswith(("initiate", "start")):
            del fields["continuation_token"]
            newcomer = f"new{rng.randrange(4)}@contoso.example"
            fields["username"] = rng.choice([*PEOPLE, newcomer, newcomer]) if "signup" in path else rng.choice(PEOPLE)
            if "signup" in path and rng.random() < 0.5:
                fields["password"] = NEW_PASSWORD
            return fields
        if path == "oauth2/v2.0/token":
            fields["scope"] = "openid offline_access"
            fields["username"] = proof.username
        user = self.app.provider.state.users.get(proof.username)
        known = user.methods if user is not None else ()
        return fields | {
            "grant_type": rng.choice(["password", "oob", "mfa_oob", "continuation_token"]),
            "password": rng.choice([self._password(proof.username), "wrong-Horse-1"]),
            "new_password": f"Horse-Number-{rng.randrange(10**6)}",
            "oob": rng.choice([proof.code, proof.code, "00000000"]) or "0",
            "id": rng.choice([one.method_id for one in known]) if known and rng.random() < 0.8 else "",
            "challenge_target": rng.choice(["walker@contoso.example", proof.username or "x@contoso.example"]),
        }

    def _password(self, username: str) -> str:
        """The present password; a walker knows everything."""
        user = self.app.provider.state.users.get(username)
        for one in (PASSWORD, NEW_PASSWORD, *self.known):
            if user is not None and user.password is not None and user.password == type(user.password)(one):
                return one
        return NEW_PASSWORD

    known: list[str] = field(default_factory=list)

    def _check(self, proof: Proof, fields: dict[str, str]) -> None:
        """A sign-in happened: are the proofs for it there?"""
        self.signed_in += 1
        user = self.app.provider.state.users[proof.username]
        proven = set(proof.proven)
        match fields["grant_type"]:
            case "password":
                proven.add("password")
            case "oob" | "mfa_oob":
                assert fields["oob"] == proof.code
                proven.add(proof.mailbox)
            case _:
                pass
        if user.password is None:
            assert user.username in proven
            return
        assert "password" in proven
        if user.mfa != "none":
            # a second address, or the registration of one proven at sign-up
            assert proven & {one.target for one in user.methods} or user.email_proven

    def _account(
        self, token: str, proof: Proof, path: str, fields: dict[str, str], answer: Answer, *, was_sent: bool
    ) -> None:
        if answer.has_tokens or (answer.token and answer.token != token and token):
            self.alive.pop(token, None)
            self.spent.append(token)
        if not answer.token or answer.token == token:
            return
        proven = proof.proven
        if path.endswith(("initiate", "start")):
            proof = Proof(fields["username"])
            if fields.get("password"):
                proven = frozenset({"password"})  # of an account that does not exist yet
        grant = fields.get("grant_type")
        if path.endswith(("token", "continue")) and grant in {"oob", "mfa_oob"}:
            assert fields["oob"] == proof.code, "a step was made with a wrong code"
            proven = proven | {proof.mailbox}
        if path.endswith(("token", "continue")) and grant == "password":
            proven = proven | {"password"}
        if path.endswith("submit"):
            proven = proven | {"password"}
            self.known.append(fields["new_password"])
        code = mailbox = ""
        if was_sent:
            mailbox = self._mailbox(path, proof, fields)
            code = self._mail(mailbox)
        self.alive[answer.token] = Proof(proof.username, proven, code, mailbox, path)

    def _mailbox(self, path: str, proof: Proof, fields: dict[str, str]) -> str:
        if path.startswith("register"):
            return fields["challenge_target"]
        user = self.app.provider.state.users.get(proof.username)
        if path.startswith("oauth2") and user is not None and "password" in proof.proven:
            chosen = [one.target for one in user.methods if one.method_id == fields.get("id")]
            return chosen[0] if chosen else self._newest()
        return proof.username

    def _newest(self) -> str:
        return next(reversed(self.app.provider.state.mailboxes))

    def _mail(self, mailbox: str) -> str:
        answer = control(self.app.provider, Request("GET", f"/sandbox/mailbox/{mailbox}"), self.app.now).response
        return answer.body.decode() if answer.status == 200 else ""


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_tokens_come_only_for_what_was_proven_and_a_used_token_never_works_again(seed: int) -> None:
    walker = Walker(App(seed=seed), random.Random(seed))
    for _ in range(150):
        walker.step()


def test_the_walker_does_sign_in_so_that_the_walks_mean_something() -> None:
    found = set()
    total = 0
    for seed in range(25):
        walker = Walker(App(seed=seed), random.Random(seed))
        for _ in range(300):
            walker.step()
        total += walker.signed_in
        found |= set(walker.app.kinds())
    assert total > 50
    assert {"signed_in", "signed_up", "password_reset", "method_registered", "more_required"} <= found


def test_the_same_seed_and_clock_give_the_same_history() -> None:
    histories = []
    for _ in range(2):
        walker = Walker(App(seed=3), random.Random(3))
        for _ in range(200):
            walker.step()
        histories.append([event.as_json() for event in walker.app.provider.state.events])
    assert histories[0] == histories[1]


# -- version 2 ---------------------------------------------------------------------------------------------------------

STEPS = [
    *("sign_in/start", "sign_up/start", "reset_password/start", "1/challenge", "resend", "verify"),
    *("enroll", "activate", "submitAttributes", "update", "poll", "fly"),
]
JUNK: list[Any] = ["", "x", 7, None, True, [], ["a"], {}, {"password": NEW_PASSWORD}, "a" * 17_000, "\x00", "\ud800"]


def walk_version_2(seed: int) -> set[str]:
    """Send 120 steps without knowing a secret; return the kinds of what happened."""
    rng, client = random.Random(seed), Journey(App(seed=seed))
    known = [client.begin().token]
    for _ in range(120):
        fields = {
            "username": rng.choice(PEOPLE),
            "password": "wrong",
            "otp": "wrong",
            "email": "thief@contoso.example",
            "newPassword": NEW_PASSWORD,
            "attributes": {"password": NEW_PASSWORD},
        }
        sent = {name: rng.choice(JUNK) if rng.random() < 0.2 else value for name, value in fields.items()}
        step = rng.choice(STEPS)
        client.token = known[-1] if rng.random() < 0.7 else rng.choice(known)
        client.follow(f"/api/v2.0/{step}", "PUT" if step == "update" else "POST", **sent)
        assert client.last.status in {200, 400}
        assert client.last.json.get("state") != "continue"
        known.append(client.token if rng.random() < 0.9 else client.begin().token)
        answer = client.app.post("oauth2/v2.0/authorize-challenge", continuation_token=client.token)
        assert "code" not in answer.json
    return {*client.app.kinds()}


@pytest.mark.parametrize("seed", range(20))
def test_who_knows_no_secret_gets_no_code_of_version_2_and_breaks_nothing(seed: int) -> None:
    assert not {"signed_in", "signed_up", "password_reset", "method_registered"} & walk_version_2(seed)


def test_the_walks_of_version_2_get_somewhere() -> None:
    kinds = [walk_version_2(seed) for seed in range(20, 30)]
    assert all(sum(kind in one for one in kinds) >= 3 for kind in ("code_sent", "sign_in_denied"))
