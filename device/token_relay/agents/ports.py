"""The ports through which an agent reaches the world: Channel, Vault, Clock, Random.

Production and simulation differ only in what implements these and two more: ``Http``, defined with the provider's
client in :mod:`token_relay.provider.http`, since ``relay`` may not import this; and ``SignIn``, which only a phone has
(:mod:`token_relay.agents.phone.person`). :class:`Ports` holds those that both agents need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from token_relay.protocol.envelope import PeerBox
from token_relay.protocol.identity import KeyPair
from token_relay.provider.http import Http

T = TypeVar("T")
R = TypeVar("R", bound="Record")


# -- Channel -----------------------------------------------------------------------------------------------


class Channel(Protocol):
    """A connection to the broker that keeps itself alive; a hint, never a store."""

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Publish once with QoS 1; True when the broker acknowledged, False when nobody can say.

        Never raises for a lost connection: what matters stays in the outbox until the peer answers.
        """
        ...

    async def subscribe(self, topic_filter: str) -> None:
        """Add a subscription that outlives reconnects (the pairing mailbox)."""
        ...

    async def unsubscribe(self, topic_filter: str) -> None:
        """Drop it again."""
        ...

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the present connection."""
        ...


# -- Vault -------------------------------------------------------------------------------------------------


class Record(Protocol):
    """A frozen dataclass that the vault can keep: plain fields in clear, ``Secret`` fields sealed.

    Field types: ``str``, ``int`` (64 bit), ``float`` (not NaN), ``bool``, ``bytes``, any subclass of ``Secret``,
    ``Literal`` of str or of int, a string enum, each also with ``| None``. ``key`` names the fields of the
    primary key (str and int only). ``sealed_under`` names the data key that seals the secret fields:
    ``"vault"``, or a text with the values of str fields, such as ``"grant:{grant_id}"``. Erasing that data key makes
    every row sealed under it unreadable. A value may have 1 MiB.
    """

    table: ClassVar[str]
    key: ClassVar[tuple[str, ...]]
    sealed_under: ClassVar[str]


class Transaction(Protocol):
    """What a step may do inside its transaction. After the step has returned every use raises RuntimeError.

    A record type that the vault was not opened with, a wrong key or a wrong value is a bug: TypeError or ValueError.
    """

    def get(self, record: type[R], *key: str | int) -> R | None:
        """Return the record with this primary key, or None.

        Raises:
            CorruptVaultError: the row is damaged, or its secrets do not open, as after their data key was erased.
        """
        ...

    def select(self, record: type[R], **equals: str | int | bool | None) -> list[R]:
        """Return all records whose clear fields equal these values, ordered by primary key. Raises as ``get``."""
        ...

    def put(self, record: Record) -> None:
        """Insert the record, or replace the one with the same primary key.

        Makes the data key of its secrets when there is none of that name (a record without secrets needs none).
        """
        ...

    def delete(self, record: type[R], *key: str | int) -> None:
        """Delete the record if it is there."""
        ...

    def erase_key(self, data_key: str) -> None:
        """Destroy a data key: every secret sealed under it is gone for good (delete the rows as well).

        A later ``put`` under the same name makes a new key, which does not open what is left of the old one.
        Never ``"vault"`` (ValueError).
        """
        ...


class Vault(Protocol):
    """The sealed, durable store of one agent."""

    async def run(self, step: Callable[[Transaction], T]) -> T:
        """Run ``step`` in one transaction, in order of calls; when this returns, its effect is durable.

        ``step`` is a plain function; it may run on another thread, so it touches nothing but its transaction
        and immutable values. An exception out of it rolls everything back and is raised here. A step that
        was handed over runs to its end even when the caller is cancelled meanwhile: all of it is kept, or
        nothing when it raises (that exception is then lost).

        Raises:
            VaultError: the disk refused; nothing of the step was kept.
        """
        ...


# -- Clock -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of the clocks.

    ``boot_s`` counts seconds since boot including suspend (CLOCK_BOOTTIME), meaningful only together with
    ``boot_id``; ``wall_s`` is Unix time; ``is_synced`` says whether the wall clock is known to be right.
    """

    boot_id: str
    boot_s: float
    wall_s: float
    is_synced: bool


class Signal(Protocol):
    """Something to wait for: an :class:`asyncio.Event`."""

    def is_set(self) -> bool:
        """Whether it has happened."""
        ...

    async def wait(self) -> object:
        """Wait until it has."""
        ...


class Clock(Protocol):
    """Two kinds of time, never subtracted from one another."""

    def now(self) -> Now:
        """Read all clocks at once."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep this many seconds of boot time: suspend counts, and the end is noticed within a minute of the resume.

        So a caller asks for the whole wait, however long, and need not wake up in between.
        """
        ...

    async def wait(self, event: Signal, seconds: float) -> bool:
        """Wait until ``event`` is set, at most so many seconds as :meth:`sleep` counts; returns whether it is set."""
        ...


# -- Random ------------------------------------------------------------------------------------------------


class Random(Protocol):
    """Randomness for keys, nonces, ids and jitter."""

    def bytes(self, count: int) -> bytes:
        """Return ``count`` random bytes fit for keys."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """Return a number from ``low`` to ``high``, for jitter only."""
        ...


# -- All of them -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ports:
    """What both agents run on. ``tasks`` ends with the agent; a simulation may give a cheaper ``new_box``."""

    vault: Vault
    channel: Channel
    http: Http
    clock: Clock
    random: Random
    tasks: asyncio.TaskGroup
    new_box: Callable[[KeyPair, bytes], PeerBox] = PeerBox
