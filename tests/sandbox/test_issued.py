"""A token says itself what it stands for: nothing that a refresh leaves behind grows, and no token is forgotten."""

from __future__ import annotations

import base64
import json
from collections.abc import Sized
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest

from tests.sandbox.native_kit import PASSWORD_USER, App, claims_of
from tests.sandbox.sandbox_client import SCOPE
from tests.sandbox.transfer_kit import CLIENT_ID, Browser, Desk, desk
from token_relay.sandbox.provider.memory.signing import RsaSigner, SharedKeySigner
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.tokens.issued import find_access, find_refresh
from token_relay.sandbox.provider.world.provider_kinds import IMITATIONS

OTHERS = [name for name in IMITATIONS if name != "entra"]
ROUNDS = 60


def sizes(state: State) -> dict[str, int]:
    """How much each table holds, but for the two that are a window over what happened last."""
    found = {one.name: getattr(state, one.name) for one in fields(State) if one.name not in {"events", "logs"}}
    tables = {name: len(value) for name, value in found.items() if isinstance(value, Sized)}
    return {**tables, "rows": sum(len(family.rows) for family in state.families.values())}


def signed_in(name: str, **other: Any) -> tuple[Desk, dict[str, Any]]:
    """A person with a grant at one of the other providers, or at one with other rules than its own."""
    one = desk(rules=replace(IMITATIONS[name].rules, **other))
    browser = Browser(one)
    code = browser.submit(browser.authorize(CLIENT_ID, scope=SCOPE), PASSWORD_USER).code
    return one, dict(browser.redeem(code, CLIENT_ID).json)


def works(one: Desk | App, access_token: str) -> bool:
    return one.send("GET", "/sandbox/resource", headers={"authorization": f"Bearer {access_token}"}).status == 200


@pytest.fixture
def app() -> App:
    return App()


# -- memory --------------------------------------------------------------------------------------------------------


def test_refreshes_of_many_chains_leave_nothing_behind_that_grows(app: App) -> None:
    held = [str(app.by_password(PASSWORD_USER).json["refresh_token"])] * 20

    def refresh_all() -> dict[str, int]:
        for index, value in enumerate(held):
            held[index] = app.refresh(value).json["refresh_token"]
        return sizes(app.provider.state)

    first = refresh_all()
    assert [refresh_all() for _ in range(10)] == [first] * 10


def test_a_token_that_is_used_again_and_again_leaves_nothing_behind_that_grows(app: App) -> None:
    first = app.by_password(PASSWORD_USER).json["refresh_token"]
    seen = [(app.refresh(first).status, sizes(app.provider.state)) for _ in range(ROUNDS)]
    assert seen[5:] == [seen[5]] * (ROUNDS - 5)


@pytest.mark.parametrize("name", OTHERS)
def test_a_chain_leaves_nothing_behind_that_grows_at_any_provider(name: str) -> None:
    one, tokens = signed_in(name)
    held, seen = tokens["refresh_token"], []
    for _ in range(ROUNDS):
        one.now += 40  # beyond every leeway
        held = one.refresh(held).json.get("refresh_token", held)
        seen.append(sizes(one.provider.state))
    assert seen[5:] == [seen[5]] * (ROUNDS - 5)
    assert seen[-1]["refresh_tokens"] <= 3


def test_the_windows_over_what_happened_last_have_an_end() -> None:
    state = App().provider.state
    assert state.events.maxlen is not None and state.logs.maxlen is not None


def test_what_happened_later_is_found_by_number(app: App) -> None:
    app.by_password(PASSWORD_USER)
    state = app.provider.state
    everything = list(state.events)
    assert [event.event_id for event in everything] == list(range(1, len(everything) + 1))
    for after in range(-1, len(everything) + 2):
        assert list(state.events_after(after)) == [event for event in everything if event.event_id > after]


# -- refresh tokens without a row ----------------------------------------------------------------------------------


def test_the_oldest_refresh_token_works_after_any_number_of_refreshes(app: App) -> None:
    first = held = app.by_password(PASSWORD_USER).json["refresh_token"]
    for _ in range(ROUNDS):
        held = app.refresh(held).json["refresh_token"]
    assert app.refresh(first).has_tokens


def test_a_refresh_token_without_a_row_keeps_its_own_end(app: App) -> None:
    first = held = app.by_password(PASSWORD_USER).json["refresh_token"]
    for _ in range(3):
        app.now += 40 * 86_400
        held = app.refresh(held).json["refresh_token"]
    assert app.refresh(first).why == ("invalid_grant", "", 700082)  # 90 days after it was issued
    assert app.refresh(held).has_tokens


@pytest.mark.parametrize("name", ["auth0", "strict", "okta", "keycloak-rotating", "hydra"])
def test_reuse_of_the_oldest_refresh_token_is_still_noticed(name: str) -> None:
    one, tokens = signed_in(name)
    first = held = tokens["refresh_token"]
    for _ in range(ROUNDS):
        one.now += 40
        held = one.refresh(held).json["refresh_token"]
    assert one.refresh(first).status in {400, 403}
    assert "reuse_detected" in [event.kind for event in one.provider.state.events]
    assert one.refresh(held).status in {400, 403}


def test_branches_within_the_grace_all_live_on() -> None:
    one, tokens = signed_in("hydra")
    branches = [one.refresh(tokens["refresh_token"]).json for _ in range(10)]
    one.now += 3_000
    assert all(works(one, branch["access_token"]) for branch in branches)
    assert not works(one, tokens["access_token"])  # its refresh token was used
    later = [one.refresh(branch["refresh_token"]).json for branch in branches]
    assert not any(works(one, branch["access_token"]) for branch in branches)
    assert all(works(one, branch["access_token"]) for branch in later)


def test_uses_are_counted_while_there_are_some_left() -> None:
    one, tokens = signed_in("keycloak-rotating", reuse_count_max=3)
    assert [one.refresh(tokens["refresh_token"]).status for _ in range(5)] == [200] * 4 + [400]


# -- what is none of ours ------------------------------------------------------------------------------------------


def test_a_refresh_token_with_any_character_changed_is_unknown(app: App) -> None:
    value = str(app.by_password(PASSWORD_USER).json["refresh_token"])
    for index, character in enumerate(value):
        changed = value[:index] + ("1" if character != "1" else "0") + value[index + 1 :]
        assert find_refresh(app.provider.state, changed) is None, changed
    head, _, tail = value.rpartition(".")
    for other in (f"{head}.{tail.upper()}", f"{value} ", f"{head}. {tail}", value[:-2], value + "00", head, "rt", ""):
        assert app.refresh(other or "x").why == ("invalid_grant", "", 70000), other
    assert app.refresh(value).has_tokens


def test_a_refresh_token_of_another_sandbox_is_unknown() -> None:
    ours, theirs = App(seed=1), App(seed=2)
    value = theirs.by_password(PASSWORD_USER).json["refresh_token"]
    ours.by_password(PASSWORD_USER)
    assert ours.refresh(value).why == ("invalid_grant", "", 70000)


def test_refresh_tokens_all_differ(app: App) -> None:
    first = str(app.by_password(PASSWORD_USER).json["refresh_token"])
    values = [first, *(str(app.refresh(first).json["refresh_token"]) for _ in range(ROUNDS))]
    assert len(set(values)) == len(values)
    assert all(earlier[:-32] != later[:-32] for earlier, later in pairwise(values))


def test_an_access_token_with_other_claims_is_unknown(app: App) -> None:
    value = str(app.by_password(PASSWORD_USER).json["access_token"])
    head, body, tail = value.split(".")
    longer = json.dumps({**claims_of(value), "exp": claims_of(value)["exp"] + 1}).encode()
    changed = base64.urlsafe_b64encode(longer).decode().rstrip("=")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    for other in (f"{head}.{changed}.{tail}", f"{none}.{body}.", f"{none}.{changed}.", f"{head}.{body}", value[:-4]):
        assert not works(app, other), other
    assert works(app, value)


ODD_NAMES: tuple[object, ...] = (None, 5, {}, "other", "x" * 9_000)
ODD_HEADERS: list[object] = [
    *({}, [], None, 5, "x", {"alg": ["HS256"]}, {"alg": "RSA-OAEP", "enc": "A128GCM"}, {"alg": "RS256", "kid": "k"}),
    *({"alg": "HS256", "kid": kid} for kid in ODD_NAMES),
    {"alg": "HS256", "kid": "simulation", "crit": ["exp"], "exp": 1},
    {"alg": "HS256", "kid": "simulation", "crit": ["b64"], "b64": False},
]


@pytest.mark.parametrize("header", ODD_HEADERS, ids=lambda header: str(header)[:60])
def test_a_token_with_an_odd_header_is_unknown_and_no_fault(app: App, header: object) -> None:
    value = str(app.by_password(PASSWORD_USER).json["access_token"])
    spelled = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    _, body, tail = value.split(".")
    for other in (f"{spelled}.{body}.{tail}", f"{spelled}.{body}.", f"{spelled}..", f"{spelled}.{body}.{tail}.."):
        assert find_access(app.provider.state, other) is None
        assert not works(app, other)


def test_an_id_token_is_no_access_token_and_the_other_way_round(app: App) -> None:
    tokens = app.by_password(PASSWORD_USER).json
    assert not works(app, tokens["id_token"])
    state = app.provider.state
    assert find_access(state, tokens["id_token"], "id") is not None
    assert find_access(state, tokens["access_token"], "id") is None


@pytest.mark.parametrize("signer", [RsaSigner(), SharedKeySigner(b"s" * 32)], ids=["RS256", "HS256"])
def test_an_access_token_is_good_while_its_key_is_published(signer: RsaSigner | SharedKeySigner) -> None:
    app = App()
    app.provider.state.signer = signer
    value = app.by_password(PASSWORD_USER).json["access_token"]
    app.order("keys")
    assert works(app, value) and works(app, app.by_password(PASSWORD_USER).json["access_token"])
    app.order("keys", keep_old=False)
    assert not works(app, value) and works(app, app.by_password(PASSWORD_USER).json["access_token"])


def test_a_revoked_access_token_is_the_only_one_that_ends() -> None:
    one, tokens = signed_in("strict")
    other = one.refresh(tokens["refresh_token"]).json
    form = {"client_id": CLIENT_ID, "token": tokens["access_token"]}
    assert one.send("POST", "/oauth/revoke", form=form).status == 200
    assert not works(one, tokens["access_token"]) and works(one, other["access_token"])
