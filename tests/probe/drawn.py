"""Draws behaviours of providers, and says what a measurement must find of each. The rules here are by hand."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from token_relay.sandbox.provider.world.model import BehaviourModel

TRIES_S = (0, 1, 5, 30, 310)
LEEWAYS_S = (0.0, 0.5, 2.0, 4.0, 12.0, 29.0, 60.0, 300.0)
LIVES_S = (3600.0, 7 * 86_400.0)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A behaviour, as the sandbox takes it."""

    behaviour: BehaviourModel
    policy: dict[str, Any]

    @property
    def found(self) -> dict[str, Any]:
        """What the file must say; what cannot be seen is not in it."""
        said = self.behaviour
        found: dict[str, Any] = {"refresh_gives_new": said.refresh in ("spends", "keeps")}
        if said.refresh == "spends":
            lower = max(tried for tried in TRIES_S if tried <= self.policy["leeway_s"])
            found |= {"invalidates_on_use": True, "leeway_s": min(lower, 300), "reuse_takes": said.reuse_takes}
            found["leeway_between_s"] = [lower, min(tried for tried in TRIES_S if tried > self.policy["leeway_s"])]
            ends = said.reuse_takes != "nothing" and said.reuse_kills_access_tokens
            found["reuse_kills_access_tokens"] = ends
        else:
            found |= {"invalidates_on_use": False, "leeway_s": 0}
            found |= {"reuse_takes": "nothing", "reuse_kills_access_tokens": False}
        found["can_revoke_token"] = said.revocation == "works"
        if said.revocation == "works":
            found["revocation_takes"] = said.revocation_takes
        for name in ("idle", "absolute"):
            if said.tells_life and f"refresh_{name}_lifetime_s" in self.policy:
                found[f"{name}_lifetime_s"] = int(self.policy[f"refresh_{name}_lifetime_s"])
        return found | {"narrower_scope": "given" if said.narrows else "refused"}


def draw(seed: int) -> Drawn:
    """Draw one; the first values of a seed make sure that each kind of refresh and each reach comes."""
    rng = Random(seed)
    reach = ("nothing", "family", "session", "user")
    kind = ("spends", "spends", "spends", "keeps", "spends", "repeats", "spends", "hides")[seed % 8]
    behaviour = BehaviourModel.model_validate(
        {
            "refresh": kind,
            "branches": kind == "spends" and rng.random() < 0.3,
            "reuse_takes": reach[seed // 2 % 4] if kind == "spends" else rng.choice(reach),
            "reuse_kills_access_tokens": rng.random() < 0.5,
            "revocation": ("works", "ignored", "works", "refused", "works", "absent", "works")[seed % 7],
            "revocation_takes": reach[1 + seed % 3],
            "narrows": rng.random() < 0.7,
            "tells_life": rng.random() < 0.6,
        }
    )
    life = rng.choice(("refresh_idle_lifetime_s", "refresh_absolute_lifetime_s"))
    return Drawn(behaviour, {"leeway_s": rng.choice(LEEWAYS_S), life: rng.choice(LIVES_S)})
