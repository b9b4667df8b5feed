"""What a request in flight is made of, what follows a failure, and who hears of the grant's change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from device.elapsed import Stamp
from device.grants.transfer import Exchange
from device.records import Grant
from device.turn import Turn
from relay.secret import RefreshToken


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that may leave: its intent is on disk."""

    grant_id: str
    grant: Grant
    refresh_token: RefreshToken
    scope: str
    sent: Stamp
    claims: str = ""
    exchange: Exchange | None = None


@dataclass(slots=True)
class Pause:
    """After failures: not before ``until_boot_s``, and why."""

    failures: int
    until_boot_s: float
    reason: str


class GrantWatcher(Protocol):
    """The agent's part of a grant's change; runs inside the transaction."""

    reauth_action: str

    def on_grant_changed(self, turn: Turn, before: Grant, after: Grant) -> None:
        """A refresh was settled, or the lease ended: ``after`` is already written."""
        ...
