"""Which provider a profile is guessed for: only those whose rules are known, everybody else counts as strict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from token_relay.provider.profile import AUTH0, ENTRA, PROFILES, STRICT, Profile, profile_for, profile_that


@pytest.mark.parametrize(
    ("issuer", "profile"),
    [
        ("https://contoso.ciamlogin.com/contoso.example/v2.0", ENTRA),
        ("https://CONTOSO.ciamlogin.com/", ENTRA),
        ("https://tenant.eu.auth0.com/", AUTH0),
        ("https://login.example/", STRICT),
        ("https://ciamlogin.com/", STRICT),
        ("https://ciamlogin.com.example/", STRICT),
        ("https://notciamlogin.com/", STRICT),
        ("https://example/?x=.auth0.com", STRICT),
        ("https://example/.auth0.com", STRICT),
        ("", STRICT),
    ],
)
def test_an_issuer_that_nobody_described_counts_as_strict(issuer: str, profile: Profile) -> None:
    assert profile_for(issuer) is profile


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_only_a_provider_that_gives_a_second_token_beside_the_first_is_branched(profile: Profile) -> None:
    assert ("branch" in profile.strategies) == (profile.old_token_s is None and profile.refresh_gives_new)


def test_the_strictest_rules_are_those_of_the_unknown() -> None:
    assert (STRICT.old_token_s, STRICT.reuse_takes, STRICT.reuse_kills_access_tokens) == (0.0, "unknown", True)
    assert STRICT.revocation_takes == "unknown"
    assert "mint" in STRICT.strategies


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_where_a_token_stays_valid_its_reuse_takes_nothing(profile: Profile) -> None:
    assert profile.old_token_s is not None or profile.reuse_takes == "nothing"


def test_a_provider_is_told_of_a_superseded_token_only_where_no_other_grant_can_end_with_it() -> None:
    told = {name for name, profile in PROFILES.items() if profile.revocation_takes in ("nothing", "family")}
    assert told == {"auth0", "hydra", "cognito"}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_what_a_companion_decides_by_comes_through_a_grant_unchanged(profile: Profile) -> None:
    brought = profile_that(profile.name, profile.behaviour.model_dump_json())
    assert brought == replace(profile, sign_in=brought.sign_in, strategies=brought.strategies)
