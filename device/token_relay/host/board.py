"""Reads which board this is, so that the agent notices a copied SD card: two copies of a rotating family of refresh
tokens end each other.

It reads the serial number in the device tree (a Raspberry Pi has one), else the DMI identity of a PC, which only root
may read, else the credential ``board-id`` from the service manager; and the machine-id, which is copied with a card.
Values are hashed before they are kept, as machine-id(5) asks; nothing needs the plain values.

Limit: this is no defence against a person who copies a card on purpose, because they can copy these values too. The
same board with an older image of its card looks the same; the other end notices that at the next contact.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

DEVICE_TREE = Path("sys/firmware/devicetree/base/serial-number")
DMI = tuple(Path("sys/class/dmi/id") / name for name in ("product_uuid", "board_serial", "product_serial"))
MACHINE_ID = Path("etc/machine-id")
CREDENTIAL = "board-id"
VALUE_BYTES_MAX = 256
# What manufacturers leave in a field that they did not fill.
_EMPTY = re.compile(
    r"|[0-]+|[fF-]+|0x0+|none|n/?a|default string|unknown|not (specified|available|applicable)|to be filled .*|"
    r"system serial number|uninitialized|03000200-0400-0500-0006-000700080009",
    re.IGNORECASE,
)


def read_board(environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """Return the hashed names of this board and this installation, by the place of each; may be empty."""
    found: dict[str, str] = {}
    for name, path in _places(environment, root):
        if name in found:
            continue
        value = _read(path)
        if not _EMPTY.fullmatch(value):
            found[name] = hashlib.blake2b(value.encode(), digest_size=16, person=b"rtr1-board").hexdigest()
    return found


def _places(environment: Mapping[str, str], root: Path) -> Iterator[tuple[str, Path]]:
    yield "device-tree", root / DEVICE_TREE
    for path in DMI:
        yield "dmi", root / path
    if (credentials := environment.get("CREDENTIALS_DIRECTORY", "")).startswith("/"):
        yield "credential", Path(credentials) / CREDENTIAL
    yield "machine-id", root / MACHINE_ID


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(VALUE_BYTES_MAX)
    except OSError:
        return ""
    return raw.decode("utf-8", "replace").strip("\0 \n\t")
