"""The pages over real sockets: who is let in, what is refused and how, and when it ends."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from tests.pages_core.page_kit import (
    LOOK,
    Headers,
    ask,
    enter,
    form,
    head,
    path_of,
    send,
    serving,
    socket_of,
    streaming,
)
from tests.watchdog import HANG_S
from token_relay.host.loopback_peer import owner_of
from token_relay.pages.server import CONNECTIONS_BUSY, FIELDS_MAX, FORM_BYTES_MAX, HEAD_BYTES_MAX, PageRoute
from token_relay.pages.visit import Answer, Elements, PageRequest
from token_relay.pages.walls import HEADERS
from token_relay.protocol.errors import ConfigError, TransientError

NOBODY = 65534
pytestmark = pytest.mark.asyncio


async def test_a_key_opens_once_and_the_cookie_from_then_on() -> None:
    async with serving() as server:
        path = path_of(server, server.address())
        reply = await ask(server, path)
        assert reply.status == 200 and f"url={server.root}" in reply.body
        cookie = reply.header("Set-Cookie").split("; ")
        assert cookie[1:] == [f"Path={server.root}", "HttpOnly", "SameSite=Strict"]
        key = path.partition("key=")[2]
        assert len(key) >= 32 and key not in reply.body and key not in reply.header("Set-Cookie")
        assert (await ask(server, server.root)).status == 403
        assert (await ask(server, server.root, headers=[("Cookie", cookie[0])])).status == 200
        again = await ask(server, path)
        assert again.status == 403 and not again.header("Set-Cookie") and "Enter in the terminal" in again.body
        assert server.root not in again.body


async def test_eight_keys_are_good_at_once_and_the_oldest_goes() -> None:
    async with serving() as server:
        addresses = [path_of(server, server.address()) for _ in range(9)]
        assert len({*addresses}) == 9
        assert [(await ask(server, one)).status for one in addresses] == [403, *[200] * 8]


@pytest.mark.parametrize("key", ["", "x", "%00", "%FF%FE", "%ED%A0%80", "é", "x&key=y", "x" * 4000])
async def test_what_is_no_key_opens_nothing(key: str) -> None:
    async with serving() as server:
        good = server.address()
        for path in (f"{server.root}open?key={key}", f"{server.root}open", f"{server.root}open?Key=x"):
            reply = await ask(server, path)
            assert reply.status in (400, 403) and not reply.header("Set-Cookie"), reply
        assert (await ask(server, path_of(server, good))).status == 200


async def test_a_key_is_used_by_a_link_and_by_no_form() -> None:
    async with serving() as server:
        path = path_of(server, server.address())
        assert (await ask(server, path, method="POST", headers=form(server, []), body=b"a=b")).status == 403
        assert (await ask(server, path, headers=[("Sec-Fetch-Site", "cross-site")])).status == 200


async def test_another_user_of_the_machine_is_not_let_in() -> None:
    is_root = os.geteuid() == 0
    mine = os.geteuid()
    async with serving(owner=owner_of, uids={mine}) as server:
        cookie = await enter(server)
        address = path_of(server, server.address())
        assert (await ask(server, server.root, headers=cookie)).status == 200
        if is_root:  # the kernel says so of a real socket of another user's
            for path in (server.root, address, "/"):
                reply = await ask(server, path, headers=cookie, sock=socket_of(server, NOBODY))
                assert reply.status == 403 and "another user" in reply.body and server.root not in reply.body
        assert (await ask(server, address)).status == 200, "what another user asked for has used the key up"
    async with serving(owner=owner_of, uids={mine + 1}) as server:  # and our own socket is another user's there
        reply = await ask(server, path_of(server, server.address()))
        assert reply.status == 403 and "another user" in reply.body and not reply.header("Set-Cookie")
    async with serving(owner=lambda client, port: None) as server:
        assert (await ask(server, path_of(server, server.address()))).status == 403


async def test_another_user_with_the_port_of_a_program_of_ours_is_not_let_in() -> None:
    """A port is free once more at each address of 127.0.0.0/8, and each of them reaches 127.0.0.1."""
    mine = os.geteuid()
    async with serving(owner=owner_of, uids={mine}) as server:
        cookie = await enter(server)
        _, ours = await asyncio.open_connection("127.0.0.1", server.port)
        port = ours.get_extra_info("sockname")[1]
        for source, path in (("127.0.0.2", server.root), ("127.0.0.3", path_of(server, server.address()))):
            other = socket_of(server, NOBODY if mine == 0 else mine, (source, port))
            assert (await ask(server, path, headers=cookie, sock=other)).status == 403
        ours.close()


async def test_the_kernel_is_asked_about_this_very_connection() -> None:
    asked: list[tuple[tuple[str, int], int]] = []

    def owner(client: tuple[str, int], port: int) -> int:
        asked.append((client, port))
        return 7

    async with serving(owner=owner) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        ours = writer.get_extra_info("sockname")
        for _ in range(2):  # one connection, and each request of it is asked about
            writer.write(head(server, "/x", headers=[("Host", "127.0.0.1")]))
            await reader.readuntil(b"</html>")
        writer.close()
        assert asked == [(ours, server.port)] * 2


ELSEWHERE: list[Headers] = [
    [("Origin", "http://127.0.0.1:1"), ("Sec-Fetch-Site", "same-site")],
    [("Origin", "https://elsewhere.example"), ("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Sec-Fetch-Site", "cross-site")],
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=range(4))
async def test_another_page_neither_reads_nor_posts_even_with_the_cookie(headers: Headers) -> None:
    async with serving() as server:
        cookie = [*await enter(server), *headers, ("Content-Type", "application/x-www-form-urlencoded")]
        for path in ("", "refused", "static/live.js"):
            read = await ask(server, server.root + path, headers=cookie)
            assert read.status == 403 and "another page" in read.body
            assert (await ask(server, server.root + path, method="POST", headers=cookie, body=b"a=b")).status == 403


async def test_a_form_needs_an_origin() -> None:
    async with serving() as server:
        cookie = [*await enter(server), ("Content-Type", "application/x-www-form-urlencoded")]
        own, null = ("Origin", server.origin), ("Origin", "null")
        ours = ("Sec-Fetch-Site", "same-origin")
        wanted = [(403, [ours]), (403, []), (403, [null]), (200, [own]), (200, [own, ours]), (200, [null, ours])]
        for status, headers in wanted:
            reply = await ask(server, server.root, method="POST", headers=[*cookie, *headers], body=b"a=b")
            assert reply.status == status, headers


@pytest.mark.parametrize(
    "hosts",
    [
        ["rebound.example"],
        ["rebound.example:PORT"],
        ["user@127.0.0.1:PORT"],
        ["127.0.0.1:PORT@rebound.example"],
        ["127.0.0.1:PORT", "rebound.example"],
        ["rebound.example", "127.0.0.1:PORT"],
        ["127.0.0.1:PORT", "127.0.0.1:PORT"],
        [""],
        ["127.0.0.1:PORT/"],
    ],
)
async def test_a_foreign_host_is_refused(hosts: list[str]) -> None:
    async with serving() as server:
        cookie = await enter(server)
        named = [("Host", host.replace("PORT", str(server.port))) for host in hosts]
        address = path_of(server, server.address())
        for path in (server.root, address):
            reply = await ask(server, path, headers=[*cookie, *named])
            assert reply.status in (400, 421) and not reply.header("Set-Cookie")
        assert (await ask(server, address)).status == 200


async def test_a_request_of_1_0_has_no_host_and_one_to_a_whole_address_needs_ours() -> None:
    async with serving() as server:
        cookie = await enter(server)
        old = await send(server, f"GET {server.root} HTTP/1.0\r\n{cookie[0][0]}: {cookie[0][1]}\r\n\r\n".encode())  # type: ignore[index]
        assert old.status == 421
        whole = await ask(
            server, f"http://rebound.example{server.root}", headers=[*cookie, ("Host", "rebound.example")]
        )
        assert whole.status == 421


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "CONNECT"])
async def test_other_methods_are_refused(method: str) -> None:
    async with serving() as server:
        headers = [*await enter(server), ("Origin", server.origin), ("Sec-Fetch-Site", "same-origin")]
        for path in (server.root, path_of(server, server.address()), "/"):
            reply = await ask(server, path, method=method, headers=headers)
            assert reply.status in (400, 404 if method == "CONNECT" else 405, 405) and not reply.header("Set-Cookie")


async def test_a_cookie_is_good_at_its_own_server_alone() -> None:
    async with serving() as one, serving() as other:
        cookies = [await enter(one), await enter(other)]
        assert one.root != other.root and [*cookies[0]] != [*cookies[1]]
        wanted = [(one, 0, 200), (other, 1, 200), (one, 1, 403), (other, 0, 403)]
        for server, number, status in wanted:
            assert (await ask(server, server.root, headers=cookies[number])).status == status
        assert (await ask(one, other.root, headers=cookies[1])).status == 404
        both = [*cookies[0], *cookies[1]]
        assert (await ask(one, one.root, headers=both)).status == 200


async def test_a_cookie_of_the_same_name_from_another_port_does_not_lock_the_person_out() -> None:
    async with serving() as server:
        ((_, cookie),) = await enter(server)
        tossed = "token_relay_page=tossed"
        for value in (f"{tossed}; {cookie}", f"{cookie}; {tossed}"):
            assert (await ask(server, server.root, headers=[("Cookie", value)])).status == 200
        full = "; ".join([*(f"c{number}={'x' * 1300}" for number in range(179)), cookie])  # a jar that others filled
        assert (await ask(server, server.root, headers=[("Cookie", full)])).status == 200
        assert (await ask(server, server.root, headers=[("Cookie", tossed)])).status == 403


async def test_what_is_not_here_tells_nothing() -> None:
    async with serving() as server:
        cookie = await enter(server)
        for path in ("/", "/open", "/static/live.js", "/x" * 2000, server.root[:-1], f"{server.root}no"):
            reply = await ask(server, path, headers=cookie)
            assert reply.status == 404 and server.root not in reply.body, path
        for name in ("no.js", "..%2Fserver.py", "%2e%2e", "live.js%00", "live.js/"):
            assert (await ask(server, f"{server.root}static/{name}", headers=cookie)).status == 404
        assert (
            (await ask(server, f"{server.root}static/live.js", headers=cookie))
            .header("Content-Type")
            .startswith("text/javascript")
        )


async def test_each_answer_has_the_headers() -> None:
    async with serving() as server:
        cookie = await enter(server)
        paths = ["", "refused", "broken", "static/pages.css", "no", "open"]
        replies = [await ask(server, server.root + path, headers=cookie) for path in paths]
        replies.append(await ask(server, "/"))
        replies.append(await ask(server, server.root))
        replies.append(await ask(server, server.root, method="POST", headers=form(server, cookie), body=b"x" * 70_000))
        assert [reply.status for reply in replies] == [200, 400, 500, 200, 404, 403, 404, 403, 413]
        for reply in replies:
            assert {name: reply.header(name) for name in HEADERS} == dict(HEADERS)


async def test_a_form_is_read_and_what_is_none_is_refused() -> None:
    async with serving() as server:
        cookie = await enter(server)

        async def post(body: bytes, kind: str = "application/x-www-form-urlencoded") -> tuple[int, str]:
            headers = [*form(server, cookie)[:-1], ("Content-Type", kind)]  # type: ignore[index]
            reply = await ask(server, server.root, method="POST", headers=headers, body=body)
            return reply.status, reply.body

        status, page = await post(b"a=1&b=&a=2&c=%3Cb%3E+%C3%A4&d=%FF")
        assert status == 200 and "<h1>a=2 b= c=&lt;b&gt; ä d=\N{REPLACEMENT CHARACTER}</h1>" in page
        assert (await post(b"a=" + b"x" * (FORM_BYTES_MAX - 2)))[0] == 200
        for body, wanted in [
            (b"a=" + b"x" * (FORM_BYTES_MAX - 1), 413),
            (b"&".join([b"a=b"] * (FIELDS_MAX + 1)), 400),
            (b"a=\xff", 400),
        ]:
            status, page = await post(body)
            assert status == wanted and "<h1>Not possible</h1>" in page
        for kind in ("text/plain", "application/json", "multipart/form-data; boundary=x", "", "application/x-www-form"):
            assert (await post(b"a=b", kind))[0] == 400


async def test_a_form_in_pieces_is_bounded_too() -> None:
    async with serving() as server:
        headers = [*form(server, await enter(server)), ("Transfer-Encoding", "chunked")]
        octets = head(server, server.root, "POST", headers)
        chunk = b"2000\r\na=" + b"x" * (0x2000 - 2) + b"\r\n"
        assert (await send(server, octets + b"3\r\na=b\r\n0\r\n\r\n")).status == 200
        assert (await send(server, octets + 9 * chunk + b"0\r\n\r\n")).status == 413


async def test_a_head_has_a_largest_size() -> None:
    async with serving() as server:
        ((_, cookie),) = await enter(server)
        fits = f"{cookie}; x={'x' * (HEAD_BYTES_MAX - 2000)}"
        assert (await ask(server, server.root, headers=[("Cookie", fits)])).status == 200
        assert (await ask(server, server.root, headers=[("Cookie", f"{fits}{'x' * 4000}")])).status in (0, 400)
        assert (await ask(server, f"{server.root}?{'x' * 9000}", headers=[("Cookie", cookie)])).status in (0, 400, 414)
        assert (await ask(server, server.root, headers=[("Cookie", cookie)])).status == 200


async def test_our_errors_are_pages_and_a_mistake_of_ours_is_a_page_without_details() -> None:
    async with serving() as server:
        cookie = await enter(server)
        reply = await ask(server, f"{server.root}refused", headers=cookie)
        assert reply.status == 400 and "<p>not today</p>" in reply.body and "try &lt;tomorrow&gt;" in reply.body
        with capture_logs() as logs:
            body = b"password=SECRET-OF-A-PERSON"
            reply = await ask(server, f"{server.root}broken", method="POST", headers=form(server, cookie), body=body)
        assert reply.status == 500 and "internal error" in reply.body
        assert [entry["event"] for entry in logs] == ["page_failed"]
        assert logs[0]["error_type"] == "RuntimeError" and logs[0]["where"].startswith("page_kit.py:")
        assert "SECRET-OF-A-PERSON" not in reply.body + repr(logs)
        assert (await ask(server, server.root, headers=cookie)).status == 200


async def test_half_open_connections_keep_nobody_away_and_do_not_keep_the_server() -> None:
    async with asyncio.timeout(HANG_S):
        async with serving() as server:
            cookie = await enter(server)
            posted = head(server, server.root, "POST", [*form(server, cookie), ("Content-Length", "10")])
            beginnings = [b"", b"GET / HT", head(server, server.root, headers=cookie)[:-2], posted, posted + b"a=b"]
            open_ones = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(100)]
            for number, (_, writer) in enumerate(open_ones):
                writer.write(beginnings[number % len(beginnings)])
                await writer.drain()
            assert (await ask(server, server.root, headers=cookie)).status == 200
        for reader, writer in open_ones:
            await reader.read()  # the server has closed it
            writer.close()


async def test_connections_of_another_user_are_few_and_the_person_gets_in_beside_them() -> None:
    who = [7]
    async with asyncio.timeout(HANG_S), serving(owner=lambda *ports: who[-1]) as server:
        cookie = await enter(server)
        who.append(8)
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(CONNECTIONS_BUSY + 4)]
        who.append(7)
        assert (await ask(server, server.root, headers=cookie)).status == 200
        who.append(8)
        lines = []
        for reader, writer in held:
            writer.write(head(server, "/", headers=[("Host", "127.0.0.1")]))
            try:
                lines.append(await reader.readline())
            except ConnectionError:
                lines.append(b"")
        for _, writer in held:
            writer.close()
    # The person's first connection may have been counted still.
    assert lines.count(b"HTTP/1.1 403 Forbidden\r\n") in (CONNECTIONS_BUSY - 1, CONNECTIONS_BUSY)
    assert lines[CONNECTIONS_BUSY:] == [b""] * 4


async def test_a_port_that_is_taken_is_told() -> None:
    async with serving() as server:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{server.port}: "):
            async with serving(port=server.port):
                pass


async def test_it_listens_on_the_loopback_interface_alone() -> None:
    async with serving() as server:
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.2", server.port)
        assert server.origin == f"http://127.0.0.1:{server.port}"


# -- the end after idle minutes, and streams ----------------------------------------------------------------------


async def beat(visit: PageRequest) -> Answer:
    async def look() -> Elements:
        return {"clock": f'<p id="clock">{next(visit.common["numbers"])}</p>'}  # type: ignore[call-overload]

    return await visit.live(look, 0.001)


async def still(visit: PageRequest) -> Answer:
    async def look() -> Elements:
        return {}

    return await visit.live(look, asyncio.Event().wait)


BEAT, STILL = PageRoute("beat/stream", beat), PageRoute("still/stream", still)


def counting() -> SimpleNamespace:
    return SimpleNamespace(
        look=LOOK.__class__(LOOK.templates, LOOK.statics, {**LOOK.common, "numbers": iter(range(10**9))})
    )


async def test_an_open_stream_is_no_activity_and_a_request_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        "token_relay.pages.server.time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 1_800_000_000.0)
    )
    async with asyncio.timeout(HANG_S), serving(BEAT, look=counting().look, idle_s=0.01) as server:
        cookie = await enter(server)
        clock.now = 0.008
        assert (await ask(server, server.root, headers=cookie)).status == 200
        clock.now = 0.012
        ends = asyncio.create_task(server.until_idle())
        async with streaming(server, f"{server.root}beat/stream", cookie) as stream:
            assert await stream.head() == 200
            for _ in range(50):
                await stream.until("done")
            assert not ends.done(), "what was asked for at 0.008 keeps it until 0.018"
            clock.now = 0.019
            await ends
            await stream.until("done")  # it was open, and well, all the time


@pytest.mark.parametrize("why", ["another page", "another user", "no cookie", "no page", "no key"])
async def test_what_is_refused_is_no_activity(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("token_relay.pages.server.time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 0.0))
    who = [7]
    async with asyncio.timeout(HANG_S), serving(owner=lambda *ports: who[-1], idle_s=0.01) as server:
        cookie = await enter(server)
        clock.now = 0.009
        if why == "another user":
            who.append(8)
        is_none = why.startswith("no ")
        headers = [] if is_none else [*cookie, ("Sec-Fetch-Site", "same-site")] if len(who) == 1 else cookie
        path = {"no page": "/x", "no key": f"{server.root}open?key=x"}.get(why, server.root)
        assert (await ask(server, path, headers=headers)).status == (404 if why == "no page" else 403)
        clock.now = 0.0101
        await server.until_idle()


@pytest.mark.parametrize("route", [BEAT, STILL], ids=["beats", "still"])
async def test_of_too_many_streams_the_oldest_ends(route: PageRoute) -> None:
    async with asyncio.timeout(HANG_S), serving(route, look=counting().look) as server:
        cookie = await enter(server)
        contexts = [streaming(server, server.root + route.path, cookie) for _ in range(20)]
        streams = []
        for context in contexts:
            streams.append(await context.__aenter__())
            assert await streams[-1].head() == 200
            await streams[-1].until("done")
        for stream in streams[:4]:
            await stream.end()
        for stream in streams[4:] if route is BEAT else []:
            await stream.until("done")
        for context in contexts:
            await context.__aexit__(None, None, None)


async def test_an_open_stream_does_not_keep_the_server() -> None:
    async with asyncio.timeout(HANG_S):
        async with serving(STILL) as server:
            cookie = await enter(server)
            async with streaming(server, f"{server.root}still/stream", cookie) as stream:
                await stream.until("done")
                await server.__aexit__(None, None, None)
                await stream.end()


async def test_a_stream_says_what_changed_and_where_it_belongs() -> None:
    shown: list[Elements] = [
        {"a": "A", "b": "B", "c": "C"},
        {"a": "A", "b": "B2", "c": "C"},
        {"c": "C", "a": "A", "b": "B2"},
        {"c": "C", "n": "N", "b": "B2"},
        {},
    ]
    looked: list[int] = []

    async def page(visit: PageRequest) -> Answer:
        async def look() -> Elements:
            looked.append(1)
            return shown[min(len(looked), len(shown)) - 1]

        return await visit.live(look, 0.0)

    async with (
        asyncio.timeout(HANG_S),
        serving(PageRoute("stream", page)) as server,
        streaming(server, f"{server.root}stream", await enter(server)) as stream,
    ):
        told = [[*(await stream.until("done"))][:-1] for _ in range(6)]

    def element(name: str, html: str, before: str) -> tuple[str, str]:
        after = f'"{before}"' if before else "null"
        return "element", f'{{"id": "{name}", "html": "{html}", "before": {after}}}'

    assert told == [
        [("only", '["a", "b", "c"]'), element("c", "C", ""), element("b", "B", "c"), element("a", "A", "b")],
        [element("b", "B2", "c")],
        [element("b", "B2", ""), element("c", "C", "a")],
        [("gone", '["a"]'), element("n", "N", "b"), element("c", "C", "n")],
        [("gone", '["c", "n", "b"]')],
        [],
    ]


async def test_an_agent_that_went_away_is_told_and_its_coming_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("token_relay.pages.visit.TROUBLE_PAUSE_S", 0.0)
    is_there = [True, False, False, True, True]
    wakes = [None, TransientError("the agent ends"), None]

    async def page(visit: PageRequest) -> Answer:
        async def look() -> Elements:
            if not is_there.pop(0):
                raise TransientError("the agent does not answer", hint="start <it>")
            return {"a": f"{len(is_there)}"}

        async def news() -> None:
            error = wakes.pop(0)
            if error is not None:
                raise error
            if not wakes:
                await asyncio.Event().wait()

        return await visit.live(look, news)

    async with (
        asyncio.timeout(HANG_S),
        serving(PageRoute("stream", page)) as server,
        streaming(server, f"{server.root}stream", await enter(server)) as stream,
    ):
        told = [*(await stream.until("done")), *(await stream.until("done")), *(await stream.until("done"))]
    trouble = ("trouble", '{"why": "the agent does not answer", "hint": "start <it>"}')
    assert [name for name, _ in told] == [
        "only",
        "element",
        "done",
        "trouble",
        "trouble",
        "well",
        "element",
        "done",
        "element",
        "done",
    ]
    assert told[3] == told[4] == trouble


async def test_a_mistake_in_a_stream_ends_it_and_is_logged() -> None:
    async def page(visit: PageRequest) -> Answer:
        async def look() -> Elements:
            raise RuntimeError("SECRET")

        return await visit.live(look)

    async with asyncio.timeout(HANG_S), serving(PageRoute("stream", page)) as server:
        cookie = await enter(server)
        with capture_logs() as logs:
            async with streaming(server, f"{server.root}stream", cookie) as stream:
                await stream.end()
        assert [entry["event"] for entry in logs] == ["page_failed"] and "SECRET" not in repr(logs)
        assert (await ask(server, server.root, headers=cookie)).status == 200
