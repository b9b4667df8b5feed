"""What the channel promises about publishing, subscriptions, the greeting and the probe."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.channel import raw
from tests.channel.certificates import Authority
from tests.channel.channel_kit import (
    FROM_PEER,
    INBOX,
    ME,
    PEER,
    TO_PEER,
    AnyBroker,
    End,
    Tls,
    peer,
    read_until,
    running,
    settings,
)
from tests.channel.mosquitto import Mosquitto
from tests.channel.raw import ScriptedBroker, Wire, welcome
from tests.watchdog import HANG_S
from token_relay.protocol.errors import LocalError, VaultError
from token_relay.protocol.topics import broker_acl
from token_relay.sandbox.mqtt.broker import Broker

pytestmark = pytest.mark.asyncio


# -- publishing ---------------------------------------------------------------------------------------------


async def test_publish_without_a_connection_is_false_at_once(protocol: str) -> None:
    end = End(settings(1, protocol=protocol))
    assert await end.channel.publish(TO_PEER, b"x") is False


async def test_publish_is_false_when_the_connection_breaks_before_the_acknowledgement(
    protocol: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.mqtt.connection.PUBLISH_TIMEOUT_S", 10 * HANG_S)  # it is not what ends the wait

    async def script(wire: Wire) -> None:
        await welcome(wire, level=level)
        await wire.expect(3)

    async with ScriptedBroker(script) as broker, running(End(settings(broker.port, protocol=protocol))) as end:
        await end.up()
        async with asyncio.timeout(HANG_S):
            assert await end.channel.publish(TO_PEER, b"x") is False


async def test_a_publish_refused_by_the_access_list_is_false_in_mqtt_5(tmp_path: Path, protocol: str) -> None:
    acl = tmp_path / "acl"
    acl.write_text(f"topic read {INBOX}\ntopic write {TO_PEER}\n")
    acl.chmod(0o644)
    async with (
        Mosquitto(tmp_path / "broker", f"acl_file {acl}") as broker,
        running(End(settings(broker.port, protocol=protocol))) as end,
    ):
        await end.up()
        # limit of 3.1.1, which has no failure code in PUBACK: the broker says yes and drops the message
        assert await end.channel.publish("relay/v1/other", b"x") is (protocol == "3.1.1")
        assert await end.channel.publish(TO_PEER, b"x"), "nobody listens there: that is no failure (0x10)"


async def test_publishes_do_not_wait_for_one_another(protocol: str, level: int) -> None:
    seen = asyncio.Event()

    async def script(wire: Wire) -> None:
        await welcome(wire, level=level)
        packets = [(await read_until(wire, 3)).published(level) for _ in range(20)]
        seen.set()
        for _, _, mid, _ in reversed(packets):  # answers may come in any order
            wire.send(raw.puback(mid))
        _, _, mid, _ = (await read_until(wire, 3)).published(level)
        wire.send(raw.puback(mid))
        await wire.end()

    async with ScriptedBroker(script) as broker, running(End(settings(broker.port, protocol=protocol))) as end:
        await end.up()
        async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as tasks:
            sent = [tasks.create_task(end.channel.publish(TO_PEER, b"%d" % n)) for n in range(21)]
            await seen.wait()  # twenty are on their way before the first is acknowledged; the next waits for a place
        assert all(task.result() for task in sent)


async def test_the_brokers_receive_maximum_is_respected() -> None:
    async def script(wire: Wire) -> None:
        await wire.expect(1)
        wire.send(raw.packet(0x20, b"\x00\x00\x03\x21\x00\x02"))  # CONNACK with Receive Maximum 2
        request = await wire.expect(8)
        wire.send(raw.packet(0x90, request.body[:2] + b"\0\x01"))
        mids = [(await read_until(wire, 3)).published(5)[2] for _ in range(2)]
        assert (await read_until(wire, 12)).kind == 12, "a ping comes before a third publish"
        wire.send(raw.PINGRESP + raw.puback(mids[0]))
        mids.append((await read_until(wire, 3)).published(5)[2])
        wire.send(raw.puback(mids[1]) + raw.puback(mids[2]))
        await wire.end()

    async with ScriptedBroker(script) as broker, running(End(settings(broker.port, keepalive_s=1))) as end:
        await end.up()
        async with asyncio.timeout(HANG_S):
            assert await asyncio.gather(*(end.channel.publish(TO_PEER, b"x") for _ in range(3))) == [True] * 3


async def test_a_broker_that_acknowledges_nothing_is_left(
    protocol: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.mqtt.connection.PUBLISH_TIMEOUT_S", 0.05)

    async def deaf(wire: Wire) -> None:
        await welcome(wire, level=level)
        await wire.end()

    async with ScriptedBroker(deaf) as broker, running(End(settings(broker.port, protocol=protocol))) as end:
        await end.up()
        assert await end.channel.publish(TO_PEER, b"x") is False
        assert await end.down() == "the broker does not acknowledge messages"


async def test_a_cancelled_publish_takes_nothing_with_it(broker: AnyBroker, protocol: str) -> None:
    async with running(End(settings(broker.port, protocol=protocol))) as end:
        await end.up()
        for _ in range(50):  # more than there are places in flight
            task = asyncio.create_task(end.channel.publish(FROM_PEER, b"x"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        assert await end.channel.publish(FROM_PEER, b"last")
        while await end.next() != b"last":
            pass


# -- subscriptions, greeting, probe -------------------------------------------------------------------------


async def test_subscriptions_outlive_reconnects_and_can_be_dropped_while_away(broker: AnyBroker, protocol: str) -> None:
    mailbox = "relay/v1/pair/" + "0" * 32
    async with running(End(settings(broker.port, protocol=protocol))) as end, running(peer(broker)) as other:
        await end.up()
        await other.up()
        await end.channel.subscribe(mailbox)
        assert await other.channel.publish(mailbox, b"1")
        assert await end.next() == b"1"
        await broker.stop()
        await end.down()
        await broker.start()
        await end.up()
        await other.up()
        assert await other.channel.publish(mailbox, b"2")
        while await end.next() != b"2":  # the first may come again: its acknowledgement raced with the stop
            pass
        await broker.stop()
        while end.channel.is_connected:
            await end.down()
        await end.channel.unsubscribe(mailbox)
        await broker.start()
        await end.up()
        await other.up()
        assert await other.channel.publish(mailbox, b"3")
        assert await other.channel.publish(FROM_PEER, b"4")
        while (got := await end.next()) != b"4":
            assert got == b"2"
        await end.channel.unsubscribe(INBOX)
        await end.channel.subscribe("elsewhere")
        assert await other.channel.publish(FROM_PEER, b"5")
        assert await other.channel.publish("elsewhere", b"6")
        assert await end.next() == b"6"


async def test_a_refused_subscription_is_told_and_forgotten(broker: AnyBroker, protocol: str, level: int) -> None:
    async def script(wire: Wire) -> None:
        await welcome(wire, level=level)
        request = await read_until(wire, 8)
        wire.send(raw.packet(0x90, request.body[:2] + (b"\0\x87" if level == 5 else b"\x80")))
        await wire.end()

    async with ScriptedBroker(script) as scripted, running(End(settings(scripted.port, protocol=protocol))) as end:
        await end.up()
        with pytest.raises(LocalError, match="refused"):
            await end.channel.subscribe("secret/of/others")
        assert end.channel.is_connected
        assert list(end.channel._filters) == [INBOX]


async def test_without_its_inbox_the_channel_does_not_count_as_connected(protocol: str, level: int) -> None:
    async def script(wire: Wire) -> None:
        await wire.expect(1)
        wire.send(raw.packet(0x20, b"\0\0" + (b"\0" if level == 5 else b"")))
        request = await wire.expect(8)
        wire.send(raw.packet(0x90, request.body[:2] + (b"\0\x87" if level == 5 else b"\x80")))
        await wire.end()

    async with ScriptedBroker(script) as broker, running(End(settings(broker.port, protocol=protocol))) as end:
        assert await end.down() == "not authorized: the broker refused the subscription to our inbox"
        assert end.connected.empty()


async def test_the_greeting_runs_beside_reception_and_its_failure_drops_the_connection(
    broker: AnyBroker, protocol: str
) -> None:
    end = End(settings(broker.port, protocol=protocol))
    failures = 1

    async def greet(session_present: bool) -> None:
        nonlocal failures
        assert await end.channel.publish(FROM_PEER, b"hello")
        assert await end.next() == b"hello", "messages arrive while the greeting is not over"
        if failures:
            failures -= 1
            raise VaultError("disk full")

    end.greeter = greet
    async with running(end):
        assert await end.down() == "greeting failed: VaultError: disk full"
        assert await end.up() is True
        assert end.pauses == [1.0]


async def test_a_probe_tells_whether_the_inbox_is_let_through(tmp_path: Path, protocol: str) -> None:
    acl = tmp_path / "acl"
    acl.write_text(broker_acl())
    acl.chmod(0o644)
    authority = Authority(tmp_path / "pki")
    cert, key = authority.issue("broker")
    lines = (
        f"cafile {authority.ca}",
        f"certfile {cert}",
        f"keyfile {key}",
        "require_certificate true",
        "use_identity_as_username true",
        f"acl_file {acl}",
    )
    async with Mosquitto(tmp_path / "broker", *lines) as broker:

        def end_named(certificate_name: str) -> End:
            cert, key = authority.issue(certificate_name)
            tls = Tls(use_tls=True, ca_file=authority.ca, cert_file=cert, key_file=key)
            return End(settings(broker.port, protocol=protocol, **tls))

        async with running(end_named(ME)) as end:
            await end.up()
            assert await end.channel.probe(HANG_S) is True
            assert end.received.empty(), "a probe is nobody's message"
        # SUBACK says yes to anybody, the access list filters later: only the probe notices
        async with running(end_named(PEER)) as end:
            await end.up()
            assert await end.channel.probe(0.5) is False
        assert await end.channel.probe(0.5) is False, "no connection"


async def test_a_client_id_that_is_no_device_id_cannot_probe(embedded: Broker) -> None:
    async with running(End(settings(embedded.port, client_id="tool"))) as end:
        await end.up()
        assert await end.channel.probe(0.5) is False
