"""Writes down what a measurement of a provider found, as the file that ``provider.profile_file`` names. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from token_relay.agents.probe.experiments import Measured


def profile_text(measured: Measured, *, issuer: str, at_s: float) -> str:
    """Return the file. Of the provider's name only the comment tells; nothing depends on it."""
    lines = [
        f"# What {issuer} does with refresh tokens, measured by `token-relay provider probe`.",
        "# `token-relay docs configuration` explains each setting. What is missing could not be measured.",
        f"measured_at = {datetime.fromtimestamp(int(at_s), UTC).isoformat()}",
        "",
        *(f"{name} = {json.dumps(value)}" for name, value in measured.values.items()),
        "",
        "# Seen beside that; only people read it.",
        f'narrower_scope = "{measured.narrower_scope}"',
    ]
    if measured.leeway_between_s:
        lines.append(f"leeway_between_s = {json.dumps(measured.leeway_between_s)}")
    lines += ["saw = [", *(f"  {json.dumps(sentence, ensure_ascii=False)}," for sentence in measured.saw), "]"]
    return "\n".join(lines) + "\n"
