"""What the embedded broker remembers about one client: subscriptions, waiting and unacknowledged messages.

Pure: ``now`` is passed in, packets to send are returned. Invariants:

* order: messages leave in the order in which they came, and those that were sent before and never
  acknowledged go out first at a resumption, with DUP and their old packet identifier (MQTT 5 §4.4),
* at most ``in_flight_max`` messages are unacknowledged, at most ``QUEUED_MAX`` wait; further ones are lost, as in
  mosquitto, where a full queue also drops the newest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from token_relay.sandbox.mqtt.filters import is_match
from token_relay.sandbox.mqtt.packets import Properties, Property, Publish

QUEUED_MAX = 1000  # messages per session; mosquitto's default for max_queued_messages
IN_FLIGHT_MAX = 20  # messages; mosquitto's default for max_inflight_messages
SUBSCRIPTIONS_MAX = 256  # per session; the channel has two
NEVER = 0xFFFFFFFF  # session expiry interval that means: no end; MQTT 5 §3.1.2.11.2
NO_LOCAL, RETAIN_AS_PUBLISHED = 0x04, 0x08  # bits of the subscription options; MQTT 5 §3.8.3.1


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message for one session; ``expires_at`` is on the caller's clock, None when it never expires."""

    message: Publish
    expires_at: float | None = None

    def renewed(self, now: float) -> Publish | None:
        """Return the message with the rest of its expiry interval, or None when that is over. MQTT 5 §3.3.2.3.3."""
        if self.expires_at is None:
            return self.message
        left_s = int(self.expires_at - now)
        if left_s <= 0:
            return None
        properties: Properties = tuple(
            (key, left_s if key is Property.MESSAGE_EXPIRY else value) for key, value in self.message.properties
        )
        return replace(self.message, properties=properties)


@dataclass(slots=True, eq=False)
class MqttSession:
    """One client's session; it lives on while the client is away, for ``expiry_s`` seconds."""

    client_id: str
    expiry_s: int = NEVER
    left_at: float | None = None
    in_flight_max: int = IN_FLIGHT_MAX
    subscriptions: dict[str, int] = field(default_factory=dict)
    waiting: deque[Waiting] = field(default_factory=deque)
    in_flight: dict[int, Waiting] = field(default_factory=dict)
    dropped: int = 0
    _last_packet_id: int = 0

    def is_over(self, now: float) -> bool:
        """Say whether the client has been away for longer than it asked its session to be kept."""
        return self.left_at is not None and self.expiry_s != NEVER and now >= self.left_at + self.expiry_s

    def subscribe(self, topic_filter: str, options: int) -> bool:
        """Add or replace a subscription; False when there are too many."""
        if topic_filter not in self.subscriptions and len(self.subscriptions) >= SUBSCRIPTIONS_MAX:
            return False
        self.subscriptions[topic_filter] = options
        return True

    def wants(self, message: Publish, publisher: str | None) -> int | None:
        """Return the QoS at which this session gets a message, or None. One copy, at the highest QoS granted."""
        options = [
            options
            for topic_filter, options in self.subscriptions.items()
            if is_match(topic_filter, message.topic) and not (options & NO_LOCAL and publisher == self.client_id)
        ]
        return min(message.qos, max(granted & 0x03 for granted in options)) if options else None

    def keep(self, waiting: Waiting) -> None:
        """Append a message to the queue."""
        if len(self.waiting) >= QUEUED_MAX:
            self.dropped += 1
            return
        self.waiting.append(waiting)

    def resumed(self) -> list[Publish]:
        """Return what was sent before and never acknowledged, oldest first, marked as duplicates."""
        return [replace(waiting.message, packet_id=mid, is_dup=True) for mid, waiting in self.in_flight.items()]

    def next_packets(self, now: float) -> Iterator[Publish]:
        """Yield what may be sent now; from then on it counts as in flight."""
        while self.waiting and len(self.in_flight) < self.in_flight_max:
            waiting = self.waiting.popleft()
            message = waiting.renewed(now)
            if message is None:
                continue
            if message.qos:
                message = replace(message, packet_id=self._new_packet_id())
                self.in_flight[message.packet_id] = waiting
            yield message

    def acknowledge(self, packet_id: int) -> bool:
        """Forget an acknowledged message; False when there is none with this packet identifier."""
        return self.in_flight.pop(packet_id, None) is not None

    def _new_packet_id(self) -> int:
        while True:  # ends: at most in_flight_max of 65535 are taken
            self._last_packet_id = self._last_packet_id % 0xFFFF + 1
            if self._last_packet_id not in self.in_flight:
                return self._last_packet_id
