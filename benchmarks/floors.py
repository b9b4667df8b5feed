"""The floors: the least that the same work costs with the same broker, disk and libraries.

Also a program: ``python -m benchmarks.floors echo PORT FILE`` sends each message of its inbox back, ``… http SOCKET``
answers each HTTP request with the same bytes. They run as processes of their own, as the agents do.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from token_relay.protocol.envelope import ENVELOPE_BYTES

PING, PONG, CHAIN = "floor/echo/ping", "floor/pong", "floor/echo/chain"  # CHAIN: the echo commits before it answers
ECHO_FILTER = "floor/echo/+"
ROWS_KEPT = 8
# what device/token_relay/vault/database.py sets, without what concerns only prepared files
PRAGMAS = ("temp_store=MEMORY", "secure_delete=ON", "journal_mode=DELETE", "synchronous=EXTRA")


class DurableCommits:
    """Raw sqlite3 with the vault's pragmas: one row of an envelope's size per transaction."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in PRAGMAS:
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, state TEXT, envelope BLOB) STRICT")
        self._count = 0

    def commit(self) -> None:
        """Make one row durable."""
        self._count += 1
        row = (self._count % ROWS_KEPT, "x" * 200, os.urandom(ENVELOPE_BYTES[0]))
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", row)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


@asynccontextmanager
async def raw_client(port: int, name: str, topic: str = "", *, protocol: str = "5") -> AsyncIterator[aiomqtt.Client]:
    """Open a plain aiomqtt client with a persistent session, as the agents have one, and TCP_NODELAY."""
    is_new = protocol == "5"
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it open
    properties.SessionExpiryInterval = 3600
    async with aiomqtt.Client(
        "127.0.0.1",
        port,
        identifier=name,
        protocol=aiomqtt.ProtocolVersion.V5 if is_new else aiomqtt.ProtocolVersion.V311,
        clean_session=None if is_new else False,
        clean_start=False if is_new else MQTT_CLEAN_START_FIRST_ONLY,
        properties=properties if is_new else None,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    ) as client:
        if topic:
            await client.subscribe(topic, qos=1)
        yield client


async def round_trip(client: aiomqtt.Client, topic: str = PING) -> None:
    """Send an envelope's worth of bytes to the echo with QoS 1 and wait for it to come back."""
    payload = os.urandom(ENVELOPE_BYTES[0])
    await client.publish(topic, payload, qos=1)
    async for message in client.messages:
        if message.payload == payload:
            return


async def chain(client: aiomqtt.Client, disk: DurableCommits) -> None:
    """Do the least that a handoff needs, in its order: commit, message, commit, message … commit.

    Two round trips and five durable commits: three of them here, two at the echo, each before the next message leaves.
    """
    disk.commit()
    for _ in range(2):
        await round_trip(client, CHAIN)
        disk.commit()


async def echo(port: int, path: Path) -> None:
    """Send everything back until cancelled."""
    disk = DurableCommits(path)
    async with raw_client(port, "floor-echo", ECHO_FILTER) as client:
        sys.stdout.write("echo is there\n")
        sys.stdout.flush()
        async for message in client.messages:
            if message.topic.matches(CHAIN):
                disk.commit()
            await client.publish(PONG, message.payload, qos=1)


async def http(path: Path) -> None:
    """Answer each request on a Unix socket with a fixed token-sized answer: aiohttp and nothing of ours."""
    from aiohttp import web

    body = b'{"access_token": "' + b"x" * 1500 + b'"}'

    async def answer(request: web.BaseRequest) -> web.Response:
        response = web.Response(body=body, headers={"Content-Type": "application/json", "Cache-Control": "no-store"})
        response.force_close()
        return response

    server = await asyncio.get_running_loop().create_unix_server(web.Server(answer), str(path))
    sys.stdout.write("http is there\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["echo", port, path]:
            asyncio.run(echo(int(port), Path(path)))
        case ["http", path]:
            asyncio.run(http(Path(path)))
        case _:
            sys.exit("echo PORT FILE | http SOCKET")
