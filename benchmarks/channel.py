"""What acknowledging by hand costs: envelopes taken from a real broker, one after the other.

Ours is :class:`token_relay.mqtt.channel.MqttChannel` with a handler that does nothing: PUBACK after it returned, at
most ``receive_maximum`` in flight. The floor is aiomqtt alone, which acknowledges as it reads. The messages wait in a
persistent session, so that the sender's pace is not measured. A grant needs four of them: 100 a second are plenty.
"""

from __future__ import annotations

import asyncio
import os
import time

import structlog

from benchmarks.floors import raw_client
from benchmarks.measure import Bench, BenchmarkError, mosquitto
from benchmarks.table import Section, medians
from token_relay.mqtt.channel import MqttChannel
from token_relay.mqtt.connection import MqttSettings
from token_relay.protocol.envelope import ENVELOPE_BYTES

PROTOCOLS = ("5", "3.1.1")
PER_SECOND_MIN = 100
NAME, TOPIC = "bench-receiver", "bench/envelopes"
TIMEOUT_S = 60.0
FILL_AT_ONCE = 20


def run(bench: Bench) -> Section:
    """Take envelopes in turns, through the channel and through the library."""
    count, rounds = bench.count(100, 50), bench.count(3, 2)
    rows, details = [], []
    with mosquitto(bench.place("channel")) as port, structlog.testing.capture_logs():  # stdout may be JSON
        for protocol in PROTOCOLS:
            ours, floor = asyncio.run(_in_turns(port, protocol, count=count, rounds=rounds))
            how = f"aiomqtt alone, acknowledging as it reads; {count} that waited in a session"
            row = medians(f"an envelope through the channel, MQTT {protocol}", ours, floor, how=how)
            rows.append(row)
            per_s = 1e3 / row.value
            verdict = "" if per_s >= PER_SECOND_MIN else ": TOO SLOW"
            details.append(f"MQTT {protocol}: {per_s:,.0f} envelopes/s, at least {PER_SECOND_MIN} are wanted{verdict}")
    return Section("channel", tuple(rows), tuple(details))


async def through_the_channel(port: int, protocol: str, count: int) -> float:
    """Return the seconds per envelope of ours, from the first one to the last."""
    await _fill(port, protocol, count)
    clock = _Clock(count)

    async def on_message(topic: str, payload: bytes) -> None:
        clock.tick()

    async def on_connected(session_present: bool) -> None:
        pass

    channel = MqttChannel(
        MqttSettings("127.0.0.1", port, NAME, protocol="5" if protocol == "5" else "3.1.1"),
        on_message=on_message,
        on_connected=on_connected,
        sleep=asyncio.sleep,
        uniform=lambda low, high: high,
    )
    task = asyncio.create_task(channel.run())
    try:
        return await clock.per_message()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def through_the_library(port: int, protocol: str, count: int) -> float:
    """Return the seconds per envelope of aiomqtt alone."""
    await _fill(port, protocol, count)
    clock = _Clock(count)
    async with raw_client(port, NAME, protocol=protocol) as client:
        async for _ in client.messages:
            clock.tick()
            if clock.done.is_set():
                break
    return await clock.per_message()


async def _in_turns(port: int, protocol: str, *, count: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds per envelope of each round, ours and the library's."""
    ours, floor = [], []
    for _ in range(rounds):
        ours.append(await through_the_channel(port, protocol, count) * 1e3)
        floor.append(await through_the_library(port, protocol, count) * 1e3)
    return ours, floor


class _Clock:
    """Times a known number of messages."""

    def __init__(self, count: int) -> None:
        self._wanted = count
        self._times: list[float] = []
        self.done = asyncio.Event()

    def tick(self) -> None:
        self._times.append(time.perf_counter())
        if len(self._times) == self._wanted:
            self.done.set()

    async def per_message(self) -> float:
        try:
            await asyncio.wait_for(self.done.wait(), TIMEOUT_S)
        except TimeoutError:
            raise BenchmarkError(f"only {len(self._times)} of {self._wanted} envelopes arrived") from None
        return (self._times[-1] - self._times[0]) / (self._wanted - 1)


async def _fill(port: int, protocol: str, count: int) -> None:
    """Have so many envelopes wait in the receiver's session."""
    async with raw_client(port, NAME, TOPIC, protocol=protocol):
        pass  # subscribed
    payload = os.urandom(ENVELOPE_BYTES[0])
    async with raw_client(port, "bench-sender", protocol=protocol) as client:
        client.pending_calls_threshold = FILL_AT_ONCE  # beyond it the library complains
        for begun in range(0, count, FILL_AT_ONCE):  # side by side: the broker saves once for several
            few = min(FILL_AT_ONCE, count - begun)
            await asyncio.gather(*(client.publish(TOPIC, payload, qos=1) for _ in range(few)))
