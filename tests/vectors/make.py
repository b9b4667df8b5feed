"""Writes the test vectors: ``python tests/vectors/make.py [DIRECTORY]`` (default: beside this script).

The same bytes each time: nothing is random and nothing is read. See README.md for the format.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.vectors.content_cases import context_faults, field_faults, json_faults
from tests.vectors.envelope_cases import box_and_padding, framing, valid
from tests.vectors.exchange_cases import (
    delivery,
    devices,
    grants,
    hashes,
    invitations,
    keys,
    sealed_grant,
)
from tests.vectors.pairing_cases import pairings
from tests.vectors.vault_cases import vault
from tests.vectors.vector_kit import Json, b64url

FORMAT = 1


def files() -> dict[str, dict[str, Json]]:
    """Return the content of every vector file by its name."""
    return {
        "devices.json": devices(),
        "hashes.json": {"cases": list(hashes())},
        "keys.json": {"cases": list(keys())},
        "envelopes-valid.json": {"cases": list(valid(b64url(sealed_grant())))},
        "envelopes-framing.json": {"cases": list(framing())},
        "envelopes-box.json": {"cases": list(box_and_padding())},
        "envelopes-json.json": {"cases": list(json_faults())},
        "envelopes-fields.json": {"cases": list(field_faults())},
        "envelopes-context.json": {"cases": list(context_faults())},
        "grants.json": grants(),
        "invitations.json": {"cases": list(invitations())},
        "pairing.json": pairings(),
        "delivery.json": delivery(),
        "vault.json": vault(),
    }


def main(directory: Path) -> None:
    """Write them all."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        text = json.dumps({"format": FORMAT, **content}, indent=1, ensure_ascii=True)
        (directory / name).write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
