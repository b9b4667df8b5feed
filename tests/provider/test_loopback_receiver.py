"""The loopback receiver takes the redirect of its own sign-in, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.provider.provider_kit import MARK, assert_no_secret
from tests.watchdog import HANG_S
from token_relay.agents.phone.person import CodeReceived, NotAccepted, SignInRefused
from token_relay.host import loopback_receiver
from token_relay.host.loopback_receiver import LoopbackReceiver
from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import Code

pytestmark = pytest.mark.asyncio

STATE = "s" * 43
CASES = tomllib.loads((Path(__file__).parent / "cases/redirects.toml").read_text("utf-8"))["case"]
STRANGER = os.geteuid() + 12_345
CODE = f"{MARK}-code"


async def send(receiver: LoopbackReceiver, raw: bytes) -> bytes:
    port = urlsplit(receiver.redirect_uri).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        writer.write_eof()
        return await reader.read()
    except ConnectionResetError:
        return b""  # the server closed while more was on its way
    finally:
        writer.close()


async def get(receiver: LoopbackReceiver, query: str, *, path: str = "/callback", host: str | None = None) -> bytes:
    netloc = host or urlsplit(receiver.redirect_uri).netloc
    return await send(receiver, f"GET {path}?{query} HTTP/1.1\r\nHost: {netloc}\r\n\r\n".encode())


async def test_the_redirect_uri_is_the_literal_loopback_address() -> None:
    async with LoopbackReceiver(STATE) as receiver:
        parts = urlsplit(receiver.redirect_uri)
        assert (parts.scheme, parts.hostname, parts.path) == ("http", "127.0.0.1", "/callback")
        assert parts.port


async def test_the_first_free_port_of_the_list_is_taken_and_the_path_is_the_registered_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        used, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        async with LoopbackReceiver(STATE, ports=(used, free), path="/cb") as receiver, asyncio.timeout(HANG_S):
            assert receiver.redirect_uri == f"http://127.0.0.1:{free}/cb"
            page = await get(receiver, f"code={CODE}&state={STATE}")
            assert f"register http://127.0.0.1:{free}/cb as redirect URI".encode() in page
            refused = await receiver.wait()
            assert isinstance(refused, NotAccepted)
            assert "another path than /cb" in refused.why
            await get(receiver, f"code={CODE}&state={STATE}", path="/cb")
            assert await receiver.wait() == CodeReceived(Code(CODE))
        async with LoopbackReceiver(STATE, ports=(free,)) as again:  # free again
            assert again.redirect_uri == f"http://127.0.0.1:{free}/callback"


async def test_ports_that_are_all_taken_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalError, match=f"tried {port}$") as caught:
            async with LoopbackReceiver(STATE, ports=(port,)):
                pass
    assert "ss -ltnp" in caught.value.hint


async def test_the_code_arrives_and_the_page_does_not_show_it() -> None:
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        page = await get(receiver, f"code={CODE}&state={STATE}&session_state=x")
        result = await receiver.wait()
    assert result == CodeReceived(Code(CODE))
    assert_no_secret(result)
    assert page.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"You can close this window" in page
    assert b"default-src 'none'" in page
    assert b"no-store" in page
    for secret in (CODE, STATE):
        assert secret.encode() not in page
    assert b"<script" not in page


async def test_a_refusal_arrives_as_its_slug() -> None:
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        page = await get(receiver, f"error=access_denied&error_description={MARK}&state={STATE}")
        assert await receiver.wait() == SignInRefused("access_denied", MARK)
    assert MARK.encode() not in page
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        await get(receiver, f"error=%1b[2J{MARK}&state={STATE}")
        assert await receiver.wait() == SignInRefused("unrecognised_error")


async def test_a_refusal_keeps_the_ids_for_the_providers_support() -> None:
    trace, correlation = "0f9fbb5f-1f37-4ba4-8ee8-9c0a3a1f0200", "5c1f6b50-2f0a-4d39-9d5c-3a7f5a0f1b11"
    said = f"AADSTS65004: User declined to consent. Trace ID: {trace} Correlation ID: {correlation}"
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        await get(receiver, f"error=access_denied&error_description={quote(said)}&state={STATE}")
        refused = await receiver.wait()
    assert isinstance(refused, SignInRefused)
    assert (refused.codes, refused.trace_id, refused.correlation_id) == ((65004,), trace, correlation)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_what_becomes_of_a_request_of_the_field(case: dict[str, Any]) -> None:
    async with LoopbackReceiver(STATE, issuer="https://p.example") as receiver, asyncio.timeout(HANG_S):
        host = urlsplit(receiver.redirect_uri).netloc
        cookies = [f"Cookie: c{number}={'x' * 1000}" for number in range(case.get("cookies", 0))]
        lines = [case["request"], *cookies, *case["headers"]]
        text = "\r\n".join(line.replace("{state}", STATE).replace("{host}", host) for line in lines)
        page = await send(receiver, text.encode(case.get("encoding", "utf-8")) + b"\r\n\r\n")
        verdict, _, words = case["outcome"].partition(": ")
        is_it = verdict in ("code", "error")
        assert page.startswith(f"HTTP/1.1 {200 if is_it else case.get('status', 400)} ".encode())
        if verdict == "told":
            refused = await receiver.wait()
            assert isinstance(refused, NotAccepted)
            assert words in refused.why
            assert words.encode() in page
        if not is_it:
            assert STATE.encode() not in page
            await get(receiver, f"code={CODE}&state={STATE}&iss=https://p.example")  # the wait has gone on
        expected = {"code": CodeReceived(Code("c")), "error": SignInRefused(words, case.get("description", ""))}
        assert await receiver.wait() == expected.get(verdict, CodeReceived(Code(CODE)))


@pytest.mark.parametrize("raw", [b"", b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\xff\xfe\r\n\r\n", b"A" * 100_000])
async def test_garbage_changes_nothing_and_nobody_is_told(raw: bytes) -> None:
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        page = await send(receiver, raw)
        assert page == b"" or page.startswith(b"HTTP/1.1 4")
        await get(receiver, f"code={CODE}&state={STATE}")
        assert await receiver.wait() == CodeReceived(Code(CODE))


async def test_a_reason_is_told_once_however_often_it_comes() -> None:
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        for _ in range(3):
            await get(receiver, "code=x&state=other")
            await get(receiver, "code=x&state=third")
        assert isinstance(await receiver.wait(), NotAccepted)
        waiting = asyncio.ensure_future(receiver.wait())
        await get(receiver, "code=x&state=other")
        assert not waiting.done()
        await get(receiver, f"code={CODE}&state={STATE}")
        assert await waiting == CodeReceived(Code(CODE))


async def test_only_the_first_redirect_counts() -> None:
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        await get(receiver, f"code={CODE}&state={STATE}")
        assert (await get(receiver, f"code=other&state={STATE}")).startswith(b"HTTP/1.1 400 ")
        assert await receiver.wait() == CodeReceived(Code(CODE))


async def test_a_wait_that_ran_out_may_be_taken_up_again() -> None:
    async with LoopbackReceiver(STATE) as receiver:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await receiver.wait()
        await get(receiver, f"code={CODE}&state={STATE}")
        async with asyncio.timeout(HANG_S):
            assert isinstance(await receiver.wait(), CodeReceived)


async def test_silent_connections_neither_block_the_redirect_nor_outlive_the_receiver() -> None:
    async with asyncio.timeout(HANG_S):
        async with LoopbackReceiver(STATE) as receiver:
            port = urlsplit(receiver.redirect_uri).port
            # by the kernel's own word all of one user, and more than one user may have
            many = loopback_receiver.OWN_CONNECTIONS_MAX + 8
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(many)]
            await get(receiver, f"code={CODE}&state={STATE}")
            assert isinstance(await receiver.wait(), CodeReceived)
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("uid", [os.geteuid(), 0, STRANGER, None])
async def test_no_number_of_silent_connections_of_ones_own_blocks_the_browser(uid: int | None) -> None:
    async with LoopbackReceiver(STATE, owner=lambda client, port: uid) as receiver, asyncio.timeout(HANG_S):
        silent = [await asyncio.open_connection("127.0.0.1", urlsplit(receiver.redirect_uri).port) for _ in range(100)]
        assert (await get(receiver, f"code={CODE}&state={STATE}")).startswith(b"HTTP/1.1 200 ")
        assert isinstance(await receiver.wait(), CodeReceived)
        for _, writer in silent:
            writer.close()


async def test_strangers_neither_push_out_the_person_nor_take_their_room() -> None:
    owners: list[int] = []
    async with LoopbackReceiver(STATE, owner=lambda client, port: owners[-1]) as receiver:
        port = urlsplit(receiver.redirect_uri).port

        async def connect(uid: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            owners.append(uid)
            connection = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0)
            return connection

        async with asyncio.timeout(HANG_S):
            reader, writer = await connect(os.geteuid())
            crowd = [await connect(STRANGER + number % 50) for number in range(400)]
            again = [await connect(os.geteuid()) for _ in range(loopback_receiver.OWN_CONNECTIONS_MAX - 1)]
            head = f"GET /callback?code={CODE}&state={STATE} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
            writer.write(head.encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            assert await receiver.wait() == CodeReceived(Code(CODE))
        for _, other in (*crowd, *again, (reader, writer)):
            other.close()


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_receiver, "REQUEST_TIMEOUT_S", 0.01)
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(receiver.redirect_uri).port)
        writer.write(b"GET /callback?code=x&")
        assert await reader.read() == b""
        writer.close()


async def test_a_state_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="128 bits"):
        LoopbackReceiver("short")
