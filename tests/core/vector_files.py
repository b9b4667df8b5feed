"""Reads the vector files for the tests, edits applied."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
ENVELOPE_FILES = ("framing", "box", "json", "fields", "context")

Case = Mapping[str, Any]  # read from JSON that a test has compared with the script's output


@functools.cache
def load(name: str) -> dict[str, Any]:
    """Return one vector file."""
    content: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="ascii"))
    assert content["format"] == 1
    return content


@functools.cache
def cases(name: str) -> list[Case]:
    """Return the cases of one file."""
    found: list[Case] = load(name)["cases"]
    return found


@functools.cache
def device(name: str) -> tuple[bytes, bytes]:
    """Return a device's private and public key."""
    found = load("devices")["devices"][name]
    return bytes.fromhex(found["private_key"]), bytes.fromhex(found["public_key"])


def edited(base: bytes, edits: list[Case]) -> bytes:
    """Apply the edits of a case."""
    octets = bytearray(base)
    for edit in edits:
        at, change = edit.get("at", 0), bytes.fromhex(edit.get("hex", ""))
        match edit["op"]:
            case "xor":
                octets[at : at + len(change)] = bytes(
                    a ^ b for a, b in zip(octets[at : at + len(change)], change, strict=True)
                )
            case "set":
                octets[at : at + len(change)] = change
            case "cut":
                del octets[edit["keep"] :]
            case "append":
                octets += change
            case unknown:
                raise AssertionError(unknown)
    return bytes(octets)


def envelope(case: Case) -> bytes | None:
    """Return the bytes of an envelope case; None when it is a plaintext alone."""
    if "envelope" in case:
        return base64.b64decode(case["envelope"])
    if "base" in case:
        base = next(found for found in cases("envelopes-valid") if found["name"] == case["base"])
        return edited(base64.b64decode(base["envelope"]), case["edit"])
    return None


def plaintext(case: Case) -> bytes:
    """Return the plaintext of a case."""
    if "plaintext_hex" in case:
        return bytes.fromhex(case["plaintext_hex"])
    return str(case["plaintext"]).encode()


def pair_wire(case: Case, *, base: str) -> bytes:
    """Return the bytes of a PAIR1 or PAIR2 case; edits are of the first transcript's."""
    if "wire" in case:
        return base64.b64decode(case["wire"])
    return edited(base64.b64decode(load("pairing")["transcripts"][0][base]), case["edit"])


def names(found: list[Case]) -> list[str]:
    """Return the ids of parametrised cases."""
    return [case["name"] for case in found]
