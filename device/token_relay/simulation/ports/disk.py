"""A device's disk: a vault whose commits are counted and watched and, on command, refused or cut off by a power cut.

:class:`Disk` has the faults; :class:`SimulatedVault` is the port while the power is on. A :class:`Store` keeps the
rows: :class:`token_relay.simulation.ports.memory_vault.MemoryVault`, or
:class:`token_relay.simulation.ports.real_disk.RealStore` with the production vault.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

from token_relay.agents.ports import Transaction
from token_relay.protocol.errors import VaultError
from token_relay.simulation.announcer import Announcer
from token_relay.simulation.observer import Tables
from token_relay.simulation.ports.power import Power
from token_relay.vault.errors import CorruptVaultError

T = TypeVar("T")

IMAGES_KEPT = 16  # commits that a lost fsync can take back

Moment = Literal["before", "after"]


class Store(Protocol):
    """Keeps the rows of one device, also without power."""

    @property
    def tables(self) -> Tables:
        """What is durable now."""
        ...

    def transact(self, step: Callable[[Transaction], T], refuse: Callable[[], None]) -> T:
        """Run a step. If it changes something, ``refuse`` is called before that is kept, and may raise."""
        ...

    def image(self) -> Any:
        """Return what is durable, to be put back later."""
        ...

    def restore(self, image: Any) -> None:
        """Put an image back."""
        ...

    def read(self, step: Callable[[Transaction], T]) -> T:
        """Run a step that changes nothing, even if the store is not open."""
        ...

    def open(self) -> None:
        """Open it as a start does. Raises CorruptVaultError."""
        ...

    def abandon(self) -> None:
        """Drop what is open, as it is, when the power is gone."""
        ...

    def tear(self) -> None:
        """Damage what is durable, if the store can be damaged."""
        ...

    def close(self) -> None:
        """Give it up for good."""
        ...


class Disk:
    """One device's disk with its faults."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.commits = 0
        """The number of steps that changed something, since the world began."""
        self.is_full = False
        """Refuses every step that writes."""
        self.is_torn = False
        """The next start finds the vault damaged (:class:`~token_relay.vault.errors.CorruptVaultError`)."""
        self._failing = 0
        self._crash: tuple[int, Moment] | None = None
        self._lose = 0
        self._images: deque[Any] = deque(maxlen=IMAGES_KEPT)

    def fail_next(self, count: int = 1) -> None:
        """Refuse the next ``count`` commits."""
        self._failing = count

    def crash_at(self, commit: int = 1, moment: Moment = "before") -> None:
        """Cut the power before or after the ``commit``-th commit from now."""
        self._crash = (self.commits + commit, moment)

    def lose_at_crash(self, commits: int) -> None:
        """Lose the last ``commits`` commits at the next power cut, as if they had never reached the disk."""
        self._lose = commits

    def tear(self) -> None:
        """Damage the file: the vault does not open any more."""
        self.is_torn = True
        self.store.tear()

    def calm(self) -> None:
        """Take all faults back, except damage that is done."""
        self.is_full, self._failing, self._crash, self._lose = False, 0, None, 0

    # -- what the vault and the device ask ---------------------------------------------------------------

    def open(self) -> None:
        """Open the vault. Raises CorruptVaultError when it is damaged."""
        self.store.open()
        if self.is_torn:
            raise CorruptVaultError("the vault is damaged", hint="set the vault aside and pair this device again")

    def before_commit(self) -> Moment | None:
        """Count a commit that is about to happen; return on which side of it the power goes, if it goes."""
        if self.is_full:
            raise VaultError("no room to write the vault", hint="make room on the disk; nothing is lost")
        if self._failing:
            self._failing -= 1
            raise VaultError("cannot use the vault: disk I/O error")
        self.commits += 1
        if self._crash is not None and self.commits >= self._crash[0]:
            moment = self._crash[1]
            self._crash = None
            if moment == "before":
                self.commits -= 1
            return moment
        return None

    def keep_image(self) -> None:
        """Remember the durable state, since a lost fsync could bring it back."""
        if self._lose:
            self._images.append(self.store.image())

    def power_off(self, *, crashed: bool) -> bool:
        """Lose what was never flushed, if the power is cut; return whether anything was lost."""
        self.store.abandon()
        if not crashed:
            return False
        lost, self._lose = self._lose, 0
        images = list(self._images)
        self._images.clear()
        self._crash = None
        if not lost or not images:
            return False
        self.store.restore(images[max(len(images) - lost, 0)])  # each image was taken before its commit
        return True


class _PowerGoesError(Exception):
    """The power goes before this commit."""


class SimulatedVault:
    """The :class:`token_relay.agents.ports.Vault` of one device while its power is on."""

    def __init__(self, name: str, disk: Disk, power: Power, announcer: Announcer) -> None:
        self._name = name
        self._disk = disk
        self._power = power
        self._announcer = announcer
        self.failure: VaultError | None = None
        """Raised by every step while it is set."""

    async def run(self, step: Callable[[Transaction], T]) -> T:
        """Run ``step``; see :class:`token_relay.agents.ports.Vault`. Commits, then lets other tasks run once.

        So a caller that is cancelled here finds its step kept, as with the real vault. When the power goes, the caller
        is cancelled with everything else and does not learn the result.
        """
        power, disk = self._power, self._disk
        power.check()
        if self.failure is not None:
            raise self.failure
        before = disk.store.tables
        moment: Moment | None = None

        def refuse() -> None:
            nonlocal moment
            moment = disk.before_commit()
            if moment == "before":
                raise _PowerGoesError
            disk.keep_image()

        try:
            result = disk.store.transact(step, refuse)
        except _PowerGoesError:
            power.cut()
            raise asyncio.CancelledError from None
        except BaseException:
            await asyncio.sleep(0)
            raise
        after = disk.store.tables
        if after is not before:
            self._announcer.committed(self._name, before, after)
        if moment == "after":
            power.cut()
            raise asyncio.CancelledError
        await asyncio.sleep(0)
        power.check()
        return result
