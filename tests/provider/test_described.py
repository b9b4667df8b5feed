"""A profile that a person described: what is beneath, what follows, and what a companion is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from token_relay.agents.phone.steps import _name_for_version_1
from token_relay.agents.records import Grant, PhoneHandoff
from token_relay.host.provider_behaviour import BehaviourSettings, ProfileFile
from token_relay.protocol.behaviour import Behaviour
from token_relay.provider.profile import PROFILES, STRICT, Profile, described, profile_that
from token_relay.service.devices import handoff_row


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_described_by_its_own_behaviour_is_the_same(profile: Profile) -> None:
    assert described(profile, profile.behaviour) == profile
    assert profile_that(profile.name, profile.behaviour.model_dump_json()).strategies == profile.strategies


def test_each_part_of_a_behaviour_is_a_setting_with_its_bounds() -> None:
    settings = {name: field for name, field in BehaviourSettings.model_fields.items()}
    assert list(settings) != [] and set(settings) == set(Behaviour.model_fields)
    assert all(field.default is None and field.description for field in settings.values())
    for name, value in (("leeway_s", 301), ("leeway_s", -1), ("idle_lifetime_s", 2**53), ("final_codes", [-1])):
        for kind in (BehaviourSettings, ProfileFile):
            with pytest.raises(ValidationError):
                kind.model_validate({name: value})


@pytest.mark.parametrize(
    ("base", "said", "expected"),
    [
        ("strict", {"leeway_s": 4}, {"old_token_s": 4.0, "strategies": ("mint", "move")}),
        (
            "strict",
            {"invalidates_on_use": False},
            {"old_token_s": None, "reuse_takes": "nothing", "strategies": ("branch", "mint", "move")},
        ),
        (
            "strict",
            {"invalidates_on_use": False, "refresh_gives_new": False},
            {"old_token_s": None, "strategies": ("mint", "move")},
        ),
        ("hydra", {"leeway_s": 0}, {"old_token_s": 0.0, "reuse_takes": "family"}),
        ("keycloak", {"invalidates_on_use": True}, {"old_token_s": 0.0, "strategies": ("mint", "move")}),
        ("entra", {"revocation_takes": "unknown"}, {"sign_in": "native", "revocation_takes": "unknown"}),
        ("google", {}, {"old_token_s": None, "name": "google"}),
    ],
)
def test_what_is_said_stands_over_what_is_beneath(
    base: str, said: dict[str, object], expected: dict[str, object]
) -> None:
    found = BehaviourSettings.model_validate(said).over(PROFILES[base])
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.name == base


def test_a_leeway_where_nothing_is_invalidated_fits_nothing() -> None:
    with pytest.raises(ValueError, match="leeway_s needs invalidates_on_use"):
        BehaviourSettings(leeway_s=4).over(PROFILES["keycloak"])


DONE = PhoneHandoff(
    handoff_id="", pairing_id="", grant_id="", state="done", reason="", strategy="mint", scope="", lease_days=0,
    created="", created_at=0, expires_at=0, done_at=1_000, signed_in_at=1_000, profile="strict",
)  # fmt: skip


@pytest.mark.parametrize(
    ("described_as", "ends_at"),
    [
        (None, None),  # by its name: strict, which knows no lives
        (replace(STRICT, idle_lifetime_s=3_600.0), 2_000 + 3_600),
        (replace(STRICT, absolute_lifetime_s=3_600.0), 1_000 + 3_600),
        (replace(PROFILES["hydra"], idle_lifetime_s=3_600.0), None),  # of another profile than the handoff was made by
    ],
)
def test_the_phone_counts_a_companions_grant_by_what_is_described(
    described_as: Profile | None, ends_at: int | None
) -> None:
    assert handoff_row(DONE, 2_000, described_as)["grant_ends_at"] == ends_at


def grant(profile: Profile, name: str) -> Grant:
    return Grant(
        grant_id="", pairing_id="", handoff_id="", issuer="", client_id="", token_endpoint="", revocation_endpoint="",
        scope="", audience="", subject="", account="", profile=name, signed_in_at=0, is_otp=False, stored_at=0,
        refresh_token=None, behaviour=profile.behaviour.model_dump_json(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "profile", "told"),
    [
        ("hydra", PROFILES["hydra"], "hydra"),
        ("hydra", replace(PROFILES["hydra"], takes_resource=True), "hydra"),
        ("hydra", replace(PROFILES["hydra"], old_token_s=4.0), "strict"),  # 30 s would be too much
        ("strict", replace(STRICT, old_token_s=30.0), "strict"),
        ("keycloak", replace(STRICT, name="keycloak"), "strict"),
        ("entra", replace(PROFILES["entra"], idle_lifetime_s=60.0), "entra"),  # its name says how to speak with it
    ],
)
def test_a_companion_that_goes_by_names_is_never_told_a_milder_one(name: str, profile: Profile, told: str) -> None:
    assert _name_for_version_1(grant(profile, name)) == told
