"""Whatever strangers put on the broker or into the sockets is counted or refused, and changes nothing.

The broker has no access list here: the attacker hears everything and publishes under every name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.kit import Agent, Companion, Phone, World, eventually, pair, ready
from tests.e2e.tap import Heard, Tap
from tests.watchdog import HANG_S
from token_relay.protocol.envelope import ENVELOPE_BYTES
from token_relay.protocol.identity import id_text
from token_relay.protocol.pairing import PAIR_BYTES, PAIR_MAGIC, Invitation
from token_relay.protocol.topics import mailbox_topic

pytestmark = pytest.mark.asyncio
RSS_GROWTH_BYTES_MAX = 12_000_000  # the allocator's play; 2000 kept envelopes alone would be 8 to 33 MB
# What moves with each answer and each greeting; what it counts is in the other columns and tables. A lease goes on with
# a greeting, and each write seals the row anew: the generation tells whether the token is another one.
MOVING = {
    "pairings": {"seq_sent", "seq_high", "peer_accepted", "heard_at", "heard", "challenge", "challenged", "row_mac"},
    "grants": {"lease_used_s", "lease_marked", "lease_wall", "refresh_token", "row_mac"},
}


def disk(agent: Agent) -> dict[str, list[tuple[object, ...]]]:
    """Read every row of a vault that matters, as it lies there (secrets sealed), beside the running agent."""
    found = {}
    uri = f"file:{agent.home}/vault.db?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=HANG_S)) as connection:
        for table in ("identity", "pairings", "outbox", "phone_handoffs", "companion_handoffs", "grants"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            kept = [f'"{name}"' for name in columns if name not in MOVING.get(table, ())]
            found[table] = sorted(connection.execute(f"SELECT {', '.join(kept)} FROM {table}"), key=repr)
    return found


def counted(status: dict[str, Any]) -> int:
    """How many messages were dropped since the start."""
    return sum(status["counters"].values())


def has_counted(number: int, reason: str = "") -> Callable[[dict[str, Any]], bool]:
    """A condition: so many were dropped, for one reason or for any."""
    return lambda status: (status["counters"].get(reason, 0) if reason else counted(status)) >= number


def garbage(rng: random.Random, honest: bytes) -> list[bytes]:
    """Return what no recipient can open, of every kind of wrongness."""
    flipped = bytearray(honest)
    flipped[rng.randrange(60, len(honest))] ^= 1 << rng.randrange(8)
    return [
        b"",
        b"\x00",
        rng.randbytes(rng.randrange(1, 4000)),
        rng.randbytes(20_000),  # within what the broker takes, larger than any envelope
        honest[: rng.randrange(1, len(honest))],
        honest + b"\x00",
        b"RTR1" + rng.randbytes(ENVELOPE_BYTES[0] - 4),
        b"RTR2" + honest[4:],
        honest[:36] + rng.randbytes(24) + honest[60:],  # another nonce
        bytes(flipped),
        b'{"v":1,"type":"REVOKE"}',
    ]


async def test_strangers_on_the_broker_are_counted_and_change_nothing_and_memory_does_not_grow() -> None:
    rng = random.Random(20261121)
    async with World() as world:
        phone, watch = await ready(world)
        async with Tap(world.broker_port) as tap:
            await phone.hand_off(watch)
            await watch.until_generation(2)
            stranger = id_text(rng.randbytes(16))
            ways = {(phone, watch): b"", (watch, phone): b""}
            for recipient, sender in ways:
                ways[recipient, sender] = tap.between(to=recipient.device_id, sender=sender.device_id)[-1].payload
            for (recipient, sender), honest in ways.items():
                before, rows = await recipient.status(), disk(recipient)
                back = ways[sender, recipient]
                inbox = f"relay/v1/{recipient.device_id}/from"
                sent = 0
                for topic in (f"{inbox}/{sender.device_id}", f"{inbox}/{stranger}", f"{inbox}/X!"):
                    payloads = garbage(rng, honest)
                    await tap.publish(topic, *payloads)
                    sent += len(payloads)
                await tap.publish(f"{inbox}/{sender.device_id}", back)  # reflected: it opens at its own sender too
                await tap.publish(f"{inbox}/{stranger}", honest)  # re-addressed
                await tap.publish(f"{inbox}/{sender.device_id}", honest)  # replayed
                sent += 3
                reached = counted(before) + sent
                after = await recipient.until(f"{reached} dropped", has_counted(reached))
                assert counted(after) == reached
                expected = {"bad_length", "bad_magic", "bad_box", "wrong_sender", "wrong_topic", "duplicate"}
                assert expected <= set(after["counters"]), after["counters"]
                assert disk(recipient) == rows
                for status in (before, after):
                    for name in ("counters", "clock"):
                        del status[name]
                    for grant in status.get("grants", []):
                        del grant["lease_left_s"]  # counts down by itself
                assert after == before
            # and much of it
            inbox = f"relay/v1/{watch.device_id}/from/{phone.device_id}"
            honest = ways[watch, phone]
            floods = [garbage(rng, honest)[number % 11] for number in range(2000)]
            reached = counted(await watch.status())
            rss = []
            for begin in range(0, 2000, 400):  # a broker keeps 1000 messages for one session and drops what is more
                await tap.publish(inbox, *floods[begin : begin + 400])
                reached += 400
                await watch.until("400 dropped", has_counted(reached))
                rss.append(watch.running.rss_bytes())
            grown = rss[-1] - rss[0]  # the first batch warms what is allocated once
            print(f"resident memory in bytes after each 400 of 2000 messages: {rss}")
            assert grown < RSS_GROWTH_BYTES_MAX, f"{grown} bytes more"
            await phone.hand_off(watch)
            await watch.token("--force-refresh")


async def test_recorded_handoff_that_is_replayed_is_recognised_also_after_a_restart() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        async with Tap(world.broker_port) as tap:
            await phone.hand_off(watch)
            await watch.until_generation(2)
            recorded = [one for one in tap.heard if "/from/" in one.topic]
            assert len(recorded) >= 5  # OFFER, ACCEPT, TOKEN, STORED, CLOSED
            for round_number in range(2):
                await replayed(tap, recorded, phone, watch)
                if round_number == 0:
                    before = leased(watch)
                    await asyncio.gather(phone.kill(), watch.kill())
                    await asyncio.gather(phone.run(), watch.run())
                    await greeted(phone, watch, before)
            (await phone("revoke", "watch", "--yes")).expect(0)
            # what was good before the revocation is no way back
            await replayed(tap, recorded, phone, watch)
            (await watch("token")).expect(4)
            assert await world.sandbox.count("signed_in") == 1


def leased(watch: Companion) -> list[tuple[object, ...]]:
    """Return when the lease was last renewed."""
    uri = f"file:{watch.home}/vault.db?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=HANG_S)) as vault:
        return vault.execute("SELECT lease_marked FROM grants").fetchall()


async def greeted(phone: Phone, watch: Companion, before: list[tuple[object, ...]]) -> None:
    """Wait until both have heard each other: the phone knows the generation, the companion has another lease.

    Not until no challenge is open: another greeting may open one at any time.
    """
    await phone.until("generation known", lambda s: s["devices"][0]["handoffs"][0]["generation"] == 2)

    async def is_leased() -> bool:
        return leased(watch) != before

    await eventually("the lease was renewed", is_leased)


async def replayed(tap: Tap, recorded: list[Heard], phone: Phone, watch: Companion) -> None:
    """Publish all of it once more, in order, and see that it is noticed and does nothing."""

    async def is_settled() -> bool:
        return not disk(phone)["outbox"] and not disk(watch)["outbox"]

    await eventually("nothing waits for an answer", is_settled)
    rows = {agent: disk(agent) for agent in (phone, watch)}
    duplicates = {agent: (await agent.status())["counters"].get("duplicate", 0) for agent in (phone, watch)}
    meant = {agent: sum(f"/{agent.device_id}/from/" in one.topic for one in recorded) for agent in (phone, watch)}
    for one in recorded:
        await tap.publish(one.topic, one.payload)
    for agent in (phone, watch):
        reached = duplicates[agent] + meant[agent]
        await agent.until(f"{reached} duplicates", has_counted(reached, "duplicate"))
    for agent in (phone, watch):  # a repeated TOKEN is answered with STORED, which CLOSED settles

        async def is_as_it_was(agent: Phone | Companion = agent) -> bool:
            return disk(agent) == rows[agent]

        await eventually(f"the disk of {agent.name} is as it was", is_as_it_was)


async def test_three_forged_answers_burn_an_invitation() -> None:
    rng = random.Random(1)
    async with World() as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        showing = await watch.begin("pair", "--no-qr", "--json")
        text = (await showing.find(r"^RTR1:\S+$"))[0]
        async with Tap(world.broker_port) as tap:
            forged = [PAIR_MAGIC + rng.randbytes(PAIR_BYTES - 4) for _ in range(3)]
            await tap.publish(mailbox_topic(Invitation.from_text(text).mailbox_id), *forged)
            ended = (await showing.ended()).expect(4).json["error"]
            assert "burnt by three bad tries" in ended["message"] and "companion pair" in ended["hint"]
            assert (await watch.status())["phones"] == []
        await pair(phone, watch)  # a new one works


async def test_invitation_that_was_used_pairs_nobody_else() -> None:
    async with World() as world:
        phone, late, watch = await asyncio.gather(world.phone(), world.phone("late"), world.companion("watch"))
        invitation = await watch.invitation()
        (await phone("pair", "--yes", invitation)).expect(0)
        (await late("pair", "--yes", invitation)).expect(4)
        assert (await watch.status())["counters"]["invitation_used"] >= 1
        assert [row["name"] for row in (await watch.status())["phones"]] == ["phone"]
        assert (await late.status())["devices"] == []
        mistyped = invitation[:-3] + ("AAA" if not invitation.endswith("AAA") else "BBB")
        said = (await late("pair", "--yes", mistyped, "--json")).expect(1).json["error"]
        assert "incomplete or mistyped" in said["message"]


async def test_garbage_on_the_token_socket_is_answered_or_cut_and_the_next_app_gets_its_token() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        requests = {
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": (400,),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n": (404,),
            b"POST /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}": (400, 405),
            b"GET /v1/token?scope=a&scope=b HTTP/1.1\r\nHost: x\r\n\r\n": (400,),
            b"GET /v1/token?refresh_token=1 HTTP/1.1\r\nHost: x\r\n\r\n": (400,),
            b"GET /v1/token?min_valid_s=inf HTTP/1.1\r\nHost: x\r\n\r\n": (400,),
            b"GET /v1/token HTTP/0.9\r\n\r\n": (400,),
            b"GET /v1/token HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n": (400, 431, 0),
            b"GET /v1/token?scope=" + b"%00" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n": (400,),
            b"": (0, 400, 408),
        }
        for request, expected in requests.items():
            status, answer = await asyncio.to_thread(ask_raw, watch, "token.sock", request)
            assert status in expected, f"{request[:60]!r}: {answer[:200]!r}"
            assert b"rt." not in answer and b"Traceback" not in answer
        idle = [connect(watch, "token.sock") for _ in range(100)]  # more than it takes of one user
        for one in idle:
            one.close()

        async def has_room() -> bool:  # as soon as the agent has seen that they are gone
            return (await watch("token", is_permitted=True)).code == 0

        await eventually("the next app gets its token", has_room)


async def test_garbage_on_the_control_socket_is_refused_by_name() -> None:
    async with World() as world:
        watch = await world.companion("watch")
        lines = [
            b"hello\n",
            b"\xff\xfe\n",
            b"[]\n",
            b'{"v":2,"command":"status"}\n',
            b'{"v":1,"command":"status","command":"forget"}\n',
            b'{"v":1,"command":"../status"}\n',
            b'{"v":1,"command":"nothing"}\n',
            b'{"v":1,"command":"events","args":{"limit":-1}}\n',
            b'{"v":1,"command":"events","args":{"limit":NaN}}\n',
            b"[" * 60_000 + b"\n",
            b"x" * 70_000 + b"\n",
        ]
        for line in lines:
            _, answer = await asyncio.to_thread(ask_raw, watch, "control.sock", line)
            assert answer.startswith(b'{"error":{"code":"') and answer.count(b"\n") == 1, (line[:60], answer[:200])
            assert b"internal_error" not in answer
        (await watch("status")).expect(0)


def connect(agent: Agent, name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(HANG_S)
    sock.connect(os.fspath(agent.home / name))
    return sock


def ask_raw(agent: Agent, name: str, request: bytes) -> tuple[int, bytes]:
    """Send bytes, say that there are no more, and return the HTTP status (0: none) and the whole answer."""
    with connect(agent, name) as sock:
        answer = b""
        try:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR) if name == "token.sock" and not request else None
            while part := sock.recv(65_536):
                answer += part
        except (BrokenPipeError, ConnectionResetError):
            pass  # cut: an answer too
    head = answer.split(b" ", 2)
    return (int(head[1]) if answer.startswith(b"HTTP/") else 0), answer


async def test_configuration_that_is_wrong_is_named_by_file_and_line() -> None:
    async with World() as world:
        watch = await world.companion("watch")
        await watch.stop()
        path = watch.home / "config.toml"
        good = path.read_text()
        line = next(number for number, text in enumerate(good.split("\n"), 1) if text.startswith("url = "))
        for bad, named in [
            (good.replace('url = "mqtt://', 'url = "gopher://'), f"config.toml:{line}:"),
            (good + "\nsurprise = 1\n", f"config.toml:{good.count(chr(10)) + 2}:"),
            (good.replace("[broker]", "[broker"), "config.toml:"),
            ("\x00\x01", "config.toml"),
        ]:
            path.write_text(bad)
            ran = (await watch("run")).expect(2)
            assert named in ran.err and "Traceback" not in ran.err, ran.err
            assert (await watch("doctor")).expect(3).out.count("FAIL") >= 2
        path.unlink()
        assert "companion init" in (await watch("run")).expect(2).err
        path.write_text(good)
        await watch.run()


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
async def test_damaged_vault_is_set_aside_said_so_and_never_reset_silently(damage: str) -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await watch.kill()
        path = watch.home / "vault.db"
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2] if damage == "cut" else raw[:4096] + os.urandom(4096) + raw[8192:])
        said = (await watch("run")).expect(1).err
        assert "set aside as" in said and "init --force" in said and "Traceback" not in said
        aside = [one.name for one in watch.home.iterdir() if one.name.startswith("vault.db") and one != path]
        assert len(aside) == 1 and not path.exists()
        assert (await watch("run")).expect(1).err.startswith("token-relay: there is no vault")
        old_id = watch.device_id
        anew = ("--broker", world.broker_url, "--name", "watch", "--provider-host", "127.0.0.1", "--force")
        watch.device_id = (await watch("init", *anew)).last_line
        assert watch.device_id != old_id  # a stranger now
        await watch.run()
        (await phone("forget", old_id, "--yes")).expect(0)
        await pair(phone, watch)
        await phone.hand_off(watch)
        await watch.token()


async def test_home_that_others_may_write_to_is_refused() -> None:
    async with World() as world:
        watch = await world.companion("watch", is_running=False)
        (watch.home / "vault.key").chmod(0o644)
        assert "chmod 600" in (await watch("run")).expect(1).err
        (watch.home / "vault.key").chmod(0o600)
        watch.home.chmod(0o777)
        assert "chmod" in (await watch("run")).expect(1).err
        watch.home.chmod(0o700)
        await watch.run()


async def test_messages_beyond_any_limit_do_not_reach_the_agent() -> None:
    async with World(broker="mosquitto") as world:
        watch = await world.companion("watch")
        async with Tap(world.broker_port) as tap:
            await tap.publish(f"relay/v1/{watch.device_id}/from/{watch.device_id}", b"probe")  # its own name, forged
            await tap.publish(f"relay/v1/{watch.device_id}/from/{'a' * 26}", b"x" * 16_528)
            await watch.until("dropped", lambda s: counted(s) >= 1)

        async def is_well() -> bool:
            return bool((await watch.status())["broker"]["connected"])

        await eventually("still connected", is_well)
