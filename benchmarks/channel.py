"""What acknowledging by hand costs: envelopes taken from a real broker, one after the other.

Ours is :class:`token_relay.mqtt.channel.MqttChannel` with a handler that does nothing: PUBACK after it returned, at
most ``receive_maximum`` in flight. The floor is aiomqtt alone, which acknowledges as it reads. The messages wait in a
persistent session, so that the sender's pace is not measured. A handoff needs four envelopes, so 100 a second are
plenty.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
    """Return our channel's seconds per envelope, from the first one to the last."""
    await _fill(port, protocol, count)
    times: list[float] = []
    is_done = asyncio.Event()

    async def on_message(topic: str, payload: bytes) -> None:
        times.append(time.perf_counter())
        if len(times) == count:
            is_done.set()

    async def on_connected(session_present: bool) -> None:
        pass

    channel = MqttChannel(
        MqttSettings("127.0.0.1", port, NAME, protocol="5" if protocol == "5" else "3.1.1"),
        sleep=asyncio.sleep,
        uniform=lambda low, high: high,
    )
    task = asyncio.create_task(channel.run(on_message, on_connected))
    try:
        async with _time_for(count, times):
            await is_done.wait()
    finally:
        task.cancel()
        await asyncio.wait({task})
    return (times[-1] - times[0]) / (count - 1)


async def through_the_library(port: int, protocol: str, count: int) -> float:
    """Return the seconds per envelope of aiomqtt alone."""
    await _fill(port, protocol, count)
    times: list[float] = []
    async with raw_client(port, NAME, protocol=protocol) as client, _time_for(count, times):
        async for _ in client.messages:
            times.append(time.perf_counter())
            if len(times) == count:
                break
    return (times[-1] - times[0]) / (count - 1)


@asynccontextmanager
async def _time_for(count: int, times: list[float]) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield
    except TimeoutError:
        raise BenchmarkError(f"only {len(times)} of {count} envelopes arrived") from None


async def _in_turns(port: int, protocol: str, *, count: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds per envelope of each round, ours and the library's."""
    ours, floor = [], []
    for _ in range(rounds):
        ours.append(await through_the_channel(port, protocol, count) * 1e3)
        floor.append(await through_the_library(port, protocol, count) * 1e3)
    return ours, floor


async def _fill(port: int, protocol: str, count: int) -> None:
    """Leave ``count`` envelopes waiting in the receiver's session."""
    async with raw_client(port, NAME, TOPIC, protocol=protocol):
        pass  # subscribed
    payload = os.urandom(ENVELOPE_BYTES[0])
    async with raw_client(port, "bench-sender", protocol=protocol) as client:
        client.pending_calls_threshold = FILL_AT_ONCE  # beyond it the library complains
        for begun in range(0, count, FILL_AT_ONCE):  # in parallel: the broker saves once for several
            few = min(FILL_AT_ONCE, count - begun)
            await asyncio.gather(*(client.publish(TOPIC, payload, qos=1) for _ in range(few)))
