"""The clients that people use, against both brokers: paho, aiomqtt, mosquitto_pub and mosquitto_sub."""

from __future__ import annotations

import asyncio
import queue
from typing import TypeVar

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.channel.mosquitto import Mosquitto, program
from tests.watchdog import HANG_S
from token_relay.sandbox.mqtt.broker import Broker

T = TypeVar("T")

pytestmark = pytest.mark.asyncio


async def command(name: str, *arguments: str, stdin: bytes = b"") -> bytes:
    process = await asyncio.create_subprocess_exec(
        program(name),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(HANG_S):
        out, err = await process.communicate(stdin)
    assert process.returncode == 0, err
    return out


async def test_debians_clients_send_and_receive(broker: Mosquitto | Broker, protocol: str) -> None:
    version = "mqttv5" if protocol == "5" else "mqttv311"
    where = ("-h", "127.0.0.1", "-p", str(broker.port), "-V", version)
    keep = ("-i", "sub", "-c", "-q", "1", "-t", "a/#", *(("-x", "300") if protocol == "5" else ()))
    await command("mosquitto_sub", *where, *keep, "-E")  # subscribes and leaves
    await command("mosquitto_pub", *where, "-q", "1", "-t", "a/b", "-m", "one")
    await command("mosquitto_pub", *where, "-q", "1", "-t", "a/b/c", "-s", stdin=b"two")
    out = await command("mosquitto_sub", *where, *keep, "-C", "2", "-W", "10", "-F", "%t %p")
    assert out.splitlines() == [b"a/b one", b"a/b/c two"]


async def test_aiomqtt_sends_and_receives(broker: Mosquitto | Broker, protocol: str) -> None:
    version = aiomqtt.ProtocolVersion.V5 if protocol == "5" else aiomqtt.ProtocolVersion.V311
    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=version) as client:
        assert [code if isinstance(code, int) else code.value for code in await client.subscribe("x/+", qos=2)] == [1]
        await client.publish("x/1", b"hello", qos=1)
        await client.publish("x/2", b"", qos=0)
        async with asyncio.timeout(HANG_S):
            first, second = await anext(client.messages), await anext(client.messages)
        assert (str(first.topic), first.payload, first.qos) == ("x/1", b"hello", 1)
        assert (str(second.topic), second.payload, second.qos) == ("x/2", b"", 0)
        await client.unsubscribe("x/+")


class Paho:
    """A paho client in its own thread that acknowledges by hand."""

    def __init__(self, port: int, protocol: str, client_id: str) -> None:
        is_5 = protocol == "5"
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5 if is_5 else paho.MQTTv311,
            clean_session=None if is_5 else False,
            manual_ack=True,
        )
        self.present: queue.Queue[bool] = queue.Queue()
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.granted: queue.Queue[object] = queue.Queue()
        self.client.on_connect = lambda c, u, flags, reason, props: self.present.put(flags.session_present)
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_subscribe = lambda c, u, mid, codes, props: self.granted.put(codes)
        if is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves this one untyped
            properties.SessionExpiryInterval = 300
            self.client.connect("127.0.0.1", port, clean_start=False, properties=properties)
        else:
            self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    async def get(self, source: queue.Queue[T]) -> T:
        return await asyncio.to_thread(source.get, True, HANG_S)

    async def leave(self, *, politely: bool) -> None:
        if politely:
            self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)
        self.client._sock_close()


async def test_paho_gets_offline_and_unacknowledged_messages(broker: Mosquitto | Broker, protocol: str) -> None:
    one = Paho(broker.port, protocol, "sub")
    assert await one.get(one.present) is False
    one.client.subscribe("a/b", qos=1)
    await one.get(one.granted)
    await one.leave(politely=True)
    for text in ("1", "2"):
        await command("mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-t", "a/b", "-m", text)

    two = Paho(broker.port, protocol, "sub")
    assert await two.get(two.present) is True
    first, second = await two.get(two.messages), await two.get(two.messages)
    assert (first.payload, first.dup, second.payload, second.dup) == (b"1", False, b"2", False)
    two.client.ack(first.mid, 1)
    await two.leave(politely=True)

    three = Paho(broker.port, protocol, "sub")
    again = await three.get(three.messages)
    assert (again.payload, again.dup, again.mid) == (b"2", True, second.mid)
    await three.leave(politely=False)
