"""What a broker remembers about the messages it took, as the control interface may see it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BrokerMessage:
    """One message that the broker took, by number from 1; ``at`` is Unix seconds of this machine's clock."""

    number: int
    at: float
    topic: str
    payload_bytes: int


class BrokerRecord(Protocol):
    """What the control interface may know about a broker that records."""

    def messages(self) -> Sequence[BrokerMessage]:
        """Return the latest messages, oldest first; the broker decides how many it keeps."""
        ...

    def replay(self, numbers: Sequence[int]) -> None:
        """Publish recorded messages again, in this order; every number is one of :meth:`messages`."""
        ...
