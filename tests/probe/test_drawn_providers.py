"""`provider probe` at twenty providers of drawn behaviour, in virtual time, and at two as processes."""

from __future__ import annotations

import tomllib
from collections import Counter
from typing import Any

import pytest

from tests.probe.drawn import Drawn, draw
from tests.probe.probe_kit import BASE, Bench, bench, measure
from token_relay.host.profile_text import profile_text
from token_relay.host.provider_behaviour import ProfileFile
from token_relay.protocol.behaviour import Behaviour
from token_relay.protocol.secret import Secret
from token_relay.provider.profile import STRICT

SEEDS = range(20)


def file_of(at: Bench) -> str:
    return profile_text(measure(at), issuer="https://elsewhere.example", at_s=at.clock.now().wall_s)


def settings_in(text: str) -> dict[str, Any]:
    found = tomllib.loads(text)
    del found["measured_at"], found["saw"]
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawn_behaviour_is_written_back_exactly(seed: int) -> None:
    drawn = draw(seed)
    at = bench(drawn.behaviour, drawn.policy)
    text = file_of(at)
    assert settings_in(text) == drawn.found, f"seed {seed}: {drawn}"
    used = ProfileFile.model_validate(tomllib.loads(text)).over(STRICT)
    named = {name: value for name, value in drawn.found.items() if name in Behaviour.model_fields}
    assert {name: getattr(used.behaviour, name) for name in named} == named
    assert ("branch" in used.strategies) is (drawn.behaviour.refresh == "keeps")


@pytest.mark.parametrize("seed", SEEDS)
def test_neither_the_issuer_nor_a_vendors_name_decides(seed: int) -> None:
    drawn = draw(seed)
    texts = [
        file_of(bench(drawn.behaviour, drawn.policy, base=base))
        for base in (
            BASE,
            "https://tenant.eu.auth0.com",
            "https://contoso.ciamlogin.example",
            "https://accounts.google.com",
        )
    ]
    assert len(set(texts)) == 1


def test_the_twenty_are_of_every_kind() -> None:
    drawn = [draw(seed) for seed in SEEDS]
    kinds = Counter(one.behaviour.refresh for one in drawn)
    reaches = {one.behaviour.reuse_takes for one in drawn if one.behaviour.refresh == "spends"}
    revoked = {one.behaviour.revocation_takes for one in drawn if one.behaviour.revocation == "works"}
    assert set(kinds) == {"spends", "keeps", "repeats", "hides"}
    assert reaches == {"nothing", "family", "session", "user"}
    assert revoked == {"family", "session", "user"}
    assert {one.behaviour.revocation for one in drawn} == {"works", "ignored", "refused", "absent"}
    assert len({str(one.found) for one in drawn}) == len(drawn)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_not_revoked_is_listed_and_nothing_else_lives(seed: int) -> None:
    drawn = draw(seed)
    at = bench(drawn.behaviour, drawn.policy)
    measure(at)
    families = list(at.provider.state.families.values())
    alive = {number for number, family in enumerate(families, 1) if not family.is_dead}
    listed = {int(line.split("sign-in ")[1].split(" ")[0]) for line in at.probe.left if "lives on" in line}
    assert listed == alive
    assert (alive == set()) or drawn.behaviour.revocation != "works"
    assert at.probe.left[-1].startswith("access tokens")


def test_no_token_is_told() -> None:
    at = bench(Drawn(draw(0).behaviour, {}).behaviour, {"leeway_s": 12.0})
    told = f"{measure(at)} {at.person.said} {at.person.questions} {at.probe.left}"
    sent = [value for one in at.http.requests for name, value in one.form or () if isinstance(value, Secret)]
    assert len(sent) > 10
    assert not any(secret.is_in(told) for secret in sent)
