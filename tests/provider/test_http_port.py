"""The Http port knows exactly whether a request can have reached the provider, whatever the network does.

Each test is a server that misbehaves at one stage of an exchange, on a real socket.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.provider.http_kit import answering, raw_answer, read_request, serve
from tests.provider.provider_kit import MARK, REFRESH_TOKEN, assert_no_secret
from tests.watchdog import HANG_S
from token_relay.agents.phone.sign_in_advice import advice_about
from token_relay.agents.provider_failures import action_for
from token_relay.host.http import AioHttp
from token_relay.protocol.secret import Secret
from token_relay.provider.discovery import DiscoveryFailed
from token_relay.provider.http import RESPONSE_BYTES_MAX, AnswerLost, HttpRequest, HttpResponse, NotSent, url_problem
from token_relay.provider.profile import STRICT

pytestmark = pytest.mark.asyncio

FORM: tuple[tuple[str, str | Secret[str]], ...] = (("grant_type", "refresh_token"), ("refresh_token", REFRESH_TOKEN))


@pytest_asyncio.fixture
async def http() -> AsyncIterator[AioHttp]:
    port = AioHttp()
    yield port
    await port.close()


def post(port: int, *, scheme: str = "http", host: str = "127.0.0.1", timeout_s: float = 20.0) -> HttpRequest:
    return HttpRequest("POST", f"{scheme}://{host}:{port}/token", form=FORM, timeout_s=timeout_s)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, as a rebooting router's NAT or a killed process does."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# -- Waiting for a connection ------------------------------------------------------------------------------


async def test_the_time_of_a_request_begins_when_a_connection_is_free(http: AioHttp) -> None:
    """A request that waits has not been sent: it is cut off neither half-way, nor as one whose answer was lost."""
    http._free = asyncio.Semaphore(1)
    go_on, arrived = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await go_on.wait()
        writer.write(raw_answer(b"{}"))
        await writer.drain()
        writer.close()

    async with serve(slow) as port:
        first = asyncio.create_task(http.request(post(port, timeout_s=HANG_S)))
        await arrived.wait()
        assert await http.request(post(port, timeout_s=0.05)) == NotSent("too many requests are under way")
        second = asyncio.create_task(http.request(post(port, timeout_s=HANG_S)))
        await asyncio.sleep(0)
        go_on.set()
        for answered in (await first, await second):
            assert isinstance(answered, HttpResponse) and answered.status == 200


# -- A whole answer ----------------------------------------------------------------------------------------


async def test_a_form_goes_out_encoded_and_a_whole_answer_comes_back(http: AioHttp) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(raw_answer(b'{"a": 1}', "X-Twice: 1", "x-twice: 2", "Set-Cookie: a=b"))
        await writer.drain()

    async with serve(handler) as port:
        request = HttpRequest("POST", f"http://127.0.0.1:{port}/t?q=%2F", form=(*FORM, ("scope", "a b&c=ü")))
        first = await http.request(request)
        await http.request(request)
    assert isinstance(first, HttpResponse)
    assert (first.status, first.body, first.headers["x-twice"]) == (200, b'{"a": 1}', "1")
    assert repr(first) == "HttpResponse(status=200)"  # neither body nor headers are shown
    head, body = seen[0]
    assert head.startswith(b"POST /t?q=%2F HTTP/1.1\r\n")
    assert body == f"grant_type=refresh_token&refresh_token={MARK}-rt-0&scope=a+b%26c%3D%C3%BC".encode()
    lower = seen[1][0].lower()
    assert b"cookie" not in lower  # nothing is carried from one request to the next
    assert b"connection: close" in lower
    assert b"accept-encoding: identity" in lower


async def test_a_redirect_is_an_answer_not_a_way_to_go(http: AioHttp) -> None:
    async with serve(answering(raw_answer(b"", "Location: http://127.0.0.1:1/", status="307 X"))) as port:
        answer = await http.request(post(port))
    assert isinstance(answer, HttpResponse)
    assert answer.status == 307


async def test_the_environments_proxy_is_ignored(http: AioHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serve(answering(raw_answer(b"{}"))) as port:
        assert isinstance(await http.request(post(port)), HttpResponse)


async def test_localhost_is_this_machine_without_asking_anybody(http: AioHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(answering(raw_answer(b"{}"))) as port:
        await http.request(post(port))  # the session is open; now names stop working
        real = socket.getaddrinfo

        def only_addresses(host: str, *args: object, **more: object) -> object:
            ip_address(host)
            return real(host, *args, **more)  # type: ignore[arg-type]  # passed through as it came

        monkeypatch.setattr(socket, "getaddrinfo", only_addresses)
        assert isinstance(await http.request(post(port, host="localhost")), HttpResponse)


# -- Certainly not sent ------------------------------------------------------------------------------------


async def test_a_name_that_does_not_resolve_is_not_sent(http: AioHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **more: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    answer = await http.request(post(443, scheme="https", host="nowhere.example"))
    assert answer == NotSent("the name nowhere.example cannot be resolved")


async def test_a_refused_connection_is_not_sent(http: AioHttp) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, never listening: no other process can take the port meanwhile
        answer = await http.request(post(unused.getsockname()[1]))
    assert answer == NotSent("no connection to 127.0.0.1: connection refused")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/token",
        "http://192.168.1.5/token",
        "http://127.0.0.1.example.com/",
        "http://127.1/",
        "http://2130706433/",
        "https://user:pw@example.com/",
        "ftp://example.com/",
        "https://",
        "https://example.com:99999/",
        "https://example.com/a b",
        "https://example.com/\r\nX: 1",
        "https://exämple.com/",
        "https://example.com/#x",
        "https://[::1/",
        "https://example.com/" + "x" * 2048,
        "",
    ],
)
async def test_a_url_that_no_secret_may_go_to_is_refused_unsent(http: AioHttp, url: str) -> None:
    answer = await http.request(HttpRequest("POST", url, form=FORM))
    assert isinstance(answer, NotSent)
    assert answer.reason.startswith("refused: the URL ")


@pytest.mark.parametrize(
    "url", ["https://example.com", "https://example.com:8443/a?b=c%20d", "http://[::1]:80/", "http://127.9.9.9/"]
)
async def test_a_url_that_is_fine_has_no_problem(url: str) -> None:
    assert url_problem(url) == ""


async def test_a_silent_handshake_that_times_out_is_not_sent(http: AioHttp) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serve(handler) as port:
        assert await http.request(post(port, scheme="https", timeout_s=1.0)) == NotSent("no connection in time")


@pytest.mark.parametrize("how", [reset, asyncio.StreamWriter.close])
async def test_a_handshake_that_breaks_is_not_sent(http: AioHttp, how: Callable[[asyncio.StreamWriter], None]) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # the client's hello has begun
        how(writer)

    async with serve(handler) as port:
        assert isinstance(await http.request(post(port, scheme="https")), NotSent)


async def test_a_server_without_tls_is_not_sent_to(http: AioHttp) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with serve(handler) as port:
        answer = await http.request(post(port, scheme="https"))
    assert answer == NotSent("TLS with 127.0.0.1 failed")


# -- TLS ---------------------------------------------------------------------------------------------------


def certificate(directory: Path, host: str, *, days: int = 0) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate that signs itself, for an address or a name; return the server's context and the file.

    It is valid for an hour before and after a moment that is ``days`` from now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    now = datetime.now(UTC) + timedelta(days=days)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context, cert_file


async def test_an_unknown_certificate_is_refused_and_a_given_ca_accepted(http: AioHttp, tmp_path: Path) -> None:
    context, cert_file = certificate(tmp_path, "127.0.0.1")
    with_ca = AioHttp(ca_file=cert_file)
    async with serve(answering(raw_answer(b"{}")), context) as port:
        refused = await http.request(post(port, scheme="https"))
        accepted = await with_ca.request(post(port, scheme="https"))
    await with_ca.close()
    assert refused == NotSent("the certificate of 127.0.0.1 is of a CA that is not known here: test")
    assert 'ca = "/path' in advice_about(DiscoveryFailed(refused.reason, is_temporary=True), STRICT)
    assert isinstance(accepted, HttpResponse)


async def test_a_renewed_ca_counts_from_the_next_request_on_and_a_broken_file_never(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, first_file = certificate(tmp_path / "a", "127.0.0.1")
    second, second_file = certificate(tmp_path / "b", "127.0.0.1")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(first_file.read_bytes())
    http = AioHttp(ca_file=ca_file)
    async with serve(answering(raw_answer(b"{}")), first) as old, serve(answering(raw_answer(b"{}")), second) as new:
        assert isinstance(await http.request(post(old, scheme="https")), HttpResponse)
        assert isinstance(await http.request(post(new, scheme="https")), NotSent)
        ca_file.write_bytes(b"half copied")
        assert isinstance(await http.request(post(old, scheme="https")), HttpResponse)
        ca_file.unlink()
        assert isinstance(await http.request(post(old, scheme="https")), HttpResponse)
        ca_file.write_bytes(second_file.read_bytes())
        assert isinstance(await http.request(post(new, scheme="https")), HttpResponse)
        assert isinstance(await http.request(post(old, scheme="https")), NotSent)
    await http.close()


async def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    context, cert_file = certificate(tmp_path, "other.example")
    with_ca = AioHttp(ca_file=cert_file)
    async with serve(answering(raw_answer(b"{}")), context) as port:
        answer = await with_ca.request(post(port, scheme="https"))
    await with_ca.close()
    assert answer == NotSent("the certificate of 127.0.0.1 is for another name: other.example")


@pytest.mark.parametrize(
    ("days", "host", "is_known", "said", "at_the_phone", "at_the_companion"),
    [
        (0, "127.0.0.1", False, "is of a CA that is not known here: test", 'ca = "/path', 'ca = "/path'),
        (0, "other.example", True, "is for another name: other.example", "one of these names in provider.url", ""),
        (-9, "127.0.0.1", True, "expired on {end:%Y-%m-%d %H:%MZ}, the clock here says", "must renew", "must renew"),
        (
            9,
            "127.0.0.1",
            True,
            "is not valid before {begin:%Y-%m-%d %H:%MZ}, the clock here",
            "set the",
            "set the clock",
        ),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_told_apart_with_one_thing_to_do(
    tmp_path: Path, days: int, host: str, is_known: bool, said: str, at_the_phone: str, at_the_companion: str
) -> None:
    context, cert_file = certificate(tmp_path, host, days=days)
    shown = x509.load_pem_x509_certificate(cert_file.read_bytes())
    http = AioHttp(ca_file=cert_file if is_known else None)
    async with serve(answering(raw_answer(b"{}")), context) as port:
        answer = await http.request(post(port, scheme="https"))
    await http.close()
    assert isinstance(answer, NotSent)
    expected = said.format(begin=shown.not_valid_before_utc, end=shown.not_valid_after_utc)
    assert answer.reason.startswith(f"the certificate of 127.0.0.1 {expected}")
    for is_phone, action in ((True, at_the_phone), (False, at_the_companion)):
        told = action_for(answer.reason, is_phone=is_phone)
        assert action in told if action else told == ""


async def test_a_route_changes_where_a_connection_goes_and_nothing_else(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await read_request(reader))[0])
        writer.write(raw_answer(b"{}"))
        await writer.drain()

    context, cert_file = certificate(tmp_path, "idp.example")
    async with serve(handler) as plain, serve(handler, context) as sealed:
        for scheme, host, port, expected in (
            ("http", "127.0.0.1", plain, b"Host: 127.0.0.1:1\r\n"),
            ("https", "idp.example", sealed, b"Host: idp.example:1\r\n"),
        ):
            routed = AioHttp(ca_file=cert_file, route=("127.0.0.1", port))
            assert isinstance(await routed.request(post(1, scheme=scheme, host=host)), HttpResponse)
            assert heads[-1].startswith(b"POST /token HTTP/1.1\r\n") and expected in heads[-1]
            await routed.close()
        routed = AioHttp(ca_file=cert_file, route=("127.0.0.1", sealed))
        other = await routed.request(post(1, scheme="https", host="other.example"))
        elsewhere = await routed.request(post(1, scheme="http", host="idp.example"))
        await routed.close()
    assert other == NotSent("the certificate of other.example is for another name: idp.example")
    assert isinstance(elsewhere, NotSent) and "refused: the URL" in elsewhere.reason
    assert len(heads) == 2


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_a_ca_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    http = AioHttp(ca_file=ca_file)
    answer = await http.request(post(1, scheme="https"))
    await http.close()
    assert answer == NotSent(f"the CA file {ca_file} cannot be read")


# -- Possibly processed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [reset, asyncio.StreamWriter.close])
async def test_a_connection_closed_before_the_request_was_read_is_lost(
    http: AioHttp, how: Callable[[asyncio.StreamWriter], None]
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        how(writer)

    async with serve(handler) as port:
        answer = await http.request(post(port))
    # The client's bytes were on their way; only this test knows that they were not read.
    assert isinstance(answer, AnswerLost)


@pytest.mark.parametrize("how", [reset, asyncio.StreamWriter.close])
@pytest.mark.parametrize(
    "partial",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"refresh_token"',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"ref\r\n',
    ],
)
async def test_an_answer_that_breaks_off_is_lost(
    http: AioHttp, how: Callable[[asyncio.StreamWriter], None], partial: bytes
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(partial)
        await writer.drain()
        how(writer)

    async with serve(handler) as port:
        assert isinstance(await http.request(post(port)), AnswerLost)


@pytest.mark.parametrize(
    ("head", "sent"),
    [
        (b"Content-Length: 50", b'{"refresh_token":"a"}'),
        (b"Transfer-Encoding: chunked", b'15\r\n{"refresh_token":"a"}\r\n'),
        (b"Transfer-Encoding: chunked", b'15\r\n{"refresh_token":"a"}\r\n0\r\n'),
    ],
)
async def test_a_whole_object_is_taken_though_more_was_announced(http: AioHttp, head: bytes, sent: bytes) -> None:
    async with serve(answering(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + sent)) as port:
        answer = await http.request(post(port))
    assert isinstance(answer, HttpResponse) and answer.body == b'{"refresh_token":"a"}'


@pytest.mark.parametrize("partial", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"])
async def test_an_answer_that_stalls_is_lost_after_the_timeout(http: AioHttp, partial: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(partial)
        await reader.read()

    async with serve(handler) as port:
        assert await http.request(post(port, timeout_s=1.0)) == AnswerLost("no answer within 1 s")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: " + b"y" * 140_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        raw_answer(b"x" * (RESPONSE_BYTES_MAX + 1)),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (RESPONSE_BYTES_MAX + 1),
        raw_answer(gzip.compress(b"x" * 10_000_000, mtime=0), "Content-Encoding: gzip"),
        raw_answer(gzip.compress(b"x" * 10_000_000, mtime=0)),
    ],
)
async def test_an_answer_that_is_none_is_lost(http: AioHttp, answer: bytes) -> None:
    async with serve(answering(answer)) as port:
        got = await http.request(post(port))
    assert isinstance(got, AnswerLost)
    assert_no_secret(got)


async def test_an_answer_of_the_largest_size_is_taken(http: AioHttp) -> None:
    async with serve(answering(raw_answer(b"x" * RESPONSE_BYTES_MAX))) as port:
        got = await http.request(post(port))
    assert isinstance(got, HttpResponse) and len(got.body) == RESPONSE_BYTES_MAX


@pytest.mark.parametrize(
    "answer",
    [
        raw_answer(b"x" * (RESPONSE_BYTES_MAX + 1), status="502 Bad Gateway"),
        raw_answer(gzip.compress(b"x" * 10_000_000, mtime=0), "Content-Encoding: gzip", status="502 Bad Gateway"),
    ],
)
async def test_an_endless_error_page_is_still_a_page(http: AioHttp, answer: bytes) -> None:
    async with serve(answering(answer)) as port:
        got = await http.request(post(port))
    assert isinstance(got, HttpResponse) and (got.status, got.body) == (502, b"")


async def test_a_post_is_never_repeated_by_itself(http: AioHttp) -> None:
    count = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        await read_request(reader)
        count += 1

    async with serve(handler) as port:
        assert isinstance(await http.request(post(port)), AnswerLost)
    assert count == 1


# -- Ending ------------------------------------------------------------------------------------------------


async def test_a_cancelled_request_closes_its_connection(http: AioHttp) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await reader.read()
        gone.set()

    async with serve(handler) as port, asyncio.timeout(HANG_S):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(http.request(post(port)))
            await arrived.wait()
            task.cancel()
        assert task.cancelled()
        await gone.wait()


async def test_closing_answers_what_is_under_way_and_what_comes_later(http: AioHttp) -> None:
    arrived = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await reader.read()

    async with serve(handler) as port, asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        task = group.create_task(http.request(post(port)))
        await arrived.wait()
        await http.close()
        assert isinstance(await task, AnswerLost)
        assert await http.request(post(port)) == NotSent("the HTTP client is closed")
        await http.close()


async def test_many_first_requests_share_one_session(http: AioHttp) -> None:
    async with serve(answering(raw_answer(b"{}"))) as port, asyncio.TaskGroup() as group:
        tasks = [group.create_task(http.request(post(port))) for _ in range(40)]
    assert all(isinstance(task.result(), HttpResponse) for task in tasks)


async def test_importing_the_port_does_not_import_aiohttp() -> None:
    code = "import sys, token_relay.host.http; sys.exit('aiohttp' in sys.modules)"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=False, timeout=HANG_S)
    assert done.returncode == 0
