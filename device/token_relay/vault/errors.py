"""What can be wrong with a vault, split by what a person does next.

A plain :class:`.protocol.errors.VaultError` is about the surroundings (mode, owner, disk, second process): correct them
and start again. The two below are about the vault itself.
"""

from __future__ import annotations

from token_relay.protocol.errors import VaultError

PAIR_AGAIN = "set the vault aside and pair this device again"


class CorruptVaultError(VaultError):
    """The file is damaged or was tampered with: set it aside, then pair again. No program resets it silently."""

    def __init__(self, message: str, *, hint: str = PAIR_AGAIN) -> None:
        super().__init__(message, hint=hint)


class WrongVaultKeyError(VaultError):
    """The file is whole, but this key or passphrase does not open it: find the right one."""
