"""What the channel promises about sessions, acknowledging and odd messages, on both protocol levels.

The first tests hold the library to what the adapter relies on.
"""

from __future__ import annotations

import asyncio

import aiomqtt
import paho.mqtt.client as paho
import pytest
import structlog

from tests.channel import raw
from tests.channel.channel_kit import (
    FROM_PEER,
    ME,
    PACKET_BYTES_MAX,
    AnyBroker,
    End,
    Handler,
    peer,
    read_until,
    running,
    settings,
)
from tests.channel.mosquitto import Mosquitto
from tests.channel.raw import Raw, ScriptedBroker, Wire, welcome
from tests.watchdog import HANG_S
from token_relay.mqtt.connection import PAHO_PRIVATE_NAMES, PRIVATE_NAMES, Connection, misc_interval_s
from token_relay.sandbox.mqtt.broker import Broker

pytestmark = pytest.mark.asyncio


# -- the library --------------------------------------------------------------------------------------------


async def test_the_private_names_that_the_adapter_touches_exist() -> None:
    client = aiomqtt.Client("127.0.0.1")
    assert [name for name in PRIVATE_NAMES if not hasattr(client, name)] == []
    assert [name for name in PAHO_PRIVATE_NAMES if not hasattr(client._client, name)] == []
    overridden = {name for name in vars(Connection) if name.startswith(("_on_", "_client_connect", "_misc"))}
    assert overridden - {"_on_log"} <= set(PRIVATE_NAMES)


async def test_an_idle_connection_wakes_up_every_few_seconds_and_never_too_late_for_its_keepalive(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    for keepalive_s in range(3, 65_536):  # below it is the library's own second
        assert keepalive_s + misc_interval_s(keepalive_s) < 1.5 * keepalive_s, "by then the broker hangs up"
    connection = Connection(settings(1, protocol=protocol))
    results = iter([paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_NO_CONN])
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(connection._client, "loop_misc", lambda: next(results))
    monkeypatch.setattr("token_relay.mqtt.connection.asyncio.sleep", sleep)
    await connection._misc_loop()
    assert waits == [5.0, 5.0], "of a keepalive of a minute"


async def test_the_library_still_wipes_the_session_unless_told_otherwise() -> None:
    # why clean_start is always passed: the default is "at the first connection of this object"
    assert aiomqtt.Client("127.0.0.1")._clean_start == paho.MQTT_CLEAN_START_FIRST_ONLY


# -- sessions -----------------------------------------------------------------------------------------------


async def test_connect_asks_for_a_kept_session_of_30_days_and_no_will(protocol: str, level: int) -> None:
    hello: asyncio.Queue[Raw] = asyncio.Queue()

    async def script(wire: Wire) -> None:
        hello.put_nowait(await welcome(wire, level=level))
        await wire.read()

    async with ScriptedBroker(script) as broker:
        for _ in range(2):  # the same at the second start of a program
            async with running(End(settings(broker.port, protocol=protocol, keepalive_s=77))) as end:
                assert await end.up() is False
            body = (await hello.get()).body
            assert body[:6] == raw.text("MQTT") and body[6] == level
            assert body[7] == 0, "no clean start, no will, no user name"
            assert body[8:10] == (77).to_bytes(2, "big")
            if level == 5:
                properties = body[11 : 11 + body[10]]
                assert raw.session_expiry(30 * 24 * 3600) in properties
                assert b"\x21\x00\x08" in properties, "Receive Maximum 8"
                assert b"\x27" + PACKET_BYTES_MAX.to_bytes(4, "big") in properties
                assert len(properties) == 5 + 3 + 5, "and nothing that would be visible to others"


async def test_messages_for_an_absent_end_arrive_in_order_with_the_session_present(
    broker: AnyBroker, protocol: str
) -> None:
    me = settings(broker.port, protocol=protocol)
    async with running(End(me)) as end:
        assert await end.up() is False
    async with running(peer(broker, protocol)) as other:
        await other.up()
        for n in range(30):  # more than any window, so that a lost acknowledgement would stop it
            assert await other.channel.publish(FROM_PEER, b"%d" % n)
    async with running(End(me)) as end:
        assert await end.up() is True
        assert [await end.next() for _ in range(30)] == [b"%d" % n for n in range(30)]


async def test_kill_9_of_the_broker_loses_nothing_acknowledged_before_its_last_turn(
    mosquitto: Mosquitto, protocol: str
) -> None:
    me = settings(mosquitto.port, protocol=protocol)
    async with running(End(me)) as end:
        await end.up()
    async with running(peer(mosquitto, protocol)) as other:
        await other.up()
        for n in range(3):
            assert await other.channel.publish(FROM_PEER, b"%d" % n)
        # limit: mosquitto acknowledges first and saves at the end of that turn of its loop, so the very last
        # message before the kill may be lost; what it acknowledges next was read in a later turn
        assert await other.channel.publish("nobody/listens", b"")
        await mosquitto.kill()
        await other.down()
        await mosquitto.start()
        await other.up()
        async with running(End(me)) as end:
            assert await end.up() is True
            assert [await end.next() for _ in range(3)] == [b"0", b"1", b"2"]


async def test_the_channel_comes_back_by_itself_with_its_session(broker: AnyBroker, protocol: str) -> None:
    async with running(End(settings(broker.port, protocol=protocol))) as end:
        assert await end.up() is False
        await broker.stop()
        await end.down()
        assert not end.channel.is_connected and end.channel.last_error
        await broker.start()
        assert await end.up() is True
        assert (end.channel.is_connected, end.channel.last_error) == (True, "")
        assert await end.channel.publish(FROM_PEER, b"me")
        assert await end.next() == b"me"


# -- acknowledging ------------------------------------------------------------------------------------------


async def test_puback_goes_out_only_after_the_handler_returned_and_in_order(protocol: str, level: int) -> None:
    acknowledged: asyncio.Queue[int] = asyncio.Queue()
    pinged = asyncio.Event()

    async def script(wire: Wire) -> None:
        await welcome(wire, level=level)
        for mid in (11, 12, 13):
            wire.send(raw.publish(FROM_PEER, b"%d" % mid, level=level, mid=mid))
        while True:
            got = await wire.read()
            if got.kind == 12:
                wire.send(raw.PINGRESP)
                pinged.set()
            elif got.kind == 4:
                acknowledged.put_nowait(got.mid)

    async with ScriptedBroker(script) as broker:
        end = End(settings(broker.port, protocol=protocol, keepalive_s=1))
        end.handler = handler = Handler(is_open=False)
        async with running(end):
            assert await handler.next() == b"11"
            # the loop goes on while a handler waits, for longer than the keep-alive
            async with asyncio.timeout(HANG_S):
                await pinged.wait()
            assert acknowledged.empty() and handler.begun.empty(), "nothing acknowledged, nothing handled beside it"
            handler.gate.set()
            async with asyncio.timeout(HANG_S):
                assert [await acknowledged.get() for _ in range(3)] == [11, 12, 13]


async def test_what_the_handler_refused_is_not_acknowledged_and_comes_again(broker: AnyBroker, protocol: str) -> None:
    end = End(settings(broker.port, protocol=protocol))
    end.handler = handler = Handler(failures=2)
    async with running(end), running(peer(broker, protocol)) as other:
        await end.up()
        await other.up()
        with structlog.testing.capture_logs() as logs:
            assert await other.channel.publish(FROM_PEER, b"a")
            assert await other.channel.publish(FROM_PEER, b"b")
            assert await end.next() == b"a"
            assert await end.next() == b"b"
        tries = [await handler.next() for _ in range(handler.begun.qsize())]
        assert tries == [b"a", b"a", b"a", b"b"], "in order, and nothing twice after it was accepted"
        assert end.pauses == [1.0, 2.0], "with a growing pause"
        failed = [entry for entry in logs if entry["event"] == "mqtt_handler_failed"]
        assert [entry["error"] for entry in failed] == ["VaultError: disk full"] * 2
        assert await end.down() == "message handler failed: VaultError: disk full"


async def test_an_unknown_exception_of_the_handler_is_named_but_not_quoted(embedded: Broker) -> None:
    end = End(settings(embedded.port))
    is_first = True

    async def handler(topic: str, payload: bytes) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            raise RuntimeError(payload)

    end.handler = handler
    async with running(end):
        await end.up()
        with structlog.testing.capture_logs() as logs:
            embedded.inject(FROM_PEER, b"rt-secret")
            assert await end.next() == b"rt-secret"
        assert await end.down() == "message handler failed: RuntimeError"
        assert "rt-secret" not in str(logs)


async def test_a_resumed_session_is_not_acknowledged_before_its_handler(broker: AnyBroker, protocol: str) -> None:
    """Messages that wait in the session arrive together with CONNACK: none may slip through before manual mode."""
    me = settings(broker.port, protocol=protocol)
    async with running(End(me)) as end:
        await end.up()
    async with running(peer(broker, protocol)) as other:
        await other.up()
        for n in range(4):
            assert await other.channel.publish(FROM_PEER, b"%d" % n)
    for _ in range(2):
        end = End(me)
        end.handler = handler = Handler(is_open=False)
        async with running(end):
            assert await handler.next() == b"0"
            await end.up()
    async with running(End(me)) as end:
        assert [await end.next() for _ in range(4)] == [b"0", b"1", b"2", b"3"]


async def test_an_old_packet_identifier_never_acknowledges_on_a_new_connection(protocol: str, level: int) -> None:
    acknowledged: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    cut = asyncio.Event()

    async def first(wire: Wire) -> None:
        await welcome(wire, level=level)
        wire.send(raw.publish(FROM_PEER, b"old", level=level, mid=7))
        await cut.wait()

    async def second(wire: Wire) -> None:
        await welcome(wire, level=level, present=True)
        wire.send(raw.publish(FROM_PEER, b"new", level=level, mid=7))
        while True:
            got = await wire.read()
            if got.kind == 4:
                acknowledged.put_nowait((2, got.mid))
            elif got.kind == 12:
                wire.send(raw.PINGRESP)

    async with ScriptedBroker(first, second) as broker:
        end = End(settings(broker.port, protocol=protocol))
        end.handler = handler = Handler(is_open=False)
        async with running(end):
            assert await handler.next() == b"old"
            cut.set()
            assert await handler.next() == b"new", "the old handler is cancelled with its connection"
            assert end.received.empty() and acknowledged.empty()
            handler.gate.set()
            assert await end.next() == b"new"
            async with asyncio.timeout(HANG_S):
                assert await acknowledged.get() == (2, 7)
            assert end.received.empty(), "the old one never counted as handled"


async def test_receive_maximum_bounds_what_the_broker_may_have_in_flight(embedded: Broker) -> None:
    end = End(settings(embedded.port, receive_maximum=3))
    end.handler = handler = Handler(is_open=False)
    async with running(end):
        await end.up()
        for n in range(10):
            embedded.inject(FROM_PEER, b"%d" % n)
        await handler.next()
        session = embedded.session(ME)
        assert session is not None and (len(session.in_flight), len(session.waiting)) == (3, 7)
        handler.gate.set()
        assert [await end.next() for _ in range(10)] == [b"%d" % n for n in range(10)]


async def test_a_flood_that_nobody_acknowledged_ends_the_connection(
    protocol: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.mqtt.connection.INBOX_MAX", 5)

    async def flood(wire: Wire) -> None:
        await welcome(wire, level=level)
        for mid in range(1, 50):
            wire.send(raw.publish(FROM_PEER, b"x", level=level, mid=mid))
        await wire.end()

    async with ScriptedBroker(flood) as broker:
        end = End(settings(broker.port, protocol=protocol))
        end.handler = Handler(is_open=False)
        async with running(end):
            assert await end.down() == "the broker sends more messages than we can hold"


# -- sizes and odd messages ---------------------------------------------------------------------------------


async def test_a_message_over_the_limit_never_reaches_the_handler(broker: AnyBroker, protocol: str) -> None:
    end = End(settings(broker.port, protocol=protocol, packet_bytes_max=1000))
    async with running(end), running(peer(broker, protocol)) as other:
        await end.up()
        await other.up()
        assert await other.channel.publish(FROM_PEER, bytes(1001))
        assert await other.channel.publish(FROM_PEER, b"small")
        assert await end.next() == b"small"
        # MQTT 5: the broker keeps it away (Maximum Packet Size); 3.1.1: acknowledged, counted and dropped here
        assert end.channel.oversized == (0 if protocol == "5" else 1)
        assert end.pauses == []


async def test_the_largest_message_that_is_allowed_passes(broker: AnyBroker, protocol: str) -> None:
    async with running(End(settings(broker.port, protocol=protocol))) as end:
        await end.up()
        largest = bytes(PACKET_BYTES_MAX - 10 - len(FROM_PEER))  # 10: headers, see MQTT 5 §3.3
        assert await end.channel.publish(FROM_PEER, largest)
        assert await end.next() == largest
        assert not await end.channel.publish(FROM_PEER, largest + b"x"), "refused here, not by a closed connection"
        assert end.channel.is_connected


async def test_a_packet_too_large_to_read_ends_the_connection_unread(protocol: str, level: int) -> None:
    async def giant(wire: Wire) -> None:
        await welcome(wire, level=level)
        wire.send(b"\x32" + raw.length(200_000_000) + bytes(1000))
        await wire.end()

    async with ScriptedBroker(giant) as broker, running(End(settings(broker.port, protocol=protocol))) as end:
        assert await end.down() == "the broker sent a packet of 200000000 bytes"


async def test_a_topic_that_is_not_utf_8_is_acknowledged_and_dropped(protocol: str, level: int) -> None:
    acknowledged: asyncio.Queue[int] = asyncio.Queue()

    async def script(wire: Wire) -> None:
        await welcome(wire, level=level)
        wire.send(raw.publish(b"\xff\xfe", b"x", level=level, mid=5))
        wire.send(raw.publish(FROM_PEER, b"good", level=level, mid=6))
        for _ in range(2):
            acknowledged.put_nowait((await read_until(wire, 4)).mid)
        await wire.end()

    async with ScriptedBroker(script) as broker, running(End(settings(broker.port, protocol=protocol))) as end:
        assert await end.next() == b"good"
        assert end.channel.oversized == 1
        async with asyncio.timeout(HANG_S):
            assert [await acknowledged.get() for _ in range(2)] == [5, 6]


async def test_retained_and_qos_0_messages_are_passed_on_like_others(mosquitto: Mosquitto, protocol: str) -> None:
    wire = await Wire.to(mosquitto.port)
    wire.send(raw.connect("other", level=4) + raw.publish(FROM_PEER, b"kept", level=4, retain=True))
    await wire.expect(2)
    await wire.expect(4)
    async with running(End(settings(mosquitto.port, protocol=protocol))) as end:
        assert await end.next() == b"kept"
        await end.up()
        wire.send(raw.publish(FROM_PEER, b"once", level=4, qos=0))
        assert await end.next() == b"once"
    await wire.close()


@pytest.mark.parametrize(
    "garbage",
    [b"\x90\x01\x00", b"\x20\x00", b"\xff" * 40, b"\x32\x02\x00\x00", b"\x32\x03\x00\x40a", b"\x40\x01\x00"],
)
async def test_garbage_from_the_broker_ends_the_connection_and_nothing_else(
    protocol: str, level: int, garbage: bytes
) -> None:
    async def script(wire: Wire) -> None:
        await welcome(wire, level=level)
        wire.send(garbage)

    recovered = asyncio.Event()

    async def good(wire: Wire) -> None:
        await welcome(wire, level=level)
        recovered.set()
        await wire.end()

    async with ScriptedBroker(script, good) as broker, running(End(settings(broker.port, protocol=protocol))) as end:
        assert await end.down() != ""
        async with asyncio.timeout(HANG_S):
            await recovered.wait()
