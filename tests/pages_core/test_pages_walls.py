"""Who may look at a page: every wall alone, with all the others satisfied."""

from __future__ import annotations

from dataclasses import replace

import pytest

from token_relay.pages.walls import HEADERS, Caller, cookie_header, has_cookie, host_of, refusal

READS = Caller(method="GET", uid=1000, host="127.0.0.1:8000", origin=None, fetch_site="same-origin")
POSTS = replace(READS, method="POST", origin="http://127.0.0.1:8000")


def status(caller: Caller, *, comes_from_elsewhere: bool = False) -> int:
    barred = refusal(caller, uids={1000, 1001}, comes_from_elsewhere=comes_from_elsewhere)
    if barred is None:
        return 200
    assert barred.why
    return barred.status


@pytest.mark.parametrize(
    ("uid", "wanted"), [(1000, 200), (1001, 200), (0, 403), (65534, 403), (None, 403)], ids=lambda value: str(value)
)
def test_the_person_and_who_became_root_for_them_alone(uid: int | None, wanted: int) -> None:
    assert status(replace(READS, uid=uid)) == status(replace(POSTS, uid=uid)) == wanted
    assert status(replace(READS, uid=uid), comes_from_elsewhere=True) == wanted


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8000", 200),
        ("localhost:8000", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:8000", 200),
        ("localhost:2222", 200),  # ssh -L has its own port
        ("", 421),
        (":8000", 421),
        ("rebound.example", 421),
        ("rebound.example:8000", 421),
        ("127.0.0.1.rebound.example:8000", 421),
        ("localhost.rebound.example", 421),
        ("localhost.", 421),
        ("127.0.0.2:8000", 421),
        ("127.1:8000", 421),
        ("2130706433", 421),
        ("0.0.0.0:8000", 421),
        ("[::ffff:127.0.0.1]:8000", 421),
        ("::1", 421),
        ("[::1", 421),
        ("[127.0.0.1]", 421),
        ("user@127.0.0.1:8000", 421),
        ("127.0.0.1:8000@rebound.example", 421),
        ("127.0.0.1:8000/path", 421),
        ("127.0.0.1?x", 421),
        ("127.0.0.1#x", 421),
        ("127.0.0.1\\x", 421),
        ("127.0.0.1:port", 421),
        ("127.0.0.1:99999", 421),
        ("127.0.0.1 ", 421),
        ("127.0.0.1\t", 421),
        ("127.0.0.1, rebound.example", 421),
        ("local\u212aost", 421),
        ("\u24dbocalhost", 421),
    ],
)
def test_a_host_is_a_loopback_name_on_any_port(host: str, wanted: int) -> None:
    assert status(replace(READS, host=host)) == wanted
    assert status(replace(POSTS, host=host, origin=f"http://{host}")) == wanted
    assert status(replace(READS, host=host), comes_from_elsewhere=True) == wanted
    assert (host_of(host) in ("127.0.0.1", "localhost", "::1")) is (wanted == 200)


@pytest.mark.parametrize(
    "method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "POST ", ""]
)
def test_get_and_post_alone(method: str) -> None:
    for comes_from_elsewhere in (False, True):
        assert status(replace(POSTS, method=method), comes_from_elsewhere=comes_from_elsewhere) == 405
        assert status(replace(READS, method=method), comes_from_elsewhere=comes_from_elsewhere) == 405


@pytest.mark.parametrize(
    ("fetch_site", "wanted", "from_elsewhere"),
    [
        ("same-origin", 200, 200),
        ("none", 200, 200),  # typed, or a bookmark
        ("", 200, 200),  # a program that is no browser
        ("same-site", 403, 200),  # another port of this machine
        ("cross-site", 403, 200),
        ("Same-Origin", 403, 200),
        ("same-origin, cross-site", 403, 200),
    ],
)
def test_a_page_is_read_by_itself_alone(fetch_site: str, wanted: int, from_elsewhere: int) -> None:
    for origin in (None, "null", "http://127.0.0.1:8000", "https://elsewhere.example"):
        caller = replace(READS, fetch_site=fetch_site, origin=origin)
        assert status(caller) == wanted
        assert status(caller, comes_from_elsewhere=True) == from_elsewhere


@pytest.mark.parametrize(
    ("origin", "fetch_site", "wanted"),
    [
        ("http://127.0.0.1:8000", "same-origin", 200),
        ("http://127.0.0.1:8000", "", 200),  # a program of the person's
        ("null", "same-origin", 200),  # Referrer-Policy: no-referrer does that
        ("null", "", 403),
        ("null", "none", 403),
        ("null", "same-site", 403),
        ("null", "cross-site", 403),  # a sandboxed frame
        (None, "same-origin", 403),
        (None, "", 403),
        ("", "same-origin", 403),
        ("http://127.0.0.1:8001", "same-site", 403),
        ("http://127.0.0.1:8001", "same-origin", 403),
        ("http://127.0.0.1:8000", "same-site", 403),
        ("http://127.0.0.1:8000", "cross-site", 403),
        ("http://localhost:8000", "same-origin", 403),
        ("https://127.0.0.1:8000", "same-origin", 403),
        ("http://127.0.0.1:8000/", "same-origin", 403),
        ("http://127.0.0.1", "same-origin", 403),
        ("HTTP://127.0.0.1:8000", "same-origin", 403),
    ],
)
def test_a_form_is_sent_by_our_own_page_alone(origin: str | None, fetch_site: str, wanted: int) -> None:
    caller = replace(POSTS, origin=origin, fetch_site=fetch_site)
    assert status(caller) == status(caller, comes_from_elsewhere=True) == wanted


@pytest.mark.parametrize(
    ("headers", "is_known"),
    [
        ([], False),
        (["token_relay_page=right"], True),
        (["a=b; token_relay_page=right; c=d"], True),
        (["token_relay_page=wrong; token_relay_page=right"], True),  # another port has set one beside it
        (["token_relay_page=right; token_relay_page=wrong"], True),
        (["token_relay_page=wrong", "token_relay_page=right"], True),
        (["token_relay_page=wrong"], False),
        (["token_relay_page="], False),
        (["token_relay_page"], False),
        (["token_relay_pag=right"], False),
        (["x_token_relay_page=right"], False),
        (["Token_Relay_Page=right"], False),
        (["x=token_relay_page=right"], False),
        (["token_relay_page=righ"], False),
        (["token_relay_page=rightt"], False),
        (["token_relay_page=right=x"], False),
        (['token_relay_page="right"'], False),
        (["token_relay_page=\udcff\udcfe"], False),  # bytes that are no text
        ([";" * 4096], False),
    ],
)
def test_one_of_the_cookies_must_be_ours(headers: list[str], is_known: bool) -> None:
    assert has_cookie(headers, "right") is is_known


def test_the_cookie_goes_to_its_path_and_to_no_script_and_no_other_site() -> None:
    assert cookie_header("right", "/abc/") == "token_relay_page=right; Path=/abc/; HttpOnly; SameSite=Strict"


def test_the_headers_forbid_what_no_page_of_ours_does() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == policy.pop("frame-ancestors") == policy.pop("base-uri") == "'none'"
    assert set(policy) == {"script-src", "style-src", "img-src", "connect-src", "form-action"}
    assert set(policy.values()) == {"'self'"}  # no unsafe-inline, no other host
    assert HEADERS["Referrer-Policy"] == "no-referrer" and HEADERS["Cache-Control"] == "no-store"
    assert HEADERS["Cross-Origin-Opener-Policy"] == "same-origin-allow-popups"
    assert HEADERS["Cross-Origin-Resource-Policy"] == "same-origin" and HEADERS["X-Content-Type-Options"] == "nosniff"
