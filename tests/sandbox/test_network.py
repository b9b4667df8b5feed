"""Links between two real sockets: what passes, what vanishes, who is told, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio

from tests.sandbox.test_sandbox_main import self_signed
from tests.watchdog import HANG_S
from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.links import network as module
from token_relay.sandbox.links.connection import IN_FLIGHT_BYTES_MAX, set_to_reset
from token_relay.sandbox.links.network import CONNECTIONS_MAX, Network, TcpLink
from token_relay.sandbox.links.orders import LINK_NAMES, Cut, LinkState, Slow, Whole

LONG = 48_000_000  # bytes; more than all socket buffers between the two hold


@dataclass
class Peer:
    """One connection as the server holds it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


def transport_of(peer: Peer) -> asyncio.Transport:
    transport = peer.writer.transport
    assert isinstance(transport, asyncio.Transport)  # a socket's: it can be read too
    return transport


@dataclass
class Far:
    """A server that does only what the test does with its connections."""

    port: int = 0
    peers: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue)
    accepted: list[Peer] = field(default_factory=list)

    async def peer(self) -> Peer:
        async with asyncio.timeout(HANG_S):
            return await self.peers.get()


@contextlib.asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None) -> AsyncIterator[Far]:
    far = Far()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far.accepted.append(Peer(reader, writer))
        far.peers.put_nowait(far.accepted[-1])
        await ended.wait()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    far.port = server.sockets[0].getsockname()[1]
    try:
        yield far
    finally:
        ended.set()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def far() -> AsyncIterator[Far]:
    async with listening() as server:
        yield server


@pytest_asyncio.fixture
async def link(far: Far) -> AsyncIterator[TcpLink]:
    async with TcpLink("phone-broker", "127.0.0.1", far.port) as one:
        yield one


@contextlib.asynccontextmanager
async def connected(link: TcpLink) -> AsyncIterator[Peer]:
    async with asyncio.timeout(HANG_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def receive(peer: Peer, count: int) -> bytes:
    async with asyncio.timeout(HANG_S):
        return await peer.reader.readexactly(count)


async def is_reset(peer: Peer) -> bool:
    async with asyncio.timeout(HANG_S):
        try:
            while await peer.reader.read(65_536):
                pass
        except ConnectionResetError:
            return True
    return False


async def until_lost(link: TcpLink, count: int) -> None:
    """Wait until the link has swallowed so many bytes: its only sign that they have come."""
    async with asyncio.timeout(HANG_S):
        while link.bytes_lost < count:
            await asyncio.sleep(0)


async def until_held(link: TcpLink, count: int, way: Literal["up", "down"] = "up") -> None:
    """Wait until a slow link holds so many bytes: into its queue, and not out of it yet."""
    async with asyncio.timeout(HANG_S):
        while sum(connection.pipe(way)._waiting_bytes for connection in link._connections) < count:
            await asyncio.sleep(0)


async def is_silent(peer: Peer) -> bool:
    """Nothing arrives, not even an end. Each byte that could come is on this machine already."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await peer.reader.read(1)
    return True


# -- whole -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_whole_link_passes_both_ways_and_counts(far: Far, link: TcpLink) -> None:
    async with connected(link) as near:
        near.writer.write(b"question")
        peer = await far.peer()
        assert await receive(peer, 8) == b"question"
        peer.writer.write(b"an answer")
        assert await receive(near, 9) == b"an answer"
        report = link.status()
        assert (report.state, report.connections, report.connections_in_all) == (Whole(), 1, 1)
        assert (report.bytes_up, report.bytes_down, report.bytes_lost) == (8, 9, 0)
        assert report.target == f"127.0.0.1:{far.port}" and report.address == f"127.0.0.1:{link.port}"


@pytest.mark.asyncio
async def test_each_direction_ends_by_itself_and_the_end_comes_after_the_last_byte(far: Far, link: TcpLink) -> None:
    async with connected(link) as near:
        near.writer.write(b"x" * 1_000_000)
        near.writer.write_eof()
        peer = await far.peer()
        async with asyncio.timeout(HANG_S):
            assert len(await peer.reader.read()) == 1_000_000
        peer.writer.write(b"late answer")
        peer.writer.close()
        async with asyncio.timeout(HANG_S):
            assert await near.reader.read() == b"late answer"
    await gone(link)


async def gone(link: TcpLink) -> None:
    async with asyncio.timeout(HANG_S):
        while link.status().connections:
            await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.parametrize("ends", ["device", "server"])
async def test_a_reset_at_one_end_reaches_the_other(far: Far, link: TcpLink, ends: Literal["device", "server"]) -> None:
    async with connected(link) as near:
        peer = await far.peer()
        # unread bytes make the kernel answer a close with a reset
        one, other = (near, peer) if ends == "device" else (peer, near)
        other.writer.write(b"never read")
        await receive(one, 1)
        transport_of(one).pause_reading()
        other.writer.write(b"never read either")
        set_to_reset(one.writer.get_extra_info("socket"))
        one.writer.transport.abort()
        assert await is_reset(other)
    await gone(link)


@pytest.mark.asyncio
async def test_a_reader_that_does_not_read_stops_the_sender(far: Far, link: TcpLink) -> None:
    async with connected(link) as near:
        peer = await far.peer()
        transport_of(peer).pause_reading()
        near.writer.write(b"x" * LONG)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await near.writer.drain()
        assert link.passed["up"] < LONG
        transport_of(peer).resume_reading()
        assert await receive(peer, LONG) == b"x" * LONG


@pytest.mark.asyncio
async def test_tls_passes_as_anything_else(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    trusting = ssl.create_default_context(cafile=str(cert))
    async with listening(tls) as far, TcpLink("phone-broker", "127.0.0.1", far.port) as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port, ssl=trusting)
        writer.write(b"sealed")
        assert await receive(await far.peer(), 6) == b"sealed"
        link.cut()
        assert await is_reset(Peer(reader, writer))
        writer.transport.abort()


# -- cut ---------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_refuse_resets_what_is_open_and_refuses_what_comes(far: Far, link: TcpLink) -> None:
    async with connected(link) as near:
        peer = await far.peer()
        link.cut()
        assert await is_reset(near) and await is_reset(peer)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", link.port)
    link.heal()
    async with connected(link) as near:
        near.writer.write(b"again")
        assert await receive(await far.peer(), 5) == b"again"
    assert link.status().state == Whole()


@pytest.mark.asyncio
async def test_the_port_of_a_refusing_link_is_not_given_away(far: Far, link: TcpLink) -> None:
    link.cut()
    with pytest.raises(OSError):
        await asyncio.start_server(lambda *_: None, "127.0.0.1", link.port, reuse_address=False)
    port = link.port
    link.heal()
    assert link.port == port
    async with connected(link):
        await far.peer()


@pytest.mark.asyncio
async def test_blackhole_resets_what_is_open_and_swallows_what_comes(far: Far, link: TcpLink) -> None:
    async with connected(link) as near:
        peer = await far.peer()
        link.cut("blackhole")
        assert await is_reset(near) and await is_reset(peer)
    async with connected(link) as near:
        near.writer.write(b"into the dark")
        await until_lost(link, 13)
        assert await is_silent(near) and len(far.accepted) == 1
        link.heal()
        assert await is_reset(near)


@pytest.mark.asyncio
async def test_drop_tells_nobody_and_a_stream_with_a_hole_never_goes_on(far: Far, link: TcpLink) -> None:
    async with connected(link) as near, connected(link) as quiet:
        first = await far.peer()
        second = await far.peer()
        near.writer.write(b"1")
        quiet.writer.write(b"2")
        heard = {await receive(first, 1): first, await receive(second, 1): second}
        link.cut("drop")
        near.writer.write(b"lost")
        await until_lost(link, 4)
        assert await is_silent(heard[b"1"]) and await is_silent(near)
        async with connected(link) as new:
            assert await is_silent(new) and len(far.accepted) == 2
            link.heal()
            assert await is_reset(new)
        assert await is_reset(near) and await is_reset(heard[b"1"])
        quiet.writer.write(b"untouched")  # it lost nothing: TCP would have gone on too
        assert await receive(heard[b"2"], 9) == b"untouched"


@pytest.mark.asyncio
async def test_drop_hides_the_end_of_the_other_program(far: Far, link: TcpLink) -> None:
    async with connected(link) as near:
        peer = await far.peer()
        link.cut("drop")
        near.writer.write(b"x")
        await until_lost(link, 1)
        near.writer.transport.abort()
        assert await is_silent(peer)
        link.heal()
        assert await is_reset(peer)
    await gone(link)


@pytest.mark.asyncio
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_one_direction_is_cut_and_the_other_goes_on(
    far: Far, link: TcpLink, direction: Literal["up", "down"]
) -> None:
    async with connected(link) as near:
        peer = await far.peer()
        link.cut("drop", direction)
        dead, alive = (near, peer) if direction == "up" else (peer, near)
        dead.writer.write(b"lost")
        await until_lost(link, 4)
        alive.writer.write(b"heard")
        assert await receive(dead, 5) == b"heard"
        assert await is_silent(alive)
        async with connected(link):  # new connections come about: it is the bytes that vanish
            await far.peer()
        other: Literal["up", "down"] = "down" if direction == "up" else "up"
        link.cut("drop", other)  # the direction with the hole would go on now
        assert await is_reset(near) and await is_reset(peer)


def test_only_drop_knows_directions() -> None:
    link = TcpLink("phone-broker", "127.0.0.1", 1)
    for how in ("refuse", "blackhole"):
        with pytest.raises(ValueError, match="only be cut with drop"):
            link.cut(how, "up")
    assert link.state == Whole()


@pytest.mark.asyncio
async def test_a_cut_link_can_be_cut_in_another_way(far: Far, link: TcpLink) -> None:
    link.cut("blackhole")
    async with connected(link) as near:
        near.writer.write(b"x")
        await until_lost(link, 1)
        link.cut("drop")
        assert await is_silent(near)
        link.cut("refuse")
        assert await is_reset(near)
    link.cut("drop", "down")
    async with connected(link) as near:
        peer = await far.peer()
        link.cut("blackhole")
        assert await is_reset(near) and await is_reset(peer)


@pytest.mark.asyncio
async def test_no_byte_passes_once_cut_has_returned(far: Far, link: TcpLink) -> None:
    link.slow(latency_s=600)
    async with connected(link) as near:
        peer = await far.peer()
        near.writer.write(b"on its way")
        await until_held(link, 10)
        link.cut("drop")
        assert link.status().bytes_lost == 10 and link.status().bytes_up == 0
        link.heal()
        assert await is_reset(peer)


# -- slow --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_latency_delays_each_way_and_does_not_add_up_within_one(far: Far, link: TcpLink) -> None:
    """Told by what overtakes what: a whole link a slow one, and ten delays that began together one that began later."""
    link.slow(latency_s=0.5)
    async with (
        TcpLink("companion-broker", "127.0.0.1", far.port) as whole,
        connected(whole) as quick,
        connected(link) as later,
    ):
        quick_peer, later_peer = await far.peer(), await far.peer()
        async with connected(link) as near:
            peer = await far.peer()
            for number in range(10):
                near.writer.write(b"x" * 100)
                await until_held(link, 100 * (number + 1))  # ten separate reads
            quick.writer.write(b"q")
            assert await receive(quick_peer, 1) == b"q"
            assert link.passed["up"] == 0, "the delay of the way up"
            assert await receive(peer, 100) == b"x" * 100
            later.writer.write(b"later")
            assert await receive(peer, 900) == b"x" * 900
            assert link.passed["up"] == 1000, "ten delays in a row would end long after the later one"
            assert await receive(later_peer, 5) == b"later"
            peer.writer.write(b"y")
            await until_held(link, 1, "down")
            quick_peer.writer.write(b"q")
            assert await receive(quick, 1) == b"q"
            assert link.passed["down"] == 0, "the delay of the way down"
            assert await receive(near, 1) == b"y"


@pytest.mark.asyncio
async def test_a_rate_is_kept_in_order_and_healing_lets_the_rest_go_at_once(far: Far, link: TcpLink) -> None:
    sent = bytes(range(256)) * 8
    link.slow(bytes_per_s=200)  # ten seconds for all of it
    async with connected(link) as near:
        peer = await far.peer()
        near.writer.write(sent)
        assert await receive(peer, 64) == sent[:64]
        assert link.passed["up"] < len(sent)
        link.slow(bytes_per_s=1)  # the rest would take longer than the watchdog waits
        near.writer.write(b"end")
        link.heal()
        assert await receive(peer, len(sent) - 64 + 3) == sent[64:] + b"end"


@pytest.mark.asyncio
async def test_slow_bytes_are_bounded_and_then_the_sender_is_not_read(far: Far, link: TcpLink) -> None:
    link.slow(latency_s=600)
    async with connected(link) as near:
        await far.peer()
        near.writer.write(b"x" * LONG)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await near.writer.drain()
        (connection,) = link._connections
        assert IN_FLIGHT_BYTES_MAX <= connection.pipe("up")._waiting_bytes < 2 * IN_FLIGHT_BYTES_MAX


def test_numbers_out_of_range_are_refused() -> None:
    for latency_s, bytes_per_s in ((-1, None), (601, None), (0, 0), (0, 2e9), (0, None), (float("nan"), None)):
        with pytest.raises(ValueError):
            Slow(latency_s, bytes_per_s)


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_to_a_link_what_arrives_is_a_beginning_of_what_was_sent(
    far: Far, link: TcpLink, seed: int
) -> None:
    rng = random.Random(seed)
    states: list[LinkState] = [
        Whole(),
        Slow(0.002),
        Slow(0.0, 200_000),
        Cut("drop"),
        Cut("drop", "up"),
        Cut("drop", "down"),
    ]
    states += [Cut("blackhole"), Cut("refuse")]
    arrived = 0
    for _ in range(8):
        link.heal()
        async with connected(link) as near, asyncio.TaskGroup() as tasks:
            peer = await far.peer()
            sent = {"up": b"", "down": b""}
            # read all the time: a StreamReader forgets what it has not handed out when a reset comes
            came = {"up": tasks.create_task(all_that_comes(peer)), "down": tasks.create_task(all_that_comes(near))}
            for _ in range(12):
                for way, end in (("up", near), ("down", peer)):
                    if not end.writer.is_closing():
                        piece = rng.randbytes(rng.choice((1, 100, 30_000)))
                        end.writer.write(piece)
                        sent[way] += piece
                if rng.random() < 0.2:
                    link.set(rng.choice(states))
                await asyncio.sleep(rng.choice((0, 0.001, 0.004)))
            link.heal()
            for end in (near, peer):
                if not end.writer.is_closing():
                    end.writer.write_eof()  # after the last byte, unless there was a reset
        for way, task in came.items():
            arrived += len(task.result())
            assert sent[way].startswith(task.result()), f"{way}: a hole, or another order"
        peer.writer.transport.abort()
        await gone(link)
    assert arrived > 10_000, "the link let nothing pass, so nothing was tried"


async def all_that_comes(peer: Peer) -> bytes:
    came = b""
    async with asyncio.timeout(HANG_S):
        try:
            while data := await peer.reader.read(65_536):
                came += data
        except ConnectionError:
            pass  # a reset; what came before it counts
    return came


# -- bounds and ends ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_connections_are_bounded(far: Far, link: TcpLink, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CONNECTIONS_MAX <= 1024
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 2)
    async with connected(link), connected(link):
        await far.peer()
        await far.peer()
        with pytest.raises(ConnectionResetError):
            async with connected(link) as third:
                await third.reader.read(1)
        for peer in far.accepted:
            peer.writer.close()
    await gone(link)
    async with connected(link):
        await far.peer()


@pytest.mark.asyncio
async def test_a_process_without_file_descriptors_waits_and_does_not_spin(
    far: Far, link: TcpLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE_S", 0.05)
    calls = 0

    class Exhausted:
        def fileno(self) -> int:
            assert link_socket is not None
            return link_socket.fileno()

        def accept(self) -> None:
            nonlocal calls
            calls += 1
            link._listener = link_socket  # the next time there is one again
            raise OSError(errno.EMFILE, "no descriptor left")

    link_socket = link._listener
    link._listener = Exhausted()  # type: ignore[assignment]  # stands in for one call
    async with connected(link) as near:
        near.writer.write(b"patience")
        assert await receive(await far.peer(), 8) == b"patience"
    assert calls == 1


@pytest.mark.asyncio
async def test_a_target_that_does_not_listen_resets(far: Far) -> None:
    async with TcpLink("phone-broker", "127.0.0.1", far.port) as nearer:
        nearer.cut()
        async with TcpLink("companion-broker", "127.0.0.1", nearer.port) as link:
            with pytest.raises(ConnectionResetError):
                async with connected(link) as near:
                    await near.reader.read(1)
            await gone(link)


@pytest.mark.asyncio
async def test_stop_resets_everything_and_frees_the_port(far: Far) -> None:
    link = await TcpLink("phone-broker", "127.0.0.1", far.port).start()
    async with connected(link) as near:
        peer = await far.peer()
        await link.stop()
        assert await is_reset(near) and await is_reset(peer)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", link.port)
    with pytest.raises(ConfigError, match=rf"link phone-broker: cannot listen on 127.0.0.1:{link.port}"):
        await link.start()
    server.close()
    await server.wait_closed()


@pytest.mark.asyncio
async def test_a_link_that_was_cut_before_its_start_begins_cut(far: Far) -> None:
    link = TcpLink("phone-broker", "127.0.0.1", far.port)
    link.cut()
    async with link:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", link.port)
        link.heal()
        async with connected(link):
            await far.peer()


# -- the four ----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_four_links_are_told_by_name_or_all_at_once(far: Far) -> None:
    now = [1_000.0]
    async with (
        listening() as provider,
        Network.between(
            broker=("127.0.0.1", far.port), provider=("127.0.0.1", provider.port), wall=lambda: now[0]
        ) as network,
    ):
        assert tuple(network) == LINK_NAMES
        async with connected(network["phone-broker"]), connected(network["companion-provider"]):
            await far.peer()
            await provider.peer()
        now[0] = 2_000.0
        network.cut("phone-broker", "phone-provider", how="blackhole")
        assert [type(one.state) for one in network.status()] == [Cut, Whole, Cut, Whole]
        assert [one.since for one in network.status()] == [2_000, 1_000, 2_000, 1_000]
        now[0] = 3_000.0
        network.cut("phone-broker", how="blackhole")  # as before: since is since when
        assert network["phone-broker"].status().since == 2_000
        with pytest.raises(KeyError):
            network.heal("phone-broker", "no-such-link")
        assert network["phone-broker"].state == Cut("blackhole")
        network.slow(latency_s=1)
        assert {one.state for one in network.status()} == {Slow(1)}
        network.heal()
        assert {one.state for one in network.status()} == {Whole()}


@pytest.mark.asyncio
async def test_a_network_of_which_one_port_is_taken_does_not_start_at_all(far: Far) -> None:
    places = ("127.0.0.1", far.port)
    network = Network.between(broker=places, provider=places, ports={"companion-provider": far.port})
    with pytest.raises(ConfigError, match="link companion-provider"):
        await network.start()
    for name in LINK_NAMES[:-1]:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", network[name].port)
