"""Each provider that the sandbox imitates does with refresh tokens what its row says, and our client's row agrees."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any, get_args

import pytest

from tests.sandbox.sandbox_client import PASSWORD_USER, SCOPE
from tests.sandbox.transfer_kit import CLIENT_ID, Browser, Desk, desk
from token_relay.cli.commands.options import profile_option
from token_relay.provider.profile import PROFILES, ProfileName
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, PolicyModel, WorldModel
from token_relay.sandbox.provider.world.provider_kinds import IMITATIONS

OTHERS = [name for name in IMITATIONS if name not in {"entra", "auth0"}]
DAY_S = 86_400


@dataclass
class Holder:
    """Somebody with a grant at an imitated provider."""

    one: Desk
    tokens: dict[str, Any]

    @property
    def refresh_token(self) -> str:
        return str(self.tokens["refresh_token"])

    def works(self, access_token: str) -> bool:
        reply = self.one.send("GET", "/sandbox/resource", headers={"authorization": f"Bearer {access_token}"})
        return reply.status == 200


def holder(name: str) -> Holder:
    one = desk(rules=IMITATIONS[name].rules)
    return Holder(one, sign_in(one))


def sign_in(one: Desk) -> dict[str, Any]:
    browser = Browser(one)
    code = browser.submit(browser.authorize(CLIENT_ID, scope=SCOPE), PASSWORD_USER).code
    return dict(browser.redeem(code, CLIENT_ID).json)


def test_the_names_are_the_same_everywhere() -> None:
    parser = ArgumentParser()
    profile_option(parser, "any")
    (*_, option) = parser._actions
    assert list(IMITATIONS) == list(PROFILES) == list(get_args(ProfileName)) == list(option.choices or ())
    assert all(profile.name == name for name, profile in PROFILES.items())


@pytest.mark.parametrize("name", OTHERS)
def test_our_clients_row_agrees_with_the_imitation(name: str) -> None:
    """What the client's row promises is true; where the row fears more than happens, it may."""
    profile, me = PROFILES[name], holder(name)
    first = me.refresh_token
    answer = me.one.refresh(first).json
    assert ("refresh_token" in answer and answer["refresh_token"] != first) is (
        profile.refresh_gives_new if profile.old_token_s is None else True
    )
    newest = answer.get("refresh_token", first)
    if profile.old_token_s is None:
        me.one.now += 400 * DAY_S if profile.idle_lifetime_s is None else profile.idle_lifetime_s / 2
        assert me.one.refresh(first).status == 200
        return
    if profile.old_token_s > 0:
        me.one.now += profile.old_token_s
        repeated = me.one.refresh(first)
        assert repeated.status == 200
        newest = repeated.json["refresh_token"]
        me.one.now += profile.old_token_s
    me.one.now += 1
    assert me.one.refresh(first).status == 400
    alive = me.one.refresh(newest).status == 200
    if profile.reuse_takes == "nothing":
        assert alive
    if alive:
        assert IMITATIONS[name].rules.reuse_takes == "nothing"
    if not profile.reuse_kills_access_tokens:
        assert me.works(answer["access_token"])


def test_okta_reuse_takes_all_access_tokens_since_the_sign_in() -> None:
    me = holder("okta")
    answer = me.one.refresh(me.refresh_token).json
    me.one.now += 31
    assert me.one.refresh(me.refresh_token).json["error"] == "invalid_grant"
    assert not me.works(answer["access_token"])
    assert not me.works(me.tokens["access_token"])


def test_keycloak_with_rotation_says_why_and_detaches_the_client_session() -> None:
    me = holder("keycloak-rotating")
    second = me.one.refresh(me.refresh_token).json["refresh_token"]
    exceeded = me.one.refresh(me.refresh_token)
    assert exceeded.json["error_description"] == "Maximum allowed refresh token reuse exceeded"
    assert me.one.refresh(second).json["error_description"] == "Session doesn't have required client"
    me = holder("keycloak-rotating")
    second = me.one.refresh(me.refresh_token).json["refresh_token"]
    assert me.one.refresh(second).status == 200
    assert me.one.refresh(me.refresh_token).json["error_description"] == "Stale token"


def test_keycloak_with_rotation_counts_uses_and_not_time() -> None:
    world = WorldModel(users=DEFAULT_WORLD.users, clients=DEFAULT_WORLD.clients, policy=PolicyModel(reuse_count_max=1))
    one = desk(world, rules=IMITATIONS["keycloak-rotating"].rules)
    me = Holder(one, sign_in(one))
    one.refresh(me.refresh_token)
    one.now += 20 * DAY_S
    second = one.refresh(me.refresh_token)
    assert second.status == 200
    assert one.refresh(second.json["refresh_token"]).status == 200


def test_oidc_provider_has_one_text_for_every_cause_and_ends_the_access_tokens() -> None:
    me = holder("oidc-provider")
    answer = me.one.refresh(me.refresh_token).json
    for token in (me.refresh_token, answer["refresh_token"], "unknown"):
        reply = me.one.refresh(token)
        assert (reply.status, reply.json["error_description"]) == (400, "grant request is invalid")
    assert not me.works(answer["access_token"])


def test_hydra_branches_within_the_grace_and_takes_only_the_access_token_of_the_used_one() -> None:
    me = holder("hydra")
    one = me.one.refresh(me.refresh_token).json
    assert not me.works(me.tokens["access_token"])
    two = me.one.refresh(me.refresh_token).json
    assert me.works(one["access_token"])
    assert me.works(two["access_token"])
    for branch in (one, two):
        assert me.one.refresh(branch["refresh_token"]).status == 200
    me.one.now += 31
    assert me.one.refresh(me.refresh_token).status == 400
    assert not me.works(two["access_token"])


def test_duende_repeats_one_token_for_good_and_one_time_only_refuses_without_killing() -> None:
    me = holder("duende")
    assert me.one.refresh(me.refresh_token).json["refresh_token"] == me.refresh_token
    me = holder("duende-one-time")
    second = me.one.refresh(me.refresh_token).json["refresh_token"]
    assert me.one.refresh(me.refresh_token).status == 400
    assert me.one.refresh(second).status == 200


def test_cognito_successors_keep_the_originals_remaining_life() -> None:
    me = holder("cognito")
    me.one.now += 29 * DAY_S
    second = me.one.refresh(me.refresh_token).json["refresh_token"]
    me.one.now += DAY_S
    assert me.one.refresh(second).status == 400


def test_google_gives_no_refresh_token_in_refreshes_drops_the_oldest_and_revokes_by_any_token() -> None:
    me = holder("google")
    answer = me.one.refresh(me.refresh_token).json
    assert "refresh_token" not in answer
    for _ in range(100):
        sign_in(me.one)
    assert me.one.refresh(me.refresh_token).json["error_description"] == "Token has been expired or revoked."
    last = sign_in(me.one)
    assert me.one.revoke(last["access_token"]).status == 200
    assert me.one.refresh(last["refresh_token"]).status == 400
    assert not me.works(last["access_token"])


def test_the_grace_of_a_branching_provider_counts_from_the_first_use() -> None:
    me = holder("hydra")
    token = me.refresh_token
    assert me.one.refresh(token).status == 200
    me.one.now += 30
    assert me.one.refresh(token).status == 200
    me.one.now += 1
    assert me.one.refresh(token).status == 400
