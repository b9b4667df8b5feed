"""The loopback receiver takes the redirect of its own sign-in, and nothing else."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.provider.provider_kit import MARK, assert_no_secret
from tests.watchdog import HANG_S
from token_relay.agents.phone.person import CodeReceived, SignInRefused
from token_relay.host.loopback_receiver import LoopbackReceiver
from token_relay.protocol.secret import Code

pytestmark = pytest.mark.asyncio

STATE = "s" * 43
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
        assert await receiver.wait() == SignInRefused("access_denied")
    assert MARK.encode() not in page
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        await get(receiver, f"error=%1b[2J{MARK}&state={STATE}")
        assert await receiver.wait() == SignInRefused("unrecognised_error")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "code=x",
        "code=x&state=",
        f"code=x&state={STATE}x",
        f"code=x&state={STATE[:-1]}",
        "code=x&state=%FF",
        "code=x&state=%C3%A4",
        f"code=&state={STATE}",
        f"state={STATE}",
        f"code=x&code=y&state={STATE}",
        f"code=x&state={STATE}&state=other",
        f"code=x&state={STATE}&" + "a=b&" * 40,
        f"code={'x' * 15_000}&state={STATE}" + "&pad=" + "y" * 5_000,
        f"code=x&state={STATE}&garbage",
        f"code=x&state={STATE}&iss=https://evil.example",
    ],
)
async def test_anything_else_is_400_and_the_wait_goes_on(query: str) -> None:
    async with LoopbackReceiver(STATE, issuer="https://p.example") as receiver, asyncio.timeout(HANG_S):
        page = await get(receiver, query)
        # A request over the limit may be cut off before its answer is read.
        assert page.startswith(b"HTTP/1.1 400 ") or (not page and len(query) > 16_384)
        await get(receiver, f"code={CODE}&state={STATE}&iss=https://p.example")
        assert await receiver.wait() == CodeReceived(Code(CODE))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /callback?code=x&state=" + STATE.encode() + b" HTTP/1.1\r\n\r\n",  # no Host
        b"POST /callback?code=x&state=" + STATE.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"A" * 100_000,
    ],
)
async def test_garbage_changes_nothing(raw: bytes) -> None:
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        page = await send(receiver, raw)
        assert page == b"" or page.startswith(b"HTTP/1.1 400 ")
        await get(receiver, f"code={CODE}&state={STATE}")
        assert await receiver.wait() == CodeReceived(Code(CODE))


async def test_another_path_or_another_host_name_is_not_the_redirect() -> None:
    good = f"code={CODE}&state={STATE}"
    async with LoopbackReceiver(STATE) as receiver, asyncio.timeout(HANG_S):
        assert (await get(receiver, good, path="/favicon.ico")).startswith(b"HTTP/1.1 400 ")
        assert (await get(receiver, good, host="rebound.example")).startswith(b"HTTP/1.1 400 ")
        await get(receiver, good)
        assert isinstance(await receiver.wait(), CodeReceived)


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
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
            await get(receiver, f"code={CODE}&state={STATE}")
            assert isinstance(await receiver.wait(), CodeReceived)
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_state_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="128 bits"):
        LoopbackReceiver("short")
