"""The one thing that a person must do, as ``status`` and ``devices`` say it: a slug and a sentence. Pure.

Each slug is explained in ``docs/troubleshooting.md``. In a sentence ``{name}`` is a device as people say it, and
``{device}`` the same as an argument of a command, quoted where a shell needs that.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

ACTIONS: Mapping[str, str] = {
    "pair": "pair the two devices: token-relay companion pair here, token-relay phone pair there",
    "sign_in": "sign in: token-relay phone sign-in --username U, or --browser",
    "pair_again": "{name} or this device lost their pairing; pair again: token-relay companion pair, "
    "token-relay phone pair",
    "hand_off": "on the phone: token-relay phone handoff {device}",
    "finish_replacement": "go on with what was begun: token-relay phone replace {device}",
    "finish_handoff": "the handoff to {name} waits for the person to sign in: token-relay phone handoff {device}",
    "hand_off_again": "the grant of {name} needs the person; on the phone: token-relay phone handoff {device}",
    "bring_device_online": "bring {name} online; what waits for it goes on by itself then",
    "bring_phone_online": "bring the phone online: the lease is over",
    "lease_ends_soon": "bring the phone online before the lease ends",
    "device_lease_ends": "bring {name} online: its lease ends unless it hears this phone",
    "grant_ends_soon": "hand over anew before the grant of {name} ends: token-relay phone handoff {device}",
    "restored_backup": "the disk of {name} was restored from an older image; on the phone: "
    "token-relay phone handoff {device}",
    "restored_phone": "{name} says that this disk is an older image, so its tokens are locked; sign in again: "
    "token-relay phone sign-in",
    "copied": "this vault was copied from another device: token-relay AGENT adopt here, or pair anew",
    "choose_primary": "say whose grants apps get: token-relay companion primary {device}",
    "allow_host": "a grant is not used: its endpoint is on {host}; if that is right, set provider.hosts and reload",
    "client_refused": "the provider refuses this client: look at the app registration; it is asked again by itself",
    "check_disk": "the vault cannot be written: see the log, and what doctor says of the disk",
    "check_broker": "the broker cannot be reached; see why: token-relay {device} doctor",
}


def action(slug: str, name: str = "", *, host: str = "") -> dict[str, Any]:
    """Return an action as ``status`` shows it; ``name``: of the device that it is about."""
    device = shlex.quote(name) if name else "DEVICE"
    return {"slug": slug, "sentence": ACTIONS[slug].format(name=name or "DEVICE", device=device, host=host)}
